//! Faults, each with proof that it hit work in flight.

use crate::flight::{OpenTxn, OpenTxns, open_db_tx};
use crate::pipeline::Service;
use anyhow::{Context as _, Result, bail, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long to look for a moment with work in flight.
const PATIENCE: Duration = Duration::from_secs(60);

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
    fn find(&self) -> Result<Option<String>> {
        match self {
            Work::Txn(open, since) | Work::TxnAmongOthers(open, since) => {
                Ok(open.find_since(since)?.map(|txn| format!("{txn:?}")))
            }
            Work::DbTx(url, since) => open_db_tx(url, since),
        }
    }

    /// As [`Work::find`], of a process that is frozen.
    fn find_frozen(&self) -> Result<Option<String>> {
        let Work::TxnAmongOthers(open, since) = self else { return self.find() };
        let before = open.all_since(since)?;
        // Others end theirs within a commit interval or two.
        std::thread::sleep(Duration::from_secs(1));
        let after = open.all_since(since)?;
        let same = |a: &OpenTxn, b: &OpenTxn| (&a.partition, a.stable) == (&b.partition, b.stable);
        let stayed = after.iter().find(|txn| before.iter().any(|earlier| same(txn, earlier)));
        Ok(stayed.map(|txn| format!("{txn:?}")))
    }
}

/// Kills a service at a random moment at which it has work in flight: waits for a random time, then
/// for work to be open; freezes the service (SIGSTOP), looks again, and kills it (SIGKILL) if the
/// work is still open; else lets it go on and looks for the next. Prints and gives what was open.
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
    loop {
        if let Some(status) = service.ended()? {
            bail!(
                "the service ended by itself ({status}) before it could be killed: nothing was in flight; log {}",
                service.log.display()
            );
        }
        if work.find()?.is_some() {
            signal(service.pid(), "STOP")?;
            // Frozen: what is open now stays open until the kill.
            let found = work.find_frozen();
            if let Ok(Some(found)) = found {
                service.kill()?;
                println!("killed with work in flight: {found}");
                return Ok(found);
            }
            signal(service.pid(), "CONT")?;
            found?;
        }
        ensure!(
            Instant::now() < until,
            "no work was in flight for {} s: the fault would hit nothing",
            PATIENCE.as_secs()
        );
    }
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
