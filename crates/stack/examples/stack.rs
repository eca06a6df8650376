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

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Plain(command) | Command::Stack { command } => run(command),
    }
}
