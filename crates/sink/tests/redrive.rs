//! The sink's own dead letters, tried again in a real PostgreSQL. `CAUDAL_TEST_DATABASE_URL` names a
//! server on which databases may be created.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_sink::ledger::Fate;
use caudal_sink::letters::{Filter, Known, Letter, read, redrive};
use caudal_sink::store::Trouble;
use support::{Scratch, Sink, at, gold, no_gold, transaction, valid, valids};

const VALIDAS: &str = "transacciones_validas";
const LEDGER: &str =
    "SELECT row(rows, duplicates, conflicts, dead, deleted, sums) FROM sink_offsets";
const MARKS: &str = "SELECT string_agg(row(\"offset\", reason, replay_count,
    redriven_at IS NOT NULL)::text, ' ' ORDER BY \"offset\") FROM dead_letters";

/// Tries every letter that was not tried three times.
fn again(db: &Scratch, sink: &Sink, known: &Known) -> (Vec<Letter>, Option<Vec<Fate>>) {
    let runtime = caudal_sink::postgres::runtime().unwrap();
    runtime.block_on(async {
        let options = caudal_sink::postgres::options(&db.url).unwrap();
        let mut connection = caudal_sink::postgres::connect(&options).await.unwrap();
        let filter = Filter { replays_below: Some(3), ..Filter::default() };
        let letters = read(&mut connection, &filter, None, 500).await.unwrap();
        let fates = redrive(&mut connection, &sink.config.routes, &letters, known).await.unwrap();
        (letters, fates)
    })
}

#[test]
fn a_row_that_fits_now_is_stored_with_its_money_and_the_writer_goes_on() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE transactions ADD CONSTRAINT small CHECK (amount < 5)");
    let mut sink = db.writer().claiming(&[VALIDAS]);
    let mut records = valids(0, 0..3);
    records.push(valid(3, &transaction("large", 1000)));
    records.push(valid(4, &transaction("larger", 2000)));
    sink.store(&records).unwrap();
    assert_eq!(
        db.text(LEDGER),
        r#"(3,0,0,2,0,"{""dead"": {""EUR"": ""30.00""}, ""rows"": {""EUR"": ""3.00""}}")"#
    );
    db.run("ALTER TABLE transactions DROP CONSTRAINT small, ADD CHECK (amount < 15)");
    let (letters, fates) = again(&db, &sink, &Known::default());
    assert_eq!(letters[0].place(), "transacciones_validas-0@3");
    assert!(letters[0].is_whole() && letters[0].error.contains("constraint=small"));
    let fates = fates.unwrap();
    assert!(matches!(fates[..], [Fate::Row, Fate::Dead(..)]), "{fates:?}");
    assert_eq!(db.count("transactions"), 4);
    assert_eq!(db.text(MARKS), "(3,constraint,1,t) (4,constraint,1,f)");
    assert_eq!(
        db.text(LEDGER),
        r#"(4,0,0,1,0,"{""dead"": {""EUR"": ""20.00""}, ""rows"": {""EUR"": ""13.00""}}")"#
    );
    // The writer would put its own ledger back: it is fenced, and claims anew.
    assert!(matches!(sink.store(&valids(5, 5..6)), Err(Trouble::Fenced(_))));
    sink.claim(VALIDAS, 0);
    sink.store(&valids(5, 5..6)).unwrap();
    assert_eq!(db.text("SELECT row(rows, dead) FROM sink_offsets"), "(5,1)");
    // What was stored is not tried again; what fails three times is not either.
    for _ in 0..2 {
        assert_eq!(again(&db, &sink, &Known::default()).0.len(), 1);
    }
    assert!(again(&db, &sink, &Known::default()).0.is_empty());
    assert_eq!(db.text(MARKS), "(3,constraint,1,t) (4,constraint,3,f)");
}

