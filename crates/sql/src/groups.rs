//! Keys of groups.
//!
//! A group's key is a JSON array of the grouping values, as a person reads it in a console
//! consumer: `["85123A","GBP"]`. Two groups never share one, and the values can be read back where
//! only the key is known.

use crate::catalog::Aggregation;
use crate::codec::{decode, encode};
use crate::expr::EvalError;
use crate::json::Json;
use crate::row::RowView;
use crate::value::Value;

impl Aggregation {
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
