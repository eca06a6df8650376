//! `caudal-bench producer`: records a second and what they cost, against Kafka's own
//! `kafka-producer-perf-test.sh` on the same brokers: acks=all, idempotent, the same codec, the mean
//! size of our records. Interleaved; every run has a topic of its own, which is counted afterwards;
//! a run that failed or whose topic holds another number counts in no median.
//!
//! Parts: `send` (the generator at least once and exactly once, and CSV), `http`.

mod http;
mod load;
mod send;

use crate::bars::{self, Bar};
use crate::results;
use crate::samples::Samples;
use anyhow::{Context as _, Result, bail};
use caudal_e2e::pipeline::Pipeline;
use serde_json::{Value as Json, json};
use std::time::Instant;

pub use load::run as http_load;

const PERF: &str = "kafka-producer-perf-test";
const IDEMPOTENT: &str = "generator, idempotent";
const TRANSACTIONAL: &str = "generator, exactly once";
const CSV: &str = "CSV, exactly once";
const HTTP: &str = "HTTP, 200 x 100";
/// What the medians are of.
const FIGURES: [&str; 9] = [
    "records_per_second",
    "cpu_us_per_record",
    "broker_cpu_us_per_record",
    "seconds",
    "wall_seconds",
    "peak_rss_mib",
    "p50_ms",
    "p99_ms",
    "refused",
];

/// Runs the parts named, or all.
///
/// # Errors
/// When the stack fails.
pub fn run(parts: &[String]) -> Result<()> {
    const KNOWN: [&str; 2] = ["send", "http"];
    if let Some(part) = parts.iter().find(|part| !KNOWN.contains(&part.as_str())) {
        bail!("unknown part {part}; known are {}", KNOWN.join(", "));
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let (records, runs) = (results::number("RECORDS", 1_000_000)?, results::number("RUNS", 5)?);
    let seconds = results::number("HTTP_SECONDS", 10)?;
    let begun = Instant::now();
    let pipeline = Pipeline::empty("bench")?.context("no stack; run `make bench-producer`")?;
    let bench = send::Bench::new(&pipeline, records)?;
    println!(
        "producer: {records} records of {} bytes (key and value), {runs} runs; load {}",
        bench.record_size,
        crate::gauge::load_average()
    );
    let mut samples = Samples::default();
    println!("warming up");
    bench.perf_test(records / 5)?;
    bench.generator("exactly_once_v2", records / 5)?;
    for run in 1..=runs {
        println!("run {run} of {runs}");
        if wanted("send") {
            keep(&mut samples, PERF, bench.perf_test(records)?);
            keep(&mut samples, IDEMPOTENT, bench.generator("at_least_once", records)?);
            keep(&mut samples, TRANSACTIONAL, bench.generator("exactly_once_v2", records)?);
            keep(&mut samples, CSV, bench.csv()?);
        }
        if wanted("http") {
            keep(&mut samples, HTTP, http::sample(&bench, seconds)?);
        }
    }
    let all = bars_of(&samples);
    bars::print(&all);
    println!("  {} s in all", begun.elapsed().as_secs());
    let result = json!({
        "records": records, "runs": runs, "record_size": bench.record_size,
        "perf_test_properties": send::PERF_PROPERTIES, "http_seconds": seconds,
        "samples": samples.described(&FIGURES), "bars": all.iter().map(Bar::json).collect::<Vec<_>>(),
    });
    results::write("producer", &result)
}

/// Prints a sample and keeps it.
fn keep(samples: &mut Samples, name: &str, sample: Json) {
    let of = |figure: &str| sample[figure].as_f64().unwrap_or(f64::NAN);
    print!(
        "  {name:<26} {:>8.0}/s  {:>5.2} us  brokers {:>5.2} us  {:>5.1} s of {:>5.1} s",
        of("records_per_second"),
        of("cpu_us_per_record"),
        of("broker_cpu_us_per_record"),
        of("seconds"),
        of("wall_seconds"),
    );
    if name == HTTP {
        print!(
            "  p50 {:.0} ms, p99 {:.0} ms, {:.0} MiB",
            of("p50_ms"),
            of("p99_ms"),
            of("peak_rss_mib")
        );
    }
    println!("  {}", sample["problem"].as_str().unwrap_or_default());
    samples.add(name, sample);
}

fn bars_of(samples: &Samples) -> Vec<Bar> {
    let of = |name: &str, figure: &str| samples.median(name, figure);
    let against = |name: &str, figure: &str, other: &str| of(name, figure) / of(other, figure);
    let (rate, cpu) = ("records_per_second", "cpu_us_per_record");
    vec![
        Bar::at_least("generator's rate, of perf-test's", against(IDEMPOTENT, rate, PERF), 0.95),
        Bar::at_most("generator's CPU, of perf-test's", against(IDEMPOTENT, cpu, PERF), 1.0),
        Bar::at_least(
            "exactly once with progress, of merely idempotent",
            against(TRANSACTIONAL, rate, IDEMPOTENT),
            0.85,
        ),
        Bar::at_least("CSV's rate, of perf-test's", against(CSV, rate, PERF), 0.6),
        Bar::at_least(
            "HTTP acknowledged, of the generator's rate",
            against(HTTP, rate, IDEMPOTENT),
            0.4,
        ),
    ]
}
