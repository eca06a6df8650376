//! `caudal-processor`: see `--help`.

use caudal_processor::args::Args;
use caudal_processor::run::run;
use caudal_service::{exit, telemetry};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::start(&args.service) {
        eprintln!("caudal-processor: {error:#}");
        return ExitCode::from(2);
    }
    exit::report(run(&args))
}
