//! What would be deleted: looked at once, so that each batch knows its pages.

use super::keep::Keep;
use super::target::{PAGES, Target};
use anyhow::{Context as _, Result};
use caudal_core::time::to_rfc3339;
use caudal_sink::write::quoted;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};
use std::ops::Range;

/// Old rows in one range of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// From this page to before that one.
    pub pages: Range<i64>,
    /// How many lay there.
    pub rows: u64,
}

/// What a look at a table found.
#[derive(Debug, Clone, Serialize)]
pub struct Look {
    /// The table.
    pub table: String,
    /// The column whose time counts.
    pub by: &'static str,
    /// Old rows.
    pub rows: u64,
    /// Their share of the table and its indexes, in bytes; an estimate.
    pub bytes: u64,
    /// The oldest time, RFC 3339.
    pub oldest: Option<String>,
    /// Rows that stay; an estimate.
    pub remaining: u64,
    /// Where they lie.
    #[serde(skip)]
    pub parts: Vec<Part>,
}

/// The time before which rows go, in microseconds: so long before the beginning of today (UTC), so
/// that a run that is begun again ends where the first one would have.
///
/// # Errors
/// What PostgreSQL says.
pub async fn cutoff(connection: &mut PgConnection, keep: Keep) -> Result<i64> {
    let statement = format!(
        "SELECT (extract(epoch FROM date_trunc('day', now() AT TIME ZONE 'UTC') - interval '{keep}')
                 * 1000000)::bigint"
    );
    Ok(connection.fetch_one(&*statement).await?.try_get(0)?)
}

/// Looks at the old rows of a table.
///
/// # Errors
/// What PostgreSQL says.
pub async fn look(connection: &mut PgConnection, target: &Target, before: i64) -> Result<Look> {
    let table = &target.table;
    let cannot = || format!("cannot read table {table}");
    let rows = connection.fetch_all(&*target.look(before)).await.with_context(cannot)?;
    let (mut parts, mut oldest) = (Vec::with_capacity(rows.len()), None::<i64>);
    for row in &rows {
        let (number, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let pages = number * PAGES..(number + 1) * PAGES;
        parts.push(Part { pages, rows: count.unsigned_abs() });
        let first: i64 = row.try_get(2)?;
        oldest = Some(oldest.map_or(first, |oldest| oldest.min(first)));
    }
    parts.sort_by_key(|part| part.pages.start);
    let (total, bytes) = size(connection, table).await.with_context(cannot)?;
    let rows = parts.iter().map(|part| part.rows).sum();
    Ok(Look {
        table: table.clone(),
        by: target.column,
        rows,
        bytes: share(bytes, rows, total),
        oldest: oldest.map(to_rfc3339),
        remaining: total.saturating_sub(rows),
        parts,
    })
}

/// About how many rows a table has, as the planner sees it, and its bytes with all indexes.
async fn size(connection: &mut PgConnection, table: &str) -> Result<(u64, u64)> {
    let name = quoted(table).replace('\'', "''");
    let statement = format!(
        "SELECT CASE WHEN reltuples < 0 OR relpages = 0 THEN -1 ELSE round(reltuples::numeric
                     * pg_relation_size(oid) / current_setting('block_size')::bigint / relpages)
                END::bigint, pg_total_relation_size(oid)
         FROM pg_class WHERE oid = '{name}'::regclass"
    );
    let row = connection.fetch_one(&*statement).await?;
    let (mut total, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if total < 0 {
        // Never analysed.
        let statement = format!("SELECT count(*) FROM {}", quoted(table));
        total = connection.fetch_one(&*statement).await?.try_get(0)?;
    }
    Ok((total.unsigned_abs(), bytes.unsigned_abs()))
}

fn share(bytes: u64, rows: u64, total: u64) -> u64 {
    let all = u128::from(total.max(rows).max(1));
    u64::try_from(u128::from(bytes) * u128::from(rows) / all).unwrap_or(bytes)
}

/// The next batch: how many of the parts it takes, so that it has at most `most` rows where the
/// first part alone has no more.
pub fn batch(parts: &[Part], most: u64) -> usize {
    let mut rows = 0_u64;
    let fits = |part: &&Part| {
        rows += part.rows;
        rows <= most
    };
    parts.iter().take_while(fits).count().max(1).min(parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(rows: &[u64]) -> Vec<Part> {
        rows.iter().map(|rows| Part { pages: 0..PAGES, rows: *rows }).collect()
    }

    #[test]
    fn a_batch_takes_parts_up_to_its_size() {
        assert_eq!(batch(&parts(&[30, 30, 30]), 100), 3);
        assert_eq!(batch(&parts(&[30, 30, 50]), 100), 2);
        assert_eq!(batch(&parts(&[500, 1]), 100), 1);
        assert_eq!(batch(&[], 100), 0);
    }

    #[test]
    fn bytes_are_a_share_of_the_table() {
        assert_eq!(share(1000, 1, 4), 250);
        assert_eq!(share(1000, 5, 4), 1000);
        assert_eq!(share(1000, 0, 0), 0);
    }
}
