//! How the engine reads logs of the fake cluster.

use super::broker::transient;
use super::world::World;
use crate::mutant::{Mutant, is};
use caudal_kafka::log_reader::{LogSource, Polled};
use caudal_kafka::{Error, Result, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A reader's clients.
pub struct SimLog {
    world: Rc<World>,
    instance: String,
    /// The next offset of each partition that is being read.
    assigned: BTreeMap<TopicPartition, i64>,
}

impl SimLog {
    /// Of an instance; reads nothing yet.
    pub fn new(world: &Rc<World>, instance: &str) -> SimLog {
        let (world, instance) = (Rc::clone(world), instance.to_owned());
        SimLog { world, instance, assigned: BTreeMap::new() }
    }
}

impl LogSource for SimLog {
    fn now(&self) -> Instant {
        self.world.cluster().instant()
    }

    fn wait(&mut self, time: Duration) {
        self.world.cluster().pass(time);
    }

    fn high_watermark(&mut self, topic: &str, partition: i32) -> Result<i64> {
        let mut cluster = self.world.call(&self.instance, "high watermark");
        let rate = cluster.rates.transient;
        if cluster.strikes(rate, "calls that failed") {
            return Err(transient("high watermark"));
        }
        let log = cluster.log(&(topic.into(), partition));
        let short = is(Mutant::TargetFromLastStableOffset);
        Ok(if short { log.last_stable() } else { log.high_watermark() })
    }

    fn stable_range(&mut self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let mut cluster = self.world.call(&self.instance, "stable range");
        let log = cluster.log(&(topic.into(), partition));
        Ok((log.start(), log.last_stable()))
    }

    fn assign(&mut self, topic: &str, partition: i32, from: i64) -> Result<()> {
        self.assigned.insert((topic.into(), partition), from);
        Ok(())
    }

    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.assigned.remove(&(topic.into(), partition));
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Polled {
        self.world.stall(&self.instance, "while it reads a log");
        let mut cluster = self.world.call(&self.instance, "poll of a log");
        let rate = cluster.rates.transient;
        if cluster.strikes(rate, "calls that failed") {
            return Polled::Failed(transient("poll of a log"));
        }
        if self.assigned.is_empty() {
            cluster.pass(wait);
            return Polled::Nothing;
        }
        let at = cluster.dice.index(self.assigned.len());
        let (partition, next) = self.assigned.iter_mut().nth(at).expect("an index");
        let log = cluster.log(partition);
        if *next < log.start() {
            *cluster.observed.faults.entry("cuts under a reader").or_default() += 1;
            let (what, cause) = ("cannot read".into(), "the offset is out of range".into());
            return Polled::OutOfRange(Error { what, cause, transient: false });
        }
        match log.next(*next).map(|visible| visible.record.clone()) {
            Some(record) => {
                *next = record.offset + 1;
                Polled::Record(record)
            }
            None => Polled::End(partition.1),
        }
    }
}
