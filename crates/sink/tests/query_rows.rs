//! Rows of queries in a real PostgreSQL: taken back by tombstones, and appended where the query is a
//! stream. `CAUDAL_TEST_DATABASE_URL` names a server on which databases may be created.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::row::Value;
use caudal_kafka::TopicPartition;
use caudal_query::plan::Plan;
use support::{Scratch, Sink, at, gold, header, no_gold, record};

const GOLD: &str =
    "SELECT string_agg(merchant_id || ventas, ',' ORDER BY merchant_id) FROM ventas_gold";
const LEDGER: &str = "SELECT row(rows, dead, deleted) FROM sink_offsets";
const DEAD: &str = "SELECT string_agg(topic || \"offset\" || ' ' || reason || ' ' || error, E'\\n'
    ORDER BY \"offset\") FROM dead_letters";

/// A record of a query's topic; a tombstone without values.
fn row(
    sql: &str,
    name: &str,
    offset: i64,
    key: &str,
    values: Option<&[Value]>,
) -> (TopicPartition, Record) {
    let plans = Plan::compile(sql).unwrap();
    let plan = plans.iter().find(|plan| plan.name == name).unwrap();
    let value = values.map(|values| plan.row_schema().encode(plan.schema_id(), values));
    let key = (!key.is_empty()).then(|| key.as_bytes().into());
    (at(name, 0), Record { key, ..record(offset, value.as_deref()) })
}

#[test]
fn tombstones_and_rows_of_one_batch_count_in_their_order() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    sink.store(&[gold(0, "a", 1), gold(1, "b", 1), gold(2, "c", 1)]).unwrap();
    let records = [
        no_gold(3, "a"),
        gold(4, "b", 2),
        no_gold(5, "b"),
        no_gold(6, "c"),
        gold(7, "c", 3),
        gold(8, "d", 4),
        no_gold(9, "e"),
    ];
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["ventas_gold"], stored.deleted["ventas_gold"]), (3, 4));
    assert_eq!(db.text(GOLD), "c3,d4");
    assert_eq!(db.text(LEDGER), "(6,0,4)");
    assert!(sink.batch(&records).is_empty());
    sink.store(&[gold(10, "a", 9)]).unwrap();
    assert_eq!(db.text(GOLD), "a9,c3,d4");
}

#[test]
fn a_rule_takes_back_its_own_row() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(
        "INSERT INTO fraud_alerts SELECT rule, 'a', 'EUR', to_timestamp(60), to_timestamp(120), 1, 1
         FROM unnest(ARRAY['alertas_fraude', 'another']) AS rule",
    );
    let mut sink = db.writer().claiming(&["alertas_fraude"]);
    let key = Some((*b"[\"a\",\"EUR\",60000000]").into());
    let stored = sink.store(&[(at("alertas_fraude", 0), Record { key, ..record(0, None) })]);
    assert_eq!(stored.unwrap().deleted["fraud_alerts"], 1);
    assert_eq!(db.text("SELECT string_agg(rule, ',') FROM fraud_alerts"), "another");
}

#[test]
fn poison_beside_a_tombstone_is_isolated() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE ventas_gold ADD CONSTRAINT few CHECK (ventas < 100)");
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    sink.store(&[gold(0, "a", 1), gold(1, "b", 1), gold(2, "c", 1), gold(3, "d", 1)]).unwrap();
    let records = [
        no_gold(4, "a"),
        gold(5, "b", 100),
        // What is in line behind the poison is a tombstone.
        no_gold(6, "c"),
        gold(7, "c", 100),
        // The tombstone is in line behind nothing: the poison before it is never tried.
        gold(8, "d", 100),
        no_gold(9, "d"),
        gold(10, "e", 5),
    ];
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["ventas_gold"], stored.deleted["ventas_gold"]), (2, 3));
    assert_eq!(db.text(GOLD), "b1,e5");
    assert_eq!(db.text(LEDGER), "(6,2,3)");
    let said = "<redacted> [SQLSTATE=23514; table=ventas_gold; constraint=few]";
    let dead = format!("ventas_gold5 constraint {said}\nventas_gold7 constraint {said}");
    assert_eq!(db.text(DEAD), dead);
}

