//! A schedule: what happens in which order, drawn from a seed, then a time in which nothing fails
//! until everything is caught up.

use super::cluster::{Cluster, Rates};
use super::dice::Dice;
use super::input::{Input, Shape};
use super::queries::Spec;
use super::world::World;
use super::{HORIZON, TABLE};
use crate::shared::Shared;
use caudal_core::decode::Record;
use caudal_core::time::SECOND;
use caudal_core::topics;
use caudal_kafka::TopicPartition;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most turns before nothing fails any more.
const TURNS: usize = 700;
/// Most rounds of all processes until everything is caught up.
const ROUNDS: usize = 4000;
/// Transactional id of who writes the input.
const SENDER: &str = "producer";

/// A schedule that was played.
pub struct Played {
    pub world: Rc<World>,
    pub inputs: Vec<Input>,
    /// Where each record of the input lies: its number by partition and offset.
    pub placed: BTreeMap<(i32, i64), usize>,
}

/// Whoever writes the input.
struct Sender {
    epoch: u32,
    transactional: bool,
    open: bool,
    sent: usize,
}

/// Plays a schedule.
///
/// # Errors
/// What must not happen, and did.
pub fn play(seed: u64, specs: &[Spec], tracing: bool) -> Result<Played, String> {
    let mut dice = Dice::new(seed, 1);
    let shape = Shape::draw(&mut dice);
    let inputs = shape.inputs(&mut dice);
    let world = world(seed, &shape, specs, &mut dice, tracing);
    let mut played = Played { world, inputs, placed: BTreeMap::new() };
    let mut sender = Sender {
        epoch: played.world.cluster().init_transactions(SENDER),
        transactional: dice.chance(400),
        open: false,
        sent: 0,
    };
    let ahead = if dice.chance(300) { played.inputs.len() } else { dice.index(20) };
    played.update_table(&mut dice);
    played.send(&mut dice, &mut sender, ahead);
    for _ in 0..TURNS {
        played.turn(&mut dice, &mut sender);
        if let Some(failure) = played.world.failure() {
            return Err(failure);
        }
        if sender.sent == played.inputs.len() && dice.chance(20) {
            break;
        }
    }
    played.heal(&mut dice, &mut sender)?;
    Ok(played)
}

fn world(seed: u64, shape: &Shape, specs: &[Spec], dice: &mut Dice, tracing: bool) -> Rc<World> {
    let inputs = [topics::TRANSACCIONES, topics::PARCIALES]
        .iter()
        .flat_map(|topic| (0..shape.partitions).map(|p| ((*topic).into(), p)))
        .collect();
    let mut rate = |most: i64| match dice.chance(600) {
        true => u32::try_from(dice.within(0..most)).expect("a rate"),
        false => 0,
    };
    let rates = Rates {
        crash: rate(6),
        transient: rate(60),
        abort: rate(80),
        doubt: rate(150),
        stall: rate(30),
        lag: rate(400),
    };
    let plans = specs.iter().map(Spec::plan).collect();
    let mut shared = Shared::new(plans, shape.partitions, HORIZON);
    // Small, so that blocks, partials and batches are split.
    if dice.chance(600) {
        shared.sizes.block_part = 200 + dice.index(2000);
        shared.sizes.partials = 100 + dice.index(1000);
        shared.sizes.outbox_records = 5 + dice.index(60);
    }
    shared.sizes.cut_after = dice.within(0..8000).unsigned_abs();
    shared.sizes.granule = 10 * SECOND;
    let names = &["uno", "dos", "tres"][..1 + dice.index(3)];
    let cluster = Cluster::new(seed, inputs, rates, tracing);
    cluster.note(|| format!("seed {seed}: {shape:?} {rates:?} {:?}", shared.sizes));
    World::new(cluster, Arc::new(shared), names)
}

impl Played {
    fn turn(&mut self, dice: &mut Dice, sender: &mut Sender) {
        match dice.within(0..1000) {
            0..700 => self.world.step_any(),
            700..850 => {
                let count = 1 + dice.index(8);
                self.send(dice, sender, count);
            }
            850..950 => {
                let down = self.world.down();
                if !down.is_empty() {
                    self.world.start(*dice.pick(&down));
                }
            }
            950..975 => self.update_table(dice),
            975..995 => {
                let time = if dice.chance(200) { 50_000 } else { 5000 };
                let time = Duration::from_millis(dice.within(1..time).unsigned_abs());
                self.world.cluster().pass(time);
            }
            _ => {
                if self.world.cluster().rates.crash > 0 {
                    self.world.kill(dice.index(self.world.len()));
                }
            }
        }
    }

