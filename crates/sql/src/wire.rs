//! Keys and values as Kafka holds them, into the JSON of test files, from which rows are read:
//! one meaning, whether a record comes from a topic or from a file.
//!
//! Moments become milliseconds here, as in ksqlDB. `transacciones_validas` does not come this way:
//! its rows are [`crate::row::TransactionRow`]s, which keep microseconds and copy nothing.

use crate::catalog::{Format, Source};
use crate::json::Json;
use crate::types::SqlType;
use crate::value::double_text;
use caudal_core::avro::{AvroError, Reader};
use caudal_core::money::decimal_text;
use serde_json::Value as Schema;
use std::collections::BTreeMap;

/// Bytes that are not what their format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(String);

fn error(what: impl Into<String>) -> WireError {
    WireError(what.into())
}

impl From<AvroError> for WireError {
    fn from(cause: AvroError) -> WireError {
        error(cause.to_string())
    }
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

/// A value's JSON. `schema` is the Avro schema that it was written with, its framing taken off.
///
/// # Errors
/// [`WireError`] when the bytes are not a value of the source.
pub fn value(
    source: &Source,
    bytes: Option<&[u8]>,
    schema: Option<&Schema>,
) -> Result<Json, WireError> {
    match (bytes, source.value_format, schema) {
        (None, ..) => Ok(Json::Null),
        (Some(bytes), Format::Avro, Some(schema)) => {
            let mut input = Reader::new(bytes);
            let json = avro(schema, &mut Named::default(), &mut input)?;
            input.end()?;
            Ok(json)
        }
        (Some(_), Format::Avro, None) => Err(error("the Avro schema of the value is unknown")),
        (Some(bytes), Format::Kafka, _) => match source.value_columns().first() {
            Some(column) => kafka(&column.kind, bytes),
            None => Ok(Json::Object(Vec::new())),
        },
        (Some(bytes), format, _) => flat(format, bytes),
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

/// Types within types.
const MAX_DEPTH: usize = 64;

/// Where the reading of a value has got to.
#[derive(Default)]
struct Named<'s> {
    /// Named types that were met so far.
    types: BTreeMap<String, &'s Schema>,
    depth: usize,
}

/// A value by the schema that it was written with.
fn avro<'s>(
    schema: &'s Schema,
    named: &mut Named<'s>,
    input: &mut Reader<'_>,
) -> Result<Json, WireError> {
    if named.depth > MAX_DEPTH {
        return Err(error("types nested too deep"));
    }
    named.depth += 1;
    let json = avro_within(schema, named, input);
    named.depth -= 1;
    json
}

/// Types: all of Avro's but `float` and `fixed`.
fn avro_within<'s>(
    schema: &'s Schema,
    named: &mut Named<'s>,
    input: &mut Reader<'_>,
) -> Result<Json, WireError> {
    if let Schema::Array(branches) = schema {
        let branch = usize::try_from(input.long()?).ok().and_then(|at| branches.get(at));
        return avro(branch.ok_or_else(|| error("unknown union branch"))?, named, input);
    }
    let kind = schema.as_str().or_else(|| schema["type"].as_str());
    let Some(kind) = kind else { return avro(&schema["type"], named, input) };
    if let Some(name) = schema["name"].as_str() {
        named.types.insert(name.to_owned(), schema);
    }
    Ok(match kind {
        "null" => Json::Null,
        "boolean" => Json::Boolean(input.boolean()?),
        "int" | "long" => {
            let number = input.long()?;
            let millis = match schema["logicalType"].as_str() {
                Some("timestamp-micros" | "time-micros") => number.div_euclid(1_000),
                _ => number,
            };
            Json::Number(millis.to_string())
        }
        // Avro is little-endian.
        "double" => Json::Number(double_text(f64::from_le_bytes(input.fixed8()?))),
        "string" => Json::Text(input.string()?.to_owned()),
        "bytes" if schema["logicalType"] == "decimal" => {
            let scale = schema["scale"].as_u64().and_then(|scale| u8::try_from(scale).ok());
            Json::Number(decimal_text(input.decimal()?, scale.unwrap_or(0)))
        }
        "enum" => {
            let symbol = usize::try_from(input.long()?).ok().map(|at| &schema["symbols"][at]);
            let symbol = symbol.and_then(Schema::as_str).ok_or_else(|| error("unknown symbol"))?;
            Json::Text(symbol.to_owned())
        }
        "array" => Json::Array(items(input, |input| avro(&schema["items"], named, input))?),
        "map" => Json::Object(items(input, |input| {
            let key = input.string()?.to_owned();
            Ok((key, avro(&schema["values"], named, input)?))
        })?),
        "record" => {
            let fields = schema["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
            let field = |field: &'s Schema| {
                let name = field["name"].as_str().unwrap_or_default().to_owned();
                Ok((name, avro(&field["type"], named, input)?))
            };
            Json::Object(fields.iter().map(field).collect::<Result<_, WireError>>()?)
        }
        other => {
            let simple = other.rsplit('.').next().unwrap_or(other);
            let known = named.types.get(simple).copied();
            avro(
                known.ok_or_else(|| error(format!("Avro type {other} is not read")))?,
                named,
                input,
            )?
        }
    })
}

/// The items of blocks, whose size in bytes says how many there can be.
fn items<T>(
    input: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut all = Vec::new();
    let mut failed = None;
    input
        .blocks(|input| match item(input) {
            Ok(one) => {
                all.push(one);
                Ok(())
            }
            Err(cause) => {
                failed = Some(cause);
                Err(input.error("item"))
            }
        })
        .map_err(|cause| failed.unwrap_or_else(|| cause.into()))?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::parser::Naming;
    use caudal_core::avro::Writer;
    use serde_json::json;

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
        let read = value(&json, Some(br#"{"a": 1.10}"#), None).expect("json");
        assert_eq!(read.to_string(), r#"{"a": 1.10}"#);
        assert!(value(&json, Some(b"\xff"), None).is_err());
        let delimited = source("VALUE_FORMAT='DELIMITED'");
        assert_eq!(value(&delimited, Some(b"1,2"), None), Ok(Json::Text("1,2".into())));
    }

    #[test]
    fn avro_values_by_their_writers_schema() {
        let schema = json!({"type": "record", "name": "R", "fields": [
            {"name": "id", "type": "long"},
            {"name": "note", "type": ["null", "string"]},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "counts", "type": {"type": "map", "values": "long"}},
        ]});
        let mut out = Writer::new();
        out.long(5);
        out.optional_string(Some("n"));
        out.decimal(-1_250);
        out.long(1_500_000);
        out.long(1);
        out.string("t");
        out.long(0);
        out.long(1);
        out.string("c");
        out.long(9);
        out.long(0);
        let bytes = out.into_bytes();
        let avro = source("VALUE_FORMAT='AVRO'");
        let read = value(&avro, Some(&bytes), Some(&schema)).expect("avro");
        let wanted = r#"{"id": 5, "note": "n", "price": -12.50, "at": 1500, "tags": ["t"], "counts": {"c": 9}}"#;
        assert_eq!(read.to_string(), wanted);
        let endless =
            json!({"type": "record", "name": "E", "fields": [{"name": "e", "type": "E"}]});
        assert!(value(&avro, Some(b""), Some(&endless)).is_err());
        for cut in 0..bytes.len() {
            assert!(value(&avro, Some(&bytes[..cut]), Some(&schema)).is_err());
        }
    }
}
