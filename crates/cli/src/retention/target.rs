//! The tables that have a time, and the statements that look at and delete their old rows.

use caudal_core::row::ColumnType;
use caudal_core::time::to_rfc3339;
use caudal_core::topics;
use caudal_query::plan::Plan;
use caudal_service::exit::Usage;
use caudal_sink::columns::{Leading, Shape};
use caudal_sink::config::{Config, Route};
use caudal_sink::write::quoted;
use std::ops::Range;

/// Pages that are looked at and deleted from at a time: the range of a BRIN index.
pub const PAGES: i64 = 128;

/// The rows of one topic in one table, or all dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The table.
    pub table: String,
    /// The column whose time counts.
    pub column: &'static str,
    /// The topic, as an expression over a row.
    topic: String,
    /// Which rows are the topic's, where several share the table.
    only: Option<String>,
    /// Currency and amount of a row, as expressions.
    money: (&'static str, &'static str),
    /// The key of a row as its topic writes it, as an expression; where `verify` compares by it.
    key: Option<String>,
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What the sink's files and the queries give a time: all of it, or the tables that are named.
///
/// # Errors
/// [`Usage`] for a name that is no such table's.
pub fn targets(config: &Config, plans: &[Plan], tables: &[String]) -> Result<Vec<Target>, Usage> {
    let mut all: Vec<Target> = config
        .routes
        .values()
        .filter_map(|route| target(route, plans.iter().find(|plan| plan.name == *route.topic)))
        .collect();
    all.sort_by(|a, b| (&a.table, &a.topic).cmp(&(&b.table, &b.topic)));
    if let Some(unknown) = tables.iter().find(|name| all.iter().all(|t| t.table != **name)) {
        let mut known: Vec<&str> = all.iter().map(|target| target.table.as_str()).collect();
        known.dedup();
        return Err(Usage(format!("--table {unknown}: there are {}", known.join(", "))));
    }
    all.retain(|target| tables.is_empty() || tables.contains(&target.table));
    Ok(all)
}

fn target(route: &Route, plan: Option<&Plan>) -> Option<Target> {
    let of = |column, money, key| Target {
        table: route.table.name.clone(),
        column,
        topic: literal(&route.topic),
        only: None,
        money,
        key,
    };
    match &route.shape {
        // Which of its times says how old a row is, nobody has said.
        Shape::Generic(_) => None,
        Shape::Transaction { .. } => {
            let id = Some("transaction_id".to_owned());
            Some(of("event_time", ("currency", "amount"), id))
        }
        Shape::DeadLetter => {
            Some(Target { topic: "topic".into(), ..of("stored_at", ("''", "0"), None) })
        }
        Shape::Row { schema, leading, .. } => {
            let is_end = |c: &caudal_core::row::Column| {
                c.name == "window_end" && c.kind == ColumnType::Timestamp
            };
            let has_end = *leading != Leading::Place && schema.columns.iter().any(is_end);
            let only = match leading {
                Leading::Constant(value) => {
                    Some(format!("{} = {}", quoted(route.table.columns.first()?), literal(value)))
                }
                _ => None,
            };
            let key = plan.filter(|plan| plan.amounts().is_some()).map(row_key);
            has_end.then(|| Target { only, ..of("window_end", ("''", "0"), key) })
        }
    }
}

/// The key that the processor gives a row of a query: its group and the window's start.
fn row_key(plan: &Plan) -> String {
    let groups = plan.group_names().map(|name| format!("to_json({})::text", quoted(name)));
    let start = "(extract(epoch FROM window_start) * 1000000)::bigint".to_owned();
    let parts: Vec<String> = groups.chain([start]).collect();
    format!("'[' || {} || ']'", parts.join(" || ',' || "))
}

impl Target {
    fn is_old(&self, before: i64) -> String {
        let column = quoted(self.column);
        let only = self.only.as_ref().map_or_else(String::new, |only| format!(" AND {only}"));
        format!("{column} < '{}'{only}", to_rfc3339(before))
    }

    /// How many old rows lie in which pages, [`PAGES`] at a time, in any order: number of the range,
    /// rows, oldest time in microseconds.
    pub fn look(&self, before: i64) -> String {
        format!(
            "SELECT (ctid::text::point)[0]::bigint / {PAGES}, count(*),
                 (extract(epoch FROM min({})) * 1000000)::bigint
             FROM {} WHERE {} GROUP BY 1",
            quoted(self.column),
            quoted(&self.table),
            self.is_old(before)
        )
    }

