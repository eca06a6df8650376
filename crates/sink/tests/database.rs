//! What the sink does to a real PostgreSQL, batch by batch. `CAUDAL_TEST_DATABASE_URL` names a
//! server on which databases may be created.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_core::headers;
use caudal_sink::batch::Batch;
use caudal_sink::store::Trouble;
use support::{Scratch, Sink, at, gold, header, record, transaction, valid, valids};

const VALIDAS: &str = "transacciones_validas";

#[test]
fn rows_arrive_as_they_were_and_a_replay_is_skipped() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    let mut records = vec![valid(0, &transaction("a", -1250)), valid(4, &transaction("b", 5))];
    // A commit marker takes an offset, but no number.
    records[1].1.headers[1] = header(headers::SEQUENCE, b"1");
    let stored = sink.store(&records).unwrap();
    assert!(!stored.staged);
    let row = "SELECT row(transaction_id, account_id, merchant_id, amount, currency, kind, country,
        event_time AT TIME ZONE 'UTC', description, attributes->>'canal', source, source_seq,
        late_for) FROM transactions WHERE transaction_id = 'a'";
    assert_eq!(
        db.text(row),
        "(a,account,merchant,-12.50,EUR,ADJUSTMENT,ES,\"2023-11-14 22:13:20.123456\",,\
         \"tienda \"\"é\"\"\",test,7,{ventas_gold})"
    );
    assert!(sink.batch(&records).is_empty());
    let ledger =
        "SELECT row(next_offset, epoch, sequences, rows, duplicates, conflicts, dead, sums)
        FROM sink_offsets";
    assert_eq!(
        db.text(ledger),
        r#"(5,1,"{""1-0"": 1}",2,0,0,0,"{""rows"": {""EUR"": ""-12.45""}}")"#
    );
}

#[test]
fn a_restart_goes_on_with_sequences_and_ledger() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.store(&valids(0, 0..3)).unwrap();
    let before = sink.owned[&at(VALIDAS, 0)].clone();
    let mut next = db.writer().claiming(&[VALIDAS]);
    let after = next.owned[&at(VALIDAS, 0)].clone();
    assert_eq!(after.epoch, before.epoch + 1);
    assert_eq!((after.sequences, after.ledger), (before.sequences, before.ledger));
    next.store(&valids(3, 3..5)).unwrap();
    assert_eq!(db.text("SELECT rows FROM sink_offsets"), "5");
}

#[test]
fn the_same_ids_again_are_duplicates_or_conflicts() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.store(&valids(0, 0..10)).unwrap();
    // Equal by value though not by digits; arrival and source differ.
    let mut again = transaction("t3", 100);
    (again.amount.units, again.amount.scale, again.source_seq) = (1, 0, 99);
    let mut other = transaction("t4", 100);
    other.description = Some("now there is one".into());
    let mut records = vec![valid(10, &again), valid(11, &other)];
    records.extend(valids(12, 20..25));
    // In one batch: an equal one, and a different one.
    records.push(valid(17, &transaction("t21", 100)));
    records.push(valid(18, &transaction("t22", 101)));
    let stored = sink.store(&records).unwrap();
    assert!(stored.staged);
    assert_eq!((stored.duplicates, stored.conflicts, stored.rows["transactions"]), (2, 2, 5));
    assert_eq!(stored.dead["conflict"], 2);
    assert_eq!(db.count("transactions"), 15);
    let dead = "SELECT string_agg(\"offset\" || ' ' || reason, ',' ORDER BY \"offset\")
        FROM dead_letters";
    assert_eq!(db.text(dead), "11 conflict,18 conflict");
    let sums = "SELECT row(rows, duplicates, conflicts, dead, sums) FROM sink_offsets";
    assert_eq!(
        db.text(sums),
        r#"(15,2,2,0,"{""rows"": {""EUR"": ""15.00""}, ""conflicts"": {""EUR"": ""2.01""}, ""duplicates"": {""EUR"": ""2.00""}}")"#
    );
    // Still through staging, until some batches were clean.
    assert!(sink.store(&valids(19, 30..31)).unwrap().staged);
    for batch in 0..19 {
        sink.store(&valids(20 + batch, 31 + batch..32 + batch)).unwrap();
    }
    assert!(!sink.store(&valids(39, 60..61)).unwrap().staged);
}

