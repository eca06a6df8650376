//! What a person sees: a bar on a terminal, else a log line a second, and the final line.
//!
//! `waiting for Kafka` is the part of the time in which the next records were ready and had to wait:
//! near 100 % the brokers set the pace, near 0 % the input does.

use crate::progress::Progress;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);
const EVERY_ON_TERMINAL: Duration = Duration::from_millis(200);

/// Shows how far the current input is.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    last: Instant,
    terminal: bool,
    drawn: bool,
    file: String,
    first_lines: u64,
    first_fraction: f64,
    opened: Instant,
    /// How long the reader had waited for commits at the last line.
    waited: Duration,
}

/// Characters of the bar.
const BAR: usize = 24;

impl Report {
    /// Begins now.
    #[must_use]
    pub fn start() -> Report {
        let now = Instant::now();
        Report {
            started: now,
            last: now,
            terminal: std::io::stderr().is_terminal(),
            drawn: false,
            file: String::new(),
            first_lines: 0,
            first_fraction: 0.0,
            opened: now,
            waited: Duration::ZERO,
        }
    }

    /// Another input begins; `fraction` of it, 0 to 1, was sent before.
    pub fn opened(&mut self, from: &Progress, fraction: Option<f64>) {
        self.file.clone_from(&from.file);
        self.first_lines = from.lines;
        self.first_fraction = fraction.unwrap_or(0.0);
        self.opened = Instant::now();
    }

    /// The input stands there, `fraction` of it read, and its reader has waited so long for commits
    /// since the start; shown at most once a second.
    pub fn show(&mut self, at: &Progress, fraction: Option<f64>, waited: Duration) {
        let every = if self.terminal { EVERY_ON_TERMINAL } else { EVERY };
        if self.last.elapsed() < every {
            return;
        }
        let since = std::mem::replace(&mut self.last, Instant::now()).elapsed().as_secs_f64();
        let share = waited.saturating_sub(self.waited).as_secs_f64() / since;
        self.waited = waited;
        let percent = (share * 100.0).min(100.0);
        let mut text = format!("{}, waiting for Kafka {percent:.0} %", self.text(at, fraction));
        if self.terminal {
            text = format!("{}{text}", bar(fraction));
        }
        if self.terminal {
            self.drawn = true;
            // A terminal that went away is no reason to stop.
            write!(std::io::stderr(), "\r\x1b[K{text}").ok();
        } else {
            tracing::info!("{text}");
        }
    }

    fn text(&self, at: &Progress, fraction: Option<f64>) -> String {
        let seconds = self.opened.elapsed().as_secs_f64().max(0.001);
        let lines = at.lines.saturating_sub(self.first_lines);
        let rate = per_second(lines, seconds);
        let Some(fraction) = fraction else {
            return format!("{}: {} lines, {rate}/s", self.file, at.lines);
        };
        let gained = (fraction - self.first_fraction).max(1e-6);
        // Of what this run has to do, not of what an earlier one has done.
        let left = (1.0 - fraction) / gained * seconds;
        let percent = fraction * 100.0;
        let mut text = format!("{}: {percent:.0} %, {} lines, {rate}/s", self.file, at.lines);
        if fraction < 1.0 && seconds > 1.0 {
            text += &format!(", about {left:.0} s left");
        }
        text
    }

    /// Clears the bar, before anything else is written.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }

    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// A bar of what is read, where that is known.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a display of progress, not of money"
)]
fn bar(fraction: Option<f64>) -> String {
    let Some(fraction) = fraction else { return String::new() };
    let full = ((fraction * BAR as f64) as usize).min(BAR);
    format!("[{}{}] ", "#".repeat(full), " ".repeat(BAR - full))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a display of speed, not of money"
)]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds) as u64
}