#[test]
fn a_row_that_may_not_go_makes_its_tombstone_a_dead_letter() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    sink.store(&[gold(0, "a", 1), gold(1, "b", 1)]).unwrap();
    db.run(
        "CREATE TABLE bills (m text, c text, w timestamptz, CONSTRAINT billed FOREIGN KEY (m, c, w)
             REFERENCES ventas_gold (merchant_id, currency, window_start));
         INSERT INTO bills SELECT merchant_id, currency, window_start FROM ventas_gold
             WHERE merchant_id = 'a'",
    );
    let stored = sink.store_at_last(&[gold(2, "a", 2), no_gold(3, "a"), no_gold(4, "b")]);
    assert_eq!((stored.rows["ventas_gold"], stored.deleted["ventas_gold"]), (1, 1));
    // The value before the refused tombstone counts.
    assert_eq!(db.text(GOLD), "a2");
    assert_eq!(db.text(LEDGER), "(3,1,1)");
    assert!(db.text(DEAD).contains("SQLSTATE=23503"), "{}", db.text(DEAD));
    assert_eq!(db.text("SELECT payload IS NULL FROM dead_letters"), "true");
}

#[test]
fn a_tombstone_of_no_key_is_a_dead_letter() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    let nameless = Record { key: None, ..record(1, None) };
    let records = [
        gold(0, "a", 1),
        (at("ventas_gold", 0), nameless),
        (at("ventas_gold", 0), record(2, None)),
    ];
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["ventas_gold"], stored.dead["null_value"]), (1, 2));
    assert_eq!(db.text(LEDGER), "(1,2,0)");
    assert!(db.text(DEAD).contains("whose key is none of query ventas_gold"), "{}", db.text(DEAD));
}

#[test]
fn a_decimal_in_the_key_is_one_key_whatever_its_places() {
    let Some(mut db) = Scratch::create() else { return };
    let sql = "CREATE TABLE importes WITH (KEY_FORMAT = 'JSON') AS \
               SELECT amount, currency, COUNT(*) AS n FROM transacciones_validas \
               GROUP BY amount, currency HAVING COUNT(*) < 3 EMIT CHANGES;";
    let mut sink = Sink::of(&db.url, sql).claiming(&["importes"]);
    // The row says 1.50, because it is in euros; the key of the tombstone says 1.5.
    let key = "[1.5,\"EUR\"]";
    let values = [Value::Decimal(1_500_000_000), Value::Text("EUR".into()), Value::Long(1)];
    let row = |offset, values: Option<&[Value]>| row(sql, "importes", offset, key, values);
    sink.store(&[row(0, Some(&values))]).unwrap();
    assert_eq!(db.text("SELECT amount FROM importes"), "1.50");
    let stored = sink.store(&[row(1, None), row(2, Some(&values)), row(3, None)]).unwrap();
    assert_eq!((stored.rows["importes"], stored.deleted["importes"]), (1, 2));
    assert_eq!(db.count("importes"), 0);
}

const STREAM: &str = "CREATE STREAM grandes AS SELECT account_id, amount, country FROM transacciones_validas \
     WHERE amount > 100;";

fn large(offset: i64, account: &str, nano: i128) -> (TopicPartition, Record) {
    let values = [Value::Text(account.into()), Value::Decimal(nano), Value::Null];
    row(STREAM, "grandes", offset, account, Some(&values))
}

