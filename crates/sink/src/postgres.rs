//! The connection to PostgreSQL and the rows of `sink_offsets`.
//!
//! One connection, no pool, and no future that touches it is ever dropped half-way: a cancelled
//! call leaves a connection in an unknown state. Time-outs are the server's (`statement_timeout`
//! and its like), and a connection under suspicion is closed.

use crate::fault::Fault;
use crate::ledger::Ledger;
use caudal_core::sequence::Sequences;
use caudal_kafka::TopicPartition;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow, PgSslMode};
use sqlx::{ConnectOptions as _, Row as _};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;

/// Where the sink stands in one topic-partition, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// Number of the claim; only the holder of the newest may write.
    pub epoch: i64,
    /// The next offset to store.
    pub next_offset: i64,
    /// Id of the topic; `None` until it is claimed by a sink that knows ids.
    pub topic_id: Option<String>,
    /// Last sequence number of each task that writes to the topic.
    pub sequences: Sequences,
    /// What became of the records so far.
    pub ledger: Ledger,
}

/// Where the server is, from a URL `postgres://user:password@host:port/database`; a Unix socket with
/// `?host=/directory`. To another machine TLS with the server's name checked, unless the URL says
/// `sslmode`, or the environment `PGSSLMODE`.
///
/// # Errors
/// When the URL cannot be read. Its text is not repeated: it may hold a password.
pub fn endpoint(database_url: &str) -> Result<PgConnectOptions, Fault> {
    let options = PgConnectOptions::from_str(database_url)?.disable_statement_logging();
    let says_mode = database_url.contains("sslmode=")
        || database_url.contains("ssl-mode=")
        || std::env::var_os("PGSSLMODE").is_some();
    let is_safe = says_mode || is_local(&options);
    Ok(if is_safe { options } else { options.ssl_mode(PgSslMode::VerifyFull) })
}

/// How the sink connects: [`endpoint`], with its time-outs.
///
/// # Errors
/// As [`endpoint`].
pub fn options(database_url: &str) -> Result<PgConnectOptions, Fault> {
    let settings = [
        // A statement of ours takes milliseconds; these end what hangs, and the batch is tried
        // again. A process that was stopped inside its db_tx loses session and locks, so that its
        // successor's claim waits for them no longer than this.
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "10s"),
        // A commit that the server confirms is on its disk: Kafka's copy may expire.
        ("synchronous_commit", "on"),
        ("TimeZone", "UTC"),
        ("client_min_messages", "warning"),
    ];
    Ok(endpoint(database_url)?.application_name("caudal-sink").options(settings))
}

/// Whether the server is on this machine: then nobody is in between.
fn is_local(options: &PgConnectOptions) -> bool {
    // An address of IPv6 stands in brackets.
    let host = options.get_host().trim_matches(['[', ']']);
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    options.get_socket().is_some() || host.starts_with('/') || host == "localhost" || is_loopback
}

/// The runtime that drives the connection: the caller's own thread.
///
/// # Errors
/// When the system has no resources.
pub fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::stop(format!("cannot start a runtime: {e}")))
}

/// Opens a session.
///
/// # Errors
/// A [`Fault`] that says whether to try again.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Fault> {
    Ok(options.connect().await?)
}

const COLUMNS: &str = "topic, partition, epoch, next_offset, sequences::text AS sequences, rows, \
                       duplicates, conflicts, dead, deleted, sums::text AS sums, topic_id";

fn position(row: &PgRow) -> Result<(TopicPartition, Position), Fault> {
    let topic: String = row.try_get("topic")?;
    let at = (Arc::from(topic), row.try_get("partition")?);
    let sequences: String = row.try_get("sequences")?;
    let sums: String = row.try_get("sums")?;
    let unreadable = || Fault::stop("sink_offsets: sequences or sums are not what the sink wrote");
    let last: BTreeMap<String, u64> = serde_json::from_str(&sequences).map_err(|_| unreadable())?;
    let position = Position {
        epoch: row.try_get("epoch")?,
        next_offset: row.try_get("next_offset")?,
        topic_id: row.try_get("topic_id")?,
        sequences: Sequences { last },
        ledger: Ledger {
            rows: row.try_get("rows")?,
            duplicates: row.try_get("duplicates")?,
            conflicts: row.try_get("conflicts")?,
            dead: row.try_get("dead")?,
            deleted: row.try_get("deleted")?,
            sums: Ledger::parse_sums(&sums).ok_or_else(unreadable)?,
        },
    };
    Ok((at, position))
}

