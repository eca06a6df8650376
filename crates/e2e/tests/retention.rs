//! `caudal retention`: months go, killed half-way and run again, while the sink stores; the books
//! balance throughout, and a row that went otherwise is named.

use anyhow::{Context as _, Result, ensure};
use caudal_core::time::{HOUR, to_rfc3339};
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::query;
use serde_json::Value as Json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(120);
const DAY: i64 = 24 * HOUR;
/// Of the data of four times, the first two go.
const KEEP: [&str; 2] = ["--keep", "90 days"];
const OLD: &str = "event_time < date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '90 days'";
const MONTHS: [(i64, &str, &str); 4] =
    [(200, "12000", "21"), (100, "12000", "22"), (60, "6000", "23"), (30, "6000", "24")];

/// Midnight so many days ago: the same at each call.
fn days_ago(days: i64) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    Ok(to_rfc3339(now - now % DAY - days * DAY))
}

fn count(pipeline: &Pipeline, sql: &str) -> Result<u64> {
    Ok(query::text(&pipeline.database_url, &format!("SELECT ({sql})::text"))?.parse()?)
}

fn old_rows(pipeline: &Pipeline) -> Result<u64> {
    count(pipeline, &format!("SELECT count(*) FROM transactions WHERE {OLD}"))
}

fn stored(pipeline: &Pipeline) -> Result<u64> {
    count(pipeline, "SELECT sum(rows) FROM sink_offsets WHERE topic = 'transacciones_validas'")
}

fn retention(pipeline: &Pipeline, word: &str) -> Result<Json> {
    let args = [&["retention", word, "--json", "--batch-rows", "1000"][..], &KEEP].concat();
    Ok(serde_json::from_str(&pipeline.caudal(&args)?)?)
}

/// What a report says of a table.
fn of<'j>(report: &'j Json, table: &str) -> Result<&'j Json> {
    let tables = report["tables"].as_array().context("tables")?;
    tables.iter().find(|t| t["table"] == table).with_context(|| format!("{table} in {report}"))
}

#[test]
fn old_months_go_and_the_books_balance() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("retention")? else { return Ok(()) };
    for (days, records, seed) in MONTHS {
        let base = days_ago(days)?;
        let args = ["--generate", records, "--seed", seed, "--event-time-base", &base];
        pipeline.run("caudal-producer", &args, LIMIT)?;
    }
    pipeline.catch_up()?;
    // Dead letters are as old as their arrival: here they get the age of the first months.
    query::execute(
        &pipeline.database_url,
        "UPDATE dead_letters SET stored_at = stored_at - interval '100 days' WHERE \"offset\" < 20",
    )?;
    pipeline.assert_balanced()?;

    let before = old_rows(&pipeline)?;
    let plan = retention(&pipeline, "plan")?;
    ensure!(of(&plan, "transactions")?["rows"] == before && before > 20_000, "{plan:#}");
    ensure!(of(&plan, "ventas_gold")?["rows"].as_u64() > Some(0), "{plan:#}");
    ensure!(old_rows(&pipeline)? == before, "a plan deleted something");

    killed_half_way(&pipeline)?;
    let left = old_rows(&pipeline)?;
    ensure!(0 < left && left < before, "{left} of {before} old rows are left: not half-way");
    pipeline.assert_balanced().context("half-way")?;
    deleted_by_hand(&pipeline, OLD, "which was not retired")?;

    let applied = retention(&pipeline, "apply")?;
    println!("applied: {applied:#}");
    ensure!(of(&applied, "transactions")?["deleted"] == left, "{applied:#}");
    ensure!(old_rows(&pipeline)? == 0, "old rows are left");
    let again = retention(&pipeline, "apply")?;
    ensure!(of(&again, "transactions")?["deleted"] == 0, "{again:#}");

    let verdict = pipeline.verify()?;
    ensure!(verdict["balanced"] == true, "not balanced: {verdict:#}");
    let gone = &verdict["retired"];
    let wanted =
        count(&pipeline, "SELECT sum(rows) FROM retired WHERE table_name = 'transactions'")?;
    ensure!(gone["transactions"]["rows"] == wanted && wanted == before, "{gone:#}");
    ensure!(gone["transactions"]["not_compared"] == wanted, "{gone:#}");
    ensure!(count(&pipeline, "SELECT count(*) FROM retired_letters")? > 0, "no dead letter went");
    deleted_by_hand(&pipeline, &format!("NOT ({OLD})"), "transactions lacks")?;
    came_again(&pipeline)
}

