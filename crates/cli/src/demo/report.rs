//! What the demo ends with.

use crate::scrape::Scrape;
use crate::services;
use crate::sql::aligned;
use crate::verify::table_of;
use anyhow::Result;
use caudal_query::plan::Plan;
use caudal_stack::Stack;
use caudal_stack::layout::Layout;
use caudal_stack::process::resident_bytes;
use serde_json::Value as Json;
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::BTreeMap;
use std::time::Duration;

/// Counts that PostgreSQL gives after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Rows of `transactions`.
    pub rows: i64,
    /// Rows with a query in late_for.
    pub late: i64,
    /// Dead letters by reason.
    pub dead: BTreeMap<String, i64>,
    /// Sum of amounts per currency, as PostgreSQL prints it.
    pub sums: BTreeMap<String, String>,
    /// Rows of `ventas_gold`.
    pub gold: i64,
    /// Rows of `fraud_alerts`.
    pub alerts: i64,
}

/// Prints how many rows each query's table holds.
///
/// # Errors
/// What PostgreSQL says.
pub async fn print_queries(database_url: &str, plans: &[Plan]) -> Result<()> {
    let mut db = PgConnection::connect(database_url).await?;
    let mut lines = vec![vec!["query".to_owned(), "rows".to_owned(), String::new()]];
    for plan in plans {
        let (table, _) = table_of(plan);
        let there = sqlx::query_scalar::<_, bool>("SELECT to_regclass($1) IS NOT NULL");
        let rows: i64 = match there.bind(format!("\"{table}\"")).fetch_one(&mut db).await? {
            true => {
                let counted = format!("SELECT count(*) FROM \"{table}\"");
                sqlx::query_scalar(&counted).fetch_one(&mut db).await?
            }
            false => 0,
        };
        let look = format!("caudal sql 'SELECT * FROM {table} LIMIT 5'");
        lines.push(vec![plan.name.clone(), rows.to_string(), look]);
    }
    print!("\n{}", aligned(&lines));
    Ok(())
}

/// Asks PostgreSQL.
///
/// # Errors
/// What PostgreSQL says.
pub async fn stored(database_url: &str) -> Result<Stored> {
    let mut db = PgConnection::connect(database_url).await?;
    let counts = sqlx::query(
        "SELECT count(*) AS rows, count(*) FILTER (WHERE cardinality(late_for) > 0) AS late, \
         (SELECT count(*) FROM ventas_gold) AS gold, (SELECT count(*) FROM fraud_alerts) AS alerts \
         FROM transactions",
    )
    .fetch_one(&mut db)
    .await?;
    let dead = sqlx::query("SELECT reason, count(*) AS n FROM dead_letters GROUP BY reason")
        .fetch_all(&mut db)
        .await?;
    let sums = sqlx::query(
        "SELECT currency, trim_scale(sum(amount))::text AS total FROM transactions GROUP BY currency",
    )
    .fetch_all(&mut db)
    .await?;
    Ok(Stored {
        rows: counts.try_get("rows")?,
        late: counts.try_get("late")?,
        gold: counts.try_get("gold")?,
        alerts: counts.try_get("alerts")?,
        dead: dead
            .iter()
            .map(|r| Ok((r.try_get("reason")?, r.try_get("n")?)))
            .collect::<Result<_>>()?,
        sums: sums
            .iter()
            .map(|r| Ok((r.try_get("currency")?, r.try_get("total")?)))
            .collect::<Result<_>>()?,
    })
}

/// Compares what the generator knows must come out with what PostgreSQL holds; gives what differs.
#[must_use]
pub fn compare(expected: &Json, stored: &Stored) -> Vec<String> {
    let mut differences = Vec::new();
    let mut check = |what: &str, expected: String, found: String| {
        if expected != found {
            differences
                .push(format!("{what}: the generator expects {expected}, PostgreSQL has {found}"));
        }
    };
    check("rows", expected["valid"].to_string(), stored.rows.to_string());
    let reasons = expected["dead"].as_object().into_iter().flatten();
    let expected_dead: BTreeMap<String, i64> = reasons
        .filter_map(|(reason, n)| Some((reason.clone(), n.as_i64()?)))
        .filter(|(_, n)| *n > 0)
        .collect();
    check("dead letters", format!("{expected_dead:?}"), format!("{:?}", stored.dead));
    let sums = expected["sums"].as_object().into_iter().flatten();
    let expected_sums: BTreeMap<String, String> = sums
        .filter_map(|(currency, text)| Some((currency.clone(), trimmed(text.as_str()?))))
        .collect();
    check("sums", format!("{expected_sums:?}"), format!("{:?}", stored.sums));
    differences
}

