//! Aggregates: how they are called, and what a group's records add up to.
//!
//! Every accumulator merges commutatively and associatively (sums of DOUBLE up to rounding), so
//! that partial results of several tasks may arrive in any order, and sessions may grow together.

mod distinct;
mod state;

pub use distinct::EXACT_DISTINCT;
pub use state::{Accumulators, Order};

use crate::expr::{Expr, Node};
use crate::functions::Argument;
use crate::types::SqlType;
use crate::value::Value;

/// Most items that `COLLECT_LIST`, `COLLECT_SET`, `TOPK`, `LATEST_BY_OFFSET(x, n)` and the like
/// keep of a group. Items beyond it are left out, the first ones stay.
pub const MAX_ITEMS: usize = 1_000;

/// What an aggregate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `COUNT(*)`.
    CountRows,
    /// `COUNT(x)`.
    Count,
    /// `SUM(x)`.
    Sum,
    /// `MIN(x)`.
    Min,
    /// `MAX(x)`.
    Max,
    /// `AVG(x)`.
    Avg,
    /// `COUNT_DISTINCT(x)`.
    CountDistinct,
    /// `LATEST_BY_OFFSET(x[, n][, ignore nulls])`; `None`: one value, not an array.
    Latest(Option<usize>, bool),
    /// `EARLIEST_BY_OFFSET(x[, n][, ignore nulls])`.
    Earliest(Option<usize>, bool),
    /// `TOPK(x[, other, …], k)`.
    TopK(usize),
    /// `TOPKDISTINCT(x, k)`.
    TopKDistinct(usize),
    /// `COLLECT_LIST(x)`.
    CollectList,
    /// `COLLECT_SET(x)`.
    CollectSet,
}

/// An aggregate of a query.
#[derive(Debug)]
pub struct AggregateCall {
    /// What it does.
    pub function: Function,
    /// What it looks at; `None` for `COUNT(*)`.
    pub argument: Option<Expr>,
    /// The type of its result.
    pub kind: SqlType,
}

impl AggregateCall {
    /// The type of what it looks at.
    #[must_use]
    pub fn argument_kind(&self) -> &SqlType {
        self.argument.as_ref().map_or(&SqlType::Null, |argument| &argument.kind)
    }

    /// About how many bytes its state takes at most, for one group and pane, where texts have 32.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        let item = match self.argument_kind() {
            SqlType::String => 32,
            SqlType::Struct(fields) => 32 * fields.len(),
            _ => 16,
        };
        match self.function {
            Function::CountRows | Function::Count => 8,
            Function::Sum | Function::Min | Function::Max => item,
            Function::Avg => 24,
            Function::CountDistinct => 8 * EXACT_DISTINCT,
            Function::Latest(n, _) | Function::Earliest(n, _) => n.unwrap_or(1) * (item + 20),
            Function::TopK(k) | Function::TopKDistinct(k) => k * item,
            Function::CollectList | Function::CollectSet => MAX_ITEMS * (item + 20),
        }
    }
}

/// How aggregates are called.
const USAGES: [(&str, &str); 11] = [
    ("COUNT", "COUNT(*) or COUNT(value)"),
    ("SUM", "SUM(number)"),
    ("MIN", "MIN(value)"),
    ("MAX", "MAX(value)"),
    ("AVG", "AVG(number)"),
    ("COUNT_DISTINCT", "COUNT_DISTINCT(value)"),
    ("LATEST_BY_OFFSET", "LATEST_BY_OFFSET(value[, count][, ignore nulls])"),
    ("EARLIEST_BY_OFFSET", "EARLIEST_BY_OFFSET(value[, count][, ignore nulls])"),
    ("TOPK", "TOPK(value[, other, …], count)"),
    ("TOPKDISTINCT", "TOPKDISTINCT(value, count)"),
    ("COLLECT_LIST", "COLLECT_LIST(value)"),
];

/// The usage of an aggregate, by upper-case name.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    if name == "COLLECT_SET" {
        return Some("COLLECT_SET(value)");
    }
    USAGES.iter().find(|(known, _)| *known == name).map(|(_, usage)| *usage)
}

/// The names of all aggregates.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    USAGES.iter().map(|(name, _)| *name).chain(["COLLECT_SET"])
}

