//! Hop 3: Kafka topics → PostgreSQL tables, each record exactly once.
//!
//! One db_tx per batch holds the rows, the dead letters and the positions (`sink_offsets`), so that
//! a crash at any moment leaves either all or nothing of a batch. PostgreSQL is the truth; what the
//! consumer group has committed is for display.
//!
//! The path of a record: [`run`] gathers it, [`batch`] checks its sequence and encodes its row
//! ([`columns`], [`copy`]), [`store`] writes the db_tx through [`write`] on the connection of
//! [`postgres`]; [`fault`] says what to do when the server refuses.

pub mod args;
pub mod batch;
pub mod breaker;
pub mod caught_up;
pub mod claims;
pub mod columns;
pub mod config;
pub mod copy;
mod db_tx;
pub mod dead_letter;
pub mod fault;
pub mod generic;
pub mod learn;
pub mod ledger;
pub mod letters;
pub mod metrics;
pub mod migrations;
pub mod outside;
pub mod postgres;
pub mod query_tables;
pub mod run;
pub mod start;
pub mod store;
pub mod tombstone;
pub mod unnest;
pub mod watchdog;
pub mod write;

pub use migrations::migrate;
