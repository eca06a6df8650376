//! Deleting in batches, each with its account in one db_tx. A run that is killed leaves whole batches
//! behind, and the next one goes on.

use super::plan::{Look, batch};
use super::target::Target;
use crate::verify::grouped;
use anyhow::{Context as _, Result, bail};
use caudal_sink::fault::{Action, Fault};
use caudal_sink::outside::Backoff;
use caudal_sink::write::quoted;
use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};
use std::time::{Duration, Instant};

/// Any number that no other program is likely to use: one run at a time.
const LOCK: i64 = 0x6361_7564_7265;
/// How often in a row a batch is tried: some minutes.
const ATTEMPTS: u32 = 60;
/// How often progress is said.
const EVERY: Duration = Duration::from_secs(2);

/// Keeps other runs out of this database, for the session. Waits for one that was killed: its last
/// statement may still be at work.
///
/// # Errors
/// When another run is at work.
pub async fn be_alone(connection: &mut PgConnection) -> Result<()> {
    let mut backoff = Backoff::default();
    for _ in 0..10 {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *connection)
            .await?;
        if locked {
            return Ok(());
        }
        tokio::time::sleep(backoff.pause()).await;
    }
    bail!("another `caudal retention apply` runs on this database")
}

/// Deletes what was looked at, and gives the number of rows.
///
/// # Errors
/// What PostgreSQL says that does not pass by itself. What was deleted before is accounted for.
pub async fn retire(
    connection: &mut PgConnection,
    (target, look): (&Target, &Look),
    before: i64,
    batch_rows: u64,
) -> Result<u64> {
    let (mut left, mut meter) = (&look.parts[..], Meter::new(look));
    while !left.is_empty() {
        let (now, later) = left.split_at(batch(left, batch_rows));
        left = later;
        // A part may hold more than a batch.
        loop {
            let statements: Vec<String> =
                now.iter().map(|part| target.delete(before, &part.pages, batch_rows)).collect();
            let deleted = patiently(connection, &look.table, &statements).await?;
            meter.add(deleted);
            if deleted < batch_rows {
                break;
            }
        }
    }
    meter.say();
    Ok(meter.deleted)
}

/// One db_tx, tried again while somebody else's lock is in the way.
async fn patiently(
    connection: &mut PgConnection,
    table: &str,
    statements: &[String],
) -> Result<u64> {
    let mut backoff = Backoff::default();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let fault = match in_one(connection, statements).await {
            Ok(deleted) => return Ok(deleted),
            Err(error) => Fault::from(error),
        };
        let passes = fault.action == Action::RetryBatch && !fault.disconnected;
        if !passes || attempt == ATTEMPTS {
            return Err(fault).with_context(|| {
                format!("{table}: a batch was not deleted; run it again, it goes on")
            });
        }
        connection.execute("ROLLBACK").await?;
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn in_one(connection: &mut PgConnection, statements: &[String]) -> Result<u64, sqlx::Error> {
    connection.execute("BEGIN").await?;
    let mut deleted = 0;
    for statement in statements {
        let count: i64 = connection.fetch_one(&**statement).await?.try_get(0)?;
        deleted += count.unsigned_abs();
    }
    connection.execute("COMMIT").await?;
    Ok(deleted)
}

/// Makes the room of deleted rows free for new ones, and corrects the ranges of BRIN indexes, which
/// would still send a reader to pages without old rows. What cannot be done is said and left to
/// autovacuum.
///
/// # Errors
/// When the connection is lost.
pub async fn clean(connection: &mut PgConnection, look: &Look) -> Result<()> {
    let table = &look.table;
    // Autovacuum at work on the table gives way after a second.
    connection.execute("SET lock_timeout = '10s'").await?;
    let done = vacuum(connection, look).await;
    if let Err(error) = done {
        let fault = Fault::from(error);
        if fault.disconnected {
            return Err(fault.into());
        }
        eprintln!("retention: {table} is left to autovacuum: {fault}");
    }
    Ok(())
}

async fn vacuum(connection: &mut PgConnection, look: &Look) -> Result<(), sqlx::Error> {
    let table = quoted(&look.table);
    connection.execute(&*format!("VACUUM {table}")).await?;
    let indexes: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_index i
         JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
         WHERE i.indrelid = $1::text::regclass AND a.amname = 'brin'",
    )
    .bind(&table)
    .fetch_all(&mut *connection)
    .await?;
    let pages: Vec<i64> = look.parts.iter().map(|part| part.pages.start).collect();
    for index in &indexes {
        for some in pages.chunks(100) {
            sqlx::query(
                "SELECT count(*) FROM (SELECT brin_desummarize_range($1::text::regclass, page),
                     brin_summarize_range($1::text::regclass, page) FROM UNNEST($2::bigint[]) AS page) AS done",
            )
            .bind(index)
            .bind(some)
            .execute(&mut *connection)
            .await?;
        }
    }
    Ok(())
}

/// Says on standard error how far it is.
struct Meter<'l> {
    look: &'l Look,
    deleted: u64,
    begun: Instant,
    said: Instant,
}

impl<'l> Meter<'l> {
    fn new(look: &'l Look) -> Meter<'l> {
        let now = Instant::now();
        Meter { look, deleted: 0, begun: now, said: now }
    }

    fn add(&mut self, rows: u64) {
        self.deleted += rows;
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            self.say();
        }
    }

    fn say(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.deleted.saturating_mul(1000) / millis;
        eprintln!(
            "retention: {} {} of {} rows, {} rows/s, {} left",
            self.look.table,
            grouped(self.deleted),
            grouped(self.look.rows),
            grouped(rate),
            grouped(self.look.rows.saturating_sub(self.deleted))
        );
    }
}