#[test]
fn rows_of_a_batch_are_compared_with_what_the_table_has() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    sink.store(&[valid(0, &transaction("t", 100))]).unwrap();
    // The second equals the first of its batch, but that one is not what is stored.
    let units = [200, 200, 100, 300];
    let records: Vec<_> =
        (1..).zip(units).map(|(offset, units)| valid(offset, &transaction("t", units))).collect();
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.duplicates, stored.conflicts), (1, 3));
    let dead = "SELECT string_agg(\"offset\"::text, ',' ORDER BY \"offset\") FROM dead_letters";
    assert_eq!(db.text(dead), "1,2,4");
}

#[test]
fn an_older_epoch_writes_nothing() {
    let Some(mut db) = Scratch::create() else { return };
    let mut zombie = db.writer().claiming(&[VALIDAS, "ventas_gold"]);
    zombie.store(&valids(0, 0..2)).unwrap();
    let mut successor = db.writer().claiming(&[VALIDAS]);
    let mut records = valids(2, 2..4);
    records.push(gold(0, "m", 1));
    match zombie.store(&records) {
        Err(Trouble::Fenced(partitions)) => assert_eq!(partitions, [at(VALIDAS, 0)]),
        other => panic!("{other:?}"),
    }
    assert_eq!((db.count("transactions"), db.count("ventas_gold")), (2, 0));
    successor.store(&valids(2, 2..4)).unwrap();
    // What is not fenced goes on.
    zombie.owned.remove(&at(VALIDAS, 0));
    zombie.store(&records).unwrap();
    assert_eq!((db.count("transactions"), db.count("ventas_gold")), (4, 1));
}

#[test]
fn a_position_changed_by_hand_fences() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    db.run("UPDATE sink_offsets SET next_offset = 40");
    assert!(matches!(sink.store(&valids(0, 0..1)), Err(Trouble::Fenced(_))));
    db.run("DELETE FROM sink_offsets");
    assert!(matches!(sink.store(&valids(0, 0..1)), Err(Trouble::Fenced(_))));
    assert_eq!(db.count("transactions"), 0);
}

#[test]
fn poison_rows_become_dead_letters_and_the_rest_is_stored() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(
        "ALTER TABLE transactions ALTER COLUMN amount TYPE numeric(6, 2);
         ALTER TABLE transactions ADD CONSTRAINT account_known CHECK (account_id <> 'nobody')",
    );
    let mut sink = db.writer().claiming(&[VALIDAS]);
    let mut records = valids(0, 0..100);
    records[17] = valid(17, &transaction("t17", 123_456_789));
    let mut unknown = transaction("t64", 100);
    unknown.account_id = "nobody".into();
    records[64] = valid(64, &unknown);
    // In one batch with poison of the same id: it must not count as its duplicate.
    let mut good = transaction("t64", 100);
    good.account_id = "somebody".into();
    records[80] = valid(80, &good);
    records[81] = valid(81, &good);
    let stored = sink.store(&records).unwrap();
    assert_eq!(db.count("transactions"), 97);
    assert_eq!(stored.duplicates, 1);
    let dead = "SELECT string_agg(row(\"offset\", reason, error)::text, E'\\n' ORDER BY \"offset\")
        FROM dead_letters";
    assert_eq!(
        db.text(dead),
        "(17,amount,\"<redacted> [SQLSTATE=22003]\")\n\
         (64,constraint,\"<redacted> [SQLSTATE=23514; table=transactions; \
         constraint=account_known]\")"
    );
    assert_eq!(db.text("SELECT row(rows, duplicates, dead) FROM sink_offsets"), "(97,1,2)");
    assert_eq!(db.text("SELECT sha256 = encode(sha256(payload), 'hex') FROM dead_letters"), "true");
    // The next batch is unharmed.
    sink.store(&valids(100, 100..110)).unwrap();
    assert_eq!(db.count("transactions"), 107);
}

