//! One drain of the preloaded input through the shipped plans by the real processor.

use super::load;
use crate::gauge::{self, Brokers, Scrape};
use anyhow::Result;
use caudal_core::topics;
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_producer::generate::Expected;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
/// Not more often: it is the processor that answers, and its CPU that is measured.
const LOOK: Duration = Duration::from_millis(100);

/// How to run it.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Name in tables and results.
    pub name: &'static str,
    /// Commit interval in milliseconds.
    pub interval_ms: u32,
    /// `processing.guarantee`.
    pub guarantee: &'static str,
    /// Engine threads.
    pub threads: u32,
    /// Most records of a batch.
    pub batch: u32,
}

impl Config {
    /// Arguments of the processor.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        let args = [
            ("--commit-interval-ms", self.interval_ms.to_string()),
            ("--processing-guarantee", self.guarantee.to_owned()),
            ("--threads", self.threads.to_string()),
            ("--batch-records", self.batch.to_string()),
            ("--instance", "bench".to_owned()),
        ];
        args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

/// Starts the processor so that its metrics can be looked at, and says where.
///
/// # Errors
/// When it cannot be started.
pub fn start(pipeline: &Pipeline, args: &[String]) -> Result<(Service, String)> {
    let port = pipeline.stack.topology().services.get("caudal-processor").copied().unwrap_or(9402);
    let address = format!("127.0.0.1:{port}");
    let mut all = vec!["--metrics-listen", &address];
    all.extend(args.iter().map(String::as_str));
    Ok((pipeline.start("caudal-processor", "processor", &all)?, address))
}

/// What one look saw.
#[derive(Debug, Clone, Default)]
pub struct Look {
    at: Option<Instant>,
    /// Input records whose commit is known.
    pub done: f64,
    /// Records of `caudal_parciales` written and not merged yet.
    pub lag: f64,
    cpu: f64,
    broker_cpu: f64,
    commits: f64,
}

impl Look {
    fn of(scrape: &Scrape, pid: u32, brokers: &Brokers) -> Result<Look> {
        let sent = scrape.one("caudal_processor_outputs_total", "topic", topics::PARCIALES);
        Ok(Look {
            at: Some(Instant::now()),
            done: scrape.sum("caudal_processor_records_total"),
            lag: sent - scrape.sum("caudal_processor_partials_total"),
            cpu: gauge::cpu(pid)?,
            broker_cpu: brokers.cpu()?,
            commits: scrape.one("caudal_processor_transactions_total", "result", "committed"),
        })
    }
}

/// All looks at one drain.
#[derive(Debug, Default)]
struct Course {
    first: Look,
    last: Option<Look>,
    lags: Vec<f64>,
    touched: Vec<f64>,
    peak_rss_mib: f64,
    scrape: Scrape,
}

/// One run on fresh topics.
///
/// # Errors
/// When the stack fails; a run that fails is a sample with its problem.
pub fn sample(pipeline: &Pipeline, config: &Config, expected: &Expected) -> Result<Json> {
    load::reset(pipeline)?;
    let load_average = gauge::load_average();
    let mut args = config.args();
    args.push("--until-caught-up".into());
    let (mut service, address) = start(pipeline, &args)?;
    let (course, end) = follow(pipeline, &mut service, &address, expected)?;
    let mut sample = course.figures();
    sample["load_average"] = load_average;
    let written = load::count(pipeline, topics::VALIDAS)?;
    let problem = end.or_else(|| course.audit(expected, written));
    if let Some(problem) = problem {
        sample["problem"] = json!(problem);
    }
    Ok(sample)
}

