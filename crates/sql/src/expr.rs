//! Typed expressions, compiled once and evaluated per record.

use crate::ast::Operator;
use crate::decimal;
use crate::row::RowView;
use crate::types::SqlType;
use crate::value::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Why an expression has no value for a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

/// What an evaluation gives.
pub type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// A function with its types resolved: arguments in, a value out. It may take the arguments.
pub type Call = Box<dyn for<'a> Fn(&mut [Value<'a>]) -> Evaluated<'a> + Send + Sync>;

/// A compiled expression.
#[derive(Debug)]
pub struct Expr {
    pub(crate) node: Node,
    /// The type of its values.
    pub kind: SqlType,
}

/// How numbers are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Int,
    Bigint,
    Double,
    /// Scales of the left side, the right side and the result.
    Decimal(u8, u8, u8, u8),
}

pub(crate) enum Node {
    Literal(Value<'static>),
    Column(usize),
    MapEntry { column: usize, key: String },
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare { operator: Operator, left: Box<Expr>, right: Box<Expr> },
    IsNull { value: Box<Expr>, negated: bool },
    In { value: Box<Expr>, list: Vec<Expr> },
    Case { whens: Vec<(Expr, Expr)>, otherwise: Option<Box<Expr>> },
    Coalesce(Vec<Expr>),
    Arithmetic { operator: Operator, how: Arithmetic, left: Box<Expr>, right: Box<Expr> },
    Call { name: &'static str, args: Vec<Expr>, call: Call, strict: bool },
    Array(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Struct(Vec<Expr>),
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Literal(value) => write!(f, "{value:?}"),
            Node::Column(index) => write!(f, "column {index}"),
            Node::MapEntry { column, key } => write!(f, "column {column}[{key:?}]"),
            Node::Call { name, args, .. } => f.debug_tuple(name).field(args).finish(),
            Node::Compare { operator, left, right } => {
                write!(f, "({left:?} {} {right:?})", operator.symbol())
            }
            Node::Arithmetic { operator, left, right, .. } => {
                write!(f, "({left:?} {} {right:?})", operator.symbol())
            }
            _ => f.write_str("expression"),
        }
    }
}

/// Arguments that fit the stack.
const FEW: usize = 4;

impl Expr {
    /// The value for a row.
    ///
    /// # Errors
    /// [`EvalError`] when the record has no value of this expression: an overflow, a division by
    /// zero, a text that is no number.
    pub fn eval<'r, R: RowView + ?Sized>(&'r self, row: &'r R) -> Evaluated<'r> {
        self.run::<R, false>(row, &mut Vec::new())
    }

