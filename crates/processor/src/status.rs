//! What all engine threads of a process report together: readiness, tasks, and the size of their
//! state against its limit.

use crate::metrics::Metrics;
use crate::tasks::Tasks;
use caudal_service::http::Readiness;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the size of the state is added up.
const EVERY: Duration = Duration::from_secs(1);

/// The threads' reports, added up.
#[derive(Debug)]
pub struct Board {
    threads: Mutex<Vec<Report>>,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    /// Most bytes of state.
    limit: u64,
    over: AtomicBool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Report {
    running: usize,
    restoring: usize,
    records_left: u64,
    obstacle: Option<String>,
    /// Keys and bytes by query.
    state: BTreeMap<String, (usize, usize)>,
}

/// One thread's place on the board.
#[derive(Debug)]
pub struct Status {
    board: Arc<Board>,
    thread: usize,
    said: Report,
    measured: Option<Instant>,
}

impl Board {
    /// For so many threads; the state of all of them together may take `limit` bytes.
    #[must_use]
    pub fn new(
        threads: usize,
        readiness: Readiness,
        metrics: Arc<Metrics>,
        limit: u64,
    ) -> Arc<Board> {
        let threads = Mutex::new(vec![Report::default(); threads]);
        Arc::new(Board { threads, readiness, metrics, limit, over: AtomicBool::new(false) })
    }

    /// The place of thread number `thread`.
    #[must_use]
    pub fn status(self: &Arc<Board>, thread: usize) -> Status {
        let board = Arc::clone(self);
        Status { board, thread, said: Report::default(), measured: None }
    }

    fn put(&self, thread: usize, report: &Report) {
        let Ok(mut threads) = self.threads.lock() else { return };
        if let Some(place) = threads.get_mut(thread) {
            *place = report.clone();
        }
        let sum = |of: fn(&Report) -> usize| threads.iter().map(of).sum::<usize>();
        let (running, restoring) = (sum(|r| r.running), sum(|r| r.restoring));
        self.metrics.tasks(running, restoring);
        self.metrics.restore_left.set(threads.iter().map(|r| as_gauge(r.records_left)).sum());
        let mut state: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (query, (keys, bytes)) in threads.iter().flat_map(|r| &r.state) {
            let total = state.entry(query).or_default();
            *total = (total.0 + keys, total.1 + bytes);
        }
        state.iter().for_each(|(query, (keys, bytes))| self.metrics.state(query, *keys, *bytes));
        let limit = self.check_limit(&state);
        let obstacle = limit.or_else(|| threads.iter().find_map(|r| r.obstacle.clone()));
        match obstacle {
            Some(obstacle) => self.readiness.not_ready(obstacle),
            None if restoring > 0 => {
                self.readiness.not_ready(format!("restoring {restoring} tasks"));
            }
            None if running == 0 => self.readiness.not_ready("no partition is assigned"),
            None => self.readiness.ready(),
        }
    }

    /// What is too large, if the limit is reached; released a tenth below it.
    fn check_limit(&self, state: &BTreeMap<&str, (usize, usize)>) -> Option<String> {
        let total: u64 = state.values().map(|(_, bytes)| *bytes as u64).sum();
        let was_over = self.over.load(Ordering::SeqCst);
        let threshold = if was_over { self.limit / 10 * 9 } else { self.limit };
        let over = total >= threshold;
        self.over.store(over, Ordering::SeqCst);
        let (query, (keys, bytes)) = state.iter().max_by_key(|(_, (_, bytes))| *bytes)?;
        let what = || {
            format!(
                "state is {total} bytes, its limit {}; the largest is {query} with {keys} keys and \
                 {bytes} bytes. Input is paused: start again with a larger --state-limit-mib, or \
                 a smaller window, grace or dedup horizon",
                self.limit
            )
        };
        if over && !was_over {
            tracing::error!("{}", what());
        }
        over.then(what)
    }
}

impl Status {
    /// Tasks that run and tasks that are on their way, and records of the state log still to read.
    pub fn tasks(&mut self, running: usize, restoring: usize, records_left: u64) {
        let state = self.said.state.clone();
        self.say(Report { running, restoring, records_left, obstacle: None, state });
    }

    /// Why this thread cannot do its job at the moment; the next word about its tasks ends it.
    pub fn obstacle(&mut self, why: &str) {
        let report = Report { obstacle: Some(why.to_owned()), ..self.said.clone() };
        self.say(report);
    }

    /// Adds up the state of the tasks, at most once a second.
    pub fn state(&mut self, now: Instant, tasks: &Tasks) {
        if self.measured.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            return;
        }
        self.measured = Some(now);
        let mut state: BTreeMap<String, (usize, usize)> =
            self.said.state.keys().map(|query| (query.clone(), (0, 0))).collect();
        for (query, keys, bytes) in tasks.iter().flat_map(|(_, task)| task.state()) {
            let total = state.entry(query.to_owned()).or_default();
            *total = (total.0 + keys, total.1 + bytes);
        }
        let report = Report { state, ..self.said.clone() };
        self.say(report);
    }

    /// Whether the state of all threads has reached its limit.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        self.board.over.load(Ordering::SeqCst)
    }

    fn say(&mut self, report: Report) {
        if report != self.said {
            self.said = report;
            self.board.put(self.thread, &self.said);
        }
    }
}

fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