/// Looks until it ends; a problem where it did not end well.
fn follow(
    pipeline: &Pipeline,
    service: &mut Service,
    address: &str,
    expected: &Expected,
) -> Result<(Course, Option<String>)> {
    let brokers = Brokers::of(&pipeline.stack)?;
    let begun = Instant::now();
    let mut course = Course::default();
    #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
    let wanted = expected.lines as f64;
    loop {
        if let Some(status) = service.ended()? {
            let problem =
                (!status.success()).then(|| format!("{status}; see test-logs/bench/processor.log"));
            return Ok((course, problem));
        }
        if begun.elapsed() > LIMIT {
            service.kill()?;
            return Ok((course, Some(format!("not caught up after {} s", LIMIT.as_secs()))));
        }
        if let Some(scrape) = Scrape::get(address)
            && let Ok(look) = Look::of(&scrape, service.pid(), &brokers)
        {
            course.peak_rss_mib = gauge::peak_rss_mib(service.pid()).max(course.peak_rss_mib);
            course.add(look, scrape, wanted);
        }
        std::thread::sleep(LOOK);
    }
}

impl Course {
    fn add(&mut self, look: Look, scrape: Scrape, wanted: f64) {
        if look.done > 0.0 && self.last.is_none() {
            self.lags.push(look.lag);
            self.touched.push(scrape.sum("caudal_processor_partitions_touched"));
        }
        if self.first.done == 0.0 {
            self.first = look.clone();
        }
        if self.last.is_none() && look.done >= wanted && look.lag <= 0.0 {
            self.last = Some(look);
        }
        self.scrape = scrape;
    }

    fn figures(&self) -> Json {
        let Some((last, begun, ended)) =
            self.last.as_ref().and_then(|last| Some((last, self.first.at?, last.at?)))
        else {
            return json!({ "problem": "it was not seen to catch up" });
        };
        let (first, seconds) = (&self.first, (ended - begun).as_secs_f64());
        let records = (last.done - first.done).max(1.0);
        let commits = (last.commits - first.commits).max(1.0);
        let broker_cpu = last.broker_cpu - first.broker_cpu;
        let outputs = self.scrape.by_label("caudal_processor_outputs_total", "topic");
        let written: f64 = outputs.values().sum();
        let mean = |values: &[f64]| {
            values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap_or(1).max(1))
        };
        json!({
            "records": records,
            "seconds": seconds,
            "records_per_second": records / seconds,
            "cpu_us_per_record": (last.cpu - first.cpu) * 1e6 / records,
            "broker_cpu_us_per_record": broker_cpu * 1e6 / records,
            "peak_rss_mib": self.peak_rss_mib,
            "commits": commits,
            "records_per_commit": records / commits,
            "broker_cpu_ms_per_commit": broker_cpu * 1e3 / commits,
            "partitions_per_commit": mean(&self.touched),
            "parciales_lag_mean": mean(&self.lags),
            "parciales_lag_max": self.lags.iter().copied().fold(0.0, f64::max),
            "outputs": outputs,
            "written_per_record": written / last.done,
            "state_entries": self.scrape.by_label("caudal_processor_state_entries", "query"),
            "state_bytes": self.scrape.by_label("caudal_processor_state_bytes", "query"),
        })
    }

    /// Counts against the generator's expectation; what differs.
    fn audit(&self, expected: &Expected, written: u64) -> Option<String> {
        let records = self.scrape.by_label("caudal_processor_records_total", "outcome");
        let found = |name: &str| records.get(name).copied().unwrap_or(0.0);
        let dead: u64 = expected.dead.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
        let counts = [
            ("valid", found("ok"), expected.valid as f64),
            ("duplicates", found("duplicate"), expected.duplicates as f64),
            ("dead letters", found("dlq"), dead as f64),
            ("records in transacciones_validas", written as f64, expected.valid as f64),
        ];
        let differs = |(_, found, wanted): &&(&str, f64, f64)| (found - wanted).abs() > 0.1;
        let wrong: Vec<String> = counts
            .iter()
            .filter(differs)
            .map(|(what, found, wanted)| format!("{what}: {found}, expected {wanted}"))
            .collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}
