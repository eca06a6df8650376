//! The only crate that names the Kafka client (ARCHITECTURE.md, invariant 8).
//!
//! It offers what the services need and nothing per record that they do not: a group consumer
//! that gathers batches, a transactional producer that commits an outbox, a log reader that reads
//! partitions to a proven end, and topic administration.

pub mod admin;
pub mod args;
pub mod consumer;
pub mod cutter;
mod delivery;
pub mod error;
pub mod kafka_log;
pub mod log_reader;
pub mod offsets;
pub mod properties;
pub mod schemas;
pub mod topic_ids;
pub mod txn;
mod txn_error;
mod watchdog;

pub use args::{Kafka, KafkaArgs};
pub use error::{Error, Result};

/// A topic-partition.
pub type TopicPartition = (std::sync::Arc<str>, i32);

fn list_of<'a>(
    partitions: impl IntoIterator<Item = &'a TopicPartition>,
) -> rdkafka::TopicPartitionList {
    let mut list = rdkafka::TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}
