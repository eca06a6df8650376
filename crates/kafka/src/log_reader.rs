//! Reads partitions of one topic from a given offset to a *proven* end.
//!
//! The proof, in this order, is what taking over somebody's work needs:
//! 1. the target is the high watermark, seen by a read_uncommitted client: whatever a predecessor
//!    wrote, committed or not, lies below it;
//! 2. wait until the last stable offset has reached the target: every txn below it has ended.
//!    (Reading to the last stable offset at once would stop short of a predecessor's open txn,
//!    which may yet commit: a lost update);
//! 3. only then read; the end-of-partition event of this reading comes at or after the target.

use crate::args::{Isolation, Kafka};
use crate::consumer::{Quiet, owned};
use crate::error::{Error, Result};
use crate::offsets::Offsets;
use caudal_core::decode::Record;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a step of reading brought.
#[derive(Debug)]
pub enum Event {
    /// A committed record.
    Record(Record),
    /// The end of that partition is proven; it is read no further.
    End(i32),
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    NeedsTarget { from: Option<i64> },
    NeedsStable { from: Option<i64>, target: i64 },
    Reading,
}

/// Reads partitions of one topic to their proven ends.
pub struct LogReader {
    topic: String,
    consumer: BaseConsumer<Quiet>,
    committed_ends: Offsets,
    all_ends: Offsets,
    stages: BTreeMap<i32, Stage>,
}

impl LogReader {
    /// A reader of `topic` with no partition yet.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn connect(kafka: &Kafka, topic: &str) -> Result<LogReader> {
        let mut config = kafka.consumer_config(Isolation::ReadCommitted);
        config.set("group.id", "caudal-log-reader").set("enable.partition.eof", "true");
        let consumer = config
            .create_with_context(Quiet)
            .map_err(|e| Error::new("cannot create a reader", &e))?;
        Ok(LogReader {
            topic: topic.to_owned(),
            consumer,
            committed_ends: Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-log-reader")?,
            all_ends: Offsets::connect(kafka, Isolation::ReadUncommitted, "caudal-log-reader")?,
            stages: BTreeMap::new(),
        })
    }

    /// Adds a partition, to be read from `from`, or from its first record.
    pub fn add(&mut self, partition: i32, from: Option<i64>) {
        self.stages.insert(partition, Stage::NeedsTarget { from });
    }

    /// Forgets a partition.
    ///
    /// # Errors
    /// When the client refuses to drop it.
    pub fn remove(&mut self, partition: i32) -> Result<()> {
        if matches!(self.stages.remove(&partition), Some(Stage::Reading)) {
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            self.consumer
                .incremental_unassign(&list)
                .map_err(|e| Error::new("cannot stop reading a partition", &e))?;
        }
        Ok(())
    }

    /// Whether every partition that was added has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stages.is_empty()
    }

    /// Goes on for up to `slice`, giving each event to `sink`. Broker outages are waited out.
    ///
    /// # Errors
    /// A permanent error of the client, or what `sink` returns.
    pub fn step<E: From<Error>>(
        &mut self,
        slice: Duration,
        mut sink: impl FnMut(Event) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let until = Instant::now() + slice;
        self.advance_stages()?;
        while Instant::now() < until && !self.stages.is_empty() {
            let reading = self.stages.values().any(|s| matches!(s, Stage::Reading));
            if !reading {
                std::thread::sleep(Duration::from_millis(20).min(slice));
                self.advance_stages()?;
                continue;
            }
            match self.consumer.poll(Duration::from_millis(50)) {
                None => self.advance_stages()?,
                Some(Ok(message)) => {
                    if self.stages.contains_key(&message.partition()) {
                        sink(Event::Record(owned(&message)))?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.remove(partition)?;
                    sink(Event::End(partition))?;
                }
                Some(Err(error)) => self.check(&error)?,
            }
        }
        Ok(())
    }

    /// Reads every added partition to its proven end.
    ///
    /// # Errors
    /// A permanent error, what `sink` returns, or no progress for `patience` (waiting for an open
    /// txn, or for a partition without a leader).
    pub fn read_all<E: From<Error>>(
        &mut self,
        patience: Duration,
        mut sink: impl FnMut(Record) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut last_event = Instant::now();
        while !self.is_done() {
            self.step(Duration::from_millis(500), |event| {
                last_event = Instant::now();
                match event {
                    Event::Record(record) => sink(record),
                    Event::End(_) => Ok(()),
                }
            })?;
            if last_event.elapsed() > patience {
                let waiting: Vec<i32> = self.stages.keys().copied().collect();
                return Err(Error::permanent(
                    format!("{} partitions {waiting:?} cannot be read to their end", self.topic),
                    format!(
                        "no progress for {} s: a partition has no leader, or a transaction \
                             is still open",
                        patience.as_secs()
                    ),
                )
                .into());
            }
        }
        Ok(())
    }

    /// Which of `positions` (partition → next offset) have no committed record between there and
    /// their proven end. Offsets alone cannot tell: transaction markers take offsets too.
    ///
    /// # Errors
    /// A permanent error of the client. What could not be looked at within `slice` is not drained.
    pub fn drained(
        kafka: &Kafka,
        topic: &str,
        positions: &BTreeMap<i32, i64>,
        slice: Duration,
    ) -> Result<Vec<i32>> {
        let mut reader = LogReader::connect(kafka, topic)?;
        positions.iter().for_each(|(partition, next)| reader.add(*partition, Some(*next)));
        let (mut found, mut drained) = (Vec::new(), Vec::new());
        let until = Instant::now() + slice;
        while !reader.is_done() && found.is_empty() && Instant::now() < until {
            reader.step(Duration::from_millis(100), |event| -> Result<()> {
                match event {
                    Event::Record(record) => found.push(record.partition),
                    Event::End(partition) => drained.push(partition),
                }
                Ok(())
            })?;
        }
        drained.retain(|partition| !found.contains(partition));
        Ok(drained)
    }

    fn advance_stages(&mut self) -> Result<()> {
        let waiting: Vec<i32> = self
            .stages
            .iter()
            .filter(|(_, stage)| !matches!(stage, Stage::Reading))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in waiting {
            if let Err(error) = self.advance(partition)
                && !error.transient
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn advance(&mut self, partition: i32) -> Result<()> {
        let Some(stage) = self.stages.get(&partition).copied() else { return Ok(()) };
        let stage = match stage {
            Stage::NeedsTarget { from } => {
                let (_, target) = self.all_ends.watermarks(&self.topic, partition)?;
                Stage::NeedsStable { from, target }
            }
            other => other,
        };
        self.stages.insert(partition, stage);
        let Stage::NeedsStable { from, target } = stage else { return Ok(()) };
        let (first, stable) = self.committed_ends.watermarks(&self.topic, partition)?;
        if stable < target {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        let start = Offset::Offset(from.map_or(first, |from| from.max(first)));
        list.add_partition_offset(&self.topic, partition, start)
            .map_err(|e| Error::new("cannot start reading", &e))?;
        self.consumer
            .incremental_assign(&list)
            .map_err(|e| Error::new("cannot start reading", &e))?;
        self.stages.insert(partition, Stage::Reading);
        Ok(())
    }

    fn check(&self, error: &KafkaError) -> Result<()> {
        match error.rdkafka_error_code() {
            Some(
                Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::Fatal
                | Code::TopicAuthorizationFailed
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::BadMessage,
            ) => Err(Error::permanent(format!("cannot read {}", self.topic), error)),
            _ => Ok(()),
        }
    }
}
