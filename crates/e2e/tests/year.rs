//! A year of Online Retail whose six partitions arrive months apart: every query equals what
//! PostgreSQL computes from the same rows, and nothing is late.
//!
//! The file is put into the order of event time + 60 days × partition: while a partition brings
//! its October, the last one brings its first day. Inside a partition the order of time stays.
//! That stage 2 really saw such distances is read from what it was sent.
//!
//! EMIT FINAL is compared for the days that the slowest partition has passed, and for no others: an
//! idle time-out would close the last day too, but in such a replay it would also close windows
//! over a partition that has only not begun.

use anyhow::{Context as _, Result, ensure};
use caudal_core::partitioner::partition_of;
use caudal_core::time::{HOUR, parse_rfc3339};
use caudal_core::topics;
use caudal_e2e::drawn::{Drawn, draw};
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::plans;
use caudal_e2e::query;
use caudal_e2e::rows::{self, difference, start_of};
use caudal_e2e::topic;
use caudal_kafka::Kafka;
use caudal_processor::partials::Message;
use caudal_query::partials::RawPartial;
use caudal_query::plan::{Emit, Plan};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PARTITIONS: i32 = 6;
const DAY: i64 = 24 * HOUR;
const APART: i64 = 60 * DAY;
const MONTH: i64 = 30 * DAY;
const LINES: usize = 541_909;
const LIMIT: Duration = Duration::from_secs(300);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn a_year_that_arrives_months_apart_equals_postgresql() -> Result<()> {
    let data = repository().join("../shared/data/online-retail/online_retail.csv.gz");
    if !data.exists() {
        println!("skipped: needs ../shared/data/online-retail");
        return Ok(());
    }
    let Some(pipeline) = Pipeline::empty("year")? else { return Ok(()) };
    let plans = plans::year();
    topic::create_outputs(&pipeline.kafka, &plans)?;
    let file = pipeline.logs.join("year.csv");
    ensure!(write_apart(&data, &file)? == LINES, "the data has another number of lines");

    process(&pipeline, &file)?;
    pipeline.run("caudal-sink", &["--until-caught-up"], LIMIT)?;
    let url = &pipeline.database_url;
    let stored = query::text(
        url,
        "SELECT format('%s %s', count(*), count(*) FILTER (WHERE late_for <> '{}')) FROM transactions",
    )?;
    ensure!(stored == format!("{LINES} 0"), "rows and late rows: {stored}");

    let skew = Skew::read(&pipeline.kafka, &plans)?;
    skew.print();
    ensure!(skew.widest >= MONTH, "the partitions were only {} h apart", skew.widest / HOUR);
    ensure!(skew.lost_by_naive_rule.values().all(|lost| *lost > 0), "no window was at stake");

    let watermark = slowest_partition(url)?;
    for plan in &plans {
        compare(&pipeline, plan, watermark)?;
    }
    Ok(())
}

/// Statements that a seed draws (`DRAW=n`), over the same year in the same order: two, which have few
/// rows; `make chaos` runs six (`DRAWN=6`: three million rows).
#[test]
fn drawn_statements_over_that_year_equal_postgresql() -> Result<()> {
    let data = repository().join("../shared/data/online-retail/online_retail.csv.gz");
    if !data.exists() {
        println!("skipped: needs ../shared/data/online-retail");
        return Ok(());
    }
    let Some(mut pipeline) = Pipeline::empty("year")? else { return Ok(()) };
    let seed = std::env::var("DRAW").map_or(Ok(1), |seed| seed.parse())?;
    let drawn = draw(seed, std::env::var("DRAWN").map_or(Ok(2), |count| count.parse())?);
    let statements: Vec<&str> = drawn.iter().map(|drawn| drawn.statement.as_str()).collect();
    pipeline.add_queries(&statements.join("\n"))?;
    pipeline.caudal(&["reset", "--yes"])?;
    let file = pipeline.logs.join("year.csv");
    write_apart(&data, &file)?;
    let mapping = repository().join("config/sources/online-retail.toml");
    let (mapping, file) = (mapping.to_string_lossy(), file.to_string_lossy());
    pipeline.run("caudal-producer", &["--mapping", &mapping, "--input", &file], LIMIT)?;
    pipeline.run("caudal-processor", &["--until-caught-up"], LIMIT)?;
    pipeline.run("caudal-sink", &["--until-caught-up"], LIMIT)?;
    let mut rows = 0;
    for Drawn { name, statement, ours, theirs } in &drawn {
        let found = query::equal(&pipeline.database_url, ours, theirs, Duration::ZERO);
        rows += found.with_context(|| statement.clone())?;
        println!("{name}: equal, {rows} rows so far");
    }
    ensure!(rows > 0, "no drawn statement has rows");
    Ok(())
}

