//! `caudal-processor` with another set of queries.

use anyhow::anyhow;
use caudal_processor::args::Args;
use caudal_processor::run::run_plans;
use caudal_service::{exit, telemetry};
use clap::Parser;
use std::process::ExitCode;

/// The processor with one of the sets of queries of the tests.
#[derive(Debug, Parser)]
struct Cli {
    /// Name of the set
    #[arg(long)]
    plans: String,
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    let Cli { plans, args } = Cli::parse();
    if let Err(error) = telemetry::start(&args.service) {
        eprintln!("caudal-processor-plans: {error:#}");
        return ExitCode::from(2);
    }
    let unknown = || anyhow!("no set of queries is named {plans}");
    let found = caudal_e2e::plans::named(&plans).ok_or_else(unknown);
    exit::report(found.and_then(|plans| run_plans(&args, plans)))
}
