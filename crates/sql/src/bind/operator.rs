//! Operators and predicates.

use super::scope::Scope;
use super::{Bound, bind_condition, coerce, computed, explicit_cast, list};
use crate::ast::{Ast, AstKind, Operator};
use crate::decimal;
use crate::expr::{Arithmetic, EvalError, Expr, Node};
use crate::fault::Fault;
use crate::functions;
use crate::text::Span;
use crate::types::SqlType;
use crate::value::Value;

fn condition(node: Node) -> Expr {
    Expr { node, kind: SqlType::Boolean }
}

fn not(value: Expr) -> Expr {
    condition(Node::Not(Box::new(value)))
}

fn negated_if(negated: bool, value: Expr) -> Expr {
    if negated { not(value) } else { value }
}

/// Binds whatever is not a value, a column, a call or an access.
pub(super) fn bind(ast: &Ast, scope: &dyn Scope) -> Bound<Expr> {
    match &ast.kind {
        AstKind::Binary { operator: operator @ (Operator::And | Operator::Or), left, right } => {
            let left = Box::new(bind_condition(left, operator.symbol(), scope)?);
            let right = Box::new(bind_condition(right, operator.symbol(), scope)?);
            Ok(condition(match operator {
                Operator::And => Node::And(left, right),
                _ => Node::Or(left, right),
            }))
        }
        AstKind::Binary { operator, left, right } => {
            let (one, other) = (bind_side(left, right, scope)?, bind_side(right, left, scope)?);
            if operator.is_arithmetic() {
                arithmetic(*operator, one, other, ast.span)
            } else {
                comparison(*operator, one, other, ast.span)
            }
        }
        AstKind::Not(value) => Ok(not(bind_condition(value, "NOT", scope)?)),
        AstKind::Negate(value) => negate(super::bind(value, scope)?, ast.span),
        AstKind::IsNull { value, negated } => {
            let value = Box::new(super::bind(value, scope)?);
            Ok(condition(Node::IsNull { value, negated: *negated }))
        }
        AstKind::Between { value, low, high, negated } => {
            let at_least = (Operator::GreaterOrEqual, low);
            let at_most = (Operator::LessOrEqual, high);
            let [low, high] = [at_least, at_most].map(|(operator, bound)| {
                let one = bind_side(value, bound, scope)?;
                comparison(operator, one, bind_side(bound, value, scope)?, ast.span)
            });
            Ok(negated_if(*negated, condition(Node::And(Box::new(low?), Box::new(high?)))))
        }
        AstKind::In { value, list, negated } => {
            let items = std::iter::once(&**value).chain(list);
            let bound = items.map(|item| Ok((super::bind(item, scope)?, item.span)));
            let (_, mut all) = list::unify(bound.collect::<Bound<_>>()?)?;
            let list = all.split_off(1);
            let value = Box::new(all.remove(0));
            Ok(negated_if(*negated, condition(Node::In { value, list })))
        }
        AstKind::Like { value, pattern, escape, negated } => {
            Ok(negated_if(*negated, like(value, pattern, *escape, scope)?))
        }
        _ => Err(Box::new(Fault::new(ast.span, "this expression is not supported"))),
    }
}

/// One side of a comparison: beside ROWTIME and the bounds of windows, which are milliseconds, a
/// text is the moment that it names.
fn bind_side(side: &Ast, other: &Ast, scope: &dyn Scope) -> Bound<Expr> {
    const MOMENTS: [&str; 3] = ["ROWTIME", "WINDOWSTART", "WINDOWEND"];
    if let (AstKind::Text(text), AstKind::Column { name, .. }) = (&side.kind, &other.kind)
        && MOMENTS.iter().any(|moment| moment.eq_ignore_ascii_case(&name.text))
    {
        let Some(micros) = crate::dates::parse_timestamp(text) else {
            let fault = Fault::new(side.span, format!("'{text}' is no moment"));
            return Err(Box::new(fault.help("as in '2026-01-31T12:00:00'")));
        };
        let millis = Value::Long(micros.div_euclid(1_000));
        return Ok(super::literal(millis, SqlType::Bigint));
    }
    super::bind(side, scope)
}

