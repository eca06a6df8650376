//! A dead letter for each reason, from every format that can cause it; the pipeline goes on.

use anyhow::{Result, ensure};
use caudal_core::avro::{Writer, write_transaction};
use caudal_core::headers;
use caudal_core::json::read_transaction;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::partitioner::partition_of;
use caudal_core::schema::Schemas;
use caudal_core::topics;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::{query, topic};
use caudal_kafka::txn::TxnProducer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const GOOD: &str = r#"{"transaction_id":"ID","account_id":"acc-1","merchant_id":"m-1","amount":"12.50","currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z"}"#;

/// A record to send: its key and value, and the reason it must come out with (`None`: a row).
struct Case {
    key: Option<&'static str>,
    value: Option<Vec<u8>>,
    expected: Option<&'static str>,
}

fn json(id: &str, from: &str, to: &str) -> Vec<u8> {
    GOOD.replace("\"ID\"", &format!("\"{id}\"")).replace(from, to).into_bytes()
}

fn avro(id: &str, change: impl FnOnce(&mut caudal_core::transaction::Transaction<'_>)) -> Vec<u8> {
    let text = json(id, "", "");
    let mut transaction = read_transaction(&text, "test", 0).expect("good JSON");
    change(&mut transaction);
    let mut out = Writer::framed(Schemas::shipped().transaction.id);
    write_transaction(&mut out, &transaction);
    out.into_bytes()
}

fn case(value: Vec<u8>, expected: &'static str) -> Case {
    Case { key: Some("acc-1"), value: Some(value), expected: Some(expected) }
}

fn json_cases() -> Vec<Case> {
    let far = "2036-01-31T12:00:00Z";
    vec![
        case(b"{\"transaction_id\":".to_vec(), "malformed"),
        case(b"{\"a\":1} {\"b\":2}".to_vec(), "malformed"),
        case(json("j1", "PURCHASE", "SALE"), "malformed"),
        case(json("j2", "\"acc-1\"", "\"acc\\u00001\""), "malformed"),
        case(b"hola".to_vec(), "schema"),
        case(json("j3", ",\"account_id\":\"acc-1\"", ""), "missing_field"),
        case(json("j4", "12.50", "doce"), "amount"),
        case(json("j5", "12.50", "1e400"), "amount"),
        case(json("j6", "12.50", "-1"), "amount"),
        case(json("j7", "12.50", "1.005"), "amount"),
        case(json("j8", "EUR", "EURO"), "currency"),
        case(json("j9", "EUR", "JPY"), "currency"),
        case(json("j10", "2026-01-31T12:00:00Z", "31/01/2026"), "timestamp"),
        case(json("j11", "2026-01-31T12:00:00Z", far), "timestamp"),
        case(json(&"x".repeat(65), "", ""), "too_large"),
    ]
}

fn avro_cases() -> Vec<Case> {
    let mut truncated = avro("a1", |_| {});
    truncated.pop();
    let mut trailing = avro("a2", |_| {});
    trailing.push(0);
    let mut unknown = avro("a3", |_| {});
    unknown[1] ^= 0x40;
    // A string of 2^40 bytes, said in five: must not be allocated.
    let mut bomb = Writer::framed(Schemas::shipped().transaction.id);
    bomb.long(1 << 40);
    vec![
        case(truncated, "malformed"),
        case(trailing, "malformed"),
        case(bomb.into_bytes(), "malformed"),
        case(vec![0, 0, 0], "malformed"),
        case(unknown, "schema"),
        case(avro("a4", |t| t.account_id = "".into()), "missing_field"),
        case(avro("a5", |t| t.amount.units = 0), "amount"),
        case(avro("a6", |t| t.amount.scale = 10), "amount"),
        case(avro("a7", |t| t.currency = "eur".into()), "currency"),
        case(avro("a8", |t| t.event_time = -1), "timestamp"),
        case(avro("a9", |t| t.event_time = i64::MAX), "timestamp"),
        case(avro("a10", |t| t.description = Some("x".repeat(2000).into())), "too_large"),
        Case { key: Some("acc-1"), value: None, expected: Some("null_value") },
        case(Vec::new(), "null_value"),
    ]
}

fn good_cases() -> Vec<Case> {
    let row = |key, value| Case { key, value: Some(value), expected: None };
    vec![
        row(Some("acc-1"), json("good-json", "", "")),
        row(Some("acc-1"), avro("good-avro", |_| {})),
        // Keyless and with a foreign key: moved to the right partition, stored once.
        row(None, json("good-keyless", "", "")),
        row(Some("somebody-else"), json("good-foreign", "", "")),
        // The same id and contents again, and once more with other contents.
        row(Some("acc-1"), json("good-json", "", "")),
        case(json("good-json", "12.50", "99.50"), "conflict"),
    ]
}

/// Sends the cases as a foreign producer would: by key where there is one, else to partition 0.
fn send(pipeline: &Pipeline, cases: &[Case]) -> Result<()> {
    let mut producer =
        TxnProducer::connect(&pipeline.kafka, "dead-letter-test", None, Duration::from_secs(60))?;
    let record = |case: &Case| OutRecord {
        origin: None,
        topic: Arc::from(topics::TRANSACCIONES),
        partition: case.key.map_or(0, |key| partition_of(key.as_bytes(), 6)),
        key: case.key.map(|k| k.as_bytes().to_vec()),
        value: case.value.clone(),
        headers: Vec::new(),
    };
    let mut outbox = Outbox { records: cases.iter().map(record).collect(), positions: Vec::new() };
    producer.commit(&mut outbox, None)?;
    Ok(())
}

/// Lines that the producer cannot map: `mapping`, and one too large for a record.
fn send_unmappable(pipeline: &Pipeline) -> Result<()> {
    let file = pipeline.logs.join("unmappable.csv");
    let mapping = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/sources/transactions.toml");
    let header =
        "transaction_id,account_id,merchant_id,amount,currency,kind,country,event_time,description";
    let too_few = "u1,acc-1,m-1";
    let huge =
        format!("u2,acc-1,m-1,1.00,EUR,PURCHASE,,2026-01-31T12:00:00Z,{}", "x".repeat(1_200_000));
    std::fs::write(&file, format!("{header}\n{too_few}\n{huge}\n"))?;
    let input = file.to_string_lossy();
    pipeline.run(
        "caudal-producer",
        &["--mapping", mapping, "--input", &input],
        Duration::from_secs(120),
    )
}

#[test]
fn every_reason_has_its_dead_letter_and_the_rest_goes_on() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("dead_letters")? else { return Ok(()) };
    let url = &pipeline.database_url;
    let cases: Vec<Case> =
        json_cases().into_iter().chain(avro_cases()).chain(good_cases()).collect();
    send(&pipeline, &cases)?;
    send_unmappable(&pipeline)?;
    pipeline.catch_up()?;

    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for reason in cases.iter().filter_map(|c| c.expected).chain(["mapping", "too_large"]) {
        *expected.entry(reason.to_owned()).or_default() += 1;
    }
    let found: BTreeMap<String, usize> =
        query::texts(url, "SELECT reason || ' ' || count(*) FROM dead_letters GROUP BY reason")?
            .iter()
            .filter_map(|row| {
                row.split_once(' ').map(|(r, n)| (r.to_owned(), n.parse().unwrap_or(0)))
            })
            .collect();
    ensure!(found == expected, "dead letters {found:?}, expected {expected:?}");
    let rows = query::texts(url, "SELECT transaction_id FROM transactions ORDER BY 1")?;
    ensure!(rows == ["good-avro", "good-foreign", "good-json", "good-keyless"], "rows {rows:?}");
    check_headers(&pipeline)?;
    pipeline.assert_balanced()?;

    constraint(&pipeline)
}

