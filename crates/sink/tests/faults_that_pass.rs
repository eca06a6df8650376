//! What passes by itself, met by a batch in its midst on a real PostgreSQL: nothing of the batch is
//! stored meanwhile, all of it once afterwards. `CAUDAL_TEST_DATABASE_URL` names the server.
//! docs/faults.md has the table.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_sink::store::Trouble;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use support::midst::{Session, TERMINATE, TOPICS, assert_holds, flow, in_midst, retried, until};
use support::proxy::{HOLD, HOLD_COPY, Proxy};
use support::{Scratch, Sink, transaction, valid};

/// The rows of alerts and transactions are written by then.
const BEFORE_GOLD: &str = "LOCK TABLE ventas_gold IN SHARE MODE";
/// A row that the batch brings too: the sink waits for the end of who inserts it.
const SAME_GOLD: &str = "INSERT INTO ventas_gold
    VALUES ('m15', 'EUR', to_timestamp(0), to_timestamp(60), 7, 7, 7, 7)";

/// A sink that has stored ten of each.
fn begun(db: &mut Scratch) -> Sink {
    let url = db.url.clone();
    begun_at(db, &url)
}

fn begun_at(db: &mut Scratch, url: &str) -> Sink {
    let mut sink = Sink::new(url).claiming(&TOPICS);
    sink.store(&flow(0..10)).unwrap();
    assert_holds(db, 10, "at first");
    sink
}

/// That nothing of the next ten is stored; then they are tried again, and stored once.
fn assert_passes(db: &mut Scratch, sink: &mut Sink, what: &str) {
    assert_holds(db, 10, what);
    sink.store(&flow(10..20)).unwrap();
    assert_holds(db, 20, what);
    sink.store(&flow(20..25)).unwrap();
    assert_holds(db, 25, what);
}

#[test]
fn a_session_that_is_ended_or_a_statement_that_is_cancelled() {
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'caudal-sink' AND datname = current_database()";
    for (code, fault) in [("57P01", TERMINATE), ("57014", cancel)] {
        let Some(mut db) = Scratch::create() else { return };
        let mut sink = begun(&mut db);
        let outcome =
            in_midst(&mut db, &mut sink, &flow(10..20), BEFORE_GOLD, |db, _| db.run(fault));
        assert_eq!(retried(outcome).sqlstate.as_deref(), Some(code));
        assert_passes(&mut db, &mut sink, code);
    }
}

/// Another session holds a row that the batch brings, and waits for the positions that the batch
/// holds: the server lets the batch go.
#[test]
fn a_deadlock() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = begun(&mut db);
    let mut rival = Session::open(&db.url);
    // So that it is never the one that finds the circle, and has to go.
    rival.run("SET deadlock_timeout = '1min'");
    rival.run(&format!("BEGIN; {SAME_GOLD}"));
    let before = "LOCK TABLE transactions IN SHARE MODE";
    let outcome = thread::scope(|scope| {
        in_midst(&mut db, &mut sink, &flow(10..20), before, |db, gate| {
            scope.spawn(move || {
                rival.run("UPDATE sink_offsets SET updated_at = now()");
                rival.run("ROLLBACK");
            });
            until(
                db,
                "SELECT count(*) = 2 FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND datname = current_database()",
            );
            gate.run("ROLLBACK");
        })
    });
    assert_eq!(retried(outcome).sqlstate.as_deref(), Some("40P01"));
    assert_passes(&mut db, &mut sink, "40P01");
}

/// At READ COMMITTED, which is what the sink has unless the database says otherwise, the server never
/// says 40001.
#[test]
fn a_serialization_failure() {
    let Some(mut db) = Scratch::create() else { return };
    let name = db.text("SELECT current_database()");
    db.run(&format!("ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"));
    let mut sink = begun(&mut db);
    let outcome = in_midst(&mut db, &mut sink, &flow(10..20), SAME_GOLD, |_, other| {
        other.run("COMMIT");
    });
    assert_eq!(retried(outcome).sqlstate.as_deref(), Some("40001"));
    db.run("DELETE FROM ventas_gold WHERE ventas = 7");
    assert_passes(&mut db, &mut sink, "40001");
}

