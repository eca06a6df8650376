//! The runbooks: their form, and the drill of `runbooks/broker-down.md` on a real cluster.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::{Pipeline, Service, binaries};
use caudal_e2e::runbook::{Block, Runbook, Shell, Step};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BROKER: &str = "broker-2";
/// The template; a section may say more in its title.
const SECTIONS: [&str; 10] = [
    "Symptom",
    "Impact",
    "First five minutes",
    "Diagnose",
    "Decide",
    "Remedy",
    "Verify",
    "Escalate",
    "Prevention",
    "Drill",
];
/// About a minute of input: it flows before, during and after the outage.
const PRODUCE: [&str; 6] = ["--generate", "6000", "--seed", "21", "--rate", "100"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn runbook(path: &Path) -> Result<Runbook> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Runbook::parse(&text).with_context(|| path.display().to_string())
}

/// Every alert of the rule files, as written.
fn alerts() -> Result<Vec<Json>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(root().join("config/prometheus/rules"))? {
        let text = std::fs::read_to_string(file?.path())?;
        let rules: Json = serde_norway::from_str(&text)?;
        let groups = rules["groups"].as_array().context("groups")?;
        let all = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
        found.extend(all.filter(|rule| rule["alert"].is_string()).cloned());
    }
    Ok(found)
}

#[test]
fn runbooks_follow_the_template() -> Result<()> {
    for file in std::fs::read_dir(root().join("runbooks"))? {
        let path = file?.path();
        let runbook = runbook(&path)?;
        ensure!(runbook.sections == SECTIONS, "{}: {:?}", path.display(), runbook.sections);
        for step in [Step::Setup, Step::Diagnose, Step::Remedy, Step::Verify] {
            ensure!(runbook.blocks(step).count() > 0, "{}: no {step:?}", path.display());
        }
        let alerts = alerts()?;
        let alert = alerts.iter().find(|alert| alert["alert"] == runbook.front["alert"]);
        let alert = alert.with_context(|| format!("{}: no such alert", path.display()))?;
        ensure!(alert["labels"]["severity"] == runbook.front["severity"], "{}", path.display());
    }
    Ok(())
}

#[test]
fn alerts_lead_to_their_runbooks() -> Result<()> {
    let dashboard: Json =
        serde_json::from_str(&std::fs::read_to_string(root().join("dashboards/caudal.json"))?)?;
    for alert in alerts()? {
        let notes = &alert["annotations"];
        for text in [
            &alert["for"],
            &alert["labels"]["severity"],
            &alert["labels"]["service"],
            &notes["summary"],
            &notes["description"],
        ] {
            ensure!(text.is_string(), "something is missing in {alert:#}");
        }
        let path = root().join(notes["runbook_url"].as_str().context("runbook_url")?);
        ensure!(runbook(&path)?.front["alert"] == alert["alert"], "{} is not its", path.display());
        let uid = dashboard["uid"].as_str().context("uid")?;
        ensure!(notes["dashboard_url"] == format!("/d/{uid}"), "dashboard_url of {alert:#}");
    }
    Ok(())
}

/// Leaves the stack whole and without services, however the test ends.
struct Mend<'a>(&'a Pipeline);

impl Drop for Mend<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.stack.start(BROKER) {
            println!("{BROKER} does not start: {error:#}");
        }
        if let Err(error) = self.0.caudal(&["services", "down"]) {
            println!("the services do not stop: {error:#}");
        }
    }
}

