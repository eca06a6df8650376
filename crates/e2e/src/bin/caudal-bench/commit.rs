//! How long one Kafka commit takes with 1,000 records outstanding: begin, produce over 12
//! partitions, positions, flush, commit; ten a second, as the processor's default, on brokers whose
//! JVMs have warmed up on 300 such commits; nothing else running.

use crate::results;
use anyhow::{Context as _, Result};
use caudal_core::outbox::{OutRecord, Outbox, Position};
use caudal_core::topics;
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::consumer::{GroupConsumer, GroupProtocol, Limits, Membership};
use caudal_kafka::txn::{GroupSnapshot, TxnProducer};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RECORDS: i32 = 1_000;
const WARM_UP: i64 = 300;
const COMMITS: i64 = 300;
const INTERVAL: Duration = Duration::from_millis(100);

pub fn run(pipeline: &Pipeline) -> Result<()> {
    println!("commit: {COMMITS} transactions of {RECORDS} records of 200 bytes over 12 partitions");
    let input: Arc<str> = topics::TRANSACCIONES.into();
    let membership = Membership {
        group: "caudal-bench".into(),
        instance: Some("caudal-bench".into()),
        topics: vec![Arc::clone(&input)],
        protocol: GroupProtocol::Classic,
    };
    let consumer = GroupConsumer::join(&pipeline.kafka, &membership)?;
    let limits = Limits { records: 1, bytes: 1, idle: Duration::from_millis(100) };
    let until = Instant::now() + Duration::from_secs(60);
    while consumer.gather(&limits, Instant::now())?.changes.is_empty() {
        anyhow::ensure!(Instant::now() < until, "no assignment within 60 s");
    }
    let mut producer =
        TxnProducer::connect(&pipeline.kafka, "caudal-bench", None, Duration::from_secs(60))?;
    let mut samples = Vec::new();
    for commit in 0..WARM_UP + COMMITS {
        consumer.gather(&limits, Instant::now())?;
        let group = GroupSnapshot::take(&consumer).context("no membership")?;
        let mut outbox = outbox(&input, commit);
        let begun = Instant::now();
        producer.commit(&mut outbox, Some(&group))?;
        if commit >= WARM_UP {
            samples.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        std::thread::sleep(INTERVAL.saturating_sub(begun.elapsed()));
    }
    let summary = results::summary("ms", &samples);
    println!("  {}", results::headline(&summary));
    results::write("commit", &summary)
}

fn outbox(input: &Arc<str>, commit: i64) -> Outbox {
    let targets: [Arc<str>; 2] = [topics::VALIDAS.into(), topics::PARCIALES.into()];
    let record = |i: i32| OutRecord {
        origin: None,
        topic: Arc::clone(&targets[usize::from(i % 2 == 1)]),
        partition: (i / 2) % 6,
        key: Some(format!("key-{i}").into_bytes()),
        value: Some(format!("{i:0>200}").into_bytes()),
        headers: Vec::new(),
    };
    let topic = Arc::clone(input);
    let position = Position { topic, partition: 0, next_offset: commit, metadata: String::new() };
    Outbox { records: (0..RECORDS).map(record).collect(), positions: vec![position] }
}