/// The function, and the type of its result. `None` when it does not take these arguments.
pub(crate) fn resolve(name: &str, star: bool, args: &[Argument]) -> Option<(Function, SqlType)> {
    // ksqlDB's COUNT() counts rows too.
    if star || args.is_empty() {
        return (name == "COUNT").then_some((Function::CountRows, SqlType::Bigint));
    }
    let (first, rest) = args.split_first()?;
    let array = || SqlType::Array(Box::new(first.kind.clone()));
    let alone = |found| if rest.is_empty() { Some(found) } else { None };
    match name {
        "COUNT" => alone((Function::Count, SqlType::Bigint)),
        "COUNT_DISTINCT" => alone((Function::CountDistinct, SqlType::Bigint)),
        "SUM" => alone((Function::Sum, sum_kind(&first.kind)?)),
        "AVG" => alone((Function::Avg, average_kind(&first.kind)?)),
        "MIN" | "MAX" if is_ordered(&first.kind) => {
            let function = if name == "MIN" { Function::Min } else { Function::Max };
            alone((function, first.kind.clone()))
        }
        "LATEST_BY_OFFSET" | "EARLIEST_BY_OFFSET" => {
            let (count, ignore_nulls) = offset_options(rest)?;
            let function = match name {
                "LATEST_BY_OFFSET" => Function::Latest(count, ignore_nulls),
                _ => Function::Earliest(count, ignore_nulls),
            };
            Some((function, if count.is_some() { array() } else { first.kind.clone() }))
        }
        "TOPKDISTINCT" if is_ordered(&first.kind) => {
            let [count] = rest else { return None };
            Some((Function::TopKDistinct(bounded(count)?), array()))
        }
        "TOPK" if is_ordered(&first.kind) => {
            let (count, others) = rest.split_last()?;
            let function = Function::TopK(bounded(count)?);
            if others.is_empty() {
                return Some((function, array()));
            }
            let item = top_struct(args[..args.len() - 1].iter().map(|arg| arg.kind.clone()));
            Some((function, SqlType::Array(Box::new(item))))
        }
        "COLLECT_LIST" => alone((Function::CollectList, array())),
        "COLLECT_SET" => alone((Function::CollectSet, array())),
        _ => None,
    }
}

/// An item of `TOPK(x, other, …, k)`, with ksqlDB's names.
fn top_struct(kinds: impl Iterator<Item = SqlType>) -> SqlType {
    let name = |at: usize| match at {
        0 => "sort_col".to_owned(),
        at => format!("col{}", at - 1),
    };
    SqlType::Struct(kinds.enumerate().map(|(at, kind)| (name(at), kind)).collect())
}

/// What an aggregate looks at, out of its arguments: the first, or the STRUCT of all that
/// `TOPK(x, other, …, k)` keeps.
pub(crate) fn argument(function: Function, mut args: Vec<Expr>) -> Option<Expr> {
    if matches!(function, Function::TopK(_)) && args.len() > 2 {
        args.pop();
        let kind = top_struct(args.iter().map(|arg| arg.kind.clone()));
        return Some(Expr { node: Node::Struct(args), kind });
    }
    args.into_iter().next()
}

fn is_ordered(kind: &SqlType) -> bool {
    use SqlType::{Array, Boolean, Map, Null, Struct};
    !matches!(kind, Array(_) | Map(_) | Struct(_) | Boolean | Null)
}

/// A sum is as wide as can be: BIGINT of integers, 38 digits of decimals.
fn sum_kind(kind: &SqlType) -> Option<SqlType> {
    match kind {
        SqlType::Int | SqlType::Bigint => Some(SqlType::Bigint),
        SqlType::Double => Some(SqlType::Double),
        SqlType::Decimal { scale, .. } => {
            Some(SqlType::Decimal { precision: crate::types::MAX_PRECISION, scale: *scale })
        }
        _ => None,
    }
}

/// Of decimals a decimal of at least six places; of other numbers DOUBLE, as in ksqlDB.
fn average_kind(kind: &SqlType) -> Option<SqlType> {
    match sum_kind(kind)? {
        SqlType::Decimal { precision, scale } => {
            Some(SqlType::Decimal { precision, scale: scale.max(6) })
        }
        _ => Some(SqlType::Double),
    }
}

/// A literal from 1 to [`MAX_ITEMS`].
fn bounded(arg: &Argument) -> Option<usize> {
    match arg.constant {
        Some(Value::Long(n)) if (1..=MAX_ITEMS as i64).contains(&n) => usize::try_from(n).ok(),
        _ => None,
    }
}

fn offset_options(rest: &[Argument]) -> Option<(Option<usize>, bool)> {
    let flag = |arg: &Argument| match arg.constant {
        Some(Value::Boolean(flag)) => Some(flag),
        _ => None,
    };
    match rest {
        [] => Some((None, true)),
        [one] => flag(one).map(|f| (None, f)).or_else(|| Some((Some(bounded(one)?), true))),
        [count, ignore] => Some((Some(bounded(count)?), flag(ignore)?)),
        _ => None,
    }
}
