//! `caudal`: the stack, topics, and what people ask of the pipeline. One file a subcommand.

mod topics;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// An exactly-once transaction pipeline on Apache Kafka and PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "caudal", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Topics as code: compare config/topics.toml with the cluster, and apply it
    #[command(subcommand)]
    Topics(topics::TopicsCommand),
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Topics(command) => topics::run(command),
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caudal: {error:#}");
            ExitCode::FAILURE
        }
    }
}
