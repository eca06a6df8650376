//! One run of the HTTP endpoint: 200 connections that send batches of 100, each as soon as the last
//! one was acknowledged.

use super::send::Bench;
use crate::gauge;
use anyhow::{Context as _, Result};
use caudal_e2e::fault::wait_until;
use caudal_e2e::http::is_ready;
use caudal_e2e::pipeline::binaries;
use serde_json::{Value as Json, json};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it for so many seconds.
///
/// # Errors
/// When the stack fails.
pub fn sample(bench: &Bench<'_>, seconds: u64) -> Result<Json> {
    bench.on_topic(|topic| {
        let pipeline = bench.pipeline;
        let (address, metrics) = (pipeline.metrics_address(20)?, pipeline.metrics_address(21)?);
        let args = ["--listen", &address, "--metrics-listen", &metrics, "--topic", topic];
        let args = [&args[..], &["--source", topic]].concat();
        let mut producer = pipeline.start("caudal-producer", "producer-http", &args)?;
        wait_until("the producer is ready", PATIENCE, || Ok(is_ready(&metrics)))?;
        let before = gauge::cpu(producer.pid())?;
        let output = Command::new(binaries()?.join("caudal-bench"))
            .args(["http-load", &address, &seconds.to_string()])
            .output()?;
        let mut sample: Json = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        sample["cpu_seconds"] = json!(gauge::cpu(producer.pid())? - before);
        sample["peak_rss_mib"] = json!(gauge::peak_rss_mib(producer.pid()));
        sample["wall_seconds"] = sample["seconds"].clone();
        if !producer.terminate()?.success() {
            sample["problem"] = json!(format!("see {}", producer.log.display()));
        }
        let stored = sample["acknowledged"].as_u64().context("no count")?;
        Ok((sample, stored))
    })
}
