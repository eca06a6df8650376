//! Exit codes, the same for every service. `--help` prints them.

use std::process::ExitCode;

/// Shown at the end of `--help`.
pub const EXIT_CODES: &str = "Exit codes:
  0    done, or stopped by SIGTERM or SIGINT after a last commit
  1    failed; the message says what happened and what to do
  2    wrong arguments or configuration
  3    halted: a gap, a conflict or a changed input; nothing was guessed
  134  aborted by the watchdog (a Kafka call ignored its time-out); restart it";

/// Arguments or configuration that cannot be used: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Something does not add up, and going on would be guessing: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("halted: {0}")]
pub struct Halt(pub String);

/// Prints the error with its causes, and chooses the code.
pub fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    tracing::error!("{error:#}");
    let has = |found: bool, code: u8| found.then(|| ExitCode::from(code));
    has(error.chain().any(|e| e.is::<Halt>()), 3)
        .or_else(|| has(error.chain().any(|e| e.is::<Usage>()), 2))
        .unwrap_or(ExitCode::FAILURE)
}
