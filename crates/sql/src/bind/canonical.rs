//! One text per meaning, so that `GROUP BY a + 1` finds `x.A+1` in SELECT.

use super::RowScope;
use crate::ast::{Ast, AstKind};
use std::fmt::Write as _;

/// The text of an expression, its columns by number. `None` where one is unknown.
pub(crate) fn canonical(ast: &Ast, scope: &RowScope) -> Option<String> {
    let mut out = String::new();
    write(ast, scope, &mut out)?;
    Some(out)
}

fn write(ast: &Ast, scope: &RowScope, out: &mut String) -> Option<()> {
    let all = |out: &mut String, name: &str, parts: &[&Ast]| {
        out.push_str(name);
        out.push('(');
        for part in parts {
            write(part, scope, out)?;
            out.push(',');
        }
        out.push(')');
        Some(())
    };
    match &ast.kind {
        AstKind::Null => out.push_str("null"),
        AstKind::Boolean(value) => write!(out, "{value}").ok()?,
        AstKind::Integer(value) => write!(out, "{value}").ok()?,
        AstKind::Decimal(text) => out.push_str(text),
        AstKind::Double(value) => write!(out, "{value:e}").ok()?,
        AstKind::Text(text) => write!(out, "{text:?}").ok()?,
        AstKind::Column { qualifier, name } => {
            // A unit of time stands where a column could.
            match scope.find(qualifier.as_ref(), name) {
                Ok((index, _)) => write!(out, "#{index}").ok()?,
                Err(_) => write!(out, "{}", name.text).ok()?,
            }
        }
        AstKind::Call { name, args, star } => {
            let name = format!("{}{}", name.text, if *star { "*" } else { "" });
            return all(out, &name, &args.iter().collect::<Vec<_>>());
        }
        AstKind::Binary { operator, left, right } => {
            return all(out, operator.symbol(), &[left, right]);
        }
        AstKind::Not(value) => return all(out, "not", &[value]),
        AstKind::Negate(value) => return all(out, "negate", &[value]),
        AstKind::IsNull { value, negated } => {
            return all(out, if *negated { "notnull" } else { "isnull" }, &[value]);
        }
        AstKind::Between { value, low, high, negated } => {
            return all(out, if *negated { "outside" } else { "between" }, &[value, low, high]);
        }
        AstKind::In { value, list, negated } => {
            let mut parts: Vec<&Ast> = vec![value];
            parts.extend(list);
            return all(out, if *negated { "notin" } else { "in" }, &parts);
        }
        AstKind::Like { value, pattern, escape, negated } => {
            let name = format!("like{negated}{escape:?}");
            return all(out, &name, &[value, pattern]);
        }
        AstKind::Case { operand, whens, otherwise } => {
            let mut parts: Vec<&Ast> = operand.as_deref().into_iter().collect();
            parts.extend(whens.iter().flat_map(|(condition, value)| [condition, value]));
            parts.extend(otherwise.as_deref());
            let shape = (operand.is_some(), otherwise.is_some());
            return all(out, &format!("case{shape:?}"), &parts);
        }
        AstKind::Cast { value, target } => return all(out, &format!("as {target}"), &[value]),
        AstKind::Index { base, index } => return all(out, "at", &[base, index]),
        AstKind::Field { base, name } => return all(out, &format!("->{}", name.text), &[base]),
        AstKind::Array(items) => return all(out, "array", &items.iter().collect::<Vec<_>>()),
        AstKind::Map(entries) => {
            let parts: Vec<&Ast> = entries.iter().flat_map(|(k, v)| [k, v]).collect();
            return all(out, "map", &parts);
        }
        AstKind::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|(_, name)| name.text.as_str()).collect();
            let parts: Vec<&Ast> = fields.iter().map(|(value, _)| value).collect();
            return all(out, &format!("struct{names:?}"), &parts);
        }
    }
    Some(())
}