/// The time-outs of the sink's session, ten seconds each, at one time.
#[test]
fn time_outs() {
    if std::env::var("CAUDAL_TEST_DATABASE_URL").is_err() {
        println!("skipped: no test database");
        return;
    }
    thread::scope(|scope| {
        for (what, takes) in
            [("a table", "LOCK TABLE ventas_gold IN ACCESS EXCLUSIVE MODE"), ("a row", SAME_GOLD)]
        {
            scope.spawn(move || a_lock_that_is_held_for_too_long(what, takes));
        }
        scope.spawn(a_client_that_idles_in_its_db_tx);
        scope.spawn(a_client_that_is_stopped_in_a_copy);
    });
}

fn a_lock_that_is_held_for_too_long(what: &str, takes: &str) {
    let mut db = Scratch::create().unwrap();
    let mut sink = begun(&mut db);
    let outcome = in_midst(&mut db, &mut sink, &flow(10..20), takes, |_, _| {});
    assert_eq!(retried(outcome).sqlstate.as_deref(), Some("55P03"), "{what}");
    assert_passes(&mut db, &mut sink, what);
}

fn a_client_that_idles_in_its_db_tx() {
    let mut db = Scratch::create().unwrap();
    let proxy = Proxy::to(&db.url);
    let mut sink = begun_at(&mut db, &proxy.url);
    proxy.at_next(HOLD);
    let idles = "SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'idle in transaction'
        AND backend_xid IS NOT NULL AND application_name = 'caudal-sink'
        AND datname = current_database()";
    let outcome = thread::scope(|scope| {
        let storing = scope.spawn(|| sink.store(&flow(10..20)));
        until(&mut db, idles);
        storing.join().unwrap()
    });
    assert_eq!(retried(outcome).sqlstate.as_deref(), Some("25P03"));
    assert_passes(&mut db, &mut sink, "25P03");
}

/// No time-out of the server ends its db_tx: the claim that waits in vain does.
fn a_client_that_is_stopped_in_a_copy() {
    let mut db = Scratch::create().unwrap();
    let proxy = Proxy::to(&db.url);
    let mut sink = begun_at(&mut db, &proxy.url);
    proxy.at_next(HOLD_COPY);
    let copies = "SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active'
        AND wait_event = 'ClientRead' AND query LIKE 'COPY%' AND datname = current_database()";
    thread::scope(|scope| {
        let storing = scope.spawn(|| sink.store(&flow(10..20)));
        until(&mut db, copies);
        let mut successor = db.writer();
        let fault = successor.try_claim(TOPICS[1], 0).unwrap_err();
        assert_eq!(fault.sqlstate.as_deref(), Some("55P03"));
        let mut successor = successor.claiming(&TOPICS);
        assert!(retried(storing.join().unwrap()).disconnected);
        successor.store(&flow(10..20)).unwrap();
    });
    assert!(matches!(sink.store(&flow(10..20)), Err(Trouble::Fenced(_))));
    assert_holds(&mut db, 20, "stored by the successor alone");
}

