//! Structured logs on standard error.

use crate::args::{LogFormat, ServiceArgs};
use crate::exit::Usage;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging. Call once, first.
///
/// # Errors
/// When `--log` is no filter.
pub fn start(args: &ServiceArgs) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&args.log).map_err(|e| Usage(format!("--log {}: {e}", args.log)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            builder.with_target(false).with_ansi(colours).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
