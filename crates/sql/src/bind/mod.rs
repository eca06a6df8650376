//! Names and types: expressions as written into [`Expr`]s.

mod call;
mod canonical;
mod list;
mod operator;
mod scope;

pub(crate) use canonical::canonical;
pub(crate) use scope::{RowScope, Scope, ScopeSource};

use crate::ast::{Ast, AstKind, Name};
use crate::cast;
use crate::decimal;
use crate::expr::{Expr, Node};
use crate::fault::Fault;
use crate::text::Span;
use crate::types::SqlType;
use crate::value::Value;

pub(crate) type Bound<T> = Result<T, Box<Fault>>;

/// Binds an expression.
///
/// # Errors
/// An unknown name, or types that do not fit.
pub(crate) fn bind(ast: &Ast, scope: &dyn Scope) -> Bound<Expr> {
    if let Some(whole) = scope.substitute(ast) {
        return whole;
    }
    match &ast.kind {
        AstKind::Null => Ok(literal(Value::Null, SqlType::Null)),
        AstKind::Boolean(value) => Ok(literal(Value::Boolean(*value), SqlType::Boolean)),
        AstKind::Integer(value) => {
            let narrow = i32::try_from(*value).is_ok();
            Ok(literal(Value::Long(*value), if narrow { SqlType::Int } else { SqlType::Bigint }))
        }
        AstKind::Decimal(text) => decimal_literal(text, ast.span),
        AstKind::Double(value) => Ok(literal(Value::Double(*value), SqlType::Double)),
        AstKind::Text(text) => Ok(literal(Value::text(text.clone()), SqlType::String)),
        AstKind::Column { qualifier, name } => scope.column(qualifier.as_ref(), name),
        AstKind::Call { name, args, star } => call::bind(ast, name, args, *star, scope),
        AstKind::Cast { value, target } => {
            let bound = bind(value, scope)?;
            explicit_cast(bound, target, ast.span)
        }
        AstKind::Case { operand, whens, otherwise } => {
            case(operand.as_deref(), whens, otherwise.as_deref(), scope)
        }
        AstKind::Index { base, index } => index_of(base, index, scope),
        AstKind::Field { base, name } => {
            let bound = bind(base, scope)?;
            let SqlType::Struct(fields) = &bound.kind else {
                let message = format!("-> reads a STRUCT, not {}", bound.kind);
                return Err(Box::new(Fault::new(base.span, message)));
            };
            let Some(at) = fields.iter().position(|(field, _)| *field == name.text) else {
                let fault = Fault::new(name.span, format!("the STRUCT has no field {}", name.text));
                return Err(Box::new(
                    fault.nearest(&name.text, fields.iter().map(|f| f.0.as_str())),
                ));
            };
            let kind = fields[at].1.clone();
            Ok(computed("->", kind, vec![bound], move |a| match std::mem::take(&mut a[0]) {
                Value::Struct(mut values) => Ok(std::mem::take(&mut values[at])),
                _ => Ok(Value::Null),
            }))
        }
        AstKind::Array(items) => array(items, ast.span, scope),
        AstKind::Map(entries) => map(entries, ast.span, scope),
        AstKind::Struct(fields) => structure(fields, scope),
        _ => operator::bind(ast, scope),
    }
}

/// Binds a condition: its type is BOOLEAN.
pub(crate) fn bind_condition(ast: &Ast, what: &str, scope: &dyn Scope) -> Bound<Expr> {
    let bound = bind(ast, scope)?;
    match bound.kind {
        SqlType::Boolean | SqlType::Null => Ok(bound),
        ref other => {
            let message = format!("{what} is a condition, not {other}");
            Err(Box::new(Fault::new(ast.span, message).help("compare it with something")))
        }
    }
}

pub(crate) fn literal(value: Value<'static>, kind: SqlType) -> Expr {
    Expr { node: Node::Literal(value), kind }
}

fn decimal_literal(text: &str, span: Span) -> Bound<Expr> {
    let Some((units, scale)) = decimal::parse(text) else {
        let message = format!("{text} has more than 38 digits");
        return Err(Box::new(Fault::new(span, message)));
    };
    let digits = units.unsigned_abs().to_string().len() as u8;
    let kind = SqlType::Decimal { precision: digits.max(scale).max(1), scale };
    Ok(literal(Value::Decimal(units), kind))
}

