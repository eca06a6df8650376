//! What a query computes: compiled from its SQL, as far as the engine runs it.

mod shape;

use crate::group::{Row, cell};
use crate::input::Input;
use crate::stream::Stream;
use crate::supported::{check, check_all};
use crate::values::{GroupRow, Values};
use crate::window::Window;
use caudal_core::row::{RowSchema, Value as Cell};
use caudal_core::schema::{id_of, sorted_json};
use caudal_sql::aggregate::AggregateCall;
use caudal_sql::catalog::{Aggregation, Catalog, Query, Source, TRANSACTIONS};
use caudal_sql::expr::{EvalError, Expr};
use caudal_sql::fault::{Fault, render_all};
use caudal_sql::json::Json;
use caudal_sql::parser::Naming;
use caudal_sql::row::RowView;
use caudal_sql::text::Span;
use caudal_sql::value::{Value, to_text};
use caudal_sql::wire;
use sha2::{Digest, Sha256};
use shape::{adds_amounts, amounts, is_account, is_never_null, window_of};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use caudal_sql::ast::Emit;

/// The statements that the product ships: `config/queries.sql`.
pub const SHIPPED: &str = include_str!("../../../config/queries.sql");

/// `JOIN table ON stream's expression = table's key`.
#[derive(Debug, Clone)]
pub struct Join {
    /// The table.
    pub table: Arc<Source>,
    /// `LEFT JOIN`: a record without a row goes on with NULLs. Otherwise it is left out.
    pub left: bool,
}

/// An aggregate over the amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// `COUNT(*)`.
    Count,
    /// `SUM(amount)`.
    Sum,
    /// `MIN(amount)`.
    Min,
    /// `MAX(amount)`.
    Max,
}

/// Identity of a query's definition.
pub type PlanFingerprint = [u8; 8];

/// What a record gives in a `CREATE STREAM … AS SELECT`.
#[derive(Debug)]
pub struct StreamRow {
    /// The key of the output record.
    pub key: Option<Vec<u8>>,
    /// Its columns.
    pub cells: Vec<Cell>,
}

/// A query over `transacciones_validas` or another stream: an aggregate, or one row a record.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the query and of its output topic.
    pub name: String,
    /// `WINDOW …`; one window without an end where there is none.
    pub window: Window,
    /// `EMIT …`.
    pub emit: Emit,
    /// After this many microseconds without a record, at a confirmed end, a source partition no
    /// longer holds the query's windows open. `None`: it holds them for ever.
    pub idle_timeout: Option<i64>,
    /// The table that its records are joined with.
    pub join: Option<Join>,
    /// The stream that it reads; `None`: `transacciones_validas`.
    pub stream: Option<Stream>,
    query: Arc<Query>,
    schema: Arc<RowSchema>,
    is_local: bool,
    adds_amounts: bool,
    amounts: Option<Vec<(String, Amount)>>,
    fingerprint: PlanFingerprint,
}

impl Plan {
    /// Compiles the queries of a file.
    ///
    /// # Errors
    /// Every fault of the text; what the engine cannot run is one too.
    pub fn compile(text: &str) -> Result<Vec<Plan>, Vec<Fault>> {
        let catalog = Catalog::compile(text, Naming::Lower)?;
        let Catalog { sources, queries } = catalog;
        let (mut plans, mut faults): (Vec<Plan>, Vec<Fault>) = (Vec::new(), Vec::new());
        for query in queries {
            let maker = plans.iter().find(|plan| plan.name == query.from);
            let rows = maker.map(|plan| (Arc::clone(&plan.schema), plan.schema_id()));
            match Plan::of(query, &sources, rows) {
                Ok(plan) => plans.push(plan),
                Err(fault) => faults.push(*fault),
            }
        }
        if let Err(what) = check_all(&plans) {
            faults.push(Fault::new(Span { start: 0, end: 0 }, what));
        }
        if faults.is_empty() { Ok(plans) } else { Err(faults) }
    }

    /// As [`Plan::compile`], with the faults as a text that shows them in the file.
    ///
    /// # Errors
    /// That text.
    pub fn compile_file(file: &str, text: &str) -> Result<Vec<Plan>, String> {
        Plan::compile(text).map_err(|faults| render_all(&faults, file, text, false))
    }

