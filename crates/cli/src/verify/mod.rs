//! `caudal verify`: the balance sheet.
//!
//! Topics and tables are read independently of the counters that the services keep; these are then
//! compared with what was found. The order of reading makes it work while the pipeline runs
//! ([`cut`]): first a snapshot of PostgreSQL, then the processor's positions, then the topics to
//! their proven ends. What lies beyond those positions is in flight, and not judged.
//!
//! Where the topics have grown, [`eras`] tells the times before and after apart. [`sources`] judges the
//! producer, [`input`] stage 1, [`windows`] and [`window_rows`] the queries,
//! [`stored`] and [`refused`] the sink, [`ledgers`] the counters; all of them are pure. [`reading`]
//! and [`tables`] read, [`differences`] and [`names`] collect, [`sheet`] prints.

mod balance;
mod cut;
mod differences;
mod eras;
mod identity;
mod input;
mod ledgers;
mod names;
mod numbering;
mod place;
mod reading;
mod refused;
mod sheet;
mod sources;
mod stored;
mod tables;
mod valid;
mod window_rows;
mod windows;

use anyhow::{Result, bail};
use caudal_kafka::KafkaArgs;
use caudal_query::plan::{Plan, SHIPPED};
use caudal_service::exit::Usage;
use clap::Args;
pub use sheet::{Sheet, grouped};
use std::path::{Path, PathBuf};

/// Arguments of `caudal verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print the sheet as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// PostgreSQL, postgres://user:password@host:port/database [default: the native stack's]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// How long the processor remembers a transaction_id, in seconds of event time: its own
    /// --dedup-horizon-s
    #[arg(long, env = "CAUDAL_DEDUP_HORIZON_S", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(70..=604_800))]
    dedup_horizon_s: u32,
    /// The continuous queries that the processor runs
    /// [default: config/queries.sql where it exists, else the one built in]
    #[arg(long, env = "CAUDAL_QUERIES", value_name = "FILE.sql")]
    queries: Option<PathBuf>,
}

/// Prints the sheet.
///
/// # Errors
/// When it does not balance, or something cannot be read.
pub async fn run(args: &VerifyArgs) -> Result<()> {
    let kafka = args.kafka.connect("caudal-verify")?;
    let database_url = match &args.database_url {
        Some(url) => url.clone(),
        None => caudal_stack::Stack::open()?.database_url(),
    };
    let sheet =
        balance(&kafka, &database_url, args.dedup_horizon_s, args.queries.as_deref()).await?;
    if args.json {
        println!("{}", sheet.json()?);
    } else {
        print!("{}", sheet.text());
    }
    if !sheet.is_balanced() {
        bail!("not balanced: {} differences", sheet::grouped(sheet.difference_count));
    }
    Ok(())
}

/// Reads everything and makes the sheet. `horizon_s` is the processor's dedup horizon in seconds,
/// `queries` the file that it runs.
///
/// # Errors
/// When something cannot be read.
pub async fn balance(
    kafka: &caudal_kafka::Kafka,
    database_url: &str,
    horizon_s: u32,
    queries: Option<&Path>,
) -> Result<Sheet> {
    let text = caudal_service::queries::text(queries, SHIPPED)?;
    let plans = Plan::compile_file(&text.name, &text.sql).map_err(Usage)?;
    balance::Balance::take(kafka, database_url, horizon_s, plans).await
}
