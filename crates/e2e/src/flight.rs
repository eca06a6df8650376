//! Whether work is in flight: an open Kafka transaction, or an open transaction in PostgreSQL.

use crate::query;
use anyhow::Result;
use caudal_kafka::Kafka;
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::Offsets;
use std::time::{Duration, Instant};

/// How long a partition's leader may be busy or absent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sees open transactions of a topic: the last stable offset stays behind the high watermark.
pub struct OpenTxns {
    stable: Offsets,
    all: Offsets,
    topic: &'static str,
    partitions: i32,
}

/// A partition with an open transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTxn {
    /// topic-partition.
    pub partition: String,
    /// Last stable offset.
    pub stable: i64,
    /// High watermark.
    pub end: i64,
}

impl OpenTxns {
    /// Of a topic.
    ///
    /// # Errors
    /// When the topic cannot be seen.
    pub fn of(kafka: &Kafka, topic: &'static str) -> Result<OpenTxns> {
        let all = Offsets::connect(kafka, Isolation::ReadUncommitted, "caudal-e2e")?;
        let partitions = all.partitions(topic)?;
        let stable = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-e2e")?;
        Ok(OpenTxns { stable, all, topic, partitions })
    }

    /// A partition with records of a transaction that has not ended.
    ///
    /// # Errors
    /// When a partition's leader does not answer.
    pub fn find(&self) -> Result<Option<OpenTxn>> {
        self.find_since(&vec![0; usize::try_from(self.partitions)?])
    }

    /// The end of each partition.
    ///
    /// # Errors
    /// When a partition's leader does not answer.
    pub fn ends(&self) -> Result<Vec<i64>> {
        (0..self.partitions).map(|p| self.end(&self.all, p)).collect()
    }

    /// A partition with a transaction that is open and began at or after these ends: what a
    /// predecessor left open there does not count.
    ///
    /// # Errors
    /// When a partition's leader does not answer.
    pub fn find_since(&self, ends: &[i64]) -> Result<Option<OpenTxn>> {
        Ok(self.all_since(ends)?.into_iter().next())
    }

    /// All such partitions.
    ///
    /// # Errors
    /// When a partition's leader does not answer.
    pub fn all_since(&self, ends: &[i64]) -> Result<Vec<OpenTxn>> {
        let mut found = Vec::new();
        for (p, since) in (0..self.partitions).zip(ends) {
            let end = self.end(&self.all, p)?;
            let stable = self.end(&self.stable, p)?;
            if stable < end && stable >= *since {
                found.push(OpenTxn { partition: format!("{}-{p}", self.topic), stable, end });
            }
        }
        Ok(found)
    }

    /// The end of a partition as one of the two readers sees it. A leader may be busy, on the move
    /// or not elected yet (then the client knows no such partition), and faults may have caused
    /// that: it is asked again.
    fn end(&self, reader: &Offsets, partition: i32) -> Result<i64> {
        let (until, mut told) = (Instant::now() + PATIENCE, false);
        loop {
            match reader.watermarks(self.topic, partition) {
                Ok((_, end)) => return Ok(end),
                Err(error) if Instant::now() < until => {
                    if !std::mem::replace(&mut told, true) {
                        println!("asked again: {error}");
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sum of the ends: how far the topic has come.
    ///
    /// # Errors
    /// When a partition's leader does not answer.
    pub fn total(&self) -> Result<i64> {
        (0..self.partitions).map(|p| self.end(&self.all, p)).sum()
    }
}

/// The sink's open transaction in PostgreSQL that has written something, as text; of a session
/// that began after `since` (PostgreSQL's own clock), so that a predecessor's does not count.
///
/// # Errors
/// When PostgreSQL does not answer.
pub fn open_db_tx(database_url: &str, since: &str) -> Result<Option<String>> {
    let found = query::texts(
        database_url,
        &format!(
            "SELECT format('%s, %s, since %s', state, left(query, 40), xact_start) \
             FROM pg_stat_activity WHERE application_name LIKE 'caudal-sink%' \
             AND backend_xid IS NOT NULL AND backend_start > '{since}'"
        ),
    )?;
    Ok(found.into_iter().next())
}

/// What PostgreSQL's clock says.
///
/// # Errors
/// When PostgreSQL does not answer.
pub fn database_time(database_url: &str) -> Result<String> {
    query::text(database_url, "SELECT clock_timestamp()::text")
}
