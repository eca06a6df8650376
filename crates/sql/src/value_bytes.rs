//! Values as bytes, for state blocks and partials. The type is known to whoever reads.

use crate::types::SqlType;
use crate::value::Value;
use caudal_core::avro::{AvroError, Reader, Writer};
use std::borrow::Cow;

/// Writes a value: a flag, then what is not NULL. The same value gives the same bytes.
pub fn write(value: &Value<'_>, out: &mut Writer) {
    out.boolean(!value.is_null());
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    match value {
        Value::Null => {}
        Value::Boolean(v) => out.boolean(*v),
        Value::Long(n) | Value::Timestamp(n) | Value::Date(n) | Value::Time(n) => out.long(*n),
        Value::Double(v) => out.fixed8(v.to_be_bytes()),
        Value::Decimal(units) => out.decimal(*units),
        Value::Text(text) => out.string(text),
        Value::Array(items) | Value::Struct(items) => {
            out.long(count(items.len()));
            items.iter().for_each(|item| write(item, out));
        }
        Value::Map(entries) => {
            out.long(count(entries.len()));
            for (key, value) in entries {
                out.string(key);
                write(value, out);
            }
        }
    }
}

/// Reads a value of a type.
///
/// # Errors
/// When the bytes are not one.
pub fn read(kind: &SqlType, input: &mut Reader<'_>) -> Result<Value<'static>, AvroError> {
    if !input.boolean()? {
        return Ok(Value::Null);
    }
    Ok(match kind {
        SqlType::Null => Value::Null,
        SqlType::Boolean => Value::Boolean(input.boolean()?),
        SqlType::Int | SqlType::Bigint => Value::Long(input.long()?),
        SqlType::Double => Value::Double(f64::from_be_bytes(input.fixed8()?)),
        SqlType::Decimal { .. } => Value::Decimal(input.decimal()?),
        SqlType::String => Value::Text(Cow::Owned(input.string()?.to_owned())),
        SqlType::Timestamp => Value::Timestamp(input.long()?),
        SqlType::Date => Value::Date(input.long()?),
        SqlType::Time => Value::Time(input.long()?),
        SqlType::Array(item) => {
            let count = input.length()?;
            Value::Array((0..count).map(|_| read(item, input)).collect::<Result<_, _>>()?)
        }
        SqlType::Map(item) => {
            let count = input.length()?;
            let entry = |_| Ok((Cow::Owned(input.string()?.to_owned()), read(item, input)?));
            Value::Map((0..count).map(entry).collect::<Result<_, AvroError>>()?)
        }
        SqlType::Struct(fields) => {
            input.length()?;
            let values = fields.iter().map(|(_, kind)| read(kind, input));
            Value::Struct(values.collect::<Result<_, _>>()?)
        }
    })
}
