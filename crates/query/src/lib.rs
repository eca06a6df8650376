//! Continuous queries: the plan of a query and the pure operators that run it.
//!
//! A plan is a compiled SQL text: filter, group, window, aggregates, HAVING. A group that
//! contains the partition key (the account) is aggregated where the record is, in
//! [`panes`]; any other group, and every session, is pre-aggregated per commit in [`partials`], sent
//! to the partition of its group, and merged there in [`merge`]. A `CREATE STREAM … AS SELECT` has
//! no state: each record it takes gives one. Sources are `transacciones_validas` and other
//! [`stream`]s.

pub mod aggregate;
mod cells;
pub mod group;
pub mod input;
pub mod merge;
mod names;
pub mod panes;
pub mod partials;
pub mod plan;
#[cfg(test)]
mod sample;
pub mod sessions;
pub mod stream;
mod supported;
mod table;
pub mod values;
pub mod window;

pub use table::Cursor;
