//! What topics hold, read to their proven ends.

use anyhow::Result;
use caudal_core::decode::Record;
use caudal_kafka::Kafka;
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use caudal_query::plan::Plan;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a partition may bring nothing before its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives every committed record of a topic to `take`, each partition's in order.
///
/// # Errors
/// When a partition cannot be read to its end, or what `take` returns.
pub fn read(kafka: &Kafka, topic: &str, take: impl FnMut(Record) -> Result<()>) -> Result<()> {
    let partitions = ranges(kafka, topic)?.len();
    let mut reader = LogReader::connect(kafka, topic)?;
    for partition in 0..i32::try_from(partitions)? {
        reader.add(partition, None);
    }
    reader.read_all(PATIENCE, take)
}

/// Number of committed records of a topic.
///
/// # Errors
/// When a partition cannot be read to its end.
pub fn count(kafka: &Kafka, topic: &str) -> Result<u64> {
    let mut count = 0;
    read(kafka, topic, |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// First and end offset of each partition.
///
/// # Errors
/// When a partition's leader does not answer.
pub fn ranges(kafka: &Kafka, topic: &str) -> Result<Vec<(i64, i64)>> {
    let offsets = Offsets::connect(kafka, Isolation::ReadUncommitted, "caudal-e2e")?;
    let partitions = offsets.partitions(topic)?;
    (0..partitions).map(|p| Ok(offsets.watermarks(topic, p)?)).collect()
}

/// Times at which the broker appended the committed records of each partition, in ms, ascending.
///
/// # Errors
/// When a partition cannot be read to its end.
pub fn append_times(kafka: &Kafka, topic: &str) -> Result<BTreeMap<i32, Vec<i64>>> {
    let mut times: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    read(kafka, topic, |record| {
        times.entry(record.partition).or_default().push(record.timestamp);
        Ok(())
    })?;
    Ok(times)
}

/// Creates the output topics of queries that are not shipped.
///
/// # Errors
/// When the cluster refuses.
pub fn create_outputs(kafka: &Kafka, plans: &[Plan]) -> Result<()> {
    let admin = Admin::connect(kafka)?;
    for name in plans.iter().flat_map(|plan| [plan.name.clone(), plan.late_topic()]) {
        let config = BTreeMap::new();
        admin.create(&Topic { name, partitions: 6, replication: 3, config })?;
    }
    Ok(())
}
