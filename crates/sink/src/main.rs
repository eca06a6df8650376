//! `caudal-sink`: Kafka topics → PostgreSQL tables.

use caudal_service::{exit, telemetry};
use caudal_sink::args::Args;
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::start(&args.service) {
        eprintln!("{error:#}");
        return ExitCode::from(2);
    }
    exit::report(caudal_sink::start::run(&args))
}