#[test]
fn what_is_there_meanwhile_is_a_duplicate_or_a_conflict() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE transactions ADD CONSTRAINT small CHECK (amount < 5)");
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.store(&[valid(0, &transaction("a", 1000)), valid(1, &transaction("b", 1000))]).unwrap();
    db.run("ALTER TABLE transactions DROP CONSTRAINT small");
    sink.store(&[valid(2, &transaction("a", 1000)), valid(3, &transaction("b", 1100))]).unwrap();
    let (_, fates) = again(&db, &sink, &Known::default());
    assert_eq!(fates.unwrap(), [Fate::Duplicate, Fate::Conflict]);
    assert_eq!(db.text(MARKS), "(0,constraint,1,t) (1,conflict,1,f)");
    assert_eq!(
        db.text("SELECT row(rows, duplicates, conflicts, dead) FROM sink_offsets"),
        "(2,1,1,0)"
    );
}

#[test]
fn an_old_value_does_not_replace_a_later_one() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE ventas_gold ADD CONSTRAINT few CHECK (ventas < 100)");
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    sink.store(&[gold(0, "a", 100), gold(1, "b", 200)]).unwrap();
    sink.store(&[gold(2, "a", 3)]).unwrap();
    db.run("ALTER TABLE ventas_gold DROP CONSTRAINT few");
    let position = |next| [(at("ventas_gold", 0), next)].into();
    // The sink stored something after the topic was looked at: nothing is done.
    let early = Known { positions: position(2), superseded: [0].into() };
    assert!(again(&db, &sink, &early).1.is_none());
    assert_eq!(db.text(MARKS), "(0,constraint,0,f) (1,constraint,0,f)");
    let known = Known { positions: position(3), superseded: [0].into() };
    assert_eq!(again(&db, &sink, &known).1.unwrap(), [Fate::Row, Fate::Row]);
    let rows =
        "SELECT string_agg(merchant_id || ventas, ',' ORDER BY merchant_id) FROM ventas_gold";
    assert_eq!(db.text(rows), "a3,b200");
    assert_eq!(db.text("SELECT row(rows, dead) FROM sink_offsets"), "(3,0)");
}

/// Its row is not written, but what it says is in the table's history: as money of a row.
#[test]
fn a_superseded_letter_takes_its_money_along() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE transactions ADD CONSTRAINT small CHECK (amount < 5)");
    let mut sink = db.writer();
    let file = caudal_sink::config::SHIPPED.replacen("\"insert\"", "\"upsert\"", 1);
    sink.config = caudal_sink::config::Config::parse(&file, "sink.toml").unwrap();
    let mut sink = sink.claiming(&[VALIDAS]);
    sink.store(&[valid(0, &transaction("a", 1000)), valid(1, &transaction("b", 200))]).unwrap();
    sink.store(&[valid(2, &transaction("a", 300))]).unwrap();
    assert_eq!(
        db.text(LEDGER),
        r#"(2,0,0,1,0,"{""dead"": {""EUR"": ""10.00""}, ""rows"": {""EUR"": ""5.00""}}")"#
    );
    let known = Known { positions: [(at(VALIDAS, 0), 3)].into(), superseded: [0].into() };
    assert_eq!(again(&db, &sink, &known).1.unwrap(), [Fate::Row]);
    assert_eq!(
        db.text(LEDGER),
        r#"(3,0,0,0,0,"{""dead"": {""EUR"": ""0.00""}, ""rows"": {""EUR"": ""15.00""}}")"#
    );
    assert_eq!(db.text("SELECT row(count(*), sum(amount)) FROM transactions"), "(2,5.00)");
}

#[test]
fn a_tombstone_that_was_refused_takes_its_row_back() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    sink.store(&[gold(0, "a", 1)]).unwrap();
    db.run(
        "CREATE TABLE bills (m text, c text, w timestamptz, FOREIGN KEY (m, c, w)
             REFERENCES ventas_gold (merchant_id, currency, window_start));
         INSERT INTO bills SELECT merchant_id, currency, window_start FROM ventas_gold",
    );
    sink.store_at_last(&[no_gold(1, "a")]);
    assert_eq!(db.text("SELECT row(rows, dead, deleted) FROM sink_offsets"), "(1,1,0)");
    db.run("DELETE FROM bills");
    assert_eq!(again(&db, &sink, &Known::default()).1.unwrap(), [Fate::Gone]);
    assert_eq!(db.count("ventas_gold"), 0);
    assert_eq!(db.text("SELECT row(rows, dead, deleted) FROM sink_offsets"), "(1,0,1)");
}
