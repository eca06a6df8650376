//! `caudal queries test`: statements over the records of a file.

use super::read;
use anyhow::{Result, bail};
use caudal_service::exit::Usage;
use caudal_sql::catalog::Catalog;
use caudal_sql::execution::{Execution, FileError, Record, read_inputs, read_outputs};
use std::collections::BTreeMap;
use std::path::Path;

/// Runs the queries; prints their outputs, or compares them with those expected.
///
/// # Errors
/// A file that cannot be read, a sum that overflows, or the first output that differs.
pub(super) fn run(catalog: &Catalog, input: &Path, output: Option<&Path>) -> Result<()> {
    let wrong = |file: &Path, e: FileError| Usage(format!("{}: {e}", file.display()));
    let inputs = read_inputs(&read(input)?).map_err(|e| wrong(input, e))?;
    let expected = match output {
        Some(file) => Some(read_outputs(&read(file)?).map_err(|e| wrong(file, e))?),
        None => None,
    };
    let mut execution = Execution::new(catalog);
    let mut found = Vec::new();
    for record in &inputs {
        found.extend(execution.process(record)?);
    }
    for error in &execution.errors {
        eprintln!("{error}");
    }
    let Some(expected) = expected else {
        print!("{}", shown(&found));
        return Ok(());
    };
    compare(&expected, &found)?;
    println!("{} outputs, all as expected", found.len());
    Ok(())
}

fn shown(records: &[Record]) -> String {
    let lines: Vec<String> = records.iter().map(|r| format!("    {}", r.to_json())).collect();
    format!("{{\n  \"outputs\": [\n{}\n  ]\n}}\n", lines.join(",\n"))
}

/// Topic by topic, as ksqlDB's runner does: the order between topics is nobody's promise.
fn compare(expected: &[Record], found: &[Record]) -> Result<()> {
    let by_topic = |records: &'_ [Record]| {
        let mut topics: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in records {
            topics.entry(record.topic.clone()).or_default().push(record.clone());
        }
        topics
    };
    let (expected, mut found) = (by_topic(expected), by_topic(found));
    for (topic, wanted) in expected {
        let records = found.remove(&topic).unwrap_or_default();
        for (at, wanted) in wanted.iter().enumerate() {
            match records.get(at) {
                Some(record) if record.means(wanted) => {}
                Some(record) => bail!(
                    "topic {topic}, output {at} differs\n  expected {}\n  found    {}",
                    wanted.to_json(),
                    record.to_json()
                ),
                None => {
                    bail!("topic {topic}: output {at} is missing\n  expected {}", wanted.to_json())
                }
            }
        }
        if let Some(record) = records.get(wanted.len()) {
            bail!("topic {topic}: one output too many\n  found    {}", record.to_json());
        }
    }
    // A topic that nobody wrote down is not compared: it may only carry records to another query.
    Ok(())
}
