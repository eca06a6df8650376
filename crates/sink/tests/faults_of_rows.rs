//! Rows that a real PostgreSQL refuses in the midst of a batch: each alone is a dead letter, with its
//! SQLSTATE and without its values, and the rest is stored. `CAUDAL_TEST_DATABASE_URL` names the
//! server. docs/faults.md has the table.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_core::decode::Record;
use caudal_core::transaction::{Kind, Transaction};
use caudal_kafka::TopicPartition;
use caudal_sink::store::{Database, PARENT_TRIES, Stored, Trouble};
use support::midst::{in_midst, retried};
use support::{Scratch, Sink, gold, transaction, valid, valids};

const VALIDAS: &str = "transacciones_validas";
const ACCOUNTS: &str = "CREATE TABLE accounts (account_id text PRIMARY KEY);
    INSERT INTO accounts VALUES ('account');
    ALTER TABLE transactions ADD FOREIGN KEY (account_id) REFERENCES accounts";
/// Where the culprit of a batch is.
const CULPRIT: i64 = 21;

struct Case {
    sqlstate: &'static str,
    reason: &'static str,
    /// What makes the server refuse the culprit, and no other row.
    change: &'static str,
    spoil: fn(&mut Transaction<'_>),
    /// Must not be in the error.
    value: &'static str,
}

const CASES: [Case; 9] = [
    Case {
        sqlstate: "22001",
        reason: "constraint",
        change: "ALTER TABLE transactions ALTER merchant_id TYPE varchar(20)",
        spoil: |t| t.merchant_id = "longer than any other".into(),
        value: "longer than",
    },
    Case {
        sqlstate: "22003",
        reason: "amount",
        change: "ALTER TABLE transactions ALTER amount TYPE numeric(4, 2)",
        spoil: |t| t.amount.units = 123_456,
        value: "1234",
    },
    Case {
        sqlstate: "22021",
        reason: "constraint",
        change: "ALTER TABLE transactions ADD CONSTRAINT readable
            CHECK (convert_from(decode(description, 'hex'), 'UTF8') <> '') NOT VALID",
        spoil: |t| t.description = Some("c328".into()),
        value: "c3",
    },
    Case {
        sqlstate: "22P05",
        reason: "constraint",
        change: "ALTER TABLE transactions ADD CONSTRAINT readable
            CHECK (description::jsonb <> 'null') NOT VALID",
        spoil: |t| t.description = Some(r#"{"clave": "\u0000"}"#.into()),
        value: "clave",
    },
    Case {
        sqlstate: "23502",
        reason: "constraint",
        change: "ALTER TABLE transactions ALTER country SET NOT NULL",
        spoil: |t| t.country = None,
        value: "merchant",
    },
    Case {
        sqlstate: "23505",
        reason: "constraint",
        change: "CREATE UNIQUE INDEX ON transactions (description)",
        spoil: |t| t.description = Some("once".into()),
        value: "once",
    },
    Case {
        sqlstate: "23514",
        reason: "constraint",
        change: "ALTER TABLE transactions ADD CHECK (kind <> 'REFUND')",
        spoil: |t| t.kind = Kind::Refund,
        value: "REFUND",
    },
    Case {
        sqlstate: "23P01",
        reason: "constraint",
        change: "ALTER TABLE transactions ADD EXCLUDE USING gist
            (int8range(source_seq, source_seq, '[]') WITH &&) WHERE (source_seq = 13)",
        spoil: |t| t.source_seq = 13,
        value: "[13",
    },
    Case {
        sqlstate: "54000",
        reason: "constraint",
        change: "CREATE INDEX ON transactions (merchant_id)",
        spoil: |t| t.merchant_id = long_text().into(),
        value: "merchant_id=",
    },
];

/// Longer than an index takes, and not to be compressed below that.
fn long_text() -> String {
    let mut state = 7_u64;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    (0..12_000).map(letter).collect()
}

/// Forty transactions of 1.00 from offset 1 on, of which one is spoilt, and ten rows of another table.
fn with_culprit(spoil: impl Fn(&mut Transaction<'_>)) -> Vec<(TopicPartition, Record)> {
    let mut records = valids(1, 1..41);
    let mut culprit = transaction("culprit", 100);
    spoil(&mut culprit);
    records[usize::try_from(CULPRIT).unwrap() - 1] = valid(CULPRIT, &culprit);
    records.extend((0..10).map(|n| gold(n, &format!("m{n}"), n)));
    records
}

/// One row before the batch; of it all but the culprit are stored, once, and the books agree. The
/// dead letter's error has the words `says` and not the row's `value`.
fn assert_only_the_culprit(db: &mut Scratch, (reason, says): (&str, &str), value: &str) {
    let rows = "SELECT row(count(*), count(DISTINCT transaction_id), sum(amount),
        count(*) FILTER (WHERE transaction_id = 'culprit')) FROM transactions";
    assert_eq!(db.text(rows), "(40,40,40.00,0)", "{says}");
    assert_eq!(db.text("SELECT row(count(*), sum(ventas)) FROM ventas_gold"), "(10,45)");
    let letters = "SELECT string_agg(concat_ws(' ', topic, partition, \"offset\", reason), ',')
        FROM dead_letters";
    assert_eq!(db.text(letters), format!("{VALIDAS} 0 {CULPRIT} {reason}"), "{says}");
    let error = db.text("SELECT error FROM dead_letters");
    assert!(error.contains(says), "{says}: {error}");
    assert!(!error.contains(value) && !error.contains("culprit"), "{says}: {error}");
    let money = if reason == "amount" { "1234.56" } else { "1.00" };
    let books = "SELECT string_agg(concat_ws(' ', next_offset, rows, duplicates, conflicts, dead,
        sums), ',' ORDER BY topic) FROM sink_offsets";
    let wanted = format!(
        "41 40 0 0 1 {{\"dead\": {{\"EUR\": \"{money}\"}}, \"rows\": {{\"EUR\": \"40.00\"}}}},\
         10 10 0 0 0 {{}}"
    );
    assert_eq!(db.text(books), wanted, "{says}");
}

