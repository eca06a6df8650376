//! Values of expressions.

use crate::decimal;
use crate::types::SqlType;
use std::borrow::Cow;
use std::cmp::Ordering;

/// A value. Its type is the expression's, which alone knows a decimal's scale and whether an
/// integer has 32 bits or 64. Texts borrow from the row where they can.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value<'a> {
    /// Unknown.
    #[default]
    Null,
    /// `BOOLEAN`.
    Boolean(bool),
    /// `INT` or `BIGINT`.
    Long(i64),
    /// `DOUBLE`.
    Double(f64),
    /// Units of a `DECIMAL` at its type's scale.
    Decimal(i128),
    /// `STRING`.
    Text(Cow<'a, str>),
    /// `TIMESTAMP`: microseconds since 1970.
    Timestamp(i64),
    /// `DATE`: days since 1970.
    Date(i64),
    /// `TIME`: milliseconds since midnight.
    Time(i64),
    /// `ARRAY`.
    Array(Vec<Value<'a>>),
    /// `MAP`, in the order in which its entries came.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
    /// `STRUCT`: its fields in order.
    Struct(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    /// A text.
    #[must_use]
    pub fn text(text: impl Into<Cow<'a, str>>) -> Value<'a> {
        Value::Text(text.into())
    }

    /// Whether it is NULL.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer behind an INT, BIGINT, TIMESTAMP, DATE or TIME.
    #[must_use]
    pub fn as_long(&self) -> Option<i64> {
        match self {
            Value::Long(n) | Value::Timestamp(n) | Value::Date(n) | Value::Time(n) => Some(*n),
            _ => None,
        }
    }

    /// The same value, borrowing its texts from this one.
    #[must_use]
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Null => Value::Null,
            Value::Boolean(v) => Value::Boolean(*v),
            Value::Long(v) => Value::Long(*v),
            Value::Double(v) => Value::Double(*v),
            Value::Decimal(v) => Value::Decimal(*v),
            Value::Text(v) => Value::Text(Cow::Borrowed(v)),
            Value::Timestamp(v) => Value::Timestamp(*v),
            Value::Date(v) => Value::Date(*v),
            Value::Time(v) => Value::Time(*v),
            Value::Array(items) => Value::Array(items.iter().map(Value::borrowed).collect()),
            Value::Map(entries) => Value::Map(
                entries.iter().map(|(k, v)| (Cow::Borrowed(&**k), v.borrowed())).collect(),
            ),
            Value::Struct(fields) => Value::Struct(fields.iter().map(Value::borrowed).collect()),
        }
    }

    /// The same value, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        let all = |values: Vec<Value<'a>>| values.into_iter().map(Value::into_owned).collect();
        match self {
            Value::Null => Value::Null,
            Value::Boolean(v) => Value::Boolean(v),
            Value::Long(v) => Value::Long(v),
            Value::Double(v) => Value::Double(v),
            Value::Decimal(v) => Value::Decimal(v),
            Value::Text(v) => Value::Text(Cow::Owned(v.into_owned())),
            Value::Timestamp(v) => Value::Timestamp(v),
            Value::Date(v) => Value::Date(v),
            Value::Time(v) => Value::Time(v),
            Value::Array(items) => Value::Array(all(items)),
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(k, v)| (Cow::Owned(k.into_owned()), v.into_owned()))
                    .collect(),
            ),
            Value::Struct(fields) => Value::Struct(all(fields)),
        }
    }

    /// The order of two values of one type. `None` where one is NULL or the type has no order;
    /// of doubles NaN is the largest, as in Java.
    #[must_use]
    pub fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Boolean(a), Value::Boolean(b)) => Some(a.cmp(b)),
            (Value::Long(a), Value::Long(b))
            | (Value::Timestamp(a), Value::Timestamp(b))
            | (Value::Date(a), Value::Date(b))
            | (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
            (Value::Decimal(a), Value::Decimal(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) if a == b => Some(Ordering::Equal),
            (Value::Double(a), Value::Double(b)) => Some(a.total_cmp(b)),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Whether two values of one type are equal. `None` where one is NULL.
    #[must_use]
    pub fn equals(&self, other: &Value<'_>) -> Option<bool> {
        match (self, other) {
            (Value::Null, _) | (_, Value::Null) => None,
            (Value::Array(a), Value::Array(b)) | (Value::Struct(a), Value::Struct(b)) => {
                Some(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_as(b)))
            }
            (Value::Map(a), Value::Map(b)) => {
                let has = |(key, value): &(Cow<'_, str>, Value<'_>)| {
                    b.iter().any(|(k, v)| k == key && v.same_as(value))
                };
                Some(a.len() == b.len() && a.iter().all(has))
            }
            _ => self.compare(other).map(Ordering::is_eq),
        }
    }

    /// Whether both are NULL, or both are not and are equal.
    #[must_use]
    pub fn same_as(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            _ => self.equals(other) == Some(true),
        }
    }
}

