//! Rows of queries: as they stand in their topics, and as PostgreSQL computes them from
//! `transactions`. Both are lines `merchant|currency|start in µs|count|sum|min|max`.

use crate::{query, topic};
use anyhow::{Context as _, Result};
use caudal_core::avro::unframe;
use caudal_core::headers;
use caudal_core::money::nano_text;
use caudal_core::row::Value;
use caudal_kafka::Kafka;
use caudal_query::plan::Plan;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a query's output topic holds.
#[derive(Debug, Default)]
pub struct Output {
    /// The last line of each key.
    pub lines: BTreeSet<String>,
    /// Records behind them.
    pub records: usize,
    /// Number of records by version of the query.
    pub versions: BTreeMap<u32, u64>,
}

/// Reads a query's output topic.
///
/// # Errors
/// When it cannot be read to its end, or holds something else.
pub fn output(kafka: &Kafka, plan: &Plan) -> Result<Output> {
    let schema = plan.row_schema();
    let mut last: HashMap<Box<[u8]>, String> = HashMap::new();
    let mut output = Output::default();
    topic::read(kafka, &plan.name, |record| {
        let version = record.header(headers::VERSION).map_or(Ok(1), str::parse)?;
        *output.versions.entry(version).or_default() += 1;
        output.records += 1;
        let key = record.key.context("a row without a key")?;
        let (_, body) = record.value.as_deref().and_then(unframe).context("a row without body")?;
        let values = schema.decode(body)?;
        last.insert(key, line(plan, &values));
        Ok(())
    })?;
    output.lines = last.into_values().collect();
    Ok(output)
}

fn line(plan: &Plan, values: &[Value]) -> String {
    // The group and the window's start, then, after its end, the aggregates.
    let end = plan.group_by().len() + 1;
    let texts =
        values.iter().enumerate().filter(|(i, _)| *i != end).map(|(_, value)| match value {
            Value::Text(text) => text.clone(),
            Value::Long(number) | Value::Timestamp(number) => number.to_string(),
            Value::Decimal(nano) => nano_text(*nano, 0),
            other => format!("{other:?}"),
        });
    texts.collect::<Vec<_>>().join("|")
}

/// Start of the window of a line, in microseconds.
///
/// # Errors
/// When it is no such line.
pub fn start_of(line: &str) -> Result<i64> {
    Ok(line.rsplit('|').nth(4).context("a line of seven columns")?.parse()?)
}

/// The answer of a query like `ventas_gold` over `transactions`, by PostgreSQL alone. Nothing is left out as late.
///
/// # Errors
/// What PostgreSQL says.
pub fn recomputed(database_url: &str, plan: &Plan) -> Result<BTreeSet<String>> {
    let seconds = |micros: i64| micros / caudal_core::time::SECOND;
    let (advance, size) = (seconds(plan.window.advance), seconds(plan.window.size));
    let sql = format!(
        "SELECT format('%s|%s|%s|%s|%s|%s|%s', merchant_id, currency,
                       (extract(epoch FROM start) * 1000000)::bigint, count(*),
                       trim_scale(sum(amount)), trim_scale(min(amount)), trim_scale(max(amount)))
         FROM transactions, date_bin('{advance} seconds', event_time, 'epoch') AS pane,
              generate_series(pane - interval '{} seconds', pane, '{advance} seconds') AS start
         WHERE kind = 'PURCHASE' GROUP BY merchant_id, currency, start",
        size - advance
    );
    Ok(query::texts(database_url, &sql)?.into_iter().collect())
}

/// The first few lines that one side has and the other has not; `None` when they are equal.
#[must_use]
pub fn difference(ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> Option<String> {
    let few = |from: &BTreeSet<String>, without: &BTreeSet<String>| {
        let lines: Vec<&String> = from.difference(without).collect();
        (lines.len(), lines.into_iter().take(5).cloned().collect::<Vec<_>>())
    };
    let (only_ours, only_theirs) = (few(ours, theirs), few(theirs, ours));
    let differs = only_ours.0 + only_theirs.0 > 0;
    differs.then(|| format!("only in the topic {only_ours:#?}, only recomputed {only_theirs:#?}"))
}