    fn of(
        query: Query,
        sources: &BTreeMap<String, Source>,
        rows: Option<(Arc<RowSchema>, u32)>,
    ) -> Result<Plan, Box<Fault>> {
        let cannot = |what: &str, help: &str| {
            let message = format!("query {}: {what}", query.name);
            Box::new(Fault::new(query.span, message).help(help))
        };
        check(&query, sources)?;
        let aggregation = query.aggregation.as_ref();
        let source = |name: &str| sources.get(name).cloned().map(Arc::new);
        let join = query
            .join
            .as_ref()
            .and_then(|join| Some(Join { table: source(&join.table)?, left: join.left }));
        let stream = match query.from == TRANSACTIONS {
            true => None,
            false => source(&query.from).map(|source| Stream { source, rows }),
        };
        let mut schema =
            query.row_schema().map_err(|e| cannot(&e.to_string(), "CAST it, or leave it out"))?;
        let of_transactions = stream.is_none();
        for column in &mut schema.columns {
            let output = query.columns.iter().find(|output| output.name == column.name);
            let Some(output) = output else { continue };
            column.nullable = match aggregation {
                None => true,
                Some(_) if output.key => false,
                Some(a) => !is_never_null(&output.value, a, of_transactions),
            };
        }
        let window = aggregation.map_or(Window::unbounded(), window_of);
        let groups = aggregation.map_or(&[][..], |a| &a.group_by);
        Ok(Plan {
            name: query.name.clone(),
            emit: aggregation.map_or(Emit::Changes, |a| a.emit),
            idle_timeout: query.idle_timeout,
            adds_amounts: of_transactions && aggregation.is_some_and(adds_amounts),
            amounts: aggregation
                .filter(|_| of_transactions && !window.session)
                .and_then(|a| amounts(&query, a)),
            is_local: of_transactions && !window.session && groups.iter().any(is_account),
            fingerprint: fingerprint(&query.definition),
            schema: Arc::new(schema),
            window,
            join,
            stream,
            query: Arc::new(query),
        })
    }

    pub(crate) fn aggregation(&self) -> Option<&Aggregation> {
        self.query.aggregation.as_ref()
    }

    /// The aggregates.
    #[must_use]
    pub fn calls(&self) -> &[AggregateCall] {
        self.aggregation().map_or(&[], |a| &a.calls)
    }

    /// `GROUP BY …`.
    #[must_use]
    pub fn group_by(&self) -> &[Expr] {
        self.aggregation().map_or(&[], |a| &a.group_by)
    }

    /// Whether its rows are those of windows.
    #[must_use]
    pub fn is_windowed(&self) -> bool {
        self.aggregation().is_some_and(|a| a.window.is_some())
    }

    /// Whether its aggregates are COUNT(*), and SUM, MIN and MAX of the amount.
    #[must_use]
    pub fn adds_amounts(&self) -> bool {
        self.adds_amounts
    }

    /// The columns after the group's, where each is nothing but COUNT(*), or SUM, MIN or MAX of the
    /// amount, and the group is made of texts; `None` for a query that selects anything else.
    #[must_use]
    pub fn amounts(&self) -> Option<&[(String, Amount)]> {
        self.amounts.as_deref()
    }

