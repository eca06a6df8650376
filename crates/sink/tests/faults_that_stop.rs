//! A server that was changed in the midst of a batch: the sink stops and says what is wrong, no row
//! is called poison, and once it is mended everything is stored once. `CAUDAL_TEST_DATABASE_URL`
//! names the server. docs/faults.md has the table.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
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

/// Runs openssl in a folder.
fn openssl(folder: &Path, args: &str) {
    let output =
        Command::new("openssl").current_dir(folder).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, `ours` and `theirs`, and a server's certificate of ours for `localhost`.
fn certificates() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("caudal-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for name in ["ours", "theirs"] {
        let files = format!("-keyout {name}.key -out {name}.pem");
        openssl(&folder, &format!("req -x509 {key} -days 2 -subj /CN={name} {files}"));
    }
    openssl(&folder, &format!("req {key} -subj /CN=localhost -keyout server.key -out server.csr"));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    let by = "-CA ours.pem -CAkey ours.key -set_serial 7 -extfile names";
    openssl(&folder, &format!("x509 -req -in server.csr -days 2 {by} -out server.pem"));
    folder
}

/// The server's TLS, off again at the end.
struct ServerTls<'d>(&'d mut Scratch);

impl ServerTls<'_> {
    const FILES: [&'static str; 2] = ["caudal_test.pem", "caudal_test.key"];

    fn on<'d>(db: &'d mut Scratch, folder: &Path) -> ServerTls<'d> {
        for (from, to) in ["server.pem", "server.key"].iter().zip(Self::FILES) {
            let text = std::fs::read_to_string(folder.join(from)).unwrap();
            db.run(&format!(
                "COPY (SELECT unnest(string_to_array('{text}', E'\\n')))
                 TO PROGRAM 'umask 077; cat > {to}'"
            ));
        }
        let tls = ServerTls(db);
        for (setting, value) in
            [("ssl_cert_file", Self::FILES[0]), ("ssl_key_file", Self::FILES[1]), ("ssl", "on")]
        {
            tls.0.run(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
        }
        tls.0.run("SELECT pg_reload_conf()");
        tls
    }
}

impl Drop for ServerTls<'_> {
    fn drop(&mut self) {
        for setting in ["ssl", "ssl_cert_file", "ssl_key_file"] {
            self.0.run(&format!("ALTER SYSTEM RESET {setting}"));
        }
        self.0.run("SELECT pg_reload_conf()");
        self.0.run(&format!("COPY (SELECT) TO PROGRAM 'rm -f {}'", Self::FILES.join(" ")));
    }
}

#[test]
fn a_server_is_believed_only_by_its_certificate() {
    let Some(mut db) = Scratch::create() else { return };
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: no openssl command");
        return;
    }
    if !db.url.contains("@localhost:") {
        println!("skipped: the test database is not at localhost by TCP");
        return;
    }
    let (folder, plain) = (certificates(), db.url.clone());
    let url = |host: &str, authority: &str| {
        let separator = if plain.contains('?') { '&' } else { '?' };
        let file = folder.join(authority).display().to_string();
        let at = plain.replace("@localhost:", &format!("@{host}:"));
        format!("{at}{separator}sslmode=verify-full&sslrootcert={file}")
    };
    let claim = |url: &str| {
        let at = ("transacciones_validas".into(), 0);
        Sink::new(url).database.claim(&at, None, Some(0)).map(|position| position.is_some())
    };
    let refused = |url: &str, why: &str| {
        let fault = claim(url).unwrap_err();
        assert!(fault.text.contains(why), "{why}: {fault}");
        assert_eq!(fault.action, caudal_sink::fault::Action::Stop, "{fault}");
    };
    refused(&url("localhost", "ours.pem"), "TLS");

    let tls = ServerTls::on(&mut db, &folder);
    let begun = Instant::now();
    while claim(&url("localhost", "ours.pem")).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the server has no TLS after a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut sink = Sink::new(&url("localhost", "ours.pem")).claiming(&TOPICS);
    sink.store(&support::valids(0, 0..3)).unwrap();
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE ssl AND application_name = 'caudal-sink' AND datname = current_database()";
    assert_eq!(tls.0.text(encrypted), "1");
    assert_eq!(tls.0.count("transactions"), 3);
    refused(&url("localhost", "theirs.pem"), "certificate");
    refused(&url("127.0.0.1", "ours.pem"), "certificate");
    drop(tls);
    std::fs::remove_dir_all(&folder).unwrap();
}
