//! PostgreSQL as one snapshot: everything is read in one REPEATABLE READ READ ONLY transaction,
//! begun before any topic is read.

use super::cut::Cut;
use super::identity::{Stored, first_half, half_of_hex, parse_nano};
use super::place::Topics;
use super::refused::{Refused, Row as DeadRow};
use super::retired::Retired;
use anyhow::{Context as _, Result, anyhow};
use caudal_core::decode::Record;
use caudal_core::dedup::Hash16;
use caudal_core::money::{Currency, Sums};
use caudal_core::row::Value;
use caudal_query::plan::{Amount, Plan};
use caudal_sink::write::quoted;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, ValueRef as _};
use std::collections::{BTreeMap, HashMap};

/// Rows that one FETCH brings.
const FETCHED: usize = 5_000;

/// What the sink says it has done with one topic-partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkLedger {
    pub rows: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub dead: u64,
    pub deleted: u64,
    /// Money by fate.
    pub sums: BTreeMap<String, Sums>,
}

impl SinkLedger {
    fn merge(&mut self, other: &SinkLedger) {
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.dead += other.dead;
        self.deleted += other.deleted;
    }

    /// Adds the counters of a row of `sink_offsets`.
    fn add(&mut self, row: &PgRow) -> Result<()> {
        let count = |name| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(name)?.unsigned_abs());
        self.rows += count("rows")?;
        self.duplicates += count("duplicates")?;
        self.conflicts += count("conflicts")?;
        self.dead += count("dead")?;
        self.deleted += count("deleted")?;
        Ok(())
    }
}

/// What the sink says of a topic that is not the pipeline's own.
#[derive(Debug, Default)]
pub struct OtherLedger {
    pub topic: String,
    /// The next offset that it has not stored, and its counters.
    pub partitions: BTreeMap<i32, (i64, SinkLedger)>,
    /// Fingerprints of the payloads of its dead letters, by partition and offset; `None` of those
    /// that `caudal retention` has deleted.
    pub letters: HashMap<(i32, i64), Option<Option<Hash16>>>,
}

impl OtherLedger {
    /// Whether a record lies below the sink's position.
    pub fn stored(&self, record: &Record) -> bool {
        self.partitions.get(&record.partition).is_some_and(|(next, _)| record.offset < *next)
    }

    /// Of all partitions.
    pub fn whole(&self) -> SinkLedger {
        let mut whole = SinkLedger::default();
        self.partitions.values().for_each(|(_, ledger)| whole.merge(ledger));
        whole
    }
}

/// The snapshot.
pub struct Snapshot {
    connection: PgConnection,
}

/// `(extract(epoch from …) * 1000000)::bigint` is exact: extract gives a numeric.
fn micros(column: &str) -> String {
    format!("(extract(epoch FROM {column}) * 1000000)::bigint")
}

