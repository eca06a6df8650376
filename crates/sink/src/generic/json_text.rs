//! An Avro value as JSON text, for columns of type jsonb and json: decimals with all their digits,
//! moments in RFC 3339, bytes in base 64 as Kafka Connect's JSON has them.

use super::value::{Unfit, decimal_bytes, symbol};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use caudal_core::avro::{Reader, units, uuid_text};
use caudal_core::avro_schema::{Type, Unit};
use caudal_core::reject::Reason;
use caudal_core::time::to_rfc3339;
use std::fmt::Write as _;

/// Appends the JSON of a value.
///
/// # Errors
/// [`Unfit`].
pub fn write(of: &Type, input: &mut Reader<'_>, out: &mut String) -> Result<(), Unfit> {
    match of {
        Type::Null => out.push_str("null"),
        Type::Boolean => out.push_str(if input.boolean()? { "true" } else { "false" }),
        Type::Int => push(out, input.int()?),
        Type::Long => push(out, input.long()?),
        Type::Float => double(f64::from(input.float()?), out),
        Type::Double => double(f64::from_le_bytes(input.fixed8()?), out),
        Type::Bytes => base64(input.bytes()?, out),
        Type::Fixed(size) => base64(input.fixed(*size)?, out),
        Type::Text | Type::Uuid(false) => string(input.string()?, out)?,
        Type::JsonText => out.push_str(input.string()?),
        Type::Uuid(true) => string(&uuid_text(input.fixed16()?), out)?,
        Type::Enum(symbols) => string(symbol(symbols, input)?, out)?,
        Type::Decimal(scale, size) => {
            let wide = Unfit::Value(Reason::Amount, "a decimal beyond 128 bits within JSON");
            let units = units(decimal_bytes(*size, input)?).ok_or(wide)?;
            decimal(units, *scale, out);
        }
        Type::Date => {
            let text = rfc3339(i64::from(input.int()?).checked_mul(86_400_000_000))?;
            string(text.split('T').next().unwrap_or(&text), out)?;
        }
        Type::Time(unit) => time(*unit, input.long()?, out)?,
        Type::Timestamp(unit) => string(&rfc3339(unit.micros(input.long()?))?, out)?,
        Type::LocalTimestamp(unit) => {
            let text = rfc3339(unit.micros(input.long()?))?;
            string(text.trim_end_matches('Z'), out)?;
        }
        Type::Array(items) => {
            separated(('[', ']'), input, out, |input, out| write(items, input, out))?;
        }
        Type::Map(values) => separated(('{', '}'), input, out, |input, out| {
            string(input.string()?, out)?;
            out.push(':');
            write(values, input, out)
        })?,
        Type::Union(branches) => {
            let at = input.place(branches.len(), "unknown union branch")?;
            write(&branches[at], input, out)?;
        }
        Type::Record(fields) => {
            out.push('{');
            for (at, (name, of)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                string(name, out)?;
                out.push(':');
                write(of, input, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    write!(out, "{value}").ok();
}

fn string(text: &str, out: &mut String) -> Result<(), Unfit> {
    if text.contains('\0') {
        return Err(Unfit::Value(Reason::Constraint, "a text within it contains NUL"));
    }
    push(out, serde_json::Value::from(text));
    Ok(())
}

/// JSON has no number for NaN and the infinities: they are texts.
fn double(value: f64, out: &mut String) {
    match serde_json::Number::from_f64(value) {
        Some(number) => push(out, number),
        None => push(out, format_args!("\"{value}\"")),
    }
}

fn decimal(units: i128, scale: u8, out: &mut String) {
    let digits = format!("{:0>1$}", units.unsigned_abs(), usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    out.push_str(if units < 0 { "-" } else { "" });
    out.push_str(whole);
    if !fraction.is_empty() {
        push(out, format_args!(".{fraction}"));
    }
}

fn rfc3339(micros: Option<i64>) -> Result<String, Unfit> {
    super::value::moment(micros).map(to_rfc3339)
}

fn time(unit: Unit, count: i64, out: &mut String) -> Result<(), Unfit> {
    super::value::time(unit.micros(count))?;
    let micros = unit.micros(count).unwrap_or(0);
    let seconds = micros / 1_000_000;
    let (h, m, s, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60, micros % 1_000_000);
    push(out, format_args!("\"{h:02}:{m:02}:{s:02}.{rest:06}\""));
    Ok(())
}

/// The items of an array or a map, between these.
fn separated<'a>(
    (open, close): (char, char),
    input: &mut Reader<'a>,
    out: &mut String,
    mut item: impl FnMut(&mut Reader<'a>, &mut String) -> Result<(), Unfit>,
) -> Result<(), Unfit> {
    out.push(open);
    let mut first = true;
    input.blocks(|input| {
        out.push_str(if std::mem::take(&mut first) { "" } else { "," });
        item(input, out)
    })?;
    out.push(close);
    Ok(())
}

fn base64(bytes: &[u8], out: &mut String) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::avro::Writer;

    fn json(schema: &str, write_value: impl FnOnce(&mut Writer)) -> Result<String, Unfit> {
        let mut value = Writer::new();
        write_value(&mut value);
        let (value, mut out) = (value.into_bytes(), String::new());
        write(&Type::parse(schema).unwrap(), &mut Reader::new(&value), &mut out)?;
        Ok(out)
    }

    #[test]
    fn nested_values_are_json() {
        let schema = r#"{"type": "record", "name": "R", "fields": [
            {"name": "a", "type": {"type": "array", "items": ["null", "int", "string"]}},
            {"name": "m", "type": {"type": "map", "values": "boolean"}},
            {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9,
                "scale": 3}},
            {"name": "b", "type": "bytes"},
            {"name": "t", "type": {"type": "int", "logicalType": "time-millis"}},
            {"name": "l", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}},
            {"name": "f", "type": "double"}]}"#;
        let written = json(schema, |out| {
            out.long(3);
            out.long(0);
            out.long(1);
            out.long(-7);
            out.long(2);
            out.string("a\"b");
            out.long(0);
            out.long(1);
            out.string("k");
            out.boolean(true);
            out.long(0);
            out.decimal(-5);
            out.bytes(b"abcd");
            out.long(3_723_004);
            out.long(1_500);
            out.long(19_000);
            out.fixed8(f64::NAN.to_le_bytes());
        });
        let expected = r#"{"a":[null,-7,"a\"b"],"m":{"k":true},"d":-0.005,"b":"YWJjZA==","t":"01:02:03.004000","l":"1970-01-01T00:00:01.5","day":"2022-01-08","f":"NaN"}"#;
        let written = written.unwrap();
        assert_eq!(written, expected);
        serde_json::from_str::<serde_json::Value>(&written).unwrap();
    }

    #[test]
    fn what_jsonb_cannot_hold_is_told() {
        let nul = json("\"string\"", |out| out.string("a\0"));
        assert!(matches!(nul, Err(Unfit::Value(Reason::Constraint, _))));
        let in_array = json(r#"{"type": "array", "items": "string"}"#, |out| {
            out.long(2);
            out.string("a\0");
            out.string("b");
            out.long(0);
        });
        assert!(matches!(in_array, Err(Unfit::Value(..))));
        let cut = json(r#"{"type": "array", "items": "string"}"#, |out| out.long(2));
        assert!(matches!(cut, Err(Unfit::Bytes(_))));
    }
}
