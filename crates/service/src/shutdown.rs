//! SIGTERM and SIGINT ask for a graceful stop; a second one ends the process at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    asked: Arc<AtomicBool>,
}

impl Shutdown {
    /// Listens for the signals.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Shutdown> {
        let shutdown = Shutdown::default();
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal sets the flag, the second finds it set.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                1,
                Arc::clone(&shutdown.asked),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&shutdown.asked))?;
        }
        Ok(shutdown)
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Asks for a stop from inside.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }
}