/// `operand = value` of a simple CASE.
pub(super) fn equal(operand: &Ast, value: &Ast, scope: &dyn Scope) -> Bound<Expr> {
    let (one, other) = (super::bind(operand, scope)?, super::bind(value, scope)?);
    comparison(Operator::Equal, one, other, value.span)
}

fn comparison(operator: Operator, left: Expr, right: Expr, span: Span) -> Bound<Expr> {
    let distinct = matches!(operator, Operator::DistinctFrom | Operator::NotDistinctFrom);
    if !distinct && [&left, &right].iter().any(|side| side.kind == SqlType::Null) {
        let message = "a comparison with NULL is never true";
        return Err(Box::new(Fault::new(span, message).help("IS NULL or IS NOT NULL")));
    }
    let ordered = !matches!(
        operator,
        Operator::Equal | Operator::NotEqual | Operator::DistinctFrom | Operator::NotDistinctFrom
    );
    let nested =
        |kind: &SqlType| matches!(kind, SqlType::Array(_) | SqlType::Map(_) | SqlType::Struct(_));
    let unordered = |kind: &SqlType| nested(kind) || *kind == SqlType::Boolean;
    if ordered && (unordered(&left.kind) || unordered(&right.kind)) {
        let message = format!("{} {} {} has no meaning", left.kind, operator.symbol(), right.kind);
        return Err(Box::new(Fault::new(span, message).help("only = and <> compare these types")));
    }
    let (left, right) = match (
        super::is_text_of_time(&left, &right.kind),
        super::is_text_of_time(&right, &left.kind),
    ) {
        (true, _) => {
            let kind = right.kind.clone();
            (coerce(left, &kind, span)?, right)
        }
        (_, true) => {
            let kind = left.kind.clone();
            (left, coerce(right, &kind, span)?)
        }
        _ => dates_as_timestamps(left, right, span)?,
    };
    let Some(kind) = left.kind.common(&right.kind) else {
        let message = format!("{} {} {} has no meaning", left.kind, operator.symbol(), right.kind);
        return Err(Box::new(Fault::new(span, message).help("convert one side with CAST(… AS …)")));
    };
    let left = Box::new(explicit_cast(left, &kind, span)?);
    let right = Box::new(explicit_cast(right, &kind, span)?);
    Ok(condition(Node::Compare { operator, left, right }))
}

/// A DATE is compared with a TIMESTAMP as the moment at which it begins.
fn dates_as_timestamps(left: Expr, right: Expr, span: Span) -> Bound<(Expr, Expr)> {
    match (&left.kind, &right.kind) {
        (SqlType::Date, SqlType::Timestamp) => {
            Ok((explicit_cast(left, &SqlType::Timestamp, span)?, right))
        }
        (SqlType::Timestamp, SqlType::Date) => {
            Ok((left, explicit_cast(right, &SqlType::Timestamp, span)?))
        }
        _ => Ok((left, right)),
    }
}

