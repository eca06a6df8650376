//! `caudal dlq list|show|redrive`: the dead letters, and trying them again. docs/dead-letters.md
//! tells how.

mod later;
mod redrive;
mod resend;
mod show;

use crate::sql::aligned;
use anyhow::{Context as _, Result};
use caudal_core::reject::Reason;
use caudal_service::exit::Usage;
use caudal_sink::letters::Filter;
use clap::{Args, Subcommand};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

/// Subcommands of `caudal dlq`.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// How many dead letters there are, by topic and reason
    List(ListArgs),
    /// One dead letter: why, where from, and what it holds
    Show(show::ShowArgs),
    /// Try dead letters again: send those of the processor through `transacciones` once more, put
    /// the sink's own into their tables
    Redrive(redrive::RedriveArgs),
}

/// Where they are.
#[derive(Debug, Args)]
pub struct Database {
    /// PostgreSQL, postgres://user:password@host:port/database [default: the native stack's]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

/// Which of them.
#[derive(Debug, Args)]
pub struct Which {
    /// Only those of this reason, for instance `constraint`; may be given several times
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// Only those that the sink read from this topic; may be given several times
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Those that were tried again this often are in quarantine
    #[arg(long, value_name = "TIMES", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    quarantine_after: i32,
}

/// Arguments of `caudal dlq list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    database: Database,
}

impl Database {
    /// Connects as the sink does.
    ///
    /// # Errors
    /// When there is no native stack and no URL, or PostgreSQL does not answer.
    async fn connect(&self) -> Result<PgConnection> {
        let url = match &self.database_url {
            Some(url) => url.clone(),
            None => caudal_stack::Stack::open()?.database_url(),
        };
        let options = caudal_sink::postgres::options(&url)?;
        let connected = caudal_sink::postgres::connect(&options).await;
        connected.context("cannot connect to PostgreSQL (--database-url)")
    }
}

impl Which {
    /// Checked: a reason that is none would match nothing.
    ///
    /// # Errors
    /// [`Usage`].
    fn filter(&self) -> Result<Filter> {
        if let Some(unknown) = self.reason.iter().find(|reason| Reason::parse(reason).is_none()) {
            let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
            return Err(Usage(format!("--reason {unknown}: there are {}", all.join(", "))).into());
        }
        Ok(Filter {
            topics: self.topic.clone(),
            reasons: self.reason.clone(),
            place: None,
            replays_below: Some(self.quarantine_after),
        })
    }
}

/// Runs the command.
///
/// # Errors
/// What PostgreSQL or Kafka says; for `redrive` also when letters are left that could not be tried.
pub async fn run(command: &DlqCommand) -> Result<()> {
    match command {
        DlqCommand::List(args) => list(args).await,
        DlqCommand::Show(args) => show::run(args).await,
        DlqCommand::Redrive(args) => redrive::run(args).await,
    }
}

async fn list(args: &ListArgs) -> Result<()> {
    let filter = args.which.filter()?;
    let mut connection = args.database.connect().await?;
    let rows = sqlx::query(
        "SELECT topic, reason, count(*) FILTER (WHERE redriven_at IS NULL)::text,
             count(*) FILTER (WHERE redriven_at IS NULL AND replay_count >= $3)::text,
             count(redriven_at)::text, to_char(min(stored_at), 'YYYY-MM-DD HH24:MI'),
             to_char(max(stored_at), 'YYYY-MM-DD HH24:MI')
         FROM dead_letters
         WHERE (cardinality($1::text[]) = 0 OR topic = ANY($1))
             AND (cardinality($2::text[]) = 0 OR reason = ANY($2))
         GROUP BY topic, reason ORDER BY count(*) DESC, topic, reason",
    )
    .bind(&filter.topics)
    .bind(&filter.reasons)
    .bind(args.which.quarantine_after)
    .fetch_all(&mut connection)
    .await
    .context("cannot read dead_letters; the sink makes and alters the table when it starts")?;
    let head = ["topic", "reason", "dead", "quarantined", "redriven", "oldest", "newest"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for row in &rows {
        table.push((0..head.len()).map(|at| row.try_get(at)).collect::<Result<_, _>>()?);
    }
    print!("{}", aligned(&table));
    connection.close().await.ok();
    Ok(())
}
