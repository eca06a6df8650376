//! From a source to Kafka, each line exactly once: files and streams through a mapping file,
//! requests over HTTP, or a seeded generator.

pub mod args;
pub mod cards;
pub mod commit;
pub mod failpoint;
pub mod feed;
pub mod generate;
pub mod http;
pub mod infer;
pub mod lookalike;
pub mod mapping;
pub mod metrics;
pub mod progress;
pub mod report;
pub mod run;
pub mod samples;
pub mod schemas;
pub mod source;
pub mod trial;
