use super::*;
use crate::verify::identity::tests::{purchase, row_of};
use crate::verify::identity::{columns, half};
use crate::verify::input::tests::{TestLog, valid_record};
use crate::verify::place::{Place, Topics};
use crate::verify::refused;
use crate::verify::retired::Retired;
use caudal_core::transaction::Transaction;

fn said(log: &TestLog, rows: &[Stored]) -> Vec<String> {
    let cut = log.cut();
    let mut differences = Differences::new(Topics::of(&[]));
    let valid = log.valid(&cut, &mut differences);
    let mut all = Rows::new(&cut, &valid, Vec::new());
    rows.iter().for_each(|row| all.observe(row.clone(), &mut differences).expect("sum"));
    all.finish(&mut differences);
    differences.drafts()
}

fn two() -> (Transaction<'static>, Transaction<'static>) {
    (purchase("t-1", "a", 1050, 60_000_000), purchase("t-2", "a", 99, 61_000_000))
}

fn log_of(all: &[&Transaction<'_>]) -> TestLog {
    let mut log = TestLog::default();
    for (offset, t) in (0..).zip(all) {
        log.valid.push(valid_record(offset, offset, t));
    }
    log
}

#[test]
fn one_row_for_each_record() {
    let (a, b) = two();
    let all = said(&log_of(&[&a, &b]), &[row_of(&b), row_of(&a)]);
    assert!(all.is_empty(), "{all:?}");
}

#[test]
fn names_rows_that_are_missing_altered_or_invented() {
    let (a, b) = two();
    let log = log_of(&[&a, &b]);
    assert_eq!(said(&log, &[row_of(&a)]), ["transactions lacks {} (transacciones_validas-0@1)"]);
    let altered = Stored { amount: "11.50".into(), ..row_of(&a) };
    assert_eq!(said(&log, &[altered, row_of(&b)]), ["row t-1 0@0"]);
    let invented = Stored { id: "t-9".into(), ..row_of(&a) };
    let all = said(&log, &[row_of(&a), row_of(&b), invented]);
    assert!(all[0].starts_with("transactions has t-9 "), "{all:?}");
    let late = Stored { late_for: vec!["ventas_gold".into()], ..row_of(&a) };
    assert_eq!(said(&log, &[late, row_of(&b)]), ["row t-1 0@0"]);
}

#[test]
fn a_repeat_beyond_the_horizon_has_one_row() {
    let (a, _) = two();
    let mut again = a.clone();
    again.source_seq = 7;
    let log = log_of(&[&a, &again]);
    assert!(said(&log, &[row_of(&a)]).is_empty());
    assert_eq!(said(&log, &[]).len(), 2);
}

#[test]
fn other_contents_under_one_id_must_be_a_dead_letter() {
    let (a, _) = two();
    let other = purchase("t-1", "a", 77, 60_000_000);
    let mut log = log_of(&[&a, &other]);
    let all = said(&log, &[row_of(&a)]);
    assert!(
        all[0].starts_with("dead_letters lacks t-1 (transacciones_validas-0@1, conflict"),
        "{all:?}"
    );
    let payload = log.valid[1].value.as_deref().map(half);
    let row = refused::Row { reason: "conflict".into(), payload, original: payload };
    log.dead_rows.push((VALID, 1, row));
    assert!(said(&log, &[row_of(&a)]).is_empty());
}

#[test]
fn what_the_sink_has_not_come_to_is_not_judged() {
    let (a, b) = two();
    let mut log = log_of(&[&a, &b]);
    log.stored_until = 1;
    assert!(said(&log, &[row_of(&a)]).is_empty());
    let all = said(&log, &[row_of(&a), row_of(&b)]);
    assert!(all[0].contains("the sink has not come to transacciones_validas-0@1"), "{all:?}");
}

#[test]
fn a_fingerprint_is_of_every_column() {
    let (a, _) = two();
    let mut b = a.clone();
    b.source_seq += 1;
    assert_ne!(columns(&a), columns(&b));
    assert_eq!(Place::new(VALID, 0, 1).short(), "0@1");
}

/// What is said when these rows are there, what is missing, and further records of the same.
fn retired_before(log: &TestLog, before: i64, rows: &[Stored]) -> (Vec<String>, u64, u64) {
    let mut cut = log.cut();
    cut.retired.insert(VALID, Retired { before, ..Retired::default() });
    let mut differences = Differences::new(Topics::of(&[]));
    let valid = log.valid(&cut, &mut differences);
    let mut all = Rows::new(&cut, &valid, Vec::new());
    rows.iter().for_each(|row| all.observe(row.clone(), &mut differences).expect("sum"));
    all.finish(&mut differences);
    (differences.drafts(), all.missing.count(), all.again)
}

#[test]
fn only_old_rows_may_have_been_retired() {
    let (a, b) = (purchase("t-1", "a", 1050, 60_000_000), purchase("t-2", "a", 99, 120_000_000));
    let log = log_of(&[&a, &b]);
    assert_eq!(retired_before(&log, 120_000_000, &[row_of(&b)]), (vec![], 1, 0));
    assert_eq!(retired_before(&log, 180_000_000, &[]), (vec![], 2, 0));
    let (said, missing, _) = retired_before(&log, 120_000_000, &[]);
    assert_eq!(said, ["transactions lacks {} (transacciones_validas-0@1)"]);
    assert_eq!(missing, 1);
}

#[test]
fn a_repeat_of_a_retired_row_is_a_duplicate_or_a_row_again() {
    let (a, _) = two();
    let other = purchase("t-1", "a", 77, 60_000_000);
    // Said twice, and then with other contents, which only a row that was made again can have.
    let log = log_of(&[&a, &a, &other]);
    assert_eq!(retired_before(&log, 120_000_000, &[]), (vec![], 2, 1));
    assert_eq!(retired_before(&log, 120_000_000, &[row_of(&a)]), (vec![], 1, 1));
    assert_eq!(retired_before(&log, 120_000_000, &[row_of(&other)]), (vec![], 1, 1));
}
