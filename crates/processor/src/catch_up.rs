//! `--until-caught-up`: whether everything up to the ends captured at the start, and everything
//! they caused, is committed, by whichever instance.

use crate::kafka_broker::GROUP;
use crate::metrics::Metrics;
use crate::shared::Shared;
use anyhow::Result;
use caudal_kafka::args::{Isolation, Kafka};
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long one look at what is left may take.
const LOOK: Duration = Duration::from_secs(2);

/// Follows one topic after the other to its captured ends.
pub struct CatchUp {
    kafka: Kafka,
    ends: Offsets,
    positions: Offsets,
    metrics: Arc<Metrics>,
    /// What is read, in the order in which one causes the next, with the number of partitions.
    topics: Vec<(Arc<str>, i32)>,
    /// The one that is looked at.
    at: usize,
    /// Ends that are not reached yet.
    targets: BTreeMap<i32, i64>,
    /// Positions before the targets at the last look.
    left: BTreeMap<i32, i64>,
    rerouted: u64,
}

impl CatchUp {
    /// Captures the ends of `transacciones`.
    ///
    /// # Errors
    /// When a partition's end cannot be read.
    pub fn start(kafka: &Kafka, shared: &Shared, metrics: Arc<Metrics>) -> Result<CatchUp> {
        let ends = Offsets::connect(kafka, Isolation::ReadUncommitted, "caudal-catch-up")?;
        // A query's stream comes after the query that makes it: it stands later in the file.
        let sources = shared.sources.iter().map(|s| (Arc::clone(&s.topic), s.partitions));
        let input = (Arc::clone(&shared.input_topic), shared.partitions);
        let partials = (Arc::clone(&shared.partials_topic), shared.partitions);
        let topics: Vec<_> = std::iter::once(input).chain(sources).chain([partials]).collect();
        Ok(CatchUp {
            targets: capture(&ends, &topics[0])?,
            topics,
            at: 0,
            kafka: kafka.clone(),
            ends,
            positions: Offsets::connect(kafka, Isolation::ReadCommitted, GROUP)?,
            metrics,
            left: BTreeMap::new(),
            rerouted: 0,
        })
    }

    /// Whether all is done. What cannot be looked at now is not done.
    ///
    /// # Errors
    /// When a partition cannot be read.
    pub fn is_done(&mut self) -> Result<bool> {
        // Before the positions: what is counted later was caused by records behind them.
        let rerouted = self.metrics.rerouted();
        if !self.has_reached_targets()? {
            return Ok(false);
        }
        if self.at == 0 && rerouted > self.rerouted {
            // Moved records were appended behind the ends that were captured.
            self.rerouted = rerouted;
        } else if self.at + 1 < self.topics.len() {
            self.at += 1;
        } else {
            return Ok(true);
        }
        self.targets = capture(&self.ends, &self.topics[self.at])?;
        Ok(false)
    }

    fn has_reached_targets(&mut self) -> Result<bool> {
        let topic = &self.topics[self.at].0;
        let open: Vec<_> = self.targets.keys().map(|p| (Arc::clone(topic), *p)).collect();
        let committed = match self.positions.committed(&open) {
            Ok(committed) => committed,
            Err(error) if error.transient => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut left = BTreeMap::new();
        for ((_, partition), committed) in committed {
            let next = committed.map_or(0, |c| c.next_offset);
            if self.targets.get(&partition).is_some_and(|target| next < *target) {
                left.insert(partition, next);
            } else {
                self.targets.remove(&partition);
            }
        }
        // Offsets alone cannot tell: the last ones may be transaction markers. A look costs a
        // connection, so only where nothing moves any more.
        let rests = std::mem::replace(&mut self.left, left.clone()) == left;
        if !left.is_empty() && rests {
            for partition in LogReader::drained(&self.kafka, topic, &left, LOOK)? {
                self.targets.remove(&partition);
            }
        }
        Ok(self.targets.is_empty())
    }
}

fn capture(ends: &Offsets, (topic, partitions): &(Arc<str>, i32)) -> Result<BTreeMap<i32, i64>> {
    (0..*partitions).map(|p| Ok((p, ends.watermarks(topic, p)?.1))).collect()
}