/// Runs the producer beside the processor, then what is left.
fn process(pipeline: &Pipeline, file: &Path) -> Result<()> {
    let run = ["--plans", "year", "--batch-records", "50000", "--commit-interval-ms", "500"];
    let mut processor = pipeline.start("caudal-processor-plans", "processor", &run)?;
    let mapping = repository().join("config/sources/online-retail.toml");
    let (mapping, file) = (mapping.to_string_lossy(), file.to_string_lossy());
    pipeline.run("caudal-producer", &["--mapping", &mapping, "--input", &file], LIMIT)?;
    ensure!(processor.terminate()?.success(), "log {}", processor.log.display());
    let rest = [&run[..], &["--until-caught-up"]].concat();
    pipeline.run("caudal-processor-plans", &rest, LIMIT)
}

/// Writes the lines in the order in which they arrive; gives their number.
fn write_apart(data: &Path, file: &Path) -> Result<usize> {
    let plain = flate2::read::GzDecoder::new(std::fs::File::open(data)?);
    let mut reader = csv::Reader::from_reader(plain);
    let header = reader.byte_headers()?.clone();
    let column = |name: &str| {
        let found = header.iter().position(|h| h == name.as_bytes());
        found.with_context(|| format!("column {name}"))
    };
    let (invoice, date, customer) =
        (column("InvoiceNo")?, column("InvoiceDate")?, column("CustomerID")?);
    let mut lines = Vec::with_capacity(LINES);
    for line in reader.byte_records() {
        let line = line?;
        let text = |column: usize| std::str::from_utf8(&line[column]);
        let account = match text(customer)? {
            "" => format!("anon-{}", text(invoice)?),
            id => id.trim_end_matches(".0").to_owned(),
        };
        let time = parse_rfc3339(&format!("{}Z", text(date)?.replace(' ', "T")));
        let home = i64::from(partition_of(account.as_bytes(), PARTITIONS));
        lines.push((time.context("InvoiceDate")? + APART * home, line));
    }
    lines.sort_by_key(|(arrival, _)| *arrival);
    let mut writer = csv::Writer::from_path(file)?;
    writer.write_byte_record(&header)?;
    lines.iter().try_for_each(|(_, line)| writer.write_byte_record(line))?;
    writer.flush()?;
    Ok(lines.len())
}

/// How far apart the source partitions were in the order in which stage 2 merged them.
#[derive(Debug, Default)]
struct Skew {
    /// Widest distance between two stream times known at one moment, in microseconds.
    widest: i64,
    /// Records of partials, and those among them more than a month behind the newest source.
    messages: u64,
    behind: u64,
    /// Per query, the places in windows that one stream time over everything merged (the newest)
    /// would have closed before they were filled.
    lost_by_naive_rule: BTreeMap<String, i64>,
    filled: BTreeMap<String, i64>,
}

