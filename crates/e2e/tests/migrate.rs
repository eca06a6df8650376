//! `caudal topics migrate` on the real stack: the topics grow in the middle of a run, with repeats
//! and open windows across it; it is refused while somebody works, killed half-way, and run again.

use anyhow::{Context as _, Result, ensure};
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::{query, topic};
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::Offsets;
use caudal_producer::generate::{Class, Generator, Recipe};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const RECORDS: &str = "60000";
const SEED: &str = "29";
/// One query of each stage whose state is more than sums: it moves too.
const QUERIES: &str = "
CREATE TABLE comercios_cuenta AS
  SELECT account_id, COUNT_DISTINCT(merchant_id) AS n FROM transacciones_validas
  GROUP BY account_id EMIT CHANGES;
CREATE TABLE media_comercio AS
  SELECT merchant_id, currency, AVG(amount) AS n FROM transacciones_validas
  GROUP BY merchant_id, currency EMIT CHANGES;";
/// Rows that differ from what PostgreSQL computes.
const DIFFERENCES: &str = "
SELECT format('%s: %s, expected %s', k, a.n, b.n) FROM
  (SELECT account_id AS k, n::numeric FROM comercios_cuenta
   UNION ALL SELECT merchant_id || ' ' || currency, n FROM media_comercio) AS a
  FULL JOIN
  (SELECT account_id AS k, count(DISTINCT merchant_id)::numeric AS n FROM transactions GROUP BY 1
   UNION ALL SELECT merchant_id || ' ' || currency, round(avg(amount), 9)
   FROM transactions GROUP BY 1) AS b
  USING (k) WHERE a.n IS DISTINCT FROM b.n LIMIT 5";
const MIGRATE: [&str; 4] = ["topics", "migrate", "--partitions", "10"];

/// What a command that must fail says.
fn refused(pipeline: &Pipeline, name: &str, args: &[&str]) -> Result<String> {
    let output = pipeline.command(name)?.args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success(), "{name} {args:?} did not refuse:\n{said}");
    Ok(said)
}

/// Sends about half of the records, and gives how many.
fn produce_half(pipeline: &Pipeline) -> Result<u64> {
    let args =
        ["--generate", RECORDS, "--seed", SEED, "--batch-records", "2000", "--rate", "15000"];
    let mut producer = pipeline.start("caudal-producer", "producer", &args)?;
    let half = RECORDS.parse::<i64>()? / 2;
    wait_until("half of it is sent", LIMIT, || {
        let ranges = topic::ranges(&pipeline.kafka, topics::TRANSACCIONES)?;
        Ok(ranges.iter().map(|(_, end)| end).sum::<i64>() >= half)
    })?;
    ensure!(producer.terminate()?.success(), "log {}", producer.log.display());
    topic::count(&pipeline.kafka, topics::TRANSACCIONES)
}

/// Repeats and contradictions among the records from `sent` on whose first one is before it.
fn across(sent: u64) -> Result<u64> {
    let mut before = BTreeSet::new();
    let mut across = 0;
    let recipe = Recipe::new(RECORDS.parse()?, SEED.parse()?);
    for (at, record) in (0..).zip(Generator::new(recipe, "expected", 0)) {
        match record.class {
            Class::Valid(..) if at < sent => {
                before.insert((record.key, record.value));
            }
            Class::Duplicate(..) if at >= sent => {
                across += u64::from(before.contains(&(record.key, record.value)));
            }
            _ => {}
        }
    }
    Ok(across)
}

/// Runs the command and kills it when the first topic has grown.
fn kill_half_way(pipeline: &Pipeline) -> Result<()> {
    let mut command: Command = pipeline.command("caudal")?;
    let mut child = command.args(MIGRATE).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
    for line in lines {
        let line = line?;
        println!("  {line}");
        if line.starts_with(topics::ESTADO) {
            child.kill()?;
            break;
        }
    }
    ensure!(!child.wait()?.success(), "it ended before it was killed");
    Ok(())
}

#[test]
fn the_topics_grow_and_nothing_is_lost_or_doubled() -> Result<()> {
    let Some(mut pipeline) = Pipeline::empty("migrate")? else { return Ok(()) };
    pipeline.add_queries(QUERIES)?;
    // The topics of an earlier run of these queries.
    pipeline.caudal(&["reset", "--yes"])?;
    let begun = Instant::now();
    let lap = |what: &str| println!("{:5.1} s  {what}", begun.elapsed().as_secs_f64());
    let expectation = Expectation::of(RECORDS, SEED)?;
    let sent = produce_half(&pipeline)?;
    let across = across(sent)?;
    println!("{sent} records before, {across} of the later ones repeat one of these");
    ensure!(across > 5, "too few repeats across the growth to prove anything");

    // It runs first: the topics of the file's queries are made by the processor.
    let mut processor = pipeline.start("caudal-processor", "processor", &[])?;
    let group = Offsets::connect(&pipeline.kafka, Isolation::ReadCommitted, "caudal-processor")?;
    wait_until("the processor has joined", LIMIT, || {
        Ok(!group.members("caudal-processor")?.is_empty())
    })?;
    let why = refused(&pipeline, "caudal", &MIGRATE)?;
    ensure!(why.contains("caudal-processor is running"), "{why}");
    ensure!(processor.terminate()?.success(), "log {}", processor.log.display());
    let why = refused(&pipeline, "caudal", &MIGRATE)?;
    ensure!(why.contains("not processed or not stored to its end"), "{why}");
    lap("refused while the processor runs, and while something is on its way");

    let mut processor = pipeline.start("caudal-processor", "processor", &[])?;
    let mut sink = pipeline.start("caudal-sink", "sink", &[])?;
    pipeline.caudal(&["drained"])?;
    for service in [&mut processor, &mut sink] {
        ensure!(service.terminate()?.success(), "log {}", service.log.display());
    }
    lap("the first half is stored");

    let why = refused(&pipeline, "caudal", &["topics", "migrate", "--partitions", "6"])?;
    ensure!(why.contains("must be more"), "{why}");
    kill_half_way(&pipeline)?;
    lap("killed half-way");
    print!("{}", pipeline.caudal(&MIGRATE)?);
    lap("moved");
    let again = pipeline.caudal(&MIGRATE)?;
    ensure!(again.starts_with("nothing to do"), "{again}");
    let apply = pipeline.caudal(&["topics", "apply"])?;
    ensure!(apply.contains("has 10 partitions, the file says 6"), "{apply}");

    let args = ["--generate", RECORDS, "--seed", SEED];
    pipeline.run("caudal-producer", &args, LIMIT)?;
    pipeline.catch_up()?;
    lap("the second half is stored");
    expectation.check(&pipeline)?;
    let differences = query::texts(&pipeline.database_url, DIFFERENCES)?;
    ensure!(differences.is_empty(), "{differences:#?}");
    let used = topic::ranges(&pipeline.kafka, topics::VALIDAS)?;
    ensure!(used.len() == 10 && used.iter().all(|(_, end)| *end > 0), "{used:?}");
    let verdict = pipeline.verify()?;
    ensure!(verdict["balanced"] == true, "not balanced: {verdict:#}");
    let unproven = &verdict["unproven"];
    ensure!(unproven.as_u64().unwrap_or(0) == 0, "{unproven} are not proven");
    lap("balanced");
    Ok(())
}
