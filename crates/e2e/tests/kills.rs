//! `kill -9` of each service, three times each, at random moments with work in flight.

use anyhow::{Result, ensure};
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, Work, kill_in_flight};
use caudal_e2e::flight::{OpenTxns, database_time};
use caudal_e2e::pipeline::Pipeline;
use std::time::Duration;

const RECORDS: &str = "200000";
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn killed_services_lose_and_repeat_nothing() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("kills")? else { return Ok(()) };
    let mut moments = Moments::seeded();
    let seed = "11";
    let expectation = Expectation::of(RECORDS, seed)?;

    // Small transactions, so that many moments are inside one; a pace, so that none is the last.
    let produce =
        ["--generate", RECORDS, "--seed", seed, "--batch-records", "2000", "--rate", "6000"];
    let into_input = OpenTxns::of(&pipeline.kafka, topics::TRANSACCIONES)?;
    for kill in 1..=3 {
        let before = into_input.total()?;
        let work = Work::Txn(&into_input, into_input.ends()?);
        let mut producer = pipeline.start("caudal-producer", "producer", &produce)?;
        kill_in_flight(&mut producer, &work, &mut moments)?;
        println!(
            "producer kill {kill}: input grew from {before} to {} before it",
            into_input.total()?
        );
    }
    let mut producer = pipeline.start("caudal-producer", "producer", &produce)?;

    let process = ["--batch-records", "3000"];
    let into_output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    for kill in 1..=3 {
        let before = into_output.total()?;
        let work = Work::Txn(&into_output, into_output.ends()?);
        let mut processor = pipeline.start("caudal-processor", "processor", &process)?;
        kill_in_flight(&mut processor, &work, &mut moments)?;
        println!(
            "processor kill {kill}: output grew from {before} to {} before it",
            into_output.total()?
        );
    }
    let _processor = pipeline.start("caudal-processor", "processor", &process)?;

    for kill in 1..=3 {
        let since = database_time(&pipeline.database_url)?;
        let mut sink = pipeline.start("caudal-sink", "sink", &["--batch-records", "1000"])?;
        kill_in_flight(&mut sink, &Work::DbTx(&pipeline.database_url, since), &mut moments)?;
        println!("sink kill {kill}");
    }
    let _sink = pipeline.start("caudal-sink", "sink", &["--batch-records", "1000"])?;

    ensure!(producer.wait(LIMIT)?.success(), "the producer failed; log {}", producer.log.display());
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    pipeline.assert_balanced()
}
