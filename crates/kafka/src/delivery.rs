//! What the broker answered to the records of one txn.

use crate::consumer::log_client;
use rdkafka::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lowest offset that a txn wrote to each partition of the watched topic. A partition that it
/// wrote to is missing when the broker could not say (it had stored a retried batch already).
pub type Written = BTreeMap<i32, i64>;

/// Goes with every record: its index in the outbox, and whether it is of the watched topic (the
/// topic itself would have to be read from each report).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub record: usize,
    pub watched: bool,
}

impl Tag {
    pub fn to_opaque(self) -> usize {
        self.record << 1 | usize::from(self.watched)
    }

    fn of_opaque(opaque: usize) -> Tag {
        Tag { record: opaque >> 1, watched: opaque & 1 == 1 }
    }
}

/// A record that was not delivered.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub record: usize,
    pub code: Option<Code>,
    pub cause: String,
}

impl Failure {
    /// Whether it was only dropped because of another failure.
    fn is_consequence(&self) -> bool {
        matches!(self.code, Some(Code::PurgeQueue | Code::PurgeInflight))
    }
}

#[derive(Default)]
struct Answers {
    failure: Option<Failure>,
    written: Written,
    /// Partitions with a record whose offset is unknown.
    unknown: BTreeSet<i32>,
}

/// Collects delivery reports; the client calls it from a thread of its own.
#[derive(Default)]
pub(crate) struct Deliveries {
    answers: Mutex<Answers>,
}

impl Deliveries {
    /// Forgets the previous txn.
    pub fn begin(&self) {
        *self.lock() = Answers::default();
    }

    /// The first failure since [`Deliveries::begin`] that is no consequence of another; else any.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// The lowest offsets, once every report is in.
    pub fn take_written(&self) -> Written {
        let mut answers = self.lock();
        let unknown = std::mem::take(&mut answers.unknown);
        let mut written = std::mem::take(&mut answers.written);
        written.retain(|partition, _| !unknown.contains(partition));
        written
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, partition: i32, offset: i64) {
        let mut answers = self.lock();
        // librdkafka takes DUPLICATE_SEQUENCE_NUMBER for success, with an offset below zero.
        if offset < 0 {
            answers.unknown.insert(partition);
            return;
        }
        let lowest = answers.written.entry(partition).or_insert(offset);
        *lowest = offset.min(*lowest);
    }

    fn fail(&self, failure: Failure) {
        let mut answers = self.lock();
        if answers.failure.as_ref().is_none_or(|f| f.is_consequence() && !failure.is_consequence())
        {
            answers.failure = Some(failure);
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;
    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let Tag { record, watched } = Tag::of_opaque(opaque);
        match result {
            Ok(message) if watched => self.observe(message.partition(), message.offset()),
            Ok(_) => {}
            Err((error, message)) => self.fail(Failure {
                record,
                code: error.rdkafka_error_code(),
                cause: format!("{}-{}: {error}", message.topic(), message.partition()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_offset_of_each_partition_counts() {
        let deliveries = Deliveries::default();
        for (partition, offset) in [(1, 12), (0, 7), (1, 11), (0, 8)] {
            deliveries.observe(partition, offset);
        }
        assert_eq!(deliveries.take_written(), Written::from([(0, 7), (1, 11)]));
    }

    #[test]
    fn an_unknown_offset_hides_its_partition_and_nothing_outlives_its_txn() {
        let deliveries = Deliveries::default();
        for (partition, offset) in [(0, 7), (1, -1001), (1, 30)] {
            deliveries.observe(partition, offset);
        }
        assert_eq!(deliveries.take_written(), Written::from([(0, 7)]));
        deliveries.observe(2, 5);
        deliveries.begin();
        deliveries.observe(1, 31);
        assert_eq!(deliveries.take_written(), Written::from([(1, 31)]));
    }

    #[test]
    fn the_cause_wins_over_its_consequences() {
        let deliveries = Deliveries::default();
        for (record, code) in
            [(3, Code::PurgeQueue), (1, Code::MessageSizeTooLarge), (2, Code::MessageTimedOut)]
        {
            deliveries.fail(Failure { record, code: Some(code), cause: String::new() });
        }
        assert_eq!(deliveries.failure().map(|f| f.record), Some(1));
    }

    #[test]
    fn a_tag_survives_the_client() {
        for tag in [Tag { record: 0, watched: true }, Tag { record: 20_000, watched: false }] {
            assert_eq!(Tag::of_opaque(tag.to_opaque()), tag);
        }
    }
}
