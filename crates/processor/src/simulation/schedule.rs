//! A schedule: what happens in which order, drawn from a seed, then a time in which nothing fails
//! until everything is caught up.

use super::cluster::{Cluster, Rates, name};
use super::dice::Dice;
use super::input::{Input, Shape};
use super::oracle::same;
use super::queries::Spec;
use super::world::World;
use super::{HORIZON, TABLE, chain};
use crate::shared::Shared;
use crate::tasks::Task;
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

impl Drop for Played {
    fn drop(&mut self) {
        self.world.end();
    }
}

/// Whoever writes the input.
struct Sender {
    epoch: u32,
    transactional: bool,
    /// What the open txn began with.
    open: Option<usize>,
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
        open: None,
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
    let inputs = [topics::TRANSACCIONES, topics::PARCIALES, chain::STREAM]
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
    let plans = specs.iter().map(Spec::plan).chain(chain::plans()).collect();
    let mut shared = Shared::new(plans, shape.partitions, HORIZON);
    shared.sources.iter_mut().for_each(|source| source.partitions = shape.partitions);
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
        if let Some(begun) = sender.open.take()
            && cluster.end_txn(SENDER, sender.epoch, true).is_err()
        {
            cluster.note(|| format!("input {begun}.. has timed out and is sent again"));
            sender.epoch = cluster.init_transactions(SENDER);
            sender.sent = begun;
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
                    true => {
                        cluster.produce(SENDER, sender.epoch, &to, input.record()).expect("open")
                    }
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
        let begun = std::mem::replace(&mut sender.sent, end);
        match sender.transactional && dice.chance(200) {
            true => sender.open = Some(begun),
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
        while sender.sent < self.inputs.len() || sender.open.is_some() {
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
            quiet = if committed || self.left_to_do().is_some() { 0 } else { quiet + 1 };
            if quiet >= 4 {
                return Ok(());
            }
        }
        Err(format!("not caught up: {}", self.left_to_do().unwrap_or("always busy".into())))
    }

    /// Kills every process and lets others read the state from the log: it must be the same, and
    /// nothing is done again.
    ///
    /// # Errors
    /// When it is another, or something is done.
    pub fn restart(&self) -> Result<(), String> {
        let before = (self.states(), self.world.cluster().ends());
        (0..self.world.len()).for_each(|at| self.world.kill(at));
        self.settle()?;
        let after = (self.states(), self.world.cluster().ends());
        same(|| "state read back from the log".into(), &before.0, &after.0)?;
        same(|| "ends of the partitions after a restart".into(), &before.1, &after.1)
    }

    /// Per task: next offset, keys by query, and the ledger.
    fn states(&self) -> BTreeMap<String, String> {
        let mut states = BTreeMap::new();
        self.world.engines(|engine| {
            for (id, task) in engine.tasks().iter() {
                let keys: Vec<(&str, usize)> =
                    task.state().into_iter().map(|(query, keys, _)| (query, keys)).collect();
                let ledger = match task {
                    Task::Account(task) => format!("{:?}", task.ledger()),
                    Task::Group(task) => format!("{:?}", task.ledger()),
                    Task::Source(task) => task.metadata(),
                };
                let state = format!("next offset {}, keys {keys:?}, {ledger}", task.next_offset());
                states.insert(id.to_string(), state);
            }
        });
        states
    }

    /// What is not caught up yet.
    fn left_to_do(&self) -> Option<String> {
        let (mut settled, mut tasks) = (true, 0);
        self.world.engines(|engine| {
            settled &= engine.tasks().is_empty() || engine.is_settled();
            tasks += engine.tasks().len();
        });
        let all = self.world.cluster().group.partitions().len();
        if !settled || tasks != all {
            return Some(format!("{tasks} of {all} tasks run, or something is at hand"));
        }
        let mut cluster = self.world.cluster();
        if !cluster.is_settled() {
            return Some("a txn is open, or something is on its way".into());
        }
        for partition in cluster.group.partitions().to_vec() {
            let Ok(committed) = cluster.group.committed(&partition) else {
                return Some(format!("{} is not stable", name(&partition)));
            };
            let next = committed.map_or(0, |c| c.next_offset);
            if let Some(left) = cluster.log(&partition).next(next) {
                return Some(format!("{}@{}", name(&partition), left.record.offset));
            }
        }
        None
    }
}
