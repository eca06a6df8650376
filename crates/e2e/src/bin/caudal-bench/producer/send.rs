//! One run of a sender, as a process of its own, on a topic of its own.

use crate::gauge::{self, Brokers};
use anyhow::{Context as _, Result, ensure};
use caudal_core::schema::Schemas;
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::Kafka;
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use caudal_producer::generate::{Generator, Recipe};
use serde_json::{Value as Json, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
const SEED: &str = "6";
/// So many different values Kafka's tool draws from.
const PAYLOADS: u64 = 10_000;
/// Ours, in Java's names, but for a batch of 256 KiB instead of 1 MB: Java allocates its buffer in
/// whole batches. Other settings of Java's were not tried.
pub const PERF_PROPERTIES: [&str; 7] = [
    "acks=all",
    "enable.idempotence=true",
    "compression.type=snappy",
    "linger.ms=5",
    "batch.size=262144",
    "buffer.memory=134217728",
    "max.in.flight.requests.per.connection=5",
];

/// What all runs share.
pub struct Bench<'a> {
    /// The stack.
    pub pipeline: &'a Pipeline,
    /// Mean bytes of key and value of the generator's records.
    pub record_size: usize,
    records: u64,
    csv: PathBuf,
    payloads: PathBuf,
    run: Cell<u32>,
}

