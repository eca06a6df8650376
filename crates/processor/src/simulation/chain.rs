//! A stream that a query writes and another reads: every purchase is in it once, and what the second
//! query adds up is what the purchases add up to.

use super::cluster::Cluster;
use super::input::{Fact, Input, Truth};
use super::oracle::{Verdict, position, same};
use super::reference::{Expected, Row, row_of};
use caudal_core::headers;
use caudal_core::row::Value;
use caudal_query::plan::Plan;
use std::collections::BTreeMap;

/// The stream, partitioned by another key than its source.
pub const STREAM: &str = "compras";
const TABLE: &str = "por_comercio";

const FILE: &str = "CREATE STREAM compras AS SELECT merchant_id, account_id, amount \
    FROM transacciones_validas WHERE kind = 'PURCHASE' PARTITION BY merchant_id;
    CREATE TABLE por_comercio AS SELECT merchant_id, COUNT(*) AS ventas, SUM(amount) AS total, \
    MIN(amount) AS minimo, MAX(amount) AS maximo FROM compras GROUP BY merchant_id;";

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
    for (partition, log) in cluster.partitions(STREAM) {
        for record in log.ever_committed().map(|visible| visible.record) {
            let at = record.header(headers::SOURCE).and_then(position).expect("a source");
            let rowtime = record.header(headers::ROWTIME).and_then(|text| text.parse().ok());
            let row = stream.row_schema().decode(&record.value.as_deref().expect("a row")[5..]);
            let row = (row.expect("a row of the query"), rowtime);
            if found.insert(at, row).is_some() {
                return Err(format!("{STREAM}-{partition}@{}: {at:?} twice", record.offset));
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
    let mut amounts: BTreeMap<&str, Vec<i128>> = BTreeMap::new();
    purchases.values().for_each(|f| amounts.entry(&f.merchant).or_default().push(f.nano));
    let wanted: BTreeMap<String, Row> =
        amounts.into_iter().map(|(m, all)| (m.to_owned(), row_of(all.iter().copied()))).collect();
    same(|| format!("{TABLE}: its rows"), &wanted, &rows_of(cluster, table))
}

fn rows_of(cluster: &Cluster, table: &Plan) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for (_, log) in cluster.partitions(TABLE) {
        for record in log.ever_committed().map(|visible| visible.record) {
            let value = record.value.as_deref().expect("a row");
            let row = table.row_schema().decode(&value[5..]).expect("a row of the query");
            let [Value::Text(merchant), Value::Long(count), rest @ ..] = &row[..] else {
                panic!("{row:?}")
            };
            let [Value::Decimal(sum), Value::Decimal(min), Value::Decimal(max)] = rest else {
                panic!("{row:?}")
            };
            rows.insert(merchant.clone(), (*count, *sum, *min, *max));
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
