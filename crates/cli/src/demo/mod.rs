//! `caudal demo`: everything, from nothing to a balanced ledger.

mod report;
mod reset;

use crate::deployment::{plans, standing_plans};
use crate::scrape::Scrape;
use crate::verify::Balance;
use crate::{drained, services, topics};
use anyhow::{Context as _, Result, bail};
use caudal_kafka::Kafka;
use caudal_query::plan::SHIPPED;
use caudal_service::queries;
use caudal_sink::learn::Routes;
use caudal_stack::Stack;
use clap::Args;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The demo gives up when nothing moves for this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the demo runs beside the shipped queries.
const EXAMPLES: &str = include_str!("../../../../config/examples.sql");

/// The processor's default: the demo starts it without another.
const DEDUP_HORIZON: i64 = caudal_core::time::HOUR;

/// Arguments of `caudal demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Files, folders or globs to send instead of generated transactions
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<String>,
    /// How the columns of --data become transactions
    #[arg(long, value_name = "FILE.toml", default_value = "config/sources/online-retail.toml")]
    mapping: PathBuf,
    /// How many transactions to generate
    #[arg(long, default_value_t = 200_000, value_name = "N")]
    records: u64,
    /// Seed of the generator
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
}

/// Prints a step with the seconds since the start.
struct Steps {
    begun: Instant,
}

