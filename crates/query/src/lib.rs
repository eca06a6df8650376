//! Continuous queries: the plan of a query and the pure operators that run it.
//!
//! A plan is a compiled SQL text: filter, group, window, aggregates, HAVING. A group that
//! contains the partition key (the account) is aggregated where the record is, in
//! [`panes`]; any other group is pre-aggregated per commit in [`partials`], sent to the partition
//! of its group, and merged there in [`merge`].

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
mod supported;
mod table;
pub mod values;
pub mod window;

pub use table::Cursor;
