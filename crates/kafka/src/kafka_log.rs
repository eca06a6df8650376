//! The log that a [`LogReader`](crate::log_reader::LogReader) reads: Kafka's.

use crate::args::{Isolation, Kafka};
use crate::consumer::{Quiet, owned};
use crate::error::{Error, Result};
use crate::log_reader::{LogSource, Polled};
use crate::offsets::Offsets;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const NAME: &str = "caudal-log-reader";

/// Three clients, because a client sees ends in one way only: one reads, one sees the last stable
/// offset, and one the high watermark.
pub struct KafkaLog {
    consumer: BaseConsumer<Quiet>,
    stable_ends: Offsets,
    all_ends: Offsets,
}

impl KafkaLog {
    /// Makes the clients.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn connect(kafka: &Kafka) -> Result<KafkaLog> {
        let mut config = kafka.consumer_config(Isolation::ReadCommitted);
        config.set("group.id", NAME).set("enable.partition.eof", "true");
        let consumer = config
            .create_with_context(Quiet)
            .map_err(|e| Error::new("cannot create a reader", &e))?;
        let stable_ends = Offsets::connect(kafka, Isolation::ReadCommitted, NAME)?;
        let all_ends = Offsets::connect(kafka, Isolation::ReadUncommitted, NAME)?;
        Ok(KafkaLog { consumer, stable_ends, all_ends })
    }
}

impl LogSource for KafkaLog {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn high_watermark(&mut self, topic: &str, partition: i32) -> Result<i64> {
        self.all_ends.watermarks(topic, partition).map(|(_, end)| end)
    }

    fn stable_range(&mut self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.stable_ends.watermarks(topic, partition)
    }

    fn assign(&mut self, topic: &str, partition: i32, from: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(|e| Error::new("cannot start reading a partition", &e))
    }

    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        self.consumer
            .incremental_unassign(&list)
            .map_err(|e| Error::new("cannot stop reading a partition", &e))
    }

    fn poll(&mut self, wait: Duration) -> Polled {
        match self.consumer.poll(wait) {
            None => Polled::Nothing,
            Some(Ok(message)) => Polled::Record(owned(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => Polled::End(partition),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                    Polled::OutOfRange(Error::permanent("cannot read", error))
                }
                _ => Polled::Failed(failure(&error)),
            },
        }
    }
}

fn failure(error: &KafkaError) -> Error {
    let permanent = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::Fatal
                | Code::TopicAuthorizationFailed
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::BadMessage
        )
    );
    Error { transient: !permanent, ..Error::permanent("cannot read", error) }
}