impl<'a> Bench<'a> {
    /// Writes the CSV file.
    ///
    /// # Errors
    /// When the producer fails.
    pub fn new(pipeline: &'a Pipeline, records: u64) -> Result<Bench<'a>> {
        let csv = pipeline.logs.join("generated.csv");
        let (count, path) = (records.to_string(), csv.display().to_string());
        let args = ["--generate", &count, "--seed", SEED, "--write-csv", &path];
        pipeline.run("caudal-producer", &args, Duration::from_secs(300))?;
        // For the shell scripts of Kafka's tools.
        pipeline.caudal(&["stack", "env"])?;
        let payloads = pipeline.logs.join("payloads.txt");
        let record_size = write_payloads(&csv, &payloads)?;
        Ok(Bench { pipeline, record_size, records, csv, payloads, run: Cell::new(0) })
    }

    /// A name for a topic and source of this run.
    fn name(&self) -> String {
        self.run.set(self.run.get() + 1);
        format!("bench_producer_{}", self.run.get())
    }

    /// Runs `each` with a new topic, which is removed afterwards; `each` gives a sample and how
    /// many records the topic must hold.
    ///
    /// # Errors
    /// When the stack fails.
    pub fn on_topic(&self, each: impl FnOnce(&str) -> Result<(Json, u64)>) -> Result<Json> {
        let name = self.name();
        let admin = Admin::connect(&self.pipeline.kafka)?;
        let config = [("max.message.bytes".to_owned(), "1048576".to_owned())].into();
        admin.create(&Topic {
            name: name.clone(),
            partitions: PARTITIONS,
            replication: 3,
            config,
        })?;
        self.wait_known(&name)?;
        let load_average = gauge::load_average();
        let brokers = Brokers::of(&self.pipeline.stack)?;
        let before = brokers.cpu()?;
        let failed = |error: anyhow::Error| (json!({ "problem": format!("{error:#}") }), 0);
        let (mut sample, wanted) = each(&name).unwrap_or_else(failed);
        let spent = brokers.cpu()? - before;
        let found = self.count(&name)?;
        admin.delete(&[&name])?;
        #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
        let per_record = 1e6 / wanted.max(1) as f64;
        sample["broker_cpu_us_per_record"] = json!(spent * per_record);
        let cpu = sample["cpu_seconds"].as_f64().unwrap_or(f64::NAN);
        sample["cpu_us_per_record"] = json!(cpu * per_record);
        sample["load_average"] = load_average;
        if found != wanted && sample["problem"].is_null() {
            sample["problem"] = json!(format!("{found} records in the topic, not {wanted}"));
        }
        Ok(sample)
    }

    /// Waits until every broker knows the topic.
    fn wait_known(&self, topic: &str) -> Result<()> {
        for broker in self.pipeline.stack.bootstrap_servers().split(',') {
            wait_until(&format!("{broker} knows {topic}"), PATIENCE, || {
                let kafka = Kafka::plain(broker);
                let offsets = Offsets::connect(&kafka, Isolation::ReadCommitted, "caudal-bench")?;
                Ok((0..PARTITIONS).all(|p| offsets.watermarks(topic, p).is_ok()))
            })?;
        }
        Ok(())
    }

    fn count(&self, topic: &str) -> Result<u64> {
        let mut reader = LogReader::connect(&self.pipeline.kafka, topic)?;
        (0..PARTITIONS).for_each(|partition| reader.add(partition, None));
        let mut count = 0;
        reader.read_all::<anyhow::Error>(PATIENCE, |_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Kafka's own tool; its rate is what it prints, its CPU includes the start of Java.
    ///
    /// # Errors
    /// When it fails.
    pub fn perf_test(&self, records: u64) -> Result<Json> {
        self.on_topic(|topic| {
            let tool = self.pipeline.stack.home().join("bin/kafka-producer-perf-test.sh");
            let mut command = Command::new(tool);
            command
                .args(["--topic", topic, "--num-records", &records.to_string()])
                .args(["--throughput", "-1", "--payload-file"])
                .arg(&self.payloads)
                .args(["--bootstrap-server", &self.pipeline.stack.bootstrap_servers()])
                .arg("--command-property")
                .args(PERF_PROPERTIES);
            let (mut sample, text, _) = measured(command)?;
            let rate = text.lines().rev().find_map(|line| {
                let (before, _) = line.split_once(" records/sec")?;
                before.rsplit(' ').next()?.parse::<f64>().ok()
            });
            let rate = rate.with_context(|| format!("no rate: {text}"))?;
            #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
            let seconds = records as f64 / rate;
            sample["records_per_second"] = json!(rate);
            sample["seconds"] = json!(seconds);
            Ok((sample, records))
        })
    }

    /// The generator of `caudal-producer`.
    ///
    /// # Errors
    /// When it fails.
    pub fn generator(&self, guarantee: &str, records: u64) -> Result<Json> {
        let count = records.to_string();
        let args = ["--generate", &count, "--seed", SEED, "--processing-guarantee", guarantee];
        self.ours(&args, records)
    }

    /// The same data from a CSV file: parsed, mapped, validated, encoded.
    ///
    /// # Errors
    /// When it fails.
    pub fn csv(&self) -> Result<Json> {
        let path = self.csv.display().to_string();
        let args = ["--mapping", "config/sources/generated.toml", "--input", &path];
        self.ours(&args, self.records)
    }

    fn ours(&self, args: &[&str], records: u64) -> Result<Json> {
        self.on_topic(|topic| {
            let mut command = self.pipeline.command("caudal-producer")?;
            command.args(["--topic", topic, "--source", topic, "--log-format", "json"]).args(args);
            let (mut sample, _, log) = measured(command)?;
            let last = log.lines().rev().find_map(|l| serde_json::from_str::<Json>(l).ok());
            let last = last.with_context(|| log.clone())?;
            ensure!(last["message"] == "done", "{log}");
            let seconds = last["sending_seconds"].as_f64().context("no sending_seconds")?;
            #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
            let rate = records as f64 / seconds;
            sample["records_per_second"] = json!(rate);
            sample["seconds"] = json!(seconds);
            Ok((sample, records))
        })
    }
}

/// Values for Kafka's tool: lines of the CSV, cut or filled up to the size (key and value) of the
/// generator's records, so that both send as many bytes, and these compress alike. (Its own are
/// random letters, which snappy cannot compress.) Gives the mean size.
fn write_payloads(csv: &Path, payloads: &Path) -> Result<usize> {
    let schema = Schemas::shipped().transaction.id;
    let text = std::fs::read_to_string(csv)?;
    let records = Generator::new(Recipe::new(PAYLOADS, 6), "bench", schema);
    let mut out = String::new();
    for (record, line) in records.zip(text.lines().skip(1)) {
        let size = record.key.len() + record.value.map_or(0, |value| value.len());
        let mut left = size;
        let fits = |c: &char| {
            let fits = c.len_utf8() <= left;
            left = left.saturating_sub(c.len_utf8());
            fits
        };
        out.extend(line.chars().cycle().take_while(fits));
        out.push('\n');
    }
    std::fs::write(payloads, &out)?;
    Ok(out.len() / usize::try_from(PAYLOADS)? - 1)
}

/// Runs a command to its end: wall and CPU seconds of all its processes, and what it printed.
fn measured(mut command: Command) -> Result<(Json, String, String)> {
    let (before, begun) = (gauge::cpu_of_children()?, Instant::now());
    let output = command.output()?;
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), gauge::cpu_of_children()? - before);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {}\n{text}\n{log}", output.status);
    Ok((json!({ "wall_seconds": wall, "cpu_seconds": cpu }), text, log))
}
