//! Keys of groups: the values of the grouping columns as a JSON array, so that a person can read
//! them in a console consumer and two different groups never share one.

use crate::aggregate::Accumulator;
use crate::plan::{Function, GroupColumn, Plan};
use caudal_core::row::Value;
use caudal_core::transaction::ValidTransaction;
use std::sync::Arc;

/// A group's key: `["85123A","GBP"]`. Shared, because blocks and rows name it again and again.
pub type GroupKey = Arc<str>;

/// What a group adds up to in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The group.
    pub group: GroupKey,
    /// Start of the window in microseconds.
    pub start: i64,
    /// What its records add up to.
    pub values: Accumulator,
}

/// The key of the group that a record belongs to. `joined` is the value of
/// [`crate::plan::GroupColumn::Joined`], empty where nothing is joined.
#[must_use]
pub fn key_of(plan: &Plan, valid: &ValidTransaction<'_>, joined: &str) -> GroupKey {
    let mut key = String::with_capacity(32);
    write_key(plan, valid, joined, &mut key);
    key.into()
}

/// [`key_of`] into a buffer, whose contents it replaces.
pub fn write_key(plan: &Plan, valid: &ValidTransaction<'_>, joined: &str, key: &mut String) {
    key.clear();
    for column in &plan.group_by {
        key.push(if key.is_empty() { '[' } else { ',' });
        push_json_text(key, column.value(valid, joined));
    }
    key.push(']');
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

/// The account in a group's key. `None` when the plan does not group by it, or the key is not one
/// of the plan's.
#[must_use]
pub fn account_of(plan: &Plan, group: &str) -> Option<String> {
    let at = plan.group_by.iter().position(|column| *column == GroupColumn::AccountId)?;
    let mut texts: Vec<String> = serde_json::from_str(group).ok()?;
    (texts.len() == plan.group_by.len()).then(|| texts.swap_remove(at))
}

/// Key of an output row: the group's values and the window's start, `["85123A","GBP",1291…]`.
#[must_use]
pub fn row_key(group: &str, window_start: i64) -> Vec<u8> {
    let values = group.strip_suffix(']').unwrap_or(group);
    format!("{values},{window_start}]").into_bytes()
}

/// The output row of a group and window. `None` when the key is not one of this plan's: it was
/// written by something else.
#[must_use]
pub fn row(plan: &Plan, group: &str, start: i64, values: &Accumulator) -> Option<Vec<Value>> {
    let texts: Vec<String> = serde_json::from_str(group).ok()?;
    if texts.len() != plan.group_by.len() {
        return None;
    }
    let mut row: Vec<Value> = texts.into_iter().map(Value::Text).collect();
    row.push(Value::Timestamp(start));
    row.push(Value::Timestamp(start + plan.window.size));
    row.extend(plan.aggregates.iter().map(|(_, function)| match function {
        Function::Count => Value::Long(values.count),
        Function::Sum => Value::Decimal(values.sum),
        Function::Min => Value::Decimal(values.min),
        Function::Max => Value::Decimal(values.max),
    }));
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{alertas_fraude, ventas_gold};

    #[test]
    fn keys_are_json_whatever_the_text() {
        let mut key = String::new();
        push_json_text(&mut key, "a\"b|c\\");
        assert_eq!(serde_json::from_str::<String>(&key).expect("json"), "a\"b|c\\");
        assert_eq!(row_key("[\"a\",\"EUR\"]", 60), b"[\"a\",\"EUR\",60]");
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
        let plan = ventas_gold();
        let row = row(&plan, "[\"m\",\"EUR\"]", 0, &Accumulator::of(5)).expect("row");
        assert_eq!(row.len(), plan.row_schema().columns.len());
        assert!(super::row(&plan, "[\"m\"]", 0, &Accumulator::of(5)).is_none());
    }
}
