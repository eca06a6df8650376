//! Wrong statements and what is said of them: `tests/wrong/statements.txt` holds the statements,
//! `tests/wrong/messages.txt` the exact messages. `UPDATE_GOLDEN=1` writes the latter anew; read
//! the difference before it is committed.

use caudal_sql::catalog::Catalog;
use caudal_sql::fault::render_all;
use caudal_sql::parser::Naming;
use std::path::Path;

fn cases() -> Vec<(&'static str, &'static str)> {
    let split =
        |block: &'static str| block.split_once('\n').map(|(name, sql)| (name, sql.trim_end()));
    include_str!("wrong/statements.txt")
        .split("## ")
        .filter(|block| !block.trim().is_empty())
        .filter_map(split)
        .collect()
}

#[test]
fn wrong_statements_have_their_messages() {
    let mut found = String::new();
    for (name, sql) in cases() {
        let faults = Catalog::compile(sql, Naming::Lower).map(|_| ()).expect_err(name);
        found.push_str(&format!("## {name}\n{}\n", render_all(&faults, "queries.sql", sql, false)));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong/messages.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("messages.txt is written");
    }
    let expected = std::fs::read_to_string(&path).expect("messages.txt is read");
    for (found, expected) in found.split("## ").zip(expected.split("## ")) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn there_are_many_and_each_is_wrong_once() {
    let cases = cases();
    assert!(cases.len() >= 50, "{}", cases.len());
    for (name, sql) in cases {
        let faults = Catalog::compile(sql, Naming::Lower).map(|_| ()).expect_err(name);
        let wanted = if name.starts_with("three faults") { 3 } else { 1 };
        assert_eq!(faults.len(), wanted, "{name}: {faults:#?}");
    }
}

#[test]
fn any_text_is_read_or_refused() {
    let whole = include_str!("wrong/statements.txt");
    let tokens: Vec<&str> = whole.split_inclusive([' ', '(', ',']).collect();
    // Every tenth token is left out, beginning at each of the first ten.
    for skip in 0..10 {
        let text: String =
            tokens.iter().enumerate().filter(|(i, _)| i % 10 != skip).map(|(_, t)| *t).collect();
        assert!(Catalog::compile(&text, Naming::Upper).is_err());
    }
}
