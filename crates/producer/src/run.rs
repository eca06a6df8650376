//! From arguments to the last commit.

use crate::args::{Cli, ProducerArgs};
use crate::cards::Cards;
use crate::commit::{Committed, Committer, PATIENCE, standing};
use crate::feed::follow::Follow;
use crate::feed::{self, Chunk, Limits, Message, Origin};
use crate::generate::recipe;
use crate::http;
use crate::mapping::{Mapping, check_source};
use crate::metrics::{Metrics, PORT};
use crate::progress::{Progress, Standing, Tally};
use crate::report::Report;
use crate::schemas;
use crate::source::envelope::Envelope;
use crate::source::own::OwnRecord;
use crate::source::{generated, inputs};
use crate::trial::{self, Bounds};
use anyhow::{Result, anyhow};
use caudal_core::outbox::OutRecord;
use caudal_core::schema::Schemas;
use caudal_kafka::Kafka;
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::Offsets;
use caudal_kafka::txn::TxnProducer;
use caudal_service::exit::Usage;
use caudal_service::http::{Readiness, serve};
use caudal_service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Most bytes of keys, values and headers in one txn; exceeded by one chunk at most.
pub(crate) const BATCH_BYTES: usize = 16 << 20;
/// How often a stop is looked for while the input pauses.
const WAKE: Duration = Duration::from_millis(200);

/// What a run has done.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Where every input of this run stands now, earlier runs included.
    pub inputs: BTreeMap<String, Progress>,
    /// Lines that this run sent.
    pub sent: u64,
    /// Whether every input was read to its end.
    pub done: bool,
    /// How long it took.
    pub seconds: f64,
    /// Of this, from the first batch to the last commit.
    pub sending_seconds: f64,
}

impl Summary {
    /// All inputs together.
    ///
    /// # Errors
    /// When a sum overflows.
    pub fn total(&self) -> Result<Tally> {
        let mut total = Tally::default();
        for progress in self.inputs.values() {
            let tally = Tally::of(progress)?;
            total.records += tally.records;
            total.unmappable += tally.unmappable;
            total.skipped += tally.skipped;
            total.sums.merge(&tally.sums)?;
            total.unmappable_sums.merge(&tally.unmappable_sums)?;
        }
        Ok(total)
    }
}

/// The service: metrics, signals, the run and its final line.
///
/// # Errors
/// As [`run`]; wrong arguments too.
pub fn service(cli: &Cli) -> Result<()> {
    if cli.producer.files.dry_run {
        return dry_run(&cli.producer);
    }
    if let (Some(count), Some(path)) = (cli.producer.generate, &cli.producer.shape.write_csv) {
        return recipe::write_csv(&cli.producer, count, path);
    }
    let metrics = Metrics::new()?;
    let readiness = Readiness::starting();
    let shutdown = Shutdown::listen()?;
    let kafka = cli.kafka.connect("caudal-producer").map_err(|e| Usage(format!("{e:#}")))?;
    if let Some(address) = cli.service.listen(PORT).map_err(|e| Usage(format!("{e:#}")))? {
        serve(address, metrics.registry.clone(), readiness.clone())?;
    }
    if let Some(address) = cli.producer.http.listen {
        return http::run((&cli.producer, address), &kafka, &metrics, &readiness, &shutdown);
    }
    let summary = run(&cli.producer, &kafka, &metrics, &readiness, &shutdown)?;
    let total = summary.total()?;
    tracing::info!(
        lines = total.lines(),
        records = total.records,
        unmappable = total.unmappable,
        skipped = total.skipped,
        sums = ?total.sums.texts(),
        unmappable_sums = ?total.unmappable_sums.texts(),
        sent_now = summary.sent,
        seconds = format!("{:.1}", summary.seconds),
        sending_seconds = summary.sending_seconds,
        "{}",
        if summary.done { "done" } else { "stopped; start again to go on" }
    );
    Ok(())
}

