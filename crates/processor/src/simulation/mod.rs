//! Deterministic simulation of the engine: see `docs/simulation.md`.
//!
//! [`cluster`], [`log`], [`txns`] and [`group`] are a fake Kafka with a clock of its own; [`broker`]
//! and [`source`] let the engine talk to it; [`schedule`] plays what a seed says; [`oracle`]
//! compares what lies in the logs afterwards with the [`reference`].

mod broker;
mod chain;
mod cluster;
mod dice;
mod group;
mod input;
mod log;
mod naive;
mod oracle;
mod queries;
mod quiet_task;
mod reference;
mod rows;
mod schedule;
mod source;
mod state_log;
mod txns;
mod world;

use crate::mutant::{self, Mutant};
use caudal_core::time::MINUTE;
use naive::Loss;
use std::collections::BTreeMap;
use std::time::Instant;

/// The reference table that queries join.
const TABLE: &str = "comercios";
/// How long ids are remembered.
const HORIZON: i64 = 10 * MINUTE;
/// Schedules of `make test`; `make sim` plays more.
const SHARE: u64 = 500;
/// Schedules within which each mutant must be caught.
const PATIENCE: u64 = 300;

/// What schedules were made of.
#[derive(Default)]
struct Tally {
    records: u64,
    naive: Loss,
    faults: BTreeMap<&'static str, u64>,
}

/// Plays one schedule and checks it.
fn run(seed: u64, tracing: bool, tally: &mut Tally) -> Result<(), String> {
    let mut specs = queries::all();
    specs.extend(queries::drawn(seed));
    let played = schedule::play(seed, &specs, tracing)?;
    let verdict = oracle::check(&played, &specs).and_then(|_| played.restart());
    tally.records += played.inputs.len() as u64;
    let gold = specs.iter().find(|spec| spec.name == "ventas_gold").expect("shipped");
    let loss = naive::loss(&played, gold);
    (tally.naive.lost, tally.naive.all) =
        (tally.naive.lost + loss.lost, tally.naive.all + loss.all);
    for (fault, count) in &played.world.cluster().observed.faults {
        *tally.faults.entry(fault).or_default() += count;
    }
    verdict
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// `SIM_SEED=n` replays one schedule and says what happens; `SIM_SEEDS=n` plays so many, from
/// `SIM_FROM` on.
#[test]
fn every_schedule_equals_the_reference() {
    let mut tally = Tally::default();
    if let Some(seed) = setting("SIM_SEED") {
        if let Err(failure) = run(seed, true, &mut tally) {
            panic!("seed {seed}: {failure}");
        }
        println!("seed {seed}: equal to the reference");
        return;
    }
    let (from, seeds) = (setting("SIM_FROM").unwrap_or(0), setting("SIM_SEEDS").unwrap_or(SHARE));
    let begun = Instant::now();
    let mut failures = Vec::new();
    for seed in from..from + seeds {
        if let Err(failure) = run(seed, false, &mut tally) {
            println!("seed {seed}: {failure}\n  replay: make sim SEED={seed}");
            failures.push(seed);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "simulation: {seeds} schedules, {} input records, {} differ from the reference, \
         {seconds:.1} s ({:.0} a second)",
        tally.records,
        failures.len(),
        f64::from(u32::try_from(seeds).expect("few")) / seconds
    );
    println!("simulation: faults {:?}", tally.faults);
    println!(
        "simulation: one stream time for all partials would have lost {} of {} records of \
         ventas_gold",
        tally.naive.lost, tally.naive.all
    );
    assert!(failures.is_empty(), "these seeds differ from the reference: {failures:?}");
    assert!(tally.naive.lost > 0, "partitions never lay apart");
}

#[test]
fn a_seed_replays_exactly() {
    let specs = queries::all();
    let ends = |seed| {
        let played = schedule::play(seed, &specs, false).expect("equal to the reference");
        let cluster = played.world.cluster();
        (cluster.now, cluster.ends())
    };
    for seed in 0..20 {
        assert_eq!(ends(seed), ends(seed), "seed {seed}");
    }
}

/// A simulation that finds nothing proves nothing unless it finds what is known to be wrong.
fn schedules_until_caught(mutant: Mutant) -> Option<(u64, String)> {
    mutant::with(Some(mutant), || {
        (0..PATIENCE).find_map(|seed| {
            let verdict = run(seed, false, &mut Tally::default());
            verdict.err().map(|failure| (seed + 1, failure))
        })
    })
}

#[test]
fn every_mutant_is_caught() {
    let mutants = [
        Mutant::NoRewindAfterAbort,
        Mutant::OverlayKeptAcrossAbort,
        Mutant::BlockLeftOutOfTxn,
        Mutant::TargetFromLastStableOffset,
        Mutant::OffsetsOfOneTaskLeftOut,
        Mutant::WatermarkIgnoresAbsentPartition,
        Mutant::IdleByClock,
        Mutant::SweepOneBlockShort,
        Mutant::SourceNumbersForgotten,
        Mutant::OthersAreNeverLate,
        Mutant::OthersCloseByTheInput,
    ];
    let mut survivors = Vec::new();
    for mutant in mutants {
        match schedules_until_caught(mutant) {
            Some((schedules, how)) => {
                let how = how.lines().next().unwrap_or_default();
                println!("mutant {mutant:?}: caught by schedule {schedules}: {how}");
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught within {PATIENCE} schedules: {survivors:?}");
}
