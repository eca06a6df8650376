//! Faults in the midst of a batch: another session holds what the sink needs next, and the fault
//! comes while the sink waits for it. And what three tables and the books hold afterwards.

use super::{Scratch, Sink, alert, gold, transaction, valid};
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_sink::fault::Fault;
use caudal_sink::store::{Stored, Trouble};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use std::ops::Range;
use std::str::FromStr as _;
use std::thread;
use std::time::{Duration, Instant};

pub const TOPICS: [&str; 3] = ["alertas_fraude", "transacciones_validas", "ventas_gold"];
/// The sink waits for a lock, in a db_tx in which it has locked its positions.
pub const WAITS: &str = "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_xid IS NOT NULL
    AND wait_event_type = 'Lock' AND application_name = 'caudal-sink'
    AND datname = current_database()";
pub const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'caudal-sink' AND datname = current_database()";

/// Another session of the same database.
pub struct Session {
    runtime: tokio::runtime::Runtime,
    connection: PgConnection,
}

impl Session {
    pub fn open(url: &str) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = PgConnectOptions::from_str(url).unwrap().disable_statement_logging();
        let connection = runtime.block_on(options.connect()).unwrap();
        Session { runtime, connection }
    }

    pub fn run(&mut self, sql: &str) {
        self.runtime.block_on(self.connection.execute(sqlx::raw_sql(sql))).unwrap();
    }
}

/// Waits until a query gives true.
pub fn until(db: &mut Scratch, sql: &str) {
    let limit = Instant::now() + Duration::from_secs(30);
    while db.text(sql) != "true" {
        assert!(Instant::now() < limit, "not within 30 s: {sql}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Stores records; once the sink waits for what another session has taken by `takes`, `then`
/// happens, with that session, whose db_tx is still open.
pub fn in_midst(
    db: &mut Scratch,
    sink: &mut Sink,
    records: &[(TopicPartition, Record)],
    takes: &str,
    then: impl FnOnce(&mut Scratch, &mut Session),
) -> Result<Stored, Trouble> {
    let mut other = Session::open(&db.url);
    other.run(&format!("BEGIN; {takes}"));
    thread::scope(|scope| {
        let storing = scope.spawn(|| sink.store(records));
        until(db, WAITS);
        then(db, &mut other);
        storing.join().unwrap()
    })
}

/// An alert, a transaction of 1.00 and a row of `ventas_gold` for each number, at that offset. The
/// sink writes them in this order.
pub fn flow(numbers: Range<i64>) -> Vec<(TopicPartition, Record)> {
    let mut records = Vec::new();
    for n in numbers {
        records.push(alert(n, &format!("a{n}"), 1));
        records.push(valid(n, &transaction(&format!("t{n}"), 100)));
        records.push(gold(n, &format!("m{n}"), 1));
    }
    records
}

/// The three tables hold exactly the flow up to `n`, each row once, and the positions and ledgers say
/// so too.
pub fn assert_holds(db: &mut Scratch, n: i64, what: &str) {
    let rows = "SELECT row(
        (SELECT row(count(*), count(DISTINCT account_id), sum(intentos)) FROM fraud_alerts),
        (SELECT row(count(*), count(DISTINCT transaction_id), sum(amount)) FROM transactions),
        (SELECT row(count(*), count(DISTINCT merchant_id), sum(ventas)) FROM ventas_gold),
        (SELECT count(*) FROM dead_letters))";
    let wanted = format!("(\"({n},{n},{n})\",\"({n},{n},{n}.00)\",\"({n},{n},{n})\",0)");
    assert_eq!(db.text(rows), wanted, "{what}");
    let books = "SELECT string_agg(concat_ws(' ', topic, next_offset, rows, duplicates, conflicts,
        dead, deleted, sums), E'\\n' ORDER BY topic) FROM sink_offsets";
    let line = |topic, sums: &str| format!("{topic} {n} {n} 0 0 0 0 {sums}");
    let sums = format!("{{\"rows\": {{\"EUR\": \"{n}.00\"}}}}");
    let lines = [line(TOPICS[0], "{}"), line(TOPICS[1], &sums), line(TOPICS[2], "{}")];
    assert_eq!(db.text(books), lines.join("\n"), "{what}");
}

/// The fault for which a batch is to be tried again. No value of a row is quoted.
pub fn retried(outcome: Result<Stored, Trouble>) -> Fault {
    match outcome {
        Err(Trouble::Retry(fault)) => without_values(fault),
        other => panic!("not to be tried again: {other:?}"),
    }
}

/// The fault that stops the sink. No value of a row is quoted.
pub fn stopped(outcome: Result<Stored, Trouble>) -> Fault {
    match outcome {
        Err(Trouble::Stop(fault)) => without_values(fault),
        other => panic!("does not stop: {other:?}"),
    }
}

fn without_values(fault: Fault) -> Fault {
    for value in ["t1", "m1", "a1", "account\"", "1.00", "tienda"] {
        assert!(!fault.text.contains(value), "a value is quoted: {fault}");
    }
    fault
}
