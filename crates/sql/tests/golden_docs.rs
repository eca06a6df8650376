//! docs/sql.md is true: every example of the page is run, and every function has one.

use caudal_sql::catalog::Catalog;
use caudal_sql::execution::{Execution, Record};
use caudal_sql::fault::render_all;
use caudal_sql::json::Json;
use caudal_sql::parser::Naming;
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../docs/sql.md");

/// The first two cells of the tables below a heading: code and value.
fn examples(heading: &str) -> Vec<(String, String)> {
    let begin = PAGE.find(heading).unwrap_or_else(|| panic!("no {heading}"));
    let section = &PAGE[begin + heading.len()..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (code, rest) = row.split_once("` | ").unwrap_or_else(|| panic!("row {row}"));
        let value = rest.split(" |").next().unwrap_or_default();
        (code.to_owned(), value.to_owned())
    })
    .collect()
}

fn last_value(select: &str, values: &[&str], table: bool) -> Json {
    let (kind, group) = if table { ("TABLE", " GROUP BY k") } else { ("STREAM", "") };
    let sql = format!(
        "CREATE STREAM s (k STRING KEY, v INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');
         CREATE {kind} o AS SELECT k, {select} AS answer FROM s{group};"
    );
    let catalog = Catalog::compile(&sql, Naming::Upper)
        .unwrap_or_else(|faults| panic!("{}", render_all(&faults, select, &sql, false)));
    let mut execution = Execution::new(&catalog);
    let mut last = Json::Null;
    for (at, value) in values.iter().enumerate() {
        let record = Record {
            topic: "s".into(),
            key: Json::Text("key".into()),
            value: Json::parse(&format!("{{\"V\": {value}}}")).expect("json"),
            timestamp: at as i64,
            window: None,
        };
        let outputs = execution.process(&record).expect("no overflow");
        let output = outputs.last().unwrap_or_else(|| panic!("{select} gives nothing"));
        last = output.value.field("ANSWER").cloned().unwrap_or_default();
    }
    assert_eq!(execution.errors, [], "{select}");
    last
}

#[test]
fn examples_of_functions_and_operators_are_true() {
    for heading in ["\n## Operators", "\n## Functions"] {
        for (code, wanted) in examples(heading) {
            let found = last_value(&code, &["1"], false);
            assert_eq!(found.to_string(), wanted, "{code}");
        }
    }
}

#[test]
fn examples_of_aggregates_are_true() {
    for (code, wanted) in examples("\n## Aggregates") {
        let found = last_value(&code, &["3", "1", "null", "3"], true);
        assert_eq!(found.to_string(), wanted, "{code}");
    }
}

#[test]
fn every_function_has_an_example() {
    let shown: BTreeSet<String> = ["\n## Functions", "\n## Aggregates"]
        .into_iter()
        .flat_map(examples)
        .map(|(code, _)| code.split('(').next().unwrap_or_default().to_owned())
        .collect();
    for (name, usage) in caudal_sql::scalar_functions().chain(caudal_sql::aggregates()) {
        assert!(shown.contains(name), "docs/sql.md has no example of {usage}");
    }
}

#[test]
fn statements_of_the_page_compile() {
    let blocks = PAGE.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let text: String = blocks.collect();
    let catalog = Catalog::compile(&text, Naming::Lower)
        .unwrap_or_else(|faults| panic!("{}", render_all(&faults, "docs/sql.md", &text, false)));
    assert!(!catalog.queries.is_empty());
}
