//! JSON objects by a declared schema: as Kafka Connect's `JsonConverter` without schemas, but typed.
//! Numbers are read from their digits, never through a double.

use super::layout::{Bound, Step};
use super::target::Target;
use super::value::{self, Unfit};
use crate::columns::Cell;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use caudal_core::avro_schema::Type;
use caudal_core::json::{Fields, read_fields, read_string};
use caudal_core::reject::{Reason, Rejection};
use caudal_core::time::parse_rfc3339;
use serde_json::value::RawValue;
use std::borrow::Cow;

impl Bound {
    /// Reads a JSON object into a row's cells. Fields that the schema does not name are left out; a
    /// field that is absent is NULL where it may be.
    ///
    /// # Errors
    /// A [`Rejection`] that names the column, never its value.
    pub fn read_json<'a>(&self, text: &'a [u8], cells: &mut [Cell<'a>]) -> Result<(), Rejection> {
        let text = std::str::from_utf8(text)
            .map_err(|e| Rejection::new(Reason::Malformed, format!("no UTF-8: {e}")))?;
        match &self.layout.root {
            Step::Column(at) => {
                let raw: &RawValue = serde_json::from_str(text).map_err(no_json)?;
                self.json_column(*at, Some(raw), cells)
            }
            Step::Record(steps, _) => {
                self.json_fields(steps, &read_fields(text).map_err(no_json)?, cells)
            }
        }
    }

    fn json_fields<'a>(
        &self,
        steps: &[(String, Step)],
        fields: &Fields<'a>,
        cells: &mut [Cell<'a>],
    ) -> Result<(), Rejection> {
        for (name, step) in steps {
            let raw = fields.get(name.as_str()).copied().filter(|raw| raw.get() != "null");
            match step {
                Step::Column(at) => self.json_column(*at, raw, cells)?,
                Step::Record(steps, null) => match raw {
                    Some(raw) => {
                        let inner = read_fields(raw.get()).map_err(no_json)?;
                        self.json_fields(steps, &inner, cells)?;
                    }
                    None if null.is_some() => {}
                    None => {
                        let message = format!("field {name} is missing");
                        return Err(Rejection::new(Reason::MissingField, message));
                    }
                },
            }
        }
        Ok(())
    }

    fn json_column<'a>(
        &self,
        at: usize,
        raw: Option<&'a RawValue>,
        cells: &mut [Cell<'a>],
    ) -> Result<(), Rejection> {
        let column = &self.layout.columns[at];
        let Some(raw) = raw else {
            return match column.null.is_some() || column.of.is_nullable() {
                true => Ok(()),
                false => {
                    let unfit = Unfit::Value(Reason::MissingField, "the field is missing or null");
                    Err(self.rejection(at, unfit))
                }
            };
        };
        if let Some((place, to)) = self.places[at] {
            cells[place] =
                cell(&column.of, to, raw.get()).map_err(|unfit| self.rejection(at, unfit))?;
        }
        Ok(())
    }
}

fn no_json(error: serde_json::Error) -> Rejection {
    // Not its text, which quotes values.
    let (line, column) = (error.line(), error.column());
    let message = format!("no JSON object, or a field twice: line {line}, column {column}");
    Rejection::new(Reason::Malformed, message)
}

const fn wrong(what: &'static str) -> Unfit {
    Unfit::Value(Reason::Malformed, what)
}

