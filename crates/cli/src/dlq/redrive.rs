//! `caudal dlq redrive`.

use super::later;
use super::resend::Resender;
use super::{Database, Which};
use anyhow::{Result, bail};
use caudal_core::reject::Reason;
use caudal_core::{headers, topics};
use caudal_kafka::{Kafka, KafkaArgs};
use caudal_sink::config::Config;
use caudal_sink::learn::{self, Learner};
use caudal_sink::ledger::Fate;
use caudal_sink::letters::{Filter, Letter, read, redrive};
use clap::Args;
use sqlx::postgres::PgConnection;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Letters in one txn or db_tx.
const BATCH: i64 = 500;
/// Any number that no other program is likely to use: one redrive at a time.
const LOCK: i64 = 0x6361_7564_6471;
/// How often a batch is begun anew because the sink stored something meanwhile.
const ATTEMPTS: usize = 20;

/// Arguments of `caudal dlq redrive`.
#[derive(Debug, Args)]
pub struct RedriveArgs {
    #[command(flatten)]
    which: Which,
    /// Only the one that the sink read at this place
    #[arg(long, value_name = "TOPIC-PARTITION@OFFSET")]
    place: Option<String>,
    /// Say what would be tried, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Which topic goes to which table: the sink's own --config
    #[arg(long, env = "CAUDAL_SINK_CONFIG", value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// The continuous queries: the sink's own --queries
    #[arg(long, env = "CAUDAL_QUERIES", value_name = "FILE.sql")]
    queries: Option<PathBuf>,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: Database,
}

/// What became of letters, in words, and how many.
#[derive(Debug, Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    fn print(&self) {
        self.0
            .iter()
            .filter(|(_, count)| **count > 0)
            .for_each(|(what, n)| println!("{n:>8}  {what}"));
    }
}

const SENT: &str = "sent again through transacciones";
const SENT_BEFORE: &str = "had been sent again by a run that was interrupted: marked now";
const STORED: &str = "stored in their table";
const THERE: &str = "were in their table already, equal";
const DEAD_STILL: &str = "are dead letters still: their reason is the new one";
const CUT: &str = "left alone: only the beginning of the value was kept";
const UNMAPPABLE: &str =
    "left alone: lines that could not be mapped; mend the mapping and send the file again";
const NO_ROUTE: &str = "left alone: the sink's files name no table for their topic";
const UNTOLD: &str = "left alone: their topic no longer tells whether a later value replaced them";

/// Why a letter cannot be tried, if so.
fn obstacle(letter: &Letter, config: &Config) -> Option<&'static str> {
    if &*letter.at.0 == topics::DLQ {
        let headers: Option<serde_json::Value> = serde_json::from_str(&letter.headers).ok();
        if headers.is_some_and(|all| all.get(headers::LINE).is_some()) {
            return Some(UNMAPPABLE);
        }
        return (!letter.is_whole()).then_some(CUT);
    }
    (!config.routes.contains_key(&letter.at.0)).then_some(NO_ROUTE)
}

/// Tries dead letters again.
///
/// # Errors
/// What Kafka and PostgreSQL say. What was done before stays done, and the next run goes on.
pub async fn run(args: &RedriveArgs) -> Result<()> {
    let mut config = Config::read(args.config.as_deref())?;
    config.add_queries(&crate::deployment::plans(args.queries.as_deref())?)?;
    let mut filter = args.which.filter()?;
    if let Some(place) = &args.place {
        filter.place = super::show::parse(place);
        if filter.place.is_none() {
            bail!("--place {place}: expected TOPIC-PARTITION@OFFSET");
        }
    }
    let mut connection = args.database.connect().await?;
    if args.dry_run {
        return dry_run(&mut connection, &filter, &config).await;
    }
    let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut connection)
        .await?;
    if !locked {
        bail!("another `caudal dlq redrive` runs on this database");
    }
    let kafka = args.kafka.connect("caudal-dlq")?;
    learn_declared(&mut connection, &mut config).await?;
    let mut tally = Tally::default();
    let done = redrive_all(&kafka, &mut connection, &filter, &mut config, &mut tally).await;
    tally.print();
    done?;
    println!(
        "done; what was sent again is judged by the processor: `caudal dlq list`, `caudal verify`"
    );
    Ok(())
}

