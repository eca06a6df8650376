//! One batch, one txn: records and, last, the progress that they make.

use crate::failpoint::{Failpoint, Side};
use crate::metrics::{Ending, Metrics};
use crate::progress::{Progress, Standing};
use anyhow::{Context as _, Result, anyhow};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::txn::{TxnError, TxnProducer};
use caudal_service::exit::Halt;
use caudal_service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// How long to wait for a coordinator or a leader, or for a predecessor's txn to end: above the
/// txn time-out of 45 s.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long to send one batch again and again.
const PERSEVERANCE: Duration = Duration::from_secs(900);
const PAUSE: Duration = Duration::from_millis(500);

/// A batch was given up because a stop was asked for while Kafka refused it: nothing of it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is in Kafka.
    Yes,
    /// A stop was asked for first; it is not.
    Stopped,
}

/// Commits batches, one at a time.
pub struct Committer {
    kafka: Kafka,
    source: String,
    producer: TxnProducer,
    metrics: Metrics,
    shutdown: Shutdown,
    failpoint: Failpoint,
}

impl Committer {
    /// A committer for a source. `producer` must have that source's `transactional.id`.
    #[must_use]
    pub fn new(
        kafka: &Kafka,
        source: &str,
        producer: TxnProducer,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Committer {
        let (kafka, source) = (kafka.clone(), source.to_owned());
        let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
        let failpoint = Failpoint::from_env();
        Committer { kafka, source, producer, metrics, shutdown, failpoint }
    }

    /// Commits records that lead from `before` to `after`. An aborted txn is sent again; after a
    /// doubt `caudal_progreso` says whether it counts.
    ///
    /// # Errors
    /// When a newer producer runs for this source, or Kafka refuses for a quarter of an hour.
    pub fn commit(
        &mut self,
        mut records: Vec<OutRecord>,
        before: &Progress,
        after: &Progress,
    ) -> Result<Committed> {
        records.push(after.to_record()?);
        let mut outbox = Outbox { records, positions: Vec::new() };
        let since = Instant::now();
        loop {
            let begun = Instant::now();
            self.failpoint.reach(Side::Before);
            let outcome = self.producer.commit(&mut outbox, None);
            self.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
            let failure = match outcome {
                Ok(_) => {
                    self.failpoint.reach(Side::After);
                    self.metrics.ended(Ending::Committed);
                    return Ok(Committed::Yes);
                }
                Err(TxnError::Fenced(why)) => {
                    return Err(anyhow!(
                        "a newer producer runs for source {}: {why}. Let it finish, or give this \
                         one another --source",
                        self.source
                    ));
                }
                Err(TxnError::Refused(refusal)) if refusal.is_of_record() => {
                    return Err(Halt(refusal.to_string()).into());
                }
                Err(TxnError::Refused(refusal)) => {
                    self.metrics.ended(Ending::Aborted);
                    refusal.to_string()
                }
                Err(TxnError::Aborted(why)) => {
                    self.metrics.ended(Ending::Aborted);
                    why
                }
                Err(TxnError::Doubt(why)) => {
                    self.metrics.ended(Ending::Replaced);
                    tracing::warn!("{why}; replacing the Kafka producer to find out");
                    if self.find_out(before, after)? {
                        self.metrics.ended(Ending::Committed);
                        return Ok(Committed::Yes);
                    }
                    why
                }
            };
            if self.shutdown.is_asked() {
                return Ok(Committed::Stopped);
            }
            if since.elapsed() > PERSEVERANCE {
                return Err(anyhow!(
                    "Kafka refuses a batch since {} s: {failure}. Nothing of it was sent; start \
                     again once the brokers are well, it goes on there",
                    PERSEVERANCE.as_secs()
                ));
            }
            tracing::warn!("sending {} records again: {failure}", outbox.records.len());
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether a txn in doubt was committed after all.
    fn find_out(&mut self, before: &Progress, after: &Progress) -> Result<bool> {
        self.producer.replace(PATIENCE).context("after a transaction in doubt")?;
        let standing = standing(&self.kafka, &self.source)?;
        let found = standing.of(&after.file);
        match found {
            Some(found) if found == after => Ok(true),
            Some(found) if found == before => Ok(false),
            // Nothing was ever committed of this file.
            None if before.lines == 0 && !before.done => Ok(false),
            _ => Err(Halt(format!(
                "the progress of {} moved to {} lines without us: another producer ran for \
                 source {} at the same time. Start again, it goes on there",
                after.key(),
                found.map_or(0, |f| f.lines),
                self.source
            ))
            .into()),
        }
    }
}

/// Reads `caudal_progreso` to its proven end.
///
/// # Errors
/// When it cannot be read, or has records of this source that are no progress.
pub fn standing(kafka: &Kafka, source: &str) -> Result<Standing> {
    let mut reader = LogReader::connect(kafka, topics::PROGRESO)?;
    reader.add(0, None);
    let mut standing = Standing::default();
    reader.read_all::<anyhow::Error>(PATIENCE, |record| {
        standing.observe(source, record.key.as_deref(), record.value.as_deref())
    })?;
    Ok(standing)
}
