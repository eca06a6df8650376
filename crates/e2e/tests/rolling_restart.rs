//! Two processors under load, restarted one after the other: how long each partition stands still.
//!
//! The gap of a partition is the longest time between two records that the broker appended to it
//! in `transacciones_validas`, while its partition of `transacciones` kept growing.

use anyhow::{Context as _, Result, ensure};
use caudal_core::topics;
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::{Moments, Work, kill_in_flight, wait_until};
use caudal_e2e::flight::OpenTxns;
use caudal_e2e::http::{is_ready, metric_sum};
use caudal_e2e::load::PacedLoad;
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_e2e::topic::append_times;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(240);
/// The session time-out is 6 s. A process that stops in good order says so or is back before that;
/// one that is killed is back as itself.
const GRACEFUL: i64 = 12_000;
const KILLED: i64 = 20_000;

/// What happened, from when to when (ms since 1970), and the gap that is allowed.
struct Phase {
    name: &'static str,
    from: i64,
    until: i64,
    allowed: i64,
}

struct Restarts<'a> {
    pipeline: &'a Pipeline,
    output: &'a OpenTxns,
    protocol: &'static str,
    phases: Vec<Phase>,
}

#[test]
fn classic_group() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("rolling_restart")? else { return Ok(()) };
    run(&pipeline, "classic", "240000", &["stop 0", "stop 1", "kill"])
}

#[test]
fn consumer_group() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("rolling_restart_consumer")? else { return Ok(()) };
    run(&pipeline, "consumer", "170000", &["stop 0", "kill"])
}

fn run(
    pipeline: &Pipeline,
    protocol: &'static str,
    records: &str,
    faults: &[&'static str],
) -> Result<()> {
    let mut moments = Moments::seeded();
    let seed = "14";
    let expectation = Expectation::of(records, seed)?;
    let output = OpenTxns::of(&pipeline.kafka, topics::VALIDAS)?;
    let mut restarts = Restarts { pipeline, output: &output, protocol, phases: Vec::new() };
    let mut processors = [restarts.start(0)?, restarts.start(1)?];
    restarts.wait_ready(0)?;
    restarts.wait_ready(1)?;
    let load = PacedLoad::start(pipeline, records, seed, "3000")?;
    let _sink = pipeline.start("caudal-sink", "sink", &[])?;
    restarts.phase("undisturbed", GRACEFUL, |_| Ok(()))?;
    for fault in faults {
        let place = match *fault {
            "kill" => restarts.place_of_stage_1()?,
            stop => usize::from(stop.ends_with('1')),
        };
        let processor = &mut processors[place];
        restarts.phase(
            fault,
            if fault.starts_with("kill") { KILLED } else { GRACEFUL },
            |run| {
                if fault.starts_with("kill") {
                    let work = Work::TxnAmongOthers(run.output, run.output.ends()?);
                    kill_in_flight(processor, &work, &mut moments)?;
                } else {
                    ensure!(processor.terminate()?.success(), "log {}", processor.log.display());
                }
                *processor = run.start(place)?;
                run.wait_ready(place)
            },
        )?;
    }
    load.finish(LIMIT)?;
    expectation.wait_stored(pipeline, LIMIT)?;
    restarts.check_gaps()?;
    expectation.check(pipeline)?;
    pipeline.assert_balanced()
}

impl Restarts<'_> {
    fn start(&self, place: usize) -> Result<Service> {
        let listen = self.pipeline.metrics_address(place)?;
        let args = ["--group-protocol", self.protocol, "--metrics-listen", &listen];
        self.pipeline.start("caudal-processor", &format!("processor-{place}"), &args)
    }

    fn wait_ready(&self, place: usize) -> Result<()> {
        let listen = self.pipeline.metrics_address(place)?;
        wait_until("the processor is ready", Duration::from_secs(60), || Ok(is_ready(&listen)))
    }

    /// An instance that has tasks of stage 1, which write the topic that is watched. (A sticky
    /// assignment balances numbers of partitions, not topics: one instance may hold all of them.)
    fn place_of_stage_1(&self) -> Result<usize> {
        let valid = |place| -> Result<f64> {
            metric_sum(&self.pipeline.metrics_address(place)?, "caudal_processor_records_total")
        };
        let before = [valid(0)?, valid(1)?];
        let mut place = None;
        wait_until("an instance has tasks of stage 1", Duration::from_secs(60), || {
            for at in [1, 0] {
                if valid(at)? > before[at] {
                    place = Some(at);
                }
            }
            Ok(place.is_some())
        })?;
        place.context("an instance")
    }

    /// Does something, and waits until the output has gone on for a while after it.
    fn phase(
        &mut self,
        name: &'static str,
        allowed: i64,
        fault: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let from = now();
        fault(self)?;
        let before = self.output.total()?;
        wait_until("the output goes on", Duration::from_secs(60), || {
            Ok(self.output.total()? > before + 6_000)
        })?;
        self.phases.push(Phase { name, from, until: now(), allowed });
        Ok(())
    }

    fn check_gaps(&self) -> Result<()> {
        let input = append_times(&self.pipeline.kafka, topics::TRANSACCIONES)?;
        let output = append_times(&self.pipeline.kafka, topics::VALIDAS)?;
        println!("longest gaps in ms (input's own in brackets), group.protocol={}:", self.protocol);
        for phase in &self.phases {
            let gaps = |times: &BTreeMap<i32, Vec<i64>>| -> Vec<i64> {
                times.values().map(|times| longest_gap(times, phase)).collect()
            };
            let (fed, stood) = (gaps(&input), gaps(&output));
            let cells: Vec<String> =
                stood.iter().zip(&fed).map(|(o, i)| format!("{o} ({i})")).collect();
            println!("  {:12} {}", phase.name, cells.join("  "));
            let longest = stood.into_iter().max().context("no partition")?;
            ensure!(fed.into_iter().max() < Some(phase.allowed / 2), "the input stood still");
            ensure!(
                longest < phase.allowed,
                "{}: a partition stood still for {longest} ms",
                phase.name
            );
        }
        Ok(())
    }
}

/// The longest distance between two neighbours of which a part lies in the phase.
fn longest_gap(times: &[i64], phase: &Phase) -> i64 {
    let pairs = times.windows(2).filter(|pair| pair[1] >= phase.from && pair[0] <= phase.until);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(i64::MAX)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
