//! Online Retail, every line accounted for; where the data is absent, a look-alike of it.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query::{self, GOLD_DIFFERENCES};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Sends a file through the whole pipeline, and checks rows, sum and aggregates.
fn run(pipeline: &Pipeline, file: &Path, lines: u64, sum: &str) -> Result<()> {
    let mapping = repository().join("config/sources/online-retail.toml");
    let (mapping, file) = (mapping.to_string_lossy(), file.to_string_lossy());
    let limit = Duration::from_secs(300);
    pipeline.run("caudal-producer", &["--mapping", &mapping, "--input", &file], limit)?;
    // Once more: a file that is done sends nothing.
    pipeline.run("caudal-producer", &["--mapping", &mapping, "--input", &file], limit)?;
    pipeline.catch_up()?;
    let url = &pipeline.database_url;
    let accounted = query::text(
        url,
        "SELECT format('%s %s', (SELECT count(*) FROM transactions), (SELECT count(*) FROM dead_letters))",
    )?;
    let (rows, dead) = accounted.split_once(' ').context("two counts")?;
    ensure!(rows.parse::<u64>()? + dead.parse::<u64>()? == lines, "{accounted} of {lines} lines");
    ensure!(dead == "0", "{dead} dead letters");
    let stored = query::text(url, "SELECT trim_scale(sum(amount))::text FROM transactions")?;
    ensure!(stored == sum, "sum {stored}, expected {sum}");
    let twice = query::text(
        url,
        "SELECT (count(*) - count(DISTINCT transaction_id))::text FROM transactions",
    )?;
    ensure!(twice == "0", "{twice} ids twice");
    let differences = query::texts(url, GOLD_DIFFERENCES)?;
    ensure!(differences.is_empty(), "ventas_gold differs from its recomputation: {differences:#?}");
    pipeline.assert_balanced()
}

#[test]
fn online_retail_to_the_penny() -> Result<()> {
    let file = repository().join("../shared/data/online-retail/online_retail.csv.gz");
    if !file.exists() {
        println!("skipped: needs ../shared/data/online-retail");
        return Ok(());
    }
    let Some(pipeline) = Pipeline::empty("retail")? else { return Ok(()) };
    run(&pipeline, &file, 541_909, "9747747.934")
}

#[test]
fn a_look_alike_to_the_penny() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("lookalike")? else { return Ok(()) };
    let file = pipeline.logs.join("lookalike.csv");
    let totals = caudal_producer::lookalike::write_csv(20_000, 5, std::fs::File::create(&file)?)?;
    let thousandths = caudal_core::money::decimal_text(totals.sum_thousandths, 3);
    let sum = thousandths.trim_end_matches('0').trim_end_matches('.');
    run(&pipeline, &file, totals.lines, sum)
}
