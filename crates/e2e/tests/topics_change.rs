//! Topics that change under the sink: one that is deleted and created again, offsets that are
//! deleted before they are stored, at the start and while it runs, and new partitions.

use anyhow::{Context as _, Result, ensure};
use caudal_core::avro::{Writer, write_strings, write_transaction};
use caudal_core::json::read_transaction;
use caudal_core::outbox::{Origin, OutRecord, Outbox};
use caudal_core::schema::Schemas;
use caudal_core::topics::VALIDAS;
use caudal_e2e::fault::{signal, wait_until};
use caudal_e2e::http::{is_ready, metric_sum};
use caudal_e2e::pipeline::{Pipeline, Service, binaries};
use caudal_e2e::{query, topic};
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::topic_ids::topic_ids;
use caudal_kafka::txn::TxnProducer;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const HALTED: i32 = 3;
const GAP_METRIC: &str = "caudal_sink_gap_offsets_total";

/// A pipeline of which only the sink runs: the test writes its topic.
struct Bench {
    pipeline: Pipeline,
    admin: Admin,
    producer: TxnProducer,
}

impl Bench {
    fn new(test: &str) -> Result<Option<Bench>> {
        let Some(pipeline) = Pipeline::empty(&format!("topics_change/{test}"))? else {
            return Ok(None);
        };
        let admin = Admin::connect(&pipeline.kafka)?;
        let producer = TxnProducer::connect(&pipeline.kafka, "topics-change", None, LIMIT)?;
        Ok(Some(Bench { pipeline, admin, producer }))
    }

    /// Sends valid transactions `t<id>` in one txn, numbered by their id where `numbered`. They
    /// take one offset each, and the commit marker one.
    fn send(&mut self, partition: i32, ids: Range<u64>, numbered: bool) -> Result<()> {
        let topic: Arc<str> = Arc::from(VALIDAS);
        let record = |id: u64| -> Result<OutRecord> {
            let json = format!(
                r#"{{"transaction_id":"t{id}","account_id":"a","merchant_id":"m","amount":"1.00",
                "currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z"}}"#
            );
            let transaction = read_transaction(json.as_bytes(), "test", 0)
                .map_err(|e| anyhow::anyhow!("{e:?}"))?;
            let mut out = Writer::framed(Schemas::shipped().valid.id);
            write_transaction(&mut out, &transaction);
            write_strings(&mut out, std::iter::empty());
            let origin = Origin { task: "1-0".into(), sequence: id, partition: 0, offset: 0 };
            Ok(OutRecord {
                topic: Arc::clone(&topic),
                partition,
                key: Some(b"a".to_vec()),
                value: Some(out.into_bytes()),
                origin: numbered.then_some(origin),
                headers: Vec::new(),
            })
        };
        let records = ids.map(record).collect::<Result<_>>()?;
        let mut outbox = Outbox { records, positions: Vec::new() };
        self.producer.commit(&mut outbox, None)?;
        Ok(())
    }

    /// Runs the sink until all is stored.
    fn catch_up(&self, args: &[&str]) -> Result<()> {
        self.pipeline.run("caudal-sink", &[&["--until-caught-up"], args].concat(), LIMIT)
    }

    fn start(&self, label: &str, args: &[&str]) -> Result<Service> {
        let listen = self.pipeline.metrics_address(0)?;
        let args = [&["--metrics-listen", &listen], args].concat();
        let service = self.pipeline.start("caudal-sink", label, &args)?;
        wait_until("the sink is ready", LIMIT, || Ok(is_ready(&listen)))?;
        Ok(service)
    }

    /// Starts a sink that must halt, and gives what it says.
    fn halts(&self, label: &str) -> Result<String> {
        let mut sink = self.pipeline.start("caudal-sink", label, &[])?;
        let status = sink.wait(LIMIT)?;
        let log = std::fs::read_to_string(&sink.log)?;
        ensure!(status.code() == Some(HALTED), "{status} instead of a halt:\n{log}");
        log.lines().rfind(|line| line.contains("halted")).map(str::to_owned).context(log)
    }

    /// Number of rows of transactions.
    fn rows(&self) -> Result<u64> {
        let sql = "SELECT count(*)::text FROM transactions";
        Ok(query::text(&self.pipeline.database_url, sql)?.parse()?)
    }

    /// The position of a partition: next offset, and the topic's id (`-` where there is none).
    fn position(&self, partition: i32) -> Result<(i64, String)> {
        let sql = format!(
            "SELECT next_offset || ' ' || coalesce(topic_id, '-') FROM sink_offsets
             WHERE topic = '{VALIDAS}' AND partition = {partition}"
        );
        let text = query::text(&self.pipeline.database_url, &sql)?;
        let (next, id) = text.split_once(' ').context("two words")?;
        Ok((next.parse()?, id.to_owned()))
    }

    fn id(&self) -> Result<String> {
        let mut ids = topic_ids(&self.pipeline.kafka, &[VALIDAS])?;
        ids.remove(VALIDAS).context("the topic has no id")
    }

    fn execute(&self, sql: &str) -> Result<u64> {
        query::execute(&self.pipeline.database_url, sql)
    }

    /// Deletes the topic and creates it again, as it was.
    fn recreate(&mut self) -> Result<()> {
        let topic: Topic = self.admin.topics()?.remove(VALIDAS).context("no such topic")?;
        self.admin.delete(&[VALIDAS])?;
        wait_until("the topic is created again", LIMIT, || {
            if self.admin.topics()?.contains_key(VALIDAS) {
                return Ok(false);
            }
            Ok(self.admin.create(&topic).is_ok())
        })?;
        wait_until("every partition has a leader", LIMIT, || {
            for partition in 0..topic.partitions {
                if self.admin.leader(VALIDAS, partition)?.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        // What a client still knows of the old topic is not what this is about.
        self.producer = TxnProducer::connect(&self.pipeline.kafka, "topics-change", None, LIMIT)?;
        Ok(())
    }
}

fn ensure_words(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "no {word:?} in: {text}");
    }
    Ok(())
}

