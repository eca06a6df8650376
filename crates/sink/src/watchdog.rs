//! Ends the process when a call to the database does not come back.
//!
//! The server's own time-outs end whatever hangs on the server. They cannot help when the server's
//! host vanishes without a word: then a read waits until the system gives the connection up, which
//! may take hours, and a call must not be cancelled half-way. So: abort, and let whoever started
//! the sink restart it; the next attempt resolves whatever the call was doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest that storing one batch may take without an answer: beyond `max.poll.interval.ms` the
/// group has given the partitions away in any case.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Watches one thread's calls.
#[derive(Debug)]
pub struct Watchdog {
    started: Instant,
    /// Milliseconds after `started` at which the current call began, plus one; 0 when none runs.
    busy_since: Arc<AtomicU64>,
}

impl Watchdog {
    /// Starts watching, until this is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> std::io::Result<Watchdog> {
        let started = Instant::now();
        let busy_since = Arc::new(AtomicU64::new(0));
        let watched = Arc::downgrade(&busy_since);
        std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            while let Some(busy_since) = watched.upgrade() {
                let since = busy_since.load(Ordering::SeqCst);
                drop(busy_since);
                if is_overdue(since, millis(started.elapsed())) {
                    let limit_s = LIMIT.as_secs();
                    tracing::error!(limit_s, "PostgreSQL does not answer; aborting, restart me");
                    std::process::abort();
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        })?;
        Ok(Watchdog { started, busy_since })
    }

    /// Runs a call under the watch.
    pub fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        self.busy_since.store(millis(self.started.elapsed()) + 1, Ordering::SeqCst);
        let result = call();
        self.busy_since.store(0, Ordering::SeqCst);
        result
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn is_overdue(since: u64, now: u64) -> bool {
    since > 0 && now.saturating_sub(since) > millis(LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_call_is_overdue() {
        assert!(!is_overdue(0, u64::MAX));
        assert!(!is_overdue(1000, 1000 + millis(LIMIT)));
        assert!(is_overdue(1000, 1001 + millis(LIMIT)));
        assert_eq!(Watchdog::start().unwrap().call(|| 7), 7);
    }
}
