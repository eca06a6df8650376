//! A COMMIT whose answer is lost: a proxy between the sink and a real PostgreSQL cuts the
//! connection at the COMMIT, before or after the server has seen it.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_sink::store::Trouble;
use std::thread;
use support::midst::{Session, assert_holds, flow, retried, until};
use support::proxy::{CUT_AFTER, CUT_BEFORE, FAIL_SILENTLY, Proxy};
use support::{Scratch, Sink, at, gold, no_gold, valids};

fn attempt(mode: u8) {
    let Some(mut db) = Scratch::create() else { return };
    let proxy = Proxy::to(&db.url);
    let mut sink = Sink::new(&proxy.url).claiming(&["transacciones_validas"]);
    sink.store(&valids(0, 0..5)).unwrap();
    proxy.at_next(mode);
    let records = valids(5, 5..10);
    match sink.store(&records) {
        Err(Trouble::Retry(fault)) => assert!(fault.disconnected),
        other => panic!("{other:?}"),
    }
    // The answer is the same, whether the server had committed or not.
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["transactions"], stored.duplicates, stored.staged), (5, 0, false));
    assert_eq!(db.count("transactions"), 10);
    assert_eq!(db.text("SELECT row(next_offset, rows) FROM sink_offsets"), "(10,10)");
    sink.store(&valids(10, 10..12)).unwrap();
    assert_eq!(db.text("SELECT row(next_offset, rows) FROM sink_offsets"), "(12,12)");
}

#[test]
fn a_commit_that_never_arrived_is_done_again() {
    attempt(CUT_BEFORE);
}

#[test]
fn a_commit_whose_answer_was_lost_is_not() {
    attempt(CUT_AFTER);
}

#[test]
fn a_row_that_was_taken_back_in_doubt_is_taken_back_once() {
    for mode in [CUT_BEFORE, CUT_AFTER] {
        let Some(mut db) = Scratch::create() else { return };
        let proxy = Proxy::to(&db.url);
        let mut sink = Sink::new(&proxy.url).claiming(&["ventas_gold"]);
        sink.store(&[gold(0, "a", 1), gold(1, "b", 1)]).unwrap();
        proxy.at_next(mode);
        let records = [no_gold(2, "a"), gold(3, "b", 2)];
        assert!(matches!(sink.store(&records), Err(Trouble::Retry(_))));
        let stored = sink.store(&records).unwrap();
        assert_eq!((stored.rows["ventas_gold"], stored.deleted["ventas_gold"]), (1, 1));
        assert_eq!(db.text("SELECT string_agg(merchant_id || ventas, ',') FROM ventas_gold"), "b2");
        assert_eq!(db.text("SELECT row(next_offset, rows, deleted) FROM sink_offsets"), "(4,3,1)");
    }
}

#[test]
fn a_doubtful_commit_whose_partition_was_taken_over_is_fenced() {
    for mode in [CUT_BEFORE, CUT_AFTER] {
        let Some(mut db) = Scratch::create() else { return };
        let proxy = Proxy::to(&db.url);
        let mut sink = Sink::new(&proxy.url).claiming(&["transacciones_validas"]);
        proxy.at_next(mode);
        let records = valids(0, 0..5);
        assert!(matches!(sink.store(&records), Err(Trouble::Retry(_))));
        let mut successor = db.writer().claiming(&["transacciones_validas"]);
        assert!(matches!(sink.store(&records), Err(Trouble::Fenced(_))));
        let from = successor.owned[&at("transacciones_validas", 0)].next_offset;
        assert_eq!(from, if mode == CUT_AFTER { 5 } else { 0 });
        let batch = successor.batch(&records);
        if !batch.is_empty() {
            successor.store(&records).unwrap();
        }
        assert_eq!(db.count("transactions"), 5);
    }
}

/// While the server commits: it has written the COMMIT down and waits for a standby that does not
/// come, as long as the test wants it to.
#[test]
fn a_commit_that_was_cut_off_in_its_midst_is_waited_for() {
    struct Unsynced(Session);
    impl Drop for Unsynced {
        fn drop(&mut self) {
            self.0.run("ALTER SYSTEM RESET synchronous_standby_names");
            self.0.run("SELECT pg_reload_conf()");
        }
    }
    let Some(mut db) = Scratch::create() else { return };
    let proxy = Proxy::to(&db.url);
    // Appended only: a staging table is a commit of its own, which would wait too.
    let mut sink = Sink::new(&proxy.url).claiming(&["transacciones_validas"]);
    sink.store(&valids(0, 0..10)).unwrap();
    let mut unsynced = Unsynced(Session::open(&db.url));
    unsynced.0.run("SET synchronous_commit = local");
    unsynced.0.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    unsynced.0.run("SELECT pg_reload_conf()");
    until(&mut db, "SELECT current_setting('synchronous_standby_names') = 'nobody'");
    let records = valids(10, 10..20);
    proxy.at_next(CUT_AFTER);
    let fault = retried(sink.store(&records));
    assert!(fault.disconnected && fault.sqlstate.is_none());
    let commits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'
        AND query = 'COMMIT' AND datname = current_database()";
    until(&mut db, commits);
    assert_eq!(db.count("transactions"), 10, "nobody sees it yet");
    let stored = thread::scope(|scope| {
        let storing = scope.spawn(|| sink.store(&records));
        until(
            &mut db,
            "SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE NOT l.granted AND a.application_name = 'caudal-sink'
                AND a.datname = current_database()",
        );
        drop(unsynced);
        storing.join().unwrap().unwrap()
    });
    assert_eq!((stored.rows["transactions"], stored.duplicates), (10, 0));
    sink.store(&valids(20, 20..30)).unwrap();
    let rows =
        "SELECT row(count(*), count(DISTINCT transaction_id), sum(amount)) FROM transactions";
    assert_eq!(db.text(rows), "(30,30,30.00)");
    assert_eq!(db.text("SELECT row(next_offset, rows) FROM sink_offsets"), "(30,30)");
    assert_eq!(db.count("dead_letters"), 0);
}

/// PostgreSQL answers the COMMIT of a db_tx that failed unnoticed with ROLLBACK, and no error. The
/// positions say what is stored: the next batch finds them where they were, and all of it is read
/// again from there.
#[test]
fn a_commit_that_was_answered_by_rollback_loses_nothing() {
    let Some(mut db) = Scratch::create() else { return };
    let proxy = Proxy::to(&db.url);
    let mut sink = Sink::new(&proxy.url).claiming(&support::midst::TOPICS);
    sink.store(&flow(0..10)).unwrap();
    proxy.at_next(FAIL_SILENTLY);
    sink.store(&flow(10..20)).unwrap();
    assert_holds(&mut db, 10, "nothing was committed");
    match sink.store(&flow(20..30)) {
        Err(Trouble::Fenced(partitions)) => assert_eq!(partitions.len(), 3),
        other => panic!("{other:?}"),
    }
    assert_holds(&mut db, 10, "nothing is stored out of order");
    let mut sink = sink.claiming(&support::midst::TOPICS);
    assert!(sink.owned.values().all(|position| position.next_offset == 10));
    sink.store(&flow(10..30)).unwrap();
    assert_holds(&mut db, 30, "read again");
}