/// Claims a topic-partition: from now on every writer with an older epoch is fenced. `None` when
/// the partition was never stored and `first` is not given. The topic's id is stored where none is;
/// where there is one it stays, and the caller compares.
///
/// # Errors
/// A [`Fault`].
pub async fn claim(
    connection: &mut PgConnection,
    at: &TopicPartition,
    topic_id: Option<&str>,
    first: Option<i64>,
) -> Result<Option<Position>, Fault> {
    let statement = match first {
        None => format!(
            "UPDATE sink_offsets SET epoch = epoch + 1, topic_id = coalesce(topic_id, $3),
                 updated_at = now()
             WHERE topic = $1 AND partition = $2 RETURNING {COLUMNS}"
        ),
        // Another sink may have come first: then its position counts, not ours.
        Some(_) => format!(
            "INSERT INTO sink_offsets AS o (topic, partition, topic_id, next_offset, epoch)
             VALUES ($1, $2, $3, $4, 1)
             ON CONFLICT (topic, partition)
             DO UPDATE SET epoch = o.epoch + 1, topic_id = coalesce(o.topic_id, excluded.topic_id),
                 updated_at = now()
             RETURNING {COLUMNS}"
        ),
    };
    let mut query = sqlx::query(&statement).bind(&*at.0).bind(at.1).bind(topic_id);
    if let Some(first) = first {
        query = query.bind(first);
    }
    let row = query.fetch_optional(connection).await?;
    row.map(|row| position(&row).map(|(_, position)| position)).transpose()
}

/// Ends sessions of sinks whose COPY has waited for its client for ten seconds; gives how many. No
/// time-out of the server reaches a session there, only its end does: a process that was stopped in
/// a COPY would hold its positions for as long as it is stopped. A live one tries again.
///
/// # Errors
/// A [`Fault`].
pub async fn end_stopped(connection: &mut PgConnection) -> Result<i64, Fault> {
    let statement = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'caudal-sink' AND datname = current_database()
             AND usename = current_user AND pid <> pg_backend_pid() AND state = 'active'
             AND wait_event = 'ClientRead' AND query_start < now() - interval '10 seconds'";
    Ok(sqlx::query_scalar(statement).fetch_one(connection).await?)
}

/// Moves a position over a gap, to offset `next` of the topic with that id. Which numbers its tasks
/// have reached is forgotten. `None` when a newer claim came in between.
///
/// # Errors
/// A [`Fault`].
pub async fn pass_over(
    connection: &mut PgConnection,
    at: &TopicPartition,
    epoch: i64,
    topic_id: &str,
    next: i64,
) -> Result<Option<Position>, Fault> {
    let statement = format!(
        "UPDATE sink_offsets
         SET next_offset = $4, topic_id = $5, sequences = '{{}}', updated_at = now()
         WHERE topic = $1 AND partition = $2 AND epoch = $3 RETURNING {COLUMNS}"
    );
    let query = sqlx::query(&statement).bind(&*at.0).bind(at.1).bind(epoch);
    let row = query.bind(next).bind(topic_id).fetch_optional(connection).await?;
    row.map(|row| position(&row).map(|(_, position)| position)).transpose()
}

/// Every position of these topics, without locks.
///
/// # Errors
/// A [`Fault`].
pub async fn positions(
    connection: &mut PgConnection,
    topics: &[String],
) -> Result<BTreeMap<TopicPartition, Position>, Fault> {
    let statement = format!("SELECT {COLUMNS} FROM sink_offsets WHERE topic = ANY($1)");
    let rows = sqlx::query(&statement).bind(topics).fetch_all(connection).await?;
    rows.iter().map(position).collect()
}

