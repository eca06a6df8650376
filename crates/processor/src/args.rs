//! Arguments of `caudal-processor`.

use caudal_kafka::KafkaArgs;
use caudal_kafka::consumer::GroupProtocol;
use caudal_kafka::txn::Guarantee;
use caudal_service::args::ServiceArgs;
use caudal_service::exit::EXIT_CODES;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Port of `/metrics` unless said otherwise.
pub const METRICS_PORT: u16 = 9402;

/// What to go on with when things do not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Adopt {
    /// Offsets: what the state log says.
    State,
    /// Offsets: what the group has committed.
    Group,
    /// Validation rules or dedup horizon that differ from those of the state: the new ones, from
    /// here on.
    Rules,
}

/// The stream processor: validates, deduplicates, watches for fraud and aggregates, exactly once.
#[derive(Debug, Clone, Parser)]
#[command(name = "caudal-processor", version, after_help = EXIT_CODES)]
pub struct Args {
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// What every service has.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Longest time between commits under load, in milliseconds; when idle a record is committed
    /// at once
    #[arg(long, env = "CAUDAL_COMMIT_INTERVAL_MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub commit_interval_ms: u64,
    /// Most input records of one commit
    #[arg(long, env = "CAUDAL_BATCH_RECORDS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_records: u32,
    /// How long a transaction_id is remembered, in seconds of event time; at least the largest
    /// window and its grace
    #[arg(long, env = "CAUDAL_DEDUP_HORIZON_S", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(70..=604_800))]
    pub dedup_horizon_s: u32,
    /// The continuous queries [default: config/queries.sql where it exists, else the one built in]
    #[arg(long, env = "CAUDAL_QUERIES", value_name = "FILE.sql")]
    pub queries: Option<PathBuf>,
    /// Engine threads; each has its own consumer and producer, and at most 6 partitions' tasks are
    /// of use to one
    #[arg(long, env = "CAUDAL_THREADS", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// group.protocol of the consumers
    #[arg(long, env = "CAUDAL_GROUP_PROTOCOL", value_enum, default_value_t = GroupProtocol::Classic)]
    pub group_protocol: GroupProtocol,
    /// processing.guarantee; at_least_once is for measuring what transactions cost: after a crash
    /// outputs may come twice, and state and positions may disagree (--adopt) or blocks repeat, which
    /// halts a restart
    #[arg(long, env = "CAUDAL_PROCESSING_GUARANTEE", value_enum, default_value_t = Guarantee::ExactlyOnceV2)]
    pub processing_guarantee: Guarantee,
    /// Most state in memory, in MiB; above it input is paused and /readyz says which query is large
    #[arg(long, env = "CAUDAL_STATE_LIMIT_MIB", default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub state_limit_mib: u64,
    /// A query whose definition was changed may begin again, empty (repeat for several)
    #[arg(long, env = "CAUDAL_RESET_QUERY", value_name = "NAME", value_delimiter = ',')]
    pub reset_query: Vec<String>,
    /// Name of this instance [default: host and lowest free slot, stable across restarts]
    #[arg(long, env = "CAUDAL_INSTANCE")]
    pub instance: Option<String>,
    /// Folder of local state: the locks of the slots
    #[arg(long, env = "CAUDAL_HOME", value_name = "DIR", default_value = ".caudal")]
    pub home: PathBuf,
    /// Exit 0 when everything that was there at the start, and everything it caused, is committed
    #[arg(long, env = "CAUDAL_UNTIL_CAUGHT_UP")]
    pub until_caught_up: bool,
    /// When things do not agree: what to go on with, this once
    #[arg(long, env = "CAUDAL_ADOPT", value_enum)]
    pub adopt: Option<Adopt>,
}
