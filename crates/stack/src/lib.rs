//! Starts, breaks and mends the native stack: Apache Kafka nodes as Java processes, PostgreSQL,
//! and Prometheus where it is installed. No containers.
//!
//! What the stack consists of stands in `config/stack.toml` ([`topology`]); where it keeps its
//! data, logs and pid files in [`layout`]. [`Stack`] is the interface for programs, [`cli`] the
//! one for people.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed"))]

pub mod cli;
mod docker_ps;
mod env;
mod java;
mod kafka;
pub mod layout;
mod ports;
mod postgres;
mod postgres_binaries;
mod postgres_user;
mod probe;
pub mod process;
mod prometheus;
mod shutdown;
mod stack;
mod status;
pub mod topology;
mod wipe;

pub use stack::{Progress, Stack};
pub use status::{PartStatus, StackStatus, State};
