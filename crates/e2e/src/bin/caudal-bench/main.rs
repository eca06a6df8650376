//! `caudal-bench`: first figures on the native stack. Needs `CAUDAL_TEST_HOME` (`make bench`).
//!
//! Every sample goes to `bench/results/<date>/`; what is printed is computed from those samples.

mod bars;
mod commit;
mod drain;
mod gauge;
mod latency;
mod processor;
mod producer;
mod results;
mod samples;
mod sink;

use anyhow::{Context as _, Result, bail};
use caudal_e2e::pipeline::Pipeline;
use std::process::ExitCode;

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wanted = args.first().cloned().unwrap_or_else(|| "all".to_owned());
    let pipeline = || Pipeline::empty("bench")?.context("no stack; run `make bench`");
    match wanted.as_str() {
        "commit" => commit::run(&pipeline()?),
        "drain" => drain::run(&pipeline()?),
        "latency" => latency::run(&pipeline()?),
        "processor" => processor::run(&args[1..]),
        "producer" => producer::run(&args[1..]),
        "bare-loop" => processor::bare_loop(&args[1..]),
        "http-load" => producer::http_load(&args[1..]),
        "sink" => sink::run(),
        "all" => {
            commit::run(&pipeline()?)?;
            drain::run(&pipeline()?)?;
            latency::run(&pipeline()?)
        }
        other => {
            bail!(
                "unknown benchmark {other}; known are commit, drain, latency, all, processor, producer, sink"
            )
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caudal-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
