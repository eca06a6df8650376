//! End-to-end and fault tests on a real stack: spawns the binaries that users run, kills them in
//! mid-work, and compares what comes out with what went in.
//!
//! The tests need a stack of their own, given by `CAUDAL_TEST_HOME` and `CAUDAL_PORT_OFFSET`
//! (`make test` starts one). Without it they print that they were skipped.

pub mod drawn;
pub mod expectation;
pub mod fault;
pub mod flight;
pub mod http;
pub mod http_client;
pub mod load;
pub mod pipeline;
pub mod plans;
pub mod query;
pub mod rows;
pub mod runbook;
pub mod topic;
