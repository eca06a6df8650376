//! Records of test files into rows, and back: JSON as ksqlDB's test runner writes it.
//!
//! AVRO values are written as JSON objects there, KAFKA keys as a bare value, DELIMITED as text.

use crate::catalog::{Format, Source, SourceColumn};
use crate::json::Json;
use crate::types::SqlType;
use crate::value::{Value, double_text, to_text};
use crate::{cast, decimal};
use std::borrow::Cow;

/// A key or value that is not what its source declares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

fn error(what: impl Into<String>) -> DecodeError {
    DecodeError(what.into())
}

type Decoded = Result<Value<'static>, DecodeError>;

/// A value of a type out of JSON.
///
/// # Errors
/// When it is none.
pub fn decode(json: &Json, kind: &SqlType) -> Decoded {
    let misfit = || error(format!("{json} is no {kind}"));
    Ok(match (json, kind) {
        (Json::Null, _) => Value::Null,
        (Json::Boolean(value), SqlType::Boolean) => Value::Boolean(*value),
        (Json::Text(text), SqlType::String) => Value::text(text.clone()),
        (other, SqlType::String) => Value::text(other.to_string()),
        (Json::Number(text) | Json::Text(text), SqlType::Int | SqlType::Bigint) => {
            let (units, scale) = decimal::parse(text).ok_or_else(misfit)?;
            let whole = units / 10_i128.pow(u32::from(scale));
            let long = i64::try_from(whole).map_err(|_| misfit())?;
            let fits = *kind == SqlType::Bigint || i32::try_from(long).is_ok();
            if fits { Value::Long(long) } else { return Err(misfit()) }
        }
        (Json::Number(text) | Json::Text(text), SqlType::Double) => {
            Value::Double(text.trim().parse().map_err(|_| misfit())?)
        }
        (Json::Number(text) | Json::Text(text), SqlType::Decimal { precision, scale }) => {
            let (units, from) = decimal::parse(text).ok_or_else(misfit)?;
            let units = decimal::rescale(units, from, *scale);
            let units = units.filter(|units| decimal::fits(*units, *precision));
            Value::Decimal(units.ok_or_else(misfit)?)
        }
        (Json::Number(text) | Json::Text(text), SqlType::Timestamp) => {
            let millis: i64 = text.parse().map_err(|_| misfit())?;
            Value::Timestamp(millis.checked_mul(1_000).ok_or_else(misfit)?)
        }
        (Json::Number(text) | Json::Text(text), SqlType::Date) => {
            Value::Date(text.parse().map_err(|_| misfit())?)
        }
        (Json::Number(text) | Json::Text(text), SqlType::Time) => {
            Value::Time(text.parse().map_err(|_| misfit())?)
        }
        (Json::Array(items), SqlType::Array(kind)) => {
            Value::Array(items.iter().map(|item| decode(item, kind)).collect::<Result<_, _>>()?)
        }
        (Json::Object(fields), SqlType::Map(kind)) => {
            let entry =
                |(key, value): &(String, Json)| Ok((Cow::Owned(key.clone()), decode(value, kind)?));
            Value::Map(fields.iter().map(entry).collect::<Result<_, DecodeError>>()?)
        }
        (Json::Object(_), SqlType::Struct(fields)) => {
            let field = |(name, kind): &(String, SqlType)| {
                json_field(json, name).map_or(Ok(Value::Null), |value| decode(value, kind))
            };
            Value::Struct(fields.iter().map(field).collect::<Result<_, _>>()?)
        }
        _ => return Err(misfit()),
    })
}

fn json_field<'j>(json: &'j Json, name: &str) -> Option<&'j Json> {
    json.field(name)
}

/// A value as JSON.
#[must_use]
pub fn encode(value: &Value<'_>, kind: &SqlType) -> Json {
    match (value, kind) {
        (Value::Null, _) => Json::Null,
        (Value::Boolean(value), _) => Json::Boolean(*value),
        (Value::Long(n) | Value::Date(n) | Value::Time(n), _) => Json::Number(n.to_string()),
        (Value::Timestamp(micros), _) => Json::Number(micros.div_euclid(1_000).to_string()),
        (Value::Double(number), _) if number.is_finite() => Json::Number(double_text(*number)),
        (Value::Double(number), _) => Json::Text(double_text(*number)),
        (Value::Decimal(_), _) => Json::Number(to_text(value, kind)),
        (Value::Text(text), _) => Json::Text(text.to_string()),
        (Value::Array(items), SqlType::Array(kind)) => {
            Json::Array(items.iter().map(|item| encode(item, kind)).collect())
        }
        (Value::Map(entries), SqlType::Map(kind)) => Json::Object(
            entries.iter().map(|(key, value)| (key.to_string(), encode(value, kind))).collect(),
        ),
        (Value::Struct(values), SqlType::Struct(fields)) => Json::Object(
            fields
                .iter()
                .zip(values)
                .map(|((name, kind), value)| (name.clone(), encode(value, kind)))
                .collect(),
        ),
        _ => Json::Null,
    }
}

