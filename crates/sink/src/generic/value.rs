//! One value: from the bytes of an Avro body to the cell of a column.

use super::target::Target;
use crate::columns::Cell;
use crate::copy::FIRST_TIMESTAMP;
use caudal_core::avro::{AvroError, Reader, units, uuid_text};
use caudal_core::avro_schema::Type;
use caudal_core::reject::Reason;
use std::borrow::Cow;

/// Microseconds of a day: the latest that a time of day can be.
const DAY: i64 = 86_400_000_000;

/// Why a value has no cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The bytes are not of the schema: the whole record is unreadable.
    Bytes(AvroError),
    /// The column cannot hold the value.
    Value(Reason, &'static str),
}

impl From<AvroError> for Unfit {
    fn from(error: AvroError) -> Unfit {
        Unfit::Bytes(error)
    }
}

const TOO_LARGE: Unfit = Unfit::Value(Reason::Constraint, "the number is too large for it");

/// Reads a value for a column that [`Target::holds`] its type.
///
/// # Errors
/// [`Unfit`].
pub fn cell<'a>(of: &Type, to: Target, input: &mut Reader<'a>) -> Result<Cell<'a>, Unfit> {
    if matches!(to, Target::Json | Target::Jsonb) {
        return json_cell(of, to, input);
    }
    match of {
        Type::Int => whole(i64::from(input.int()?), to),
        Type::Long => whole(input.long()?, to),
        Type::Boolean => Ok(Cell::Boolean(input.boolean()?)),
        Type::Float => {
            let value = input.float()?;
            Ok(match to {
                Target::Double => Cell::Double(f64::from(value).to_bits()),
                _ => Cell::Real(value.to_bits()),
            })
        }
        Type::Double => Ok(Cell::Double(u64::from_le_bytes(input.fixed8()?))),
        Type::Bytes => Ok(Cell::Bytes(input.bytes()?.into())),
        Type::Fixed(size) => Ok(Cell::Bytes(input.fixed(*size)?.into())),
        Type::Text | Type::Uuid(false) => text(input.string()?.into(), to),
        Type::Uuid(true) => {
            let bytes = input.fixed16()?;
            Ok(match to {
                Target::Text => Cell::Text(uuid_text(bytes).into()),
                _ => Cell::Uuid(bytes),
            })
        }
        Type::JsonText => Ok(Cell::Text(input.string()?.into())),
        Type::Enum(symbols) => Ok(Cell::Text(symbol(symbols, input)?.to_owned().into())),
        Type::Decimal(scale, size) => decimal(*scale, *size, to, input),
        Type::Date => Ok(Cell::Date(input.int()?)),
        Type::Time(unit) => time(unit.micros(input.long()?)),
        Type::Timestamp(unit) => moment(unit.micros(input.long()?)).map(Cell::Timestamp),
        Type::LocalTimestamp(unit) => moment(unit.micros(input.long()?)).map(Cell::LocalTimestamp),
        Type::Null | Type::Array(_) | Type::Map(_) | Type::Union(_) | Type::Record(_) => {
            json_cell(of, to, input)
        }
    }
}

fn json_cell<'a>(of: &Type, to: Target, input: &mut Reader<'a>) -> Result<Cell<'a>, Unfit> {
    let mut json = String::new();
    if matches!(of, Type::JsonText | Type::Text) {
        json.push_str(input.string()?);
    } else {
        super::json_text::write(of, input, &mut json)?;
    }
    Ok(if to == Target::Jsonb { Cell::Json(json) } else { Cell::Text(json.into()) })
}

/// A whole number for that column.
pub(super) fn whole(number: i64, to: Target) -> Result<Cell<'static>, Unfit> {
    Ok(match to {
        Target::SmallInt => Cell::Small(i16::try_from(number).map_err(|_| TOO_LARGE)?),
        Target::Integer => Cell::Integer(i32::try_from(number).map_err(|_| TOO_LARGE)?),
        Target::Numeric(_) => Cell::Numeric { units: i128::from(number), scale: 0 },
        _ => Cell::Long(number),
    })
}

/// A text for that column.
pub(super) fn text<'a>(value: Cow<'a, str>, to: Target) -> Result<Cell<'a>, Unfit> {
    if to != Target::Uuid {
        return Ok(Cell::Text(value));
    }
    let uuid = uuid_bytes(&value);
    uuid.map(Cell::Uuid).ok_or(Unfit::Value(Reason::Constraint, "the text is no uuid"))
}

pub(super) fn symbol<'t>(
    symbols: &'t [String],
    input: &mut Reader<'_>,
) -> Result<&'t str, AvroError> {
    Ok(&symbols[input.place(symbols.len(), "unknown symbol of an enum")?])
}

