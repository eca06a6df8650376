//! `caudal queries`: what a file of SQL says, before it is deployed. No broker is needed.

use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use caudal_sql::catalog::Catalog;
use caudal_sql::fault::render_all;
use caudal_sql::parser::Naming;
use clap::Subcommand;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Subcommands of `caudal queries`.
#[derive(Debug, Subcommand)]
pub enum QueriesCommand {
    /// Read a file and name everything that is wrong with it
    #[command(after_help = "Exit codes: 0 nothing is wrong, 2 something is")]
    Check {
        /// SQL statements, such as config/queries.sql
        file: PathBuf,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// [`Usage`] for a file that is wrong.
pub fn run(command: &QueriesCommand) -> Result<()> {
    match command {
        QueriesCommand::Check { file } => check(file),
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Compiles a file; its faults go to standard error, coloured where that is a terminal.
fn compile(file: &Path, naming: Naming) -> Result<Catalog> {
    let text = read(file)?;
    Catalog::compile(&text, naming).map_err(|faults| {
        let colour = std::io::stderr().is_terminal();
        eprintln!("{}", render_all(&faults, &file.display().to_string(), &text, colour));
        let count = faults.len();
        let plural = if count == 1 { "" } else { "s" };
        Usage(format!("{} has {count} error{plural}", file.display())).into()
    })
}

fn check(file: &Path) -> Result<()> {
    let catalog = compile(file, Naming::Lower)?;
    println!("{}: {} queries, nothing is wrong", file.display(), catalog.queries.len());
    Ok(())
}
