//! Arguments that every service has.

use clap::{Args, ValueEnum};
use std::net::SocketAddr;

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Arguments that every service has. The address of the metrics differs by service.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// Address of /metrics, /livez and /readyz; `off` to serve none
    /// [default: 127.0.0.1 and the service's own port]
    #[arg(long, env = "CAUDAL_METRICS_LISTEN", value_name = "ADDR|off")]
    pub metrics_listen: Option<String>,
    /// Form of the logs on standard error
    #[arg(long, env = "CAUDAL_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, or target=level pairs
    #[arg(long, env = "CAUDAL_LOG", default_value = "info")]
    pub log: String,
}

impl ServiceArgs {
    /// Where to serve metrics, given the service's own port. `None` when switched off.
    ///
    /// # Errors
    /// When the address is not `host:port`.
    pub fn listen(&self, default_port: u16) -> anyhow::Result<Option<SocketAddr>> {
        match self.metrics_listen.as_deref() {
            None => Ok(Some(SocketAddr::from(([127, 0, 0, 1], default_port)))),
            Some("off") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                anyhow::anyhow!(
                    "--metrics-listen {text}: expected an address such as 127.0.0.1:9402, or off"
                )
            }),
        }
    }
}
