//! Every example of docs/mapping.md, as it stands there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::time::to_rfc3339;
use caudal_core::transaction::Transaction;
use caudal_producer::cards::Cards;
use caudal_producer::mapping::Mapping;
use caudal_producer::source::Source as _;
use caudal_producer::source::envelope::Envelope;
use caudal_producer::source::inputs::Meter;
use caudal_producer::source::lines::Lines;
use std::collections::{BTreeMap, BTreeSet};

const DOCS: &str = include_str!("../../../docs/mapping.md");

struct Example {
    line: usize,
    mapping: String,
    format: String,
    input: String,
    expected: String,
}

/// Blocks of toml, csv or ndjson, and text, in this order.
fn examples() -> Vec<Example> {
    let mut blocks: Vec<(usize, String, String)> = Vec::new();
    let mut inside = false;
    for (at, line) in DOCS.lines().enumerate() {
        match (inside, line.strip_prefix("```")) {
            (false, Some(language)) => blocks.push((at + 1, language.to_owned(), String::new())),
            (true, None) => blocks.last_mut().unwrap().2 += &format!("{line}\n"),
            (true, Some(_)) => {}
            (false, None) => continue,
        }
        inside ^= line.starts_with("```");
    }
    let chunks = blocks.chunks(3).map(|three| {
        let [(line, toml, mapping), (_, format, input), (_, text, expected)] = three else {
            panic!("a block without its companions: {three:?}");
        };
        assert_eq!((toml.as_str(), text.as_str()), ("toml", "text"), "line {line}");
        Example {
            line: *line,
            mapping: mapping.clone(),
            format: format.clone(),
            input: input.clone(),
            expected: expected.clone(),
        }
    });
    chunks.collect()
}

/// The tables of the general mapping that the example does not have.
fn complete(general: &str, own: &str) -> String {
    let tables = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
    let mut all = tables(general);
    all.extend(tables(own));
    all.to_string()
}

fn shown(t: &Transaction<'_>) -> BTreeMap<String, String> {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let mut all: BTreeMap<String, String> = [
        ("transaction_id", t.transaction_id.to_string()),
        ("account_id", t.account_id.to_string()),
        ("merchant_id", t.merchant_id.to_string()),
        ("amount", t.amount.to_string()),
        ("currency", t.currency.to_string()),
        ("kind", t.kind.as_str().to_owned()),
        ("country", text(t.country.as_deref())),
        ("event_time", to_rfc3339(t.event_time)),
        ("description", text(t.description.as_deref())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    all.extend(t.attributes.iter().map(|(n, v)| (format!("attributes.{n}"), v.to_string())));
    all
}

#[test]
fn every_example_gives_what_it_says() {
    let all = examples();
    assert!(all.len() > 20, "{} examples", all.len());
    let general = &all[0].mapping;
    for example in &all {
        let place = format!("docs/mapping.md:{}", example.line);
        let text = complete(general, &example.mapping);
        let mapping = Mapping::parse(&text).unwrap_or_else(|e| panic!("{place}: {e:#}"));
        let cards = Cards::under(b"a key of the tests", true).unwrap();
        let envelope = Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards };
        let file = format!("example.{}", example.format);
        let names = ("example", file.as_str());
        let input = example.input.as_bytes();
        let mut lines =
            Lines::start(&mapping, envelope, names, input, Meter::default(), false).unwrap();
        let mut found = Vec::new();
        while let Some(outcome) = lines
            .next_line(|_, outcome| outcome.result.map(|t| shown(&t)).map_err(|r| r.reason))
            .unwrap()
        {
            found.push(outcome);
        }
        let expected: Vec<&str> = example.expected.lines().collect();
        let left_out = expected.iter().filter(|line| **line == "left out").count();
        assert_eq!(lines.progress().skipped, left_out as u64, "{place}");
        let told: Vec<&&str> = expected.iter().filter(|line| **line != "left out").collect();
        assert_eq!(told.len(), found.len(), "{place}: {found:#?}");
        for (line, outcome) in told.into_iter().zip(found) {
            let mut values = outcome.unwrap_or_else(|reason| {
                [("rejected".to_owned(), reason.as_str().to_owned())].into()
            });
            for pair in line.split("  ") {
                let (name, value) = pair.split_once('=').unwrap();
                let value = value.trim_start();
                let found = values.remove(name).unwrap_or_default();
                assert_eq!(found, value, "{place}: {name}");
            }
            assert!(!values.contains_key("rejected"), "{place}: {line}");
        }
    }
}

/// Words that the page writes as keys: before an equals sign or in a table's head in its mappings, or
/// in code within its sentences.
fn shown_keys() -> BTreeSet<&'static str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = move |text: &'static str| text.split(move |c| !is_word(c));
    let mut shown = BTreeSet::new();
    let mut block = None;
    for line in DOCS.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = block.is_none().then_some(language);
            continue;
        }
        match block {
            Some("toml") if line.starts_with('[') => shown.extend(words(line)),
            Some("toml") => {
                let line = line.split(" #").next().unwrap_or(line);
                let before = line.split('=').rev().skip(1);
                shown.extend(before.filter_map(|part| words(part.trim_end()).next_back()));
            }
            Some(_) => {}
            None => shown.extend(line.split('`').skip(1).step_by(2).flat_map(words)),
        }
    }
    shown
}

/// Keys of the mapping file that the page does not show.
#[test]
fn every_key_is_shown() {
    let source = include_str!("../src/mapping/file.rs");
    let keys = source.lines().filter_map(|line| {
        let name = line.strip_prefix("    pub ")?.split_once(':')?.0;
        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then_some(name)
    });
    let (keys, shown): (Vec<&str>, _) = (keys.collect(), shown_keys());
    assert!(keys.len() > 50, "{keys:?}");
    let absent: Vec<&&str> = keys.iter().filter(|key| !shown.contains(**key)).collect();
    assert!(absent.is_empty(), "docs/mapping.md does not show {absent:?}");
}
