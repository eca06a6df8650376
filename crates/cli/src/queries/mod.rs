//! `caudal queries`: what a file of SQL says, before it is deployed. No broker is needed.

mod test;

use anyhow::{Context as _, Result};
use caudal_query::plan::Plan;
use caudal_service::exit::Usage;
use caudal_sql::catalog::Catalog;
use caudal_sql::explain::{explain, list};
use caudal_sql::fault::{nearest, render_all};
use caudal_sql::parser::Naming;
use clap::Subcommand;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Subcommands of `caudal queries`.
#[derive(Debug, Subcommand)]
pub enum QueriesCommand {
    /// Read a file and name everything that is wrong with it, or that the engine does not run
    #[command(after_help = "Exit codes: 0 nothing is wrong, 2 something is")]
    Check {
        /// SQL statements, such as config/queries.sql
        file: PathBuf,
    },
    /// One line a query: what it reads, where it runs, its window
    List {
        /// SQL statements, such as config/queries.sql
        file: PathBuf,
    },
    /// What a query will do: stages, state, columns, topics, what a restore reads
    Explain {
        /// SQL statements, such as config/queries.sql
        file: PathBuf,
        /// One query [default: all]
        name: Option<String>,
    },
    /// Run the statements over the records of a file, with a commit after each, without a broker
    ///
    /// The files are those of ksqlDB's own test runner: {"inputs": [{"topic", "key", "value",
    /// "timestamp", "window"}]} and {"outputs": […]}. Names without quotes are upper-case, as in
    /// ksqlDB; outputs are compared topic by topic.
    #[command(
        after_help = "Exit codes: 0 the outputs are as expected, 1 they differ, 2 a file is wrong"
    )]
    Test {
        /// SQL statements
        statements: PathBuf,
        /// Records to read
        input: PathBuf,
        /// Records that are expected; without it the outputs are printed
        output: Option<PathBuf>,
        /// Read names without quotes in lower case, as config/queries.sql
        #[arg(long)]
        lower: bool,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// [`Usage`] for a file that is wrong.
pub fn run(command: &QueriesCommand) -> Result<()> {
    match command {
        QueriesCommand::Check { file } => check(file),
        QueriesCommand::List { file } => list_queries(file),
        QueriesCommand::Explain { file, name } => explain_queries(file, name.as_deref()),
        QueriesCommand::Test { statements, input, output, lower } => {
            let naming = if *lower { Naming::Lower } else { Naming::Upper };
            test::run(&compile(statements, naming)?, input, output.as_deref())
        }
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
    // What is right, and what the engine runs, are two questions.
    let text = read(file)?;
    if let Err(faults) = Plan::compile(&text) {
        let colour = std::io::stderr().is_terminal();
        eprintln!("{}", render_all(&faults, &file.display().to_string(), &text, colour));
        let what =
            format!("{}: the engine cannot run {} of its queries", file.display(), faults.len());
        return Err(Usage(what).into());
    }
    println!("{}: {} queries, nothing is wrong", file.display(), catalog.queries.len());
    Ok(())
}

fn list_queries(file: &Path) -> Result<()> {
    let catalog = compile(file, Naming::Lower)?;
    let head = ["name", "kind", "reads", "runs", "window"].map(str::to_owned).to_vec();
    let rows = list(&catalog).into_iter().map(|row| row.to_vec());
    let table: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    print!("{}", crate::sql::aligned(&table));
    Ok(())
}

fn explain_queries(file: &Path, name: Option<&str>) -> Result<()> {
    let catalog = compile(file, Naming::Lower)?;
    let Some(name) = name else {
        let all: Vec<String> = catalog.queries.iter().map(|q| explain(&catalog, q)).collect();
        print!("{}", all.join("\n"));
        return Ok(());
    };
    let query = catalog.query(name).ok_or_else(|| {
        let known = nearest(name, catalog.queries.iter().map(|query| query.name.as_str()));
        let hint = known.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
        Usage(format!("{} has no query {name}{hint}", file.display()))
    })?;
    print!("{}", explain(&catalog, query));
    Ok(())
}
