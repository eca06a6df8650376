//! Lists that somebody wrote: the items of ARRAY and MAP, and what IN looks among. As in ksqlDB
//! the first item that is not NULL says what the others become, and literals give way further than
//! other expressions: a text that names a number is one among numbers, any literal is a text among
//! texts, and a STRUCT gains the fields that others have.

use super::{Bound, explicit_cast, is_text_of_time, literal};
use crate::cast;
use crate::decimal;
use crate::expr::{Expr, Node};
use crate::fault::Fault;
use crate::text::Span;
use crate::types::SqlType;
use crate::value::{Value, to_text};

/// Brings the items of a list, and where each stands, to their common type.
///
/// # Errors
/// The first item that has no type in common with those before it.
pub(super) fn unify(items: Vec<(Expr, Span)>) -> Bound<(SqlType, Vec<Expr>)> {
    let mut kind = SqlType::Null;
    for (item, span) in &items {
        kind = common(item, &kind).map_err(|misfit| misfit.fault(item, &kind, *span))?;
    }
    let items = items.into_iter().map(|(item, span)| convert(item, &kind, span));
    let items = items.collect::<Bound<Vec<_>>>()?;
    Ok((kind, items))
}

/// Why an item does not join the others.
enum Misfit {
    Types,
    /// A text that is none of the type.
    Text(String, SqlType),
}

impl Misfit {
    fn fault(self, item: &Expr, kind: &SqlType, span: Span) -> Box<Fault> {
        Box::new(match self {
            Misfit::Types => {
                let message = format!("{kind} and {} have no common type", item.kind);
                Fault::new(span, message).help("convert one with CAST(… AS …)")
            }
            Misfit::Text(text, kind) => Fault::new(span, format!("'{text}' is no {kind}")),
        })
    }
}

/// The type that holds the item and what came before it.
fn common(item: &Expr, before: &SqlType) -> Result<SqlType, Misfit> {
    match (&item.node, &item.kind, before) {
        (_, kind, SqlType::Null) => Ok(kind.clone()),
        (Node::Array(items), SqlType::Array(_), SqlType::Array(kind)) => {
            let all = items.iter().try_fold((**kind).clone(), |kind, item| common(item, &kind));
            Ok(SqlType::Array(Box::new(all?)))
        }
        (Node::Map(entries), SqlType::Map(_), SqlType::Map(kind)) => {
            let mut values = entries.iter().map(|(_, value)| value);
            let all = values.try_fold((**kind).clone(), |kind, value| common(value, &kind));
            Ok(SqlType::Map(Box::new(all?)))
        }
        (Node::Struct(values), SqlType::Struct(fields), SqlType::Struct(known)) => {
            let mut all = known.clone();
            for ((name, kind), value) in fields.iter().zip(values) {
                match all.iter_mut().find(|(known, _)| known == name) {
                    Some((_, known)) => *known = common(value, known)?,
                    None => all.push((name.clone(), kind.clone())),
                }
            }
            Ok(SqlType::Struct(all))
        }
        (Node::Literal(Value::Null), kind, _) => {
            Ok(before.common(kind).unwrap_or_else(|| before.clone()))
        }
        (Node::Literal(Value::Text(text)), SqlType::String, _) => of_text(text, item, before),
        (Node::Literal(_), kind, SqlType::String) if *kind != SqlType::Null => Ok(SqlType::String),
        (_, kind, _) => before.common(kind).or_else(|| widened(before, kind)).ok_or(Misfit::Types),
    }
}

/// A literal text beside values of another type.
fn of_text(text: &str, item: &Expr, before: &SqlType) -> Result<SqlType, Misfit> {
    let wrong = || Misfit::Text(text.to_owned(), before.clone());
    match before {
        SqlType::Boolean => cast::boolean(text).map(|_| SqlType::Boolean).ok_or_else(wrong),
        SqlType::Double => text.trim().parse::<f64>().map(|_| SqlType::Double).map_err(|_| wrong()),
        kind if kind.is_numeric() => {
            let number = number_kind(text).ok_or_else(wrong)?;
            kind.common(&number).ok_or(Misfit::Types)
        }
        kind if is_text_of_time(item, kind) => Ok(kind.clone()),
        kind => kind.common(&SqlType::String).ok_or(Misfit::Types),
    }
}

/// The type of the literal that a text would be without its quotes, but for DOUBLE.
fn number_kind(text: &str) -> Option<SqlType> {
    let (units, scale) = decimal::parse(text)?;
    if scale == 0 && !text.contains(['.', 'e', 'E']) {
        if i32::try_from(units).is_ok() {
            return Some(SqlType::Int);
        }
        if i64::try_from(units).is_ok() {
            return Some(SqlType::Bigint);
        }
    }
    let digits = units.unsigned_abs().to_string().len() as u8;
    Some(SqlType::Decimal { precision: digits.max(scale).max(1), scale })
}

/// Two STRUCTs, or nests of them: the fields of both.
fn widened(one: &SqlType, other: &SqlType) -> Option<SqlType> {
    match (one, other) {
        (SqlType::Array(one), SqlType::Array(other)) => {
            Some(SqlType::Array(Box::new(widened(one, other)?)))
        }
        (SqlType::Map(one), SqlType::Map(other)) => {
            Some(SqlType::Map(Box::new(widened(one, other)?)))
        }
        (SqlType::Struct(one), SqlType::Struct(other)) => {
            let mut all = one.clone();
            for (name, kind) in other {
                match all.iter_mut().find(|(known, _)| known == name) {
                    Some((_, known)) => {
                        *known = known.common(kind).or_else(|| widened(known, kind))?;
                    }
                    None => all.push((name.clone(), kind.clone())),
                }
            }
            Some(SqlType::Struct(all))
        }
        _ => None,
    }
}

/// An item as a value of the common type.
fn convert(item: Expr, kind: &SqlType, span: Span) -> Bound<Expr> {
    if item.kind == *kind {
        return Ok(item);
    }
    let own = item.kind.clone();
    match (item.node, &own, kind) {
        (Node::Array(items), _, SqlType::Array(inner)) => {
            let items = items.into_iter().map(|item| convert(item, inner, span));
            let node = Node::Array(items.collect::<Bound<_>>()?);
            Ok(Expr { node, kind: kind.clone() })
        }
        (Node::Map(entries), _, SqlType::Map(inner)) => {
            let entries =
                entries.into_iter().map(|(key, value)| Ok((key, convert(value, inner, span)?)));
            let node = Node::Map(entries.collect::<Bound<_>>()?);
            Ok(Expr { node, kind: kind.clone() })
        }
        (Node::Struct(values), SqlType::Struct(fields), SqlType::Struct(wanted)) => {
            let names = fields.iter().map(|(name, _)| name);
            let mut named: Vec<(&String, Expr)> = names.zip(values).collect();
            let values = wanted.iter().map(|(name, kind)| {
                match named.iter().position(|(known, _)| *known == name) {
                    Some(at) => convert(named.swap_remove(at).1, kind, span),
                    None => Ok(literal(Value::Null, kind.clone())),
                }
            });
            let node = Node::Struct(values.collect::<Bound<_>>()?);
            Ok(Expr { node, kind: kind.clone() })
        }
        (Node::Literal(Value::Null), ..) => Ok(literal(Value::Null, kind.clone())),
        (Node::Literal(value), _, SqlType::String) => {
            Ok(literal(Value::text(to_text(&value, &own)), SqlType::String))
        }
        (node, ..) => explicit_cast(Expr { node, kind: own }, kind, span),
    }
}
