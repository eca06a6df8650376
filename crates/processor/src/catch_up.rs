//! `--until-caught-up`: whether everything up to the ends captured at the start, and everything
//! they caused, is committed.

use crate::engine::{Stage, TaskId};
use anyhow::Result;
use caudal_kafka::args::{Isolation, Kafka};
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one look at what is left may take.
const LOOK: Duration = Duration::from_secs(2);

/// Follows one stage after the other to its captured ends.
pub struct CatchUp {
    kafka: Kafka,
    ends: Offsets,
    stage: Stage,
    targets: BTreeMap<i32, i64>,
    rerouted: u64,
}

impl CatchUp {
    /// Captures the ends of `transacciones`.
    ///
    /// # Errors
    /// When a partition's end cannot be read.
    pub fn start(kafka: &Kafka, partitions: i32) -> Result<CatchUp> {
        let ends = Offsets::connect(kafka, Isolation::ReadUncommitted, "caudal-catch-up")?;
        let targets = capture(&ends, Stage::Account, partitions)?;
        Ok(CatchUp { kafka: kafka.clone(), ends, stage: Stage::Account, targets, rerouted: 0 })
    }

    /// Whether all is done, given the running tasks (none restoring, nothing at hand) and the
    /// number of records rerouted so far.
    ///
    /// # Errors
    /// When a partition cannot be read.
    pub fn is_done(
        &mut self,
        positions: &BTreeMap<TaskId, i64>,
        rerouted: u64,
        partitions: i32,
    ) -> Result<bool> {
        let left: BTreeMap<i32, i64> = positions
            .iter()
            .filter(|(id, next)| {
                let target = self.targets.get(&id.partition);
                id.stage == self.stage && target.is_some_and(|target| *next < target)
            })
            .map(|(id, next)| (id.partition, *next))
            .collect();
        if !left.is_empty() {
            for partition in LogReader::drained(&self.kafka, self.stage.input(), &left, LOOK)? {
                self.targets.remove(&partition);
            }
            if left.keys().any(|partition| self.targets.contains_key(partition)) {
                return Ok(false);
            }
        }
        match self.stage {
            // Moved records were appended behind the ends that were captured.
            Stage::Account if rerouted > self.rerouted => {
                self.rerouted = rerouted;
                self.targets = capture(&self.ends, Stage::Account, partitions)?;
                Ok(false)
            }
            Stage::Account => {
                self.stage = Stage::Group;
                self.targets = capture(&self.ends, Stage::Group, partitions)?;
                Ok(false)
            }
            Stage::Group => Ok(true),
        }
    }
}

fn capture(ends: &Offsets, stage: Stage, partitions: i32) -> Result<BTreeMap<i32, i64>> {
    (0..partitions).map(|p| Ok((p, ends.watermarks(stage.input(), p)?.1))).collect()
}