/// A value as text: what `CAST(… AS STRING)` gives and what DELIMITED holds. Empty for NULL.
#[must_use]
pub fn to_text(value: &Value<'_>, kind: &SqlType) -> String {
    match (value, kind) {
        (Value::Boolean(v), _) => v.to_string(),
        (Value::Long(v), _) => v.to_string(),
        (Value::Double(v), _) => double_text(*v),
        (Value::Decimal(units), SqlType::Decimal { scale, .. }) => {
            caudal_core::money::decimal_text(*units, *scale)
        }
        (Value::Text(text), _) => text.to_string(),
        (Value::Timestamp(micros), _) => crate::dates::timestamp_text(*micros),
        (Value::Date(days), _) => crate::dates::date_text(*days),
        (Value::Time(millis), _) => crate::dates::time_text(*millis),
        (Value::Array(items), SqlType::Array(kind)) => {
            let items: Vec<String> = items.iter().map(|item| inner_text(item, kind)).collect();
            format!("[{}]", items.join(", "))
        }
        (Value::Map(entries), SqlType::Map(kind)) => {
            let entry = |(key, value): &(Cow<'_, str>, Value<'_>)| {
                format!("{key}={}", inner_text(value, kind))
            };
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        (Value::Struct(values), SqlType::Struct(fields)) => {
            let field = |((name, kind), value): (&(String, SqlType), &Value<'_>)| {
                format!("{name}={}", inner_text(value, kind))
            };
            let all: Vec<String> = fields.iter().zip(values).map(field).collect();
            format!("Struct{{{}}}", all.join(","))
        }
        _ => String::new(),
    }
}

fn inner_text(value: &Value<'_>, kind: &SqlType) -> String {
    if value.is_null() { "null".to_owned() } else { to_text(value, kind) }
}

/// A double as Java writes it: `5.0`, `1.0E10`. The fewest digits that read back as the same
/// double; where one would do, the nearest two.
#[must_use]
pub fn double_text(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if size == 0.0 || (1e-3..1e7).contains(&size) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let scientific = format!("{value:E}");
    if scientific.contains('.') { scientific } else { format!("{value:.1E}") }
}

/// A double as exact decimal of a scale, through its shortest text, as Java's `BigDecimal.valueOf`.
#[must_use]
pub fn double_to_decimal(value: f64, scale: u8) -> Option<i128> {
    if !value.is_finite() {
        return None;
    }
    let text = format!("{value:e}");
    let (units, from) = decimal::parse(&text)?;
    decimal::rescale(units, from, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_in_java() {
        let all = [5.0, 1e10, 0.001, 0.0001, -2.5, 1.5e-7, 0.0, 5e-324];
        let texts = all.map(double_text);
        assert_eq!(
            texts,
            ["5.0", "1.0E10", "0.001", "1.0E-4", "-2.5", "1.5E-7", "0.0", "4.9E-324"]
        );
    }

    #[test]
    fn null_equals_nothing_and_is_the_same_as_null() {
        assert_eq!(Value::Null.equals(&Value::Null), None);
        assert!(Value::Null.same_as(&Value::Null));
        assert!(!Value::Long(1).same_as(&Value::Null));
    }
}