/// The session is ended in mid-batch, and no other is to be had.
#[test]
fn no_connection_is_left() {
    let Some(mut db) = Scratch::create() else { return };
    let (role, url) = db.role("few", &["SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public"]);
    let mut sink = begun_at(&mut db, &url);
    let outcome = in_midst(&mut db, &mut sink, &flow(10..20), BEFORE_GOLD, |db, _| {
        db.run(&format!("ALTER ROLE {role} CONNECTION LIMIT 0; {TERMINATE}"));
    });
    assert_eq!(retried(outcome).sqlstate.as_deref(), Some("57P01"));
    for _ in 0..3 {
        assert_eq!(retried(sink.store(&flow(10..20))).sqlstate.as_deref(), Some("53300"));
    }
    db.run(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    assert_passes(&mut db, &mut sink, "53300");
    drop(sink);
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// What is left of a primary that became a standby: its sessions write no more, and must be left.
#[test]
fn a_server_that_is_read_only() {
    let Some(mut db) = Scratch::create() else { return };
    let name = db.text("SELECT current_database()");
    let mut sink = begun(&mut db);
    let outcome = in_midst(&mut db, &mut sink, &flow(10..20), BEFORE_GOLD, |db, _| {
        db.run(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on; {TERMINATE}"
        ));
    });
    assert_eq!(retried(outcome).sqlstate.as_deref(), Some("57P01"));
    for _ in 0..3 {
        assert_eq!(retried(sink.store(&flow(10..20))).sqlstate.as_deref(), Some("25006"));
        until(
            &mut db,
            "SELECT count(*) = 0 FROM pg_stat_activity
            WHERE application_name = 'caudal-sink' AND datname = current_database()",
        );
    }
    db.run(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"));
    assert_passes(&mut db, &mut sink, "25006");
}

/// A tablespace on a disk of a few MiB, which is dropped at the end.
struct SmallDisk {
    folder: PathBuf,
    name: String,
    server: Session,
}

impl SmallDisk {
    /// `None`, and a line that says why, where none can be made.
    fn create() -> Option<SmallDisk> {
        let url = std::env::var("CAUDAL_TEST_DATABASE_URL").ok()?;
        let data =
            PathBuf::from(Scratch::create()?.text("SELECT current_setting('data_directory')"));
        let name = format!("caudal_small_{}", std::process::id());
        let folder = data.parent().unwrap().join(&name);
        let Ok(owner) = std::fs::metadata(&data) else {
            println!("skipped: 53100, the server's disk is not this machine's");
            return None;
        };
        std::fs::create_dir_all(&folder).ok()?;
        let options = format!("size=6m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&folder)
            .output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            println!("skipped: 53100, only root can mount a small disk");
            std::fs::remove_dir(&folder).ok();
            return None;
        }
        let mut server = Session::open(&url);
        server.run(&format!("CREATE TABLESPACE {name} LOCATION '{}'", folder.display()));
        Some(SmallDisk { folder, name, server })
    }

    fn grow(&self) {
        let grown =
            Command::new("mount").args(["-o", "remount,size=64m"]).arg(&self.folder).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.server.run(&format!("DROP TABLESPACE {}", self.name));
        Command::new("umount").arg(&self.folder).status().ok();
        std::fs::remove_dir(&self.folder).ok();
    }
}

#[test]
fn a_disk_that_is_full() {
    let Some(disk) = SmallDisk::create() else { return };
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = begun(&mut db);
    db.run(&format!("ALTER TABLE transactions SET TABLESPACE {}", disk.name));
    let mut state = 1_u64;
    let mut letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    // Alerts of the same batch are on the large disk, and some of these rows fit.
    let mut records = flow(10..20);
    for (n, at) in (10..20).zip((1..).step_by(3)) {
        let id = format!("t{n}");
        let mut large = transaction(&id, 100);
        large.description = Some((0..1_000_000).map(&mut letter).collect());
        records[at] = valid(n, &large);
    }
    for _ in 0..2 {
        assert_eq!(retried(sink.store(&records)).sqlstate.as_deref(), Some("53100"));
        assert_holds(&mut db, 10, "53100");
    }
    disk.grow();
    sink.store(&records).unwrap();
    assert_holds(&mut db, 20, "53100");
    assert_eq!(db.text("SELECT sum(length(description)) FROM transactions"), "10000000");
}

/// What this test cannot make for real: no memory, a broken disk, a server that is starting. A
/// trigger says their codes, on both paths.
#[test]
fn codes_that_are_only_raised() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(
        "CREATE TABLE injected (code text);
         CREATE FUNCTION inject() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE found text;
         BEGIN
             SELECT code INTO found FROM injected;
             IF found IS NOT NULL THEN RAISE EXCEPTION 't15' USING ERRCODE = found; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER t BEFORE INSERT ON transactions FOR EACH ROW
             WHEN (NEW.transaction_id LIKE '%5') EXECUTE FUNCTION inject();
         CREATE TRIGGER g BEFORE INSERT ON ventas_gold FOR EACH ROW
             WHEN (NEW.merchant_id LIKE '%5') EXECUTE FUNCTION inject()",
    );
    let mut sink = begun(&mut db);
    let mut stored = 10;
    for code in ["53200", "57P03", "58030"] {
        for table in ["transactions", "ventas_gold"] {
            let other = if table == "transactions" { "ventas_gold" } else { "transactions" };
            db.run(&format!(
                "INSERT INTO injected VALUES ('{code}');
                 ALTER TABLE {table} ENABLE TRIGGER USER; ALTER TABLE {other} DISABLE TRIGGER USER"
            ));
            let records = flow(stored..stored + 10);
            assert_eq!(retried(sink.store(&records)).sqlstate.as_deref(), Some(code));
            assert_holds(&mut db, stored, code);
            db.run("TRUNCATE injected");
            sink.store(&records).unwrap();
            stored += 10;
            assert_holds(&mut db, stored, code);
        }
    }
}
