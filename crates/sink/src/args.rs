//! Command line.

use caudal_kafka::KafkaArgs;
use caudal_service::args::ServiceArgs;
use caudal_service::exit::EXIT_CODES;
use clap::Parser;
use std::path::PathBuf;

/// Stores Kafka topics in PostgreSQL tables, each record exactly once
#[derive(Debug, Clone, Parser)]
#[command(name = "caudal-sink", version, after_help = EXIT_CODES)]
pub struct Args {
    /// Which topic goes to which table [default: built in, as config/sink.toml]
    #[arg(long, env = "CAUDAL_SINK_CONFIG", value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// The continuous queries, whose rows become tables
    /// [default: config/queries.sql where it exists, else the one built in]
    #[arg(long, env = "CAUDAL_QUERIES", value_name = "FILE.sql")]
    pub queries: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub kafka: KafkaArgs,
    /// PostgreSQL, postgres://user:password@host:port/database; `?host=/directory` for a Unix
    /// socket, `?sslmode=verify-full&sslrootcert=FILE` for TLS. The sink applies its migrations
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "postgres://caudal:caudal@localhost:15432/caudal"
    )]
    pub database_url: String,
    /// Most records stored in one database transaction [default: batch.size of the file, or 5000]
    #[arg(long, env = "CAUDAL_BATCH_RECORDS", value_name = "RECORDS",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch_records: Option<u32>,
    /// How long to wait for a batch to fill, in milliseconds [default: linger.ms of the file, or 50]
    #[arg(long, env = "CAUDAL_LINGER_MS", value_name = "MS",
          value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub linger_ms: Option<u64>,
    /// Writers in this process, each with partitions and a database session of its own
    /// [default: tasks.max of the file, or 1]
    #[arg(long, env = "CAUDAL_TASKS_MAX", value_name = "WRITERS",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    pub tasks_max: Option<u8>,
    /// Name of this instance, unique in the group and the same after a restart
    /// [default: host and lowest free slot]
    #[arg(long, env = "CAUDAL_INSTANCE")]
    pub instance: Option<String>,
    /// Folder of local state: the locks of the slots
    #[arg(long, env = "CAUDAL_HOME", value_name = "DIR", default_value = ".caudal")]
    pub home: PathBuf,
    /// Exit with 0 as soon as the ends that the topics had at the start are stored
    #[arg(long, env = "CAUDAL_UNTIL_CAUGHT_UP")]
    pub until_caught_up: bool,
    /// Go on where records were deleted from a topic before they were stored. They are lost
    #[arg(long, env = "CAUDAL_ACCEPT_GAP")]
    pub accept_gap: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub service: ServiceArgs,
}
