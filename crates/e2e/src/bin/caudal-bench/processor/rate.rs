//! What the whole stack spends at a steady rate, and how long a transaction takes from its append
//! to its row.

use super::drain::start;
use super::load::PARTITIONS;
use super::paced::{self, Pace};
use crate::gauge::{Brokers, cpu, load_average, wall_ms};
use crate::results;
use anyhow::{Context as _, Result, ensure};
use caudal_e2e::pipeline::Pipeline;
use serde_json::{Value as Json, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PACE: Pace = Pace { rate: 2_000, seconds: 60, tick: Duration::from_millis(100) };
/// What starting up costs is not measured.
const WARM_UP: Duration = Duration::from_secs(15);

/// Rows visible in each partition, and since when.
type Seen = Vec<(f64, Vec<usize>)>;

/// Runs it on an empty stack.
///
/// # Errors
/// When something fails, or the books do not balance.
pub fn run(pipeline: &Pipeline, seed: u64) -> Result<Json> {
    println!(
        "rate: {} transactions/s for {} s, 100 ms commits, processor and sink",
        PACE.rate, PACE.seconds
    );
    let load_average = load_average();
    let (processor, _) = start(pipeline, &["--commit-interval-ms".into(), "100".into()])?;
    let sink = pipeline.start("caudal-sink", "sink", &[])?;
    let kafka = pipeline.kafka.clone();
    let sender = std::thread::spawn(move || paced::send(&kafka, PACE, seed));
    let url = pipeline.database_url.clone();
    let total = usize::try_from(PACE.total())?;
    let watcher = std::thread::spawn(move || watch(&url, total));
    std::thread::sleep(WARM_UP);
    let postgres = pipeline.stack.pid("postgres").context("postgres does not run")?;
    let brokers = Brokers::of(&pipeline.stack)?;
    let spent = || -> Result<BTreeMap<&str, f64>> {
        Ok(BTreeMap::from([
            ("brokers", brokers.cpu()?),
            ("processor", cpu(processor.pid())?),
            ("sink", cpu(sink.pid())?),
            ("postgres", results::cpu_seconds(postgres)?),
        ]))
    };
    let (begun, from, before) = (Instant::now(), wall_ms(), spent()?);
    let window = Duration::from_secs(PACE.seconds) - WARM_UP - Duration::from_secs(2);
    std::thread::sleep(window);
    let (seconds, after) = (begun.elapsed().as_secs_f64(), spent()?);
    let cores: BTreeMap<&str, f64> =
        after.iter().map(|(name, value)| (*name, (value - before[name]) / seconds)).collect();
    let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let seen = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
    let latencies = latencies(&sent, &paced::appended(pipeline)?, &seen);
    let valid = sent.iter().flatten().filter(|valid| **valid).count();
    ensure!(latencies.len() == valid, "{} rows seen of {valid}", latencies.len());
    // Those of the start wait for the services to join their groups.
    let latencies: Vec<f64> =
        latencies.into_iter().filter(|(append, _)| *append >= from).map(|(_, ms)| ms).collect();
    pipeline.caudal(&["drained"])?;
    pipeline.assert_balanced()?;
    let cores_in_all: f64 = cores.values().sum();
    let latency = results::summary("ms", &latencies);
    println!("  {cores_in_all:.2} cores: {cores:.2?}");
    println!("  append to row: {}; balanced", results::headline(&latency));
    Ok(
        json!({ "cores": cores, "cores_in_all": cores_in_all, "append_to_row": latency, "load_average": load_average }),
    )
}

/// Reads the sink's positions, which commit together with the rows, every few milliseconds.
fn watch(database_url: &str, total: usize) -> Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(database_url).await?;
        let (mut seen, mut moved) = (Seen::new(), Instant::now());
        loop {
            let rows = sqlx::query(
                "SELECT partition, rows FROM sink_offsets WHERE topic = 'transacciones_validas'",
            )
            .fetch_all(&mut connection)
            .await?;
            let at = wall_ms();
            let mut counts = vec![0; usize::try_from(PARTITIONS)?];
            for row in rows {
                let partition = usize::try_from(row.try_get::<i32, _>(0)?)?;
                counts[partition] = usize::try_from(row.try_get::<i64, _>(1)?)?;
            }
            if seen.last().is_none_or(|(_, last)| *last != counts) {
                moved = Instant::now();
                seen.push((at, counts));
            }
            // Not every record becomes a row: the end is where nothing moves any more.
            let rows: usize = seen.last().map_or(0, |(_, counts)| counts.iter().sum());
            if moved.elapsed() > Duration::from_secs(if rows * 10 > total * 9 { 5 } else { 60 }) {
                return Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// In each partition the k-th valid record is the k-th row: its append against the first look at
/// which so many rows were visible. Gives the time of the append too.
fn latencies(sent: &paced::Sent, appended: &[Vec<(i64, f64)>], seen: &Seen) -> Vec<(f64, f64)> {
    let mut latencies = Vec::new();
    for (partition, (valid, appended)) in sent.iter().zip(appended).enumerate() {
        let mut looks = seen.iter().peekable();
        let rows = valid.iter().zip(appended).filter(|(valid, _)| **valid);
        for (k, (_, (_, append))) in rows.enumerate() {
            while looks.next_if(|(_, counts)| counts[partition] <= k).is_some() {}
            if let Some((at, _)) = looks.peek() {
                latencies.push((*append, at - append));
            }
        }
    }
    latencies
}