    /// Whether it is a `CREATE STREAM … AS SELECT`: one row for each record that it takes.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.query.aggregation.is_none()
    }

    /// Names of the grouping columns in the output rows.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.query.columns.iter().filter(|c| c.key).map(|c| c.name.as_str())
    }

    /// Which of the grouping columns is the account.
    #[must_use]
    pub fn account_place(&self) -> Option<usize> {
        let groups = self.stream.is_none().then(|| self.group_by());
        groups?.iter().position(is_account)
    }

    /// Whether the group contains the partition key, so that all its records are in one partition.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// `WHERE`: whether the query takes this record.
    ///
    /// # Errors
    /// When the condition has no value for it.
    pub fn takes(&self, row: &Input<'_>) -> Result<bool, EvalError> {
        self.query.filter.as_ref().map_or(Ok(true), |filter| filter.holds(row))
    }

    /// What a record is looked up by in the joined table, as text; `None` where it is NULL.
    ///
    /// # Errors
    /// When the expression has no value for it.
    pub fn join_key<'r>(&'r self, row: &'r Input<'_>) -> Result<Option<Cow<'r, str>>, EvalError> {
        let Some(join) = &self.query.join else { return Ok(None) };
        Ok(match join.key.eval(row)? {
            Value::Null => None,
            Value::Text(text) => Some(text),
            other => Some(to_text(&other, &join.key.kind).into()),
        })
    }

    /// `HAVING`: whether a group's row is to be emitted. A condition without a value does not hold.
    #[must_use]
    pub fn having_holds(&self, group: &str, window: (i64, i64), values: &Values) -> bool {
        let Some(having) = self.aggregation().and_then(|a| a.having.as_ref()) else { return true };
        having.holds(&GroupRow::new(self, group, window, values)).unwrap_or(false)
    }

    /// Whether a group's row may have to be taken back: there is a `HAVING`.
    #[must_use]
    pub fn has_having(&self) -> bool {
        self.aggregation().is_some_and(|a| a.having.is_some())
    }

    /// The output row of a group and window. A column without a value is NULL, as in ksqlDB, and is
    /// reported.
    pub fn row(&self, row: &Row, errors: &mut Vec<EvalError>) -> Vec<Cell> {
        let window = (row.start, row.end);
        let values = GroupRow::new(self, &row.group, window, &row.values);
        let mut cells = Vec::with_capacity(self.schema.columns.len());
        self.push_cells(true, &values, &mut cells, errors);
        if self.is_windowed() {
            cells.extend([Cell::Timestamp(row.start), Cell::Timestamp(row.end)]);
        }
        self.push_cells(false, &values, &mut cells, errors);
        cells
    }

    /// The output of a record that [`Plan::takes`], of a `CREATE STREAM … AS SELECT`.
    pub fn stream_row(&self, row: &Input<'_>, errors: &mut Vec<EvalError>) -> StreamRow {
        let keys = self.query.columns.iter().filter(|column| column.key);
        // What the key's columns hold: what has no value there is reported below.
        let mut reported = Vec::new();
        let keys: Vec<Value<'_>> =
            keys.map(|column| column.value.value_or_null(row, &mut reported)).collect();
        let key = wire::key_bytes(&self.query.output, &keys);
        let mut cells = Vec::with_capacity(self.schema.columns.len());
        self.push_cells(true, row, &mut cells, errors);
        self.push_cells(false, row, &mut cells, errors);
        StreamRow { key, cells }
    }

    /// Whether records of a `CREATE STREAM … AS SELECT` have another key than those that it reads.
    #[must_use]
    pub fn repartitions(&self) -> bool {
        self.query.repartitions
    }

    fn push_cells<R: RowView>(
        &self,
        key: bool,
        row: &R,
        cells: &mut Vec<Cell>,
        errors: &mut Vec<EvalError>,
    ) {
        for column in self.query.columns.iter().filter(|column| column.key == key) {
            cells.push(cell(column.value.value_or_null(row, errors), &column.value.kind));
        }
    }

    /// Identity of the definition: state made under another one is another query's. Without the
    /// name (the state of each query is kept by name), and without the idle time-out, which may
    /// be set to free a query that waits: whatever it is, the state fits.
    #[must_use]
    pub fn fingerprint(&self) -> PlanFingerprint {
        self.fingerprint
    }

    /// The topic that keeps partials whose window was already evicted.
    #[must_use]
    pub fn late_topic(&self) -> String {
        format!("{}_tardias", self.name)
    }

    /// The topic that keeps the records for which an expression has no value, and those of another
    /// stream that cannot be read; `None` for a query to which neither can happen.
    #[must_use]
    pub fn errors_topic(&self) -> Option<String> {
        let join = self.query.join.iter().map(|join| &join.key);
        let arguments = self.calls().iter().filter_map(|call| call.argument.as_ref());
        let selected = self.query.columns.iter().filter(|_| self.is_stream()).map(|c| &c.value);
        let read = self.query.filter.iter().chain(join).chain(self.group_by());
        let mut read = read.chain(arguments).chain(selected);
        let may_fail = self.stream.is_some() || read.any(Expr::may_fail);
        may_fail.then(|| format!("{}_errores", self.name))
    }

    /// The schema of its output rows.
    #[must_use]
    pub fn row_schema(&self) -> &RowSchema {
        &self.schema
    }

    /// Id of that schema.
    #[must_use]
    pub fn schema_id(&self) -> u32 {
        id_of(&sorted_json(&self.schema.to_json()))
    }

    /// The columns of the rows that are the key; none of a stream's.
    pub fn key_columns(&self) -> impl Iterator<Item = &str> {
        let window = self.is_windowed().then_some("window_start");
        let keys = self.query.columns.iter().filter(|c| c.key && !self.is_stream());
        keys.map(|c| c.name.as_str()).chain(window)
    }

    /// The values of [`Plan::key_columns`] behind the key of an output record, as
    /// [`crate::group::row_key`] wrote it: what a tombstone takes back. `None` when it is none of
    /// this query's.
    #[must_use]
    pub fn key_cells(&self, key: &[u8]) -> Option<Vec<Cell>> {
        let Json::Array(mut items) = Json::parse(std::str::from_utf8(key).ok()?).ok()? else {
            return None;
        };
        let start = match self.is_windowed() {
            true => Some(Cell::Timestamp(items.pop()?.as_long()?)),
            false => None,
        };
        let group = self.aggregation()?.read_key(&Json::Array(items).to_string())?;
        let columns = self.query.columns.iter().filter(|c| c.key);
        let keys = columns.map(|c| Some(cell(c.value.eval(&group[..]).ok()?, &c.value.kind)));
        keys.chain(start.map(Some)).collect()
    }
}