    /// The value for a row; NULL, and a report, where there is none. As in ksqlDB it is the smallest
    /// piece that becomes NULL, so that `IFNULL(CAST(text AS INT), 0)` has a value for every text.
    pub fn value_or_null<'r, R: RowView + ?Sized>(
        &'r self,
        row: &'r R,
        errors: &mut Vec<EvalError>,
    ) -> Value<'r> {
        self.run::<R, true>(row, errors).unwrap_or_else(|error| {
            errors.push(error);
            Value::Null
        })
    }

    /// Whether a condition is true: neither false nor unknown.
    ///
    /// # Errors
    /// As [`Expr::eval`].
    pub fn holds<R: RowView + ?Sized>(&self, row: &R) -> Result<bool, EvalError> {
        Ok(matches!(self.eval(row)?, Value::Boolean(true)))
    }

    /// A piece of an expression: where pieces may fail, NULL and a report take its place.
    fn piece<'r, R: RowView + ?Sized, const TOLERANT: bool>(
        &'r self,
        row: &'r R,
        errors: &mut Vec<EvalError>,
    ) -> Evaluated<'r> {
        if TOLERANT {
            Ok(self.value_or_null(row, errors))
        } else {
            self.run::<R, false>(row, errors)
        }
    }

    fn run<'r, R: RowView + ?Sized, const TOLERANT: bool>(
        &'r self,
        row: &'r R,
        errors: &mut Vec<EvalError>,
    ) -> Evaluated<'r> {
        match &self.node {
            Node::Literal(value) => Ok(value.borrowed()),
            Node::Column(index) => Ok(row.column(*index)),
            Node::MapEntry { column, key } => Ok(row.map_entry(*column, key)),
            Node::Not(value) => Ok(match value.piece::<R, TOLERANT>(row, errors)? {
                Value::Boolean(value) => Value::Boolean(!value),
                _ => Value::Null,
            }),
            Node::And(left, right) => logical::<R, TOLERANT>(left, right, row, false, errors),
            Node::Or(left, right) => logical::<R, TOLERANT>(left, right, row, true, errors),
            Node::Compare { operator, left, right } => {
                let left = left.piece::<R, TOLERANT>(row, errors)?;
                Ok(compare(*operator, &left, &right.piece::<R, TOLERANT>(row, errors)?))
            }
            Node::IsNull { value, negated } => {
                let value = value.piece::<R, TOLERANT>(row, errors)?;
                Ok(Value::Boolean(value.is_null() != *negated))
            }
            Node::In { value, list } => contains::<R, TOLERANT>(value, list, row, errors),
            Node::Case { whens, otherwise } => {
                for (condition, value) in whens {
                    let condition = condition.piece::<R, TOLERANT>(row, errors)?;
                    if matches!(condition, Value::Boolean(true)) {
                        return value.piece::<R, TOLERANT>(row, errors);
                    }
                }
                match otherwise {
                    Some(value) => value.piece::<R, TOLERANT>(row, errors),
                    None => Ok(Value::Null),
                }
            }
            Node::Coalesce(values) => {
                for value in values {
                    let value = value.piece::<R, TOLERANT>(row, errors)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Ok(Value::Null)
            }
            Node::Arithmetic { operator, how, left, right } => {
                let left = left.piece::<R, TOLERANT>(row, errors)?;
                let right = right.piece::<R, TOLERANT>(row, errors)?;
                arithmetic(*operator, *how, &left, &right)
            }
            Node::Call { args, call, strict, .. } => {
                apply::<R, TOLERANT>(args, call, *strict, row, errors)
            }
            Node::Array(items) => Ok(Value::Array(pieces::<R, TOLERANT>(items, row, errors)?)),
            Node::Struct(fields) => Ok(Value::Struct(pieces::<R, TOLERANT>(fields, row, errors)?)),
            Node::Map(entries) => map::<R, TOLERANT>(entries, row, errors),
        }
    }

    /// Whether it may have no value for some record: it computes something.
    #[must_use]
    pub fn may_fail(&self) -> bool {
        let any = |exprs: &[Expr]| exprs.iter().any(Expr::may_fail);
        match &self.node {
            Node::Literal(_) | Node::Column(_) | Node::MapEntry { .. } => false,
            Node::Not(value) | Node::IsNull { value, .. } => value.may_fail(),
            Node::And(left, right) | Node::Or(left, right) | Node::Compare { left, right, .. } => {
                left.may_fail() || right.may_fail()
            }
            Node::In { value, list } => value.may_fail() || any(list),
            Node::Case { whens, otherwise } => {
                let when = whens.iter().any(|(c, value)| c.may_fail() || value.may_fail());
                when || otherwise.as_ref().is_some_and(|value| value.may_fail())
            }
            Node::Coalesce(values) | Node::Array(values) | Node::Struct(values) => any(values),
            Node::Map(entries) => {
                entries.iter().any(|(key, value)| key.may_fail() || value.may_fail())
            }
            Node::Arithmetic { .. } | Node::Call { .. } => true,
        }
    }

    /// Whether it reads only columns that a test picks out.
    pub(crate) fn reads_only(&self, picked: &dyn Fn(usize) -> bool) -> bool {
        let all = |exprs: &[Expr]| exprs.iter().all(|expr| expr.reads_only(picked));
        let both = |one: &Expr, other: &Expr| one.reads_only(picked) && other.reads_only(picked);
        match &self.node {
            Node::Literal(_) => true,
            Node::Column(column) | Node::MapEntry { column, .. } => picked(*column),
            Node::Not(value) | Node::IsNull { value, .. } => value.reads_only(picked),
            Node::And(left, right)
            | Node::Or(left, right)
            | Node::Compare { left, right, .. }
            | Node::Arithmetic { left, right, .. } => both(left, right),
            Node::In { value, list } => value.reads_only(picked) && all(list),
            Node::Case { whens, otherwise } => {
                let otherwise = otherwise.as_ref().is_none_or(|value| value.reads_only(picked));
                otherwise && whens.iter().all(|(condition, value)| both(condition, value))
            }
            Node::Coalesce(values)
            | Node::Array(values)
            | Node::Struct(values)
            | Node::Call { args: values, .. } => all(values),
            Node::Map(entries) => entries.iter().all(|(key, value)| both(key, value)),
        }
    }

    /// The column that it is, if it is nothing but one.
    #[must_use]
    pub fn as_column(&self) -> Option<usize> {
        match &self.node {
            Node::Column(index) => Some(*index),
            _ => None,
        }
    }

    /// Its value, if it is a literal.
    #[must_use]
    pub fn as_literal(&self) -> Option<&Value<'static>> {
        match &self.node {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }
}

fn pieces<'r, R: RowView + ?Sized, const TOLERANT: bool>(
    exprs: &'r [Expr],
    row: &'r R,
    errors: &mut Vec<EvalError>,
) -> Result<Vec<Value<'r>>, EvalError> {
    exprs.iter().map(|expr| expr.piece::<R, TOLERANT>(row, errors)).collect()
}

