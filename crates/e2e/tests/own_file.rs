//! From somebody else's file to rows: the README's statement by a drafted mapping, the sample files
//! by theirs, each with its exact totals, and no card number anywhere.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query;
use caudal_producer::samples::{ALL, Totals};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn files_of_other_shapes_become_rows_to_the_penny_and_without_their_cards() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("own_file")? else { return Ok(()) };
    send_the_readmes_statement(&pipeline)?;
    let all = send_the_samples(&pipeline)?;
    pipeline.catch_up()?;
    check_the_statement(&pipeline)?;
    check_the_samples(&pipeline, &all)?;
    pipeline.assert_balanced()
}

/// By a drafted mapping, twice.
fn send_the_readmes_statement(pipeline: &Pipeline) -> Result<()> {
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    let text = readme.split("cat > extracto.csv <<'CSV'\n").nth(1).context("the README's file")?;
    let text = text.split("CSV\n").next().unwrap_or_default();
    let file = pipeline.logs.join("extracto.csv");
    std::fs::write(&file, text)?;
    let (mapping, file) = (pipeline.logs.join("extracto.toml"), file.display().to_string());
    std::fs::write(&mapping, pipeline.caudal(&["source", "infer", &file])?)?;
    let mapping = mapping.display().to_string();
    let check = pipeline.caudal(&["source", "check", &mapping, &file, "--json"])?;
    let check: serde_json::Value = serde_json::from_str(&check)?;
    let counts = (&check[0]["mapped"], &check[0]["rejected"]);
    ensure!(*counts.0 == 3 && *counts.1 == 1, "{check:#}");
    let shown = pipeline.caudal(&["source", "check", &mapping, &file])?;
    ensure!(shown.contains("extracto.csv:5") && shown.contains("1234.56"), "{shown}");
    let code = |with: &str| -> Result<Option<i32>> {
        let with = repository().join("config/sources").join(with);
        let mut command = pipeline.command("caudal")?;
        Ok(command.args(["source", "check"]).arg(with).arg(&file).output()?.status.code())
    };
    ensure!(
        code("ndjson.toml")? == Some(1),
        "nothing can be mapped, and check says that all is well"
    );
    ensure!(
        code("transactions.toml")? == Some(2),
        "columns are absent, and check says another thing"
    );
    let arguments = ["--mapping", &mapping, "--input", &file];
    pipeline.run("caudal-producer", &[&arguments[..], &["--dry-run"]].concat(), LIMIT)?;
    for _ in 0..2 {
        pipeline.run("caudal-producer", &arguments, LIMIT)?;
    }
    Ok(())
}

fn check_the_statement(pipeline: &Pipeline) -> Result<()> {
    let rows = query::texts(
        &pipeline.database_url,
        "SELECT format('%s %s %s %s', merchant_id, amount, currency, kind) FROM transactions \
         WHERE source = 'extracto/extracto.csv' ORDER BY event_time",
    )?;
    let expected = [
        "Café Ñandú 1234.56 EUR PURCHASE",
        "Nómina -2000.00 EUR REFUND",
        "Librería 8.10 EUR PURCHASE",
    ];
    ensure!(rows == expected, "{rows:#?}");
    let dead = query::texts(
        &pipeline.database_url,
        "SELECT reason || ' ' || convert_from(payload, 'UTF8') FROM dead_letters \
         WHERE headers->>'caudal.line' LIKE 'extracto.csv:%'",
    )?;
    ensure!(dead == ["amount 08/01/26;Farmacia;CARGO;12,5O €;R-4"], "{dead:#?}");
    Ok(())
}

type Samples = Vec<(&'static str, Totals)>;

/// By their mappings in config/sources/.
fn send_the_samples(pipeline: &Pipeline) -> Result<Samples> {
    let mut all = Samples::new();
    for sample in ALL {
        let folder = pipeline.logs.join(sample.name);
        all.push((sample.name, sample.write(3_000, 9, &folder)?));
        let mapping = repository().join(format!("config/sources/{}.toml", sample.name));
        let (mapping, folder) = (mapping.display().to_string(), folder.display().to_string());
        pipeline.run("caudal-producer", &["--mapping", &mapping, "--input", &folder], LIMIT)?;
        // Its input has the cards, and is no log.
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(all)
}

fn check_the_samples(pipeline: &Pipeline, all: &Samples) -> Result<()> {
    let url = &pipeline.database_url;
    for (name, totals) in all {
        let of = format!("FROM transactions WHERE source LIKE '{name}/%'");
        let rows = query::text(url, &format!("SELECT count(*)::text {of}"))?;
        ensure!(rows == totals.ids.to_string(), "{name}: {rows} rows, {} ids", totals.ids);
        // What is in two statements that overlap counts once: there its sum is another.
        if totals.ids == totals.mapped {
            for (currency, sum) in &totals.sums {
                let sql = format!(
                    "SELECT (sum(amount) * 10000)::bigint::text {of} AND currency = '{currency}'"
                );
                let found = query::text(url, &sql)?;
                ensure!(found == sum.to_string(), "{name}: {found} {currency}, expected {sum}");
            }
        }
    }
    let of =
        "FROM dead_letters WHERE coalesce(headers->>'caudal.line', '') NOT LIKE 'extracto.csv:%'";
    let dead = query::text(url, &format!("SELECT count(*)::text {of}"))?;
    let rejected: u64 = all.iter().map(|(_, totals)| totals.rejected).sum();
    ensure!(dead == rejected.to_string(), "{dead} dead letters, expected {rejected}");
    let cards: Vec<String> = all.iter().flat_map(|(_, totals)| totals.cards.clone()).collect();
    no_card_in_tables(url, &cards)?;
    let keyed = query::text(
        url,
        "SELECT count(*)::text FROM dead_letters WHERE headers ? 'caudal.keyed_sha256'",
    )?;
    ensure!(keyed != "0", "no dead letter keeps a keyed hash");
    no_card_below(&pipeline.logs, &cards)
}

fn no_card_in_tables(url: &str, cards: &[String]) -> Result<()> {
    let pattern = cards.join("|");
    for table in ["transactions", "ventas_gold", "fraud_alerts"] {
        let sql =
            format!("SELECT count(*)::text FROM {table} AS row WHERE row::text ~ '{pattern}'");
        ensure!(query::text(url, &sql)? == "0", "{table} shows a card number");
    }
    let sql = format!(
        "SELECT count(*)::text FROM dead_letters WHERE encode(payload, 'escape') ~ '{pattern}' \
         OR error ~ '{pattern}' OR headers::text ~ '{pattern}' OR encode(key, 'escape') ~ '{pattern}'"
    );
    ensure!(query::text(url, &sql)? == "0", "dead_letters shows a card number");
    Ok(())
}

fn no_card_below(folder: &Path, cards: &[String]) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let text = String::from_utf8_lossy(&std::fs::read(entry?.path())?).into_owned();
        ensure!(
            !cards.iter().any(|card| text.contains(card.as_str())),
            "a log shows a card number"
        );
    }
    Ok(())
}