async fn dry_run(connection: &mut PgConnection, filter: &Filter, config: &Config) -> Result<()> {
    let (mut tally, mut after) = (Tally::default(), None);
    let mut by_reason: BTreeMap<(String, Reason), u64> = BTreeMap::new();
    loop {
        let letters = read(connection, filter, after.as_ref(), BATCH).await?;
        for letter in &letters {
            match obstacle(letter, config) {
                Some(why) => tally.add(why, 1),
                None => {
                    let what = (letter.at.0.to_string(), letter.reason);
                    *by_reason.entry(what).or_default() += 1;
                }
            }
        }
        after = letters.into_iter().next_back();
        if after.is_none() {
            break;
        }
    }
    by_reason.iter().for_each(|((topic, reason), n)| println!("{n:>8}  {topic} {reason}"));
    tally.print();
    println!("nothing was done (--dry-run)");
    Ok(())
}

/// What the sink does at its start with the schemas that its file declares.
async fn learn_declared(connection: &mut PgConnection, config: &mut Config) -> Result<()> {
    let declared = learn::declared(&config.routes)?;
    into_tables(connection, config, declared).await
}

async fn into_tables(
    connection: &mut PgConnection,
    config: &mut Config,
    learnt: Vec<learn::Learnt>,
) -> Result<()> {
    for (topic, unknown, layout) in learnt {
        if let Some(route) = config.routes.get_mut(&topic) {
            let done = learn::into_table(connection, route, unknown, layout).await?;
            done.iter().for_each(|what| println!("{what}"));
        }
    }
    Ok(())
}

async fn redrive_all(
    kafka: &Kafka,
    connection: &mut PgConnection,
    filter: &Filter,
    config: &mut Config,
    tally: &mut Tally,
) -> Result<()> {
    let (mut resender, settled) = Resender::start(kafka, connection).await?;
    tally.add(SENT_BEFORE, settled);
    let mut learner = Learner::new(kafka);
    let mut after = None;
    loop {
        let letters = read(connection, filter, after.as_ref(), BATCH).await?;
        let Some(last) = letters.last().cloned() else { return Ok(()) };
        after = Some(last);
        let (mut ours, mut own) = (Vec::new(), Vec::new());
        for letter in letters {
            match obstacle(&letter, config) {
                Some(why) => tally.add(why, 1),
                None if &*letter.at.0 == topics::DLQ => ours.push(letter),
                None => own.push(letter),
            }
        }
        if !ours.is_empty() {
            tally.add(SENT, resender.send(connection, &ours).await?);
        }
        if !own.is_empty() {
            let records: Vec<_> = own.iter().map(|l| (l.at.clone(), l.record.clone())).collect();
            let missing = learner.missing(&mut config.routes, &records);
            let learnt =
                tokio::task::block_in_place(|| learner.look_up(&mut config.routes, missing))?;
            into_tables(connection, config, learnt).await?;
            store(kafka, connection, config, own, tally).await?;
        }
    }
}

/// Puts the sink's own into their tables.
async fn store(
    kafka: &Kafka,
    connection: &mut PgConnection,
    config: &Config,
    mut letters: Vec<Letter>,
    tally: &mut Tally,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let (known, untold) = later::look(kafka, config, connection, &letters).await?;
        if !untold.is_empty() {
            tally.add(UNTOLD, untold.len() as u64);
            let mut at = 0..;
            letters.retain(|_| !at.next().is_some_and(|at| untold.contains(&at)));
            if letters.is_empty() {
                return Ok(());
            }
            continue;
        }
        let Some(fates) = redrive(connection, &config.routes, &letters, &known).await? else {
            continue;
        };
        for fate in &fates {
            let what = match fate {
                Fate::Row | Fate::Gone => STORED,
                Fate::Duplicate => THERE,
                Fate::Conflict | Fate::Dead(..) => DEAD_STILL,
            };
            tally.add(what, 1);
        }
        return Ok(());
    }
    bail!(
        "the sink stores faster than its dead letters can be looked at; stop it and run this again"
    )
}
