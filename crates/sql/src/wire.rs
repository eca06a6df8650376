//! Keys and values as Kafka holds them, into the JSON of test files, from which rows are read:
//! one meaning, whether a record comes from a topic or from a file.
//!
//! Moments become milliseconds here, as in ksqlDB. `transacciones_validas` does not come this way:
//! its rows are [`crate::row::TransactionRow`]s, which keep microseconds and copy nothing.

use crate::avro::Schemas;
use crate::catalog::{Format, Source};
use crate::codec::encode_columns;
use crate::json::Json;
use crate::types::SqlType;
use crate::value::{Value, double_text, to_text};

/// Bytes that are not what their format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(String);

fn error(what: impl Into<String>) -> WireError {
    WireError(what.into())
}

/// A key's JSON; null where there is none, or nobody declared a key column.
///
/// # Errors
/// [`WireError`] when the bytes are not a key of the source.
pub fn key(source: &Source, bytes: Option<&[u8]>) -> Result<Json, WireError> {
    let Some(bytes) = bytes else { return Ok(Json::Null) };
    let mut columns = source.key_columns();
    match (columns.next(), source.key_format) {
        (None, _) => Ok(Json::Null),
        (Some(column), Format::Kafka) => kafka(&column.kind, bytes),
        (Some(_), format) => flat(format, bytes),
    }
}

/// A value's JSON; `schemas` are the writers' of Avro values.
///
/// # Errors
/// [`WireError`] when the bytes are not a value of the source.
pub fn value(source: &Source, bytes: Option<&[u8]>, schemas: &Schemas) -> Result<Json, WireError> {
    match (bytes, source.value_format) {
        (None, _) => Ok(Json::Null),
        (Some(bytes), Format::Avro) => schemas.read(bytes, source).map_err(error),
        (Some(bytes), Format::Kafka) => match source.value_columns().first() {
            Some(column) => kafka(&column.kind, bytes),
            None => Ok(Json::Object(Vec::new())),
        },
        (Some(bytes), format) => flat(format, bytes),
    }
}

fn flat(format: Format, bytes: &[u8]) -> Result<Json, WireError> {
    let text = std::str::from_utf8(bytes).map_err(|_| error("text that is not UTF-8"))?;
    match format {
        Format::Json => Json::parse(text).map_err(|e| error(format!("no JSON: {e}"))),
        Format::Delimited(_) => Ok(Json::Text(text.to_owned())),
        _ => Ok(Json::Null),
    }
}

/// Kafka's own serialisers: big-endian numbers, UTF-8.
fn kafka(kind: &SqlType, bytes: &[u8]) -> Result<Json, WireError> {
    let misfit = || error(format!("{} bytes are no {kind}", bytes.len()));
    Ok(match kind {
        SqlType::Int => {
            let bytes = bytes.try_into().map_err(|_| misfit())?;
            Json::Number(i32::from_be_bytes(bytes).to_string())
        }
        SqlType::Bigint => {
            let bytes = bytes.try_into().map_err(|_| misfit())?;
            Json::Number(i64::from_be_bytes(bytes).to_string())
        }
        SqlType::Double => {
            let bytes = bytes.try_into().map_err(|_| misfit())?;
            Json::Number(double_text(f64::from_be_bytes(bytes)))
        }
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|_| error("text that is not UTF-8"))?;
            Json::Text(text.to_owned())
        }
    })
}

/// The key of a record with these values of the key's columns; `None` where there are none, or all
/// are NULL.
#[must_use]
pub fn key_bytes(source: &Source, values: &[Value<'_>]) -> Option<Vec<u8>> {
    let columns: Vec<_> = source.key_columns().collect();
    if values.iter().all(Value::is_null) {
        return None;
    }
    match (source.key_format, values, columns.as_slice()) {
        (Format::None, ..) => None,
        (Format::Kafka, [value], [column]) => Some(match (value, &column.kind) {
            (Value::Long(n), SqlType::Int) => {
                i32::try_from(*n).unwrap_or_default().to_be_bytes().to_vec()
            }
            (Value::Long(n), _) => n.to_be_bytes().to_vec(),
            (Value::Double(n), _) => n.to_be_bytes().to_vec(),
            (value, kind) => to_text(value, kind).into_bytes(),
        }),
        (format, ..) => match encode_columns(values, &columns, format, columns.len() > 1) {
            Json::Text(text) if matches!(format, Format::Delimited(_)) => Some(text.into_bytes()),
            json => Some(json.to_string().into_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::parser::Naming;

    fn source(with: &str) -> Source {
        let sql = format!("CREATE STREAM s (k BIGINT KEY, a INT) WITH (KAFKA_TOPIC='s', {with});");
        let catalog = Catalog::compile(&sql, Naming::Lower).expect("a stream");
        catalog.sources["s"].clone()
    }

    #[test]
    fn keys_and_flat_values() {
        let json = source("VALUE_FORMAT='JSON'");
        assert_eq!(key(&json, Some(&7_i64.to_be_bytes())), Ok(Json::Number("7".into())));
        assert_eq!(key(&json, None), Ok(Json::Null));
        assert!(key(&json, Some(b"7")).is_err());
        let read = value(&json, Some(br#"{"a": 1.10}"#), &Schemas::default()).expect("json");
        assert_eq!(read.to_string(), r#"{"a": 1.10}"#);
        assert!(value(&json, Some(b"\xff"), &Schemas::default()).is_err());
        let delimited = source("VALUE_FORMAT='DELIMITED'");
        assert_eq!(
            value(&delimited, Some(b"1,2"), &Schemas::default()),
            Ok(Json::Text("1,2".into()))
        );
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        let written = |with: &str, n| key_bytes(&source(with), &[Value::Long(n)]);
        assert_eq!(written("VALUE_FORMAT='JSON'", 7).as_deref(), Some(&7_i64.to_be_bytes()[..]));
        let json = written("FORMAT='JSON'", 7);
        assert_eq!(json.as_deref(), Some(&b"7"[..]));
        assert_eq!(key(&source("FORMAT='JSON'"), json.as_deref()), Ok(Json::Number("7".into())));
        assert_eq!(key_bytes(&source("FORMAT='JSON'"), &[Value::Null]), None);
    }
}