fn arithmetic(operator: Operator, left: Expr, right: Expr, span: Span) -> Bound<Expr> {
    if operator == Operator::Add && left.kind == SqlType::String && right.kind == SqlType::String {
        // ksqlDB's + joins texts, and gives NULL where one is.
        return Ok(computed("+", SqlType::String, vec![left, right], |a| {
            let joined = format!(
                "{}{}",
                a[0].as_text().unwrap_or_default(),
                a[1].as_text().unwrap_or_default()
            );
            Ok(Value::text(joined))
        }));
    }
    let number = |kind: &SqlType| kind.is_numeric();
    if !number(&left.kind) || !number(&right.kind) {
        let message = format!("{} {} {} has no meaning", left.kind, operator.symbol(), right.kind);
        let timely =
            |kind: &SqlType| matches!(kind, SqlType::Timestamp | SqlType::Date | SqlType::Time);
        let help = if timely(&left.kind) || timely(&right.kind) {
            "use TIMESTAMPADD, DATEADD or TIMEADD"
        } else {
            "arithmetic takes INT, BIGINT, DECIMAL and DOUBLE"
        };
        return Err(Box::new(Fault::new(span, message).help(help)));
    }
    let has = |kind: SqlType| left.kind == kind || right.kind == kind;
    let (how, operand, kind) = if has(SqlType::Double) {
        (Arithmetic::Double, SqlType::Double, SqlType::Double)
    } else if let (SqlType::Int, SqlType::Int) = (&left.kind, &right.kind) {
        (Arithmetic::Int, SqlType::Int, SqlType::Int)
    } else if !matches!(left.kind, SqlType::Decimal { .. })
        && !matches!(right.kind, SqlType::Decimal { .. })
    {
        (Arithmetic::Bigint, SqlType::Bigint, SqlType::Bigint)
    } else {
        return decimal_arithmetic(operator, left, right, span);
    };
    let left = Box::new(explicit_cast(left, &operand, span)?);
    let right = Box::new(explicit_cast(right, &operand, span)?);
    Ok(Expr { node: Node::Arithmetic { operator, how, left, right }, kind })
}

fn decimal_arithmetic(operator: Operator, left: Expr, right: Expr, span: Span) -> Bound<Expr> {
    let as_decimal = |expr: Expr| {
        let (precision, scale) = expr.kind.as_decimal().unwrap_or((19, 0));
        let kind = SqlType::Decimal { precision, scale };
        Ok::<_, Box<Fault>>((explicit_cast(expr, &kind, span)?, (precision, scale)))
    };
    let (left, one) = as_decimal(left)?;
    let (right, other) = as_decimal(right)?;
    let kind = decimal::result_type(operator, one, other);
    let (precision, scale) = kind.as_decimal().unwrap_or((38, 0));
    let how = Arithmetic::Decimal(one.1, other.1, precision, scale);
    let (left, right) = (Box::new(left), Box::new(right));
    Ok(Expr { node: Node::Arithmetic { operator, how, left, right }, kind })
}

fn negate(value: Expr, span: Span) -> Bound<Expr> {
    if !value.kind.is_numeric() {
        let message = format!("- {} has no meaning", value.kind);
        return Err(Box::new(Fault::new(span, message)));
    }
    let kind = value.kind.clone();
    Ok(computed("-", kind.clone(), vec![value], move |a| {
        let overflow = || EvalError("the negative does not fit its type".into());
        let narrow = kind == SqlType::Int;
        match &a[0] {
            Value::Long(n) => {
                let fits = |n: &i64| !narrow || i32::try_from(*n).is_ok();
                n.checked_neg().filter(fits).map(Value::Long).ok_or_else(overflow)
            }
            Value::Decimal(n) => n.checked_neg().map(Value::Decimal).ok_or_else(overflow),
            Value::Double(n) => Ok(Value::Double(-n)),
            _ => Ok(Value::Null),
        }
    }))
}

fn like(value: &Ast, pattern: &Ast, escape: Option<char>, scope: &dyn Scope) -> Bound<Expr> {
    let text = coerce(super::bind(value, scope)?, &SqlType::String, value.span)?;
    let bound = coerce(super::bind(pattern, scope)?, &SqlType::String, pattern.span)?;
    let Some(Value::Text(known)) = bound.as_literal() else {
        return Ok(computed("LIKE", SqlType::Boolean, vec![text, bound], move |a| {
            let pattern = a[1].as_text().unwrap_or_default();
            let regex = functions::like(pattern, escape);
            let regex = regex.map_err(|why| EvalError(format!("the LIKE pattern {why}")))?;
            Ok(Value::Boolean(regex.is_match(a[0].as_text().unwrap_or_default())))
        }));
    };
    let regex = functions::like(known, escape);
    let fault = |why| Box::new(Fault::new(pattern.span, format!("this LIKE pattern {why}")));
    let regex = regex.map_err(fault)?;
    Ok(computed("LIKE", SqlType::Boolean, vec![text], move |a| {
        Ok(Value::Boolean(regex.is_match(a[0].as_text().unwrap_or_default())))
    }))
}