#[test]
fn the_rows_of_a_stream_are_appended_once() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = Sink::of(&db.url, STREAM).claiming(&["grandes"]);
    // The same account and amount twice: two records, two rows.
    let records = [large(0, "a", 150_250_000_000), large(1, "a", 150_250_000_000)];
    let stored = sink.store(&records).unwrap();
    assert!(!stored.staged);
    let rows = "SELECT string_agg(g::text, ' ' ORDER BY __connect_offset) FROM grandes g";
    assert_eq!(db.text(rows), "(0,0,a,150.25,) (0,1,a,150.25,)");
    assert!(sink.batch(&records).is_empty());
    // A commit marker takes an offset, but no number.
    let mut later = large(3, "b", 101_000_000_000);
    later.1.headers[1] = header(headers::SEQUENCE, b"2");
    sink.store(&[later]).unwrap();
    assert_eq!(db.count("grandes"), 3);
    let mut gap = large(4, "b", 101_000_000_000);
    gap.1.headers[1] = header(headers::SEQUENCE, b"4");
    let halt = caudal_sink::batch::Batch::build(vec![gap], &sink.owned, &sink.config.routes);
    assert!(halt.unwrap_err().0.contains("number 3 next, found 4"));
}

#[test]
fn a_stream_that_is_read_again_adds_nothing() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = Sink::of(&db.url, STREAM).claiming(&["grandes"]);
    let records = [large(0, "a", 1_000_000_000_000), large(1, "b", 2_000_000_000_000)];
    sink.store(&records).unwrap();
    db.run("UPDATE sink_offsets SET next_offset = 0, sequences = '{}'");
    let mut again = Sink::of(&db.url, STREAM).claiming(&["grandes"]);
    let other = [records[0].clone(), large(1, "b", 2_500_000_000_000), large(2, "c", 1)];
    let stored = again.store(&other).unwrap();
    assert_eq!((stored.duplicates, stored.conflicts, stored.rows["grandes"]), (1, 1, 1));
    let rows = "SELECT string_agg(account_id || amount, ' ' ORDER BY account_id) FROM grandes";
    assert_eq!(db.text(rows), "a1000 b2000 c0.000000001");
    assert!(db.text(DEAD).starts_with("grandes1 conflict"), "{}", db.text(DEAD));
}

#[test]
fn a_stream_that_gains_a_column_widens_its_table() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = Sink::of(&db.url, STREAM).claiming(&["grandes"]);
    sink.store(&[large(0, "a", 1_000_000_000_000)]).unwrap();
    let wider = STREAM.replace("country FROM", "country, currency FROM");
    let mut sink = Sink::of(&db.url, &wider).claiming(&["grandes"]);
    let text = |text: &str| Value::Text(text.into());
    let values = [text("b"), Value::Decimal(1_000_000_000_000), text("ES"), text("JPY")];
    sink.store(&[row(&wider, "grandes", 1, "b", Some(&values))]).unwrap();
    let rows = "SELECT string_agg(row(account_id, amount, country, currency)::text, ' '
        ORDER BY account_id) FROM grandes";
    assert_eq!(db.text(rows), "(a,1000,,) (b,1000,ES,JPY)");
}

#[test]
fn sessions_over_a_stream_move_when_they_begin_earlier() {
    let Some(mut db) = Scratch::create() else { return };
    let sql = format!(
        "{STREAM} CREATE TABLE visitas AS SELECT account_id, COUNT(*) AS n FROM grandes \
         WINDOW SESSION (1 HOUR) GROUP BY account_id EMIT CHANGES;"
    );
    let mut sink = Sink::of(&db.url, &sql).claiming(&["visitas"]);
    let session = |offset, start: i64, n| {
        let times = [Value::Timestamp(start), Value::Timestamp(9_000_000)];
        let values = [&[Value::Text("a".into())][..], &times, &[Value::Long(n)]].concat();
        row(&sql, "visitas", offset, &format!("[\"a\",{start}]"), Some(&values))
    };
    sink.store(&[session(0, 5_000_000, 1)]).unwrap();
    let gone = row(&sql, "visitas", 1, "[\"a\",5000000]", None);
    sink.store(&[gone, session(2, 2_000_000, 2)]).unwrap();
    let rows = "SELECT string_agg(row(account_id, extract(epoch FROM window_start)::int,
        extract(epoch FROM window_end)::int, n)::text, ' ') FROM visitas";
    assert_eq!(db.text(rows), "(a,2,9,2)");
}
