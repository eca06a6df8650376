//! What a transaction means: types, exact money, codecs, validation, dedup and ledgers.
//!
//! This crate has no I/O, no clock, no randomness and no globals (ARCHITECTURE.md, invariant 1):
//! the same input always gives the same output, so every decision of the pipeline can be tested
//! without a broker.

pub mod avro;
pub mod avro_schema;
pub mod decode;
pub mod dedup;
pub mod headers;
pub mod json;
pub mod ledger;
pub mod mask;
pub mod money;
pub mod outbox;
pub mod partitioner;
pub mod reject;
pub mod row;
pub mod schema;
pub mod sequence;
pub mod time;
pub mod topics;
pub mod transaction;
pub mod validate;