fn cell<'a>(of: &Type, to: Target, raw: &'a str) -> Result<Cell<'a>, Unfit> {
    let text = || read_string(raw).ok_or(wrong("expected a text"));
    if matches!(to, Target::Json | Target::Jsonb) {
        let json = if *of == Type::JsonText { text()?.into_owned() } else { raw.to_owned() };
        return Ok(if to == Target::Jsonb { Cell::Json(json) } else { Cell::Text(json.into()) });
    }
    match of {
        Type::Int | Type::Long => {
            let number = whole(raw)?;
            if *of == Type::Int && i32::try_from(number).is_err() {
                return Err(wrong("the number is beyond 32 bits"));
            }
            value::whole(number, to)
        }
        Type::Boolean => match raw {
            "true" => Ok(Cell::Boolean(true)),
            "false" => Ok(Cell::Boolean(false)),
            _ => Err(wrong("expected true or false")),
        },
        Type::Float if to == Target::Real => {
            let value: f32 = digits(raw).parse().map_err(|_| wrong("expected a number"))?;
            Ok(Cell::Real(value.to_bits()))
        }
        Type::Float | Type::Double => {
            let value: f64 = digits(raw).parse().map_err(|_| wrong("expected a number"))?;
            Ok(Cell::Double(value.to_bits()))
        }
        Type::Bytes | Type::Fixed(_) => bytes(of, &text()?).map(|bytes| Cell::Bytes(bytes.into())),
        Type::Enum(symbols) => {
            let text = text()?;
            match symbols.iter().any(|symbol| **symbol == *text) {
                true => Ok(Cell::Text(text)),
                false => Err(wrong("the text is no symbol of the enum")),
            }
        }
        Type::Decimal(scale, _) => decimal(raw, *scale, to),
        Type::Date => date(&text()?),
        Type::Time(_) => time(&text()?),
        Type::Timestamp(unit) => {
            let micros = match read_string(raw) {
                Some(text) => Some(parse_rfc3339(&text).ok_or(NO_MOMENT)?),
                None => unit.micros(whole(raw)?),
            };
            value::moment(micros).map(Cell::Timestamp)
        }
        Type::LocalTimestamp(unit) => {
            let micros = match read_string(raw) {
                Some(text) => Some(parse_rfc3339(&format!("{text}Z")).ok_or(NO_MOMENT)?),
                None => unit.micros(whole(raw)?),
            };
            value::moment(micros).map(Cell::LocalTimestamp)
        }
        _ => value::text(text()?, to),
    }
}

const NO_MOMENT: Unfit =
    Unfit::Value(Reason::Timestamp, "expected RFC 3339, such as 2026-01-31T12:00:00Z");

/// The digits of a number, which may stand in a text.
fn digits(raw: &str) -> Cow<'_, str> {
    read_string(raw).unwrap_or(Cow::Borrowed(raw))
}

fn whole(raw: &str) -> Result<i64, Unfit> {
    digits(raw).parse().map_err(|_| wrong("expected a whole number of 64 bits"))
}

fn bytes(of: &Type, text: &str) -> Result<Vec<u8>, Unfit> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| wrong("expected base 64"))?;
    match of {
        Type::Fixed(size) if *size != bytes.len() => Err(wrong("not as long as the schema says")),
        _ => Ok(bytes),
    }
}

/// `-?digits(.digits)?(e±n)?` as units of 10^-scale, exactly.
fn decimal(raw: &str, scale: u8, to: Target) -> Result<Cell<'static>, Unfit> {
    let text = digits(raw);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        None => (&*text, 0),
        Some((mantissa, exponent)) => {
            (mantissa, exponent.parse::<i32>().map_err(|_| wrong("expected a decimal number"))?)
        }
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    let numeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if unsigned.is_empty() || !numeric(unsigned) || !numeric(fraction) {
        return Err(wrong("expected a decimal number"));
    }
    let too_large = Unfit::Value(Reason::Amount, "the number has more than 38 digits");
    let joined: i128 = format!("{unsigned}{fraction}").parse().map_err(|_| too_large.clone())?;
    let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let shift = i32::from(scale) - places.saturating_sub(exponent);
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let units = match (power, shift >= 0) {
        _ if joined == 0 => 0,
        (Some(power), true) => joined.checked_mul(power).ok_or(too_large)?,
        (Some(power), false) if joined % power == 0 => joined / power,
        (None, true) => return Err(too_large),
        _ => return Err(Unfit::Value(Reason::Amount, "more decimal places than the schema has")),
    };
    value::numeric(if whole.starts_with('-') { -units } else { units }, scale, to)
}

fn date(text: &str) -> Result<Cell<'static>, Unfit> {
    let error = Unfit::Value(Reason::Timestamp, "expected a date, such as 2026-01-31");
    let micros = parse_rfc3339(&format!("{text}T00:00:00Z")).ok_or(error.clone())?;
    i32::try_from(micros.div_euclid(86_400_000_000)).map(Cell::Date).map_err(|_| error)
}

