//! What the server refuses in the middle of a batch, and what the sink makes of it: the table of
//! `fault`, SQLSTATE by SQLSTATE, on a real PostgreSQL. `CAUDAL_TEST_DATABASE_URL` names it.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_sink::store::Trouble;
use support::{Scratch, Sink, gold, transaction, valid, valids};

const VALIDAS: &str = "transacciones_validas";

/// A row that PostgreSQL cannot hold, among rows that it can: it alone is a dead letter.
#[test]
fn a_row_that_does_not_fit_is_the_only_dead_letter() {
    let long = long_text();
    let cases = [
        ("22001", "constraint", "ALTER TABLE transactions ALTER merchant_id TYPE varchar(20)"),
        ("22003", "amount", "ALTER TABLE transactions ALTER amount TYPE numeric(4, 2)"),
        ("23502", "constraint", "ALTER TABLE transactions ALTER country SET NOT NULL"),
        (
            "23503",
            "constraint",
            "CREATE TABLE kinds (kind text PRIMARY KEY);
            INSERT INTO kinds VALUES ('ADJUSTMENT');
            ALTER TABLE transactions ADD FOREIGN KEY (kind) REFERENCES kinds",
        ),
        ("23505", "constraint", "CREATE UNIQUE INDEX ON transactions (description)"),
        ("23514", "constraint", "ALTER TABLE transactions ADD CHECK (source_seq <> 13)"),
        (
            "23P01",
            "constraint",
            "CREATE EXTENSION IF NOT EXISTS btree_gist;
            ALTER TABLE transactions ADD EXCLUDE USING gist (source_seq WITH =)
            WHERE (source_seq = 13)",
        ),
        ("54000", "constraint", "CREATE INDEX ON transactions (merchant_id)"),
    ];
    for (sqlstate, reason, change) in cases {
        let Some(mut db) = Scratch::create() else { return };
        if sqlstate == "23P01" && !has_btree_gist(&mut db) {
            println!("skipped: 23P01, this PostgreSQL has no btree_gist");
            continue;
        }
        let mut sink = db.writer().claiming(&[VALIDAS]);
        let mut first = transaction("first", 100);
        (first.description, first.source_seq) = (Some("once".into()), 13);
        if !["23514"].contains(&sqlstate) {
            sink.store(&[valid(0, &first)]).unwrap();
        }
        db.run(change);
        let mut records = valids(1, 1..40);
        let mut wrong = transaction("wrong", 123_456);
        wrong.merchant_id = long.as_str().into();
        (wrong.country, wrong.description) = (None, Some("once".into()));
        (wrong.kind, wrong.source_seq) = (caudal_core::transaction::Kind::Refund, 13);
        records[20] = valid(21, &wrong);
        if sqlstate == "23514" {
            records.insert(0, valid(0, &transaction("zero", 100)));
        }
        let stored = sink.store(&records).unwrap();
        assert_eq!(stored.dead.get(reason), Some(&1), "{sqlstate}: {stored:?}");
        let errors = "SELECT string_agg(error, ' ') FROM dead_letters";
        assert!(db.text(errors).contains(&format!("SQLSTATE={sqlstate}")), "{}", db.text(errors));
        assert_eq!(db.count("transactions"), 39, "{sqlstate}");
        assert!(!db.text(errors).contains("once"), "{sqlstate}: a value is quoted");
    }
}

/// Longer than an index takes, and not to be compressed below that.
fn long_text() -> String {
    let mut state = 7_u64;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
    };
    (0..12_000).map(letter).collect()
}

fn has_btree_gist(db: &mut Scratch) -> bool {
    let there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'btree_gist'";
    db.text(there) == "1"
}

/// What passes by itself keeps the batch, on both paths; nothing of it is stored meanwhile.
#[test]
fn what_passes_keeps_the_batch() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(
        "CREATE TABLE injected (code text);
         CREATE FUNCTION inject() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE found text;
         BEGIN
             SELECT code INTO found FROM injected;
             IF found IS NOT NULL THEN RAISE EXCEPTION 'secret' USING ERRCODE = found; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER t BEFORE INSERT ON transactions FOR EACH ROW
             WHEN (NEW.transaction_id LIKE '%5') EXECUTE FUNCTION inject();
         CREATE TRIGGER g BEFORE INSERT ON ventas_gold FOR EACH ROW
             WHEN (NEW.ventas = 5) EXECUTE FUNCTION inject()",
    );
    let mut sink = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
    let mut next = 0;
    for code in ["40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P03", "58030"] {
        db.run(&format!("INSERT INTO injected VALUES ('{code}')"));
        let mut records = valids(next, next..next + 10);
        let retried = |outcome: Result<_, Trouble>| match outcome {
            Err(Trouble::Retry(fault)) => {
                assert!(!fault.text.contains("secret"), "{fault}");
                fault.sqlstate.unwrap()
            }
            other => panic!("{code}: {other:?}"),
        };
        assert_eq!(retried(sink.store(&records)), code);
        // The upserts' path, with the same batch growing.
        let golds: Vec<_> = (0..10).map(|n| gold(next + n, &format!("m{n}"), n)).collect();
        assert_eq!(retried(sink.store(&golds)), code);
        assert_eq!(db.count("transactions"), next, "{code}");
        db.run("TRUNCATE injected");
        records.extend(golds);
        sink.store(&records).unwrap();
        next += 10;
    }
    assert_eq!((db.count("transactions"), db.count("ventas_gold")), (next, 10));
    assert_eq!(db.count("dead_letters"), 0);
}

/// A changed server stops the sink, with words: no row is at fault.
#[test]
fn what_does_not_pass_stops() {
    let Some(mut db) = Scratch::create() else { return };
    let role = format!("caudal_sink_fault_{}", std::process::id());
    db.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'x';
         GRANT SELECT ON caudal_migrations TO {role};
         GRANT SELECT, INSERT, UPDATE ON sink_offsets, dead_letters TO {role}"
    ));
    let (_, rest) = db.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:x@{rest}");
    let mut sink = Sink::new(&url).claiming(&[VALIDAS]);
    match sink.store(&valids(0, 0..3)) {
        Err(Trouble::Stop(fault)) => {
            assert_eq!(fault.sqlstate.as_deref(), Some("42501"));
            assert!(fault.text.contains("transactions"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
    // No connection is left for the role: that passes.
    db.run(&format!(
        "GRANT INSERT ON transactions TO {role}; ALTER ROLE {role} CONNECTION LIMIT 0"
    ));
    sink.database = caudal_sink::store::Database::new(&url).unwrap();
    match sink.store(&valids(0, 0..3)) {
        Err(Trouble::Retry(fault)) => assert_eq!(fault.sqlstate.as_deref(), Some("53300")),
        other => panic!("{other:?}"),
    }
    db.run(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    sink.store(&valids(0, 0..3)).unwrap();
    assert_eq!((db.count("transactions"), db.count("dead_letters")), (3, 0));
    drop(sink);
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// A statement that was prepared for another table is prepared again, and the batch is stored.
#[test]
fn a_cached_plan_is_made_again() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.store(&valids(0, 0..3)).unwrap();
    db.run("ALTER TABLE sink_offsets ALTER epoch TYPE numeric; ALTER TABLE sink_offsets ALTER epoch TYPE bigint");
    sink.store(&valids(3, 3..6)).unwrap();
    db.run("ALTER TABLE sink_offsets ALTER topic TYPE varchar");
    sink.store(&valids(6, 6..9)).unwrap();
    assert_eq!(db.count("transactions"), 9);
}