fn met(stored: &Stored) -> Vec<&str> {
    stored.met.iter().filter_map(|fault| fault.sqlstate.as_deref()).collect()
}

#[test]
fn a_row_that_does_not_fit_is_the_only_dead_letter() {
    for case in &CASES {
        let Some(mut db) = Scratch::create() else { return };
        let mut sink = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
        let mut first = transaction("first", 100);
        (first.description, first.source_seq) = (Some("once".into()), 13);
        sink.store(&[valid(0, &first)]).unwrap();
        db.run(case.change);
        let stored = sink.store(&with_culprit(case.spoil)).unwrap();
        assert!(met(&stored).contains(&case.sqlstate), "{}: {:?}", case.sqlstate, stored.met);
        let says = format!("[SQLSTATE={}", case.sqlstate);
        assert_only_the_culprit(&mut db, (case.reason, &says), case.value);
        // The next batch is unharmed.
        assert_eq!(sink.store(&valids(41, 41..50)).unwrap().rows["transactions"], 9);
    }
}

/// The text of a row that the database's encoding does not have.
#[test]
fn a_text_that_the_encoding_does_not_have_is_the_only_dead_letter() {
    let latin = "ENCODING 'LATIN1' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'";
    let Some(mut db) = Scratch::create_as(latin) else { return };
    let mut sink = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
    sink.store(&valids(0, 0..1)).unwrap();
    let stored = sink.store(&with_culprit(|t| t.merchant_id = "商人".into())).unwrap();
    assert_eq!(met(&stored), ["22P05"]);
    assert_only_the_culprit(&mut db, ("constraint", "[SQLSTATE=22P05"), "商");
}

/// Told by the sink itself: the server would refuse the whole batch (22021).
#[test]
fn nul_never_reaches_the_server() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
    sink.store(&valids(0, 0..1)).unwrap();
    let stored = sink.store(&with_culprit(|t| t.merchant_id = "n\0l".into())).unwrap();
    assert!(stored.met.is_empty() && !stored.staged);
    assert_only_the_culprit(&mut db, ("constraint", "a text contains NUL"), "n\0l");
}

#[test]
fn a_parent_row_that_comes_in_time_saves_its_row() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(ACCOUNTS);
    let mut sink = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
    sink.store(&valids(0, 0..1)).unwrap();
    let records = with_culprit(|t| t.account_id = "newcomer".into());
    let mut other = support::midst::Session::open(&db.url);
    other.run("BEGIN; INSERT INTO accounts VALUES ('newcomer')");
    for _ in 1..PARENT_TRIES {
        let fault = retried(sink.store(&records));
        assert_eq!(fault.sqlstate.as_deref(), Some("23503"));
        assert!(!fault.text.contains("newcomer"), "{fault}");
        assert_eq!((db.count("transactions"), db.count("ventas_gold")), (1, 0));
    }
    other.run("COMMIT");
    sink.store(&records).unwrap();
    assert_eq!(db.text("SELECT row(count(*), sum(amount)) FROM transactions"), "(41,41.00)");
    assert_eq!(db.count("dead_letters"), 0);
    let books = "SELECT row(next_offset, rows, dead) FROM sink_offsets WHERE rows > 10";
    assert_eq!(db.text(books), "(41,41,0)");
}