/// Locks the rows of these partitions until the db_tx ends, in one order for everybody (so that
/// two sinks cannot deadlock), and returns them.
///
/// # Errors
/// A [`Fault`].
pub async fn lock<'a>(
    connection: &mut PgConnection,
    partitions: impl Iterator<Item = &'a TopicPartition>,
) -> Result<BTreeMap<TopicPartition, (i64, i64)>, Fault> {
    let (topics, numbers): (Vec<&str>, Vec<i32>) = partitions.map(|(t, p)| (&**t, *p)).unzip();
    let rows = sqlx::query(
        "SELECT topic, partition, epoch, next_offset FROM sink_offsets
         WHERE (topic, partition) IN (SELECT * FROM UNNEST($1::text[], $2::integer[]))
         ORDER BY topic, partition FOR UPDATE",
    )
    .bind(topics)
    .bind(numbers)
    .fetch_all(connection)
    .await?;
    let mut locked = BTreeMap::new();
    for row in rows {
        let topic: String = row.try_get(0)?;
        let at = (Arc::from(topic), row.try_get(1)?);
        locked.insert(at, (row.try_get(2)?, row.try_get(3)?));
    }
    Ok(locked)
}

/// Moves positions: `expected` is the next offset before. Returns how many rows were moved; fewer
/// than given means fenced.
///
/// # Errors
/// A [`Fault`].
pub async fn advance(
    connection: &mut PgConnection,
    moves: &BTreeMap<TopicPartition, (i64, Position)>,
) -> Result<u64, Fault> {
    let column = |get: fn(&Position) -> i64| -> Vec<i64> {
        moves.values().map(|(_, position)| get(position)).collect()
    };
    let texts = |get: fn(&Position) -> String| -> Vec<String> {
        moves.values().map(|(_, position)| get(position)).collect()
    };
    let sequences = |p: &Position| serde_json::to_string(&p.sequences.last).unwrap_or_default();
    let moved = sqlx::query(
        "UPDATE sink_offsets o SET next_offset = n.next_offset, sequences = n.sequences::jsonb,
             rows = n.rows, duplicates = n.duplicates, conflicts = n.conflicts, dead = n.dead,
             deleted = n.deleted, sums = n.sums::jsonb, updated_at = now()
         FROM UNNEST($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[],
             $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[])
             AS n(topic, partition, expected, epoch, next_offset, sequences, rows, duplicates,
                  conflicts, dead, deleted, sums)
         WHERE o.topic = n.topic AND o.partition = n.partition
             AND o.epoch = n.epoch AND o.next_offset = n.expected",
    )
    .bind(moves.keys().map(|(topic, _)| &**topic).collect::<Vec<&str>>())
    .bind(moves.keys().map(|(_, partition)| *partition).collect::<Vec<i32>>())
    .bind(moves.values().map(|(expected, _)| *expected).collect::<Vec<i64>>())
    .bind(column(|p| p.epoch))
    .bind(column(|p| p.next_offset))
    .bind(texts(sequences))
    .bind(column(|p| p.ledger.rows))
    .bind(column(|p| p.ledger.duplicates))
    .bind(column(|p| p.ledger.conflicts))
    .bind(column(|p| p.ledger.dead))
    .bind(column(|p| p.ledger.deleted))
    .bind(texts(|p| p.ledger.sums_json()))
    .execute(connection)
    .await?;
    Ok(moved.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_elsewhere_must_prove_its_name() {
        let is_verified = |url: &str| {
            let mode = options(url).map(|options| options.get_ssl_mode());
            matches!(mode, Ok(PgSslMode::VerifyFull))
        };
        assert!(is_verified("postgres://u@db.example/d"));
        assert!(is_verified("postgres://u@10.0.0.7:5432/d"));
        for local in [
            "postgres://u@localhost/d",
            "postgres://u@127.0.0.1:15432/d",
            "postgres://u@[::1]/d",
            "postgres://u@localhost/d?host=/tmp",
        ] {
            assert!(!is_verified(local), "{local}");
        }
        assert!(!is_verified("postgres://u@db.example/d?sslmode=disable"));
    }
}
