//! Ends the process when a transactional call ignores its time-out.
//!
//! librdkafka has been seen to stay inside `send_offsets_to_transaction` far beyond its time-out
//! after the loss of a broker (issues 5456 and 5511). Nothing inside the process can unblock it;
//! a restart resumes exactly where the last commit was. So: abort, and let whoever started the
//! service restart it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest that one transactional call may take.
pub const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Watchdog {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    started: Instant,
    /// Milliseconds after `started` at which the current call began, plus one; 0 when none runs.
    busy_since: AtomicU64,
    call: Mutex<&'static str>,
    stopped: AtomicU64,
}

impl Watchdog {
    pub fn start() -> std::io::Result<Watchdog> {
        let state = Arc::new(State {
            started: Instant::now(),
            busy_since: AtomicU64::new(0),
            call: Mutex::new(""),
            stopped: AtomicU64::new(0),
        });
        let watched = Arc::clone(&state);
        thread::Builder::new().name("watchdog".into()).spawn(move || watch(&watched))?;
        Ok(Watchdog { state })
    }

    /// Runs a call under the watch.
    pub fn call<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> T {
        if let Ok(mut current) = self.state.call.lock() {
            *current = name;
        }
        self.state.busy_since.store(self.state.now_ms() + 1, Ordering::SeqCst);
        let result = call();
        self.state.busy_since.store(0, Ordering::SeqCst);
        result
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.stopped.store(1, Ordering::SeqCst);
    }
}

impl State {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn watch(state: &State) {
    let limit = u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX);
    while state.stopped.load(Ordering::SeqCst) == 0 {
        thread::sleep(Duration::from_millis(500));
        let since = state.busy_since.load(Ordering::SeqCst);
        if since > 0 && state.now_ms().saturating_sub(since) > limit {
            let call = state.call.lock().map_or("a transactional call", |name| *name);
            tracing::error!(
                call,
                limit_s = LIMIT.as_secs(),
                "call ignored its time-out; aborting, a restart resumes from the last commit"
            );
            std::process::abort();
        }
    }
}