/// A call that is NULL as soon as one argument is.
fn computed<F>(name: &'static str, kind: SqlType, args: Vec<Expr>, call: F) -> Expr
where
    F: for<'a> Fn(&mut [Value<'a>]) -> crate::expr::Evaluated<'a> + Send + Sync + 'static,
{
    Expr { node: Node::Call { name, args, call: Box::new(call), strict: true }, kind }
}

/// Converts silently, where ksqlDB does. A literal is converted now.
pub(crate) fn coerce(expr: Expr, target: &SqlType, span: Span) -> Bound<Expr> {
    if expr.kind == *target {
        return Ok(expr);
    }
    if !expr.kind.coerces_to(target) && !is_text_of_time(&expr, target) {
        let message = format!("expected {target}, found {}", expr.kind);
        return Err(Box::new(Fault::new(span, message).help(format!("CAST(… AS {target})"))));
    }
    explicit_cast(expr, target, span)
}

/// A literal text where a date or time is wanted.
fn is_text_of_time(expr: &Expr, target: &SqlType) -> bool {
    let timely = matches!(target, SqlType::Timestamp | SqlType::Date | SqlType::Time);
    timely && expr.kind == SqlType::String && expr.as_literal().is_some()
}

fn explicit_cast(expr: Expr, target: &SqlType, span: Span) -> Bound<Expr> {
    if expr.kind == *target {
        return Ok(expr);
    }
    let Some(call) = cast::compile(&expr.kind, target) else {
        let message = format!("{} cannot be cast to {target}", expr.kind);
        return Err(Box::new(Fault::new(span, message)));
    };
    if let Node::Literal(value) = &expr.node {
        let converted = cast::convert(value.clone(), &expr.kind, target);
        let converted = converted.map_err(|e| Fault::new(span, e.0))?;
        return Ok(literal(converted, target.clone()));
    }
    let node = Node::Call { name: "CAST", args: vec![expr], call, strict: true };
    Ok(Expr { node, kind: target.clone() })
}

/// Brings values to their common type.
fn unify(values: Vec<Expr>, span: Span) -> Bound<(SqlType, Vec<Expr>)> {
    let mut kind = SqlType::Null;
    for value in &values {
        let timely = |time: &SqlType, text: &Expr| is_text_of_time(text, time);
        kind = match kind.common(&value.kind) {
            Some(common) => common,
            None if timely(&kind, value) => kind,
            None => {
                let message = format!("{kind} and {} have no common type", value.kind);
                let help = "convert one with CAST(… AS …)";
                return Err(Box::new(Fault::new(span, message).help(help)));
            }
        };
    }
    let values = values.into_iter().map(|value| coerce(value, &kind, span));
    let values = values.collect::<Bound<Vec<_>>>()?;
    Ok((kind, values))
}

fn case(
    operand: Option<&Ast>,
    whens: &[(Ast, Ast)],
    otherwise: Option<&Ast>,
    scope: &dyn Scope,
) -> Bound<Expr> {
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    let mut span = whens[0].1.span;
    for (condition, value) in whens {
        conditions.push(match operand {
            Some(operand) => operator::equal(operand, condition, scope)?,
            None => bind_condition(condition, "WHEN", scope)?,
        });
        values.push(bind(value, scope)?);
        span = span.to(value.span);
    }
    if let Some(otherwise) = otherwise {
        values.push(bind(otherwise, scope)?);
        span = span.to(otherwise.span);
    }
    let (kind, mut values) = unify(values, span)?;
    let otherwise = if otherwise.is_some() { values.pop().map(Box::new) } else { None };
    let whens = conditions.into_iter().zip(values).collect();
    Ok(Expr { node: Node::Case { whens, otherwise }, kind })
}

