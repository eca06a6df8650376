//! Deterministic simulation of the engine: see `docs/simulation.md`.
//!
//! [`cluster`], [`log`], [`txns`] and [`group`] are a fake Kafka with a clock of its own; [`broker`]
//! and [`source`] let the engine talk to it; [`schedule`] plays what a seed says; [`oracle`]
//! compares what lies in the logs afterwards with the [`reference`].

mod broker;
mod cluster;
mod dice;
mod group;
mod input;
mod log;
mod oracle;
mod queries;
mod reference;
mod rows;
mod schedule;
mod source;
mod state_log;
mod txns;
mod world;

use caudal_core::time::MINUTE;

/// The reference table that queries join.
const TABLE: &str = "comercios";
/// How long ids are remembered.
const HORIZON: i64 = 10 * MINUTE;

fn run(seed: u64, tracing: bool) -> Result<schedule::Played, String> {
    let specs = queries::all();
    let played = schedule::play(seed, &specs, tracing)?;
    oracle::check(&played, &specs)?;
    Ok(played)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_schedule_equals_the_reference() {
    if let Some(seed) = setting("SIM_SEED") {
        if let Err(failure) = run(seed, true) {
            panic!("seed {seed}: {failure}");
        }
        return;
    }
    let seeds = setting("SIM_SEEDS").unwrap_or(300);
    let begun = std::time::Instant::now();
    for seed in 0..seeds {
        match run(seed, false) {
            Ok(played) => played.world.end(),
            Err(failure) => panic!("seed {seed}: {failure}\nreplay: make sim SEED={seed}"),
        }
    }
    println!("simulation: {seeds} schedules, {:.1} s", begun.elapsed().as_secs_f64());
}
