//! How fast 500,000 transactions that wait in Kafka become rows, and what that costs.

use crate::results;
use anyhow::{Context as _, Result};
use caudal_e2e::expectation::Expectation;
use caudal_e2e::pipeline::Pipeline;
use caudal_stack::process::resident_bytes;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const RECORDS: &str = "500000";
const SEED: &str = "21";
const LIMIT: Duration = Duration::from_secs(600);

pub fn run(pipeline: &Pipeline) -> Result<()> {
    println!("drain: {RECORDS} generated transactions, sent first, then processed and stored");
    let expectation = Expectation::of(RECORDS, SEED)?;
    let begun = Instant::now();
    pipeline.run("caudal-producer", &["--generate", RECORDS, "--seed", SEED], LIMIT)?;
    let sent = begun.elapsed().as_secs_f64();
    let stack = stack_pids(pipeline)?;
    let before = cpu(&stack)?;
    let begun = Instant::now();
    let processor = pipeline.start("caudal-processor", "processor", &[])?;
    let sink = pipeline.start("caudal-sink", "sink", &[])?;
    let services = BTreeMap::from([
        ("processor".to_owned(), processor.pid()),
        ("sink".to_owned(), sink.pid()),
    ]);
    expectation.wait_stored(pipeline, LIMIT)?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut spent = cpu(&services)?;
    for (name, after) in cpu(&stack)? {
        spent.insert(name.clone(), after - before.get(&name).copied().unwrap_or(0.0));
    }
    let rss: BTreeMap<&String, u64> = services
        .iter()
        .map(|(name, pid)| (name, resident_bytes(*pid).unwrap_or(0) / (1024 * 1024)))
        .collect();
    expectation.check(pipeline)?;
    pipeline.assert_balanced()?;
    let records: f64 = RECORDS.parse()?;
    let rate = records / seconds;
    println!(
        "  producer {:.0}/s; processed and stored {rate:.0}/s ({seconds:.1} s, start of the services and last look included); balanced",
        records / sent
    );
    println!("  CPU seconds {spent:.1?}");
    println!("  MiB resident at the end {rss:?}");
    results::write(
        "drain",
        &json!({
            "transactions": records, "producer_seconds": sent, "seconds": seconds,
            "transactions_per_second": rate, "cpu_seconds": spent, "rss_mib": rss,
        }),
    )
}

fn stack_pids(pipeline: &Pipeline) -> Result<BTreeMap<String, u32>> {
    let parts = ["broker-1", "broker-2", "broker-3", "postgres"];
    let pid = |name: &str| pipeline.stack.pid(name).with_context(|| format!("{name} does not run"));
    parts.iter().map(|name| Ok(((*name).to_owned(), pid(name)?))).collect()
}

fn cpu(pids: &BTreeMap<String, u32>) -> Result<BTreeMap<String, f64>> {
    pids.iter().map(|(name, pid)| Ok((name.clone(), results::cpu_seconds(*pid)?))).collect()
}