fn time(text: &str) -> Result<Cell<'static>, Unfit> {
    let error = Unfit::Value(Reason::Timestamp, "expected a time of day, such as 12:00:00");
    value::time(Some(parse_rfc3339(&format!("1970-01-01T{text}Z")).ok_or(error)?))
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Layout, Naming};
    use super::*;

    const SCHEMA: &str = r#"{"type": "record", "name": "V", "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38,
            "scale": 2}},
        {"name": "n", "type": ["null", "int"]},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "raw", "type": ["null", "bytes"]},
        {"name": "kind", "type": ["null", {"type": "enum", "name": "K", "symbols": ["A", "B"]}]},
        {"name": "who", "type": ["null", {"type": "record", "name": "W", "fields": [
            {"name": "name", "type": "string"}]}]},
        {"name": "tags", "type": ["null", {"type": "array", "items": "string"}]}]}"#;

    fn read(text: &str) -> Result<Vec<Cell<'static>>, Rejection> {
        let layout = Layout::of(&Type::parse(SCHEMA).unwrap(), &Naming::default(), None).unwrap();
        let targets = layout.columns.iter().map(|column| Target::made_for(&column.of));
        let places: Vec<_> = (0..).zip(targets).map(Some).collect();
        let mut cells = vec![Cell::Null; places.len()];
        let text: &'static str = text.to_owned().leak();
        Bound { layout, places }.read_json(text.as_bytes(), &mut cells)?;
        Ok(cells)
    }

    const ID: &str = r#""id": "0f8fad5b-d9cb-469f-a165-70867728950e""#;

    #[test]
    fn an_object_becomes_a_row() {
        let cells = read(&format!(
            r#"{{{ID}, "total": 12.5, "n": 7, "at": "2026-01-31T12:00:00Z", "day": "2026-01-31",
               "raw": "YWJj", "kind": "B", "who": {{"name": "Ana", "x": 1}}, "tags": ["a", "b"],
               "unknown": {{}}}}"#
        ))
        .unwrap();
        assert_eq!(cells[1], Cell::Numeric { units: 1250, scale: 2 });
        assert_eq!(cells[2], Cell::Integer(7));
        assert_eq!(cells[3], Cell::Timestamp(1_769_860_800_000_000));
        assert_eq!(cells[4], Cell::Date(20_484));
        assert_eq!(cells[5], Cell::Bytes(b"abc".to_vec().into()));
        assert_eq!(cells[6..8], [Cell::Text("B".into()), Cell::Text("Ana".into())]);
        assert_eq!(cells[8], Cell::Json(r#"["a", "b"]"#.into()));
        let cells = read(&format!(r#"{{{ID}, "total": "-1e3", "who": null}}"#)).unwrap();
        assert_eq!(cells[1], Cell::Numeric { units: -100_000, scale: 2 });
        assert!(cells[2..].iter().all(|cell| *cell == Cell::Null));
    }

    #[test]
    fn what_does_not_fit_names_its_column_and_no_value() {
        let reason = |fields: &str| {
            let rejection = read(&format!("{{{fields}}}")).unwrap_err();
            assert!(!rejection.message.contains("secret"), "{rejection}");
            (rejection.reason, rejection.message)
        };
        let with = |field: &str| reason(&format!(r#"{ID}, "total": 1, {field}"#));
        assert_eq!(reason(ID).0, Reason::MissingField);
        assert_eq!(reason(&format!(r#"{ID}, "total": 1.005"#)).0, Reason::Amount);
        assert_eq!(reason(&format!(r#"{ID}, "total": "secret""#)).0, Reason::Malformed);
        assert_eq!(reason(&format!(r#"{ID}, "total": 1e40"#)).0, Reason::Amount);
        assert!(with(r#""n": 2147483648"#).1.contains("column n"));
        assert_eq!(with(r#""at": "secret""#).0, Reason::Timestamp);
        assert!(with(r#""kind": "secret""#).1.contains("no symbol"));
        assert!(with(r#""who": {"secret": 1}"#).1.contains("column who_name"));
        assert_eq!(with(r#""raw": "*""#).0, Reason::Malformed);
        assert!(read("[1]").is_err() && read("{").is_err());
    }
}