/// Every dead letter in Kafka says what, why and where from.
fn check_headers(pipeline: &Pipeline) -> Result<()> {
    let mut reader = caudal_kafka::log_reader::LogReader::connect(&pipeline.kafka, topics::DLQ)?;
    (0..6).for_each(|p| reader.add(p, None));
    let mut seen = 0;
    reader.read_all(Duration::from_secs(60), |record| -> Result<()> {
        seen += 1;
        let wanted = [
            headers::REASON,
            headers::ERROR_EXCEPTION,
            headers::ERROR_MESSAGE,
            headers::ERROR_TOPIC,
            headers::ERROR_PARTITION,
            headers::ERROR_OFFSET,
            headers::ORIGINAL_TIMESTAMP,
            headers::TASK,
            headers::SEQUENCE,
            headers::SOURCE,
        ];
        for name in wanted {
            ensure!(
                record.header(name).is_some_and(|text| !text.is_empty()),
                "a dead letter lacks {name}"
            );
        }
        Ok(())
    })?;
    ensure!(seen > 30, "only {seen} dead letters in Kafka");
    Ok(())
}

/// What PostgreSQL refuses becomes a dead letter of the sink's own, and the rest is stored.
fn constraint(pipeline: &Pipeline) -> Result<()> {
    let url = &pipeline.database_url;
    query::execute(
        url,
        "ALTER TABLE transactions ADD CONSTRAINT no_thirteen CHECK (amount <> 13.13)",
    )?;
    let case = |id: &str, amount: &str| Case {
        key: Some("acc-1"),
        value: Some(json(id, "12.50", amount)),
        expected: None,
    };
    send(pipeline, &[case("c1", "1.00"), case("c2", "13.13"), case("c3", "2.00")])?;
    pipeline.catch_up()?;
    let rows = query::texts(
        url,
        "SELECT transaction_id FROM transactions WHERE transaction_id LIKE 'c%' ORDER BY 1",
    )?;
    ensure!(rows == ["c1", "c3"], "rows {rows:?}");
    let dead = query::texts(url, "SELECT topic FROM dead_letters WHERE reason = 'constraint'")?;
    ensure!(dead == [topics::VALIDAS], "constraint dead letters {dead:?}");
    pipeline.assert_balanced()?;
    stored_after_all(pipeline)?;
    sent_again(pipeline)
}

