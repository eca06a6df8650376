//! Writes the files of `config/sources/{bank-statement,card-dump,council-purchases,event-log}.toml`:
//! `cargo run --release -p caudal-producer --example sample_files -- FOLDER [LINES [SEED]]`

use anyhow::{Context as _, Result};
use caudal_producer::samples::ALL;
use std::path::PathBuf;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().context("which folder?")?);
    let lines = args.next().map_or(Ok(10_000), |n| n.parse()).context("how many lines?")?;
    let seed = args.next().map_or(Ok(1), |n| n.parse()).context("which seed?")?;
    for sample in ALL {
        let totals = sample.write(lines, seed, &folder.join(sample.name))?;
        println!(
            "{}: {} transactions, {} rejected, {} left out",
            folder.join(sample.name).display(),
            totals.mapped,
            totals.rejected,
            totals.skipped
        );
    }
    Ok(())
}
