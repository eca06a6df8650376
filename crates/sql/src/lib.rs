//! ksqlDB's SQL, as far as caudal runs it: statements into compiled queries.
//!
//! [`catalog::Catalog::compile`] reads a file and gives its sources and queries, or every fault
//! with its place. A query's expressions are typed once ([`expr::Expr`]) and evaluated per record
//! over a [`row::RowView`]; what a group's records add up to is
//! [`aggregate::Accumulators`], which merge and are written as bytes, so that an engine can keep
//! them, send them and take them back.
//!
//! This crate has no I/O, no clock, no randomness and no globals.

pub mod aggregate;
mod analyse;
pub mod ast;
pub mod avro;
mod bind;
mod cast;
pub mod catalog;
pub mod codec;
mod dates;
pub mod decimal;
pub mod execution;
pub mod explain;
pub mod expr;
pub mod fault;
mod functions;
pub mod groups;
pub mod json;
mod lexer;
pub mod parser;
pub mod row;
pub mod text;
pub mod types;
pub mod value;
pub mod value_bytes;
pub mod wire;

/// Every scalar function: its name, and how it is called.
pub fn scalar_functions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let binders = [("COALESCE", "COALESCE(value, …)"), ("IFNULL", "IFNULL(value, value)")];
    functions::all().map(|function| (function.name, function.usage)).chain(binders)
}

/// Every aggregate: its name, and how it is called.
pub fn aggregates() -> impl Iterator<Item = (&'static str, &'static str)> {
    aggregate::names().filter_map(|name| Some((name, aggregate::find(name)?)))
}
