//! What kind of query a compiled one is: by its groups, its window, its aggregates.

use super::Amount;
use crate::window::Window;
use caudal_sql::aggregate::Function;
use caudal_sql::ast::WindowKind;
use caudal_sql::catalog::{Aggregation, Query};
use caudal_sql::expr::Expr;
use caudal_sql::row::transaction_columns;
use caudal_sql::types::SqlType;

/// Whether it is the key of the input topic.
pub(super) fn is_account(expr: &Expr) -> bool {
    let columns = transaction_columns();
    let column = expr.as_column().and_then(|at| columns.get(at));
    column.is_some_and(|(name, _)| *name == "account_id")
}

pub(super) fn window_of(aggregation: &Aggregation) -> Window {
    let Some(window) = &aggregation.window else { return Window::unbounded() };
    let micros = |millis: i64| millis.saturating_mul(1000);
    let grace = micros(window.grace);
    match window.kind {
        WindowKind::Hopping { size, advance } => {
            Window::hopping(micros(size), micros(advance), grace)
        }
        WindowKind::Tumbling { size } => Window::tumbling(micros(size), grace),
        WindowKind::Session { gap } => Window::session(micros(gap), grace),
    }
}

pub(super) fn adds_amounts(aggregation: &Aggregation) -> bool {
    let amount = transaction_columns().iter().position(|(name, _)| *name == "amount");
    aggregation.calls.iter().all(|call| match call.function {
        Function::CountRows => true,
        Function::Sum | Function::Min | Function::Max => {
            let of_amount = call.argument.as_ref().and_then(Expr::as_column) == amount;
            of_amount && matches!(call.kind, SqlType::Decimal { .. })
        }
        _ => false,
    })
}

pub(super) fn amounts(query: &Query, aggregation: &Aggregation) -> Option<Vec<(String, Amount)>> {
    let texts = aggregation.group_by.iter().all(|expr| expr.kind == SqlType::String);
    if !adds_amounts(aggregation) || !texts || aggregation.window.is_none() {
        return None;
    }
    let first = aggregation.group_by.len() + 2;
    let selected = query.columns.iter().filter(|c| !c.key).map(|column| {
        let call = aggregation.calls.get(column.value.as_column()?.checked_sub(first)?)?;
        let amount = match call.function {
            Function::Sum => Amount::Sum,
            Function::Min => Amount::Min,
            Function::Max => Amount::Max,
            _ => Amount::Count,
        };
        Some((column.name.clone(), amount))
    });
    selected.collect()
}

/// Whether a selected column is a count, or a sum, least or greatest of a column that every
/// transaction has.
pub(super) fn is_never_null(
    selected: &Expr,
    aggregation: &Aggregation,
    of_transactions: bool,
) -> bool {
    let first = aggregation.group_by.len() + 2;
    let call = selected.as_column().and_then(|at| at.checked_sub(first));
    let Some(call) = call.and_then(|at| aggregation.calls.get(at)) else { return false };
    match call.function {
        Function::CountRows | Function::Count | Function::CountDistinct => true,
        Function::Sum | Function::Min | Function::Max => {
            let columns = transaction_columns();
            let column = call.argument.as_ref().and_then(Expr::as_column);
            let name = column.and_then(|at| columns.get(at)).map(|(name, _)| *name);
            // A BIGINT sum is NULL beyond 64 bits.
            let is_exact = !matches!(call.kind, SqlType::Bigint);
            let is_there = of_transactions && is_exact;
            is_there && name.is_some_and(|n| !["country", "description", "attributes"].contains(&n))
        }
        _ => false,
    }
}
