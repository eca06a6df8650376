//! The state log stays short: it is cut while it is written, and a restart after `kill -9` reads
//! about what is live. State that reaches its limit pauses the input, and says so.

use anyhow::{Context as _, Result, ensure};
use caudal_core::avro::Writer;
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, Work, kill_in_flight, wait_until};
use caudal_e2e::flight::OpenTxns;
use caudal_e2e::http::{get, is_ready, metric, metric_sum};
use caudal_e2e::load::PacedLoad;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::topic;
use caudal_kafka::Kafka;
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::Offsets;
use caudal_processor::block::{Assembler, Entry, task_of};
use caudal_query::partials::RawPartial;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
const MIB: f64 = 1024.0 * 1024.0;

#[test]
fn a_restart_reads_about_what_is_live() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("state_log")? else { return Ok(()) };
    let mut moments = Moments::seeded();
    let (records, seed) = ("600000", "15");
    let expectation = Expectation::of(records, seed)?;
    let load = PacedLoad::start(&pipeline, records, seed, "12000")?;
    // Ids are forgotten after ten minutes of event time: most of what is written dies.
    let listen = pipeline.metrics_address(0)?;
    let process = ["--dedup-horizon-s", "600", "--metrics-listen", &listen];
    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    let work = Work::Txn(&output, output.ends()?);
    let mut processor = pipeline.start("caudal-processor", "processor", &process)?;
    wait_until("every partition of the state log is cut", LIMIT, || {
        ensure!(processor.ended()?.is_none(), "it ended; log {}", processor.log.display());
        Ok(topic::ranges(&pipeline.kafka, topics::ESTADO)?.iter().all(|(first, _)| *first > 0))
    })?;
    kill_in_flight(&mut processor, &work, &mut moments)?;
    println!("first and end offsets: {:?}", topic::ranges(&pipeline.kafka, topics::ESTADO)?);

    let _processor = pipeline.start("caudal-processor", "processor", &process)?;
    wait_until("the processor is ready again", LIMIT, || Ok(is_ready(&listen)))?;
    let read = metric_sum(&listen, "caudal_processor_restore_bytes_total")?;
    let took = metric_sum(&listen, "caudal_processor_restore_duration_seconds_sum")?;
    let tasks = metric_sum(&listen, "caudal_processor_restore_duration_seconds_count")?;
    // It counts its state once a second.
    wait_until("the restored state is counted", LIMIT, || {
        Ok(metric_sum(&listen, "caudal_processor_state_entries")? > 0.0)
    })?;
    let live = live_bytes(&pipeline.kafka, &listen)?;
    println!(
        "restored {tasks} tasks in {:.2} s each: read {read} bytes, live {live:.0}",
        took / tasks
    );
    ensure!(read > 0.0 && live > 0.0, "nothing was restored");
    // Beside four times what is live: a partition is cut every 2 MiB, and a cut takes a moment.
    ensure!(read <= 4.0 * live + 6.0 * 4.0 * MIB, "read {read} bytes for {live:.0} live ones");

    let _sink = pipeline.start("caudal-sink", "sink", &[])?;
    load.finish(LIMIT)?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    // With the horizon that the processor had; a difference is an exit status.
    pipeline.caudal(&["verify", "--dedup-horizon-s", "600"]).map(|_| ())
}

/// Bytes of the entries that are live: their number by the processor, times what an entry of that
/// query takes in the log.
fn live_bytes(kafka: &Kafka, listen: &str) -> Result<f64> {
    let entries = metric(listen, "caudal_processor_state_entries")?;
    let mut sizes = BTreeMap::new();
    // The processor runs, and cuts the log: a reading that meets a cut begins again.
    wait_until("a reading between two cuts", LIMIT, || match entry_sizes(kafka) {
        Err(error) if error.to_string().contains("was cut while it was read") => Ok(false),
        read => {
            sizes = read?;
            Ok(true)
        }
    })?;
    let live = entries.iter().map(|(query, count)| {
        let (bytes, written) = sizes.get(query).copied().unwrap_or((0.0, 1.0));
        println!(
            "  {query}: {count} live, {:.1} bytes each, {written} in the log",
            bytes / written
        );
        count * bytes / written
    });
    Ok(live.sum())
}