/// `array[1]` counts from 1, or from the end when negative; `map['key']`.
fn index_of(base: &Ast, index: &Ast, scope: &dyn Scope) -> Bound<Expr> {
    let bound = bind(base, scope)?;
    match bound.kind.clone() {
        SqlType::Array(item) => {
            let at = bind(index, scope)?;
            let wide = SqlType::Bigint;
            let at = coerce(at, &wide, index.span)?;
            Ok(computed("[]", *item, vec![bound, at], |a| {
                let at = a[1].as_long().unwrap_or(0);
                let Value::Array(mut items) = std::mem::take(&mut a[0]) else {
                    return Ok(Value::Null);
                };
                let place = if at < 0 { items.len() as i64 + at } else { at - 1 };
                let item = usize::try_from(place).ok().and_then(|place| items.get_mut(place));
                Ok(item.map(std::mem::take).unwrap_or_default())
            }))
        }
        SqlType::Map(item) => {
            let key = coerce(bind(index, scope)?, &SqlType::String, index.span)?;
            if let (Node::Column(column), Some(Value::Text(key))) = (&bound.node, key.as_literal())
            {
                let node = Node::MapEntry { column: *column, key: key.clone().into_owned() };
                return Ok(Expr { node, kind: *item });
            }
            Ok(computed("[]", *item, vec![bound, key], |a| {
                let Value::Map(entries) = std::mem::take(&mut a[0]) else { return Ok(Value::Null) };
                let key = a[1].as_text().unwrap_or_default();
                let found = entries.into_iter().find(|(name, _)| name == key);
                Ok(found.map(|(_, value)| value).unwrap_or_default())
            }))
        }
        other => {
            let message = format!("[ ] reads an ARRAY or a MAP, not {other}");
            Err(Box::new(Fault::new(base.span, message)))
        }
    }
}

fn array(items: &[Ast], span: Span, scope: &dyn Scope) -> Bound<Expr> {
    let bound = items.iter().map(|item| Ok((bind(item, scope)?, item.span)));
    let (kind, items) = list::unify(bound.collect::<Bound<_>>()?)?;
    if kind == SqlType::Null {
        let message = "an ARRAY without a typed item has no type";
        let fault = Fault::new(span, message).help("as in ARRAY[CAST(NULL AS INT)]");
        return Err(Box::new(fault));
    }
    Ok(Expr { node: Node::Array(items), kind: SqlType::Array(Box::new(kind)) })
}

fn map(entries: &[(Ast, Ast)], span: Span, scope: &dyn Scope) -> Bound<Expr> {
    let mut keys = Vec::new();
    let mut values = Vec::new();
    for (key, value) in entries {
        keys.push((bind(key, scope)?, key.span));
        values.push((bind(value, scope)?, value.span));
    }
    let (key_kind, keys) = list::unify(keys)?;
    if !matches!((&key_kind, keys.is_empty()), (SqlType::String, _) | (_, true)) {
        let message = match key_kind {
            SqlType::Null => "a MAP needs a key that is not NULL".to_owned(),
            other => format!("the keys of a MAP are STRING, not {other}"),
        };
        return Err(Box::new(Fault::new(span, message).help("MAP('key' := value, …)")));
    }
    let (kind, values) = list::unify(values)?;
    if kind == SqlType::Null {
        let message = "a MAP without a typed value has no type";
        let fault = Fault::new(span, message).help("as in MAP('a' := CAST(NULL AS INT))");
        return Err(Box::new(fault));
    }
    let node = Node::Map(keys.into_iter().zip(values).collect());
    Ok(Expr { node, kind: SqlType::Map(Box::new(kind)) })
}

fn structure(fields: &[(Ast, Name)], scope: &dyn Scope) -> Bound<Expr> {
    let mut kinds: Vec<(String, SqlType)> = Vec::new();
    let mut values = Vec::new();
    for (value, name) in fields {
        if kinds.iter().any(|(known, _)| *known == name.text) {
            let message = format!("two fields of the STRUCT are named {}", name.text);
            return Err(Box::new(Fault::new(name.span, message)));
        }
        let value = bind(value, scope)?;
        kinds.push((name.text.clone(), value.kind.clone()));
        values.push(value);
    }
    Ok(Expr { node: Node::Struct(values), kind: SqlType::Struct(kinds) })
}
