//! `caudal verify`: the balance sheet.
//!
//! Topics and tables are read independently of the counters that the services keep; these are then
//! compared with what was found. The order of reading makes it work while the pipeline runs
//! ([`cut`]): first a snapshot of PostgreSQL, then the processor's positions, then the topics to
//! their proven ends. What lies beyond those positions is in flight, and not judged.
//!
//! Where the topics have grown, [`eras`] tells the times before and after apart. [`sources`] judges the
//! producer, [`input`] stage 1, [`windows`] and [`window_rows`] the queries,
//! [`stored`] and [`refused`] the sink, [`retired`] what was deleted on purpose, [`ledgers`] the
//! counters; all of them are pure. [`others`] judges topics that are not the pipeline's own. [`reading`]
//! and [`tables`] read, [`differences`] and [`names`] collect, [`sheet`] prints.

mod balance;
mod cut;
mod differences;
mod eras;
mod found;
pub mod identity;
mod input;
mod ledgers;
mod names;
mod numbering;
mod others;
mod place;
mod reading;
mod recomputed;
mod refused;
mod retired;
mod sheet;
mod sources;
mod stored;
mod tables;
mod valid;
mod window_rows;
mod windows;

use crate::deployment::Deployment;
use anyhow::{Result, bail};
pub use balance::Balance;
use caudal_sink::config::Config;
use clap::Args;
pub use sheet::grouped;
use std::path::PathBuf;
pub use tables::table_of;

/// Arguments of `caudal verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print the sheet as JSON
    #[arg(long)]
    json: bool,
    /// The sink's own --config: the tables of topics that are not the pipeline's are compared too
    #[arg(long, env = "CAUDAL_SINK_CONFIG", value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    deployment: Deployment,
}

/// Prints the sheet.
///
/// # Errors
/// When it does not balance, or something cannot be read.
pub async fn run(args: &VerifyArgs) -> Result<()> {
    let deployment = &args.deployment;
    let kafka = deployment.kafka("caudal-verify")?;
    let (url, horizon) = (deployment.database_url()?, deployment.horizon());
    let routes = Config::read(args.config.as_deref())?.routes;
    let sheet = Balance::take(&kafka, &url, horizon, deployment.plans()?, routes).await?;
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
