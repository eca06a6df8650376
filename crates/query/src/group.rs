//! Keys of groups: the values of the grouping columns as a JSON array, so that a person can read
//! them in a console consumer and two different groups never share one.

use crate::input::Input;
use crate::plan::Plan;
use crate::values::Values;
use caudal_core::money::decimal_text;
use caudal_core::row::Value as Cell;
use caudal_sql::codec::encode;
use caudal_sql::decimal;
use caudal_sql::expr::EvalError;
use caudal_sql::json::Json;
use caudal_sql::types::SqlType;
use caudal_sql::value::{Value, to_text};
use std::fmt::Write as _;
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
    /// What its records add up to.
    pub values: Values,
}

/// Writes the key of the group that a record belongs to into a buffer, whose contents it replaces.
/// False when the record belongs to none: as in ksqlDB, a grouping column is NULL.
///
/// # Errors
/// When a grouping expression has no value for the record.
pub fn write_key(plan: &Plan, row: &Input<'_>, key: &mut String) -> Result<bool, EvalError> {
    key.clear();
    for expr in plan.group_by() {
        key.push(if key.is_empty() { '[' } else { ',' });
        let value = expr.eval(row)?;
        if value.is_null() {
            return Ok(false);
        }
        push_value(key, &value, &expr.kind);
    }
    key.push(']');
    Ok(true)
}

/// The key of the group that a record belongs to; `None` when it belongs to none.
#[must_use]
pub fn key_of(plan: &Plan, row: &Input<'_>) -> Option<GroupKey> {
    let mut key = String::with_capacity(32);
    matches!(write_key(plan, row, &mut key), Ok(true)).then(|| key.into())
}

/// Decimals as texts, because JSON readers take numbers for doubles; times as integers.
fn push_value(out: &mut String, value: &Value<'_>, kind: &SqlType) {
    let written = match value {
        Value::Text(text) => {
            push_json_text(out, text);
            Ok(())
        }
        Value::Long(n) | Value::Timestamp(n) | Value::Date(n) | Value::Time(n) => {
            write!(out, "{n}")
        }
        Value::Boolean(value) => write!(out, "{value}"),
        Value::Decimal(units) => match kind {
            SqlType::Decimal { scale, .. } => {
                write!(out, "\"{}\"", decimal_text(*units, *scale))
            }
            _ => write!(out, "\"{units}\""),
        },
        other => {
            push_json_text(out, &to_text(other, kind));
            Ok(())
        }
    };
    // Writing into a String cannot fail.
    debug_assert!(written.is_ok());
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

/// The value of a grouping column, from a key that [`write_key`] wrote. NULL when the key was
/// written by something else.
#[must_use]
pub fn value_of(plan: &Plan, key: &str, index: usize) -> Value<'static> {
    let Some(expr) = plan.group_by().get(index) else { return Value::Null };
    let Ok(Json::Array(parts)) = Json::parse(key) else { return Value::Null };
    let Some(part) = parts.into_iter().nth(index) else { return Value::Null };
    let value = match (&expr.kind, part) {
        (SqlType::String, Json::Text(text)) => Some(Value::text(text)),
        (SqlType::Boolean, Json::Boolean(value)) => Some(Value::Boolean(value)),
        (SqlType::Decimal { scale, .. }, Json::Text(text)) => {
            let parsed = decimal::parse(&text);
            parsed
                .and_then(|(units, from)| decimal::rescale(units, from, *scale))
                .map(Value::Decimal)
        }
        (kind, Json::Number(text)) => text.parse().ok().map(|n| match kind {
            SqlType::Timestamp => Value::Timestamp(n),
            SqlType::Date => Value::Date(n),
            SqlType::Time => Value::Time(n),
            _ => Value::Long(n),
        }),
        _ => None,
    };
    value.unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Accumulator;
    use crate::plan::shipped;

    #[test]
    fn keys_are_json_whatever_the_text() {
        let mut key = String::new();
        push_json_text(&mut key, "a\"b|c\\");
        assert_eq!(serde_json::from_str::<String>(&key).expect("json"), "a\"b|c\\");
        assert_eq!(row_key(&shipped()[0], "[\"a\",\"EUR\"]", 60), b"[\"a\",\"EUR\",60]");
    }

    #[test]
    fn a_row_has_the_plans_columns() {
        let plan = shipped().remove(0);
        let values = Values::Amount(Accumulator::of(5));
        let row = plan.row("[\"m\",\"EUR\"]", 0, &values).expect("row");
        assert_eq!(row.len(), plan.row_schema().columns.len());
        assert_eq!(row[..2], [Cell::Text("m".into()), Cell::Text("EUR".into())]);
    }
}
