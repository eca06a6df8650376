//! An Avro schema as a tree: what a value consists of, in the order of its bytes.
//! Source: Apache Avro 1.12 specification, "Schema Declaration" and "Logical Types".

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deepest nesting of types: a value of a deeper schema would need that much stack.
const DEEPEST: usize = 32;
/// Most types within one, where each name stands for its type: records that name one another twice
/// grow like powers of two, and their values need take no bytes.
const MOST: usize = 10_000;

/// Units of a moment or of a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 10⁻³ s.
    Millis,
    /// 10⁻⁶ s.
    Micros,
    /// 10⁻⁹ s.
    Nanos,
}

impl Unit {
    /// That many units in microseconds; `None` beyond 64 bits. What is finer than a microsecond, which
    /// PostgreSQL cannot hold, is cut off, towards the past.
    #[must_use]
    pub fn micros(self, count: i64) -> Option<i64> {
        match self {
            Unit::Millis => count.checked_mul(1000),
            Unit::Micros => Some(count),
            Unit::Nanos => Some(count.div_euclid(1000)),
        }
    }
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `null`.
    Null,
    /// `boolean`.
    Boolean,
    /// `int`.
    Int,
    /// `long`.
    Long,
    /// `float`.
    Float,
    /// `double`.
    Double,
    /// `bytes`.
    Bytes,
    /// `string`.
    Text,
    /// `string` that holds JSON, named as Debezium names it.
    JsonText,
    /// `fixed` of that many bytes.
    Fixed(usize),
    /// `enum` with its symbols.
    Enum(Arc<[String]>),
    /// logicalType `decimal` with its scale, in `bytes` or in `fixed` of that many.
    Decimal(u8, Option<usize>),
    /// logicalType `uuid`, in `string` or, where true, in `fixed` of 16 bytes.
    Uuid(bool),
    /// logicalType `date`.
    Date,
    /// logicalTypes `time-millis` and `time-micros`.
    Time(Unit),
    /// logicalTypes `timestamp-millis`, `-micros` and `-nanos`: a moment.
    Timestamp(Unit),
    /// logicalTypes `local-timestamp-…`: a date and a time of day, wherever.
    LocalTimestamp(Unit),
    /// `array`.
    Array(Box<Type>),
    /// `map`.
    Map(Box<Type>),
    /// `union`.
    Union(Vec<Type>),
    /// `record`: names and types of its fields.
    Record(Vec<(String, Type)>),
}

impl Type {
    /// Reads a schema.
    ///
    /// # Errors
    /// What is wrong with it, in words: no valid schema, a type that contains itself, nesting deeper
    /// than 32, or more than 10,000 types.
    pub fn parse(avsc: &str) -> Result<Type, String> {
        apache_avro::Schema::parse_str(avsc).map_err(|e| format!("no Avro schema: {e}"))?;
        let json: Json = serde_json::from_str(avsc).map_err(|e| format!("no JSON: {e}"))?;
        Names::default().read(&json, "", 0)
    }

    /// How many types it is, itself included.
    fn size(&self) -> usize {
        1 + match self {
            Type::Array(of) | Type::Map(of) => of.size(),
            Type::Union(branches) => branches.iter().map(Type::size).sum(),
            Type::Record(fields) => fields.iter().map(|(_, of)| of.size()).sum(),
            _ => 0,
        }
    }

    /// Whether it is a record, and the fields of that.
    #[must_use]
    pub fn fields(&self) -> Option<&[(String, Type)]> {
        match self {
            Type::Record(fields) => Some(fields),
            _ => None,
        }
    }

