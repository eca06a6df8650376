//! From a transaction's intended time to its row being visible to an independent reader, at 2,000
//! a second for half a minute. Open loop: the schedule does not wait for the pipeline, so that a
//! stall counts against every transaction that should have come in it.

use crate::results;
use anyhow::{Context as _, Result, ensure};
use caudal_core::avro::{Writer, write_transaction};
use caudal_core::json::read_transaction;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::partitioner::partition_of;
use caudal_core::schema::Schemas;
use caudal_core::topics;
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query;
use caudal_kafka::txn::TxnProducer;
use sqlx::{Connection as _, PgConnection, Row as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const RATE: u32 = 2_000;
const SECONDS: u32 = 30;
/// The producer commits this often: part of the latency that is measured.
const TICK: Duration = Duration::from_millis(50);

pub fn run(pipeline: &Pipeline) -> Result<()> {
    println!(
        "latency: {RATE} transactions/s for {SECONDS} s, open loop, producer commits every {} ms",
        TICK.as_millis()
    );
    let _processor = pipeline.start("caudal-processor", "processor", &[])?;
    let _sink = pipeline.start("caudal-sink", "sink", &[])?;
    let mut producer = TxnProducer::connect(
        &pipeline.kafka,
        "caudal-bench-latency",
        None,
        Duration::from_secs(60),
    )?;
    // One transaction first, so that start-up is not measured.
    producer.commit(&mut Outbox { records: vec![record(0)], positions: Vec::new() }, None)?;
    wait_until("the first row", Duration::from_secs(90), || {
        Ok(query::text(&pipeline.database_url, "SELECT count(*)::text FROM transactions")? == "1")
    })?;
    let begun = Instant::now();
    let sender = thread::spawn(move || send(&mut producer, begun));
    let seen = watch(&pipeline.database_url, begun)?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let latencies = latencies(&seen);
    ensure!(latencies.len() == usize::try_from(RATE * SECONDS)?, "{} rows seen", latencies.len());
    pipeline.assert_balanced()?;
    let summary = results::summary("ms", &latencies);
    println!("  {}; balanced", results::headline(&summary));
    results::write("latency", &summary)
}

/// Sends on schedule: everything whose intended time has come, in one transaction a tick.
fn send(producer: &mut TxnProducer, begun: Instant) -> Result<()> {
    let (mut sent, total) = (0, RATE * SECONDS);
    while sent < total {
        let due = u32::try_from(begun.elapsed().as_millis() * u128::from(RATE) / 1000)?.min(total);
        if due > sent {
            let records = (sent..due).map(|i| record(i + 1)).collect();
            producer.commit(&mut Outbox { records, positions: Vec::new() }, None)?;
            sent = due;
        }
        thread::sleep(TICK.saturating_sub(Duration::from_millis(
            u64::try_from(begun.elapsed().as_millis())? % 50,
        )));
    }
    Ok(())
}

fn record(i: u32) -> OutRecord {
    let account = format!("acc-{}", i % 5_000);
    let second = i / RATE;
    let text = format!(
        r#"{{"transaction_id":"bench-{i}","account_id":"{account}","merchant_id":"m-{}","amount":"1.00","currency":"EUR","kind":"PURCHASE","event_time":"2026-01-05T08:{:02}:{:02}Z"}}"#,
        i % 500,
        second / 60,
        second % 60
    );
    let value = read_transaction(text.as_bytes(), "bench", i64::from(i)).map(|transaction| {
        let mut out = Writer::framed(Schemas::shipped().transaction.id);
        write_transaction(&mut out, &transaction);
        out.into_bytes()
    });
    OutRecord {
        origin: None,
        topic: Arc::from(topics::TRANSACCIONES),
        partition: partition_of(account.as_bytes(), 6),
        key: Some(account.into_bytes()),
        value: value.ok(),
        headers: Vec::new(),
    }
}

/// Milliseconds since the start at which so many rows were visible: read every few milliseconds
/// from the sink's positions, which commit together with the rows.
fn watch(database_url: &str, begun: Instant) -> Result<Vec<(f64, usize)>> {
    let total = usize::try_from(RATE * SECONDS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(database_url).await?;
        let mut seen: Vec<(f64, usize)> = Vec::new();
        loop {
            let row = sqlx::query("SELECT coalesce(sum(rows), 0)::bigint - 1 FROM sink_offsets WHERE topic = 'transacciones_validas'")
                .fetch_one(&mut connection)
                .await?;
            let count = usize::try_from(row.try_get::<i64, _>(0)?).context("count")?;
            let at = begun.elapsed().as_secs_f64() * 1000.0;
            if seen.last().is_none_or(|(_, last)| count > *last) {
                seen.push((at, count));
            }
            if count >= total {
                return Ok(seen);
            }
            ensure!(begun.elapsed() < Duration::from_secs(u64::from(SECONDS) + 120), "{count} of {total} rows");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// The k-th transaction's intended time against the first moment at which k rows were visible.
/// Partitions may overtake each other by a commit; over all transactions that evens out.
fn latencies(seen: &[(f64, usize)]) -> Vec<f64> {
    let mut latencies = Vec::new();
    for (at, count) in seen {
        while latencies.len() < *count {
            #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
            let intended = latencies.len() as f64 * 1000.0 / f64::from(RATE);
            latencies.push(at - intended);
        }
    }
    latencies
}