/// AND decides at false, OR at true; what is unknown stays so unless the other side decides.
fn logical<'r, R: RowView + ?Sized, const TOLERANT: bool>(
    left: &'r Expr,
    right: &'r Expr,
    row: &'r R,
    decides: bool,
    errors: &mut Vec<EvalError>,
) -> Evaluated<'r> {
    let left = left.piece::<R, TOLERANT>(row, errors)?;
    if left == Value::Boolean(decides) {
        return Ok(left);
    }
    let right = right.piece::<R, TOLERANT>(row, errors)?;
    Ok(match (&left, &right) {
        (_, Value::Boolean(value)) if *value == decides => right,
        (Value::Boolean(_), Value::Boolean(_)) => Value::Boolean(!decides),
        _ => Value::Null,
    })
}

fn compare(operator: Operator, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
    let ordered = |test: fn(Ordering) -> bool| left.compare(right).map(test);
    let result = match operator {
        Operator::Equal => left.equals(right),
        Operator::NotEqual => left.equals(right).map(|equal| !equal),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
        Operator::DistinctFrom => Some(!left.same_as(right)),
        _ => Some(left.same_as(right)),
    };
    result.map_or(Value::Null, Value::Boolean)
}

/// Unknown where no item is equal and one, or the value, is NULL.
fn contains<'r, R: RowView + ?Sized, const TOLERANT: bool>(
    value: &'r Expr,
    list: &'r [Expr],
    row: &'r R,
    errors: &mut Vec<EvalError>,
) -> Evaluated<'r> {
    let value = value.piece::<R, TOLERANT>(row, errors)?;
    let mut unknown = false;
    for item in list {
        match value.equals(&item.piece::<R, TOLERANT>(row, errors)?) {
            Some(true) => return Ok(Value::Boolean(true)),
            Some(false) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { Value::Null } else { Value::Boolean(false) })
}

fn map<'r, R: RowView + ?Sized, const TOLERANT: bool>(
    entries: &'r [(Expr, Expr)],
    row: &'r R,
    errors: &mut Vec<EvalError>,
) -> Evaluated<'r> {
    let mut out: Vec<(Cow<'r, str>, Value<'r>)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let key = map_key(key.piece::<R, TOLERANT>(row, errors)?);
        let value = value.piece::<R, TOLERANT>(row, errors)?;
        // The last of several equal keys stays.
        match out.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => out.push((key, value)),
        }
    }
    Ok(Value::Map(out))
}

/// A NULL key is the text that ksqlDB writes for it.
fn map_key(key: Value<'_>) -> Cow<'_, str> {
    match key {
        Value::Text(key) => key,
        _ => Cow::Borrowed("null"),
    }
}

fn apply<'r, R: RowView + ?Sized, const TOLERANT: bool>(
    args: &'r [Expr],
    call: &'r Call,
    strict: bool,
    row: &'r R,
    errors: &mut Vec<EvalError>,
) -> Evaluated<'r> {
    let mut few: [Value<'r>; FEW] = Default::default();
    let mut many = Vec::new();
    let values: &mut [Value<'r>] = if args.len() <= FEW {
        &mut few[..args.len()]
    } else {
        many.resize(args.len(), Value::Null);
        &mut many
    };
    for (slot, arg) in values.iter_mut().zip(args) {
        *slot = arg.piece::<R, TOLERANT>(row, errors)?;
        if strict && slot.is_null() {
            return Ok(Value::Null);
        }
    }
    call(values)
}

fn arithmetic(
    operator: Operator,
    how: Arithmetic,
    left: &Value<'_>,
    right: &Value<'_>,
) -> Evaluated<'static> {
    let overflow = || EvalError(format!("{} of {how:?} overflows", operator.symbol()));
    let by_zero = || EvalError("division by zero".into());
    match (left, right, how) {
        (Value::Long(a), Value::Long(b), Arithmetic::Int | Arithmetic::Bigint) => {
            let divides = matches!(operator, Operator::Divide | Operator::Modulo);
            if divides && *b == 0 {
                return Err(by_zero());
            }
            let result = match operator {
                Operator::Add => a.checked_add(*b),
                Operator::Subtract => a.checked_sub(*b),
                Operator::Multiply => a.checked_mul(*b),
                Operator::Divide => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            let narrow = how == Arithmetic::Int;
            let fits = |n: &i64| !narrow || i32::try_from(*n).is_ok();
            result.filter(fits).map(Value::Long).ok_or_else(overflow)
        }
        (Value::Double(a), Value::Double(b), Arithmetic::Double) => {
            Ok(Value::Double(match operator {
                Operator::Add => a + b,
                Operator::Subtract => a - b,
                Operator::Multiply => a * b,
                Operator::Divide => a / b,
                _ => a % b,
            }))
        }
        (Value::Decimal(a), Value::Decimal(b), Arithmetic::Decimal(s1, s2, precision, scale)) => {
            if *b == 0 && matches!(operator, Operator::Divide | Operator::Modulo) {
                return Err(by_zero());
            }
            decimal::compute(operator, (*a, s1), (*b, s2), scale)
                .filter(|units| decimal::fits(*units, precision))
                .map(Value::Decimal)
                .ok_or_else(overflow)
        }
        _ => Ok(Value::Null),
    }
}
