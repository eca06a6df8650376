//! The stream processor: stage 1 per account, stage 2 per group.
//!
//! [`tasks`] and what it calls are pure (no I/O, no clock); [`engine`] is the loop around it, over
//! what it needs of Kafka ([`broker`]). Path of a record: `engine` gathers a batch → [`tasks`] gives
//! each record to its task → [`account_task`], [`source_task`] or [`group_task`] fills the outbox → [`block`] and
//! [`sweep`] close it with the state → `engine` commits all of it in one txn.

pub mod account_task;
pub mod args;
pub mod block;
pub mod broker;
pub mod catch_up;
pub mod cut;
pub mod engine;
pub mod evaluation;
pub mod group_task;
pub mod idle;
pub mod kafka_broker;
pub mod metrics;
pub mod migrate;
mod mutant;
pub mod outputs;
pub mod partials;
pub mod plans;
pub mod restore;
pub mod run;
pub mod shared;
#[cfg(test)]
mod simulation;
pub mod source_task;
pub mod status;
pub mod sweep;
pub mod tables;
pub mod tasks;
pub mod topics_check;