/// The ids of all topics, as Kafka's own tool prints them.
fn ids_of_the_tool(pipeline: &Pipeline) -> Result<BTreeMap<String, String>> {
    let script = format!(
        "eval \"$('{}' stack env)\" && kafka-topics.sh --describe --bootstrap-server '{}'",
        binaries()?.join("caudal").display(),
        pipeline.stack.bootstrap_servers()
    );
    let home = pipeline.stack.home();
    let output = Command::new("bash").args(["-c", &script]).env("CAUDAL_HOME", home).output()?;
    let text = String::from_utf8(output.stdout)?;
    let ids = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, id) = (words.nth(1)?, words.nth(1)?);
        line.starts_with("Topic: ").then(|| (name.to_owned(), id.to_owned()))
    });
    Ok(ids.collect())
}

#[test]
fn a_topic_that_is_created_again_halts_and_the_flag_goes_on() -> Result<()> {
    let Some(mut bench) = Bench::new("recreated")? else { return Ok(()) };
    let theirs = ids_of_the_tool(&bench.pipeline)?;
    let names: Vec<&String> = theirs.keys().collect();
    ensure!(names.len() >= 9, "the tool shows only {names:?}");
    let ours = topic_ids(&bench.pipeline.kafka, &names)?;
    ensure!(ours == theirs, "{ours:#?}\nbut the tool says {theirs:#?}");

    bench.send(0, 0..10, true)?;
    bench.send(1, 10..20, false)?;
    bench.catch_up(&[])?;
    let old = bench.id()?;
    ensure!(bench.position(0)? == (10, old.clone()), "{:?}", bench.position(0)?);
    // A row from before ids were stored gets one.
    bench.execute("UPDATE sink_offsets SET topic_id = NULL")?;
    bench.catch_up(&[])?;
    ensure!(bench.position(1)? == (10, old.clone()), "{:?}", bench.position(1)?);

    bench.recreate()?;
    let new = bench.id()?;
    ensure!(new != old, "the id is still {old}");
    // More than the old topic held: offsets and numbers would fit.
    bench.send(0, 0..15, true)?;
    bench.send(1, 30..45, false)?;
    bench.send(2, 50..53, false)?;
    let said = bench.halts("halts")?;
    ensure_words(
        &said,
        &["transacciones_validas-", "offset 10", &old, &new, "created again", "--accept-gap"],
    )?;
    ensure!(bench.rows()? == 20, "{} rows", bench.rows()?);
    ensure!(bench.position(0)? == (10, old), "{:?}", bench.position(0)?);

    bench.catch_up(&["--accept-gap"])?;
    // 0..15 are there already, equal; 30..45 and 50..53.
    ensure!(bench.rows()? == 20 + 15 + 3, "{} rows", bench.rows()?);
    for (partition, next) in [(0, 15), (1, 15), (2, 3)] {
        let position = bench.position(partition)?;
        ensure!(position == (next, new.clone()), "{partition}: {position:?}");
    }
    bench.catch_up(&[])?;
    ensure!(bench.rows()? == 38, "{} rows", bench.rows()?);
    recreated_while_running(&mut bench)
}

