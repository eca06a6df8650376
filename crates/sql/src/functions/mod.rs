//! Scalar functions: names, how they are called, and their types.

mod collections;
mod moments;
mod numbers;
mod texts;

pub(crate) use texts::like;

use crate::expr::{Call, EvalError, Evaluated};
use crate::types::SqlType;
use crate::value::Value;
use std::borrow::Cow;

/// What is known of an argument before any record.
#[derive(Debug)]
pub(crate) struct Argument {
    pub kind: SqlType,
    /// Its value, if it is a literal.
    pub constant: Option<Value<'static>>,
}

/// A function chosen for the types of its arguments.
pub(crate) struct Resolved {
    pub kind: SqlType,
    /// What the arguments are converted to.
    pub args: Vec<SqlType>,
    pub call: Call,
    /// Whether it is NULL as soon as one argument is.
    pub strict: bool,
}

/// Why a function does not take its arguments.
pub(crate) enum Mismatch {
    /// Wrong number or types.
    Types,
    /// The value of a literal is wrong: number of the argument, and why.
    Constant(usize, String),
}

pub(crate) type Resolution = Result<Resolved, Mismatch>;

/// A function: name, how it is called, how it is chosen.
pub(crate) struct Function {
    pub name: &'static str,
    pub usage: &'static str,
    pub resolve: fn(&[Argument]) -> Resolution,
}

/// Every scalar function. `COALESCE` and `IFNULL` are the binder's: they look at their arguments
/// one by one.
pub(crate) fn all() -> impl Iterator<Item = &'static Function> {
    [texts::FUNCTIONS, numbers::FUNCTIONS, moments::FUNCTIONS, collections::FUNCTIONS]
        .into_iter()
        .flatten()
}

/// The function of an upper-case name.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    all().find(|function| function.name == name)
}

/// A function that is NULL as soon as one argument is.
fn strict<F>(kind: SqlType, args: Vec<SqlType>, call: F) -> Resolution
where
    F: for<'a> Fn(&mut [Value<'a>]) -> Evaluated<'a> + Send + Sync + 'static,
{
    Ok(Resolved { kind, args, call: Box::new(call), strict: true })
}

/// A function that looks at NULLs itself.
fn lenient<F>(kind: SqlType, args: Vec<SqlType>, call: F) -> Resolution
where
    F: for<'a> Fn(&mut [Value<'a>]) -> Evaluated<'a> + Send + Sync + 'static,
{
    Ok(Resolved { kind, args, call: Box::new(call), strict: false })
}

/// Takes a text out of its argument.
fn text<'a>(value: &mut Value<'a>) -> Cow<'a, str> {
    match std::mem::take(value) {
        Value::Text(text) => text,
        _ => Cow::Borrowed(""),
    }
}

fn long(value: &Value<'_>) -> i64 {
    value.as_long().unwrap_or(0)
}

fn double(value: &Value<'_>) -> f64 {
    match value {
        Value::Double(number) => *number,
        _ => f64::NAN,
    }
}

/// The arguments' own types, if each converts silently to the one wanted.
fn fits(args: &[Argument], wanted: &[SqlType]) -> Result<Vec<SqlType>, Mismatch> {
    let fit = args.len() == wanted.len()
        && args.iter().zip(wanted).all(|(arg, wanted)| arg.kind.coerces_to(wanted));
    if fit { Ok(wanted.to_vec()) } else { Err(Mismatch::Types) }
}

/// The common type of arguments from a place on.
fn common(args: &[Argument]) -> Result<SqlType, Mismatch> {
    let mut kinds = args.iter().map(|arg| arg.kind.clone());
    let first = kinds.next().ok_or(Mismatch::Types)?;
    kinds.try_fold(first, |all, next| all.common(&next)).ok_or(Mismatch::Types)
}

fn failed(message: impl Into<String>) -> EvalError {
    EvalError(message.into())
}
