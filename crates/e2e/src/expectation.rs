//! What a generated run must lead to, checked by plain SQL.

use crate::fault::wait_until;
use crate::pipeline::Pipeline;
use crate::query::{self, GOLD_DIFFERENCES};
use anyhow::{Result, ensure};
use caudal_producer::generate::{Expected, expected};
use std::time::Duration;

/// Expected rows, dead letters and sums.
pub struct Expectation {
    expected: Expected,
}

impl Expectation {
    /// Of a generator run.
    ///
    /// # Errors
    /// When a number is not one.
    pub fn of(records: &str, seed: &str) -> Result<Expectation> {
        Ok(Expectation { expected: expected(records.parse()?, seed.parse()?)? })
    }

    fn dead(&self) -> u64 {
        self.expected.dead.values().sum()
    }

    /// Waits until as many rows and dead letters are stored as are expected.
    ///
    /// # Errors
    /// When they are not there in time.
    pub fn wait_stored(&self, pipeline: &Pipeline, limit: Duration) -> Result<()> {
        let wanted = format!("{} {}", self.expected.valid, self.dead());
        let sql = "SELECT (SELECT count(*) FROM transactions) || ' ' || (SELECT count(*) FROM dead_letters)";
        let mut last = String::new();
        wait_until(&format!("rows and dead letters {wanted}"), limit, || {
            last = query::text(&pipeline.database_url, sql)?;
            Ok(last == wanted)
        })
        .map_err(|e| e.context(format!("stored are {last}")))?;
        // Aggregates follow: they are there when the topics are drained, which `drained` proves.
        pipeline.caudal(&["drained"]).map(|_| ())
    }

    /// Compares counts, sums and aggregates.
    ///
    /// # Errors
    /// With the first difference.
    pub fn check(&self, pipeline: &Pipeline) -> Result<()> {
        let url = &pipeline.database_url;
        let rows = query::text(
            url,
            "SELECT count(*) || ' ' || count(DISTINCT transaction_id) FROM transactions",
        )?;
        let valid = self.expected.valid;
        ensure!(
            rows == format!("{valid} {valid}"),
            "rows and distinct ids: {rows}, expected {valid}"
        );
        let sums = query::texts(
            url,
            "SELECT currency || ' ' || trim_scale(sum(amount)) FROM transactions GROUP BY currency ORDER BY currency",
        )?;
        let wanted: Vec<String> = self
            .expected
            .sums
            .iter()
            .map(|(c, n)| format!("{c} {}", caudal_core::money::nano_text(n, 0)))
            .collect();
        ensure!(sums == wanted, "sums: {sums:?}, expected {wanted:?}");
        let dead = query::texts(
            url,
            "SELECT reason || ' ' || count(*) FROM dead_letters GROUP BY reason ORDER BY reason",
        )?;
        let wanted: Vec<String> = self
            .expected
            .dead
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(r, n)| format!("{r} {n}"))
            .collect();
        ensure!(dead == wanted, "dead letters: {dead:?}, expected {wanted:?}");
        let gold = query::texts(url, GOLD_DIFFERENCES)?;
        ensure!(gold.is_empty(), "ventas_gold differs from its recomputation: {gold:#?}");
        Ok(())
    }
}