fn recreated_while_running(bench: &mut Bench) -> Result<()> {
    let old = bench.id()?;
    let before = bench.position(1)?;
    let mut sink = bench.start("running", &[])?;
    bench.recreate()?;
    // Far beyond the old position: the client itself would read on in the new topic.
    bench.send(1, 100..200, false)?;
    let status = sink.wait(LIMIT)?;
    let log = std::fs::read_to_string(&sink.log)?;
    let last = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default();
    println!("the sink that ran ended with {status}: {last}");
    ensure!(!status.success(), "it stopped in good order:\n{log}");
    ensure!(bench.position(1)?.1 == old, "{:?} before, {:?}", before, bench.position(1)?);
    let said = bench.halts("halts-again")?;
    ensure_words(&said, &[&old, &bench.id()?, "created again"])?;
    bench.catch_up(&["--accept-gap"])?;
    ensure!(bench.rows()? == 38 + 100, "{} rows", bench.rows()?);
    Ok(())
}

/// Cuts a partition at its end, and gives that.
fn cut(bench: &Bench, partition: i32) -> Result<i64> {
    let index = usize::try_from(partition)?;
    let end =
        |_: ()| -> Result<i64> { Ok(topic::ranges(&bench.pipeline.kafka, VALIDAS)?[index].1) };
    let below = end(())?;
    bench.admin.delete_records(VALIDAS, &[(partition, below)])?;
    Ok(below)
}

#[test]
fn deleted_offsets_halt_at_the_start_and_are_counted() -> Result<()> {
    let Some(mut bench) = Bench::new("deleted")? else { return Ok(()) };
    // Partition 0 without numbers, 1 and 2 with.
    bench.send(0, 0..10, false)?;
    bench.send(1, 100..110, true)?;
    bench.send(2, 200..210, true)?;
    bench.catch_up(&[])?;
    ensure!(bench.rows()? == 30, "{} rows", bench.rows()?);

    // What is deleted was stored, and a marker: the next number tells that nothing is missing.
    ensure!(cut(&bench, 2)? == 11, "a marker more than records");
    bench.send(2, 210..213, true)?;
    bench.catch_up(&[])?;
    ensure!(bench.rows()? == 33, "{} rows", bench.rows()?);
    ensure!(bench.position(2)?.0 == 14, "{:?}", bench.position(2)?);

    bench.send(0, 10..15, false)?;
    ensure!(cut(&bench, 0)? == 17, "two markers");
    bench.send(0, 15..18, false)?;
    let said = bench.halts("unnumbered")?;
    ensure_words(
        &said,
        &["transacciones_validas-0", "offsets 10 to 16", "7 offsets", "--accept-gap"],
    )?;
    ensure!(bench.position(0)?.0 == 10, "{:?}", bench.position(0)?);
    bench.catch_up(&["--accept-gap"])?;
    ensure!(bench.position(0)?.0 == 20, "{:?}", bench.position(0)?);
    // 15..18; what was between is lost.
    ensure!(bench.rows()? == 36, "{} rows", bench.rows()?);

    bench.send(1, 110..115, true)?;
    cut(&bench, 1)?;
    bench.send(1, 115..120, true)?;
    let said = bench.halts("numbered")?;
    ensure_words(
        &said,
        &[
            "transacciones_validas-1@17",
            "number 110",
            "found 115",
            "offsets 10 to 16",
            "--accept-gap",
        ],
    )?;
    ensure!(bench.position(1)?.0 == 10, "{:?}", bench.position(1)?);
    let sink = bench.start("accepts", &["--accept-gap"])?;
    let listen = bench.pipeline.metrics_address(0)?;
    wait_until("what is left is stored", LIMIT, || Ok(bench.rows()? == 41))?;
    let counted = metric_sum(&listen, GAP_METRIC)?;
    ensure!(counted == 7.0, "{counted} offsets are counted");
    drop(sink);
    ensure!(bench.position(1)?.0 == 22, "{:?}", bench.position(1)?);
    // The flag is for once: it goes on without.
    bench.catch_up(&[])?;
    ensure!(bench.rows()? == 41, "{} rows", bench.rows()?);
    Ok(())
}