fn fingerprint(definition: &str) -> PlanFingerprint {
    let described = format!("caudal query 2\n{definition}");
    let mut out = [0; 8];
    out.copy_from_slice(&Sha256::digest(described.as_bytes())[..8]);
    out
}

/// The queries that the product ships.
///
/// # Panics
/// When the shipped file is wrong, which a test rules out.
#[must_use]
pub fn shipped() -> Vec<Plan> {
    Plan::compile_file("config/queries.sql", SHIPPED).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A shipped query by name.
///
/// # Panics
/// When there is none of that name.
#[must_use]
pub fn shipped_one(name: &str) -> Plan {
    let found = shipped().into_iter().find(|plan| plan.name == name);
    found.unwrap_or_else(|| panic!("no shipped query is named {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::schema::{Schemas, sorted_json};

    /// The sink reads rows by the schema files; the plans must produce exactly those.
    #[test]
    fn shipped_plans_have_the_shipped_schemas() {
        let schemas = Schemas::shipped();
        let json = |name| sorted_json(&shipped_one(name).row_schema().to_json());
        assert_eq!(json("ventas_gold"), schemas.ventas_gold.json);
        assert_eq!(json("alertas_fraude"), schemas.alertas_fraude.json);
    }

    fn plan(text: &str) -> Plan {
        let plans = Plan::compile(text);
        plans.unwrap_or_else(|f| panic!("{f:?}")).remove(0)
    }

    const GOLD: &str = "CREATE TABLE g WITH (IDLE_TIMEOUT='1 HOUR') AS SELECT merchant_id, \
        COUNT(*) AS n FROM transacciones_validas WINDOW TUMBLING (SIZE 1 MINUTE) \
        WHERE kind = 'PURCHASE' GROUP BY merchant_id EMIT CHANGES;";

    /// State outlives versions: the same definition must keep its fingerprint.
    #[test]
    fn the_fingerprint_is_that_of_the_definition() {
        let print = |text: &str| plan(text).fingerprint();
        assert_eq!(shipped_one("ventas_gold").fingerprint(), GOLDEN);
        let layout = GOLD.replace("TABLE g", "TABLE h").replace("'1 HOUR'", "'2 HOURS'");
        assert_eq!(print(&layout), print(GOLD));
        let changes = [
            ("'PURCHASE'", "'REFUND'"),
            ("GROUP BY merchant_id", "GROUP BY merchant_id HAVING COUNT(*) > 1"),
            ("1 MINUTE", "2 MINUTES"),
            ("EMIT CHANGES", "EMIT FINAL"),
            ("COUNT(*)", "COUNT(country)"),
        ];
        for (from, to) in changes {
            assert_ne!(print(&GOLD.replace(from, to)), print(GOLD), "{to}");
        }
    }

    const GOLDEN: [u8; 8] = [132, 51, 87, 187, 120, 178, 192, 181];

    #[test]
    fn only_groups_with_the_account_are_local() {
        assert!(shipped_one("alertas_fraude").is_local());
        assert!(!shipped_one("ventas_gold").is_local());
    }

    #[test]
    fn what_the_engine_does_not_run_is_said_with_its_place() {
        let said = |from: &str, to: &str| {
            assert!(GOLD.contains(from), "{from}");
            Plan::compile(&GOLD.replace(from, to)).unwrap_err()[0].message.clone()
        };
        let window = "TUMBLING (SIZE 1 MINUTE)";
        let hopping = said(window, "HOPPING (SIZE 1 MINUTE, ADVANCE BY 25 SECONDS)");
        assert!(hopping.contains("panes"), "{hopping}");
        for name in ["transacciones", "caudal_estado", "`con espacio`", "transactions"] {
            let message = said("TABLE g", &format!("TABLE {name}"));
            assert!(message.contains("cannot be that of its topic"), "{message}");
        }
        let topic = said("IDLE_TIMEOUT", "KAFKA_TOPIC='otro', IDLE_TIMEOUT");
        assert!(topic.contains("topic of the query's name"), "{topic}");
    }
}
