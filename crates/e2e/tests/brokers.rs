//! `kill -9` of the broker that coordinates the transactions of an engine thread, and of the leader
//! of `transacciones-0`, in the middle of a run with two engine threads.

use anyhow::{Context as _, Result, ensure};
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, wait_until};
use caudal_e2e::flight::OpenTxns;
use caudal_e2e::load::PacedLoad;
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::Offsets;
use std::time::Duration;

const RECORDS: &str = "400000";
const LIMIT: Duration = Duration::from_secs(300);
const INSTANCE: &str = "brokers-test";

#[test]
fn a_killed_broker_loses_and_repeats_nothing() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("brokers")? else { return Ok(()) };
    let mut moments = Moments::seeded();
    let seed = "12";
    let expectation = Expectation::of(RECORDS, seed)?;
    // Supervised, as users run them: the watchdog may end a service that hangs in a call.
    let mut up = pipeline.command("caudal")?;
    up.args(["services", "up"]).env("CAUDAL_THREADS", "2").env("CAUDAL_INSTANCE", INSTANCE);
    ensure!(up.status()?.success(), "caudal services up failed");
    let mut load = PacedLoad::start(&pipeline, RECORDS, seed, "3000")?;

    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    wait_until("the pipeline flows", Duration::from_secs(60), || Ok(output.total()? > 5_000))?;
    let coordinator = coordinator_of(&format!("caudal-processor-{INSTANCE}-1"), &pipeline)?;
    kill_broker(&coordinator, &pipeline, &mut moments)?;
    pipeline.stack.start(&coordinator)?;
    load.revive()?;

    let leader = leader_of_first_partition(&pipeline)?;
    kill_broker(&leader, &pipeline, &mut moments)?;
    pipeline.stack.start(&leader)?;

    load.revive()?;
    load.finish(LIMIT)?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    let balanced = pipeline.assert_balanced();
    pipeline.caudal(&["services", "down"])?;
    balanced
}

/// Kills a broker while records flow: both topics must have been growing just before, and a
/// transaction of the processor must be open at the moment of the kill.
fn kill_broker(name: &str, pipeline: &Pipeline, moments: &mut Moments) -> Result<()> {
    moments.wait(Duration::from_secs(3));
    let input = OpenTxns::of(&pipeline.kafka, topics::TRANSACCIONES)?;
    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    let before = (input.total()?, output.total()?);
    let mut open = None;
    wait_until("a transaction of the processor is open", Duration::from_secs(30), || {
        open = output.find()?;
        Ok(open.is_some() && input.total()? > before.0 && output.total()? > before.1)
    })?;
    pipeline.stack.kill(name)?;
    let open = open.context("an open transaction")?;
    println!("{name} killed with {open:?}; input and output were at {before:?}");
    ensure!(pipeline.stack.pid(name).is_none(), "{name} still runs");
    // Long enough for the others to notice: their session time-out is 9 s.
    let at_kill = output.total()?;
    wait_until("the pipeline goes on without it", Duration::from_secs(90), || {
        Ok(output.total()? > at_kill + 1_000)
    })
}

fn leader_of_first_partition(pipeline: &Pipeline) -> Result<String> {
    let leader = caudal_kafka::admin::Admin::connect(&pipeline.kafka)?
        .leader(topics::TRANSACCIONES, 0)?
        .context("transacciones-0 has no leader")?;
    Ok(format!("broker-{leader}"))
}

/// The broker that coordinates the transactions of a `transactional.id`: the leader of its
/// partition of `__transaction_state`, chosen by Java's hash of the id.
fn coordinator_of(transactional_id: &str, pipeline: &Pipeline) -> Result<String> {
    let topic = "__transaction_state";
    let offsets = Offsets::connect(&pipeline.kafka, Isolation::ReadCommitted, "caudal-e2e")?;
    let partitions = offsets.partitions(topic)?;
    let hash = transactional_id
        .encode_utf16()
        .fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let partition = hash.checked_abs().unwrap_or(0) % partitions;
    let leader = caudal_kafka::admin::Admin::connect(&pipeline.kafka)?.leader(topic, partition)?;
    let leader = leader.with_context(|| format!("{topic}-{partition} has no leader"))?;
    println!("broker-{leader} coordinates {transactional_id}");
    Ok(format!("broker-{leader}"))
}
