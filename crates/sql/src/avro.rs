//! Avro values of topics that others write: Confluent's framing, and schemas by their ids.
//!
//! Rows of the pipeline's own queries do not come this way: their schemas are known
//! ([`caudal_core::row`]).

use crate::catalog::{Source, SourceColumn};
use crate::json::Json;
use crate::types::SqlType;
use crate::value::{self, Value};
use caudal_core::avro::{AvroError, Reader, unframe, units, uuid_text};
use caudal_core::avro_schema::{Type, Unit};
use std::collections::BTreeMap;

/// Writers' schemas by the id in the framing; of one that cannot be read by, why.
#[derive(Debug, Default)]
pub struct Schemas(BTreeMap<u32, Result<Type, String>>);

impl Schemas {
    /// Learns a schema. One that was refused may be learnt anew.
    ///
    /// # Errors
    /// When the text is no Avro schema, when a type of it contains itself, or when it is nested too
    /// deep or too large to be read. [`Schemas::read`] then says so of its values.
    pub fn add(&mut self, id: u32, text: &str) -> Result<(), String> {
        if self.knows(id) {
            return Ok(());
        }
        let read = Type::parse(text);
        let why = read.as_ref().err().cloned();
        self.0.insert(id, read);
        why.map_or(Ok(()), Err)
    }

    /// Whether it was learnt.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        matches!(self.0.get(&id), Some(Ok(_)))
    }

    /// The JSON of a framed value of a source, as ksqlDB's test files write it: moments in
    /// milliseconds. Fields that the source does not declare are passed over, whatever their type.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of its data.
    pub fn read(&self, bytes: &[u8], source: &Source) -> Result<Json, String> {
        let (id, body) = unframe(bytes).ok_or("the value has no Confluent framing")?;
        let kind = self.0.get(&id).ok_or_else(|| {
            format!("schema id {id} is not in caudal_esquemas; publish it there under that key")
        })?;
        let refused = |why: &String| format!("schema id {id} of caudal_esquemas: {why}");
        let kind = kind.as_ref().map_err(refused)?;
        let mut input = Reader::new(body);
        let read = match &source.value_columns()[..] {
            [] => skip(&mut input, kind).map(|()| Json::Object(Vec::new())),
            [one] if !source.wrapped => json(&mut input, kind, Wanted::Of(&one.kind)),
            columns => json(&mut input, kind, Wanted::Columns(columns)),
        };
        let read = read.and_then(|json| {
            input.end()?;
            Ok(json)
        });
        read.map_err(Misfit::text)
    }
}

/// What is to be read of a value.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    /// Of the record that is the whole value: the fields of these names.
    Columns(&'a [&'a SourceColumn]),
    /// What this type takes.
    Of(&'a SqlType),
}

impl<'a> Wanted<'a> {
    /// What is to be read of a field; `None`: nothing. Names are compared as [`Json::field`] does.
    fn field(self, name: &str) -> Option<Wanted<'a>> {
        match self {
            Wanted::Columns(columns) => {
                let column = columns.iter().find(|c| c.name.eq_ignore_ascii_case(name));
                column.map(|column| Wanted::Of(&column.kind))
            }
            Wanted::Of(SqlType::Struct(fields)) => {
                let field = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
                field.map(|(_, kind)| Wanted::Of(kind))
            }
            Wanted::Of(SqlType::Map(kind)) => Some(Wanted::Of(kind)),
            // A text takes anything, as JSON.
            Wanted::Of(_) => Some(self),
        }
    }

    fn item(self) -> Wanted<'a> {
        match self {
            Wanted::Of(SqlType::Array(kind) | SqlType::Map(kind)) => Wanted::Of(kind),
            other => other,
        }
    }
}

/// What is wrong with a value.
#[derive(Debug)]
enum Misfit {
    Bytes(AvroError),
    Other(String),
}

impl Misfit {
    fn text(self) -> String {
        match self {
            Misfit::Bytes(error) => format!("its value cannot be read: {error}"),
            Misfit::Other(what) => format!("its value cannot be read: {what}"),
        }
    }
}

impl From<AvroError> for Misfit {
    fn from(error: AvroError) -> Self {
        Misfit::Bytes(error)
    }
}

