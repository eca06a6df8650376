//! `--until-caught-up`: whether everything that the topics held at the start is stored.

use crate::postgres::Position;
use crate::store::Database;
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::{Event, LogReader};
use caudal_kafka::offsets::Offsets;
use caudal_kafka::{Kafka, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Length of one step of reading.
const SLICE: Duration = Duration::from_millis(50);

type Positions = BTreeMap<TopicPartition, Position>;

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
        let mut proofs = Vec::new();
        for topic in topics {
            let behind = self.behind(&topic, &stored);
            if !behind.is_empty() {
                proofs.push(Proof::begin(&self.kafka, &topic, behind)?);
            }
        }
        // In turns: each spends most of its time waiting for brokers.
        let until = Instant::now() + patience;
        while proofs.iter().any(|proof| !proof.is_told()) && Instant::now() < until {
            for proof in proofs.iter_mut().filter(|proof| !proof.is_told()) {
                proof.step()?;
            }
        }
        for proof in proofs {
            self.ends.retain(|at, _| *at.0 != *proof.topic || proof.told.get(&at.1) != Some(&true));
        }
        Ok(self.ends.is_empty())
    }

    /// Drops the partitions of a topic whose position says it all; of the others, partition →
    /// (position, end).
    fn behind(&mut self, topic: &str, stored: &Positions) -> BTreeMap<i32, (i64, i64)> {
        let mut behind = BTreeMap::new();
        self.ends.retain(|at, end| {
            let Some(position) = stored.get(at).filter(|_| *at.0 == *topic) else { return true };
            if position.next_offset >= *end {
                return false;
            }
            behind.insert(at.1, (position.next_offset, *end));
            true
        });
        behind
    }
}

/// Looks for the next record of a topic's partitions.
struct Proof {
    topic: String,
    reader: LogReader,
    /// Partition → (position, end).
    behind: BTreeMap<i32, (i64, i64)>,
    /// Partition → whether its first event says that it is caught up.
    told: BTreeMap<i32, bool>,
}

impl Proof {
    fn begin(
        kafka: &Kafka,
        topic: &str,
        behind: BTreeMap<i32, (i64, i64)>,
    ) -> caudal_kafka::Result<Proof> {
        let mut reader = LogReader::connect(kafka, topic)?;
        for (partition, (next, _)) in &behind {
            reader.add(*partition, Some(*next));
        }
        Ok(Proof { topic: topic.to_owned(), reader, behind, told: BTreeMap::new() })
    }

    fn is_told(&self) -> bool {
        self.told.len() == self.behind.len()
    }

    fn step(&mut self) -> caudal_kafka::Result<()> {
        let Proof { reader, behind, told, .. } = self;
        reader.step(SLICE, |event| {
            let (partition, proof) = match event {
                Event::End(partition) => (partition, true),
                Event::Cut(_) => return Ok(()),
                Event::Record(record) => {
                    let end = behind.get(&record.partition).map_or(0, |(_, end)| *end);
                    (record.partition, record.offset >= end)
                }
            };
            told.entry(partition).or_insert(proof);
            Ok(())
        })
    }
}