/// Kills `retention apply` while a row that somebody holds is in its way, and the sink stores.
fn killed_half_way(pipeline: &Pipeline) -> Result<()> {
    let _processor = pipeline.start("caudal-processor", "processor", &[])?;
    let mut sink = pipeline.start("caudal-sink", "sink", &[])?;
    let base = days_ago(5)?;
    let live =
        ["--generate", "20000", "--seed", "25", "--event-time-base", &base, "--rate", "2000"];
    let mut producer = pipeline.start("caudal-producer", "live", &live)?;
    let first = stored(pipeline)?;
    wait_until("the sink stores", LIMIT, || Ok(stored(pipeline)? > first))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut holder = runtime.block_on(PgConnection::connect(&pipeline.database_url))?;
    // By place, so that some batches are before it and some behind.
    let middle = format!(
        "BEGIN; SELECT 1 FROM transactions WHERE ctid = (SELECT ctid FROM transactions WHERE {OLD}
         ORDER BY ctid OFFSET (SELECT count(*) / 2 FROM transactions WHERE {OLD}) LIMIT 1) FOR UPDATE"
    );
    runtime.block_on(holder.execute(sqlx::raw_sql(&middle)))?;
    let apply = [&["retention", "apply", "--batch-rows", "1000"][..], &KEEP].concat();
    let mut retention = pipeline.start("caudal", "retention", &apply)?;
    let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE NOT l.granted AND a.application_name = 'caudal-retention'";
    wait_until("the batch waits", LIMIT, || Ok(count(pipeline, waits)? > 0))?;
    let meanwhile = stored(pipeline)?;
    wait_until("the sink goes on", LIMIT, || Ok(stored(pipeline)? > meanwhile))?;
    ensure!(retention.ended()?.is_none(), "it did not wait; log {}", retention.log.display());
    retention.kill()?;
    runtime.block_on(holder.execute("ROLLBACK"))?;
    runtime.block_on(holder.close())?;

    ensure!(producer.wait(LIMIT)?.success(), "log {}", producer.log.display());
    pipeline.caudal(&["drained"])?;
    ensure!(sink.terminate()?.success(), "log {}", sink.log.display());
    Ok(())
}

/// A row that goes without an account is named; it is put back.
fn deleted_by_hand(pipeline: &Pipeline, which: &str, words: &str) -> Result<()> {
    let url = &pipeline.database_url;
    let id = query::text(
        url,
        &format!("SELECT transaction_id FROM transactions WHERE {which} ORDER BY 1 LIMIT 1"),
    )?;
    let of = format!("transaction_id = '{id}'");
    query::execute(
        url,
        &format!(
            "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM transactions WHERE {of}"
        ),
    )?;
    query::execute(url, &format!("DELETE FROM transactions WHERE {of}"))?;
    let verdict = pipeline.verify()?;
    ensure!(verdict["balanced"] == false, "a row is gone, and verify balances");
    let differences = verdict["differences"].to_string();
    // An id with many digits is shown as a card number would be.
    let shown = caudal_core::mask::mask_card_numbers(&id);
    ensure!(differences.contains(&*shown) && differences.contains(words), "{id}: {differences}");
    println!("deleted by hand: {}", verdict["differences"][0]);
    query::execute(url, "INSERT INTO transactions SELECT * FROM kept")?;
    Ok(())
}

/// The oldest records come again, from somebody else and beyond the dedup horizon: they are rows
/// again, and go again.
fn came_again(pipeline: &Pipeline) -> Result<()> {
    let (days, _, seed) = MONTHS[0];
    let first = count(pipeline, "SELECT sum(rows) FROM retired WHERE table_name = 'transactions'")?;
    let base = days_ago(days)?;
    let args =
        ["--generate", "2000", "--seed", seed, "--event-time-base", &base, "--source", "again"];
    pipeline.run("caudal-producer", &args, LIMIT)?;
    pipeline.catch_up()?;
    let rows = old_rows(pipeline)?;
    ensure!(rows > 1500, "{rows} rows came again");
    pipeline.assert_balanced().context("rows that came again")?;
    let applied = retention(pipeline, "apply")?;
    ensure!(of(&applied, "transactions")?["deleted"] == rows, "{applied:#}");
    let all = count(pipeline, "SELECT sum(rows) FROM retired WHERE table_name = 'transactions'")?;
    ensure!(all == first + rows, "{all} retired, {first} and {rows} expected");
    pipeline.assert_balanced().context("rows that went again")
}
