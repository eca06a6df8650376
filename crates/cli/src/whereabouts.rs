//! `caudal where <transaction_id>`: every place that a transaction has been.

use crate::deployment::Deployment;
use crate::verify::identity::read_valid;
use anyhow::{Context as _, Result, bail};
use caudal_core::decode::{Record, decode};
use caudal_core::schema::Schemas;
use caudal_core::time::to_rfc3339;
use caudal_core::{headers, topics};
use caudal_kafka::Kafka;
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use caudal_sink::postgres::endpoint;
use clap::Args;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use std::fmt::Write as _;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `caudal where`.
#[derive(Debug, Args)]
pub struct WhereArgs {
    /// The transaction_id
    id: String,
    #[command(flatten)]
    deployment: Deployment,
}

/// A place, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    what: &'static str,
    place: String,
    more: String,
}

/// Reads the topics and the tables, and says where the id is.
///
/// # Errors
/// When something does not answer, or the id is nowhere.
pub async fn run(args: &WhereArgs) -> Result<()> {
    let (kafka, id) = (args.deployment.kafka("caudal-where")?, args.id.as_str());
    let mut seen = tokio::task::block_in_place(|| {
        let all =
            [topics::TRANSACCIONES, topics::VALIDAS, topics::DLQ].map(|t| scan(&kafka, t, id));
        all.into_iter().collect::<Result<Vec<_>>>()
    })?
    .concat();
    let url = args.deployment.database_url()?;
    let mut connection = endpoint(&url)?.connect().await.context("cannot connect to PostgreSQL")?;
    seen.extend(row(&mut connection, id).await?);
    seen.extend(letters(&mut connection, id).await?);
    connection.close().await.ok();
    if seen.is_empty() {
        bail!("{id} is nowhere: not in a topic (retention may have deleted it), not in a table");
    }
    print!("{}", text(&seen));
    Ok(())
}

fn scan(kafka: &Kafka, topic: &'static str, id: &str) -> Result<Vec<Seen>> {
    let schemas = Schemas::shipped();
    let partitions =
        Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-where")?.partitions(topic)?;
    let mut reader = LogReader::connect(kafka, topic)?;
    (0..partitions).for_each(|partition| reader.add(partition, None));
    let mut seen = Vec::new();
    reader.read_all::<caudal_kafka::Error>(PATIENCE, |record| {
        // Most records are told by a look at their bytes: an id stands in them as it is.
        let holds = record.value.as_deref().is_some_and(|value| contains(value, id.as_bytes()));
        if holds && let Some(found) = found_in(topic, &record, id, &schemas) {
            seen.push(found);
        }
        Ok(())
    })?;
    Ok(seen)
}

fn contains(value: &[u8], id: &[u8]) -> bool {
    !id.is_empty() && value.windows(id.len()).any(|window| window == id)
}

/// What a record of a topic says of the id, whose bytes it holds. `None`: it is another's.
fn found_in(topic: &str, record: &Record, id: &str, schemas: &Schemas) -> Option<Seen> {
    let place = format!("{topic}-{}@{}", record.partition, record.offset);
    let header = |name| record.header(name).unwrap_or("?");
    if topic == topics::VALIDAS {
        let (valid, late) = read_valid(record.value.as_deref(), schemas.valid.id).ok()?;
        if valid.transaction.transaction_id != id {
            return None;
        }
        let mut more = format!("of {}-{}", topics::TRANSACCIONES, header(headers::SOURCE));
        if !late.is_empty() {
            write!(more, ", late for {}", late.join(", ")).ok()?;
        }
        return Some(Seen { what: "valid", place, more });
    }
    let mut bare = record.clone();
    bare.headers.clear();
    let nameless = format!("{topic}-{}", record.partition);
    let decoded = decode(&bare, schemas.transaction.id, (&nameless, record.offset));
    let origin = match &decoded {
        Ok(t) if t.transaction_id == id && t.source == nameless => "no file".to_owned(),
        Ok(t) if t.transaction_id == id => from(&t.source, t.source_seq),
        Ok(_) => return None,
        // What cannot be read may be it.
        Err(_) => match record.header(headers::LINE) {
            Some(line) => format!("line {line}, which could not be read"),
            None => "its value holds the id, but cannot be read".to_owned(),
        },
    };
    if topic == topics::DLQ {
        let (reason, message) = (header(headers::REASON), header(headers::ERROR_MESSAGE));
        let (partition, offset) = (header(headers::ERROR_PARTITION), header(headers::ERROR_OFFSET));
        let of = format!("{}-{partition}@{offset}", topics::TRANSACCIONES);
        return Some(Seen {
            what: "rejected",
            place,
            more: format!("of {of}: {reason}, {message}"),
        });
    }
    let mut more = format!("{origin}, {}", to_rfc3339(record.timestamp.saturating_mul(1000)));
    if record.header(headers::REROUTED).is_some() {
        write!(more, ", moved from {}", header(headers::REROUTED)).ok()?;
    }
    if record.header(headers::REPLAYS).is_some() {
        more += ", a dead letter that was sent again";
    }
    Some(Seen { what: "sent", place, more })
}

