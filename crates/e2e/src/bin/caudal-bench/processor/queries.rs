//! What each example query costs beside the shipped ones: the same drain with and without it,
//! interleaved.

use super::drain::{self, Config};
use crate::samples::Samples;
use anyhow::{Context as _, Result};
use caudal_e2e::pipeline::Pipeline;
use caudal_producer::generate::Expected;
use caudal_query::plan::{Plan, SHIPPED};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The queries that are added, one at a time.
const EXAMPLES: &str = include_str!("../../../../../../config/examples.sql");
/// The shipped queries alone.
const NONE: &str = "shipped alone";
const CPU: &str = "cpu_us_per_record";

/// The topics that the examples' runs leave behind.
///
/// # Panics
/// When the examples are wrong, which a test rules out.
pub fn topics() -> Vec<String> {
    let plans = Plan::compile_file("config/examples.sql", EXAMPLES);
    let plans = plans.unwrap_or_else(|faults| panic!("{faults}"));
    let of = |plan: &Plan| [Some(plan.name.clone()), Some(plan.late_topic()), plan.errors_topic()];
    plans.iter().flat_map(of).flatten().collect()
}

/// Each example with what it reads, by its name.
fn additions() -> Result<Vec<(String, String)>> {
    let statements = EXAMPLES.split_inclusive(';').filter(|text| text.contains("CREATE"));
    let named = statements.map(|text| {
        let mut words = text[text.find("CREATE").unwrap_or(0)..].split_whitespace();
        Some((words.nth(2)?.to_owned(), text.to_owned()))
    });
    let named: BTreeMap<String, String> = named.collect::<Option<_>>().context("a statement")?;
    let plans = Plan::compile_file("config/examples.sql", EXAMPLES).map_err(anyhow::Error::msg)?;
    let addition = |plan: &Plan| {
        let read = plan.stream.as_ref().and_then(|stream| named.get(&stream.source.name));
        let text = named.get(&plan.name).with_context(|| plan.name.clone())?;
        Ok((plan.name.clone(), format!("{}{text}", read.map_or("", String::as_str))))
    };
    plans.iter().map(addition).collect()
}

/// Drains with each, and prints a table.
///
/// # Errors
/// When the stack fails.
pub fn run(
    pipeline: &mut Pipeline,
    config: &Config,
    expected: &Expected,
    runs: u32,
) -> Result<Json> {
    let mut all = vec![(NONE.to_owned(), String::new())];
    all.extend(additions()?);
    let mut samples = Samples::default();
    for run in 1..=runs {
        println!("queries: run {run} of {runs}");
        for (name, statement) in &all {
            pipeline.set_queries(&format!("{SHIPPED}\n{statement}"))?;
            let sample = drain::sample(pipeline, config, expected)?;
            if let Some(problem) = sample["problem"].as_str() {
                println!("  {name}: {problem}");
            }
            samples.add(name, sample);
        }
    }
    pipeline.set_queries(SHIPPED)?;
    let alone = samples.median(NONE, CPU);
    println!("  CPU us a record, min / median / max, and what the query adds");
    let mut rows = Vec::new();
    for (name, _) in &all {
        let [least, middle, most] = samples.spread(name, CPU);
        let added = middle - alone;
        println!("  {name:<20} {least:>6.2} {middle:>6.2} {most:>6.2}  {added:>+6.2}");
        rows.push(json!({ "query": name, CPU: [least, middle, most], "added": added }));
    }
    Ok(json!({ "table": rows, "samples": samples.described(&[CPU]) }))
}