/// Bytes and number of the entries in the log, by query.
fn entry_sizes(kafka: &Kafka) -> Result<BTreeMap<String, (f64, f64)>> {
    let mut assemblers: HashMap<_, Assembler> = HashMap::new();
    let mut sizes: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    topic::read(kafka, topics::ESTADO, |record| {
        let part = record.value.as_deref().context("a state block without a value")?;
        let Some(block) = assemblers.entry(task_of(part)?).or_default().add(part)? else {
            return Ok(());
        };
        block.for_each(|entry, input| {
            let mut out = Writer::new();
            let query = match entry {
                Entry::Seen(seen) => {
                    seen.write(&mut out);
                    "dedup"
                }
                Entry::Accumulator(place) => {
                    RawPartial::read(input)?.write(&mut out);
                    &block.head.plans[place].name
                }
            };
            let sum = sizes.entry(format!("query=\"{query}\"")).or_default();
            *sum = (sum.0 + out.len() as f64, sum.1 + 1.0);
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(sizes)
}

#[test]
fn a_full_state_pauses_the_input_and_says_so() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("state_limit")? else { return Ok(()) };
    let (records, seed) = ("100000", "16");
    let expectation = Expectation::of(records, seed)?;
    pipeline.run("caudal-producer", &["--generate", records, "--seed", seed], LIMIT)?;
    let listen = pipeline.metrics_address(0)?;
    let process = ["--batch-records", "2000", "--metrics-listen", &listen];
    let limited = [&process[..], &["--state-limit-mib", "1"]].concat();
    let mut processor = pipeline.start("caudal-processor", "processor", &limited)?;
    let mut answer = String::new();
    wait_until("the limit is reached", LIMIT, || {
        ensure!(processor.ended()?.is_none(), "it ended; log {}", processor.log.display());
        answer = get(&listen, "/readyz").unwrap_or_default();
        Ok(answer.contains("--state-limit-mib"))
    })?;
    let what = answer.lines().last().unwrap_or_default();
    println!("{what}");
    ensure!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let named = ["dedup", "ventas_gold", "alertas_fraude"].iter().any(|query| {
        let said = what.split_once(&format!("the largest is {query} with "));
        said.is_some_and(|(_, rest)| rest.split_once(" keys").is_some_and(|(n, _)| is_number(n)))
    });
    ensure!(named, "it does not say which query and how many keys: {what}");

    // What had been gathered may still be committed; then nothing moves, although there is input.
    let mut before = Vec::new();
    wait_until("the input is paused", Duration::from_secs(60), || {
        let now = positions(&pipeline.kafka)?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(std::mem::replace(&mut before, now.clone()) == now)
    })?;
    let ends = topic::ranges(&pipeline.kafka, topics::TRANSACCIONES)?;
    let left: i64 = ends.iter().map(|(_, end)| end).sum::<i64>() - before.iter().sum::<i64>();
    println!("paused with {left} offsets of input left");
    ensure!(left > 10_000, "nothing was left to be paused");
    ensure!(processor.ended()?.is_none(), "it ended; log {}", processor.log.display());
    ensure!(!is_ready(&listen), "it is paused, and says that it is ready");
    ensure!(processor.terminate()?.success(), "log {}", processor.log.display());

    let _processor = pipeline.start("caudal-processor", "processor", &process)?;
    let _sink = pipeline.start("caudal-sink", "sink", &[])?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;
    pipeline.assert_balanced()
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|number| number > 0)
}

/// What the group has committed of each partition of the input.
fn positions(kafka: &Kafka) -> Result<Vec<i64>> {
    let offsets = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-processor")?;
    let topic: Arc<str> = topics::TRANSACCIONES.into();
    let partitions: Vec<_> = (0..6).map(|p| (Arc::clone(&topic), p)).collect();
    let committed = offsets.committed(&partitions)?;
    Ok(committed.into_values().map(|c| c.map_or(0, |c| c.next_offset)).collect())
}
