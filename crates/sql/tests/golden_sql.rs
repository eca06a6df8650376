//! Queries with inputs and expected outputs, in the records of ksqlDB's test files.
//!
//! The expected outputs of `aggregates`, `projections` and `windows` were computed by SQLite over
//! the same rows (each output of an aggregate by a query over the rows up to its record), those of
//! `decimals`, `moments` and `lists` by Python (its decimal, datetime, zoneinfo, sorting and
//! regular expressions); `by_hand` was worked out on paper.

use caudal_sql::catalog::Catalog;
use caudal_sql::execution::{Execution, Record, read_inputs, read_outputs};
use caudal_sql::fault::render_all;
use caudal_sql::json::Json;
use caudal_sql::parser::Naming;
use std::path::Path;

const FILES: [&str; 7] =
    ["aggregates", "projections", "decimals", "moments", "windows", "lists", "by_hand"];

fn cases(file: &str) -> Vec<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{file}.json"));
    let text = std::fs::read_to_string(&path).expect(file);
    match Json::parse(&text).expect(file).field("tests") {
        Some(Json::Array(tests)) => tests.clone(),
        _ => panic!("{file} has no tests"),
    }
}

fn text(case: &Json) -> String {
    let Some(Json::Array(statements)) = case.field("statements") else { return String::new() };
    statements.iter().filter_map(Json::as_text).collect::<Vec<_>>().join("\n")
}

/// Whether a record is as expected: a field that nobody wrote down may be anything.
fn fits(expected: &Json, found: &Record) -> bool {
    let written = found.to_json();
    ["topic", "key", "value", "timestamp", "window"].iter().all(|field| {
        let found = written.field(field).cloned().unwrap_or_default();
        expected.field(field).is_none_or(|expected| expected.means(&found))
    })
}

fn run(name: &str, case: &Json) {
    let sql = text(case);
    let catalog = Catalog::compile(&sql, Naming::Upper)
        .unwrap_or_else(|faults| panic!("{name}\n{}", render_all(&faults, "sql", &sql, false)));
    let inputs = read_inputs(&case.to_string()).expect(name);
    read_outputs(&case.to_string()).expect(name);
    let mut execution = Execution::new(&catalog);
    let mut found = Vec::new();
    for input in &inputs {
        found.extend(execution.process(input).expect(name));
    }
    let Some(Json::Array(expected)) = case.field("outputs") else {
        panic!("{name} has no outputs")
    };
    let topics: Vec<&str> =
        expected.iter().filter_map(|o| o.field("topic").and_then(Json::as_text)).collect();
    let found: Vec<&Record> =
        found.iter().filter(|record| topics.contains(&record.topic.as_str())).collect();
    for (at, wanted) in expected.iter().enumerate() {
        let Some(record) = found.get(at) else {
            panic!("{name}: output {at} is missing: {wanted}\n{:?}", execution.errors)
        };
        let errors = &execution.errors;
        let shown = record.to_json();
        assert!(
            fits(wanted, record),
            "{name}: output {at}\nwanted {wanted}\nfound  {shown}\n{errors:?}"
        );
    }
    if let Some(more) = found.get(expected.len()) {
        panic!("{name}: one output too many: {}", more.to_json());
    }
    let wanted_errors = case.field("errors").and_then(Json::as_long).unwrap_or(0);
    assert_eq!(execution.errors.len() as i64, wanted_errors, "{name}: {:?}", execution.errors);
}

#[test]
fn every_query_has_its_outputs() {
    let mut count = 0;
    for file in FILES {
        for case in cases(file) {
            let title = case.field("name").and_then(Json::as_text).unwrap_or_default();
            run(&format!("{file}: {title}"), &case);
            count += 1;
        }
    }
    assert!(count >= 80, "{count} cases");
}
