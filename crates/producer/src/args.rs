//! The command line.

use crate::cards::CardArgs;
use crate::feed::follow::FileArgs;
use crate::generate::args::GenerateArgs;
use crate::http::args::HttpArgs;
use caudal_core::topics;
use caudal_kafka::KafkaArgs;
use caudal_kafka::txn::Guarantee;
use caudal_service::args::ServiceArgs;
use caudal_service::exit::EXIT_CODES;
use clap::{ArgGroup, Args, Parser};
use std::path::PathBuf;

/// Sends transactions from files, standard input, HTTP or a generator to Kafka, each exactly once,
/// however often it is stopped and started again.
#[derive(Debug, Clone, Parser)]
#[command(name = "caudal-producer", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to send.
    #[command(flatten)]
    pub producer: ProducerArgs,
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Logs and metrics.
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// What to send, from where and how fast.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("origin").required(true).args(["input", "generate", "listen"]))]
pub struct ProducerArgs {
    /// How the input's columns become a Transaction (config/sources/*.toml)
    #[arg(long, env = "CAUDAL_MAPPING", value_name = "FILE.toml", requires = "input")]
    pub mapping: Option<PathBuf>,
    /// Files, folders, quoted globs (*.csv.gz), or - for standard input; gzip is recognised.
    /// Read in the order of their names
    #[arg(long, env = "CAUDAL_INPUT", value_name = "PATH", num_args = 1.., requires = "mapping")]
    pub input: Vec<String>,
    /// Send this many seeded records instead of files
    #[arg(long, env = "CAUDAL_GENERATE", value_name = "N")]
    pub generate: Option<u64>,
    /// Seed of --generate: the same seed gives the same records
    #[arg(long, env = "CAUDAL_SEED", default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// First event time of --generate, RFC 3339, or `now`: the records then end about now
    #[arg(
        long,
        env = "CAUDAL_EVENT_TIME_BASE",
        default_value = "2026-01-05T08:00:00Z",
        value_name = "TIME|now"
    )]
    pub event_time_base: String,
    /// Write what --generate must lead to, as JSON
    #[arg(long, env = "CAUDAL_EXPECTED_OUT", value_name = "FILE", requires = "generate")]
    pub expected_out: Option<PathBuf>,
    /// Name of the source, instead of the mapping's: progress is kept under it, and only one
    /// producer at a time can run for it
    #[arg(long, env = "CAUDAL_SOURCE", value_name = "NAME")]
    pub source: Option<String>,
    /// Topic to send to
    #[arg(long, env = "CAUDAL_TOPIC", default_value = topics::TRANSACCIONES)]
    pub topic: String,
    /// Most records in one Kafka transaction (1 to 100000)
    #[arg(
        long,
        env = "CAUDAL_BATCH_RECORDS",
        default_value_t = 50_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    pub batch_records: u32,
    /// Longest wait for more records before a commit, in milliseconds (1 to 60000)
    #[arg(
        long,
        env = "CAUDAL_COMMIT_INTERVAL_MS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=60_000)
    )]
    pub commit_interval_ms: u64,
    /// Transactions per second, paced by the clock and not by what Kafka manages (open loop);
    /// 0 is as fast as possible
    #[arg(long, env = "CAUDAL_RATE", default_value_t = 0, value_name = "R")]
    pub rate: u64,
    /// `exactly_once_v2`: records and progress in one transaction. `at_least_once`: idempotent, then
    /// the progress; what is not known to be stored after a fault is sent again with the same ids
    #[arg(
        long,
        env = "CAUDAL_PROCESSING_GUARANTEE",
        value_enum,
        default_value_t = Guarantee::ExactlyOnceV2
    )]
    pub processing_guarantee: Guarantee,
    /// What generated records look like.
    #[command(flatten)]
    pub shape: GenerateArgs,
    /// Transactions over HTTP.
    #[command(flatten)]
    pub http: HttpArgs,
    /// How files are read.
    #[command(flatten)]
    pub files: FileArgs,
    /// What becomes of card numbers.
    #[command(flatten)]
    pub cards: CardArgs,
}

impl ProducerArgs {
    /// What the environment says, and the defaults, for a source that is none of the command
    /// line's.
    ///
    /// # Errors
    /// When a variable of the environment cannot be used.
    pub fn by_default() -> Result<ProducerArgs, clap::Error> {
        Ok(Cli::try_parse_from(["caudal-producer", "--generate", "0"])?.producer)
    }
}
