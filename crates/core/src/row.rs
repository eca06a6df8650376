//! Rows of query outputs: a flat Avro record whose columns come from the query.

use crate::avro::{AvroError, Reader, Writer};
use serde_json::{Value as Json, json};

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `string`.
    Text,
    /// `long`.
    Long,
    /// `double`.
    Double,
    /// `boolean`.
    Boolean,
    /// `bytes` with logicalType decimal(38, scale).
    Decimal {
        /// Decimal places.
        scale: u8,
    },
    /// `long` with logicalType timestamp-micros.
    Timestamp,
    /// `int` with logicalType date.
    Date,
    /// `string` that holds JSON, named as Debezium names it (`io.debezium.data.Json`): arrays, maps
    /// and structs.
    Json,
}

/// A named column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// Whether it may be NULL: a union with `null`.
    pub nullable: bool,
}

/// The schema of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSchema {
    /// The query's name.
    pub name: String,
    /// Columns in order.
    pub columns: Vec<Column>,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, of a nullable column.
    Null,
    /// A text.
    Text(String),
    /// A 64-bit integer.
    Long(i64),
    /// Units of a decimal at the column's scale.
    Decimal(i128),
    /// Microseconds since 1970.
    Timestamp(i64),
    /// A 64-bit IEEE 754 number.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// Days since 1970.
    Date(i32),
    /// JSON.
    Json(String),
}

/// A schema that is no flat record of the types above.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema: {0}")]
pub struct SchemaError(String);

impl RowSchema {
    /// Reads an Avro schema.
    ///
    /// # Errors
    /// [`SchemaError`] that names the field.
    pub fn parse(avsc: &str) -> Result<RowSchema, SchemaError> {
        let error = |what: String| SchemaError(what);
        let schema: Json = serde_json::from_str(avsc).map_err(|e| error(e.to_string()))?;
        let name = schema["name"].as_str().ok_or_else(|| error("record has no name".into()))?;
        let fields = schema["fields"].as_array().ok_or_else(|| error("no fields".into()))?;
        let columns = fields.iter().map(|field| {
            let name = field["name"].as_str().unwrap_or_default().to_owned();
            let (kind, nullable) = match field["type"].as_array().map(Vec::as_slice) {
                Some([null, kind]) if null == "null" => (kind, true),
                _ => (&field["type"], false),
            };
            let kind = column_type(kind)
                .ok_or_else(|| error(format!("field {name} has an unsupported type")))?;
            Ok(Column { name, kind, nullable })
        });
        Ok(RowSchema { name: name.to_owned(), columns: columns.collect::<Result<_, _>>()? })
    }

    /// The Avro schema.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let fields: Vec<Json> = self
            .columns
            .iter()
            .map(|c| match c.nullable {
                true => {
                    json!({"name": c.name, "type": ["null", column_json(c.kind)], "default": null})
                }
                false => json!({"name": c.name, "type": column_json(c.kind)}),
            })
            .collect();
        json!({"type": "record", "name": self.name, "namespace": "caudal.queries", "fields": fields})
    }

    /// Encodes a row; the values are in the order of the columns.
    #[must_use]
    pub fn encode(&self, schema_id: u32, values: &[Value]) -> Vec<u8> {
        let mut out = Writer::framed(schema_id);
        for (column, value) in self.columns.iter().zip(values) {
            if column.nullable {
                out.long(i64::from(*value != Value::Null));
            }
            match value {
                Value::Null => {}
                Value::Text(text) | Value::Json(text) => out.string(text),
                Value::Long(number) | Value::Timestamp(number) => out.long(*number),
                Value::Decimal(units) => out.decimal(*units),
                Value::Double(number) => out.fixed8(number.to_le_bytes()),
                Value::Boolean(value) => out.boolean(*value),
                Value::Date(days) => out.long(i64::from(*days)),
            }
        }
        out.into_bytes()
    }

    /// Decodes the body of a row (after the framing).
    ///
    /// # Errors
    /// [`AvroError`] when the bytes are not such a row.
    pub fn decode(&self, body: &[u8]) -> Result<Vec<Value>, AvroError> {
        let mut input = Reader::new(body);
        let values = self.columns.iter().map(|column| {
            if column.nullable && input.long()? == 0 {
                return Ok(Value::Null);
            }
            match column.kind {
                ColumnType::Text => input.string().map(|t| Value::Text(t.to_owned())),
                ColumnType::Json => input.string().map(|t| Value::Json(t.to_owned())),
                ColumnType::Long => input.long().map(Value::Long),
                ColumnType::Decimal { .. } => input.decimal().map(Value::Decimal),
                ColumnType::Timestamp => input.long().map(Value::Timestamp),
                ColumnType::Double => Ok(Value::Double(f64::from_le_bytes(input.fixed8()?))),
                ColumnType::Boolean => input.boolean().map(Value::Boolean),
                ColumnType::Date => {
                    let error = input.error("date beyond 32 bits");
                    let days = i32::try_from(input.long()?).map_err(|_| error)?;
                    Ok(Value::Date(days))
                }
            }
        });
        let values = values.collect::<Result<_, _>>()?;
        input.end()?;
        Ok(values)
    }
}

const JSON: &str = "io.debezium.data.Json";

fn column_type(json: &Json) -> Option<ColumnType> {
    if json["connect.name"] == JSON {
        return Some(ColumnType::Json);
    }
    match (json.as_str().or(json["type"].as_str())?, json["logicalType"].as_str()) {
        ("string", None) => Some(ColumnType::Text),
        ("long", None) => Some(ColumnType::Long),
        ("long", Some("timestamp-micros")) => Some(ColumnType::Timestamp),
        ("double", None) => Some(ColumnType::Double),
        ("boolean", None) => Some(ColumnType::Boolean),
        ("int", Some("date")) => Some(ColumnType::Date),
        ("bytes", Some("decimal")) => {
            let scale = u8::try_from(json["scale"].as_u64().unwrap_or(0)).ok()?;
            Some(ColumnType::Decimal { scale })
        }
        _ => None,
    }
}

fn column_json(kind: ColumnType) -> Json {
    match kind {
        ColumnType::Text => json!("string"),
        ColumnType::Long => json!("long"),
        ColumnType::Timestamp => json!({"type": "long", "logicalType": "timestamp-micros"}),
        ColumnType::Double => json!("double"),
        ColumnType::Boolean => json!("boolean"),
        ColumnType::Date => json!({"type": "int", "logicalType": "date"}),
        ColumnType::Json => json!({"type": "string", "connect.name": JSON}),
        ColumnType::Decimal { scale } => {
            json!({"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": scale})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Schemas, sorted_json};

    #[test]
    fn shipped_row_schemas_read_and_write_back() {
        let shipped = Schemas::shipped();
        for schema in [&shipped.ventas_gold, &shipped.alertas_fraude] {
            let parsed = RowSchema::parse(&schema.json).unwrap();
            assert_eq!(sorted_json(&parsed.to_json()), schema.json);
        }
    }

    #[test]
    fn a_row_reads_back() {
        let schema = RowSchema::parse(&Schemas::shipped().alertas_fraude.json).unwrap();
        let row = vec![
            Value::Text("a".into()),
            Value::Text("EUR".into()),
            Value::Timestamp(0),
            Value::Timestamp(60_000_000),
            Value::Long(11),
            Value::Decimal(-170_141_183_460_469_231),
        ];
        let bytes = schema.encode(1, &row);
        assert_eq!(schema.decode(&bytes[5..]).unwrap(), row);
        assert!(schema.decode(&bytes[5..bytes.len() - 1]).is_err());
    }
}
