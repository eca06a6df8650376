//! Keys of groups: the values of the grouping columns as a JSON array, so that a person can read
//! them in a console consumer and two different groups never share one.

use crate::input::Input;
use crate::plan::Plan;
use crate::values::Values;
use caudal_core::row::Value as Cell;
use caudal_sql::codec::{decode, encode};
use caudal_sql::expr::EvalError;
use caudal_sql::json::Json;
use caudal_sql::types::SqlType;
use caudal_sql::value::Value;
use std::sync::Arc;

/// A group's key: `["85123A","GBP"]`. Shared, because blocks and rows name it again and again.
pub type GroupKey = Arc<str>;

/// What a group adds up to in a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The group.
    pub group: GroupKey,
    /// Start of the window in microseconds.
    pub start: i64,
    /// Its end in microseconds.
    pub end: i64,
    /// What its records add up to.
    pub values: Values,
}

/// What a commit says of a group and window.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Its row is this one now.
    Row(Row),
    /// It has no row any more: HAVING no longer holds, or its session begins earlier. A tombstone.
    Gone(GroupKey, i64),
}

impl Change {
    /// The group, and the start of its window in microseconds.
    #[must_use]
    pub fn key(&self) -> (&GroupKey, i64) {
        match self {
            Change::Row(row) => (&row.group, row.start),
            Change::Gone(group, start) => (group, *start),
        }
    }
}

/// Writes the key of the group that a record belongs to into a buffer, whose contents it replaces.
/// False when the record belongs to none: as in ksqlDB, a grouping column is NULL.
///
/// # Errors
/// When a grouping expression has no value for the record.
pub fn write_key(plan: &Plan, row: &Input<'_>, key: &mut String) -> Result<bool, EvalError> {
    plan.aggregation().map_or(Ok(false), |aggregation| aggregation.write_key(row, key))
}

/// The key of the group that a record belongs to; `None` when it belongs to none.
#[must_use]
pub fn key_of(plan: &Plan, row: &Input<'_>) -> Option<GroupKey> {
    let mut key = String::with_capacity(32);
    matches!(write_key(plan, row, &mut key), Ok(true)).then(|| key.into())
}

/// The values of the grouping columns, from a key that [`write_key`] wrote. Empty when the key was
/// written by something else.
pub(crate) fn group_of(plan: &Plan, key: &str) -> Vec<Value<'static>> {
    let group = plan.aggregation().and_then(|aggregation| aggregation.read_key(key));
    group.unwrap_or_default()
}

/// The account in a group's key. `None` when the plan does not group by it, or the key is not one
/// of the plan's.
#[must_use]
pub fn account_of(plan: &Plan, group: &str) -> Option<String> {
    let place = plan.account_place()?;
    group_of(plan, group).get(place)?.as_text().map(str::to_owned)
}

/// Key of an output row: the group's values and the window's start, `["85123A","GBP",1291…]`.
#[must_use]
pub fn row_key(plan: &Plan, group: &str, window_start: i64) -> Vec<u8> {
    if !plan.is_windowed() {
        return group.as_bytes().to_vec();
    }
    let values = group.strip_suffix(']').unwrap_or(group);
    format!("{values},{window_start}]").into_bytes()
}

/// A value as the cell of an output row.
pub(crate) fn cell(value: Value<'_>, kind: &SqlType) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Boolean(value) => Cell::Boolean(value),
        Value::Long(n) => Cell::Long(n),
        Value::Double(value) => Cell::Double(value),
        Value::Decimal(units) => Cell::Decimal(units),
        Value::Text(text) => Cell::Text(text.into_owned()),
        Value::Timestamp(micros) => Cell::Timestamp(micros),
        Value::Date(days) => Cell::Date(i32::try_from(days).unwrap_or(i32::MAX)),
        other => Cell::Json(encode(&other, kind).to_string()),
    }
}

/// A cell of an output row as a value again.
pub(crate) fn value(cell: Cell, kind: &SqlType) -> Result<Value<'static>, String> {
    Ok(match cell {
        Cell::Null => Value::Null,
        Cell::Boolean(value) => Value::Boolean(value),
        Cell::Long(n) => Value::Long(n),
        Cell::Double(value) => Value::Double(value),
        Cell::Decimal(units) => Value::Decimal(units),
        Cell::Text(text) => Value::text(text),
        Cell::Timestamp(micros) => Value::Timestamp(micros),
        Cell::Date(days) => Value::Date(days.into()),
        Cell::Json(text) => {
            let json = Json::parse(&text).map_err(|e| format!("no JSON: {e}"))?;
            decode(&json, kind).map_err(|e| e.to_string())?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Accumulator;
    use crate::plan::shipped;
    use crate::sample::{alertas_fraude, ventas_gold};

    #[test]
    fn the_key_of_a_row_ends_with_the_window() {
        assert_eq!(row_key(&shipped()[0], "[\"a\",\"EUR\"]", 60), b"[\"a\",\"EUR\",60]");
    }

    #[test]
    fn the_account_is_found_in_a_key() {
        let found = |plan: &Plan, key: &str| account_of(plan, key);
        assert_eq!(found(&alertas_fraude(), "[\"a,\\\"b\",\"EUR\"]").as_deref(), Some("a,\"b"));
        assert_eq!(found(&alertas_fraude(), "[\"a\"]"), None);
        assert_eq!(found(&ventas_gold(), "[\"m\",\"EUR\"]"), None);
    }

    #[test]
    fn a_row_has_the_plans_columns() {
        let plan = shipped().remove(0);
        let values = Values::Amount(Accumulator::of(5));
        let row = Row { group: "[\"m\",\"EUR\"]".into(), start: 0, end: 60_000_000, values };
        let row = plan.row(&row, &mut Vec::new());
        assert_eq!(row.len(), plan.row_schema().columns.len());
        assert_eq!(row[..2], [Cell::Text("m".into()), Cell::Text("EUR".into())]);
    }
}