/// The bytes of a decimal: two's complement, big-endian.
pub(super) fn decimal_bytes<'a>(
    size: Option<usize>,
    input: &mut Reader<'a>,
) -> Result<&'a [u8], AvroError> {
    let error = input.error("decimal of 0 bytes");
    let bytes = match size {
        Some(size) => input.fixed(size)?,
        None => input.bytes()?,
    };
    if bytes.is_empty() { Err(error) } else { Ok(bytes) }
}

fn decimal<'a>(
    scale: u8,
    size: Option<usize>,
    to: Target,
    input: &mut Reader<'a>,
) -> Result<Cell<'a>, Unfit> {
    let bytes = decimal_bytes(size, input)?;
    match units(bytes) {
        Some(units) => numeric(units, scale, to),
        None if matches!(to, Target::Numeric(None)) => Ok(Cell::WideNumeric { bytes, scale }),
        None => Err(TOO_LARGE),
    }
}

/// A decimal for that column, which must not round it.
pub(super) fn numeric(units: i128, scale: u8, to: Target) -> Result<Cell<'static>, Unfit> {
    if let Target::Numeric(Some(places)) = to {
        let surplus = u32::from(scale).saturating_sub(u32::from(places));
        let divisor = 10_i128.checked_pow(surplus);
        if divisor.is_none_or(|divisor| units % divisor != 0) && units != 0 {
            return Err(Unfit::Value(Reason::Amount, "it has fewer decimal places"));
        }
    }
    Ok(Cell::Numeric { units, scale })
}

/// A time of day, in microseconds.
pub(super) fn time(micros: Option<i64>) -> Result<Cell<'static>, Unfit> {
    let inside = micros.filter(|micros| (0..=DAY).contains(micros));
    inside.map(Cell::Time).ok_or(Unfit::Value(Reason::Timestamp, "no time of a day"))
}

/// A moment, in microseconds since 1970.
pub(super) fn moment(micros: Option<i64>) -> Result<i64, Unfit> {
    let inside = micros.filter(|micros| *micros >= FIRST_TIMESTAMP);
    inside.ok_or(Unfit::Value(Reason::Timestamp, "beyond what a timestamp can hold"))
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    let hyphens = [8, 13, 18, 23];
    if bytes.len() != 36 || hyphens.iter().any(|at| bytes[*at] != b'-') {
        return None;
    }
    let digits: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'-').collect();
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|p| !p.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    (digits.len() == 32).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::avro::Writer;

    fn decimal_of(bytes: &[u8], scale: u8, to: Target) -> Result<Cell<'static>, Unfit> {
        let mut out = Writer::new();
        out.bytes(bytes);
        let written: &'static [u8] = out.into_bytes().leak();
        cell(&Type::Decimal(scale, None), to, &mut Reader::new(written))
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let numeric = Target::Numeric(None);
        let fits = |units, scale| Ok(Cell::Numeric { units, scale });
        assert_eq!(decimal_of(&[0xff, 0x38], 2, numeric), fits(-200, 2));
        assert_eq!(decimal_of(&[0xff, 0x38], 2, Target::Numeric(Some(0))), fits(-200, 2));
        let rounded = decimal_of(&[0xff, 0x39], 2, Target::Numeric(Some(1)));
        assert!(matches!(rounded, Err(Unfit::Value(Reason::Amount, _))));
        let wide = [[0x01].as_slice(), &[0; 16]].concat();
        assert!(matches!(decimal_of(&wide, 0, numeric), Ok(Cell::WideNumeric { .. })));
        assert!(matches!(decimal_of(&[], 0, numeric), Err(Unfit::Bytes(_))));
    }

    #[test]
    fn numbers_that_do_not_fit_are_told() {
        assert_eq!(whole(40_000, Target::SmallInt), Err(TOO_LARGE));
        assert_eq!(whole(-32_768, Target::SmallInt), Ok(Cell::Small(-32_768)));
        assert_eq!(whole(1 << 31, Target::Integer), Err(TOO_LARGE));
        assert!(time(Some(DAY)).is_ok() && time(Some(DAY + 1)).is_err() && time(None).is_err());
        assert!(moment(caudal_core::avro_schema::Unit::Millis.micros(i64::MAX)).is_err());
    }

    #[test]
    fn uuids_read_and_write() {
        let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(uuid_text(uuid_bytes(text).unwrap()), text);
        for wrong in ["", "0f8fad5bd9cb469fa16570867728950e", &text.replace('f', "g")] {
            assert_eq!(uuid_bytes(wrong), None, "{wrong}");
        }
        assert_eq!(uuid_bytes(&text.replace("0f", "+f")), None);
    }
}
