//! JSON with numbers as they are written: a decimal never passes through a double.

use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Json {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number's text.
    Number(String),
    /// A text.
    Text(String),
    /// `[…]`.
    Array(Vec<Json>),
    /// `{…}`, in the order of the text.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// When it is no JSON, or is nested deeper than 64.
    pub fn parse(text: &str) -> Result<Json, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Json::read(raw, 0)
    }

    fn read(raw: &RawValue, depth: usize) -> Result<Json, serde_json::Error> {
        if depth > MAX_DEPTH {
            return Err(serde::de::Error::custom("nested too deep"));
        }
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') | None => Json::Null,
            Some(b't' | b'f') => Json::Boolean(text == "true"),
            Some(b'"') => Json::Text(serde_json::from_str(text)?),
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                let items = items.into_iter().map(|item| Json::read(item, depth + 1));
                Json::Array(items.collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let Object(fields) = serde_json::from_str(text)?;
                let field = |(name, raw)| Ok((name, Json::read(raw, depth + 1)?));
                let fields = fields.into_iter().map(field);
                Json::Object(fields.collect::<Result<_, serde_json::Error>>()?)
            }
            Some(_) => Json::Number(text.to_owned()),
        })
    }

    /// A field of an object; the exact name first, then the same letters in any case, as ksqlDB
    /// reads JSON.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Json> {
        let Json::Object(fields) = self else { return None };
        let exact = fields.iter().find(|(field, _)| field == name);
        let any = || fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        exact.or_else(any).map(|(_, value)| value)
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one.
    #[must_use]
    pub fn as_long(&self) -> Option<i64> {
        match self {
            Json::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether both mean the same: numbers by value, objects whatever the order of their fields.
    #[must_use]
    pub fn means(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Number(a), Json::Number(b)) => same_number(a, b),
            (Json::Array(a), Json::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.means(b))
            }
            (Json::Object(a), Json::Object(b)) => {
                let b: BTreeMap<&str, &Json> = b.iter().map(|(k, v)| (k.as_str(), v)).collect();
                let same = |(k, v): &(String, Json)| b.get(k.as_str()).is_some_and(|o| v.means(o));
                a.len() == b.len() && a.iter().all(same)
            }
            _ => self == other,
        }
    }
}

/// Of two numbers one of which has an exponent, that is, is a double, the doubles count: not every
/// writer chooses the shortest digits.
fn same_number(a: &str, b: &str) -> bool {
    if [a, b].iter().any(|number| number.contains(['e', 'E'])) {
        return matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b);
    }
    match (crate::decimal::parse(a), crate::decimal::parse(b)) {
        (Some((a, s1)), Some((b, s2))) => {
            let scale = s1.max(s2);
            let at = |units, from| crate::decimal::rescale(units, from, scale);
            at(a, s1).is_some() && at(a, s1) == at(b, s2)
        }
        _ => matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b),
    }
}

/// Arrays and objects within each other.
const MAX_DEPTH: usize = 64;

/// An object's fields in the order of the text.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Object<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Json::Null => f.write_str("null"),
            Json::Boolean(value) => write!(f, "{value}"),
            Json::Number(text) => f.write_str(text),
            Json::Text(text) => f.write_str(&quoted(text)),
            Json::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{}: {value}", if i > 0 { ", " } else { "" }, quoted(name))?;
                }
                f.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        let json = Json::parse(r#"{"b": [1.10, -0, 12345678901234567890.123456789], "a": null}"#);
        let json = json.expect("json");
        assert_eq!(
            json.to_string(),
            r#"{"b": [1.10, -0, 12345678901234567890.123456789], "a": null}"#
        );
        assert!(!json.means(&Json::parse(r#"{"a": null, "B": 1}"#).expect("json")));
        let mean =
            |a: &str, b: &str| Json::parse(a).expect("json").means(&Json::parse(b).expect("json"));
        assert!(mean("[1.10]", "[1.1]"));
        assert!(mean("4.6116860184273879E18", "4611686018427387904"));
        assert!(!mean("4611686018427387903", "4611686018427387904"));
        assert_eq!(json.field("A"), Some(&Json::Null));
        assert!(Json::parse(&"[".repeat(100_000)).is_err());
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(Json::parse(&deep).is_err());
    }
}
