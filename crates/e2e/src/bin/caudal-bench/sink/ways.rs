//! One upsert by size, both ways that the sink has: by arrays, and through a staging table.

use super::load::{self, Case};
use crate::results::quantile;
use anyhow::{Context as _, Result};
use caudal_sink::batch::Batch;
use caudal_sink::config::Config;
use caudal_sink::postgres::{endpoint, runtime};
use caudal_sink::store::Database;
use caudal_sink::{unnest, write};
use serde_json::{Value as Json, json};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Executor as _};
use std::collections::BTreeMap;
use std::time::Instant;

const SIZES: [i64; 6] = [1, 10, 100, 500, 1_000, 5_000];
/// Rows that each way stores of a size, so that small ones are tried more often.
const ROWS: i64 = 40_000;

/// Measures them in turns, each in a db_tx of its own, and gives the milliseconds of one.
///
/// # Errors
/// When the server refuses.
pub fn compare(url: &str, config: &Config) -> Result<Json> {
    println!("one upsert, ms min / median / max, by arrays and through the staging table:");
    let runtime = runtime()?;
    let mut connection = runtime.block_on(endpoint(url)?.connect())?;
    let mut all = BTreeMap::new();
    for size in SIZES {
        let records = load::records(Case::Distinct, 0, 0, size)?;
        let at = records.first().context("no record")?.0.clone();
        let position = Database::new(url)?.claim(&at, None, Some(0))?.context("claim")?;
        let batch = Batch::build(records, &BTreeMap::from([(at, position)]), &config.routes)?;
        let [arrays, staging] =
            runtime.block_on(both(&mut connection, &batch, (ROWS / (size + 40)).clamp(8, 400)))?;
        println!("  {size:>5} rows: {} | {}", shown(&arrays), shown(&staging));
        all.insert(size.to_string(), json!({"arrays_ms": arrays, "staging_ms": staging}));
    }
    Ok(json!(all))
}

async fn both(connection: &mut PgConnection, batch: &Batch, times: i64) -> Result<[Vec<f64>; 2]> {
    let rows = batch.tables.first().context("no rows")?;
    let group: Vec<usize> = (0..rows.rows.len()).collect();
    let arrays = unnest::array_types(connection, &rows.table).await?.context("array types")?;
    write::create_staging(connection, &rows.table).await?;
    let mut milliseconds = [Vec::new(), Vec::new()];
    // The first of each makes its plans.
    for time in 0..=times {
        for (way, of_way) in milliseconds.iter_mut().enumerate() {
            let begun = Instant::now();
            connection.execute("BEGIN").await?;
            match way {
                0 => unnest::upsert(connection, rows, &group, &arrays).await?,
                _ => {
                    let mut fates = batch.fates.clone();
                    write::through_staging(connection, rows, None, &mut fates).await?;
                }
            }
            connection.execute("COMMIT").await?;
            if time > 0 {
                of_way.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    milliseconds.iter_mut().for_each(|of_way| of_way.sort_by(f64::total_cmp));
    Ok(milliseconds)
}

fn shown(sorted: &[f64]) -> String {
    let [least, median, most] = [0.0, 0.5, 1.0].map(|q| quantile(sorted, q));
    format!("{least:.2} / {median:.2} / {most:.2}")
}
