//! Where a pipeline is and what its processor was told: what every command takes that reads all of
//! it.

use anyhow::Result;
use caudal_core::time::SECOND;
use caudal_kafka::{Kafka, KafkaArgs};
use caudal_query::plan::{Plan, SHIPPED};
use caudal_service::exit::Usage;
use caudal_service::queries;
use std::path::{Path, PathBuf};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Deployment {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// PostgreSQL, postgres://user:password@host:port/database [default: the native stack's]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// How long the processor remembers a transaction_id, in seconds of event time: its own
    /// --dedup-horizon-s
    #[arg(long, env = "CAUDAL_DEDUP_HORIZON_S", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(70..=604_800))]
    dedup_horizon_s: u32,
    /// The continuous queries that the processor runs: its own --queries
    /// [default: config/queries.sql where it exists, else the one built in]
    #[arg(long, env = "CAUDAL_QUERIES", value_name = "FILE.sql")]
    queries: Option<PathBuf>,
}

impl Deployment {
    /// Its brokers, seen by a client of that name.
    ///
    /// # Errors
    /// When the arguments cannot be used.
    pub fn kafka(&self, client: &str) -> Result<Kafka> {
        self.kafka.connect(client)
    }

    /// Its database.
    ///
    /// # Errors
    /// When none is named and there is no native stack.
    pub fn database_url(&self) -> Result<String> {
        match &self.database_url {
            Some(url) => Ok(url.clone()),
            None => Ok(caudal_stack::Stack::open()?.database_url()),
        }
    }

    /// The dedup horizon in microseconds of event time.
    pub fn horizon(&self) -> i64 {
        i64::from(self.dedup_horizon_s) * SECOND
    }

    /// Its queries.
    ///
    /// # Errors
    /// [`Usage`] for a file that cannot be read or is wrong.
    pub fn plans(&self) -> Result<Vec<Plan>> {
        plans(self.queries.as_deref())
    }
}

/// The queries of a file, or of the standard one.
///
/// # Errors
/// [`Usage`] for a file that cannot be read or is wrong.
pub fn plans(file: Option<&Path>) -> Result<Vec<Plan>> {
    let text = queries::text(file, SHIPPED)?;
    Ok(Plan::compile_file(&text.name, &text.sql).map_err(Usage)?)
}

/// The queries of the native stack's services: those of `CAUDAL_QUERIES`, or the standard ones.
///
/// # Errors
/// [`Usage`] for a file that cannot be read or is wrong.
pub fn standing_plans() -> Result<Vec<Plan>> {
    let file = std::env::var_os("CAUDAL_QUERIES").map(PathBuf::from);
    plans(file.as_deref())
}
