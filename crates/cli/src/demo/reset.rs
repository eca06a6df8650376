//! Empties the demo's own stack: topics, tables and progress.

use crate::topics;
use anyhow::{Result, bail};
use caudal_core::topics::{PARCIALES, TRANSACCIONES};
use caudal_kafka::Kafka;
use caudal_kafka::admin::Admin;
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::Offsets;
use caudal_query::plan::Plan;
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long Kafka may take to forget deleted topics.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deletes our topics and tables and makes them anew.
///
/// # Errors
/// When Kafka or PostgreSQL refuses, or does not finish in time.
pub async fn reset(kafka: &Kafka, database_url: &str, plans: &[Plan]) -> Result<()> {
    tokio::task::block_in_place(|| reset_topics(kafka, plans))?;
    let mut connection = PgConnection::connect(database_url).await?;
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
        .execute(&mut connection)
        .await?;
    // It brings a runtime of its own, which must not start inside this one.
    let url = database_url.to_owned();
    tokio::task::spawn_blocking(move || caudal_sink::migrate(&url)).await??;
    Ok(())
}

fn reset_topics(kafka: &Kafka, plans: &[Plan]) -> Result<()> {
    let admin = Admin::connect(kafka)?;
    let mut ours = topics::shipped_names()?;
    for topic in topics_of_queries(plans) {
        if !ours.contains(&topic) {
            ours.push(topic);
        }
    }
    let existing = admin.topics()?;
    let doomed: Vec<&str> =
        ours.iter().map(String::as_str).filter(|n| existing.contains_key(*n)).collect();
    if !doomed.is_empty() {
        admin.delete(&doomed)?;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let left = admin.topics()?.into_keys().filter(|name| ours.contains(name)).count();
        if left == 0 {
            break;
        }
        if Instant::now() > until {
            bail!(
                "{left} topics are still being deleted after {} s; look at `caudal stack status`",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Committed offsets of a deleted topic go with it; a new topic must not meet old ones.
    topics::create_shipped(&admin)?;
    let offsets = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-processor")?;
    while !is_fresh(&offsets) {
        if Instant::now() > until {
            bail!(
                "group caudal-processor still has offsets of deleted topics; `caudal stack restart` and try again"
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The topics that the processor makes for queries.
fn topics_of_queries(plans: &[Plan]) -> Vec<String> {
    let topics = plans
        .iter()
        .flat_map(|plan| [Some(plan.name.clone()), Some(plan.late_topic()), plan.errors_topic()]);
    topics.flatten().collect()
}

/// Whether the new topics answer and the processor's group has committed nothing in them.
fn is_fresh(offsets: &Offsets) -> bool {
    [TRANSACCIONES, PARCIALES].into_iter().all(|topic| {
        let Ok(count) = offsets.partitions(topic) else { return false };
        let partitions: Vec<_> = (0..count).map(|p| (Arc::<str>::from(topic), p)).collect();
        let ready = (0..count).all(|p| offsets.watermarks(topic, p).is_ok());
        ready && offsets.committed(&partitions).is_ok_and(|all| all.values().all(Option::is_none))
    })
}
