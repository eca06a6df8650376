//! A sink that is stopped inside its db_tx (SIGSTOP) for longer than its sessions with Kafka and
//! PostgreSQL last, and goes on when another has stored everything; and a third sink that comes and
//! goes. For each place of the stop another time-out would have to end the session, and in one none
//! does.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, signal, wait_until};
use caudal_e2e::load::PacedLoad;
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_e2e::query;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: &str = "SELECT count(*)::text FROM transactions";
const SMALL: [&str; 2] = ["--batch-records", "1000"];

/// A lock that a session of the test holds until it is dropped.
struct Held {
    runtime: tokio::runtime::Runtime,
    connection: PgConnection,
}

impl Held {
    fn take(database_url: &str, lock: &str) -> Result<Held> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(async {
            let mut connection = PgConnection::connect(database_url).await?;
            connection.execute(sqlx::raw_sql(&format!("BEGIN; {lock}"))).await?;
            anyhow::Ok(connection)
        })?;
        Ok(Held { runtime, connection })
    }

    fn release(mut self) -> Result<()> {
        self.runtime.block_on(self.connection.execute("ROLLBACK"))?;
        Ok(())
    }
}

/// The sink's session that fits a condition on `pg_stat_activity`.
fn session(database_url: &str, condition: &str) -> Result<Option<String>> {
    let sql = format!(
        "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'caudal-sink' AND {condition}"
    );
    Ok(query::texts(database_url, &sql)?.into_iter().next())
}

/// Stops the sink while it waits for `lock` and lets the server go on: its session is then inside a
/// db_tx in which nothing comes from the client any more. Gives the session.
fn stop_inside(url: &str, sink: &Service, lock: &str, place: &str) -> Result<String> {
    let held = Held::take(url, lock)?;
    let mut waits = None;
    wait_until("the sink waits for the lock", PATIENCE, || {
        waits = session(url, "wait_event_type = 'Lock'")?;
        Ok(waits.is_some())
    })?;
    signal(sink.pid(), "STOP")?;
    held.release()?;
    let pid = waits.context("no session")?;
    let there = format!("pid = {pid} AND backend_xid IS NOT NULL AND {place}");
    wait_until("its session is inside the db_tx", PATIENCE, || Ok(session(url, &there)?.is_some()))
        .map_err(|e| e.context(format!("the stop hit no open db_tx: {there}")))?;
    Ok(pid)
}

fn zombie(name: &str, lock: &str, place: &str) -> Result<()> {
    let Some(pipeline) = Pipeline::empty(&format!("zombie_sink_{name}"))? else { return Ok(()) };
    let (records, seed) = ("60000", "17");
    let expectation = Expectation::of(records, seed)?;
    let load = PacedLoad::start(&pipeline, records, seed, "4000")?;
    let _processor = pipeline.start("caudal-processor", "processor", &[])?;
    let mut zombie = pipeline.start("caudal-sink", "zombie", &SMALL)?;
    let url = &pipeline.database_url;
    wait_until("rows come", PATIENCE, || Ok(query::text(url, ROWS)?.parse::<u64>()? > 2_000))?;

    let session_of_zombie = stop_inside(url, &zombie, lock, place)?;
    let begun = Instant::now();
    let rows = query::text(url, ROWS)?;
    println!("{name}: stopped inside its db_tx, {rows} rows are stored");
    let mut successor = pipeline.start("caudal-sink", "successor", &SMALL)?;
    load.finish(LIMIT)?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    let took = begun.elapsed();
    println!("{name}: the successor had stored everything after {} ms", took.as_millis());
    let gone = session(url, &format!("pid = {session_of_zombie}"))?.is_none();
    ensure!(gone, "the zombie's session is still there");
    // Longer than the group's session and PostgreSQL's patience with an idle db_tx, or it proves nothing.
    ensure!(took > Duration::from_secs(10), "the stop was too short");

    signal(zombie.pid(), "CONT")?;
    let told = ["fenced by a newer claim", "the batch is tried again"];
    wait_until("the zombie finds out", PATIENCE, || {
        let log = std::fs::read_to_string(&zombie.log)?;
        Ok(told.iter().any(|words| log.contains(words)))
    })?;
    ensure!(zombie.terminate()?.success(), "the zombie failed; log {}", zombie.log.display());
    ensure!(successor.terminate()?.success(), "log {}", successor.log.display());
    expectation.check(&pipeline)?;
    pipeline.assert_balanced()
}

#[test]
fn a_sink_that_is_stopped_between_two_statements() -> Result<()> {
    let positions = "SELECT FROM sink_offsets ORDER BY topic, partition FOR UPDATE";
    zombie("idle", positions, "state = 'idle in transaction'")
}

/// Neither statement_timeout nor a cancel reaches a COPY that waits for its client.
#[test]
fn a_sink_that_is_stopped_in_a_copy() -> Result<()> {
    let table = "LOCK TABLE transactions IN SHARE MODE";
    zombie("copy", table, "state = 'active' AND wait_event = 'ClientRead' AND query LIKE 'COPY%'")
}

/// `CAUDAL_STORM_SECONDS` says for how long.
#[test]
fn a_third_sink_that_comes_and_goes() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("zombie_sink_storm")? else { return Ok(()) };
    let seconds = std::env::var("CAUDAL_STORM_SECONDS").unwrap_or_else(|_| "30".into()).parse()?;
    let mut moments = Moments::seeded();
    let (records, seed) = ("200000", "19");
    let expectation = Expectation::of(records, seed)?;
    let load = PacedLoad::start(&pipeline, records, seed, "2000")?;
    let _processor = pipeline.start("caudal-processor", "processor", &[])?;
    let _first = pipeline.start("caudal-sink", "first", &SMALL)?;
    let _second = pipeline.start("caudal-sink", "second", &SMALL)?;
    let url = &pipeline.database_url;
    wait_until("rows come", PATIENCE, || Ok(query::text(url, ROWS)?.parse::<u64>()? > 2_000))?;

    let claims = || -> Result<u64> {
        Ok(query::text(url, "SELECT sum(epoch)::text FROM sink_offsets")?.parse()?)
    };
    let before = claims()?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut joins, mut rows, mut grew) = (0, 0, Instant::now());
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        joins += 1;
        // A static member is known by its name for a session's time after it has gone: another name
        // is another member.
        let name = format!("storm-{joins}");
        let mut third = pipeline.start("caudal-sink", "third", &["--instance", &name])?;
        moments.wait(Duration::from_secs(4));
        ensure!(third.terminate()?.success(), "log {}", third.log.display());
        let now: u64 = query::text(url, ROWS)?.parse()?;
        if now > rows {
            (rows, grew) = (now, Instant::now());
        }
        longest = longest.max(grew.elapsed());
        ensure!(grew.elapsed() < Duration::from_secs(20), "no progress at {rows} rows");
    }
    let claimed = claims()? - before;
    println!("{joins} joins, {claimed} claims, {rows} rows; {longest:?} without progress at most");
    ensure!(claimed > 0, "no partition moved: the storm hit nothing");
    load.finish(LIMIT)?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    pipeline.assert_balanced()
}