/// Once the constraint is gone, the sink's dead letter becomes a row.
fn stored_after_all(pipeline: &Pipeline) -> Result<()> {
    let url = &pipeline.database_url;
    query::execute(url, "ALTER TABLE transactions DROP CONSTRAINT no_thirteen")?;
    let only = ["dlq", "redrive", "--reason", "constraint"];
    let dry = pipeline.caudal(&[&only[..], &["--dry-run"]].concat())?;
    ensure!(dry.contains("1  transacciones_validas constraint"), "{dry}");
    let stored = "SELECT count(*)::text FROM transactions WHERE transaction_id = 'c2'";
    ensure!(query::text(url, stored)? == "0", "a dry run stored a row");
    let said = pipeline.caudal(&only)?;
    ensure!(said.contains("1  stored in their table"), "{said}");
    ensure!(query::text(url, stored)? == "1", "c2 is no row");
    ensure!(!pipeline.caudal(&only)?.contains("stored in"), "it was tried twice");
    pipeline.assert_balanced()
}

/// The processor's are sent again, each once, and rejected again: they count on.
fn sent_again(pipeline: &Pipeline) -> Result<()> {
    let url = &pipeline.database_url;
    let number = |sql: &str| -> Result<i64> { Ok(query::text(url, sql)?.parse()?) };
    let sendable = "FROM dead_letters WHERE topic = 'transacciones_dlq' AND redriven_at IS NULL
        AND NOT headers ? 'caudal.line' AND original_size IS NOT DISTINCT FROM length(payload)";
    let wanted = number(&format!("SELECT count(*)::text {sendable}"))?;
    let reasons = format!("SELECT reason || ' ' || count(*) {sendable} GROUP BY reason ORDER BY 1");
    let before = query::texts(url, &reasons)?;
    let count = || topic::count(&pipeline.kafka, topics::TRANSACCIONES);
    let sent = count()?;
    let only = ["dlq", "redrive", "--topic", topics::DLQ];
    let said = pipeline.caudal(&only)?;
    ensure!(said.contains(&format!("{wanted}  sent again")), "{said}");
    ensure!(said.contains("lines that could not be mapped"), "{said}");
    let sent_now = count()? - sent;
    ensure!(i64::try_from(sent_now) == Ok(wanted), "{sent_now} records of {wanted} letters");
    // As if it had been killed between Kafka's commit and the marks.
    query::execute(
        url,
        "UPDATE dead_letters SET redriven_at = NULL, replay_count = replay_count - 1
         WHERE redrive = (SELECT max(redrive) FROM dead_letters)",
    )?;
    let said = pipeline.caudal(&only)?;
    ensure!(said.contains(&format!("{wanted}  had been sent again")), "{said}");
    ensure!(!said.contains("sent again through"), "{said}");
    ensure!(count()? - sent == sent_now, "letters were sent twice");
    pipeline.catch_up()?;
    let after = query::texts(url, &reasons)?;
    ensure!(after == before, "dead letters {after:?}, before {before:?}");
    let counted = number(&format!("SELECT count(*)::text {sendable} AND replay_count = 1"))?;
    ensure!(counted == wanted, "{counted} of {wanted} letters count their replay");
    let said = pipeline.caudal(&[&only[..], &["--quarantine-after", "1"]].concat())?;
    ensure!(!said.contains("sent again through"), "{said}");
    let list = pipeline.caudal(&["dlq", "list", "--quarantine-after", "1"])?;
    ensure!(list.contains("quarantined"), "{list}");
    println!("{list}");
    let place = "SELECT topic || '-' || partition || '@' || \"offset\" FROM dead_letters LIMIT 1";
    let shown = pipeline.caudal(&["dlq", "show", &query::text(url, place)?])?;
    ensure!(shown.contains("reason") && shown.contains("value"), "{shown}");
    pipeline.assert_balanced()
}