/// The columns of a key or a value. `None` for a value that is null: a tombstone.
///
/// # Errors
/// When the JSON is not what the source declares.
pub fn decode_columns(
    json: &Json,
    columns: &[&SourceColumn],
    format: Format,
    wrapped: bool,
) -> Result<Option<Vec<Value<'static>>>, DecodeError> {
    let bare = !wrapped && columns.len() == 1;
    match (json, format) {
        (Json::Null, _) => Ok(None),
        // What nobody declared is not looked at.
        (_, _) if columns.is_empty() => Ok(Some(Vec::new())),
        (_, Format::None) => Ok(Some(vec![Value::Null; columns.len()])),
        (_, Format::Delimited(delimiter)) => {
            let text = match json {
                Json::Text(text) => text.clone(),
                other => other.to_string(),
            };
            let cells = split(&text, delimiter);
            if cells.len() != columns.len() {
                let (found, wanted) = (cells.len(), columns.len());
                return Err(error(format!("{found} columns where {wanted} are declared")));
            }
            let cell = |(cell, column): (&String, &&SourceColumn)| {
                if cell.is_empty() { Ok(Value::Null) } else { parse_cell(cell, &column.kind) }
            };
            cells.iter().zip(columns).map(cell).collect::<Result<_, _>>().map(Some)
        }
        (json, Format::Kafka) if columns.len() == 1 => {
            Ok(Some(vec![decode(json, &columns[0].kind)?]))
        }
        (json, _) if bare => Ok(Some(vec![decode(json, &columns[0].kind)?])),
        (Json::Object(_), _) => {
            let field = |column: &&SourceColumn| {
                let value = json.field(&column.name);
                value.map_or(Ok(Value::Null), |value| decode(value, &column.kind))
            };
            columns.iter().map(field).collect::<Result<_, _>>().map(Some)
        }
        (json, _) => Err(error(format!("{json} is no object"))),
    }
}

/// A text of DELIMITED as a value of its column's type; times are numbers there.
fn parse_cell(cell: &str, kind: &SqlType) -> Decoded {
    let timely = matches!(kind, SqlType::Timestamp | SqlType::Date | SqlType::Time);
    if timely {
        return decode(&Json::Text(cell.to_owned()), kind);
    }
    let misfit = |_| error(format!("{cell:?} is no {kind}"));
    cast::convert(Value::text(cell.to_owned()), &SqlType::String, kind).map_err(misfit)
}

/// The cells of a line, as in RFC 4180.
fn split(line: &str, delimiter: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let at = cells.len() - 1;
        if c == '"' && quoted && chars.next_if_eq(&'"').is_some() {
            cells[at].push('"');
        } else if c == '"' && (quoted || cells[at].is_empty()) {
            quoted = !quoted;
        } else if c == delimiter && !quoted {
            cells.push(String::new());
        } else {
            cells[at].push(c);
        }
    }
    cells
}

/// A key or value out of its columns.
#[must_use]
pub fn encode_columns(
    values: &[Value<'_>],
    columns: &[&SourceColumn],
    format: Format,
    wrapped: bool,
) -> Json {
    let pairs = || columns.iter().zip(values);
    match format {
        Format::Delimited(delimiter) => {
            let cell = |(column, value): (&&SourceColumn, &Value<'_>)| match value {
                Value::Timestamp(_) | Value::Date(_) | Value::Time(_) => {
                    encode(value, &column.kind).to_string()
                }
                _ => to_text(value, &column.kind),
            };
            let cells: Vec<String> = pairs()
                .enumerate()
                .map(|(at, pair)| match pair.1.is_null() {
                    true => String::new(),
                    false => cell_text(&cell(pair), delimiter, at == 0),
                })
                .collect();
            Json::Text(cells.join(&delimiter.to_string()))
        }
        _ if columns.len() == 1 && (!wrapped || format == Format::Kafka) => {
            encode(&values[0], &columns[0].kind)
        }
        _ => Json::Object(
            pairs().map(|(c, value)| (c.name.clone(), encode(value, &c.kind))).collect(),
        ),
    }
}

/// Quoted where the CSV writer of ksqlDB (commons-csv) quotes: special characters, blanks at the
/// edges, and a line that does not begin with a letter or a digit.
fn cell_text(text: &str, delimiter: char, first: bool) -> String {
    let special = |c: char| c == delimiter || c == '"' || c == '\n' || c == '\r';
    let odd_start = match text.chars().next() {
        None => first,
        Some(c) if first && c.is_ascii() => !c.is_ascii_alphanumeric(),
        Some(c) => c <= '#',
    };
    if odd_start || text.ends_with(|c| c <= ' ') || text.contains(special) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

impl Source {
    /// The columns of the value.
    pub(crate) fn value_columns(&self) -> Vec<&SourceColumn> {
        self.columns.iter().filter(|column| !column.key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_and_join() {
        let line = "a,\"b,\"\"c\",,d";
        let cells = split(line, ',');
        assert_eq!(cells, ["a", "b,\"c", "", "d"]);
        let joined: Vec<String> = cells.iter().map(|cell| cell_text(cell, ',', false)).collect();
        assert_eq!(joined.join(","), line);
    }
}
