//! Plain SQL against the database under test.

use crate::fault::wait_until;
use anyhow::{Context as _, Result};
use sqlx::{Connection as _, PgConnection, Row as _};
use std::time::Duration;

/// Runs a query and gives its first column as texts.
///
/// # Errors
/// What PostgreSQL says.
pub fn texts(database_url: &str, sql: &str) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(database_url).await?;
        let rows =
            sqlx::query(sql).fetch_all(&mut connection).await.with_context(|| sql.to_owned())?;
        rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?)).collect()
    })
}

/// Runs statements and gives the number of rows they changed.
///
/// # Errors
/// What PostgreSQL says.
pub fn execute(database_url: &str, sql: &str) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(database_url).await?;
        let done =
            sqlx::raw_sql(sql).execute(&mut connection).await.with_context(|| sql.to_owned())?;
        Ok(done.rows_affected())
    })
}

/// The one text that a query gives.
///
/// # Errors
/// When it gives none.
pub fn text(database_url: &str, sql: &str) -> Result<String> {
    texts(database_url, sql)?.into_iter().next().with_context(|| format!("no row: {sql}"))
}

/// Waits until both queries give the same rows, in any order, and gives their number. The second is
/// asked once: what it reads must be complete.
///
/// # Errors
/// The first difference, when they are not the same within `limit`.
pub fn equal(database_url: &str, ours: &str, theirs: &str, limit: Duration) -> Result<usize> {
    let sorted = |sql: &str| -> Result<Vec<String>> {
        let mut rows = texts(database_url, sql)?;
        rows.sort_unstable();
        Ok(rows)
    };
    let wanted = sorted(theirs)?;
    let mut found = Vec::new();
    let outcome = wait_until("equal rows", limit, || {
        found = sorted(ours)?;
        Ok(found == wanted)
    });
    outcome.with_context(|| {
        let differs = found.iter().zip(&wanted).find(|(a, b)| a != b);
        let (count, expected) = (found.len(), wanted.len());
        format!("{differs:?}, {count} rows, {expected} expected\n{ours}\n{theirs}")
    })?;
    Ok(found.len())
}

/// `ventas_gold` recomputed from `transactions` by PostgreSQL, against the table: the keys that
/// differ, with both values.
pub const GOLD_DIFFERENCES: &str = "
    WITH recomputed AS (
        SELECT merchant_id, currency, date_trunc('minute', event_time) AS window_start,
               count(*) AS ventas, sum(amount) AS total, min(amount) AS minimo, max(amount) AS maximo
        FROM transactions
        WHERE kind = 'PURCHASE' AND NOT ('ventas_gold' = ANY (late_for))
        GROUP BY 1, 2, 3)
    SELECT format('%s %s %s: recomputed %s %s, stored %s %s', coalesce(r.merchant_id, g.merchant_id),
                  coalesce(r.currency, g.currency), coalesce(r.window_start, g.window_start),
                  r.ventas, r.total, g.ventas, g.total)
    FROM recomputed r FULL JOIN ventas_gold g USING (merchant_id, currency, window_start)
    WHERE (r.ventas, r.total, r.minimo, r.maximo) IS DISTINCT FROM (g.ventas, g.total, g.minimo, g.maximo)
    LIMIT 5";
