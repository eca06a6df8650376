//! Conversions between types.

use crate::dates;
use crate::decimal;
use crate::expr::{Call, EvalError, Evaluated};
use crate::types::SqlType;
use crate::value::{Value, double_to_decimal, to_text};
use std::borrow::Cow;

/// The conversion of a type to another. `None` where ksqlDB has none.
#[must_use]
pub fn compile(from: &SqlType, to: &SqlType) -> Option<Call> {
    if !possible(from, to) {
        return None;
    }
    let (from, to) = (from.clone(), to.clone());
    Some(Box::new(move |args: &mut [Value<'_>]| convert(std::mem::take(&mut args[0]), &from, &to)))
}

fn possible(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{Array, Boolean, Date, Map, Null, String, Struct, Time, Timestamp};
    match (from, to) {
        (Null, _) | (_, String) => true,
        (from, to) if from == to => true,
        (String, to) => to.is_numeric() || matches!(to, Boolean | Timestamp | Date | Time),
        (Timestamp, to) => matches!(to, Date | Time),
        (Date, Timestamp) => true,
        (Array(a), Array(b)) | (Map(a), Map(b)) => possible(a, b),
        (Struct(a), Struct(b)) => b.iter().all(|(name, to)| {
            a.iter().find(|(n, _)| n == name).is_none_or(|(_, from)| possible(from, to))
        }),
        (from, to) => from.is_numeric() && to.is_numeric(),
    }
}

fn error(value: &Value<'_>, from: &SqlType, to: &SqlType) -> EvalError {
    EvalError(format!("{} does not fit {to}", to_text(value, from)))
}

/// Converts a value; the types are ones that [`compile`] accepts.
///
/// # Errors
/// When the value does not fit.
pub fn convert<'a>(value: Value<'a>, from: &SqlType, to: &SqlType) -> Evaluated<'a> {
    if value.is_null() || from == to {
        return Ok(value);
    }
    match to {
        SqlType::String => Ok(Value::Text(Cow::Owned(to_text(&value, from)))),
        SqlType::Boolean => {
            let text = value.as_text().unwrap_or_default();
            Ok(Value::Boolean(boolean(text).unwrap_or(false)))
        }
        SqlType::Int => {
            let number = to_long(&value, from).filter(|n| i32::try_from(*n).is_ok());
            number.map(Value::Long).ok_or_else(|| error(&value, from, to))
        }
        SqlType::Bigint => {
            to_long(&value, from).map(Value::Long).ok_or_else(|| error(&value, from, to))
        }
        SqlType::Double => {
            to_double(&value, from).map(Value::Double).ok_or_else(|| error(&value, from, to))
        }
        SqlType::Decimal { precision, scale } => to_decimal(&value, from, *scale)
            .filter(|units| decimal::fits(*units, *precision))
            .map(Value::Decimal)
            .ok_or_else(|| error(&value, from, to)),
        SqlType::Timestamp | SqlType::Date | SqlType::Time => {
            to_time(&value, to).ok_or_else(|| error(&value, from, to))
        }
        _ => convert_inner(value, from, to),
    }
}

/// The BOOLEAN that a text names: `true` or `yes`, `false` or `no`, or the first letters of one,
/// in any case, as in ksqlDB.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |words: [&str; 2]| words.iter().any(|word| word.starts_with(&text));
    match text.is_empty() {
        true => None,
        false if begins(["true", "yes"]) => Some(true),
        false => begins(["false", "no"]).then_some(false),
    }
}

fn convert_inner<'a>(value: Value<'a>, from: &SqlType, to: &SqlType) -> Evaluated<'a> {
    match (value, from, to) {
        (Value::Array(items), SqlType::Array(from), SqlType::Array(to)) => {
            let items = items.into_iter().map(|item| convert(item, from, to));
            Ok(Value::Array(items.collect::<Result<_, _>>()?))
        }
        (Value::Map(entries), SqlType::Map(from), SqlType::Map(to)) => {
            let entries = entries.into_iter().map(|(k, v)| Ok((k, convert(v, from, to)?)));
            Ok(Value::Map(entries.collect::<Result<_, EvalError>>()?))
        }
        (Value::Struct(mut values), SqlType::Struct(from), SqlType::Struct(to)) => {
            let fields = to.iter().map(|(name, to)| {
                let Some(at) = from.iter().position(|(n, _)| n == name) else {
                    return Ok(Value::Null);
                };
                convert(std::mem::take(&mut values[at]), &from[at].1, to)
            });
            Ok(Value::Struct(fields.collect::<Result<_, EvalError>>()?))
        }
        (value, _, _) => Ok(value),
    }
}

/// Whole part; a decimal's fraction is cut off, as in Java.
fn to_long(value: &Value<'_>, from: &SqlType) -> Option<i64> {
    match (value, from) {
        (Value::Long(n), _) => Some(*n),
        (Value::Double(d), _) => {
            let whole = d.trunc();
            // 2^63 is the first double beyond 64 bits.
            (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0)
                .contains(&whole)
                .then_some(whole as i64)
        }
        (Value::Decimal(units), SqlType::Decimal { scale, .. }) => {
            let divisor = i128::try_from(decimal::power_of_ten(u32::from(*scale))?).ok()?;
            i64::try_from(units / divisor).ok()
        }
        (Value::Text(text), _) => text.trim().parse().ok(),
        _ => None,
    }
}

fn to_double(value: &Value<'_>, from: &SqlType) -> Option<f64> {
    match value {
        Value::Long(n) => Some(*n as f64),
        Value::Double(d) => Some(*d),
        Value::Decimal(_) => to_text(value, from).parse().ok(),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn to_decimal(value: &Value<'_>, from: &SqlType, scale: u8) -> Option<i128> {
    match (value, from) {
        (Value::Long(n), _) => decimal::rescale(i128::from(*n), 0, scale),
        (Value::Double(d), _) => double_to_decimal(*d, scale),
        (Value::Decimal(units), SqlType::Decimal { scale: s, .. }) => {
            decimal::rescale(*units, *s, scale)
        }
        (Value::Text(text), _) => {
            let (units, s) = decimal::parse(text)?;
            decimal::rescale(units, s, scale)
        }
        _ => None,
    }
}

fn to_time<'a>(value: &Value<'_>, to: &SqlType) -> Option<Value<'a>> {
    match (value, to) {
        (Value::Text(text), SqlType::Timestamp) => {
            dates::parse_timestamp(text).map(Value::Timestamp)
        }
        (Value::Text(text), SqlType::Date) => dates::parse_date(text).map(Value::Date),
        (Value::Text(text), SqlType::Time) => dates::parse_time(text).map(Value::Time),
        (Value::Timestamp(us), SqlType::Date) => Some(Value::Date(us.div_euclid(dates::DAY))),
        (Value::Timestamp(us), SqlType::Time) => {
            Some(Value::Time(us.rem_euclid(dates::DAY) / 1_000))
        }
        (Value::Date(days), SqlType::Timestamp) => {
            days.checked_mul(dates::DAY).map(Value::Timestamp)
        }
        _ => None,
    }
}
