//! Fields of rows in PostgreSQL's binary format, made comparable: equal where the server calls two
//! values not distinct.

use caudal_sink::generic::table::Present;
use caudal_sink::generic::target::Target;
use std::borrow::Cow;

/// A column as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    target: Option<Target>,
    /// Whether the type itself changes values: it rounds them, or fills them up with blanks.
    pub alters: bool,
}

impl Column {
    pub fn of(name: &str, present: Option<&Present>) -> Column {
        let target = present.and_then(|present| present.target);
        let kind = present.map_or("", |present| present.kind.as_str());
        let alters = match target {
            None => true,
            Some(Target::Text) => kind.starts_with("character") && !kind.contains("varying"),
            Some(Target::Time) => kind != "time without time zone",
            Some(Target::Timestamp) => kind != "timestamp without time zone",
            Some(Target::Timestamptz) => kind != "timestamp with time zone",
            Some(_) => false,
        };
        Column { name: name.to_owned(), target, alters }
    }

    /// Equal bytes for equal values.
    pub fn canonical<'f>(&self, field: &'f [u8]) -> Cow<'f, [u8]> {
        match self.target {
            // The places that are shown (bytes 6 and 7) are no part of the value.
            Some(Target::Numeric(_)) if field.len() >= 8 => {
                Cow::Owned([&field[..6], &field[8..]].concat())
            }
            Some(Target::Real) => match <[u8; 4]>::try_from(field).map(f32::from_be_bytes) {
                Ok(value) if value.is_nan() => Cow::Borrowed(b"NaN"),
                // Adding zero makes 0.0 of -0.0.
                Ok(value) => Cow::Owned((value + 0.0).to_be_bytes().to_vec()),
                Err(_) => Cow::Borrowed(field),
            },
            Some(Target::Double) => match <[u8; 8]>::try_from(field).map(f64::from_be_bytes) {
                Ok(value) if value.is_nan() => Cow::Borrowed(b"NaN"),
                Ok(value) => Cow::Owned((value + 0.0).to_be_bytes().to_vec()),
                Err(_) => Cow::Borrowed(field),
            },
            Some(Target::Json) => json(field),
            Some(Target::Jsonb) => json(field.get(1..).unwrap_or_default()),
            _ => Cow::Borrowed(field),
        }
    }

    /// For a person.
    pub fn shown(&self, field: Option<&[u8]>) -> String {
        let Some(field) = field else { return "NULL".into() };
        let number = |field: &[u8]| match field.len() {
            2 => <[u8; 2]>::try_from(field).ok().map(|b| i64::from(i16::from_be_bytes(b))),
            4 => <[u8; 4]>::try_from(field).ok().map(|b| i64::from(i32::from_be_bytes(b))),
            _ => <[u8; 8]>::try_from(field).ok().map(i64::from_be_bytes),
        };
        let text = match self.target {
            Some(Target::SmallInt | Target::Integer | Target::BigInt) => {
                number(field).map(|number| number.to_string())
            }
            Some(Target::Text) => std::str::from_utf8(field).ok().map(str::to_owned),
            _ => None,
        };
        text.unwrap_or_else(|| field.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Members in one order, numbers by value: the server writes them in its own way.
fn json(text: &[u8]) -> Cow<'_, [u8]> {
    fn numbers_by_value(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Number(number) => {
                let by_value = number.as_f64().and_then(serde_json::Number::from_f64);
                *number = by_value.unwrap_or_else(|| number.clone());
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(numbers_by_value),
            serde_json::Value::Object(all) => all.values_mut().for_each(numbers_by_value),
            _ => {}
        }
    }
    match serde_json::from_slice::<serde_json::Value>(text) {
        Ok(mut value) => {
            numbers_by_value(&mut value);
            Cow::Owned(value.to_string().into_bytes())
        }
        // Numbers beyond a double: the server's way of writing them is not known here.
        Err(_) => Cow::Borrowed(b"unread"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use caudal_sink::copy::{self, Tuples};

    pub fn column(name: &str, kind: &str, target: Target) -> Column {
        let present =
            Present { kind: kind.into(), target: Some(target), is_required: false, symbols: None };
        Column::of(name, Some(&present))
    }

    fn same(of: &Column, write: impl Fn(&mut Tuples, usize)) -> bool {
        let [a, b] = [0, 1].map(|which| {
            let mut tuple = Tuples::default();
            tuple.tuple(1);
            write(&mut tuple, which);
            let field = copy::fields(tuple.as_slice()).next().flatten().expect("a field");
            of.canonical(field).into_owned()
        });
        a == b
    }

    #[test]
    fn values_are_equal_where_the_server_calls_them_not_distinct() {
        let numeric = column("n", "numeric(18,4)", Target::Numeric(Some(4)));
        assert!(same(&numeric, |out, at| out.numeric([150, 15_000][at], [2, 4][at])));
        assert!(!same(&numeric, |out, at| out.numeric([150, 151][at], 2)));
        let double = column("d", "double precision", Target::Double);
        assert!(same(&double, |out, at| out.float8([0.0, -0.0][at])));
        assert!(same(&double, |out, at| out.float8([f64::NAN, -f64::NAN][at])));
        let json = column("j", "jsonb", Target::Jsonb);
        let texts = [r#"{"b":1.0,"a":[1e2]}"#, r#"{"a": [100], "b": 1}"#];
        assert!(same(&json, |out, at| out.jsonb(texts[at])));
        assert!(!same(&json, |out, at| out.jsonb(["{\"a\":1}", "{\"a\":2}"][at])));
    }

    #[test]
    fn types_that_alter_values_are_told() {
        let alters = |kind, target| column("c", kind, target).alters;
        assert!(alters("timestamp(3) with time zone", Target::Timestamptz));
        assert!(!alters("timestamp with time zone", Target::Timestamptz));
        assert!(alters("character(5)", Target::Text));
        assert!(!alters("character varying(5)", Target::Text) && !alters("text", Target::Text));
    }

    #[test]
    fn a_tuple_falls_into_its_fields() {
        let mut tuple = Tuples::default();
        tuple.tuple(3);
        tuple.text("ab");
        tuple.null();
        tuple.int8(-7);
        let fields: Vec<_> = copy::fields(tuple.as_slice()).collect();
        assert_eq!(fields[..2], [Some(&b"ab"[..]), None]);
        let number = column("n", "bigint", Target::BigInt);
        assert_eq!((fields.len(), number.shown(fields[2])), (3, "-7".into()));
    }
}
