//! What an engine asks of a query with groups: keys, windows in microseconds, and rows.
//!
//! A group's key is a JSON array of the grouping values, as [`caudal_core`]'s consumers read it:
//! `["85123A","GBP"]`. Two groups never share one, and the values can be read back where only the
//! key is known.

use crate::aggregate::Accumulators;
use crate::ast::WindowKind;
use crate::catalog::{Aggregation, Query};
use crate::codec::{decode, encode};
use crate::expr::EvalError;
use crate::json::Json;
use crate::row::RowView;
use crate::types::SqlType;
use crate::value::Value;
use caudal_core::row::Value as RowValue;

/// A window as an engine keeps it: microseconds, panes of one advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineWindow {
    /// Tumbling (advance = size) and hopping windows.
    Fixed {
        /// Length.
        size: i64,
        /// Distance between starts.
        advance: i64,
        /// How long after its end a window takes records.
        grace: i64,
    },
    /// Sessions.
    Session {
        /// Longest silence within a session.
        gap: i64,
        /// How long after its end and gap a session takes records.
        grace: i64,
    },
}

impl Aggregation {
    /// The window in microseconds. `None` for groups without one.
    #[must_use]
    pub fn engine_window(&self) -> Option<EngineWindow> {
        let window = self.window?;
        let micros = |millis: i64| millis.saturating_mul(1_000);
        let grace = micros(window.grace);
        Some(match window.kind {
            WindowKind::Tumbling { size } => {
                EngineWindow::Fixed { size: micros(size), advance: micros(size), grace }
            }
            WindowKind::Hopping { size, advance } => {
                EngineWindow::Fixed { size: micros(size), advance: micros(advance), grace }
            }
            WindowKind::Session { gap } => EngineWindow::Session { gap: micros(gap), grace },
        })
    }

    /// Writes the key of the group that a record belongs to into a buffer, whose contents it
    /// replaces. False where a grouping value is NULL: the record is in no group.
    ///
    /// # Errors
    /// [`EvalError`] when a grouping expression has no value for the record.
    pub fn write_key<R: RowView + ?Sized>(
        &self,
        row: &R,
        key: &mut String,
    ) -> Result<bool, EvalError> {
        key.clear();
        for expr in &self.group_by {
            key.push(if key.is_empty() { '[' } else { ',' });
            match expr.eval(row)? {
                Value::Null => return Ok(false),
                Value::Text(text) => push_json_text(key, &text),
                other => key.push_str(&encode(&other, &expr.kind).to_string()),
            }
        }
        key.push(']');
        Ok(true)
    }

    /// The grouping values behind a key. `None` when it is not one of this query's.
    #[must_use]
    pub fn read_key(&self, key: &str) -> Option<Vec<Value<'static>>> {
        let Json::Array(items) = Json::parse(key).ok()? else { return None };
        if items.len() != self.group_by.len() {
            return None;
        }
        items.iter().zip(&self.group_by).map(|(item, expr)| decode(item, &expr.kind).ok()).collect()
    }
}

fn push_json_text(out: &mut String, text: &str) {
    let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// The row of a group: what SELECT and HAVING read.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRow {
    values: Vec<Value<'static>>,
    /// Bounds in microseconds.
    window: Option<(i64, i64)>,
}

/// A group's row whose results are read where they are.
struct Results<'a> {
    aggregation: &'a Aggregation,
    /// The grouping values; empty where nobody reads them.
    group: &'a [Value<'static>],
    window: Option<(i64, i64)>,
    accumulators: &'a Accumulators,
}

impl RowView for Results<'_> {
    fn column(&self, index: usize) -> Value<'_> {
        let keys = self.aggregation.group_by.len();
        let millis = |bound: i64| Value::Long(bound.div_euclid(1_000));
        match index.checked_sub(keys) {
            None => self.group.column(index),
            Some(0) => self.window.map_or(Value::Null, |window| millis(window.0)),
            Some(1) => self.window.map_or(Value::Null, |window| millis(window.1)),
            Some(at) => self.accumulators.value(&self.aggregation.calls, at - 2),
        }
    }
}

impl Query {
    /// The row of a group and window (bounds in microseconds), given its accumulators. `None` when
    /// the key is not one of this query's, or it has no groups.
    #[must_use]
    pub fn group_row(
        &self,
        key: &str,
        window: Option<(i64, i64)>,
        accumulators: &Accumulators,
    ) -> Option<GroupRow> {
        let aggregation = self.aggregation.as_ref()?;
        let group = aggregation.read_key(key)?;
        let millis = window.map(|(start, end)| (start.div_euclid(1_000), end.div_euclid(1_000)));
        let results = accumulators.values(&aggregation.calls);
        Some(GroupRow { values: aggregation.group_row(group, millis, results), window })
    }

    /// Whether HAVING holds for a group and window (bounds in microseconds). Reads the key only
    /// where HAVING names a grouping column, and makes no row: it is asked for each record.
    ///
    /// # Errors
    /// [`EvalError`] when HAVING has no value for the group; it does not hold then.
    pub fn having_holds(
        &self,
        key: &str,
        window: Option<(i64, i64)>,
        accumulators: &Accumulators,
    ) -> Result<bool, EvalError> {
        let Some(aggregation) = &self.aggregation else { return Ok(true) };
        let Some(having) = &aggregation.having else { return Ok(true) };
        let keys = aggregation.group_by.len();
        let group = if having.reads_below(keys) { aggregation.read_key(key) } else { None };
        let group = group.unwrap_or_default();
        having.holds(&Results { aggregation, group: &group, window, accumulators })
    }

    /// The values of an output row in the order of [`Query::row_schema`]; `None` is NULL. A column
    /// without a value is NULL, and reported.
    pub fn output_row(&self, row: &GroupRow, errors: &mut Vec<EvalError>) -> Vec<Option<RowValue>> {
        let mut of = |key: bool| -> Vec<Option<RowValue>> {
            let columns = self.columns.iter().filter(|column| column.key == key);
            columns
                .map(|column| {
                    let value = column.value.eval(&row.values[..]).unwrap_or_else(|error| {
                        errors.push(error);
                        Value::Null
                    });
                    row_value(value, &column.value.kind)
                })
                .collect()
        };
        let mut out = of(true);
        if let Some((start, end)) = row.window {
            out.extend([start, end].map(|bound| Some(RowValue::Timestamp(bound))));
        }
        out.extend(of(false));
        out
    }
}

fn row_value(value: Value<'_>, kind: &SqlType) -> Option<RowValue> {
    match (value, kind) {
        (Value::Text(text), _) => Some(RowValue::Text(text.into_owned())),
        (Value::Long(n), _) => Some(RowValue::Long(n)),
        (Value::Decimal(units), SqlType::Decimal { .. }) => Some(RowValue::Decimal(units)),
        (Value::Timestamp(micros), _) => Some(RowValue::Timestamp(micros)),
        _ => None,
    }
}