impl Skew {
    fn read(kafka: &Kafka, plans: &[Plan]) -> Result<Skew> {
        let mut skew = Skew::default();
        let mut sources: BTreeMap<i32, BTreeMap<i32, i64>> = BTreeMap::new();
        topic::read(kafka, topics::PARCIALES, |record| {
            let message = Message::read(record.value.as_deref().unwrap_or_default())?;
            let known = sources.entry(record.partition).or_default();
            skew.count_lost(&message, plans, known.values().max().copied());
            let Some(told) = message.source.filter(|told| told.stream_time > i64::MIN) else {
                return Ok(());
            };
            known.insert(message.partition, told.stream_time);
            let newest = known.values().max().copied().unwrap_or(told.stream_time);
            let oldest = known.values().min().copied().unwrap_or(told.stream_time);
            skew.widest = skew.widest.max(newest - oldest);
            skew.messages += 1;
            skew.behind += u64::from(newest - told.stream_time > MONTH);
            Ok(())
        })?;
        Ok(skew)
    }

    fn count_lost(&mut self, message: &Message, plans: &[Plan], newest: Option<i64>) {
        for (fingerprint, partials) in &message.partials {
            let Some(plan) = plans.iter().find(|p| p.fingerprint() == *fingerprint) else {
                continue;
            };
            let window = &plan.window;
            for partial in partials {
                for start in window.starts(partial.pane).filter(|start| *start >= partial.from) {
                    let add = |to: &mut BTreeMap<String, i64>| {
                        *to.entry(plan.name.clone()).or_default() += count_of(partial, plan);
                    };
                    add(&mut self.filled);
                    if newest.is_some_and(|newest| window.is_closed(start, newest)) {
                        add(&mut self.lost_by_naive_rule);
                    }
                }
            }
        }
    }

    fn print(&self) {
        println!(
            "source partitions at stage 2 were up to {} days apart; {} of {} records of partials \
             came more than a month behind the newest source",
            self.widest / DAY,
            self.behind,
            self.messages
        );
        for (query, filled) in &self.filled {
            let lost = self.lost_by_naive_rule.get(query).copied().unwrap_or(0);
            println!("{query}: one stream time for all would have lost {lost} of {filled}");
        }
    }
}

/// Event time that every source partition has reached.
fn slowest_partition(url: &str) -> Result<i64> {
    let newest = query::texts(
        url,
        "SELECT format('%s %s', (extract(epoch FROM max(event_time)) * 1000000)::bigint, account_id)
         FROM transactions GROUP BY account_id",
    )?;
    let mut partitions: BTreeMap<i32, i64> = BTreeMap::new();
    for line in &newest {
        let (time, account) = line.split_once(' ').context("time and account")?;
        let known = partitions.entry(partition_of(account.as_bytes(), PARTITIONS));
        let known = known.or_insert(i64::MIN);
        *known = (*known).max(time.parse()?);
    }
    ensure!(partitions.len() == 6, "only {} partitions have records", partitions.len());
    partitions.into_values().min().context("no partition")
}

fn compare(pipeline: &Pipeline, plan: &Plan, watermark: i64) -> Result<()> {
    let name = &plan.name;
    let output = rows::output(&pipeline.kafka, plan)?;
    let mut expected = rows::recomputed(&pipeline.database_url, plan)?;
    if plan.emit == Emit::Final {
        let all = expected.len();
        expected.retain(|line| {
            start_of(line).is_ok_and(|start| plan.window.is_closed(start, watermark))
        });
        println!("{name}: {} of {all} rows are of days that are over", expected.len());
        ensure!(output.records == output.lines.len(), "{name}: a final row came twice");
    }
    ensure!(!expected.is_empty(), "{name}: nothing to compare");
    if let Some(difference) = difference(&output.lines, &expected) {
        anyhow::bail!("{name} differs: {difference}");
    }
    let late = topic::count(&pipeline.kafka, &plan.late_topic())?;
    ensure!(late == 0, "{name}: {late} partials came too late");
    println!("{name}: {} rows equal, of {} records", output.lines.len(), output.records);
    Ok(())
}

/// Number of records behind a partial.
fn count_of(partial: &RawPartial, plan: &Plan) -> i64 {
    partial.clone().of(plan).map_or(0, |partial| partial.values.count())
}