/// Freezes the sink, sends records and deletes them before it can have read them, and lets it go
/// on. Gives the end of the gap. A request of the sink's may be on its way, and bring the records
/// after all: then it is tried again.
fn delete_under(bench: &mut Bench, sink: &Service, first_id: u64) -> Result<(i64, i64)> {
    let needle = "every partition is claimed again";
    let seen = |log: &Service| -> Result<usize> {
        Ok(std::fs::read_to_string(&log.log)?.matches(needle).count())
    };
    let before = seen(sink)?;
    for attempt in 0..10 {
        let from = bench.position(0)?.0;
        signal(sink.pid(), "STOP")?;
        // The broker answers a request that waits for records within 100 ms.
        std::thread::sleep(Duration::from_millis(400));
        let id = first_id + attempt * 10;
        bench.send(0, id..id + 5, false)?;
        let below = cut(bench, 0)?;
        signal(sink.pid(), "CONT")?;
        let mut hit = false;
        wait_until("it reads them, or misses them", LIMIT, || {
            hit = seen(sink)? > before;
            Ok(hit || bench.position(0)?.0 > from)
        })?;
        println!("attempt {attempt}: from {from}, deleted below {below}, hit {hit}");
        if hit {
            return Ok((from, below));
        }
    }
    anyhow::bail!("ten times the records were read before they were deleted")
}

#[test]
fn deleted_offsets_halt_a_sink_that_runs() -> Result<()> {
    let Some(mut bench) = Bench::new("running")? else { return Ok(()) };
    bench.send(0, 0..10, false)?;
    bench.catch_up(&[])?;
    let mut sink = bench.start("halts", &[])?;
    let (from, below) = delete_under(&mut bench, &sink, 1000)?;
    let status = sink.wait(LIMIT)?;
    let log = std::fs::read_to_string(&sink.log)?;
    ensure!(status.code() == Some(HALTED), "{status} instead of a halt:\n{log}");
    let (range, count) =
        (format!("offsets {from} to {}", below - 1), format!("{} offsets", below - from));
    ensure_words(&log, &["transacciones_validas-0", &range, &count, "--accept-gap"])?;
    ensure!(bench.position(0)?.0 == from, "{:?}", bench.position(0)?);

    // With the flag it goes on by itself.
    let mut sink = bench.start("accepts", &["--accept-gap"])?;
    let rows = bench.rows()?;
    ensure!(bench.position(0)?.0 == below, "{:?}", bench.position(0)?);
    let (from, below_2) = delete_under(&mut bench, &sink, 2000)?;
    let lost = below - from.min(below) + (below_2 - from);
    bench.send(0, 3000..3010, false)?;
    let stored = "SELECT count(*)::text FROM transactions WHERE transaction_id LIKE 't30%'";
    wait_until("what comes later is stored", LIMIT, || {
        Ok(query::text(&bench.pipeline.database_url, stored)? == "10")
    })?;
    let counted = metric_sum(&bench.pipeline.metrics_address(0)?, GAP_METRIC)?;
    println!("{rows} rows before; {counted} offsets passed over, {lost} of them the second time");
    ensure!(counted >= (below_2 - from) as f64, "{counted} offsets are counted");
    ensure!(bench.position(0)?.0 == below_2 + 10, "{:?}", bench.position(0)?);
    ensure!(sink.terminate()?.success(), "log {}", sink.log.display());
    Ok(())
}

#[test]
fn new_partitions_are_read_from_their_beginning() -> Result<()> {
    let Some(mut bench) = Bench::new("growth")? else { return Ok(()) };
    let mut sink = bench.start("sink", &[])?;
    bench.admin.create_partitions(VALIDAS, 8)?;
    wait_until("the new partitions have leaders", LIMIT, || {
        Ok(bench.admin.leader(VALIDAS, 6)?.is_some() && bench.admin.leader(VALIDAS, 7)?.is_some())
    })?;
    let begun = std::time::Instant::now();
    for partition in 0..8 {
        let first = u64::try_from(partition)? * 10;
        bench.send(partition, first..first + 10, false)?;
    }
    // Sent before the sink can know of them: it must not begin at their ends.
    wait_until("all are stored", LIMIT, || Ok(bench.rows()? == 80))?;
    println!("stored after {:.1} s", begun.elapsed().as_secs_f64());
    let id = bench.id()?;
    for partition in 0..8 {
        let position = bench.position(partition)?;
        ensure!(position == (10, id.clone()), "{partition}: {position:?}");
    }
    ensure!(sink.terminate()?.success(), "log {}", sink.log.display());
    bench.pipeline.caudal(&["reset", "--yes"])?;
    Ok(())
}