#[test]
fn a_deferred_constraint_is_no_surprise_at_commit() {
    let Some(mut db) = Scratch::create() else { return };
    db.run(
        "CREATE TABLE accounts (account_id text PRIMARY KEY);
         INSERT INTO accounts VALUES ('account');
         ALTER TABLE transactions ADD FOREIGN KEY (account_id) REFERENCES accounts
             DEFERRABLE INITIALLY DEFERRED",
    );
    let mut sink = db.writer().claiming(&[VALIDAS]);
    let mut unknown = transaction("x", 1);
    unknown.account_id = "nobody".into();
    let mut records = valids(0, 0..5);
    records.push(valid(5, &unknown));
    let stored = sink.store_at_last(&records);
    assert_eq!((stored.rows["transactions"], stored.dead["constraint"]), (5, 1));
}

#[test]
fn the_last_value_of_a_key_wins() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    sink.store(&[gold(0, "a", 1), gold(1, "b", 1), gold(2, "a", 2)]).unwrap();
    sink.store(&[gold(3, "a", 3), gold(5, "b", 5)]).unwrap();
    let rows = "SELECT string_agg(merchant_id || ventas || ' ' || total, ',' ORDER BY 1)
        FROM ventas_gold";
    assert_eq!(db.text(rows), "a3 3.00,b5 5.00");
    assert_eq!(db.text("SELECT rows FROM sink_offsets"), "5");
    // Poison: the value before it stays, the one of the same batch.
    db.run("ALTER TABLE ventas_gold ADD CHECK (ventas < 100)");
    let records = [gold(6, "a", 6), gold(7, "a", 100), gold(8, "b", 8)];
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["ventas_gold"], stored.dead["constraint"]), (2, 1));
    assert_eq!(db.text(rows), "a6 6.00,b8 8.00");
}

#[test]
fn rows_may_be_ignored_or_only_updated() {
    let Some(mut db) = Scratch::create() else { return };
    let file = caudal_sink::config::SHIPPED.replacen("\"insert\"", "\"ignore\"", 1).replacen(
        "\"upsert\"",
        "\"update\"",
        1,
    );
    let mut sink = db.writer();
    sink.config = caudal_sink::config::Config::parse(&file, "sink.toml").unwrap();
    let mut sink = sink.claiming(&[VALIDAS, "ventas_gold"]);
    sink.store(&[valid(0, &transaction("a", 100))]).unwrap();
    // Known from the table, and from the batch.
    let units = [("a", 200), ("b", 300), ("b", 400)];
    let records: Vec<_> =
        (1..).zip(units).map(|(at, (id, units))| valid(at, &transaction(id, units))).collect();
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["transactions"], stored.duplicates, stored.conflicts), (1, 2, 0));
    let rows = "SELECT string_agg(transaction_id || amount, ',' ORDER BY transaction_id)
        FROM transactions";
    assert_eq!(db.text(rows), "a1.00,b3.00");
    db.run(
        "INSERT INTO ventas_gold SELECT 'm', 'EUR', to_timestamp(0), to_timestamp(60), 1, 1, 1, 1",
    );
    sink.store(&[gold(0, "m", 2), gold(1, "n", 2), gold(2, "m", 3)]).unwrap();
    assert_eq!(db.text("SELECT string_agg(merchant_id || ventas, ',') FROM ventas_gold"), "m3");
}

