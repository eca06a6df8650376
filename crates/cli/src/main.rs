//! `caudal`: the stack, topics, and what people ask of the pipeline. One file a subcommand.

mod demo;
mod deployment;
mod dlq;
mod drained;
mod queries;
mod retention;
mod scrape;
mod services;
mod source;
mod sql;
mod topics;
mod verify;
mod whereabouts;

use caudal_stack::Stack;
use caudal_stack::cli::StackCommand;
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
    /// Three Kafka brokers and PostgreSQL on this machine, without containers
    #[command(subcommand)]
    Stack(StackCommand),
    /// Topics as code: compare config/topics.toml with the cluster, and apply it
    #[command(subcommand)]
    Topics(topics::TopicsCommand),
    /// The processor and the sink as background processes
    #[command(subcommand)]
    Services(services::ServicesCommand),
    /// Everything, from nothing to a balanced ledger
    Demo(demo::DemoArgs),
    /// Empty the native stack: its topics, tables and progress. Everything in them is lost
    Reset {
        /// Do it
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Wait until the processor has committed and the sink stored all that is in Kafka
    Drained {
        /// Give up when nothing has moved for so many seconds
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        patience: u64,
    },
    /// Continuous queries: check, list, explain and test a file of SQL
    #[command(subcommand)]
    Queries(queries::QueriesCommand),
    /// Mapping files: try one on a file, or draft one from a sample
    #[command(subcommand)]
    Source(source::SourceCommand),
    /// Dead letters: list, show, and try them again
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Delete old rows from the tables, with an account of them, so that the books still balance
    #[command(subcommand)]
    Retention(retention::RetentionCommand),
    /// Run SQL in PostgreSQL and print the rows as a table
    Sql(sql::SqlArgs),
    /// Every place that a transaction has been: file and line, topics, table or dead letter
    Where(whereabouts::WhereArgs),
    /// The balance sheet: money and counts of every hop, read from topics and tables
    Verify(verify::VerifyArgs),
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        // It blocks on a runtime of its own (the Kafka admin client's).
        Command::Stack(command) => tokio::task::block_in_place(|| stack(command)),
        Command::Topics(command) => topics::run(&command).await,
        Command::Services(command) => services::run(&command),
        Command::Demo(args) => demo::run(&args).await,
        Command::Reset { .. } => demo::reset_stack().await,
        Command::Drained { patience } => drained::run(patience).await,
        Command::Queries(command) => queries::run(&command),
        Command::Source(command) => source::run(&command),
        Command::Dlq(command) => dlq::run(&command).await,
        Command::Retention(command) => retention::run(&command).await,
        Command::Sql(args) => sql::run(&args).await,
        Command::Where(args) => whereabouts::run(&args).await,
        Command::Verify(args) => verify::run(&args).await,
    }
}

/// `stack up` ends with the topics.
fn stack(command: StackCommand) -> anyhow::Result<()> {
    let is_up = matches!(command, StackCommand::Up);
    caudal_stack::cli::run(command)?;
    if is_up {
        let stack = Stack::open()?;
        let made = topics::apply_shipped(&caudal_kafka::Kafka::plain(&stack.bootstrap_servers()))?;
        eprintln!("stack: topics as in config/topics.toml ({} changes)", made.changes);
        made.note.iter().for_each(|note| eprintln!("stack: {note}"));
    }
    Ok(())
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(command)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caudal: {error:#}");
            // As the services: 2 for what the user wrote, 1 for the rest.
            let usage = error.chain().any(|e| e.is::<caudal_service::exit::Usage>());
            if usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
