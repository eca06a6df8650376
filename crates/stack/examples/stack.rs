//! `caudal stack …` alone, for trials of this crate: `cargo run --example stack -- up`.

use caudal_stack::cli::{StackCommand, run};
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Plain(StackCommand),
    /// The same with the word that `caudal` needs
    Stack {
        #[command(subcommand)]
        command: StackCommand,
    },
}

fn main() -> std::process::ExitCode {
    let result = match Arguments::parse().command {
        Command::Plain(command) | Command::Stack { command } => run(command),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stack: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