impl Steps {
    fn say(&self, text: &str) {
        println!("{:6.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }
}

/// Runs the demo.
///
/// # Errors
/// The first step that fails, and what to do; or that the ledger does not balance.
pub async fn run(args: &DemoArgs) -> Result<()> {
    let steps = Steps { begun: Instant::now() };
    let stack = Stack::open()?;
    services::down()?;
    steps.say("starting three Kafka brokers and PostgreSQL");
    stack.up(&mut |line| steps.say(&format!("  {line}")))?;
    let kafka = Kafka::plain(&stack.bootstrap_servers());
    let database_url = stack.database_url();
    steps.say("emptying the demo's own topics, tables and progress: every run starts from nothing");
    let queries = write_queries(&stack)?;
    let plans = plans(Some(&queries))?;
    reset::reset(&kafka, &database_url, &plans).await?;
    steps.say(&format!("{} topics and the tables are there", topics::shipped_names()?.len()));
    steps.say(&format!("{} queries: those of config/queries.sql and examples.sql", plans.len()));
    services::up(&stack, Some(&queries))?;
    let expected = stack.home().join("demo-expected.json");
    let (mut producer, begun) = (start_producer(args, &stack, &expected)?, Instant::now());
    let producer_metrics = services::metrics_address(&stack, "caudal-producer")?;
    let mut lines = 0.0;
    let mut progress = Progress::new();
    loop {
        if let Ok(scrape) = Scrape::get(&producer_metrics) {
            lines = scrape.sum("caudal_producer_lines_total");
        }
        if let Some(status) = producer.try_wait()? {
            if !status.success() {
                bail!(
                    "the producer ended with {status}; its log is {}",
                    producer_log(&stack).display()
                );
            }
            break;
        }
        progress.show(&steps, &stack, lines);
        std::thread::sleep(Duration::from_millis(250));
    }
    steps.say("every line is in Kafka; the processor and the sink catch up");
    drained::wait(&kafka, &database_url, &plans, PATIENCE, || {
        progress.show(&steps, &stack, lines);
        Ok(())
    })
    .await?;
    let drained = begun.elapsed();
    progress.end();
    steps.say(
        "every record is a row or a dead letter; reading all topics and tables again to prove it",
    );
    let stored = report::stored(&database_url).await?;
    let sheet =
        Balance::take(&kafka, &database_url, DEDUP_HORIZON, plans.clone(), Routes::new()).await?;
    let lines = lines_sent(&stack)?.unwrap_or(lines);
    println!("\n{}", sheet.text());
    report::print(&stack, &stored, lines, steps.begun.elapsed(), drained)?;
    report::print_queries(&database_url, &plans).await?;
    let mut differences = Vec::new();
    if args.data.is_empty() {
        let text = std::fs::read_to_string(&expected).context("the generator's expectation")?;
        differences = report::compare(&serde_json::from_str(&text)?, &stored);
        differences.iter().for_each(|difference| println!("DIFFERENT  {difference}"));
    }
    match (sheet.is_balanced(), differences.is_empty()) {
        (true, true) => Ok(()),
        _ => bail!("the ledger does not balance; see the lines above"),
    }
}

/// Empties the native stack.
///
/// # Errors
/// When a service still runs, or Kafka or PostgreSQL refuses.
pub async fn reset_stack() -> Result<()> {
    let stack = Stack::open()?;
    services::down()?;
    let kafka = Kafka::plain(&stack.bootstrap_servers());
    reset::reset(&kafka, &stack.database_url(), &standing_plans()?).await?;
    println!("topics, tables and progress are empty");
    Ok(())
}

/// The file that the demo's services run: the standard queries, and the examples.
fn write_queries(stack: &Stack) -> Result<PathBuf> {
    let path = stack.home().join("demo-queries.sql");
    let standard = queries::text(None, SHIPPED)?;
    std::fs::write(&path, format!("{}\n{EXAMPLES}", standard.sql))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn producer_log(stack: &Stack) -> PathBuf {
    stack.home().join("logs").join("caudal-producer.log")
}

fn start_producer(args: &DemoArgs, stack: &Stack, expected: &std::path::Path) -> Result<Child> {
    let mut command = Command::new(services::sibling("caudal-producer")?);
    if args.data.is_empty() {
        command.args(["--generate", &args.records.to_string(), "--seed", &args.seed.to_string()]);
        command.arg("--expected-out").arg(expected);
    } else {
        command.arg("--mapping").arg(&args.mapping).arg("--input").args(&args.data);
    }
    let log = std::fs::File::create(producer_log(stack)).context("producer's log")?;
    command
        .env("BOOTSTRAP_SERVERS", stack.bootstrap_servers())
        .env("CAUDAL_HOME", stack.home())
        .env("CAUDAL_METRICS_LISTEN", services::metrics_address(stack, "caudal-producer")?)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start caudal-producer")
}

/// The number of lines that the producer's last log line names: its metrics end with it.
fn lines_sent(stack: &Stack) -> Result<Option<f64>> {
    let log = std::fs::read_to_string(producer_log(stack)).context("producer's log")?;
    let number = |line: &str| {
        let text = line.split("lines=").nth(1)?;
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Ok(log.lines().rev().find_map(number))
}

/// One line that is written over where a person watches, a line now and then elsewhere.
struct Progress {
    terminal: bool,
    last: Option<Instant>,
}

impl Progress {
    fn new() -> Progress {
        Progress { terminal: std::io::stdout().is_terminal(), last: None }
    }

    fn show(&mut self, steps: &Steps, stack: &Stack, lines: f64) {
        let pause = Duration::from_secs(if self.terminal { 0 } else { 5 });
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        let sum = |service: &str, metric: &str| {
            let scrape = services::metrics_address(stack, service).and_then(|a| Scrape::get(&a));
            scrape.map_or(0.0, |scrape| scrape.sum(metric))
        };
        let processed = sum("caudal-processor", "caudal_processor_records_total");
        let rows = sum("caudal-sink", "caudal_sink_rows_committed_total");
        let line =
            format!("lines sent {lines:>9}   processed {processed:>9}   rows stored {rows:>9}");
        if self.terminal {
            print!("\r{:6.1} s  {line} ", steps.begun.elapsed().as_secs_f64());
            // A screen that cannot be written to is no reason to stop.
            std::io::stdout().flush().ok();
        } else {
            steps.say(&line);
        }
    }

    fn end(&self) {
        if self.terminal {
            println!();
        }
    }
}
