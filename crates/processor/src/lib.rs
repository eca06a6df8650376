//! The stream processor: stage 1 per account, stage 2 per group.
//!
//! [`engine`] and what it calls are pure (no I/O, no clock); [`run`] is the loop around it.
//! Path of a record: `run` gathers a batch → [`tasks`] gives each record to its task →
//! [`account_task`] or [`group_task`] fills the outbox → [`block`] closes it with the state →
//! `run` commits all of it in one txn.

pub mod account_task;
pub mod args;
pub mod block;
pub mod catch_up;
pub mod engine;
pub mod group_task;
pub mod metrics;
mod mutant;
pub mod outputs;
pub mod restore;
pub mod run;
pub mod tasks;
