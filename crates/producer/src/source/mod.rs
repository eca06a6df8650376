//! Where transactions come from: files and standard input, or the generator.

pub mod envelope;
pub mod inputs;
pub mod lines;
pub mod records;
