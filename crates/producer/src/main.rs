//! `caudal-producer`: from files, standard input, HTTP or a generator to Kafka.

use caudal_producer::args::Cli;
use caudal_producer::run;
use caudal_service::{exit, telemetry};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::start(&cli.service) {
        // No logger yet: report would print nothing.
        eprintln!("{error:#}");
        return ExitCode::from(2);
    }
    exit::report(run::service(&cli))
}
