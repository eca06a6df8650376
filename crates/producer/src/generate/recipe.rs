//! From arguments to a recipe, and what is written of it besides sending it.

use super::{Recipe, csv, expected_of};
use crate::args::ProducerArgs;
use anyhow::Result;
use caudal_core::time::{SECOND, parse_rfc3339};
use caudal_service::exit::Usage;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The recipe that the arguments describe.
///
/// # Errors
/// [`Usage`] for a time, mix or speed that is none.
pub fn of(args: &ProducerArgs, count: u64) -> Result<Recipe> {
    let shape = args.shape.shape(args.rate)?;
    let base = if is_now(args) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX));
        let span = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(shape.step);
        // The last record is about now when it is sent; none is ever in the future.
        let lasts = args
            .shape
            .event_time_speed
            .map_or(0, |_| u128::from(count) * 1_000_000 / u128::from(args.rate.max(1)));
        let lasts = i64::try_from(lasts).unwrap_or(i64::MAX);
        now.saturating_sub(span.saturating_sub(lasts).max(0))
    } else {
        parse_rfc3339(&args.event_time_base).ok_or_else(|| {
            let text = &args.event_time_base;
            Usage(format!(
                "--event-time-base {text}: `now`, or RFC 3339 such as 2026-01-05T08:00:00Z"
            ))
        })?
    };
    Ok(Recipe { count, seed: args.seed, base: base.div_euclid(SECOND) * SECOND, shape })
}

fn is_now(args: &ProducerArgs) -> bool {
    args.event_time_base == "now"
}

/// The name under which its progress is kept.
#[must_use]
pub fn source(args: &ProducerArgs, recipe: &Recipe) -> String {
    let label = if is_now(args) {
        format!("{}-{}-now{}", recipe.seed, recipe.count, recipe.shape.label())
    } else {
        recipe.label()
    };
    args.source.clone().unwrap_or_else(|| format!("generate-{label}"))
}

/// Writes what it must lead to, where that is asked for.
///
/// # Errors
/// [`Usage`] when the file cannot be written.
pub fn write_expected(args: &ProducerArgs, recipe: &Recipe) -> Result<()> {
    let Some(path) = &args.expected_out else { return Ok(()) };
    let text = serde_json::to_string_pretty(&expected_of(*recipe)?)?;
    fs::write(path, text + "\n")
        .map_err(|e| Usage(format!("--expected-out {}: {e}", path.display())).into())
}

/// Writes its records as CSV, and what they must lead to.
///
/// # Errors
/// [`Usage`] when a file cannot be written.
pub fn write_csv(args: &ProducerArgs, count: u64, path: &Path) -> Result<()> {
    let recipe = of(args, count)?;
    write_expected(args, &recipe)?;
    let refused = |e: std::io::Error| Usage(format!("--write-csv {}: {e}", path.display()));
    let file = File::create(path).map_err(refused)?;
    csv::write(recipe, BufWriter::new(file)).map_err(refused)?;
    tracing::info!("{count} records written to {}", path.display());
    Ok(())
}
