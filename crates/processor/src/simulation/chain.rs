//! A stream that a query writes and another reads: every purchase is in it once, and what the second
//! query adds up is what the purchases add up to that are on time by the order in which they lie in
//! the stream.

use super::cluster::Cluster;
use super::input::{Fact, Input, Truth};
use super::oracle::{Verdict, position, same};
use super::reference::{Expected, Row, row_of};
use caudal_core::headers;
use caudal_core::row::Value;
use caudal_core::time::{MINUTE, SECOND};
use caudal_query::plan::Plan;
use std::collections::BTreeMap;

/// The stream, partitioned by another key than its source.
pub const STREAM: &str = "compras";
const TABLE: &str = "por_comercio";

const FILE: &str = "CREATE STREAM compras AS SELECT merchant_id, account_id, amount \
    FROM transacciones_validas WHERE kind = 'PURCHASE' PARTITION BY merchant_id;
    CREATE TABLE por_comercio AS SELECT merchant_id, COUNT(*) AS ventas, SUM(amount) AS total, \
    MIN(amount) AS minimo, MAX(amount) AS maximo FROM compras \
    WINDOW TUMBLING (SIZE 60 SECONDS, GRACE PERIOD 20 SECONDS) GROUP BY merchant_id;";
const SIZE: i64 = MINUTE;
const GRACE: i64 = 20 * SECOND;

/// A merchant, and the start of a window.
type Key = (String, i64);

/// Both queries.
///
/// # Panics
/// When a statement is wrong.
pub fn plans() -> Vec<Plan> {
    Plan::compile_file("chain", FILE).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The purchases that are valid: by the partition and offset of their record.
fn purchases<'a>(
    expected: &Expected,
    inputs: &'a [Input],
    input_of: impl Fn((i32, i64)) -> Option<usize>,
) -> BTreeMap<(i32, i64), &'a Fact> {
    let mut purchases = BTreeMap::new();
    for (partition, lane) in (0..).zip(&expected.partitions) {
        for offset in lane.valid.keys() {
            let input = input_of((partition, *offset)).map(|number| &inputs[number]);
            if let Some(Input { truth: Truth::Valid(fact), .. }) = input
                && fact.purchase
            {
                purchases.insert((partition, *offset), fact);
            }
        }
    }
    purchases
}

/// Checks stream and table.
pub fn check(
    cluster: &Cluster,
    expected: &Expected,
    inputs: &[Input],
    input_of: impl Fn((i32, i64)) -> Option<usize>,
) -> Verdict {
    let [stream, table] = &plans()[..] else { return Err("two queries".into()) };
    let purchases = purchases(expected, inputs, input_of);
    let mut found = BTreeMap::new();
    let mut amounts: BTreeMap<Key, Vec<i128>> = BTreeMap::new();
    for (partition, log) in cluster.partitions(STREAM) {
        let mut stream_time = i64::MIN;
        for record in log.ever_committed().map(|visible| visible.record) {
            let at = record.header(headers::SOURCE).and_then(position).expect("a source");
            let rowtime = record.header(headers::ROWTIME).and_then(|text| text.parse().ok());
            let row = stream.row_schema().decode(&record.value.as_deref().expect("a row")[5..]);
            let row = (row.expect("a row of the query"), rowtime);
            if found.insert(at, row).is_some() {
                return Err(format!("{STREAM}-{partition}@{}: {at:?} twice", record.offset));
            }
            let Some(fact) = purchases.get(&at) else { continue };
            // Queries over a stream see milliseconds.
            let time = fact.event_time.div_euclid(1_000) * 1_000;
            stream_time = stream_time.max(time);
            let start = time.div_euclid(SIZE) * SIZE;
            if start + SIZE + GRACE > stream_time {
                amounts.entry((fact.merchant.clone(), start)).or_default().push(fact.nano);
            }
        }
    }
    let text = |text: &str| Value::Text(text.to_owned());
    let wanted = purchases.iter().map(|(at, fact)| {
        let cells = vec![text(&fact.merchant), text(&fact.account), Value::Decimal(fact.nano)];
        (*at, (cells, Some(fact.event_time)))
    });
    let wanted: BTreeMap<_, _> = wanted.collect();
    for at in wanted.keys().chain(found.keys()) {
        same(|| format!("{STREAM}: the row of {at:?}"), &wanted.get(at), &found.get(at))?;
    }
    let wanted: BTreeMap<Key, Row> =
        amounts.into_iter().map(|(key, all)| (key, row_of(all.iter().copied()))).collect();
    let late_topic = table.late_topic();
    let late = cluster.partitions(&late_topic).map(|(_, log)| log.ever_committed().count());
    same(|| format!("{TABLE}: partials that came too late"), &0, &late.sum::<usize>())?;
    same(|| format!("{TABLE}: its rows"), &wanted, &rows_of(cluster, table))
}

fn rows_of(cluster: &Cluster, table: &Plan) -> BTreeMap<Key, Row> {
    let mut rows = BTreeMap::new();
    for (_, log) in cluster.partitions(TABLE) {
        for record in log.ever_committed().map(|visible| visible.record) {
            let value = record.value.as_deref().expect("a row");
            let row = table.row_schema().decode(&value[5..]).expect("a row of the query");
            let [Value::Text(merchant), Value::Timestamp(start), _, Value::Long(count), rest @ ..] =
                &row[..]
            else {
                panic!("{row:?}")
            };
            let [Value::Decimal(sum), Value::Decimal(min), Value::Decimal(max)] = rest else {
                panic!("{row:?}")
            };
            rows.insert((merchant.clone(), *start), (*count, *sum, *min, *max));
        }
    }
    rows
}

/// Nothing of the stream is left to read.
pub fn check_read(cluster: &Cluster) -> Verdict {
    for (partition, log) in cluster.partitions(STREAM) {
        let committed = cluster.group.committed(&(STREAM.into(), partition));
        let committed = committed.map_err(|()| format!("{STREAM}-{partition} is not stable"))?;
        if let Some(left) = log.next(committed.map_or(0, |c| c.next_offset)) {
            return Err(format!("{STREAM}-{partition}@{} was not read", left.record.offset));
        }
    }
    Ok(())
}