/// Sends everything that the arguments name and that no earlier run has sent.
///
/// # Errors
/// `Usage` for wrong arguments, `Halt` when an input has changed, else what failed.
pub fn run(
    args: &ProducerArgs,
    kafka: &Kafka,
    metrics: &Metrics,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<Summary> {
    run_origin(args, plan(args, shutdown)?, kafka, metrics, readiness, shutdown)
}

/// Sends the records of a source of your own, those that no earlier run has sent, until it ends or
/// SIGTERM comes. It must give the same records in the same order at every start; `name` keeps its
/// progress. Topic, batches and card key are those of the command line's defaults and environment.
///
/// # Errors
/// As [`run`]; what the source says too.
pub fn run_own(
    name: &str,
    records: impl Iterator<Item = Result<OwnRecord>> + Send + 'static,
    kafka: &Kafka,
) -> Result<Summary> {
    check_source(name)?;
    let args = ProducerArgs::by_default().map_err(|e| Usage(e.to_string()))?;
    let origin = (name.to_owned(), Origin::Own(Box::new(records)));
    let (metrics, readiness) = (Metrics::new()?, Readiness::starting());
    run_origin(&args, origin, kafka, &metrics, &readiness, &Shutdown::listen()?)
}

fn run_origin(
    args: &ProducerArgs,
    (source, mut origin): (String, Origin),
    kafka: &Kafka,
    metrics: &Metrics,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<Summary> {
    let mut report = Report::start();
    let Connected { producer, envelope, standing } = Connected::to(kafka, args, &source)?;
    if let Origin::Generator(recipe) = &mut origin
        && let Some(base) = standing.of(generated::FILE).and_then(|p| p.base)
        && args.event_time_base == "now"
    {
        // An earlier start of the same source has said what `now` is.
        recipe.base = base;
    }
    readiness.ready();
    let records = usize::try_from(args.batch_records).unwrap_or(usize::MAX);
    let limits = Limits { records, rate: args.rate };
    let messages = feed::start(origin, envelope, source.clone(), standing, limits)?;
    let mut sending = Sending {
        messages,
        committer: Committer::new(kafka, &source, producer, metrics, shutdown),
        metrics,
        shutdown,
        report: &mut report,
        summary: Summary::default(),
        records,
        interval: Duration::from_millis(args.commit_interval_ms),
        held: None,
        ended: false,
        first: None,
    };
    let result = sending.run();
    let mut summary = sending.summary;
    readiness.not_ready("done");
    report.clear();
    summary.done = result?;
    summary.seconds = report.seconds();
    Ok(summary)
}

/// What every source needs of Kafka.
pub(crate) struct Connected {
    /// With the source's `transactional.id`: a predecessor's txn has ended.
    pub producer: TxnProducer,
    /// Makes records for the topic.
    pub envelope: Envelope,
    /// Where the source stands.
    pub standing: Standing,
}

impl Connected {
    /// Connects as a source, publishes the schema and reads where the source stands.
    ///
    /// # Errors
    /// [`Usage`] when the card key cannot be read; when Kafka does not answer, or another schema has
    /// the same id.
    pub fn to(kafka: &Kafka, args: &ProducerArgs, source: &str) -> Result<Connected> {
        // What is wrong here must be known before a predecessor is fenced, which may be well.
        let cards = Cards::load(&args.cards)?;
        let partitions = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-producer")?
            .partitions(&args.topic)?;
        let id = format!("caudal-producer-{source}");
        let guarantee = args.processing_guarantee;
        let mut producer = TxnProducer::connect_with(kafka, &id, guarantee, None, PATIENCE)?;
        let schema = Schemas::shipped().transaction;
        schemas::publish(kafka, &mut producer, &schema, PATIENCE)?;
        let topic = Arc::from(args.topic.as_str());
        let envelope = Envelope { topic, partitions, schema_id: schema.id, cards };
        Ok(Connected { producer, envelope, standing: standing(kafka, source)? })
    }
}

/// Counts and explains what would be sent, without Kafka.
fn dry_run(args: &ProducerArgs) -> Result<()> {
    let mapping = read_mapping(args)?;
    let bounds = Bounds { lines: u64::MAX, samples: 0, examples: 3 };
    let inputs = inputs::expand(&args.input, mapping.format)?;
    let trials = trial::run_with(&mapping, &inputs, bounds, args.cards.card_numbers)?;
    trials.iter().for_each(|trial| print!("{}", trial.text()));
    if trials.iter().all(|trial| trial.mapped == 0) {
        return Err(anyhow!("nothing could be mapped; nothing was sent"));
    }
    println!("nothing was sent");
    Ok(())
}

fn read_mapping(args: &ProducerArgs) -> Result<Mapping> {
    let path = args.mapping.as_deref();
    Mapping::read(path.ok_or_else(|| Usage("--input needs --mapping FILE.toml".into()))?)
}

/// The source's name, and what to read.
fn plan(args: &ProducerArgs, shutdown: &Shutdown) -> Result<(String, Origin)> {
    if let Some(count) = args.generate {
        return plan_generator(args, count);
    }
    let mapping = Box::new(read_mapping(args)?);
    let source = args.source.clone().unwrap_or_else(|| mapping.source.clone());
    check_source(&source)?;
    let origin = if args.files.follow {
        let (patterns, shutdown) = (args.input.clone(), shutdown.clone());
        let settle = Duration::from_millis(args.files.settle_ms);
        Origin::Followed { mapping, follow: Follow { patterns, settle, shutdown } }
    } else {
        Origin::Files { inputs: inputs::expand(&args.input, mapping.format)?, mapping }
    };
    Ok((source, origin))
}

fn plan_generator(args: &ProducerArgs, count: u64) -> Result<(String, Origin)> {
    let recipe = recipe::of(args, count)?;
    let source = recipe::source(args, &recipe);
    check_source(&source)?;
    recipe::write_expected(args, &recipe)?;
    Ok((source, Origin::Generator(recipe)))
}

struct Sending<'a> {
    messages: Receiver<Result<Message>>,
    committer: Committer,
    metrics: &'a Metrics,
    shutdown: &'a Shutdown,
    report: &'a mut Report,
    summary: Summary,
    records: usize,
    interval: Duration,
    /// A chunk that did not fit the last batch.
    held: Option<Chunk>,
    /// Whether the reader has said that nothing more comes.
    ended: bool,
    /// When there was something to send for the first time.
    first: Option<Instant>,
}

/// What a wait for the reader brought.
enum Next {
    Chunk(Box<Chunk>),
    Nothing,
    End,
}

impl Sending<'_> {
    /// True when every input ended, false when a stop was asked for.
    fn run(&mut self) -> Result<bool> {
        loop {
            if self.shutdown.is_asked() {
                return Ok(false);
            }
            let first = match self.next(WAKE)? {
                Next::Chunk(chunk) => *chunk,
                Next::Nothing => continue,
                Next::End => return Ok(true),
            };
            let (batch, failure) = self.gather(first);
            if self.send(batch)? == Committed::Stopped {
                return Ok(false);
            }
            failure?;
        }
    }

    /// Joins the chunks that come within the interval and fit one txn. An error of the reader
    /// waits until what came before it is committed.
    fn gather(&mut self, mut batch: Chunk) -> (Chunk, Result<()>) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        let until = now + self.interval;
        while batch.records.len() < self.records && batch.bytes < BATCH_BYTES {
            let left = until.saturating_duration_since(Instant::now());
            match self.next(left) {
                Ok(Next::Chunk(chunk)) => {
                    let same = chunk.progress.file == batch.progress.file;
                    if !same || batch.records.len() + chunk.records.len() > self.records {
                        self.held = Some(*chunk);
                        break;
                    }
                    batch.records.extend(chunk.records);
                    batch.bytes += chunk.bytes;
                    batch.progress = chunk.progress;
                    batch.fraction = chunk.fraction;
                    batch.waited = chunk.waited;
                }
                Ok(Next::Nothing | Next::End) => break,
                Err(error) => return (batch, Err(error)),
            }
        }
        (batch, Ok(()))
    }

    fn next(&mut self, patience: Duration) -> Result<Next> {
        if let Some(chunk) = self.held.take() {
            return Ok(Next::Chunk(Box::new(chunk)));
        }
        match self.messages.recv_timeout(patience) {
            Ok(Ok(Message::Chunk(chunk))) => Ok(Next::Chunk(chunk)),
            Ok(Ok(Message::Opened { from, fraction })) => {
                self.report.opened(&from, fraction);
                self.summary.inputs.insert(from.file.clone(), *from);
                Ok(Next::Nothing)
            }
            Ok(Ok(Message::SetAside(files))) => {
                self.metrics.set_aside(files);
                Ok(Next::Nothing)
            }
            Ok(Ok(Message::Ended)) => {
                self.ended = true;
                Ok(Next::End)
            }
            Ok(Err(error)) => {
                self.report.clear();
                Err(error)
            }
            Err(RecvTimeoutError::Timeout) => Ok(Next::Nothing),
            Err(RecvTimeoutError::Disconnected) if self.ended => Ok(Next::End),
            Err(RecvTimeoutError::Disconnected) => {
                Err(anyhow!("the reader ended without a word; start again, it goes on there"))
            }
        }
    }

    fn send(&mut self, batch: Chunk) -> Result<Committed> {
        let after = batch.progress;
        let before = self.summary.inputs.get(&after.file).cloned().unwrap_or_default();
        if before == after {
            return Ok(Committed::Yes);
        }
        let records: Vec<OutRecord> = batch.records;
        let committed =
            self.committer.commit(records, &before, &after).inspect_err(|_| self.report.clear())?;
        if committed == Committed::Yes {
            self.metrics.advanced(&before, &after);
            self.summary.sending_seconds =
                self.first.map_or(0.0, |first| first.elapsed().as_secs_f64());
            self.summary.sent += after.lines.saturating_sub(before.lines);
            self.report.show(&after, batch.fraction, batch.waited);
            self.summary.inputs.insert(after.file.clone(), after);
        }
        Ok(committed)
    }
}