    /// Deletes at most so many old rows that lie in these pages and accounts for them, in one
    /// statement; gives their number.
    pub fn delete(&self, before: i64, pages: &Range<i64>, most: u64) -> String {
        let (table, old) = (quoted(&self.table), self.is_old(before));
        let key = match &self.key {
            None => "0".to_owned(),
            Some(key) => format!(
                "('x' || encode(substr(sha256(convert_to({key}, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint"
            ),
        };
        let is_letter = self.topic == "topic";
        let (more, kept) = if is_letter { letters() } else { (String::new(), String::new()) };
        format!(
            "WITH gone AS (
                 DELETE FROM {table} WHERE {old} AND ctid = ANY (ARRAY(
                     SELECT ctid FROM {table}
                     WHERE ctid >= '({},0)' AND ctid < '({},0)' AND {old} LIMIT {most}))
                 RETURNING {} AS topic, {} AS currency, {} AS amount, {key} AS key{more}
             ), {kept} summed AS (
                 SELECT topic, currency, count(*) AS rows, sum(amount) AS total, sum(key) AS keys
                 FROM gone GROUP BY topic, currency
             ), noted AS (
                 INSERT INTO retired AS r
                     (table_name, topic, currency, rows, total, keys, through)
                 SELECT {}, topic, currency, rows, total, keys, '{}' FROM summed
                 ON CONFLICT (table_name, topic, currency) DO UPDATE
                 SET rows = r.rows + EXCLUDED.rows, total = r.total + EXCLUDED.total,
                     keys = r.keys + EXCLUDED.keys, retired_at = now(),
                     through = greatest(r.through, EXCLUDED.through)
             )
             SELECT coalesce(sum(rows), 0)::bigint FROM summed",
            pages.start,
            pages.end,
            self.topic,
            self.money.0,
            self.money.1,
            literal(&self.table),
            to_rfc3339(before),
        )
    }
}

/// What is put down of each dead letter, of the sink's own only while they stand for no row.
fn letters() -> (String, String) {
    let more = ", partition, \"offset\", reason, redriven_at";
    let kept = format!(
        "kept AS (
             INSERT INTO retired_letters (topic, partition, \"offset\", reason)
             SELECT topic, partition, \"offset\", reason FROM gone
             WHERE redriven_at IS NULL OR topic = '{}'
         ),",
        topics::DLQ
    );
    (more.to_owned(), kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::{SHIPPED, shipped};

    fn all(plans: &[Plan], tables: &[&str]) -> Result<Vec<Target>, Usage> {
        let mut config = Config::read(None).expect("built in");
        config.add_queries(plans).expect("queries");
        let tables: Vec<String> = tables.iter().map(|name| (*name).to_owned()).collect();
        targets(&config, plans, &tables)
    }

    #[test]
    fn the_shipped_tables_have_a_time() {
        let found = all(&shipped(), &[]).expect("targets");
        let told: Vec<_> = found.iter().map(|t| (t.table.as_str(), t.column)).collect();
        let wanted = [
            ("dead_letters", "stored_at"),
            ("fraud_alerts", "window_end"),
            ("transactions", "event_time"),
            ("ventas_gold", "window_end"),
        ];
        assert_eq!(told, wanted);
        let error = all(&shipped(), &["sink_offsets"]).expect_err("no such table").0;
        assert!(error.contains("there are dead_letters, fraud_alerts, transactions"), "{error}");
    }

    #[test]
    fn queries_without_windows_and_streams_have_none() {
        let sql = format!(
            "{SHIPPED}
             CREATE TABLE per_day AS SELECT country, COUNT(*) AS n FROM transacciones_validas
               WINDOW TUMBLING (SIZE 1 DAY) GROUP BY country EMIT CHANGES;
             CREATE TABLE ever AS SELECT country, COUNT(*) AS n FROM transacciones_validas
               GROUP BY country EMIT CHANGES;
             CREATE STREAM large AS SELECT * FROM transacciones_validas WHERE amount > 1000;"
        );
        let plans = Plan::compile_file("test", &sql).expect("plans");
        let found = all(&plans, &["per_day", "fraud_alerts"]).expect("targets");
        assert_eq!(found.len(), 2);
        assert!(all(&plans, &["ever"]).is_err() && all(&plans, &["large"]).is_err());
    }

    #[test]
    fn the_statement_names_what_is_deleted_and_accounts_for_it() {
        let found = all(&shipped(), &[]).expect("targets");
        let statement = |table: &str| {
            let target = found.iter().find(|t| t.table == table).expect("table");
            target.delete(0, &(128..256), 500)
        };
        let alerts = statement("fraud_alerts");
        assert!(
            alerts.contains(
                "\"window_end\" < '1970-01-01T00:00:00Z' AND \"rule\" = 'alertas_fraude'"
            )
        );
        assert!(alerts.contains("'(128,0)' AND ctid < '(256,0)'") && alerts.contains("LIMIT 500"));
        assert!(
            alerts.contains("'[' || to_json(\"account_id\")::text || ',' || to_json(\"currency\")")
        );
        assert!(statement("dead_letters").contains("INSERT INTO retired_letters"));
        assert!(statement("transactions").contains("sum(amount) AS total"));
    }
}
