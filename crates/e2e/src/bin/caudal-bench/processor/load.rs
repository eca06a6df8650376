//! The load: preloaded once, kept between runs; everything else is made anew for each.

use anyhow::{Context as _, Result, bail};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::partitioner::partition_of;
use caudal_core::schema::Schemas;
use caudal_core::topics;
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::admin::Admin;
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use caudal_kafka::txn::TxnProducer;
use caudal_producer::generate::{Expected, Generated, Generator, Recipe, Shape};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Partitions of every topic.
pub const PARTITIONS: i32 = 6;
/// What a run writes.
const OUTPUTS: [&str; 7] = [
    topics::VALIDAS,
    topics::VENTAS_GOLD,
    topics::ALERTAS_FRAUDE,
    topics::DLQ,
    "ventas_gold_tardias",
    topics::PARCIALES,
    topics::ESTADO,
];
const GROUPS: [&str; 3] = ["caudal-processor", super::bare::GROUP, super::gold::GROUP];
const PATIENCE: Duration = Duration::from_secs(60);
const CHUNK: usize = 20_000;

/// The generator of the load.
#[must_use]
pub fn generator(count: u64, seed: u64) -> Generator {
    let recipe = Recipe { shape: Shape::LOAD, ..Recipe::new(count, seed) };
    Generator::new(recipe, "bench", Schemas::shipped().transaction.id)
}

/// A generated record on its way to `transacciones`.
#[must_use]
pub fn out_record(topic: &Arc<str>, generated: Generated) -> OutRecord {
    OutRecord {
        topic: Arc::clone(topic),
        partition: partition_of(&generated.key, PARTITIONS),
        key: Some(generated.key),
        value: generated.value,
        headers: Vec::new(),
        origin: None,
    }
}

/// Sends the load, and tells what it must lead to.
///
/// # Errors
/// When Kafka refuses.
pub fn preload(pipeline: &Pipeline, count: u64, seed: u64) -> Result<Expected> {
    println!("  preloading {count} transactions");
    let topic: Arc<str> = topics::TRANSACCIONES.into();
    let mut producer = TxnProducer::connect(&pipeline.kafka, "caudal-bench-load", None, PATIENCE)?;
    let (sender, chunks) = sync_channel(2);
    let generating = std::thread::spawn(move || {
        let (mut expected, mut chunk) = (Expected::default(), Vec::with_capacity(CHUNK));
        for generated in generator(count, seed) {
            expected.add(&generated.class)?;
            chunk.push(out_record(&topic, generated));
            if chunk.len() == CHUNK {
                sender.send(std::mem::take(&mut chunk))?;
            }
        }
        sender.send(chunk)?;
        anyhow::Ok(expected)
    });
    for records in chunks {
        producer.commit(&mut Outbox { records, positions: Vec::new() }, None)?;
    }
    generating.join().map_err(|_| anyhow::anyhow!("the generator panicked"))?
}

/// Makes every output topic anew and forgets the groups; the input stays.
///
/// # Errors
/// When Kafka does not get there in time.
pub fn reset(pipeline: &Pipeline) -> Result<()> {
    let admin = Admin::connect(&pipeline.kafka)?;
    let until = Instant::now() + PATIENCE;
    let of_queries = super::queries::topics();
    let existing = admin.topics()?;
    let others = of_queries.iter().map(String::as_str).filter(|name| existing.contains_key(*name));
    let doomed: Vec<&str> = OUTPUTS.into_iter().chain(others).collect();
    admin.delete(&doomed)?;
    while admin.topics()?.keys().any(|name| doomed.contains(&name.as_str())) {
        wait(until, "topics are still being deleted")?;
    }
    // A broker that has not heard of the deletion yet would say that they are there.
    while !are_empty(pipeline) {
        pipeline.caudal(&["topics", "apply"])?;
        wait(until, "the new topics do not answer")?;
    }
    // A static member that has left is a member until its session is over.
    while let Err(error) = admin.delete_groups(&GROUPS) {
        wait(until, &error.to_string())?;
    }
    Ok(())
}

fn wait(until: Instant, what: &str) -> Result<()> {
    if Instant::now() > until {
        bail!("after {} s: {what}", PATIENCE.as_secs());
    }
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

fn are_empty(pipeline: &Pipeline) -> bool {
    let Ok(offsets) = Offsets::connect(&pipeline.kafka, Isolation::ReadUncommitted, "caudal-bench")
    else {
        return false;
    };
    OUTPUTS.iter().all(|topic| {
        (0..PARTITIONS).all(|p| offsets.watermarks(topic, p).is_ok_and(|ends| ends == (0, 0)))
    })
}

/// Committed records of a topic, given to `each`.
///
/// # Errors
/// When they cannot be read to their end.
pub fn read(
    pipeline: &Pipeline,
    topic: &str,
    mut each: impl FnMut(caudal_core::decode::Record),
) -> Result<()> {
    let mut reader = LogReader::connect(&pipeline.kafka, topic)?;
    (0..PARTITIONS).for_each(|partition| reader.add(partition, None));
    reader.read_all(PATIENCE, |record| {
        each(record);
        anyhow::Ok(())
    })
}

/// Number of committed records of a topic.
///
/// # Errors
/// As [`read`].
pub fn count(pipeline: &Pipeline, topic: &str) -> Result<u64> {
    let mut count = 0;
    read(pipeline, topic, |_| count += 1)?;
    Ok(count)
}

/// Partition and offset of a `caudal.source` header.
///
/// # Errors
/// When there is none.
pub fn source_of(record: &caudal_core::decode::Record) -> Result<(i32, i64)> {
    let text = record.header(caudal_core::headers::SOURCE).context("no caudal.source")?;
    let (partition, offset) = text.split_once('@').context("caudal.source")?;
    Ok((partition.parse()?, offset.parse()?))
}