    /// Of a union of `null` and one more: that one, and which branch `null` is.
    #[must_use]
    pub fn optional(&self) -> Option<(&Type, i64)> {
        match self {
            Type::Union(branches) => match branches.as_slice() {
                [Type::Null, of] => Some((of, 0)),
                [of, Type::Null] => Some((of, 1)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a value may be null.
    #[must_use]
    pub fn is_nullable(&self) -> bool {
        match self {
            Type::Null => true,
            Type::Union(branches) => branches.contains(&Type::Null),
            _ => false,
        }
    }
}

#[derive(Default)]
struct Names {
    /// By full name; `None` while one is being read.
    known: BTreeMap<String, Option<Type>>,
    /// Types so far, those that a name stands for included.
    size: usize,
}

impl Names {
    fn read(&mut self, json: &Json, space: &str, depth: usize) -> Result<Type, String> {
        if depth > DEEPEST {
            return Err(format!("its types are nested deeper than {DEEPEST}"));
        }
        self.grow(1)?;
        match json {
            Json::String(name) => self.named(name, space),
            Json::Array(branches) => {
                let read = |branch| self.read(branch, space, depth + 1);
                branches.iter().map(read).collect::<Result<_, _>>().map(Type::Union)
            }
            Json::Object(object) => {
                let kind = object.get("type").ok_or("a type without `type`")?;
                match kind.as_str() {
                    None => self.read(kind, space, depth + 1),
                    Some(kind) => self.complex(kind, json, space, depth),
                }
            }
            _ => Err(format!("{json} is no type")),
        }
    }

    fn grow(&mut self, by: usize) -> Result<(), String> {
        self.size += by;
        match self.size > MOST {
            true => Err(format!("it has more than {MOST} types within one another")),
            false => Ok(()),
        }
    }

    fn named(&mut self, name: &str, space: &str) -> Result<Type, String> {
        if let Some(primitive) = primitive(name) {
            return Ok(primitive);
        }
        let found = self.known.get(&full_name(name, space)).or_else(|| self.known.get(name));
        match found {
            Some(Some(of)) => {
                let size = of.size();
                // A type that is too large is not copied to find that out.
                let of = if self.size + size > MOST { Type::Null } else { of.clone() };
                self.grow(size).map(|()| of)
            }
            Some(None) => Err(format!("the type {name} contains itself")),
            None => Err(format!("{name} is no type")),
        }
    }

    fn complex(
        &mut self,
        kind: &str,
        json: &Json,
        space: &str,
        depth: usize,
    ) -> Result<Type, String> {
        let name = json["name"].as_str().unwrap_or_default();
        let name = full_name(name, json["namespace"].as_str().unwrap_or(space));
        let of = match kind {
            "array" => Type::Array(Box::new(self.read(&json["items"], space, depth + 1)?)),
            "map" => Type::Map(Box::new(self.read(&json["values"], space, depth + 1)?)),
            "record" | "error" => {
                self.known.insert(name.clone(), None);
                let inner = name.rsplit_once('.').map_or("", |(inner, _)| inner).to_owned();
                let fields = json["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
                let field = |field: &Json| {
                    let name = field["name"].as_str().unwrap_or_default().to_owned();
                    let of = self.read(&field["type"], &inner, depth + 1);
                    of.map_err(|e| format!("{name}: {e}")).map(|of| (name, of))
                };
                Type::Record(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            "enum" => {
                let symbols = json["symbols"].as_array().map(Vec::as_slice).unwrap_or_default();
                let symbols = symbols.iter().map(|s| s.as_str().unwrap_or_default().to_owned());
                Type::Enum(symbols.collect())
            }
            "fixed" => {
                let size = json["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or("a fixed without size")?;
                logical(json, Some(size)).unwrap_or(Type::Fixed(size))
            }
            simple => match logical(json, None) {
                Some(logical) => return Ok(logical),
                None => return self.named(simple, space),
            },
        };
        if matches!(of, Type::Record(_) | Type::Enum(_)) || kind == "fixed" {
            self.known.insert(name, Some(of.clone()));
        }
        Ok(of)
    }
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::Text,
        _ => return None,
    })
}

/// The logical type, where it is one on that type: elsewhere it is to be ignored.
fn logical(json: &Json, fixed: Option<usize>) -> Option<Type> {
    if json["connect.name"] == "io.debezium.data.Json" && json["type"] == "string" {
        return Some(Type::JsonText);
    }
    let of = if fixed.is_some() { "fixed" } else { json["type"].as_str()? };
    Some(match (of, json["logicalType"].as_str()?) {
        ("bytes" | "fixed", "decimal") => {
            let scale = json["scale"].as_u64().unwrap_or(0);
            Type::Decimal(u8::try_from(scale).ok()?, fixed)
        }
        ("string", "uuid") => Type::Uuid(false),
        ("fixed", "uuid") if fixed == Some(16) => Type::Uuid(true),
        ("int", "date") => Type::Date,
        ("int", "time-millis") => Type::Time(Unit::Millis),
        ("long", "time-micros") => Type::Time(Unit::Micros),
        ("long", name) => {
            let (name, local) = match name.strip_prefix("local-") {
                Some(name) => (name, true),
                None => (name, false),
            };
            let unit = match name {
                "timestamp-millis" => Unit::Millis,
                "timestamp-micros" => Unit::Micros,
                "timestamp-nanos" => Unit::Nanos,
                _ => return None,
            };
            if local { Type::LocalTimestamp(unit) } else { Type::Timestamp(unit) }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> Result<Type, String> {
        Type::parse(&format!(
            r#"{{"type": "record", "name": "R", "namespace": "a.b", "fields": [{fields}]}}"#
        ))
    }

    #[test]
    fn names_are_found_in_their_namespace() {
        let of = record(
            r#"{"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["X", "Y"]}},
               {"name": "f", "type": ["null", "a.b.E"]}, {"name": "g", "type": "E"},
               {"name": "h", "type": {"type": {"type": "long", "logicalType": "timestamp-micros"}}}"#,
        )
        .unwrap();
        let symbols = Type::Enum(["X".to_owned(), "Y".to_owned()].into());
        let fields = of.fields().unwrap();
        assert_eq!(fields[1].1.optional(), Some((&symbols, 0)));
        assert_eq!(fields[2].1, symbols);
        assert_eq!(fields[3].1, Type::Timestamp(Unit::Micros));
    }

    #[test]
    fn logical_types_count_only_where_they_belong() {
        let of = record(
            r#"{"name": "a", "type": {"type": "string", "logicalType": "decimal"}},
               {"name": "b", "type": {"type": "fixed", "name": "F", "size": 8,
                   "logicalType": "decimal", "precision": 18, "scale": 4}},
               {"name": "c", "type": {"type": "int", "logicalType": "timestamp-millis"}},
               {"name": "d", "type": "F"}"#,
        )
        .unwrap();
        let fields = of.fields().unwrap();
        let types: Vec<&Type> = fields.iter().map(|(_, of)| of).collect();
        let decimal = Type::Decimal(4, Some(8));
        assert_eq!(types, [&Type::Text, &decimal, &Type::Int, &decimal]);
    }

    #[test]
    fn what_has_no_row_is_refused_in_words() {
        let error = record(r#"{"name": "next", "type": ["null", "R"]}"#).unwrap_err();
        assert!(error.contains("next: the type R contains itself"), "{error}");
        assert!(Type::parse("{").unwrap_err().contains("no Avro schema"));
        let deep = (0..40).fold("\"int\"".to_owned(), |inner, _| {
            format!(r#"{{"type": "array", "items": {inner}}}"#)
        });
        assert!(Type::parse(&deep).unwrap_err().contains("deeper than 32"));
        // Each record holds the one before twice: 2^20 values that take no byte.
        let wide = (1..20).fold(
            r#"{"type": "record", "name": "W0", "fields": []}"#.to_owned(),
            |inner, n| {
                let before = n - 1;
                format!(
                    r#"{{"type": "record", "name": "W{n}", "fields": [
                    {{"name": "a", "type": {inner}}}, {{"name": "b", "type": "W{before}"}}]}}"#
                )
            },
        );
        assert!(Type::parse(&wide).unwrap_err().contains("more than 10000 types"));
    }
}
