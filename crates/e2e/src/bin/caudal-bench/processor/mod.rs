//! `caudal-bench processor`: what the processor costs, against a loop that does nothing.
//!
//! Parts: `drain` (the preloaded load through the shipped plans and through the bare loop),
//! `restart`, `rate`, `latency`. `ONLY` leaves of the drains those whose name contains it. Medians
//! of `RUNS` interleaved runs after one that only warms the brokers' JVMs up; a run that did not
//! catch up, or whose counts differ from the generator's, is reported and counts in no median.

mod bare;
mod drain;
mod gold;
mod load;
mod paced;
mod queries;
mod rate;
mod restart;

use crate::bars::{self, Bar};
use crate::results::{self, number};
use crate::samples::Samples;
use anyhow::{Context as _, Result, bail};
use caudal_e2e::pipeline::Pipeline;
use caudal_producer::generate::Expected;
use drain::Config;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

const SEED: u64 = 4;
const EXACTLY_ONCE: &str = "exactly_once_v2";
const AT_LEAST_ONCE: &str = "at_least_once";

const fn config(
    name: &'static str,
    interval_ms: u32,
    guarantee: &'static str,
    threads: u32,
    batch: u32,
) -> Config {
    Config { name, interval_ms, guarantee, threads, batch }
}

/// The shipped defaults.
const USUAL: Config = config("eos 100 ms", 100, EXACTLY_ONCE, 1, 20_000);
/// In the order of a round: what is compared stands side by side.
const CONFIGS: [Config; 8] = [
    USUAL,
    config("alo 100 ms", 100, AT_LEAST_ONCE, 1, 20_000),
    config("eos 20 ms", 20, EXACTLY_ONCE, 1, 20_000),
    config("alo 20 ms", 20, AT_LEAST_ONCE, 1, 20_000),
    config("eos 50 ms", 50, EXACTLY_ONCE, 1, 20_000),
    config("eos 500 ms", 500, EXACTLY_ONCE, 1, 20_000),
    config("eos 100 ms, 2 threads", 100, EXACTLY_ONCE, 2, 20_000),
    config("eos 1 s, 50,000 a commit", 1_000, EXACTLY_ONCE, 1, 50_000),
];
const BARE: &str = "bare loop 100 ms";
/// What the medians are of.
const FIGURES: [&str; 13] = [
    "records_per_second",
    "cpu_us_per_record",
    "broker_cpu_us_per_record",
    "peak_rss_mib",
    "commits",
    "records_per_commit",
    "broker_cpu_ms_per_commit",
    "partitions_per_commit",
    "parciales_lag_mean",
    "parciales_lag_max",
    "written_per_record",
    "seconds",
    "records",
];

/// The bare loop, which is a process of its own.
///
/// # Errors
/// When an argument is no number, or the loop fails.
pub fn bare_loop(args: &[String]) -> Result<()> {
    let [records, interval_ms] = args else { bail!("bare-loop RECORDS INTERVAL_MS") };
    bare::run(records.parse()?, Duration::from_millis(interval_ms.parse()?))
}

