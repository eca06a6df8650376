//! `kill -9` of broker-2, and of the leader of `transacciones-0`, in the middle of a run.

use anyhow::{Context as _, Result, ensure};
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, wait_until};
use caudal_e2e::flight::OpenTxns;
use caudal_e2e::pipeline::Pipeline;
use std::time::Duration;

const RECORDS: &str = "240000";
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_killed_broker_loses_and_repeats_nothing() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("brokers")? else { return Ok(()) };
    let mut moments = Moments::seeded();
    let seed = "12";
    let expectation = Expectation::of(RECORDS, seed)?;
    // Supervised, as users run them: the watchdog may end a service that hangs in a call.
    pipeline.caudal(&["services", "up"])?;
    let produce =
        ["--generate", RECORDS, "--seed", seed, "--batch-records", "2000", "--rate", "3000"];
    let mut producer = pipeline.start("caudal-producer", "producer", &produce)?;

    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    wait_until("the pipeline flows", Duration::from_secs(60), || Ok(output.total()? > 5_000))?;
    kill_broker("broker-2", &pipeline, &mut moments)?;
    pipeline.stack.start("broker-2")?;

    let leader = leader_of_first_partition(&pipeline)?;
    kill_broker(&leader, &pipeline, &mut moments)?;
    pipeline.stack.start(&leader)?;

    // The producer ends by itself, unless its own calls failed during an outage: then it is
    // started again and resumes, as a user would.
    while !producer.wait(LIMIT)?.success() {
        println!(
            "the producer ended in the outage and is started again; log {}",
            producer.log.display()
        );
        producer = pipeline.start("caudal-producer", "producer", &produce)?;
    }
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    let balanced = pipeline.assert_balanced();
    pipeline.caudal(&["services", "down"])?;
    balanced
}

/// Kills a broker while records flow: both topics must have been growing just before, and a
/// transaction must be open at the moment of the kill.
fn kill_broker(name: &str, pipeline: &Pipeline, moments: &mut Moments) -> Result<()> {
    moments.wait(Duration::from_secs(3));
    let input = OpenTxns::of(&pipeline.kafka, topics::TRANSACCIONES)?;
    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    let before = (input.total()?, output.total()?);
    let mut open = None;
    wait_until("a transaction is open", Duration::from_secs(30), || {
        open = match input.find()? {
            Some(txn) => Some(txn),
            None => output.find()?,
        };
        Ok(open.is_some() && input.total()? > before.0 && output.total()? > before.1)
    })?;
    pipeline.stack.kill(name)?;
    let open = open.context("an open transaction")?;
    println!("{name} killed with {open:?}; input and output were at {before:?}");
    ensure!(pipeline.stack.pid(name).is_none(), "{name} still runs");
    // Long enough for the others to notice: their session time-out is 9 s.
    let at_kill = output.total().unwrap_or(before.1);
    wait_until("the pipeline goes on without it", Duration::from_secs(90), || {
        Ok(output.total().unwrap_or(0) > at_kill + 1_000)
    })
}

fn leader_of_first_partition(pipeline: &Pipeline) -> Result<String> {
    let leader = caudal_kafka::admin::Admin::connect(&pipeline.kafka)?
        .leader(topics::TRANSACCIONES, 0)?
        .context("transacciones-0 has no leader")?;
    Ok(format!("broker-{leader}"))
}
