//! The command line of the HTTP endpoint.

use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where to take requests, and from whom.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    /// Take transactions over HTTP at this address, such as 127.0.0.1:8080, until SIGTERM: POST
    /// /v1/transactions, one JSON object or NDJSON
    #[arg(long, env = "CAUDAL_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// File whose first line is the token that clients must send (Authorization: Bearer …); needed
    /// unless ADDR is a loopback address. Without a file, CAUDAL_HTTP_TOKEN gives the token itself
    #[arg(long, env = "CAUDAL_HTTP_TOKEN_FILE", value_name = "FILE", requires = "listen")]
    pub http_token_file: Option<PathBuf>,
}