/// Runs the parts named, or all.
///
/// # Errors
/// When a part fails.
pub fn run(parts: &[String]) -> Result<()> {
    const KNOWN: [&str; 5] = ["drain", "queries", "restart", "rate", "latency"];
    if let Some(part) = parts.iter().find(|part| !KNOWN.contains(&part.as_str())) {
        bail!("unknown part {part}; known are {}", KNOWN.join(", "));
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let (records, runs) = (number("RECORDS", 2_000_000)?, u32::try_from(number("RUNS", 5)?)?);
    let begun = Instant::now();
    let empty = || Pipeline::empty("bench")?.context("no stack; run `make bench-processor`");
    let (mut result, mut all) = (json!({ "records": records, "runs": runs }), Vec::new());
    let mut drain_rate = f64::NAN;
    if wanted("drain") || wanted("queries") || wanted("restart") {
        let mut pipeline = empty()?;
        let expected = load::preload(&pipeline, records, SEED)?;
        if wanted("drain") {
            let samples = drains(&pipeline, &expected, runs)?;
            drain_rate = samples.median(USUAL.name, "records_per_second");
            all.extend(drain_bars(&samples));
            result["drain"] = samples.described(&FIGURES);
        }
        if wanted("queries") {
            result["queries"] = queries::run(&mut pipeline, &USUAL, &expected, runs)?;
        }
        if wanted("restart") {
            let found = restart::run(&pipeline, &expected, &USUAL, runs)?;
            // Of a smaller state the bar says nothing.
            let is_large = found["live_keys"].as_f64().is_some_and(|keys| keys >= 1e6);
            let cpu = found["cpu_seconds"]["p50"].as_f64().filter(|_| is_large);
            let cpu = cpu.unwrap_or(f64::NAN);
            all.push(Bar::at_most("restart to caught up with 1 M live keys, CPU s", cpu, 5.0));
            result["restart"] = found;
        }
    }
    if wanted("rate") {
        let found = rate::run(&empty()?, SEED)?;
        let of = |path: &str| found.pointer(path).and_then(Json::as_f64).unwrap_or(f64::NAN);
        all.push(Bar::at_most("whole stack at 2,000/s, cores", of("/cores_in_all"), 1.0));
        all.push(Bar::at_most(
            "append to row at 2,000/s, p99 ms",
            of("/append_to_row/p99"),
            1000.0,
        ));
        result["rate"] = found;
    }
    if wanted("latency") {
        // Where the drain was not measured in this run: RATE, or a cautious guess.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
        let quarter = if drain_rate.is_nan() { 10_000 } else { (drain_rate / 4.0) as u64 };
        let found = gold::run(&empty()?, number("RATE", quarter)?, SEED)?;
        let p99 = found["p99"].as_f64().unwrap_or(f64::NAN);
        all.push(Bar::at_most(
            "append to ventas_gold at a quarter, p99 in intervals",
            p99 / 50.0,
            8.0,
        ));
        result["latency"] = found;
    }
    bars::print(&all);
    result["bars"] = all.iter().map(Bar::json).collect();
    println!("  {} s in all", begun.elapsed().as_secs());
    results::write("processor", &result)
}

fn drains(pipeline: &Pipeline, expected: &Expected, runs: u32) -> Result<Samples> {
    let mut samples = Samples::default();
    let only = std::env::var("ONLY").unwrap_or_default();
    println!("drain: warming up");
    let mut warm_up = Samples::default();
    keep(&mut warm_up, BARE, bare::sample(pipeline, expected.lines, 100)?);
    keep(&mut warm_up, USUAL.name, drain::sample(pipeline, &USUAL, expected)?);
    for run in 1..=runs {
        println!("drain: run {run} of {runs}");
        if BARE.contains(&only) {
            keep(&mut samples, BARE, bare::sample(pipeline, expected.lines, 100)?);
        }
        for config in CONFIGS.iter().filter(|config| config.name.contains(&only)) {
            keep(&mut samples, config.name, drain::sample(pipeline, config, expected)?);
        }
    }
    Ok(samples)
}

/// Prints a sample and keeps it.
fn keep(samples: &mut Samples, name: &str, sample: Json) {
    let of = |figure: &str| sample[figure].as_f64().unwrap_or(f64::NAN);
    println!(
        "  {name:<24} {:>8.0}/s  {:>5.2} us  brokers {:>5.2} us  {:>4.0} MiB  {:>6.0} a commit  {:>4.1} partitions  {:>5.2} ms broker/commit  {:>5.3} written  {}",
        of("records_per_second"),
        of("cpu_us_per_record"),
        of("broker_cpu_us_per_record"),
        of("peak_rss_mib"),
        of("records_per_commit"),
        of("partitions_per_commit"),
        of("broker_cpu_ms_per_commit"),
        of("written_per_record"),
        sample["problem"].as_str().unwrap_or_default(),
    );
    samples.add(name, sample);
}

fn drain_bars(samples: &Samples) -> Vec<Bar> {
    let of = |name: &str, figure: &str| samples.median(name, figure);
    let against = |name: &str, figure: &str, other: &str| of(name, figure) / of(other, figure);
    let usual = USUAL.name;
    let rate = "records_per_second";
    vec![
        Bar::at_least("drain at 100 ms, rate of the bare loop's", against(usual, rate, BARE), 0.5),
        Bar::at_most(
            "processor CPU per record, times the bare loop's",
            against(usual, "cpu_us_per_record", BARE),
            2.5,
        ),
        Bar::at_most(
            "broker CPU per record, times the bare loop's",
            against(usual, "broker_cpu_us_per_record", BARE),
            2.0,
        ),
        Bar::at_least(
            "exactly once of at least once, 100 ms",
            against(usual, rate, "alo 100 ms"),
            0.8,
        ),
        Bar::at_least(
            "exactly once of at least once, 20 ms",
            against("eos 20 ms", rate, "alo 20 ms"),
            0.6,
        ),
        Bar::at_most(
            "records written per input record, 100 ms",
            of(usual, "written_per_record"),
            2.1,
        ),
        Bar::at_most(
            "records written per input record, 50,000 a commit",
            of("eos 1 s, 50,000 a commit", "written_per_record"),
            1.6,
        ),
        Bar::at_most("peak RSS, MiB", of(usual, "peak_rss_mib"), 200.0),
    ]
}
