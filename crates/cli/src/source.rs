//! `caudal source`: mapping files before they are used. No broker is needed.

use anyhow::{Result, anyhow};
use caudal_producer::cards::CardNumbers;
use caudal_producer::infer;
use caudal_producer::mapping::Mapping;
use caudal_producer::source::inputs;
use caudal_producer::trial::{self, Bounds, FileTrial, Sample, visible};
use caudal_sink::columns::{SUPPLIED, TRANSACTION_COLUMNS};
use clap::Subcommand;
use std::path::PathBuf;

/// Characters of a cell of the table.
const CELL: usize = 28;

/// Subcommands of `caudal source`.
#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// Map the first lines of files, show them as a table, and explain every rejected line
    #[command(
        after_help = "Exit codes: 0 something was mapped, 1 nothing was, 2 the mapping or a \
                            file is wrong"
    )]
    Check {
        /// How columns become a Transaction (config/sources/*.toml)
        mapping: PathBuf,
        /// Files, folders, quoted globs, or - for standard input
        #[arg(required = true, value_name = "PATH")]
        input: Vec<String>,
        /// Lines of each file to try
        #[arg(long, default_value_t = 1_000, value_name = "N")]
        lines: u64,
        /// Transactions of each file to show
        #[arg(long, default_value_t = 10, value_name = "N")]
        show: usize,
        /// What the producer is told of card numbers: its own --card-numbers
        #[arg(long, env = "CAUDAL_CARD_NUMBERS", value_enum, default_value = "tokenise")]
        card_numbers: CardNumbers,
        /// JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Draft a mapping from a sample of a file; comments say where it guessed
    Infer {
        /// CSV or NDJSON, gzip or not
        file: PathBuf,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// `Usage` for a mapping or a file that is wrong; otherwise when nothing can be mapped.
pub fn run(command: &SourceCommand) -> Result<()> {
    match command {
        SourceCommand::Infer { file } => {
            print!("{}", infer::draft(file)?);
            Ok(())
        }
        SourceCommand::Check { mapping, input, lines, show, card_numbers, json } => {
            let mapping = Mapping::read(mapping)?;
            let inputs = inputs::expand(input, mapping.format)?;
            let bounds = Bounds { lines: *lines, samples: *show, examples: usize::MAX };
            let trials = trial::run_with(&mapping, &inputs, bounds, *card_numbers)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&trials)?);
            } else {
                trials.iter().for_each(print_trial);
            }
            if trials.iter().all(|trial| trial.mapped == 0) {
                return Err(anyhow!("nothing could be mapped"));
            }
            Ok(())
        }
    }
}

fn print_trial(trial: &FileTrial) {
    print!("{}", trial.text());
    if trial.samples.is_empty() {
        return;
    }
    let head = std::iter::once("line").chain(TRANSACTION_COLUMNS).take(1 + SUPPLIED);
    let mut table = vec![head.map(str::to_owned).collect()];
    table.extend(trial.samples.iter().map(cells));
    print!("{}", crate::sql::aligned(&table));
}

fn cells(sample: &Sample) -> Vec<String> {
    let attributes: Vec<String> =
        sample.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let short = |text: &str| {
        let plain = visible(text);
        match plain.char_indices().nth(CELL) {
            Some((end, _)) => format!("{}…", &plain[..end]),
            None => plain,
        }
    };
    let texts = [
        &sample.transaction_id,
        &sample.account_id,
        &sample.merchant_id,
        &sample.amount,
        &sample.currency,
        &sample.kind.to_owned(),
        &sample.country,
        &sample.event_time,
        &sample.description,
        &attributes.join(" "),
    ]
    .map(|text| short(text));
    std::iter::once(sample.line.to_string()).chain(texts).collect()
}
