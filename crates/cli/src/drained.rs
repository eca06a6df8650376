//! Whether everything that is in Kafka has become rows.

use crate::deployment::standing_plans;
use anyhow::{Context as _, Result, bail};
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use caudal_query::plan::Plan;
use caudal_sink::postgres::endpoint;
use sqlx::{ConnectOptions as _, Row as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(5);

/// The topics that the sink stores in any case; those of queries stand in its positions.
const SINK: [&str; 4] = [topics::VALIDAS, topics::VENTAS_GOLD, topics::ALERTAS_FRAUDE, topics::DLQ];

/// Waits until the processor has committed, and the sink stored, every record; calls `tick` about
/// once a second.
///
/// # Errors
/// When nothing has moved for `patience`, or `tick` fails.
pub async fn wait(
    kafka: &Kafka,
    database_url: &str,
    plans: &[Plan],
    patience: Duration,
    mut tick: impl FnMut() -> Result<()>,
) -> Result<()> {
    let offsets = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-processor")?;
    let (mut last, mut moved) = (BTreeMap::new(), Instant::now());
    loop {
        tick()?;
        let positions = positions(&offsets, database_url, plans, i32::MAX).await?;
        let Some(behind) = first_behind(kafka, &positions)? else { return Ok(()) };
        if positions != last {
            (last, moved) = (positions, Instant::now());
        }
        if moved.elapsed() > patience {
            bail!(
                "nothing has moved for {} s and {behind} is not drained; look at `caudal services status` and the logs it names",
                patience.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A topic with records that its reader has not done: the processor of its inputs, the sink of the
/// others. Only the first `partitions` of each are looked at, and `transacciones` only where
/// `with_input` says so.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn behind(
    kafka: &Kafka,
    database_url: &str,
    partitions: i32,
    with_input: bool,
) -> Result<Option<String>> {
    let offsets = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-processor")?;
    let mut positions = positions(&offsets, database_url, &[], partitions).await?;
    positions.retain(|(_, topic), _| with_input || topic != topics::TRANSACCIONES);
    tokio::task::block_in_place(|| first_behind(kafka, &positions))
}

fn first_behind(kafka: &Kafka, positions: &Positions) -> Result<Option<String>> {
    for ((_, topic), positions) in positions {
        let drained = LogReader::drained(kafka, topic, positions, LOOK)?;
        if drained.len() < positions.len() {
            return Ok(Some(topic.clone()));
        }
    }
    Ok(None)
}

/// `caudal drained`, on the native stack.
///
/// # Errors
/// As [`wait`].
pub async fn run(patience_s: u64) -> Result<()> {
    let stack = caudal_stack::Stack::open()?;
    let kafka = Kafka::plain(&stack.bootstrap_servers());
    let (plans, patience) = (standing_plans()?, Duration::from_secs(patience_s));
    wait(&kafka, &stack.database_url(), &plans, patience, || Ok(())).await?;
    println!("drained");
    Ok(())
}

/// By reader and topic: a query's stream has two.
type Positions = BTreeMap<(&'static str, String), BTreeMap<i32, i64>>;

/// Next offsets of the first `most` partitions: of the processor's inputs from its group, of the
/// sink's from its table.
async fn positions(
    offsets: &Offsets,
    database_url: &str,
    plans: &[Plan],
    most: i32,
) -> Result<Positions> {
    let count = |topic: &str| Ok::<i32, anyhow::Error>(offsets.partitions(topic)?.min(most));
    let mut all = Positions::new();
    let streams = plans.iter().filter_map(|plan| plan.stream.as_ref());
    let streams = streams.map(|stream| stream.source.topic.as_str());
    for topic in [topics::TRANSACCIONES, topics::PARCIALES].into_iter().chain(streams) {
        // Other streams have a partition count of their own, and all of them are read.
        let partitions = match topic {
            topics::TRANSACCIONES | topics::PARCIALES => count(topic)?,
            other => offsets.partitions(other)?,
        };
        let partitions: Vec<_> = (0..partitions).map(|p| (Arc::<str>::from(topic), p)).collect();
        let committed = offsets.committed(&partitions)?;
        let next = committed.iter().map(|(p, c)| (p.1, c.as_ref().map_or(0, |c| c.next_offset)));
        all.insert(("processor", topic.to_owned()), next.collect());
    }
    let mut connection =
        endpoint(database_url)?.connect().await.context("cannot connect to PostgreSQL")?;
    let rows = sqlx::query("SELECT topic, partition, next_offset FROM sink_offsets")
        .fetch_all(&mut connection)
        .await
        .context("cannot read table sink_offsets; caudal-sink makes it when it first starts")?;
    let claimed = rows.iter().map(|row| row.get::<String, _>("topic"));
    let stored: BTreeSet<String> = SINK.map(str::to_owned).into_iter().chain(claimed).collect();
    for topic in stored {
        let next = (0..count(&topic)?).map(|p| {
            let row = rows.iter().find(|r| {
                r.get::<String, _>("topic") == topic && r.get::<i32, _>("partition") == p
            });
            (p, row.map_or(0, |r| r.get::<i64, _>("next_offset")))
        });
        let next = next.collect();
        all.insert(("sink", topic), next);
    }
    Ok(all)
}
