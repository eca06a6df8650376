//! Calls of scalar functions.

use super::scope::Scope;
use super::{Bound, bind as bind_any, coerce, unify};
use crate::aggregate;
use crate::ast::{Ast, AstKind, Name};
use crate::expr::{Expr, Node};
use crate::fault::Fault;
use crate::functions::{self, Argument, Mismatch};
use crate::parser::UNSUPPORTED_FUNCTIONS;
use crate::types::SqlType;

/// Functions whose first argument is a unit of time, which stands there like a column.
const WITH_UNIT: [&str; 6] =
    ["TIMESTAMPADD", "TIMESTAMPSUB", "DATEADD", "DATESUB", "TIMEADD", "TIMESUB"];

pub(super) fn bind(
    ast: &Ast,
    name: &Name,
    args: &[Ast],
    star: bool,
    scope: &dyn Scope,
) -> Bound<Expr> {
    if aggregate::find(&name.text).is_some() {
        let message = format!("{} is an aggregate; it has no value for one record", name.text);
        let help = "aggregates stand in SELECT and HAVING of a query with GROUP BY";
        return Err(Box::new(Fault::new(ast.span, message).help(help)));
    }
    if matches!(name.text.as_str(), "COALESCE" | "IFNULL") {
        return coalesce(ast, name, args, scope);
    }
    let Some(function) = functions::find(&name.text) else {
        return Err(unknown(name));
    };
    if args.is_empty() && matches!(function.name, "UNIX_TIMESTAMP" | "UNIX_DATE") {
        let message = format!("ksqlDB's {}() of the present moment is not supported", name.text);
        let help = "use ROWTIME: a query gives the same answer whenever it runs";
        return Err(Box::new(Fault::new(ast.span, message).help(help)));
    }
    if star {
        let message = format!("{}(*) has no meaning", name.text);
        return Err(Box::new(Fault::new(ast.span, message).help(function.usage)));
    }
    let mut bound = Vec::with_capacity(args.len());
    for (at, arg) in args.iter().enumerate() {
        let unit = (at == 0 && WITH_UNIT.contains(&function.name)).then(|| unit_of(arg)).flatten();
        bound.push(match unit {
            Some(word) => super::literal(crate::value::Value::text(word), SqlType::String),
            None => bind_any(arg, scope)?,
        });
    }
    if matches!(function.name, "GREATEST" | "LEAST" | "NULLIF") {
        bound = texts_as_times(bound, args)?;
    }
    let known: Vec<Argument> = bound
        .iter()
        .map(|expr| Argument { kind: expr.kind.clone(), constant: expr.as_literal().cloned() })
        .collect();
    let resolved = (function.resolve)(&known).map_err(|mismatch| match mismatch {
        Mismatch::Types => {
            let kinds: Vec<String> = known.iter().map(|arg| arg.kind.to_string()).collect();
            let message = format!("{} does not take ({})", name.text, kinds.join(", "));
            Fault::new(ast.span, message).help(function.usage)
        }
        Mismatch::Constant(at, why) => {
            Fault::new(args.get(at).map_or(ast.span, |arg| arg.span), why).help(function.usage)
        }
    })?;
    let mut converted = Vec::with_capacity(bound.len());
    for ((expr, kind), arg) in bound.into_iter().zip(&resolved.args).zip(args) {
        converted.push(coerce(expr, kind, arg.span)?);
    }
    let (name, call, strict) = (function.name, resolved.call, resolved.strict);
    Ok(Expr { node: Node::Call { name, args: converted, call, strict }, kind: resolved.kind })
}

/// Literal texts beside dates or times are dates or times.
fn texts_as_times(bound: Vec<Expr>, args: &[Ast]) -> Bound<Vec<Expr>> {
    let is_time =
        |kind: &SqlType| matches!(kind, SqlType::Timestamp | SqlType::Date | SqlType::Time);
    let Some(kind) = bound.iter().map(|expr| expr.kind.clone()).find(is_time) else {
        return Ok(bound);
    };
    let convert = |(expr, arg): (Expr, &Ast)| {
        let is_text = expr.kind == SqlType::String && expr.as_literal().is_some();
        if is_text { coerce(expr, &kind, arg.span) } else { Ok(expr) }
    };
    bound.into_iter().zip(args).map(convert).collect()
}

fn unit_of(ast: &Ast) -> Option<String> {
    match &ast.kind {
        AstKind::Column { qualifier: None, name } => Some(name.text.clone()),
        _ => None,
    }
}

/// The first argument that is not NULL; those after it are not evaluated.
fn coalesce(ast: &Ast, name: &Name, args: &[Ast], scope: &dyn Scope) -> Bound<Expr> {
    let fits = if name.text == "IFNULL" { args.len() == 2 } else { !args.is_empty() };
    if !fits {
        let help =
            if name.text == "IFNULL" { "IFNULL(value, value)" } else { "COALESCE(value, …)" };
        let message = format!("{} does not take {} arguments", name.text, args.len());
        return Err(Box::new(Fault::new(ast.span, message).help(help)));
    }
    let values = args.iter().map(|arg| bind_any(arg, scope)).collect::<Bound<Vec<_>>>()?;
    let (kind, values) = unify(values, ast.span)?;
    Ok(Expr { node: Node::Coalesce(values), kind })
}

pub(crate) fn unknown(name: &Name) -> Box<Fault> {
    if UNSUPPORTED_FUNCTIONS.contains(&name.text.as_str()) {
        let message = format!("ksqlDB's {} is not supported", name.text);
        let help = "docs/sql.md lists the functions that are";
        return Box::new(Fault::new(name.span, message).help(help));
    }
    let known =
        functions::all().map(|f| f.name).chain(aggregate::names()).chain(["COALESCE", "IFNULL"]);
    Box::new(
        Fault::new(name.span, format!("unknown function {}", name.text)).nearest(&name.text, known),
    )
}
