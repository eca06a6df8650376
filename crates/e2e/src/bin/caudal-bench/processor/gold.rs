//! How long a purchase takes from its append to the commit of its total in `ventas_gold`.
//!
//! A row of `ventas_gold` names the last record of `caudal_parciales` that it knows, and that names
//! the last input that it knows. So for each purchase: the first record of partials from its
//! partition to its group's that knows it, then the first row of that partition that knows those
//! partials, and when a read_committed consumer had it.

use super::bare::start_assigned;
use super::drain::{Config, start};
use super::load::{self, PARTITIONS, source_of};
use super::paced::{self, Pace};
use crate::gauge::{load_average, wall_ms};
use crate::results;
use anyhow::{Result, ensure};
use caudal_core::avro::{Reader, read_transaction, unframe};
use caudal_core::decode::Record;
use caudal_core::partitioner::partition_of;
use caudal_core::topics;
use caudal_core::transaction::Kind;
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::Kafka;
use caudal_kafka::consumer::{GroupConsumer, GroupProtocol, Limits, Membership};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Group of the consumer that watches.
pub const GROUP: &str = "caudal-bench-gold";
const SECONDS: u64 = 40;
const WARM_UP: f64 = 5_000.0;
/// What is sent at the end may wait for company.
const TAIL: f64 = 2_000.0;

/// Per partition of `ventas_gold`: the last partials that a row knows, and when it was read.
type Rows = Vec<Vec<(i64, f64)>>;
/// Per partition of `caudal_parciales` and source partition: last input known, and own offset.
type Partials = BTreeMap<(i32, i32), Vec<(i64, i64)>>;

/// Runs it on an empty stack, at `rate` transactions a second.
///
/// # Errors
/// When something fails.
pub fn run(pipeline: &Pipeline, rate: u64, seed: u64) -> Result<Json> {
    println!(
        "latency: {rate} transactions/s (a quarter of the drain rate) for {SECONDS} s, 50 ms commits"
    );
    let load_average = load_average();
    let config = Config {
        name: "",
        interval_ms: 50,
        guarantee: "exactly_once_v2",
        threads: 1,
        batch: 20_000,
    };
    let (processor, address) = start(pipeline, &config.args())?;
    let stop = Arc::new(AtomicBool::new(false));
    let (kafka, asked) = (pipeline.kafka.clone(), Arc::clone(&stop));
    let watcher = std::thread::spawn(move || watch(&kafka, &asked));
    wait_until("12 running tasks", Duration::from_secs(90), || {
        let scrape = crate::gauge::Scrape::get(&address).unwrap_or_default();
        Ok(scrape.one("caudal_processor_tasks", "state", "running") >= 12.0)
    })?;
    let pace = Pace { rate, seconds: SECONDS, tick: Duration::from_millis(50) };
    paced::send(&pipeline.kafka, pace, seed)?;
    std::thread::sleep(Duration::from_secs(5));
    stop.store(true, Ordering::Relaxed);
    let rows = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
    drop(processor);
    let (latencies, unseen) = latencies(pipeline, &rows)?;
    ensure!(!latencies.is_empty(), "no purchase reached ventas_gold");
    let summary = results::summary("ms", &latencies);
    println!(
        "  append to ventas_gold: {} of {} purchases; {unseen} without a later row",
        results::headline(&summary),
        latencies.len()
    );
    let mut sorted = latencies;
    sorted.sort_by(f64::total_cmp);
    let quantiles: BTreeMap<String, f64> = (0..=1000_u32)
        .map(|i| {
            (
                format!("{:.1}", f64::from(i) / 10.0),
                results::quantile(&sorted, f64::from(i) / 1000.0),
            )
        })
        .collect();
    let mut result = json!({ "rate": rate, "interval_ms": 50, "unseen": unseen, "quantiles_ms": quantiles, "load_average": load_average });
    for name in ["count", "p50", "p90", "p99", "max"] {
        result[name] = summary[name].clone();
    }
    Ok(result)
}

fn watch(kafka: &Kafka, stop: &AtomicBool) -> Result<Rows> {
    let membership = Membership {
        group: GROUP.into(),
        instance: Some(GROUP.into()),
        topics: vec![topics::VENTAS_GOLD.into()],
        protocol: GroupProtocol::Classic,
    };
    let consumer = GroupConsumer::join(kafka, &membership)?;
    let limits = Limits { records: 10_000, bytes: 1 << 20, idle: Duration::from_millis(100) };
    let mut rows = vec![Vec::new(); usize::try_from(PARTITIONS)?];
    while !stop.load(Ordering::Relaxed) {
        let batch = consumer.gather(&limits, Instant::now())?;
        let at = wall_ms();
        start_assigned(&consumer, &batch)?;
        for (_, record) in &batch.records {
            rows[usize::try_from(record.partition)?].push((source_of(record)?.1, at));
        }
    }
    Ok(rows)
}

/// The latencies between warm-up and tail, and how many purchases no later row knows.
fn latencies(pipeline: &Pipeline, rows: &Rows) -> Result<(Vec<f64>, u64)> {
    let (mut partials, mut failure) = (Partials::new(), None);
    load::read(pipeline, topics::PARCIALES, |record| match source_of(&record) {
        Ok((source, last)) => {
            partials.entry((record.partition, source)).or_default().push((last, record.offset));
        }
        Err(error) => failure = Some(error),
    })?;
    failure.map_or(Ok(()), Err)?;
    let (mut inputs, mut ends) = (Vec::new(), (f64::INFINITY, 0.0_f64));
    load::read(pipeline, topics::TRANSACCIONES, |record| {
        #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
        let appended = record.timestamp as f64;
        ends = (ends.0.min(appended), ends.1.max(appended));
        if let Some(home) = group_partition(&record) {
            inputs.push((record.partition, record.offset, home, appended));
        }
    })?;
    let (mut latencies, mut unseen) = (Vec::new(), 0);
    for (partition, offset, home, appended) in inputs {
        if appended < ends.0 + WARM_UP || appended > ends.1 - TAIL {
            continue;
        }
        let seen = partials.get(&(home, partition)).and_then(|known| {
            let (_, place) = known.get(known.partition_point(|(last, _)| *last < offset))?;
            let rows = rows.get(usize::try_from(home).ok()?)?;
            rows.get(rows.partition_point(|(last, _)| last < place))
        });
        match seen {
            Some((_, at)) => latencies.push(at - appended),
            None => unseen += 1,
        }
    }
    Ok((latencies, unseen))
}

/// The partition of a purchase's group; `None` of everything else.
fn group_partition(record: &Record) -> Option<i32> {
    let (_, body) = unframe(record.value.as_deref()?)?;
    let transaction = read_transaction(&mut Reader::new(body)).ok()?;
    let group = format!("[\"{}\",\"{}\"]", transaction.merchant_id, transaction.currency);
    (transaction.kind == Kind::Purchase).then(|| partition_of(group.as_bytes(), PARTITIONS))
}
