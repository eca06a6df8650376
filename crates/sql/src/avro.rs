//! Avro values of topics that others write: Confluent's framing, and schemas by their ids.
//!
//! Rows of the pipeline's own queries do not come this way: their schemas are known
//! ([`caudal_core::row`]).

use crate::json::Json;
use crate::types::SqlType;
use crate::value;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{NamesRef, ResolvedSchema};
use apache_avro::types::Value;
use apache_avro::{Decimal, Schema};
use caudal_core::avro::unframe;
use std::collections::BTreeMap;

/// Writers' schemas by the id in the framing.
#[derive(Debug, Default)]
pub struct Schemas(BTreeMap<u32, Schema>);

impl Schemas {
    /// Learns a schema.
    ///
    /// # Errors
    /// When the text is no Avro schema.
    pub fn add(&mut self, id: u32, text: &str) -> Result<(), String> {
        if !self.knows(id) {
            self.0.insert(id, Schema::parse_str(text).map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    /// Whether it was learnt.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        self.0.contains_key(&id)
    }

    /// The JSON of a framed value, as ksqlDB's test files write it: moments in milliseconds.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(&self, bytes: &[u8]) -> Result<Json, String> {
        let (id, mut body) = unframe(bytes).ok_or("the value has no Confluent framing")?;
        let schema = self.0.get(&id).ok_or_else(|| {
            format!("schema id {id} is not in caudal_esquemas; publish it there under that key")
        })?;
        let reader = GenericDatumReader::builder(schema).build();
        let value = reader.and_then(|reader| reader.read_value(&mut body));
        let value = value.map_err(|e| format!("Avro: {e}"))?;
        let names = ResolvedSchema::try_from(schema).map_err(|e| format!("Avro: {e}"))?;
        json(value, schema, names.get_names())
    }
}

/// A value with its schema: alone, a decimal does not know where its point is.
fn json(value: Value, schema: &Schema, names: &NamesRef<'_>) -> Result<Json, String> {
    let number = |n: i64| Json::Number(n.to_string());
    let all = |items: Vec<Value>, of: &Schema| {
        items.into_iter().map(|item| json(item, of, names)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match (value, schema) {
        (value, Schema::Ref { name }) => {
            let schema = names.get(name).ok_or_else(|| format!("Avro: no type {name}"))?;
            json(value, schema, names)?
        }
        (Value::Union(branch, value), Schema::Union(union)) => {
            let branch = usize::try_from(branch).ok().and_then(|at| union.variants().get(at));
            json(*value, branch.ok_or("Avro: no such branch of a union")?, names)?
        }
        (Value::Record(fields), Schema::Record(record)) => {
            let pairs = fields.into_iter().zip(&record.fields);
            let field = |((name, value), field): ((String, Value), &_)| {
                let field: &apache_avro::schema::RecordField = field;
                Ok((name, json(value, &field.schema, names)?))
            };
            Json::Object(pairs.map(field).collect::<Result<_, String>>()?)
        }
        (Value::Array(items), Schema::Array(array)) => Json::Array(all(items, &array.items)?),
        (Value::Map(entries), Schema::Map(map)) => {
            let mut entries: Vec<(String, Value)> = entries.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let entry = |(key, value)| Ok((key, json(value, &map.types, names)?));
            Json::Object(entries.into_iter().map(entry).collect::<Result<_, String>>()?)
        }
        (Value::Decimal(units), Schema::Decimal(schema)) => {
            let places = u8::try_from(schema.scale).map_err(|_| "Avro: a decimal's scale")?;
            let kind = SqlType::Decimal { precision: 38, scale: places };
            let units = value::Value::Decimal(units_of(&units)?);
            Json::Number(value::to_text(&units, &kind))
        }
        (Value::Null, _) => Json::Null,
        (Value::Boolean(value), _) => Json::Boolean(value),
        (Value::Int(n) | Value::Date(n) | Value::TimeMillis(n), _) => number(i64::from(n)),
        (Value::Long(n) | Value::TimestampMillis(n) | Value::LocalTimestampMillis(n), _) => {
            number(n)
        }
        (Value::TimestampMicros(n) | Value::LocalTimestampMicros(n) | Value::TimeMicros(n), _) => {
            number(n.div_euclid(1_000))
        }
        (Value::Float(n), _) => Json::Number(value::double_text(f64::from(n))),
        (Value::Double(n), _) => Json::Number(value::double_text(n)),
        (Value::String(text) | Value::Enum(_, text), _) => Json::Text(text),
        (Value::Uuid(id), _) => Json::Text(id.to_string()),
        (other, _) => return Err(format!("Avro: {other:?} has no type in SQL")),
    })
}

/// The units of a decimal: big-endian two's complement, up to 128 bits.
fn units_of(value: &Decimal) -> Result<i128, String> {
    let bytes = <Vec<u8>>::try_from(value).map_err(|e| format!("Avro: {e}"))?;
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    let from = wide.len().checked_sub(bytes.len()).ok_or("Avro: a decimal beyond 128 bits")?;
    wide[from..].copy_from_slice(&bytes);
    Ok(i128::from_be_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apache_avro::writer::datum::GenericDatumWriter;

    const PEDIDO: &str = r#"{"type": "record", "name": "Pedido", "fields": [
        {"name": "Id", "type": "string"},
        {"name": "n", "type": ["null", "int"], "default": null},
        {"name": "precio",
         "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "cuando", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "nivel", "type": {"type": "enum", "name": "Nivel", "symbols": ["ALTO", "BAJO"]}},
        {"name": "antes", "type": ["null", "Nivel"], "default": null},
        {"name": "etiquetas", "type": {"type": "map", "values": "string"}}]}"#;

    fn framed(id: u32, schema: &Schema, value: Value) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(id.to_be_bytes());
        let writer = GenericDatumWriter::builder(schema).build().expect("a writer");
        bytes.extend(writer.write_value_to_vec(value).expect("a datum"));
        bytes
    }

    #[test]
    fn a_record_becomes_the_json_of_a_test_file() {
        let schema = Schema::parse_str(PEDIDO).expect("a schema");
        let record = Value::Record(vec![
            ("Id".into(), Value::String("p-1".into())),
            ("n".into(), Value::Union(1, Box::new(Value::Int(7)))),
            ("precio".into(), Value::Decimal(Decimal::from(vec![0xff, 0x38]))),
            ("cuando".into(), Value::TimestampMicros(1_500)),
            ("nivel".into(), Value::Enum(1, "BAJO".into())),
            ("antes".into(), Value::Union(1, Box::new(Value::Enum(0, "ALTO".into())))),
            ("etiquetas".into(), Value::Map([("a".to_owned(), Value::String("b".into()))].into())),
        ]);
        let bytes = framed(9, &schema, record);
        let mut schemas = Schemas::default();
        assert!(schemas.read(&bytes).expect_err("unknown").contains("schema id 9"));
        schemas.add(9, PEDIDO).expect("a schema");
        assert_eq!(
            schemas.read(&bytes).expect("a record").to_string(),
            r#"{"Id": "p-1", "n": 7, "precio": -2.00, "cuando": 1, "nivel": "BAJO", "antes": "ALTO", "etiquetas": {"a": "b"}}"#
        );
        assert!(schemas.read(&bytes[..bytes.len() - 3]).is_err());
        assert!(schemas.read(b"{}").expect_err("no frame").contains("framing"));
        assert!(schemas.add(10, "{").is_err());
    }
}
