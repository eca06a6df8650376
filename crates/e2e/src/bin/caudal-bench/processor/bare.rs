//! The bare loop: consume, produce one record for one, commit; no processing. Through the same
//! clients, settings and limits as the processor, as a process of its own.

use super::load;
use crate::gauge::{self, Brokers};
use anyhow::{Context as _, Result, bail};
use caudal_core::outbox::{OutRecord, Outbox, Position};
use caudal_core::topics;
use caudal_e2e::pipeline::{Pipeline, binaries};
use caudal_kafka::consumer::{Batch, Change, GroupConsumer, GroupProtocol, Limits, Membership};
use caudal_kafka::txn::{GroupSnapshot, TxnProducer};
use caudal_kafka::{Kafka, TopicPartition};
use caudal_stack::Stack;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Its consumer group.
pub const GROUP: &str = "caudal-bench-bare";
const PATIENCE: Duration = Duration::from_secs(60);
/// As the processor's.
const LIMITS: Limits =
    Limits { records: 20_000, bytes: 8 * 1024 * 1024, idle: Duration::from_millis(100) };

/// One run on fresh topics.
///
/// # Errors
/// When the stack fails; a run that fails is a sample with its problem.
pub fn sample(pipeline: &Pipeline, records: u64, interval_ms: u32) -> Result<Json> {
    load::reset(pipeline)?;
    let load_average = gauge::load_average();
    let output = Command::new(binaries()?.join("caudal-bench"))
        .args(["bare-loop", &records.to_string(), &interval_ms.to_string()])
        .env("CAUDAL_HOME", pipeline.stack.home())
        .output()?;
    let mut sample: Json = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    sample["load_average"] = load_average;
    let written = load::count(pipeline, topics::VALIDAS)?;
    if written != records {
        sample["problem"] = json!(format!("{written} records written for {records}"));
    }
    Ok(sample)
}

/// The loop itself (`caudal-bench bare-loop RECORDS INTERVAL_MS`): prints its figures as JSON.
///
/// # Errors
/// When Kafka refuses.
pub fn run(records: u64, interval: Duration) -> Result<()> {
    let stack = Stack::open()?;
    let kafka = Kafka::plain(&stack.bootstrap_servers());
    let brokers = Brokers::of(&stack)?;
    let mut producer = TxnProducer::connect(&kafka, GROUP, None, PATIENCE)?;
    let membership = Membership {
        group: GROUP.into(),
        instance: Some(GROUP.into()),
        topics: vec![topics::TRANSACCIONES.into()],
        protocol: GroupProtocol::Classic,
    };
    let consumer = GroupConsumer::join(&kafka, &membership)?;
    let (target, own) = (Arc::<str>::from(topics::VALIDAS), std::process::id());
    let (mut done, mut commits, mut last_commit) = (0, 0_u64, Instant::now());
    let mut first = None;
    while done < records {
        let batch = consumer.gather(&LIMITS, last_commit + interval)?;
        start_assigned(&consumer, &batch)?;
        if batch.records.is_empty() {
            if last_commit.elapsed() > PATIENCE {
                bail!("{done} of {records} records, then nothing");
            }
            continue;
        }
        let group = GroupSnapshot::take(&consumer).context("no membership")?;
        last_commit = Instant::now();
        done += batch.records.len() as u64;
        commits += 1;
        producer.commit(&mut forward(batch, &target), Some(&group))?;
        // The first commit is not timed: nor is it where the processor is looked at from outside.
        if first.is_none() {
            first = Some((Instant::now(), done, gauge::cpu(own)?, brokers.cpu()?));
        }
    }
    let (begun, before, cpu, broker_cpu) = first.context("nothing to do")?;
    let (seconds, timed) = (begun.elapsed().as_secs_f64(), (done - before).max(1));
    #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
    let timed = timed as f64;
    let sample = json!({
        "records": timed,
        "seconds": seconds,
        "records_per_second": timed / seconds,
        "cpu_us_per_record": (gauge::cpu(own)? - cpu) * 1e6 / timed,
        "broker_cpu_us_per_record": (brokers.cpu()? - broker_cpu) * 1e6 / timed,
        "peak_rss_mib": gauge::peak_rss_mib(own),
        "commits": commits,
    });
    println!("{sample}");
    Ok(())
}

/// Starts what was assigned at the first record.
///
/// # Errors
/// When a partition does not get ready.
pub fn start_assigned(consumer: &GroupConsumer, batch: &Batch) -> Result<()> {
    for change in &batch.changes {
        if let Change::Assigned(partitions) = change {
            partitions.iter().try_for_each(|partition| start(consumer, partition))?;
        }
    }
    Ok(())
}

/// A partition may not be ready to seek in the moment in which it is assigned.
fn start(consumer: &GroupConsumer, partition: &TopicPartition) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = consumer.start(partition, 0) {
        if Instant::now() > until {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn forward(batch: Batch, target: &Arc<str>) -> Outbox {
    let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let mut records = Vec::with_capacity(batch.records.len());
    for (partition, record) in batch.records {
        records.push(OutRecord {
            topic: Arc::clone(target),
            partition: record.partition,
            key: record.key.map(Vec::from),
            value: record.value.map(Vec::from),
            headers: Vec::new(),
            origin: None,
        });
        next.insert(partition, record.offset + 1);
    }
    let position = |((topic, partition), next_offset)| Position {
        topic,
        partition,
        next_offset,
        metadata: String::new(),
    };
    Outbox { records, positions: next.into_iter().map(position).collect() }
}