/// A decimal without trailing zeros, as `trim_scale` prints it.
fn trimmed(text: &str) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    }
}

/// The last page: numbers, then where to look next.
///
/// # Errors
/// When the stack's state cannot be read.
pub fn print(
    stack: &Stack,
    stored: &Stored,
    lines: f64,
    took: Duration,
    drained: Duration,
) -> Result<()> {
    let (processor, sink) = (scrape(stack, "caudal-processor"), scrape(stack, "caudal-sink"));
    let dead: i64 = stored.dead.values().sum();
    let seconds = |q: f64| match sink.quantile("caudal_end_to_end_latency_seconds", q) {
        Some(edge) if edge.is_finite() => format!("<= {edge} s"),
        Some(_) => "> 1800 s".to_owned(),
        None => "not measured".to_owned(),
    };
    let duplicates = processor.samples_of("caudal_processor_records_total", "duplicate");
    let rows = vec![
        ["what", "how many"].map(str::to_owned).to_vec(),
        vec!["lines in".into(), format!("{lines}")],
        vec!["rows in transactions".into(), stored.rows.to_string()],
        vec!["duplicates (no effect)".into(), format!("{duplicates}")],
        vec!["dead letters".into(), dead.to_string()],
        vec!["late records (kept, flagged)".into(), stored.late.to_string()],
        vec!["rows in ventas_gold".into(), stored.gold.to_string()],
        vec!["rows in fraud_alerts".into(), stored.alerts.to_string()],
    ];
    println!("\n{}", aligned(&rows));
    for (reason, count) in &stored.dead {
        println!("  dead letters, {reason}: {count}");
    }
    let rate = lines / drained.as_secs_f64().max(0.001);
    println!(
        "\n  first line to last row {:.1} s ({rate:.0} lines/s), whole demo {:.0} s",
        drained.as_secs_f64(),
        took.as_secs_f64()
    );
    println!(
        "  append in Kafka to row in PostgreSQL, under this backlog: p50 {}, p99 {}",
        seconds(0.5),
        seconds(0.99)
    );
    print_memory(stack)?;
    print_next(stack)
}

fn scrape(stack: &Stack, name: &str) -> Scrape {
    services::metrics_address(stack, name).and_then(|a| Scrape::get(&a)).unwrap_or_default()
}

fn print_memory(stack: &Stack) -> Result<()> {
    const MIB: u64 = 1024 * 1024;
    let layout = Layout::from_env()?;
    let status = stack.status()?;
    let of =
        |name: &str| services::service(&layout, name).pid().and_then(resident_bytes).unwrap_or(0);
    let (processor, sink) = (of("caudal-processor"), of("caudal-sink"));
    println!(
        "  memory: {} MiB in all (brokers and PostgreSQL {} MiB, processor {} MiB, sink {} MiB)",
        (status.rss_bytes + processor + sink) / MIB,
        status.rss_bytes / MIB,
        processor / MIB,
        sink / MIB
    );
    Ok(())
}

fn print_next(stack: &Stack) -> Result<()> {
    let caudal = std::env::current_exe()?;
    let caudal = std::env::current_dir()
        .ok()
        .and_then(|here| caudal.strip_prefix(here).map(|p| p.display().to_string()).ok())
        .unwrap_or_else(|| caudal.display().to_string());
    println!("\nEverything stays up until `make down`. Where to look next:");
    for name in services::NAMES {
        println!("  {name}: http://{}/metrics", services::metrics_address(stack, name)?);
    }
    if let Some(url) = stack.prometheus_url() {
        println!("  Prometheus: {url}");
    }
    println!("  psql {}", stack.database_url());
    println!("  or, without psql, three commands to try:");
    println!("    {caudal} sql \"SELECT * FROM ventas_gold ORDER BY total DESC LIMIT 5\"");
    println!(
        "    {caudal} sql \"SELECT reason, error, count(*) FROM dead_letters GROUP BY 1, 2 ORDER BY 3 DESC\""
    );
    println!(
        "    eval \"$({caudal} stack env)\"; kafka-consumer-groups.sh --group caudal-processor --describe"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn says_what_differs_from_the_expectation() {
        let stored = Stored {
            rows: 9,
            late: 0,
            dead: [("amount".to_owned(), 1)].into(),
            sums: [("EUR".to_owned(), "10.5".to_owned())].into(),
            gold: 1,
            alerts: 0,
        };
        let expected =
            json!({"valid": 9, "dead": {"amount": 1, "schema": 0}, "sums": {"EUR": "10.50"}});
        assert!(compare(&expected, &stored).is_empty());
        let expected = json!({"valid": 8, "dead": {"amount": 2}, "sums": {"EUR": "10.51"}});
        assert_eq!(compare(&expected, &stored).len(), 3);
    }
}
