//! A second processor and a second sink come and go midway, and PostgreSQL crashes.

use anyhow::{Result, ensure};
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, wait_until};
use caudal_e2e::flight::{OpenTxns, open_db_tx};
use caudal_e2e::load::PacedLoad;
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_e2e::query;
use std::time::Duration;

const RECORDS: &str = "250000";
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn second_instances_and_a_database_crash_lose_and_repeat_nothing() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("second_instances")? else { return Ok(()) };
    let mut moments = Moments::seeded();
    let seed = "13";
    let expectation = Expectation::of(RECORDS, seed)?;
    let load = PacedLoad::start(&pipeline, RECORDS, seed, "4000")?;
    let _processor = pipeline.start("caudal-processor", "processor", &[])?;
    let _sink = pipeline.start("caudal-sink", "sink", &["--batch-records", "1000"])?;
    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    wait_until("the pipeline flows", Duration::from_secs(60), || Ok(output.total()? > 5_000))?;

    let mut second = pipeline.start("caudal-processor", "processor-2", &[])?;
    let took = wait_for_log(&second, "restored", "the second processor takes tasks over")?;
    ensure!(took, "the second processor was assigned nothing");
    moments.wait(Duration::from_secs(3));
    let before = output.total()?;
    ensure!(second.terminate()?.success(), "the second processor did not stop in good order");
    println!("second processor stopped with the output at {before}");

    let mut second = pipeline.start("caudal-sink", "sink-2", &["--batch-records", "1000"])?;
    let moved = "SELECT count(*)::text FROM sink_offsets WHERE epoch > 1";
    wait_until("the second sink claims partitions", Duration::from_secs(60), || {
        Ok(query::text(&pipeline.database_url, moved)? != "0")
    })?;
    moments.wait(Duration::from_secs(3));
    ensure!(second.terminate()?.success(), "the second sink did not stop in good order");

    crash_postgres(&pipeline)?;
    load.finish(LIMIT)?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    pipeline.assert_balanced()
}

fn wait_for_log(service: &Service, text: &str, what: &str) -> Result<bool> {
    let mut found = false;
    wait_until(what, Duration::from_secs(60), || {
        found = std::fs::read_to_string(&service.log)?.contains(text);
        Ok(found)
    })?;
    Ok(found)
}

/// `pg_ctl stop -m immediate` while the sink has a transaction open, then a start.
fn crash_postgres(pipeline: &Pipeline) -> Result<()> {
    let mut open = None;
    wait_until("the sink has a transaction open", Duration::from_secs(60), || {
        open = open_db_tx(&pipeline.database_url, "-infinity")?;
        Ok(open.is_some())
    })?;
    let rows = query::text(&pipeline.database_url, "SELECT count(*)::text FROM transactions")?;
    pipeline.stack.stop_postgres_immediate()?;
    println!("PostgreSQL crashed with {rows} rows and {open:?}");
    pipeline.stack.start("postgres")
}
