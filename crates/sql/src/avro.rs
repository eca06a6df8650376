//! Avro values of topics that others write: Confluent's framing, and schemas by their ids.
//!
//! Rows of the pipeline's own queries do not come this way: their schemas are known
//! ([`caudal_core::row`]).

mod schema;

use crate::catalog::{Source, SourceColumn};
use crate::json::Json;
use crate::types::SqlType;
use crate::value::{self, Value};
use caudal_core::avro::{AvroError, Reader, unframe};
use schema::{Kind, Type};
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
        let at = body.len() - input.rest().len();
        read.map_err(|error| error.at(at))
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
    fn at(self, at: usize) -> String {
        match self {
            Misfit::Bytes(error) => {
                format!("its value cannot be read: {} at byte {at}", error.what)
            }
            Misfit::Other(what) => format!("its value cannot be read: {what}"),
        }
    }
}

impl From<AvroError> for Misfit {
    fn from(error: AvroError) -> Self {
        Misfit::Bytes(error)
    }
}

fn json(input: &mut Reader<'_>, kind: &Type, wanted: Wanted<'_>) -> Result<Json, Misfit> {
    let number = |n: i64| Json::Number(n.to_string());
    let is_record = matches!(&*kind.kind, Kind::Null | Kind::Union(_) | Kind::Record(_));
    if matches!(wanted, Wanted::Columns(_)) && !is_record {
        return Err(Misfit::Other("its schema is no record".to_owned()));
    }
    Ok(match &*kind.kind {
        Kind::Null => Json::Null,
        Kind::Boolean => Json::Boolean(input.boolean()?),
        Kind::Int => number(int(input)?),
        Kind::Long(divisor) => number(input.long()?.div_euclid(*divisor)),
        Kind::Float => Json::Number(value::double_text(f64::from(float(input)?))),
        Kind::Double => Json::Number(value::double_text(f64::from_le_bytes(input.fixed8()?))),
        Kind::Text => Json::Text(input.string()?.to_owned()),
        Kind::Enum(symbols) => {
            let place = usize::try_from(input.long()?).ok();
            let symbol = place.and_then(|place| symbols.get(place));
            Json::Text(symbol.ok_or(input.error("unknown symbol of an enum"))?.clone())
        }
        Kind::Decimal { scale, size } => decimal(input, *scale, *size)?,
        Kind::Uuid { size } => uuid(sized(input, *size)?)?,
        Kind::Opaque { name, .. } => {
            let what = format!("a declared column is {name} in Avro, which has no type in SQL");
            return Err(Misfit::Other(what));
        }
        Kind::Array(items) => {
            let (mut all, wanted) = (Vec::new(), wanted.item());
            each(input, |input| {
                all.push(json(input, items, wanted)?);
                Ok(())
            })?;
            Json::Array(all)
        }
        Kind::Map(values) => {
            let (mut entries, wanted) = (Vec::new(), wanted.item());
            each(input, |input| {
                let key = input.string()?.to_owned();
                entries.push((key, json(input, values, wanted)?));
                Ok(())
            })?;
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries)
        }
        Kind::Union(branches) => {
            let branch = branch(input, branches)?;
            json(input, branch, wanted)?
        }
        Kind::Record(fields) => {
            let mut read = Vec::new();
            for (name, kind) in fields {
                match wanted.field(name) {
                    Some(wanted) => read.push((name.clone(), json(input, kind, wanted)?)),
                    None => skip(input, kind)?,
                }
            }
            Json::Object(read)
        }
    })
}

/// Passes a value over that nobody declared.
fn skip(input: &mut Reader<'_>, kind: &Type) -> Result<(), Misfit> {
    match &*kind.kind {
        Kind::Null => {}
        Kind::Boolean => {
            input.boolean()?;
        }
        Kind::Int | Kind::Long(_) | Kind::Enum(_) => {
            input.long()?;
        }
        Kind::Float => {
            float(input)?;
        }
        Kind::Double => {
            input.fixed8()?;
        }
        Kind::Text => {
            input.bytes()?;
        }
        Kind::Decimal { size, .. } | Kind::Uuid { size } | Kind::Opaque { size, .. } => {
            sized(input, *size)?;
        }
        Kind::Array(items) => each(input, |input| skip(input, items))?,
        Kind::Map(values) => each(input, |input| {
            input.bytes()?;
            skip(input, values)
        })?,
        Kind::Union(branches) => {
            let branch = branch(input, branches)?;
            skip(input, branch)?;
        }
        Kind::Record(fields) => {
            for (_, kind) in fields {
                skip(input, kind)?;
            }
        }
    }
    Ok(())
}

fn int(input: &mut Reader<'_>) -> Result<i64, Misfit> {
    let n = input.long()?;
    i32::try_from(n).map_err(|_| input.error("int beyond 32 bits"))?;
    Ok(n)
}

fn float(input: &mut Reader<'_>) -> Result<f32, Misfit> {
    let error = input.error("truncated 4 bytes");
    Ok(f32::from_le_bytes(sized(input, Some(4))?.try_into().map_err(|_| error)?))
}

/// So many bytes; `None`: as many as the length before them says.
fn sized<'a>(input: &mut Reader<'a>, size: Option<usize>) -> Result<&'a [u8], Misfit> {
    let Some(size) = size else { return Ok(input.bytes()?) };
    let rest = input.rest();
    let (taken, rest) = rest.split_at_checked(size).ok_or(input.error("truncated bytes"))?;
    *input = Reader::new(rest);
    Ok(taken)
}

fn branch<'t>(input: &mut Reader<'_>, branches: &'t [Type]) -> Result<&'t Type, Misfit> {
    let branch = usize::try_from(input.long()?).ok().and_then(|at| branches.get(at));
    Ok(branch.ok_or(input.error("unknown branch of a union"))?)
}

/// Items of an array or map: [`Reader::blocks`] with our error.
fn each<'a>(
    input: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    let mut misfit = None;
    let read = input.blocks(|input| {
        item(input).map_err(|error| {
            misfit = Some(error);
            input.error("item")
        })
    });
    match misfit {
        Some(error) => Err(error),
        None => Ok(read?),
    }
}

/// Units in big-endian two's complement, up to 128 bits.
fn decimal(input: &mut Reader<'_>, scale: u8, size: Option<usize>) -> Result<Json, Misfit> {
    let bytes = sized(input, size)?;
    let misfit = input.error("decimal that is not 1 to 16 bytes");
    let negative = bytes.first().ok_or(misfit)? & 0x80 != 0;
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    let from = wide.len().checked_sub(bytes.len()).ok_or(misfit)?;
    wide[from..].copy_from_slice(bytes);
    let kind = SqlType::Decimal { precision: 38, scale };
    let units = Value::Decimal(i128::from_be_bytes(wide));
    Ok(Json::Number(value::to_text(&units, &kind)))
}

/// Sixteen bytes, or their text.
fn uuid(bytes: &[u8]) -> Result<Json, Misfit> {
    let misfit = || Misfit::Other("a uuid is neither 16 bytes nor a text".to_owned());
    let Ok(bytes) = <[u8; 16]>::try_from(bytes) else {
        let text = std::str::from_utf8(bytes).map_err(|_| misfit())?;
        return Ok(Json::Text(text.to_owned()));
    };
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Ok(Json::Text(format!("{a}-{b}-{c}-{d}-{e}")))
}

#[cfg(test)]
mod tests;