fn json(input: &mut Reader<'_>, of: &Type, wanted: Wanted<'_>) -> Result<Json, Misfit> {
    let number = |n: i64| Json::Number(n.to_string());
    let is_record = matches!(of, Type::Null | Type::Union(_) | Type::Record(_));
    if matches!(wanted, Wanted::Columns(_)) && !is_record {
        return Err(Misfit::Other("its schema is no record".to_owned()));
    }
    Ok(match of {
        Type::Null => Json::Null,
        Type::Boolean => Json::Boolean(input.boolean()?),
        Type::Int | Type::Date => number(i64::from(input.int()?)),
        Type::Long => number(input.long()?),
        Type::Time(unit) | Type::Timestamp(unit) | Type::LocalTimestamp(unit) => {
            number(millis(*unit, input.long()?))
        }
        Type::Float => Json::Number(value::double_text(f64::from(input.float()?))),
        Type::Double => Json::Number(value::double_text(f64::from_le_bytes(input.fixed8()?))),
        Type::Text | Type::JsonText | Type::Uuid(false) => Json::Text(input.string()?.to_owned()),
        Type::Uuid(true) => Json::Text(uuid_text(input.fixed16()?)),
        Type::Enum(symbols) => {
            let place = input.place(symbols.len(), "unknown symbol of an enum")?;
            Json::Text(symbols[place].clone())
        }
        Type::Decimal(scale, size) => decimal(input, *scale, *size)?,
        Type::Bytes | Type::Fixed(_) => {
            let what = "a declared column is bytes or fixed in Avro, which has no type in SQL";
            return Err(Misfit::Other(what.to_owned()));
        }
        Type::Array(items) => {
            let (mut all, wanted) = (Vec::new(), wanted.item());
            input.blocks::<Misfit>(|input| {
                all.push(json(input, items, wanted)?);
                Ok(())
            })?;
            Json::Array(all)
        }
        Type::Map(values) => {
            let (mut entries, wanted) = (Vec::new(), wanted.item());
            input.blocks::<Misfit>(|input| {
                let key = input.string()?.to_owned();
                entries.push((key, json(input, values, wanted)?));
                Ok(())
            })?;
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries)
        }
        Type::Union(branches) => {
            let branch = branch(input, branches)?;
            json(input, branch, wanted)?
        }
        Type::Record(fields) => {
            let mut read = Vec::new();
            for (name, of) in fields {
                match wanted.field(name) {
                    Some(wanted) => read.push((name.clone(), json(input, of, wanted)?)),
                    None => skip(input, of)?,
                }
            }
            Json::Object(read)
        }
    })
}

/// Passes a value over that nobody declared.
fn skip(input: &mut Reader<'_>, of: &Type) -> Result<(), Misfit> {
    match of {
        Type::Null => {}
        Type::Boolean => {
            input.boolean()?;
        }
        Type::Int
        | Type::Long
        | Type::Enum(_)
        | Type::Date
        | Type::Time(_)
        | Type::Timestamp(_)
        | Type::LocalTimestamp(_) => {
            input.long()?;
        }
        Type::Float => {
            input.float()?;
        }
        Type::Double => {
            input.fixed8()?;
        }
        Type::Text | Type::JsonText | Type::Bytes | Type::Uuid(false) | Type::Decimal(_, None) => {
            input.bytes()?;
        }
        Type::Uuid(true) => {
            input.fixed16()?;
        }
        Type::Fixed(size) | Type::Decimal(_, Some(size)) => {
            input.fixed(*size)?;
        }
        Type::Array(items) => input.blocks(|input| skip(input, items))?,
        Type::Map(values) => input.blocks::<Misfit>(|input| {
            input.bytes()?;
            skip(input, values)
        })?,
        Type::Union(branches) => {
            let branch = branch(input, branches)?;
            skip(input, branch)?;
        }
        Type::Record(fields) => {
            for (_, of) in fields {
                skip(input, of)?;
            }
        }
    }
    Ok(())
}

/// Moments and times of day are milliseconds.
fn millis(unit: Unit, count: i64) -> i64 {
    match unit {
        Unit::Millis => count,
        Unit::Micros => count.div_euclid(1_000),
        Unit::Nanos => count.div_euclid(1_000_000),
    }
}

fn branch<'t>(input: &mut Reader<'_>, branches: &'t [Type]) -> Result<&'t Type, AvroError> {
    Ok(&branches[input.place(branches.len(), "unknown branch of a union")?])
}

/// Units in big-endian two's complement, up to 128 bits.
fn decimal(input: &mut Reader<'_>, scale: u8, size: Option<usize>) -> Result<Json, Misfit> {
    let error = input.error("decimal that is not 1 to 16 bytes");
    let bytes = match size {
        Some(size) => input.fixed(size)?,
        None => input.bytes()?,
    };
    let kind = SqlType::Decimal { precision: 38, scale };
    let units = Value::Decimal(units(bytes).ok_or(error)?);
    Ok(Json::Number(value::to_text(&units, &kind)))
}

#[cfg(test)]
mod tests;
