//! A server that was changed in the midst of a batch: the sink stops and says what is wrong, no row
//! is called poison, and once it is mended everything is stored once. `CAUDAL_TEST_DATABASE_URL`
//! names the server. docs/faults.md has the table.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use support::midst::{TOPICS, assert_holds, flow, in_midst, stopped};
use support::{Scratch, Sink};

/// The sink has locked its positions, and transactions and `ventas_gold` are still to come.
const BEFORE_ALERTS: &str = "LOCK TABLE fraud_alerts IN SHARE MODE";

struct Case {
    sqlstate: &'static str,
    change: &'static str,
    mend: &'static str,
    /// What an operator must be able to read.
    says: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        sqlstate: "42703",
        change: "ALTER TABLE transactions RENAME COLUMN country TO land",
        mend: "ALTER TABLE transactions RENAME COLUMN land TO country",
        says: "column \"country\" of relation \"transactions\" does not exist",
    },
    Case {
        sqlstate: "42P01",
        change: "ALTER TABLE transactions RENAME TO elsewhere",
        mend: "ALTER TABLE elsewhere RENAME TO transactions",
        says: "relation \"transactions\" does not exist",
    },
    Case {
        sqlstate: "42804",
        change: "ALTER TABLE ventas_gold ALTER minimo TYPE jsonb USING to_jsonb(minimo)",
        mend: "ALTER TABLE ventas_gold ALTER minimo TYPE numeric USING (minimo #>> '{}')::numeric",
        says: "column \"minimo\" is of type jsonb but expression is of type numeric",
    },
    Case {
        sqlstate: "22P03",
        change: "ALTER TABLE transactions ALTER source_seq TYPE integer",
        mend: "ALTER TABLE transactions ALTER source_seq TYPE bigint",
        says: "SQLSTATE=22P03",
    },
];

#[test]
fn a_changed_table() {
    for case in &CASES {
        let Some(mut db) = Scratch::create() else { return };
        let mut sink = db.writer().claiming(&TOPICS);
        sink.store(&flow(0..10)).unwrap();
        let outcome = in_midst(&mut db, &mut sink, &flow(10..20), BEFORE_ALERTS, |db, other| {
            db.run(case.change);
            other.run("ROLLBACK");
        });
        let fault = stopped(outcome);
        assert_eq!(fault.sqlstate.as_deref(), Some(case.sqlstate));
        assert!(fault.text.contains(case.says), "{fault}");
        db.run(case.mend);
        assert_holds(&mut db, 10, case.sqlstate);
        // As whoever supervises it does.
        let mut sink = db.writer().claiming(&TOPICS);
        sink.store(&flow(10..20)).unwrap();
        assert_holds(&mut db, 20, case.sqlstate);
    }
}

#[test]
fn a_right_that_was_taken_away() {
    let Some(mut db) = Scratch::create() else { return };
    let (role, url) = db.role("poor", &["SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public"]);
    let mut sink = Sink::new(&url).claiming(&TOPICS);
    sink.store(&flow(0..10)).unwrap();
    let outcome = in_midst(&mut db, &mut sink, &flow(10..20), BEFORE_ALERTS, |db, other| {
        db.run(&format!("REVOKE INSERT ON transactions FROM {role}"));
        other.run("ROLLBACK");
    });
    let fault = stopped(outcome);
    assert_eq!(fault.sqlstate.as_deref(), Some("42501"));
    assert!(fault.text.contains("permission denied for table transactions"), "{fault}");
    assert_holds(&mut db, 10, "42501");
    db.run(&format!("GRANT INSERT ON transactions TO {role}"));
    let mut sink = Sink::new(&url).claiming(&TOPICS);
    sink.store(&flow(10..20)).unwrap();
    assert_holds(&mut db, 20, "42501");
    drop(sink);
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// A statement that was prepared for another table is prepared again, and the batch is stored.
#[test]
fn a_cached_plan_is_made_again() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&TOPICS);
    sink.store(&flow(0..10)).unwrap();
    db.run("ALTER TABLE sink_offsets ALTER topic TYPE varchar");
    let stored = sink.store(&flow(10..20)).unwrap();
    let met: Vec<_> = stored.met.iter().map(|fault| fault.sqlstate.as_deref()).collect();
    assert_eq!(met, [Some("0A000")]);
    assert_holds(&mut db, 20, "0A000");
    assert!(sink.store(&flow(20..30)).unwrap().met.is_empty());
    assert_holds(&mut db, 30, "0A000");
}