#[test]
fn dead_letters_of_any_bytes_are_stored() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["transacciones_dlq"]);
    let mut odd = record(0, Some(&[0, 0xff, b'{']));
    odd.headers = vec![
        header(headers::REASON, b"amount"),
        header(headers::ERROR_MESSAGE, "bad\0news ".repeat(1000).as_bytes()),
        header(headers::ERROR_TOPIC, b"transacciones"),
        header(headers::ERROR_PARTITION, b"4"),
        header(headers::ERROR_OFFSET, b"99"),
        header(headers::ORIGINAL_TIMESTAMP, b"1700000000123"),
        header("odd\0name", &[0xfe, 0]),
        header(headers::SHA256, b"no hash"),
    ];
    let mut hostile = record(1, None);
    hostile.key = None;
    hostile.headers = vec![
        header(headers::REASON, b"no such reason"),
        header(headers::ERROR_PARTITION, b"99999999999"),
        header(headers::ERROR_OFFSET, b"-"),
        header(headers::ORIGINAL_TIMESTAMP, b"-9223372036854775808"),
    ];
    let topic = at("transacciones_dlq", 0);
    sink.store(&[(topic.clone(), odd), (topic, hostile)]).unwrap();
    let first = "SELECT row(reason, left(error, 8), length(error), payload, original_size,
        source_topic, source_partition, source_offset, extract(epoch FROM source_timestamp),
        headers->'odd\u{fffd}name'->>'hex', sha256 = encode(sha256(payload), 'hex'))
        FROM dead_letters WHERE \"offset\" = 0";
    assert_eq!(
        db.text(first),
        r#"(amount,badnews,2000,"\\x00ff7b",3,transacciones,4,99,1700000000.123000,fe00,t)"#
            .replace("badnews,", "\"badnews \",")
    );
    let second = "SELECT row(reason, key, payload, sha256, source_partition, source_offset,
        source_timestamp) FROM dead_letters WHERE \"offset\" = 1";
    assert_eq!(db.text(second), "(malformed,,,,,,)");
    assert_eq!(db.text("SELECT rows FROM sink_offsets"), "2");
}

#[test]
fn records_that_cannot_be_read_are_the_sinks_own_dead_letters() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&[VALIDAS]);
    let nul = valid(3, &transaction("n\0l", 1));
    let mut early = transaction("early", 100);
    early.event_time = i64::MIN;
    let bad = |offset, bytes: &[u8]| (at(VALIDAS, 0), record(offset, Some(bytes)));
    let records = [
        bad(0, b"{}"),
        bad(1, &[0, 0, 0, 0, 1, 9]),
        (at(VALIDAS, 0), record(2, None)),
        nul,
        valid(4, &early),
        valid(5, &transaction("ok", 100)),
    ];
    let stored = sink.store(&records).unwrap();
    assert_eq!(stored.rows["transactions"], 1);
    let reasons = "SELECT string_agg(reason, ',' ORDER BY \"offset\") FROM dead_letters";
    assert_eq!(db.text(reasons), "malformed,schema,null_value,constraint,timestamp");
    let place = "SELECT row(source_topic, source_partition, source_offset) FROM dead_letters
        WHERE \"offset\" = 1";
    assert_eq!(db.text(place), "(transacciones_validas,0,1)");
}

#[test]
fn a_dead_letter_that_is_there_already_halts() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["transacciones_dlq"]);
    let letter = (at("transacciones_dlq", 0), record(0, Some(b"x")));
    sink.store(std::slice::from_ref(&letter)).unwrap();
    db.run("DELETE FROM sink_offsets");
    sink.claim("transacciones_dlq", 0);
    assert!(matches!(sink.store(&[letter]), Err(Trouble::Halt(_))));
}

#[test]
fn migrations_run_once_and_refuse_edits() {
    let Some(mut db) = Scratch::create() else { return };
    assert!(caudal_sink::migrate(&db.url).unwrap().is_empty());
    db.run("UPDATE caudal_migrations SET sha256 = 'x'");
    assert!(caudal_sink::migrate(&db.url).unwrap_err().text.contains("differs"));
    db.run("INSERT INTO caudal_migrations VALUES (9999, '9999_later', 'x')");
    db.run("DELETE FROM caudal_migrations WHERE number < 9999");
    assert!(caudal_sink::migrate(&db.url).unwrap_err().text.contains("newer"));
}