impl Snapshot {
    /// Connects and takes the snapshot.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn take(database_url: &str) -> Result<Snapshot> {
        // Topics are read while it waits: no server-side time-out may end it meanwhile.
        let settings = [
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            ("TimeZone", "UTC"),
        ];
        let options = caudal_sink::postgres::endpoint(database_url)?
            .application_name("caudal-verify")
            .options(settings);
        let mut connection = options.connect().await.context(
            "cannot connect to PostgreSQL (--database-url); is the stack up? `caudal stack status`",
        )?;
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(Snapshot { connection })
    }

    /// Where the sink stands, and its ledger by topic number. The first statement: the snapshot is
    /// as of now.
    ///
    /// # Errors
    /// When the table is not there, or holds what the sink does not write.
    pub async fn positions(
        &mut self,
        topics: &Topics,
        cut: &mut Cut,
    ) -> Result<BTreeMap<u8, SinkLedger>> {
        let rows = self.connection.fetch_all(
            "SELECT topic, partition, next_offset, rows, duplicates, conflicts, dead, deleted,
                    sums::text
             FROM sink_offsets",
        );
        let rows = rows.await.context(
            "cannot read table sink_offsets; caudal-sink makes and alters the tables when it starts",
        )?;
        let mut ledgers: BTreeMap<u8, SinkLedger> = BTreeMap::new();
        for row in rows {
            let (topic, partition): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
            let Some(topic) = topics.number(&topic) else { continue };
            cut.stored.insert((topic, partition), row.try_get(2)?);
            let ledger = ledgers.entry(topic).or_default();
            ledger.add(&row)?;
            let sums: String = row.try_get(8)?;
            let sums = caudal_sink::ledger::Ledger::parse_sums(&sums)
                .context("sink_offsets: column sums is not what the sink writes")?;
            for (fate, sums) in sums {
                ledger.sums.entry(fate).or_default().merge(&sums)?;
            }
        }
        Ok(ledgers)
    }

    /// The rows of `dead_letters`. The sink's own that were redriven are rows of their tables now.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn dead_letters(&mut self, topics: &Topics) -> Result<Refused> {
        let mut refused = Refused::default();
        let query = "SELECT topic, partition, \"offset\", reason, sha256(payload), sha256
                     FROM dead_letters WHERE redriven_at IS NULL OR topic = 'transacciones_dlq'";
        self.each(query, |row| {
            let payload: Option<Vec<u8>> = row.try_get(4)?;
            let original: Option<String> = row.try_get(5)?;
            let dead = DeadRow {
                reason: row.try_get(3)?,
                payload: payload.as_deref().map(first_half),
                original: original.as_deref().and_then(half_of_hex),
            };
            let topic: String = row.try_get(0)?;
            refused.add(topics, &topic, row.try_get(1)?, row.try_get(2)?, dead);
            Ok(())
        })
        .await
        .context("cannot read table dead_letters")?;
        let query = "SELECT topic, partition, \"offset\", reason FROM retired_letters";
        self.each(query, |row| {
            let topic: String = row.try_get(0)?;
            let at = (topic.as_str(), row.try_get(1)?, row.try_get(2)?);
            refused.add_retired(topics, at, row.try_get(3)?);
            Ok(())
        })
        .await
        .context("cannot read table retired_letters")?;
        Ok(refused)
    }

    /// What the sink says of topics that are none of `own`.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub async fn others(&mut self, own: &Topics) -> Result<Vec<OtherLedger>> {
        let mut all: BTreeMap<String, OtherLedger> = BTreeMap::new();
        let query =
            "SELECT topic, partition, next_offset, rows, duplicates, conflicts, dead, deleted
                     FROM sink_offsets";
        self.each(query, |row| {
            let topic: String = row.try_get(0)?;
            if own.number(&topic).is_none() {
                let of_topic = all.entry(topic.clone()).or_default();
                of_topic.topic = topic;
                let (next, ledger) = of_topic.partitions.entry(row.try_get(1)?).or_default();
                *next = row.try_get(2)?;
                ledger.add(row)?;
            }
            Ok(())
        })
        .await
        .context("cannot read table sink_offsets")?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let query = "SELECT topic, partition, \"offset\", sha256(payload), false FROM dead_letters
                     WHERE redriven_at IS NULL
                     UNION ALL SELECT topic, partition, \"offset\", NULL, true FROM retired_letters";
        self.each(query, |row| {
            let topic: String = row.try_get(0)?;
            let Some(of_topic) = all.get_mut(&topic) else { return Ok(()) };
            let (payload, is_retired): (Option<Vec<u8>>, bool) = (row.try_get(3)?, row.try_get(4)?);
            let payload = (!is_retired).then(|| payload.as_deref().map(first_half));
            of_topic.letters.insert((row.try_get(1)?, row.try_get(2)?), payload);
            Ok(())
        })
        .await
        .context("cannot read table dead_letters")?;
        Ok(all.into_values().collect())
    }

    /// The rows of a table, in PostgreSQL's binary format.
    ///
    /// # Errors
    /// When the table cannot be read, or what `take` returns.
    pub async fn rows(
        &mut self,
        table: &str,
        columns: &[&str],
        mut take: impl FnMut(&[Option<&[u8]>]) -> Result<()>,
    ) -> Result<()> {
        let columns: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let query = format!("SELECT {} FROM {}", columns.join(", "), quoted(table));
        let row = |row: &PgRow| {
            let mut fields = Vec::with_capacity(columns.len());
            for at in 0..columns.len() {
                let value = row.try_get_raw(at)?;
                let bytes = || value.as_bytes().map_err(|e| anyhow!("column {at}: {e}"));
                fields.push(if value.is_null() { None } else { Some(bytes()?) });
            }
            take(&fields)
        };
        self.each(&query, row).await.with_context(|| format!("cannot read table {table}"))
    }

    /// The session, inside the snapshot.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// What `caudal retention` has deleted of the rows of each topic.
    ///
    /// # Errors
    /// When the table cannot be read, or holds what that command does not write.
    pub async fn retired(&mut self, topics: &Topics) -> Result<BTreeMap<u8, Retired>> {
        let query = format!(
            "SELECT topic, currency, rows, total::text, keys::text, {} FROM retired
             WHERE table_name <> 'dead_letters'",
            micros("through")
        );
        let rows = self.connection.fetch_all(query.as_str()).await;
        let mut all: BTreeMap<u8, Retired> = BTreeMap::new();
        for row in rows.context("cannot read table retired")? {
            let topic: String = row.try_get(0)?;
            let Some(topic) = topics.number(&topic) else { continue };
            let of_topic = all.entry(topic).or_default();
            of_topic.rows += row.try_get::<i64, _>(2)?.unsigned_abs();
            let (currency, total): (String, String) = (row.try_get(1)?, row.try_get(3)?);
            let keys: String = row.try_get(4)?;
            of_topic.keys += keys.parse::<i128>().context("retired: column keys")?;
            of_topic.before = of_topic.before.max(row.try_get(5)?);
            if let Some(currency) = Currency::parse(&currency) {
                let nano = parse_nano(&total).context("retired: column total")?;
                of_topic.sums.add_nano(currency, nano)?;
            }
        }
        Ok(all)
    }

    /// The rows of `transactions`.
    ///
    /// # Errors
    /// When the table cannot be read, or what `take` returns.
    pub async fn transactions(&mut self, mut take: impl FnMut(Stored) -> Result<()>) -> Result<()> {
        let query = format!(
            "SELECT transaction_id, account_id, merchant_id, amount::text, currency, kind, country,
                    {}, description, attributes::text, source, source_seq, late_for
             FROM transactions",
            micros("event_time")
        );
        let row = |row: &PgRow| {
            let attributes: Option<String> = row.try_get(9)?;
            let attributes = attributes.map(|json| {
                let all: BTreeMap<String, serde_json::Value> = serde_json::from_str(&json)?;
                let text = |value: serde_json::Value| match value {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                Ok::<_, serde_json::Error>(all.into_iter().map(|(k, v)| (k, text(v))).collect())
            });
            take(Stored {
                id: row.try_get(0)?,
                account_id: row.try_get(1)?,
                merchant_id: row.try_get(2)?,
                amount: row.try_get(3)?,
                currency: row.try_get(4)?,
                kind: row.try_get(5)?,
                country: row.try_get(6)?,
                event_time: row.try_get(7)?,
                description: row.try_get(8)?,
                // What is no object differs from every record's.
                attributes: attributes.map(|read| read.unwrap_or_default()),
                source: row.try_get(10)?,
                source_seq: row.try_get(11)?,
                late_for: row.try_get(12)?,
            })
        };
        self.each(&query, row).await.context("cannot read table transactions")
    }

    /// The rows of a query's table, in the order of the query's columns; `None` in place of a
    /// decimal that is out of range.
    ///
    /// # Errors
    /// When the table cannot be read, or what `take` returns.
    pub async fn windows(
        &mut self,
        plan: &Plan,
        mut take: impl FnMut(Vec<Option<Value>>) -> Result<()>,
    ) -> Result<()> {
        let (table, rule) = table_of(plan);
        let amounts = plan.amounts().unwrap_or_default();
        let groups = plan.group_names().map(|column| format!("\"{column}\""));
        let aggregates = amounts.iter().map(|(alias, amount)| match amount {
            Amount::Count => format!("\"{alias}\""),
            _ => format!("\"{alias}\"::text"),
        });
        let columns: Vec<String> = groups
            .chain([micros("window_start"), micros("window_end")])
            .chain(aggregates)
            .collect();
        let only = rule.map_or_else(String::new, |rule| format!(" WHERE rule = '{rule}'"));
        let query = format!("SELECT {} FROM \"{table}\"{only}", columns.join(", "));
        let count = plan.group_by().len();
        let row = |row: &PgRow| {
            let mut values = Vec::with_capacity(columns.len());
            for at in 0..count {
                values.push(Some(Value::Text(row.try_get(at)?)));
            }
            for at in count..count + 2 {
                values.push(Some(Value::Timestamp(row.try_get(at)?)));
            }
            for (at, (_, amount)) in (count + 2..).zip(amounts) {
                values.push(match amount {
                    Amount::Count => Some(Value::Long(row.try_get(at)?)),
                    _ => parse_nano(&row.try_get::<String, _>(at)?).map(Value::Decimal),
                });
            }
            take(values)
        };
        self.each(&query, row).await.with_context(|| format!("cannot read table {table}"))
    }

    /// Gives every row of a query, a few thousand at a time.
    async fn each(
        &mut self,
        query: &str,
        mut take: impl FnMut(&PgRow) -> Result<()>,
    ) -> Result<()> {
        let declare = format!("DECLARE caudal_verify NO SCROLL CURSOR FOR {query}");
        self.connection.execute(declare.as_str()).await?;
        // The columns are the cursor's: a statement kept from the last one would have its columns.
        self.connection.clear_cached_statements().await?;
        let fetch = format!("FETCH {FETCHED} FROM caudal_verify");
        loop {
            let rows = sqlx::query(&fetch).fetch_all(&mut self.connection).await?;
            rows.iter().try_for_each(&mut take)?;
            if rows.len() < FETCHED {
                break;
            }
        }
        self.connection.execute("CLOSE caudal_verify").await?;
        Ok(())
    }

    /// Ends the snapshot.
    pub async fn close(self) {
        // Nothing was written: an end that fails loses nothing.
        self.connection.close().await.ok();
    }
}

/// The table of a query, and the rule that its rows carry where several queries share one.
pub fn table_of(plan: &Plan) -> (&str, Option<&str>) {
    match plan.name.as_str() {
        "alertas_fraude" => ("fraud_alerts", Some("alertas_fraude")),
        name => (name, None),
    }
}