/// The file and the line, where a mapping read one.
fn from(source: &str, number: i64) -> String {
    match source.split_once('/') {
        Some((source, file)) => format!("source {source}, file {file}, line {number}"),
        None => format!("source {source}, number {number}"),
    }
}

async fn row(connection: &mut PgConnection, id: &str) -> Result<Option<Seen>> {
    let row = sqlx::query(
        "SELECT stored_at::text, account_id, source, source_seq FROM transactions
         WHERE transaction_id = $1",
    );
    let row = row.bind(id).fetch_optional(connection).await.context("cannot read transactions")?;
    let Some(row) = row else { return Ok(None) };
    let (stored, account): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let origin = from(&row.try_get::<String, _>(2)?, row.try_get(3)?);
    let more = format!("{origin}, account {account}, stored {stored}");
    Ok(Some(Seen { what: "row", place: "table transactions".into(), more }))
}

async fn letters(connection: &mut PgConnection, id: &str) -> Result<Vec<Seen>> {
    let rows = sqlx::query(
        "SELECT topic || '-' || partition || '@' || \"offset\", reason, error, redriven_at::text
         FROM dead_letters WHERE position(convert_to($1, 'UTF8') IN payload) > 0
         ORDER BY topic, partition, \"offset\"",
    );
    let rows = rows.bind(id).fetch_all(connection).await.context("cannot read dead_letters")?;
    let seen = rows.iter().map(|row| {
        let (read, reason): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let mut more = format!("read at {read}: {reason}, {}", row.try_get::<String, _>(2)?);
        if let Some(at) = row.try_get::<Option<String>, _>(3)? {
            write!(more, "; redriven {at}")?;
        }
        Ok(Seen { what: "dead", place: "table dead_letters".into(), more })
    });
    seen.collect()
}

fn text(seen: &[Seen]) -> String {
    let width = seen.iter().map(|s| s.place.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Seen { what, place, more } in seen {
        // Writing to a String cannot fail.
        writeln!(out, "{what:<9} {place:<width$}  {more}").ok();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str, more: &[(&str, &str)]) -> Record {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().into());
        let headers = more.iter().map(header).collect();
        Record { offset: 7, value: Some(value.as_bytes().into()), headers, ..Record::default() }
    }

    const JSON: &str = r#"{"transaction_id":"t-1","account_id":"a","merchant_id":"m",
        "amount":"12.50","currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z",
        "source":"shop/sales.csv","source_seq":17}"#;

    #[test]
    fn a_record_tells_its_line_and_its_fate() {
        let schemas = Schemas::shipped();
        let found = |topic, record: &Record, id| found_in(topic, record, id, &schemas);
        let sent = found(topics::TRANSACCIONES, &record(JSON, &[]), "t-1").expect("found");
        assert_eq!((sent.what, &*sent.place), ("sent", "transacciones-0@7"));
        assert!(sent.more.starts_with("source shop, file sales.csv, line 17"), "{}", sent.more);
        assert_eq!(found(topics::TRANSACCIONES, &record(JSON, &[]), "t"), None);
        let why = [
            (headers::REASON, "conflict"),
            (headers::ERROR_MESSAGE, "other contents"),
            (headers::ERROR_PARTITION, "2"),
            (headers::ERROR_OFFSET, "9"),
        ];
        let dead = found(topics::DLQ, &record(JSON, &why), "t-1").expect("found");
        assert_eq!(dead.more, "of transacciones-2@9: conflict, other contents");
        let line = [(headers::LINE, "f.csv:3"), (headers::REASON, "mapping")];
        let broken = found(topics::TRANSACCIONES, &record("t-1,x", &line), "t-1").expect("found");
        assert!(
            broken.more.starts_with("line f.csv:3, which could not be read"),
            "{}",
            broken.more
        );
    }

    #[test]
    fn ids_are_found_in_bytes() {
        assert!(contains(b"xxt-1", b"t-1"));
        assert!(!contains(b"t-", b"t-1") && !contains(b"t-1", b""));
    }
}