    /// Sends the next records; by a txn or without one; a txn may stay open for a while, or be
    /// aborted and sent again.
    fn send(&mut self, dice: &mut Dice, sender: &mut Sender, count: usize) {
        let mut cluster = self.world.cluster();
        if sender.open {
            cluster.end_txn(SENDER, sender.epoch, true).expect("nobody else is the producer");
            sender.open = false;
        }
        let end = self.inputs.len().min(sender.sent + count);
        if end == sender.sent {
            return;
        }
        let aborts = sender.transactional && dice.chance(150);
        for repeated in [aborts, false] {
            for number in sender.sent..end {
                let input = &self.inputs[number];
                let to: TopicPartition = (topics::TRANSACCIONES.into(), input.partition);
                cluster.call();
                let offset = match sender.transactional {
                    true => cluster.produce(SENDER, sender.epoch, &to, input.record()).expect("open"),
                    false => cluster.append(&to, input.record(), None),
                };
                self.placed.insert((input.partition, offset), number);
            }
            if !repeated {
                break;
            }
            cluster.end_txn(SENDER, sender.epoch, false).expect("open");
        }
        cluster.note(|| format!("input {}..{end} is sent", sender.sent));
        sender.sent = end;
        match sender.transactional && dice.chance(200) {
            true => sender.open = true,
            false if sender.transactional => {
                cluster.end_txn(SENDER, sender.epoch, true).expect("open");
            }
            false => {}
        }
    }

    fn update_table(&self, dice: &mut Dice) {
        let mut cluster = self.world.cluster();
        let key = format!("m-{}", dice.index(4));
        let value = match dice.chance(150) {
            true => None,
            false => Some(format!(r#"{{"rubro":"r-{}","otro":1}}"#, dice.index(3)).into_bytes()),
        };
        cluster.note(|| format!("row {key} of the table changes"));
        let record = Record {
            key: Some(key.into_bytes().into()),
            value: value.map(Into::into),
            ..Record::default()
        };
        cluster.append(&(TABLE.into(), 0), record, None);
    }

    /// Nothing fails any more; all of the input comes; everything is caught up.
    fn heal(&mut self, dice: &mut Dice, sender: &mut Sender) -> Result<(), String> {
        {
            let mut cluster = self.world.cluster();
            cluster.rates = Rates::default();
            cluster.note(|| "from here on nothing fails".into());
        }
        while sender.sent < self.inputs.len() || sender.open {
            self.send(dice, sender, 30);
        }
        self.settle()?;
        // Idle partitions are declared, and what that causes is processed.
        for _ in 0..3 {
            self.world.cluster().pass(Duration::from_secs(40));
            self.settle()?;
        }
        Ok(())
    }

    /// Runs all processes until they have caught up, and for some rounds more.
    ///
    /// # Errors
    /// When they do not.
    pub fn settle(&self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            for at in self.world.down() {
                self.world.start(at);
            }
            let mut committed = false;
            for at in 0..self.world.len() {
                committed |= self.world.step(at);
            }
            if let Some(failure) = self.world.failure() {
                return Err(failure);
            }
            quiet = if committed || !self.has_caught_up() { 0 } else { quiet + 1 };
            if quiet >= 4 {
                return Ok(());
            }
        }
        Err(format!("not caught up; unstable: {:?}", self.world.cluster().unstable()))
    }

    fn has_caught_up(&self) -> bool {
        let mut settled = true;
        self.world.engines(|engine| settled &= engine.is_settled());
        let mut cluster = self.world.cluster();
        settled
            && cluster.is_settled()
            && (0..self.world.shared.partitions).all(|p| {
                [topics::TRANSACCIONES, topics::PARCIALES].iter().all(|topic| {
                    let partition: TopicPartition = ((*topic).into(), p);
                    let Ok(committed) = cluster.group.committed(&partition) else { return false };
                    let next = committed.map_or(0, |c| c.next_offset);
                    cluster.log(&partition).next(next).is_none()
                })
            })
    }
}
