//! `--until-caught-up`: whether everything that the topics held at the start is stored.

use crate::store::Database;
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::{Event, LogReader};
use caudal_kafka::offsets::Offsets;
use caudal_kafka::{Kafka, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The ends at the start, and what is not proven yet to be stored.
pub struct CaughtUp {
    kafka: Kafka,
    /// High watermarks of partitions that are not proven yet.
    ends: BTreeMap<TopicPartition, i64>,
}

impl CaughtUp {
    /// Looks up the end of every partition: the high watermark, so that records of transactions
    /// that are still open count too.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn capture(kafka: &Kafka, topics: &[Arc<str>]) -> caudal_kafka::Result<CaughtUp> {
        let offsets = Offsets::connect(kafka, Isolation::ReadUncommitted, "caudal-sink")?;
        let mut ends = BTreeMap::new();
        for topic in topics {
            for partition in 0..offsets.partitions(topic)? {
                let (first, end) = offsets.watermarks(topic, partition)?;
                if end > first {
                    ends.insert((Arc::clone(topic), partition), end);
                }
            }
        }
        Ok(CaughtUp { kafka: kafka.clone(), ends })
    }

    /// Whether the ends are stored, as far as `patience` allows to prove; ask again when not.
    ///
    /// The stored position never equals the end, because commit markers take offsets too. So each
    /// partition is read on from its position: it is caught up when the next record lies at or
    /// beyond the end of then, or when there is none up to the end of now.
    ///
    /// # Errors
    /// A permanent error of Kafka, or an error of the database that does not pass.
    pub fn is_proven(
        &mut self,
        database: &mut Database,
        patience: Duration,
    ) -> anyhow::Result<bool> {
        let topics: BTreeSet<String> =
            self.ends.keys().map(|(topic, _)| topic.to_string()).collect();
        let stored = match database.positions(&topics.iter().cloned().collect::<Vec<_>>()) {
            Ok(stored) => stored,
            Err(fault) if fault.action == crate::fault::Action::RetryBatch => return Ok(false),
            Err(fault) => return Err(fault.into()),
        };
        if self.ends.keys().any(|at| !stored.contains_key(at)) {
            return Ok(false);
        }
        for topic in topics {
            let mut reader = LogReader::connect(&self.kafka, &topic)?;
            let mut ends = BTreeMap::new();
            self.ends.retain(|at, end| {
                let Some(position) = stored.get(at).filter(|_| *at.0 == *topic) else {
                    return true;
                };
                if position.next_offset >= *end {
                    return false;
                }
                reader.add(at.1, Some(position.next_offset));
                ends.insert(at.1, *end);
                true
            });
            let mut proven = BTreeSet::new();
            let mut seen = BTreeSet::new();
            reader.step(patience, |event| -> caudal_kafka::Result<()> {
                match event {
                    Event::Record(record) => {
                        let beyond =
                            ends.get(&record.partition).is_some_and(|e| record.offset >= *e);
                        if seen.insert(record.partition) && beyond {
                            proven.insert(record.partition);
                        }
                    }
                    Event::End(partition) if !seen.contains(&partition) => {
                        proven.insert(partition);
                    }
                    Event::End(_) => {}
                }
                Ok(())
            })?;
            self.ends.retain(|at, _| *at.0 != *topic || !proven.contains(&at.1));
        }
        Ok(self.ends.is_empty())
    }
}
