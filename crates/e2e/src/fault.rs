//! Faults, each with proof that it hit work in flight.

use crate::flight::{OpenTxn, OpenTxns, open_db_tx};
use crate::pipeline::Service;
use anyhow::{Context as _, Result, bail, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long to look for a moment with work in flight.
const PATIENCE: Duration = Duration::from_secs(120);

/// Random moments, from a seed that is printed.
pub struct Moments {
    random: ChaCha8Rng,
}

impl Moments {
    /// From `CAUDAL_SEED`, else from the clock; printed, so that a run can be repeated.
    #[must_use]
    pub fn seeded() -> Moments {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = std::env::var("CAUDAL_SEED").ok().and_then(|text| text.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| clock.map_or(1, |d| d.as_secs()));
        println!("CAUDAL_SEED={seed}");
        Moments { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Waits for a random time up to `limit`.
    pub fn wait(&mut self, limit: Duration) {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(1000);
        std::thread::sleep(Duration::from_millis(self.random.gen_range(0..=limit)));
    }
}

/// Sends a signal by its name.
///
/// # Errors
/// When the process is gone.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot send {name} to {pid}");
    Ok(())
}

/// What was in flight when a process was killed.
pub enum Work<'a> {
    /// An open Kafka transaction in a topic that the process writes, begun at or after these ends:
    /// those before the process was started, so that it is its own.
    Txn(&'a OpenTxns, Vec<i64>),
    /// The same where others write the topic too: its own is what stays open while it is frozen.
    TxnAmongOthers(&'a OpenTxns, Vec<i64>),
    /// An open transaction of the sink in PostgreSQL: the database, and its time before the sink
    /// was started.
    DbTx(&'a str, String),
}

impl Work<'_> {
    fn find(&self) -> Result<Vec<String>> {
        match self {
            Work::Txn(open, since) | Work::TxnAmongOthers(open, since) => {
                let began = |txn: &OpenTxn| format!("{} from {}", txn.partition, txn.stable);
                Ok(open.all_since(since)?.iter().map(began).collect())
            }
            Work::DbTx(url, since) => Ok(open_db_tx(url, since)?.into_iter().collect()),
        }
    }

    /// What is in flight of a process that is frozen: what is open, and still is a while later. A
    /// request that it had sent before may have ended the first; others end theirs within a commit
    /// interval or two.
    fn find_frozen(&self) -> Result<Option<String>> {
        let before = self.find()?;
        if before.is_empty() {
            return Ok(None);
        }
        let among_others = matches!(self, Work::TxnAmongOthers(..));
        std::thread::sleep(Duration::from_millis(if among_others { 1000 } else { 100 }));
        let after = self.find()?;
        Ok(after.into_iter().find(|work| before.contains(work)))
    }
}

/// Kills a service at a random moment at which it has work in flight: freezes it (SIGSTOP) at random
/// moments, looks, and kills it (SIGKILL) if it has; else lets it go on. (Looking first and
/// freezing then would depend on how fast the brokers answer.) Prints and gives what was open.
///
/// # Errors
/// When no such moment came, or the service ended by itself: the run proves nothing.
pub fn kill_in_flight(
    service: &mut Service,
    work: &Work<'_>,
    moments: &mut Moments,
) -> Result<String> {
    moments.wait(Duration::from_millis(1500));
    let until = Instant::now() + PATIENCE;
    let mut tries = 0;
    while Instant::now() < until {
        if let Some(status) = service.ended()? {
            bail!(
                "the service ended by itself ({status}) before it could be killed: nothing was in flight; log {}",
                service.log.display()
            );
        }
        tries += 1;
        signal(service.pid(), "STOP")?;
        match work.find_frozen() {
            Ok(Some(found)) => {
                service.kill()?;
                println!("killed with work in flight, at try {tries}: {found}");
                return Ok(found);
            }
            found => {
                signal(service.pid(), "CONT")?;
                found?;
            }
        }
        moments.wait(Duration::from_millis(300));
    }
    bail!("no work was in flight at {tries} random moments: the fault would hit nothing")
}

/// Waits until `done`.
///
/// # Errors
/// When it takes longer than `limit`.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let until = Instant::now() + limit;
    while !done().with_context(|| what.to_owned())? {
        ensure!(Instant::now() < until, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
