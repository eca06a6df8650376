//! What the loop shows to the outside, and is told from there; and how it waits for what is away.

use crate::fault::{Action, Fault};
use crate::metrics::Metrics;
use caudal_service::http::Readiness;
use caudal_service::shutdown::Shutdown;
use rand::Rng as _;
use std::time::Duration;

/// First and longest pause between two attempts during an outage.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An error that may pass by itself.
pub trait MayPass: std::error::Error + Send + Sync + 'static {
    /// Whether it may.
    fn passes(&self) -> bool;
}

impl MayPass for Fault {
    fn passes(&self) -> bool {
        self.action == Action::RetryBatch
    }
}

impl MayPass for caudal_kafka::Error {
    fn passes(&self) -> bool {
        self.transient
    }
}

/// The consumer could not seek yet, for instance because the partition's leader is being elected.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotStarted(pub caudal_kafka::Error);

/// What the loop shows to the outside, and is told from there.
pub struct Outside {
    /// `/readyz`.
    pub readiness: Readiness,
    /// Whether it should stop.
    pub shutdown: Shutdown,
    /// `/metrics`.
    pub metrics: Metrics,
}

impl Outside {
    /// Tries until it works; `None` when asked to stop before.
    ///
    /// # Errors
    /// What does not pass.
    pub fn patiently<T, E: MayPass>(
        &mut self,
        what: &str,
        mut work: impl FnMut() -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_asked() {
            match work() {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.passes() => {
                    self.readiness.not_ready(format!("{what}: {error}"));
                    tracing::warn!(%error, "waiting for {what}");
                    std::thread::sleep(backoff.pause());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// Doubles from the first pause to the longest, with jitter.
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(BACKOFF.0)
    }
}

impl Backoff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0.mul_f64(rand::thread_rng().gen_range(0.5..1.0));
        self.0 = (self.0 * 2).min(BACKOFF.1);
        pause
    }
}