#[test]
fn a_parent_row_that_never_comes_makes_its_row_a_dead_letter() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(ACCOUNTS);
    let mut sink = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
    sink.store(&valids(0, 0..1)).unwrap();
    let records = with_culprit(|t| t.account_id = "nobody".into());
    for _ in 0..PARENT_TRIES {
        assert_eq!(retried(sink.store(&records)).sqlstate.as_deref(), Some("23503"));
        assert_eq!((db.count("transactions"), db.count("dead_letters")), (1, 0));
    }
    assert_eq!(met(&sink.store(&records).unwrap()), ["23503"]);
    assert_only_the_culprit(&mut db, ("constraint", "[SQLSTATE=23503"), "nobody");
    // The next batch has patience of its own, also where another row of it is poison.
    db.run("ALTER TABLE transactions ADD CHECK (amount <> 6.66)");
    let mut orphan = transaction("orphan", 100);
    orphan.account_id = "nobody".into();
    let records = [valid(41, &transaction("poison", 666)), valid(42, &orphan)];
    assert_eq!(retried(sink.store(&records)).sqlstate.as_deref(), Some("23503"));
    assert_eq!(sink.store_at_last(&records).dead["constraint"], 2);
    assert_eq!((db.count("transactions"), db.count("dead_letters")), (40, 3));
}

/// Another session commits two of the batch's keys while the sink waits for it: one row is equal, one
/// is not.
#[test]
fn keys_that_another_session_commits_are_a_duplicate_and_a_conflict() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.store(&valids(0, 0..10)).unwrap();
    let theirs =
        "INSERT INTO transactions SELECT id, account_id, merchant_id, amount + more, currency,
            kind, country, event_time, description, attributes, 'theirs', 0, '{}'
        FROM transactions, (VALUES ('t15', 0), ('t16', 0.01)) AS new(id, more)
        WHERE transaction_id = 't0'";
    let stored = in_midst(&mut db, &mut sink, &valids(10, 10..20), theirs, |_, other| {
        other.run("COMMIT");
    });
    let stored = stored.unwrap();
    assert_eq!(met(&stored), ["23505"]);
    assert_eq!((stored.rows["transactions"], stored.duplicates, stored.conflicts), (8, 1, 1));
    let rows = "SELECT row(count(*), sum(amount), count(*) FILTER (WHERE source = 'theirs'))
        FROM transactions";
    assert_eq!(db.text(rows), "(20,20.01,2)");
    let letters = "SELECT string_agg(\"offset\" || ' ' || reason || ' ' || error, ',')
        FROM dead_letters";
    let wanted = "16 conflict the key is in the table already, with other contents";
    assert_eq!(db.text(letters), wanted);
    let books = "SELECT concat_ws(' ', next_offset, rows, duplicates, conflicts, dead, sums)
        FROM sink_offsets";
    assert_eq!(
        db.text(books),
        r#"20 18 1 1 0 {"rows": {"EUR": "18.00"}, "conflicts": {"EUR": "1.00"}, "duplicates": {"EUR": "1.00"}}"#
    );
}

/// The staging table of the session is older than the column: it must not refuse what fits now.
#[test]
fn a_column_that_was_widened_takes_what_fits_now() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE transactions ALTER merchant_id TYPE varchar(10)");
    let mut sink: Sink = db.writer().claiming(&[VALIDAS]);
    let long = |offset| {
        let id = format!("t{offset}");
        let mut long = transaction(&id, 100);
        long.merchant_id = "longer than ten".into();
        valid(offset, &long)
    };
    assert_eq!(sink.store(&[long(0)]).unwrap().dead["constraint"], 1);
    db.run("ALTER TABLE transactions ALTER merchant_id TYPE varchar(40)");
    sink.store(&valids(1, 1..2)).unwrap();
    // Once more through staging.
    let again = [valid(2, &transaction("t1", 100)), long(3)];
    let stored = sink.store(&again).unwrap();
    assert_eq!((stored.rows["transactions"], stored.duplicates), (1, 1));
    assert_eq!((db.count("transactions"), db.count("dead_letters")), (2, 1));
}

/// When most rows are refused it is not the rows that are wrong: nothing is buried, and once the
/// table is mended everything is stored.
#[test]
fn a_table_that_refuses_most_rows_stops_the_sink() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE transactions ADD CONSTRAINT wrong CHECK (amount > 5) NOT VALID");
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.database = Database::new(&db.url).unwrap().stopping_at(0.5);
    let records = valids(0, 0..120);
    let Err(Trouble::Halt(why)) = sink.store(&records) else { panic!("it did not halt") };
    assert!(why.contains("120 of the last minute's 120 records"), "{why}");
    assert_eq!((db.count("transactions"), db.count("dead_letters")), (0, 0));
    let books = "SELECT row(next_offset, rows, dead) FROM sink_offsets";
    assert_eq!(db.text(books), "(0,0,0)");
    db.run("ALTER TABLE transactions DROP CONSTRAINT wrong");
    sink.store(&records).unwrap();
    assert_eq!(db.text(books), "(120,120,0)");
}
