//! What every binary shares: arguments, logs, metrics over HTTP, shutdown and exit codes.
//! It knows none of the pipeline's own types.

pub mod args;
pub mod exit;
pub mod http;
pub mod instance;
pub mod metrics;
pub mod queries;
pub mod shutdown;
pub mod telemetry;
