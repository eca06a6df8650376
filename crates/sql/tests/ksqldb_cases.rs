//! How much of ksqlDB's own behaviour this crate has, measured by ksqlDB's test cases. They are
//! not part of this project: `KSQL_CASES` names the folder `query-validation-tests` of a checkout
//! of confluentinc/ksql, and nothing is tested without it.
//!
//! `KSQL_CASES=… cargo test --release --workspace --test ksqldb_cases -- --nocapture`

use caudal_sql::ast::{Body, Statement};
use caudal_sql::catalog::Catalog;
use caudal_sql::execution::{Execution, Record};
use caudal_sql::fault::Fault;
use caudal_sql::json::Json;
use caudal_sql::parser::{Naming, parse};
use std::collections::BTreeMap;
use std::path::Path;

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Same,
    Different,
    /// Something that docs/sql.md says is not supported.
    OutOfSubset,
    Refused,
    RefusedByBoth,
    AcceptedHereOnly,
}

fn record(json: &Json) -> Record {
    let number = |json: Option<&Json>| json.and_then(Json::as_long);
    let window = json.field("window").map(|window| {
        let kind = window.field("type").and_then(Json::as_text).unwrap_or_default();
        let bound = |name| number(window.field(name)).unwrap_or(0);
        (bound("start"), bound("end"), kind.eq_ignore_ascii_case("session"))
    });
    Record {
        topic: json.field("topic").and_then(Json::as_text).unwrap_or_default().to_owned(),
        key: json.field("key").cloned().unwrap_or_default(),
        value: json.field("value").cloned().unwrap_or_default(),
        timestamp: number(json.field("timestamp")).unwrap_or(0),
        window,
    }
}

/// As ksqlDB's own tests compare: decimals may be written as texts, fields in lower case, and a
/// field that is not there is null.
fn same(wanted: &Json, found: &Json) -> bool {
    match (wanted, found) {
        (Json::Text(text), Json::Number(_)) => Json::Number(text.clone()).means(found),
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            let is_it =
                |wanted: &str, found: &str| found == wanted || found == wanted.to_uppercase();
            let in_b = |(name, value): &(String, Json)| {
                let exact = b.iter().find(|(other, _)| other == name);
                let found = exact.or_else(|| b.iter().find(|(other, _)| is_it(name, other)));
                same(value, found.map_or(&Json::Null, |(_, value)| value))
            };
            let in_a = |(name, value): &(String, Json)| {
                *value == Json::Null || a.iter().any(|(wanted, _)| is_it(wanted, name))
            };
            a.iter().all(in_b) && b.iter().all(in_a)
        }
        _ => wanted.means(found),
    }
}

fn list<'j>(json: &'j Json, name: &str) -> &'j [Json] {
    match json.field(name) {
        Some(Json::Array(items)) => items,
        _ => &[],
    }
}

/// The functions that ksqlDB's tests bring along: users' own.
const USERS_FUNCTIONS: [&str; 15] = [
    "BAD_UDF",
    "FIVE_ARG",
    "FOUR_ARG",
    "GENERIC_VAR_ARG",
    "MID_VAR_ARG",
    "MULTI_ARG",
    "OBJ_COL_ARG",
    "TEST_UDAF",
    "TEST_UDF",
    "TEST_UDTF",
    "THROWING_UDTF",
    "TOSTRUCT",
    "VAR_ARG",
    "WHENCONDITION",
    "WHENRESULT",
];

/// Options of ksqlDB's server that give a statement another meaning.
const SERVER_OPTIONS: [&str; 5] = [
    "ksql.persistence.",
    "ksql.functions.collect_",
    "ksql.output.topic.name.prefix",
    "ksql.sink.",
    "ksql.timestamp.throw.on.invalid",
];

/// Whether a fault names something that docs/sql.md lists as not supported.
fn is_out_of_subset(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        let function = fault.message.strip_prefix("unknown function ");
        fault.message.contains("not supported")
            || function.is_some_and(|name| USERS_FUNCTIONS.contains(&name))
    })
}

fn sets_server_options(case: &Json) -> bool {
    let Some(Json::Object(properties)) = case.field("properties") else { return false };
    properties.iter().any(|(name, value)| {
        // ksqlDB's new planner is off where nothing is stated, and decides what a key is.
        let new_planner = name == "ksql.new.query.planner.enabled"
            && value.as_text().is_some_and(|value| value == "true");
        new_planner || SERVER_OPTIONS.iter().any(|option| name.starts_with(option))
    })
}

/// Schema inference where the statement looks complete: columns of a key (or a value) that only
/// the topic's own schema names.
fn infers_schemas(case: &Json, statements: &[Statement]) -> bool {
    let topics = list(case, "topics");
    statements.iter().any(|statement| {
        let Body::Columns(columns) = &statement.body else { return false };
        let topic = statement.with.iter().find(|property| property.name.text == "KAFKA_TOPIC");
        let named = |json: &&Json| {
            let name = json.field("name").and_then(Json::as_text);
            name.is_some() && name == topic.map(|topic| topic.value.as_str())
        };
        let keys = columns.iter().filter(|column| column.key.is_some()).count();
        topics.iter().filter(named).any(|topic| {
            (keys == 0 && topic.field("keySchema").is_some())
                || (keys == columns.len() && topic.field("valueSchema").is_some())
        })
    })
}

