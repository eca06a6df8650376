//! Queries that are dropped, added and changed, and a changed dedup horizon: what stops, what
//! starts, what is refused and with which words.

use anyhow::{Result, ensure};
use caudal_core::topics;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query::{self, GOLD_DIFFERENCES};
use caudal_e2e::{rows, topic};
use caudal_query::plan::shipped_one;
use std::time::Duration;

const RECORDS: &str = "4000";
const LIMIT: Duration = Duration::from_secs(120);

/// Each batch an hour after the one before, so that no window holds records of two.
fn produce(pipeline: &Pipeline, batch: u32) -> Result<()> {
    let base = format!("2026-01-05T{:02}:00:00Z", 8 + batch);
    let seed = batch.to_string();
    let args = ["--generate", RECORDS, "--seed", &seed, "--event-time-base", &base];
    pipeline.run("caudal-producer", &args, LIMIT)
}

fn catch_up(pipeline: &Pipeline, plans: &str, more: &[&str]) -> Result<()> {
    let args = [&["--plans", plans, "--until-caught-up"], more].concat();
    pipeline.run("caudal-processor-plans", &args, LIMIT)
}

/// That it halts (exit code 3), and says `word`.
fn assert_refused(pipeline: &Pipeline, plans: &str, more: &[&str], word: &str) -> Result<()> {
    let args = [&["--plans", plans, "--until-caught-up"], more].concat();
    let label = format!("refused-{plans}-{}", more.len());
    let mut processor = pipeline.start("caudal-processor-plans", &label, &args)?;
    let status = processor.wait(LIMIT)?;
    let log = std::fs::read_to_string(&processor.log)?;
    ensure!(status.code() == Some(3), "{status}, not a halt: {log}");
    ensure!(log.contains(word), "no word of {word}: {log}");
    Ok(())
}

#[test]
fn queries_and_rules_change_in_good_order() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("queries_change")? else { return Ok(()) };
    let alerts = || topic::count(&pipeline.kafka, topics::ALERTAS_FRAUDE);
    produce(&pipeline, 0)?;
    catch_up(&pipeline, "shipped", &[])?;
    let with_alerts = alerts()?;
    ensure!(with_alerts > 0, "the records cause no alerts: nothing can be dropped");

    produce(&pipeline, 1)?;
    catch_up(&pipeline, "gold", &[])?;
    ensure!(alerts()? == with_alerts, "a query that was dropped still emits");

    produce(&pipeline, 2)?;
    catch_up(&pipeline, "shipped", &[])?;
    ensure!(alerts()? > with_alerts, "a query that was added again emits nothing");

    produce(&pipeline, 3)?;
    assert_refused(&pipeline, "patient", &[], "--reset-query ventas_gold")?;
    catch_up(&pipeline, "patient", &["--reset-query", "ventas_gold"])?;
    let reset = rows::output(&pipeline.kafka, &shipped_one("ventas_gold"))?.versions;
    ensure!(reset.contains_key(&2), "no row of version 2: {reset:?}");

    produce(&pipeline, 4)?;
    let longer = ["--dedup-horizon-s", "7200"];
    assert_refused(&pipeline, "patient", &longer, "--adopt rules")?;
    catch_up(&pipeline, "patient", &[&longer[..], &["--adopt", "rules"]].concat())?;
    let last = rows::output(&pipeline.kafka, &shipped_one("ventas_gold"))?.versions;
    println!("rows of ventas_gold by version: {reset:?}, after another batch {last:?}");
    ensure!(last[&1] == reset[&1] && last[&2] > reset[&2], "versions: {reset:?} → {last:?}");

    pipeline.run("caudal-sink", &["--until-caught-up"], LIMIT)?;
    let rows = query::text(&pipeline.database_url, "SELECT count(*)::text FROM transactions")?;
    let differences = query::texts(&pipeline.database_url, GOLD_DIFFERENCES)?;
    ensure!(differences.is_empty(), "ventas_gold over {rows} rows differs: {differences:#?}");
    Ok(())
}
