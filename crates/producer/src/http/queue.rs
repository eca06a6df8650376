//! Requests of many connections, grouped into txns: whatever waits when the last one has ended.

use super::budget::Lease;
use super::lines::Mapped;
use crate::commit::{Committed, Committer};
use crate::metrics::Metrics;
use crate::progress::{Progress, Tally};
use anyhow::Result;
use caudal_service::exit::Halt;
use caudal_service::shutdown::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Name of the endpoint among the files of a source.
pub const FILE: &str = "requests";
/// How often a stop is looked for while nobody sends.
const WAKE: Duration = Duration::from_millis(200);

/// A request that waits for its commit.
#[derive(Debug)]
pub struct Waiting {
    /// Its records.
    pub mapped: Mapped,
    /// Bytes of its body.
    pub body: u64,
    /// Told once they are committed; dropped when they are not.
    pub stored: oneshot::Sender<()>,
    /// Its part of the memory.
    pub lease: Lease,
}

/// Since when Kafka has not taken what it was given.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Milliseconds after `started` at which the commit under way began, plus one; 0: none is.
    since: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { started: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Pulse {
    fn begin(&self) {
        self.since.store(self.now() + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long the commit under way has taken so far.
    #[must_use]
    pub fn waiting(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
        }
    }
}

/// Bounds of a txn.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most records.
    pub records: usize,
    /// Most bytes of keys, values and headers; exceeded by one request at most.
    pub bytes: usize,
    /// From a stop on, open requests are answered for so long.
    pub drain: Duration,
}

/// Commits requests, a group at a time.
pub struct Grouping {
    /// Where they come from; its end ends everything.
    pub requests: Receiver<Waiting>,
    /// Commits a group.
    pub committer: Committer,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether to stop.
    pub shutdown: Shutdown,
    /// Tells the others that a commit is slow.
    pub pulse: Arc<Pulse>,
    /// Bounds of a txn.
    pub limits: Limits,
    /// Everything that is committed.
    pub progress: Progress,
    /// The counts in it.
    pub tally: Tally,
}

impl Grouping {
    /// Commits until nobody can send any more, or until the time after a stop is over.
    ///
    /// # Errors
    /// When a newer producer runs for this source, Kafka refuses for a quarter of an hour, or a sum
    /// overflows.
    pub fn run(&mut self) -> Result<()> {
        let (mut held, mut stop_by): (Option<Waiting>, Option<Instant>) = (None, None);
        loop {
            if self.shutdown.is_asked() {
                let stop_by = *stop_by.get_or_insert_with(|| Instant::now() + self.limits.drain);
                if Instant::now() > stop_by {
                    tracing::warn!("some requests were not answered in time before the stop");
                    return Ok(());
                }
            }
            let first = match held.take() {
                Some(waiting) => waiting,
                None => match self.requests.recv_timeout(WAKE) {
                    Ok(waiting) => waiting,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                },
            };
            let group;
            (group, held) = self.gather(first);
            self.commit(group)?;
        }
    }

    /// What waits and fits; the request that does not fit is the first of the next group. A request
    /// whose client has gone was promised nothing, and is left out.
    fn gather(&self, first: Waiting) -> (Vec<Waiting>, Option<Waiting>) {
        let (mut group, mut records, mut bytes) = (Vec::new(), 0, 0);
        let mut next = Some(first);
        while let Some(waiting) = next {
            if !waiting.stored.is_closed() {
                if !group.is_empty() && records + waiting.mapped.records.len() > self.limits.records
                {
                    return (group, Some(waiting));
                }
                records += waiting.mapped.records.len();
                bytes += waiting.mapped.bytes;
                group.push(waiting);
            }
            next = if bytes < self.limits.bytes { self.requests.try_recv().ok() } else { None };
        }
        (group, None)
    }

    fn commit(&mut self, group: Vec<Waiting>) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let (mut after, mut tally) = (self.progress.clone(), self.tally.clone());
        let (mut records, mut answers) = (Vec::new(), Vec::with_capacity(group.len()));
        for waiting in group {
            let Waiting { mapped, body, stored, lease } = waiting;
            tally.records += mapped.tally.records;
            tally.sums.merge(&mapped.tally.sums).map_err(|e| Halt(e.to_string()))?;
            after.elsewhere += mapped.elsewhere;
            after.byte += body;
            after.line = after.line.max(mapped.last.unsigned_abs());
            records.extend(mapped.records);
            answers.push((stored, lease));
        }
        after.records = tally.records;
        after.lines = tally.lines();
        after.sums = tally.sums.texts();
        self.pulse.begin();
        let committed = self.committer.commit(records, &self.progress, &after);
        self.pulse.end();
        if committed? == Committed::Stopped {
            // Their senders are dropped: they are told to send again.
            return Ok(());
        }
        for (stored, lease) in answers {
            // A client may have gone meanwhile.
            stored.send(()).ok();
            drop(lease);
        }
        self.metrics.advanced(&self.progress, &after);
        (self.progress, self.tally) = (after, tally);
        Ok(())
    }
}
