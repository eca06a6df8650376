//! Ending processes together.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::layout;
use crate::process::{Daemon, Signal};
use crate::stack::Progress;

/// How long a node may still take once most of its group has stopped: it waits for a quorum that
/// is gone. What it acknowledged is on the others' and its own disk already.
const ALONE: Duration = Duration::from_secs(6);

/// How long a killed process may take to vanish.
pub const KILLED: Duration = Duration::from_secs(10);

/// Signals all processes, waits for all of them, and kills what does not end in time: after
/// `patience`, or sooner when most of the others are gone.
///
/// # Errors
/// A signal is refused, or a process does not end even when killed.
pub fn end_together(
    daemons: Vec<Daemon>,
    signal: Signal,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<()> {
    let mut waiting = Vec::new();
    for daemon in daemons {
        if daemon.pid().is_some() {
            daemon.end(signal, Duration::ZERO)?;
            waiting.push(daemon);
        } else {
            layout::remove(&daemon.pid_file)?;
        }
    }
    let all = waiting.len();
    let mut deadline = Instant::now() + patience;
    loop {
        let before = waiting.len();
        let mut left = Vec::new();
        for daemon in waiting {
            if daemon.pid().is_some() {
                left.push(daemon);
                continue;
            }
            layout::remove(&daemon.pid_file)?;
            progress(&format!("{} stopped", daemon.name));
        }
        waiting = left;
        if waiting.len() < before && waiting.len() * 2 < all {
            deadline = deadline.min(Instant::now() + ALONE);
        }
        if waiting.is_empty() || Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut faults = Vec::new();
    for daemon in waiting {
        if daemon.end(Signal::Kill, KILLED)? {
            progress(&format!("{} killed: it did not stop by itself in time", daemon.name));
        } else {
            faults.push(format!("{} does not end (pid {:?})", daemon.name, daemon.pid()));
        }
    }
    if faults.is_empty() { Ok(()) } else { bail!(faults.join("; ")) }
}