fn run(case: &Json, format: &str) -> (Outcome, String) {
    let replaced = |text: &str| text.replace("{FORMAT}", format);
    let statements: Vec<String> = list(case, "statements")
        .iter()
        .filter_map(Json::as_text)
        .map(|text| replaced(text).trim_end_matches(';').to_owned())
        .collect();
    if sets_server_options(case) {
        return (Outcome::OutOfSubset, "options of ksqlDB's server".to_owned());
    }
    let text = format!("{};", statements.join(";\n"));
    if infers_schemas(case, &parse(&text, Naming::Upper).0) {
        return (Outcome::OutOfSubset, "schema inference".to_owned());
    }
    let fails = case.field("expectedException").is_some();
    let catalog = match Catalog::compile(&text, Naming::Upper) {
        Ok(_) if fails => {
            return (
                Outcome::AcceptedHereOnly,
                format!("{:?}", case.field("expectedException").map(Json::to_string)),
            );
        }
        Ok(catalog) => catalog,
        Err(faults) if fails && !is_out_of_subset(&faults) => {
            return (Outcome::RefusedByBoth, faults[0].message.clone());
        }
        Err(faults) => {
            let outcome =
                if is_out_of_subset(&faults) { Outcome::OutOfSubset } else { Outcome::Refused };
            return (outcome, faults[0].message.clone());
        }
    };
    let mut execution = Execution::new(&catalog);
    let mut found: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for input in list(case, "inputs") {
        let mut input = record(input);
        input.topic = replaced(&input.topic);
        match execution.process(&input) {
            Ok(records) => {
                records.into_iter().for_each(|r| found.entry(r.topic.clone()).or_default().push(r));
            }
            Err(overflow) => return (Outcome::Different, overflow.to_string()),
        }
    }
    let mut expected: BTreeMap<String, Vec<&Json>> = BTreeMap::new();
    for output in list(case, "outputs") {
        let topic = output.field("topic").and_then(Json::as_text).unwrap_or_default();
        expected.entry(topic.to_owned()).or_default().push(output);
    }
    for (topic, wanted) in &expected {
        let none = Vec::new();
        let records = found.get(topic).unwrap_or(&none);
        for (at, json) in wanted.iter().enumerate() {
            let Some(record) = records.get(at) else {
                return (
                    Outcome::Different,
                    format!("no output {at}, wanted {json}\n   errors {:?}", execution.errors),
                );
            };
            let written = record.to_json();
            for field in ["key", "value", "timestamp", "window"] {
                let wanted = json.field(field);
                let has = written.field(field);
                let same = match (wanted, has) {
                    (None, _) => true,
                    (Some(wanted), has) => same(wanted, has.unwrap_or(&Json::Null)),
                };
                if !same {
                    let message = format!(
                        "output {at}: wanted {json}\n        found {written}\n   errors {:?}",
                        execution.errors
                    );
                    return (Outcome::Different, message);
                }
            }
        }
        if records.len() > wanted.len() {
            let more = records[wanted.len()].to_json();
            return (Outcome::Different, format!("one more output: {more}"));
        }
    }
    (Outcome::Same, String::new())
}

/// So many cases end as in ksqlDB at its commit 354e3d1c2d2; docs/sql.md names them.
const SAME: usize = 944;
const REFUSED_BY_BOTH: usize = 272;

#[test]
fn ksqldbs_own_cases() {
    let Some(folder) = std::env::var_os("KSQL_CASES") else {
        println!("skipped: KSQL_CASES names no folder of ksqlDB's cases");
        return;
    };
    let only = std::env::var("KSQL_ONLY").unwrap_or_default();
    let mut totals: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(Path::new(&folder))
        .expect("KSQL_CASES is a folder")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        // One file has comments.
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let json = Json::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        for case in list(&json, "tests") {
            let formats: Vec<&str> = match case.field("format") {
                Some(Json::Array(formats)) => formats.iter().filter_map(Json::as_text).collect(),
                _ => vec![""],
            };
            let known = ["", "JSON", "AVRO", "DELIMITED", "KAFKA", "NONE"];
            for format in formats.into_iter().filter(|format| known.contains(format)) {
                let (outcome, message) = run(case, format);
                *counts.entry(outcome).or_default() += 1;
                *totals.entry(outcome).or_default() += 1;
                let shown = matches!(
                    outcome,
                    Outcome::Different | Outcome::Refused | Outcome::AcceptedHereOnly
                ) || !only.is_empty();
                if shown && name.contains(only.trim_matches('*')) {
                    let title = case.field("name").and_then(Json::as_text).unwrap_or_default();
                    println!("- {name} / {title} [{format}] {outcome:?}: {message}");
                }
            }
        }
        println!("{name}: {counts:?}");
    }
    println!("all: {totals:?}");
    let count = |outcome| totals.get(&outcome).copied().unwrap_or(0);
    assert!(count(Outcome::Same) >= SAME, "cases with ksqlDB's outputs: {totals:?}");
    assert!(count(Outcome::RefusedByBoth) >= REFUSED_BY_BOTH, "cases refused: {totals:?}");
    assert_eq!(count(Outcome::Refused), 0, "cases refused here only: {totals:?}");
}