#[test]
fn a_role_without_the_right_to_create_can_run_the_sink() {
    let Some(mut db) = Scratch::create() else { return };
    let (role, url) = db.role(
        "role",
        &[
            "SELECT ON caudal_migrations",
            "SELECT, INSERT, UPDATE ON sink_offsets, transactions, dead_letters",
        ],
    );
    assert!(caudal_sink::migrate(&url).unwrap().is_empty());
    let mut sink = Sink::new(&url).claiming(&[VALIDAS]);
    sink.store(&valids(0, 0..2)).unwrap();
    sink.store(&valids(2, 1..3)).unwrap();
    assert_eq!(db.count("transactions"), 3);
    drop(sink);
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn two_sinks_of_one_database_share_the_partitions() {
    let Some(mut db) = Scratch::create() else { return };
    let mut first = db.writer().claiming(&[VALIDAS]);
    let mut second = Sink::new(&db.url);
    second.claim(VALIDAS, 1);
    let other: Vec<_> = valids(0, 100..200)
        .into_iter()
        .map(|(_, record)| (at(VALIDAS, 1), caudal_core::decode::Record { partition: 1, ..record }))
        .collect();
    let writing = std::thread::spawn(move || second.store(&other).unwrap());
    first.store(&valids(0, 0..100)).unwrap();
    writing.join().unwrap();
    assert_eq!(db.count("transactions"), 200);
}

#[test]
fn many_poison_rows_are_isolated_in_reasonable_time() {
    let Some(mut db) = Scratch::create() else { return };
    db.run("ALTER TABLE transactions ADD CHECK (amount <> 6.66)");
    let mut sink = db.writer().claiming(&[VALIDAS]);
    let mut records = valids(0, 0..5000);
    for offset in (0..5000).step_by(100) {
        let id = format!("t{offset}");
        records[usize::try_from(offset).unwrap()] = valid(offset, &transaction(&id, 666));
    }
    let begun = std::time::Instant::now();
    let stored = sink.store(&records).unwrap();
    println!("5,000 rows with 50 poison rows: {:?}", begun.elapsed());
    assert_eq!((stored.rows["transactions"], stored.dead["constraint"]), (4950, 50));
    assert_eq!((db.count("transactions"), db.count("dead_letters")), (4950, 50));
}

/// As the loop does it: each batch is built while the one before it is stored.
#[test]
fn batches_that_are_built_ahead_keep_the_books() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["transacciones_validas"]);
    // Every batch repeats the last ids of the one before it: duplicates, seen by the database.
    let records = |n: i64| valids(n * 10, n * 8..n * 8 + 10);
    let mut batch = sink.batch(&records(0));
    for n in 1..=5 {
        let after = batch.leaves(&sink.owned);
        let build = || Batch::build(records(n), &after, &sink.config.routes).unwrap();
        let (stored, mut next) = sink.database.store_while(&batch, |_| (), build);
        sink.owned.extend(stored.unwrap().positions);
        next.take_ledgers(&sink.owned);
        batch = next;
    }
    assert_eq!(
        db.text(
            "SELECT row(next_offset, rows, duplicates, conflicts, dead, sums) FROM sink_offsets"
        ),
        r#"(50,42,8,0,0,"{""rows"": {""EUR"": ""42.00""}, ""duplicates"": {""EUR"": ""8.00""}}")"#
    );
    assert_eq!(db.text("SELECT row(count(*), sum(amount)) FROM transactions"), "(42,42.00)");
}

/// Up to a thousand rows go by arrays, more through the staging table: of either, the last value of a
/// key is its row.
#[test]
fn small_and_large_upserts_leave_the_last_value() {
    let Some(mut db) = Scratch::create() else { return };
    let mut sink = db.writer().claiming(&["ventas_gold"]);
    let mut offset = 0;
    for (rows, sales) in [(1_000, 1), (1_001, 2), (3, 3), (1, 4)] {
        let records: Vec<_> = (0..rows)
            .map(|n| {
                offset += 1;
                gold(offset - 1, &format!("m{n}"), sales)
            })
            .collect();
        sink.store(&records).unwrap();
    }
    let found = "SELECT string_agg(format('%s: %s', ventas, n), ', ' ORDER BY ventas)
        FROM (SELECT ventas, count(*) AS n FROM ventas_gold WHERE total = ventas GROUP BY 1) AS g";
    assert_eq!(db.text(found), "2: 998, 3: 2, 4: 1");
    assert_eq!(db.text("SELECT row(next_offset, rows) FROM sink_offsets"), "(2005,2005)");
}