#[test]
fn broker_down_drill() -> Result<()> {
    // Rule files are found from the folder in which a stack is started.
    std::env::set_current_dir(root())?;
    let Some(pipeline) = Pipeline::empty("runbook")? else { return Ok(()) };
    let _mend = Mend(&pipeline);
    let prometheus = pipeline.stack.prometheus_url();
    if prometheus.is_some() {
        pipeline.stack.restart("prometheus")?;
    }
    let runbook = runbook(&root().join("runbooks/broker-down.md"))?;
    let shell = Shell::new(&runbook, variables(&pipeline)?, pipeline.logs.clone())?;

    pipeline.caudal(&["services", "up"])?;
    let mut producer = pipeline.start("caudal-producer", "producer", &PRODUCE)?;
    wait_until("the first rows", Duration::from_secs(60), || Ok(stored(&pipeline)? > 0))?;
    // On a whole cluster the diagnosis must not find what it looks for: else it proves nothing.
    let at_once = |block: &&Block| block.step == Step::Diagnose && block.script == "docker ps";
    let look = runbook.blocks.iter().find(at_once).context("the block `docker ps`")?;
    ensure!(shell.execute(look).is_err(), "the diagnosis finds a whole cluster broken");

    let begun = Instant::now();
    pipeline.stack.kill(BROKER)?;
    let rows = stored(&pipeline)?;
    println!("{BROKER} killed with {rows} rows stored and the producer at work");
    ensure!(producer.ended()?.is_none(), "the producer had ended: the drill proves little");
    let mut steps = vec![run(&shell, &runbook, Step::Diagnose, begun)?];
    if let Some(url) = &prometheus {
        wait_for_alert(url)?;
    }
    steps.push(run(&shell, &runbook, Step::Remedy, begun)?);
    finish(&pipeline, &mut producer)?;
    steps.push(run(&shell, &runbook, Step::Verify, begun)?);
    let after = stored(&pipeline)?;
    ensure!(after > rows, "no row was stored after the outage");
    record(&pipeline, &steps, prometheus.is_some())
}

/// What the blocks find in their environment: this stack, and the programs under test.
fn variables(pipeline: &Pipeline) -> Result<Vec<(String, String)>> {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = pipeline.stack.home().display().to_string();
    Ok(vec![
        ("PATH".into(), format!("{}:{path}", binaries()?.display())),
        ("CAUDAL_BIN".into(), binaries()?.join("caudal").display().to_string()),
        ("CAUDAL_HOME".into(), home),
    ])
}

fn stored(pipeline: &Pipeline) -> Result<u64> {
    let count = "SELECT count(*)::text FROM transactions";
    Ok(caudal_e2e::query::text(&pipeline.database_url, count)?.parse()?)
}

/// Executes all blocks of a step and says when it was done.
fn run(shell: &Shell, runbook: &Runbook, step: Step, begun: Instant) -> Result<Json> {
    let (mut run, mut skipped) = (0, Vec::new());
    for block in runbook.blocks(step) {
        if shell.execute(block)? {
            run += 1;
        } else {
            skipped.push(block.line);
        }
    }
    let seconds = begun.elapsed().as_secs();
    println!("{step:?}: done {seconds} s after the fault");
    let name = format!("{step:?}").to_lowercase();
    Ok(json!({"step": name, "blocks": run, "skipped_lines": skipped, "done_after_s": seconds}))
}

/// The rule has noticed: the alert is pending or firing.
fn wait_for_alert(url: &str) -> Result<()> {
    wait_until("the alert KafkaBrokerDown", Duration::from_secs(60), || {
        let query = "ALERTS{alertname=\"KafkaBrokerDown\", node=\"broker-2\"}";
        let output = Command::new("promtool").args(["query", "instant", url, query]).output();
        let output = output.context("promtool, which comes with Prometheus")?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("KafkaBrokerDown"))
    })
}

/// Waits for the producer. One that gave a broker up is started again, as a supervisor would.
fn finish(pipeline: &Pipeline, producer: &mut Service) -> Result<()> {
    for _ in 0..3 {
        let status = producer.wait(Duration::from_secs(120))?;
        if status.success() {
            return Ok(());
        }
        println!("the producer ended ({status}) and is started again");
        *producer = pipeline.start("caudal-producer", "producer", &PRODUCE)?;
    }
    anyhow::bail!("the producer does not end; log {}", producer.log.display())
}

/// Writes down how the drill went.
fn record(pipeline: &Pipeline, steps: &[Json], prometheus: bool) -> Result<()> {
    let folder = pipeline.stack.home().join("drills");
    std::fs::create_dir_all(&folder)?;
    let drill = json!({
        "runbook": "broker-down",
        "alert": "KafkaBrokerDown",
        "alert_seen": prometheus,
        "fault": format!("SIGKILL of {BROKER}"),
        "unix_time": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        "steps": steps,
    });
    std::fs::write(folder.join("broker-down.json"), format!("{drill:#}\n"))?;
    println!("{drill:#}");
    Ok(())
}
