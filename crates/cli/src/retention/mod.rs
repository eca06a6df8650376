//! `caudal retention plan|apply`: rows older than a time are deleted and accounted for.
//! docs/retention.md tells how.

mod apply;
mod keep;
mod plan;
mod target;

use crate::sql::aligned;
use anyhow::{Context as _, Result};
use caudal_core::time::to_rfc3339;
use caudal_sink::config::Config;
use clap::{Args, Subcommand};
use keep::Keep;
use plan::Look;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _};
use std::path::PathBuf;
use std::time::Instant;
use target::Target;

/// Subcommands of `caudal retention`.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show what would be deleted: rows, bytes, the oldest, and what remains
    Plan(RetentionArgs),
    /// Delete it in batches, while the sink goes on; safe to kill, run it again to go on
    Apply(RetentionArgs),
}

/// What both take.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Rows older than this go, by day (UTC): "12 months", "90 days", "1 year"
    #[arg(long, value_name = "TIME")]
    keep: Keep,
    /// Only of this table; may be given several times [default: transactions, dead_letters and the
    /// windowed tables of queries]
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Most rows that one database transaction deletes
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    batch_rows: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Which topic goes to which table: the sink's own --config
    #[arg(long, env = "CAUDAL_SINK_CONFIG", value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// The continuous queries: the sink's own --queries
    #[arg(long, env = "CAUDAL_QUERIES", value_name = "FILE.sql")]
    queries: Option<PathBuf>,
    /// PostgreSQL, postgres://user:password@host:port/database [default: the native stack's]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

/// One table, for a script.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    look: Look,
    /// Rows that were deleted; none of a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<u64>,
    /// How long that took, without the vacuum.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    keep: String,
    /// Rows of an earlier time go, RFC 3339.
    before: String,
    tables: Vec<Outcome>,
}

/// Runs the command.
///
/// # Errors
/// What PostgreSQL says; a table or a time that is none.
pub async fn run(command: &RetentionCommand) -> Result<()> {
    let (args, applies) = match command {
        RetentionCommand::Plan(args) => (args, false),
        RetentionCommand::Apply(args) => (args, true),
    };
    let plans = crate::deployment::plans(args.queries.as_deref())?;
    let mut config = Config::read(args.config.as_deref())?;
    config.add_queries(&plans)?;
    let targets = target::targets(&config, &plans, &args.table)?;
    let mut connection = args.connect().await?;
    if applies {
        apply::be_alone(&mut connection).await?;
    }
    let before = plan::cutoff(&mut connection, args.keep).await?;
    let mut report =
        Report { keep: args.keep.to_string(), before: to_rfc3339(before), tables: Vec::new() };
    for target in &targets {
        let outcome = one(&mut connection, target, before, applies.then_some(args.batch_rows));
        report.tables.push(outcome.await?);
    }
    connection.close().await.ok();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text(applies));
    }
    Ok(())
}

async fn one(
    connection: &mut PgConnection,
    target: &Target,
    before: i64,
    batch_rows: Option<u64>,
) -> Result<Outcome> {
    let look = plan::look(connection, target, before).await?;
    let (Some(batch_rows), true) = (batch_rows, look.rows > 0) else {
        return Ok(Outcome { look, deleted: batch_rows.map(|_| 0), seconds: None });
    };
    let begun = Instant::now();
    let deleted = apply::retire(connection, (target, &look), before, batch_rows).await?;
    let seconds = Some(begun.elapsed().as_secs_f64());
    apply::clean(connection, &look).await?;
    Ok(Outcome { look, deleted: Some(deleted), seconds })
}

impl RetentionArgs {
    async fn connect(&self) -> Result<PgConnection> {
        let url = match &self.database_url {
            Some(url) => url.clone(),
            None => caudal_stack::Stack::open()?.database_url(),
        };
        let settings = [
            // A look reads all old rows.
            ("statement_timeout", "0"),
            // Shorter than the server's deadlock_timeout: where the sink and a batch wait for each
            // other, it is the batch that gives way.
            ("lock_timeout", "500ms"),
            ("idle_in_transaction_session_timeout", "10s"),
            // A batch that a crash of the server loses is lost with its account, and deleted again.
            ("synchronous_commit", "off"),
            // Ranges of pages are few, but the planner takes them for as many as there are rows.
            ("enable_sort", "off"),
            ("TimeZone", "UTC"),
        ];
        let options = caudal_sink::postgres::endpoint(&url)?
            .application_name("caudal-retention")
            .options(settings);
        options.connect().await.context("cannot connect to PostgreSQL (--database-url)")
    }
}

impl Report {
    fn text(&self, applied: bool) -> String {
        let mut head = vec!["table", "by", "rows", "about bytes", "oldest", "about remaining"];
        if applied {
            head.extend(["deleted", "rows/s"]);
        }
        let mut table = vec![head.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        for Outcome { look, deleted, seconds } in &self.tables {
            let mut row = vec![
                look.table.clone(),
                look.by.to_owned(),
                look.rows.to_string(),
                look.bytes.to_string(),
                look.oldest.clone().unwrap_or_default(),
                look.remaining.to_string(),
            ];
            if let Some(deleted) = deleted {
                let rate =
                    seconds.map(|s| f64::from(u32::try_from(*deleted).unwrap_or(u32::MAX)) / s);
                row.extend([
                    deleted.to_string(),
                    rate.map_or_else(String::new, |r| format!("{r:.0}")),
                ]);
            }
            table.push(row);
        }
        let mut out = format!("keep {}: rows before {} go\n\n", self.keep, self.before);
        out.push_str(&aligned(&table));
        out.push_str(match applied {
            false => "nothing was deleted; do it with `caudal retention apply`\n",
            true => {
                "The room is free for new rows of the same table. To give it back to the system: \
                 `VACUUM FULL` (the sink waits until it is done) or pg_repack.\n"
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(deleted: Option<u64>) -> Report {
        let look = Look {
            table: "transactions".into(),
            by: "event_time",
            rows: 2000,
            bytes: 400_000,
            oldest: Some("2024-01-01T00:00:00Z".into()),
            remaining: 7,
            parts: Vec::new(),
        };
        let outcome = Outcome { look, deleted, seconds: deleted.map(|_| 0.5) };
        Report {
            keep: "1 year".into(),
            before: "2025-01-01T00:00:00Z".into(),
            tables: vec![outcome],
        }
    }

    #[test]
    fn a_plan_says_that_nothing_was_done() {
        let text = report(None).text(false);
        assert!(text.starts_with("keep 1 year: rows before 2025-01-01T00:00:00Z go\n"), "{text}");
        assert!(text.contains("2000") && text.ends_with("`caudal retention apply`\n"), "{text}");
        let json = serde_json::to_value(report(None)).expect("json");
        assert_eq!(
            (&json["tables"][0]["rows"], json["tables"][0].get("deleted")),
            (&2000.into(), None)
        );
    }

    #[test]
    fn what_was_done_has_a_rate_and_says_how_to_shrink() {
        let text = report(Some(2000)).text(true);
        assert!(text.contains(" 4000") && text.contains("pg_repack"), "{text}");
        assert_eq!(
            serde_json::to_value(report(Some(2000))).expect("json")["tables"][0]["deleted"],
            2000
        );
    }
}
