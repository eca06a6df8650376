//! From `kill -9` to caught up, with the state that the preloaded input leaves: an hour's ids, a
//! million, and the open windows.

use super::drain::{Config, start};
use super::load;
use crate::gauge::{self, Scrape};
use crate::results;
use anyhow::{Result, bail, ensure};
use caudal_core::topics;
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_producer::generate::Expected;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
const TASKS: f64 = 12.0;

/// Drains once, then kills and restarts `runs` times.
///
/// # Errors
/// When something fails.
pub fn run(pipeline: &Pipeline, expected: &Expected, config: &Config, runs: u32) -> Result<Json> {
    println!("restart: kill -9 with everything drained, then to caught up; {runs} times");
    load::reset(pipeline)?;
    let load_average = gauge::load_average();
    let (mut service, address) = start(pipeline, &config.args())?;
    #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
    let lines = expected.lines as f64;
    let mut live = (0.0, Json::Null, 0.0);
    wait_until("the drain", LIMIT, || {
        if let Some(status) = service.ended()? {
            bail!("the processor ended: {status}; log {}", service.log.display());
        }
        let Some(scrape) = Scrape::get(&address) else { return Ok(false) };
        let sent = scrape.one("caudal_processor_outputs_total", "topic", topics::PARCIALES);
        let merged = scrape.sum("caudal_processor_partials_total");
        live = (
            scrape.sum("caudal_processor_state_entries"),
            json!(scrape.by_label("caudal_processor_state_entries", "query")),
            scrape.sum("caudal_processor_state_bytes"),
        );
        Ok(scrape.sum("caudal_processor_records_total") >= lines && merged >= sent)
    })?;
    println!("  live: {:.0} keys, {:.1} MB in memory", live.0, live.2 / 1e6);
    let mut samples = Vec::new();
    for _ in 0..runs {
        service.kill()?;
        let begun = Instant::now();
        let mut args = config.args();
        args.push("--until-caught-up".into());
        let (mut restarted, address) = start(pipeline, &args)?;
        let mut sample = json!({});
        let status = loop {
            if let Some(status) = restarted.ended()? {
                break status;
            }
            ensure!(begun.elapsed() < LIMIT, "not caught up after {} s", LIMIT.as_secs());
            if let Some(scrape) = Scrape::get(&address) {
                look(&mut sample, &scrape, restarted.pid(), begun);
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "{status}; log {}", restarted.log.display());
        sample["caught_up_seconds"] = json!(begun.elapsed().as_secs_f64());
        println!("  {sample}");
        samples.push(sample);
        // It ended in good order; the next one is to be killed.
        service = start(pipeline, &config.args())?.0;
        wait_until("12 running tasks", LIMIT, || Ok(is_running(&address)))?;
    }
    let of = |name: &str| -> Vec<f64> { samples.iter().filter_map(|s| s[name].as_f64()).collect() };
    let summary = |name: &str, unit: &str| results::summary(unit, &of(name));
    Ok(json!({
        "live_keys": live.0, "live_keys_by_query": live.1, "live_bytes_in_memory": live.2,
        "cpu_seconds": summary("cpu_seconds", "s"), "restored_seconds": summary("restored_seconds", "s"),
        "caught_up_seconds": summary("caught_up_seconds", "s"),
        "samples": samples, "load_average": load_average,
    }))
}

fn is_running(address: &str) -> bool {
    let scrape = Scrape::get(address).unwrap_or_default();
    scrape.one("caudal_processor_tasks", "state", "running") >= TASKS
}

/// CPU as of the last look; bytes and time as of the first with every task running.
fn look(sample: &mut Json, scrape: &Scrape, pid: u32, begun: Instant) {
    if let Ok(cpu) = gauge::cpu(pid) {
        sample["cpu_seconds"] = json!(cpu);
    }
    sample["peak_rss_mib"] = json!(gauge::peak_rss_mib(pid));
    sample["restore_bytes"] = json!(scrape.sum("caudal_processor_restore_bytes_total"));
    sample["restore_records"] = json!(scrape.sum("caudal_processor_restore_records_total"));
    let running = scrape.one("caudal_processor_tasks", "state", "running") >= TASKS;
    if running && sample["restored_seconds"].is_null() {
        sample["restored_seconds"] = json!(begun.elapsed().as_secs_f64());
        sample["restored_cpu_seconds"] = sample["cpu_seconds"].clone();
    }
}
