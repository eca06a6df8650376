//! What the loop needs of Kafka, at the level of a batch: three calls per commit, none per record.
//! One implementation talks to Kafka ([`crate::kafka_broker`]), the other is the simulation's.

use caudal_core::outbox::Outbox;
use caudal_kafka::consumer::{Batch, Limits};
use caudal_kafka::log_reader::{LogReader, LogSource};
use caudal_kafka::offsets::Committed;
use caudal_kafka::txn::{TxnError, Written};
use caudal_kafka::{Result, TopicPartition};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Kafka, as one engine thread sees it.
pub trait Broker {
    /// Where logs are read from.
    type Log: LogSource;

    /// The clock of everything that waits. Nothing that is computed depends on it.
    fn now(&self) -> Instant;

    /// Waits. Bounded by what the caller waits for.
    fn wait(&mut self, time: Duration);

    /// Gathers a batch. Rebalances happen only here; a newly assigned partition is paused until
    /// [`Broker::start`]. The group's membership as of the end of this call is the one that
    /// [`Broker::commit`] uses.
    ///
    /// # Errors
    /// What cannot be waited out: fenced, an offset out of range, no permission.
    fn gather(&mut self, limits: &Limits, not_before: Instant) -> Result<Batch>;

    /// Commits an outbox in one txn: records, then positions. Gives the lowest offset that was
    /// written to each partition of the state log.
    ///
    /// # Errors
    /// A [`TxnError`] that says what is known of the txn.
    fn commit(&mut self, outbox: &mut Outbox) -> std::result::Result<Written, TxnError>;

    /// Replaces the producer after a doubt: its new epoch fences what is still on its way.
    ///
    /// # Errors
    /// When the coordinator does not answer for long.
    fn replace_producer(&mut self) -> Result<()>;

    /// Stable committed positions of the group. An error never means "nothing committed".
    ///
    /// # Errors
    /// When the coordinator does not answer, or a partition's offset is not stable.
    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<Committed>>>;

    /// The first offset of an input partition.
    ///
    /// # Errors
    /// When no leader answers.
    fn first_offset(&mut self, partition: &TopicPartition) -> Result<i64>;

    /// Whether, freshly looked at, no txn is open in the partition (last stable offset = high
    /// watermark) and no record lies at or after `next_offset`.
    ///
    /// # Errors
    /// When no leader answers.
    fn is_at_end(&mut self, partition: &TopicPartition, next_offset: i64) -> Result<bool>;

    /// Starts (or restarts) delivery of a partition at `offset`.
    ///
    /// # Errors
    /// When the partition is not ready to seek; it stays paused, try again after a gathering.
    fn start(&mut self, partition: &TopicPartition, offset: i64) -> Result<()>;

    /// Stops delivery; polling keeps the membership alive.
    ///
    /// # Errors
    /// When the client refuses.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()>;

    /// Reader of the state log.
    fn state_log(&mut self) -> &mut LogReader<Self::Log>;

    /// Reader of a table's topic, by its place in [`Shared::tables`](crate::shared::Shared).
    fn table_log(&mut self, place: usize) -> &mut LogReader<Self::Log>;

    /// The schemas that were published to `caudal_esquemas`, by their ids.
    ///
    /// # Errors
    /// When the topic cannot be read.
    fn schemas(&mut self) -> Result<Vec<(u32, String)>>;

    /// Drops records of the state log below an offset, sometime, or not at all.
    fn delete_records(&mut self, partition: i32, below: i64);
}
