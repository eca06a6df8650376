//! Verify is not an echo of the services' own ledgers: what is broken behind their backs is named.

use anyhow::{Context as _, Result, ensure};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::topics;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::txn::TxnProducer;
use std::sync::Arc;
use std::time::Duration;

/// Breaks something, requires that verify names `id`, and mends it.
fn broken(pipeline: &Pipeline, what: &str, id: &str, break_it: &str, mend: &str) -> Result<()> {
    let changed = query::execute(&pipeline.database_url, break_it)?;
    ensure!(changed > 0, "{what}: {break_it} changed nothing");
    let verdict = pipeline.verify()?;
    ensure!(verdict["balanced"] == false, "{what}: verify still balances");
    let differences = verdict["differences"].to_string();
    ensure!(differences.contains(id), "{what}: {id} is not named: {differences}");
    println!("{what}: {}", verdict["differences"][0]);
    query::execute(&pipeline.database_url, mend)?;
    pipeline.assert_balanced().context("after mending")
}

#[test]
fn what_is_broken_is_named() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("verify")? else { return Ok(()) };
    let url = pipeline.database_url.clone();
    let limit = Duration::from_secs(120);
    pipeline.run("caudal-producer", &["--generate", "20000", "--seed", "7"], limit)?;
    pipeline.catch_up()?;
    pipeline.assert_balanced()?;

    let id = query::text(
        &url,
        "SELECT transaction_id FROM transactions ORDER BY stored_at, transaction_id LIMIT 1",
    )?;
    let keep =
        format!("CREATE TABLE kept AS SELECT * FROM transactions WHERE transaction_id = '{id}'");
    query::execute(&url, &keep)?;
    broken(
        &pipeline,
        "a deleted row",
        &id,
        &format!("DELETE FROM transactions WHERE transaction_id = '{id}'"),
        "INSERT INTO transactions SELECT * FROM kept",
    )?;
    broken(
        &pipeline,
        "an altered amount",
        &id,
        &format!("UPDATE transactions SET amount = amount + 1 WHERE transaction_id = '{id}'"),
        &format!("UPDATE transactions SET amount = amount - 1 WHERE transaction_id = '{id}'"),
    )?;
    let place = query::text(
        &url,
        "SELECT topic || '-' || partition || '@' || \"offset\" FROM dead_letters LIMIT 1",
    )?;
    let of = format!("topic || '-' || partition || '@' || \"offset\" = '{place}'");
    query::execute(
        &url,
        &format!("CREATE TABLE kept_dead AS SELECT * FROM dead_letters WHERE {of}"),
    )?;
    let offset = place.split('@').nth(1).context("offset")?;
    broken(
        &pipeline,
        "a dropped dead letter",
        offset,
        &format!("DELETE FROM dead_letters WHERE {of}"),
        "INSERT INTO dead_letters SELECT * FROM kept_dead",
    )?;
    let merchant =
        query::text(&url, "SELECT merchant_id FROM ventas_gold ORDER BY total DESC LIMIT 1")?;
    let top = "(SELECT ctid FROM ventas_gold ORDER BY ventas DESC LIMIT 1)";
    query::execute(
        &url,
        &format!("CREATE TABLE kept_gold AS SELECT * FROM ventas_gold WHERE ctid = {top}"),
    )?;
    let merchant_of_top = query::text(&url, "SELECT merchant_id FROM kept_gold")?;
    broken(
        &pipeline,
        "an altered total",
        &merchant_of_top,
        "UPDATE ventas_gold g SET total = g.total + 1 FROM kept_gold k WHERE (g.merchant_id, g.currency, g.window_start) = (k.merchant_id, k.currency, k.window_start)",
        "UPDATE ventas_gold g SET total = k.total FROM kept_gold k WHERE (g.merchant_id, g.currency, g.window_start) = (k.merchant_id, k.currency, k.window_start)",
    )?;
    println!("most valuable merchant: {merchant}");
    duplicated_output(&pipeline)
}

/// A copy of an output record, as a zombie or a broken tool would write it: the last break, since
/// a topic cannot be mended.
fn duplicated_output(pipeline: &Pipeline) -> Result<()> {
    let mut reader = LogReader::connect(&pipeline.kafka, topics::VALIDAS)?;
    (0..6).for_each(|p| reader.add(p, None));
    let mut last = None;
    reader.read_all(Duration::from_secs(60), |record| -> Result<()> {
        last = Some(record);
        Ok(())
    })?;
    let record = last.context("no valid record")?;
    let names =
        [caudal_core::headers::TASK, caudal_core::headers::SEQUENCE, caudal_core::headers::SOURCE];
    let headers =
        names.map(|name| (name, record.header(name).unwrap_or_default().as_bytes().to_vec()));
    let copy = OutRecord {
        origin: None,
        topic: Arc::from(topics::VALIDAS),
        partition: record.partition,
        key: record.key.as_deref().map(<[u8]>::to_vec),
        value: record.value.as_deref().map(<[u8]>::to_vec),
        headers: headers.to_vec(),
    };
    let body = record.value.as_deref().context("value")?;
    let (_, body) = caudal_core::avro::unframe(body).context("framing")?;
    let transaction =
        caudal_core::avro::read_transaction(&mut caudal_core::avro::Reader::new(body))?;
    let mut producer =
        TxnProducer::connect(&pipeline.kafka, "verify-test", None, Duration::from_secs(60))?;
    producer.commit(&mut Outbox { records: vec![copy], positions: Vec::new() }, None)?;
    let verdict = pipeline.verify()?;
    let differences = verdict["differences"].to_string();
    ensure!(verdict["balanced"] == false, "a duplicated output record: verify still balances");
    let id = transaction.transaction_id;
    ensure!(
        differences.contains(id.as_ref()),
        "a duplicated output record: {id} is not named: {differences}"
    );
    println!("a duplicated output record: {}", verdict["differences"][0]);
    Ok(())
}
