//! The loop: gather, store, show.

use crate::args::Args;
use crate::batch::Batch;
use crate::caught_up::CaughtUp;
use crate::claims::{Claimed, Claims, gap};
use crate::config::Config;
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::outside::{BACKOFF, Backoff, MayPass, NotStarted, Outside};
use crate::postgres::Position;
use crate::store::{Database, Stored, Trouble};
use anyhow::Context as _;
use caudal_core::decode::Record;
use caudal_kafka::admin::Admin;
use caudal_kafka::args::Isolation;
use caudal_kafka::consumer::{
    self, Change, GroupConsumer, GroupProtocol, Limits, Membership, member_name,
};
use caudal_kafka::offsets::Offsets;
use caudal_kafka::{Kafka, TopicPartition};
use caudal_query::plan::{Plan, SHIPPED};
use caudal_service::exit::{Halt, Usage};
use caudal_service::http::{self, Readiness};
use caudal_service::instance::Instance;
use caudal_service::metrics::registry;
use caudal_service::queries;
use caudal_service::shutdown::Shutdown;
use rand::Rng as _;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Consumer group of the sink.
pub const GROUP: &str = "caudal-sink";
/// Port of the metrics.
const PORT: u16 = 9403;
const BATCH_RECORDS: usize = 5000;
const LINGER: Duration = Duration::from_millis(50);
/// Most bytes in a batch: bounds memory and the length of a db_tx.
const BATCH_BYTES: usize = 32 << 20;
/// Longest wait for a record before the loop looks at signals and pending claims.
const IDLE: Duration = Duration::from_millis(200);

/// Runs the sink until it is asked to stop, or has caught up.
///
/// # Errors
/// What the exit codes say: wrong arguments, a halt, or a failure that does not pass.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut config = Config::read(args.config.as_deref())?;
    let text = queries::text(args.queries.as_deref(), SHIPPED)?;
    config.add_queries(&Plan::compile_file(&text.name, &text.sql).map_err(Usage)?)?;
    let registry = registry("caudal-sink")?;
    let metrics = Metrics::register(&registry, &config)?;
    let readiness = Readiness::starting();
    let shutdown = Shutdown::listen()?;
    if let Some(address) = args.service.listen(PORT)? {
        http::serve(address, registry, readiness.clone())?;
    }
    let instance = Instance::acquire(GROUP, args.instance.as_deref(), &args.home)?;
    let name = format!("{GROUP}-{}", instance.name);
    let kafka = args.kafka.connect(&name)?;
    let topics: Vec<Arc<str>> = config.routes.keys().map(Arc::clone).collect();
    let mut outside = Outside { readiness, shutdown, metrics };

    let mut database = Database::new(&args.database_url)?;
    if !make_tables(&mut outside, &mut database, &config)? {
        return Ok(());
    }
    let offsets = Offsets::connect(&kafka, Isolation::ReadUncommitted, GROUP)?;
    if !find_topics(&mut outside, &kafka, &offsets, &config)? {
        return Ok(());
    }
    outside.readiness.not_ready("joining the group");
    let caught_up = match args.until_caught_up {
        true => outside.patiently("Kafka", || CaughtUp::capture(&kafka, &topics))?,
        false => None,
    };
    let membership = Membership {
        group: GROUP.into(),
        instance: Some(member_name(&name, &config.of_queries)),
        topics: topics.clone(),
        protocol: GroupProtocol::Classic,
    };
    let consumer = GroupConsumer::join(&kafka, &membership)?;
    tracing::info!(instance = name, kafka = kafka.bootstrap_servers(), "started");
    let linger = args.linger_ms.or(config.linger_ms).map_or(LINGER, Duration::from_millis);
    let records = args.batch_records.and_then(|n| usize::try_from(n).ok());
    let records = records.or(config.batch_records).unwrap_or(BATCH_RECORDS);
    let sink = Sink {
        consumer,
        database,
        claims: Claims::new(offsets, &topics, args.accept_gap),
        config,
        outside,
        caught_up,
        limits: Limits { records, bytes: BATCH_BYTES, idle: IDLE },
        linger,
        owned: BTreeMap::new(),
        waiting: BTreeMap::new(),
        gaps: BTreeMap::new(),
        displaced: false,
        joined: false,
        outage: None,
    };
    let done = sink.run();
    drop(instance);
    done
}

/// False when asked to stop before.
fn make_tables(
    outside: &mut Outside,
    database: &mut Database,
    config: &Config,
) -> anyhow::Result<bool> {
    let applied = outside
        .patiently("PostgreSQL", || database.migrate())
        .context("cannot bring the tables up to date")?;
    let Some(applied) = applied else { return Ok(false) };
    applied.iter().for_each(|name| tracing::info!(name, "migration applied"));
    let made = outside
        .patiently("PostgreSQL", || database.create_tables(&config.routes))
        .context("cannot make the tables of the queries")?;
    let Some(made) = made else { return Ok(false) };
    made.iter().for_each(|what| tracing::info!("{what}"));
    Ok(true)
}

/// Every topic must be there. Those of queries are made by the processor, which may start a moment
/// later: they are waited for. False when asked to stop before.
fn find_topics(
    outside: &mut Outside,
    kafka: &Kafka,
    offsets: &Offsets,
    config: &Config,
) -> anyhow::Result<bool> {
    let admin = Admin::connect(kafka)?;
    let found = outside.patiently("Kafka", || {
        let found = admin.topics()?;
        match config.of_queries.iter().find(|topic| !found.contains_key(&***topic)) {
            Some(topic) => Err(caudal_kafka::Error {
                what: format!("topic {topic} of a query is not there yet"),
                cause: "caudal-processor makes it when it starts with the same --queries".into(),
                transient: true,
            }),
            None => Ok(()),
        }
    })?;
    if found.is_none() {
        return Ok(false);
    }
    let counted = outside.patiently("Kafka", || {
        config.routes.keys().try_for_each(|topic| offsets.partitions(topic).map(|_| ()))
    })?;
    Ok(counted.is_some())
}

struct Sink {
    consumer: GroupConsumer,
    database: Database,
    claims: Claims,
    config: Config,
    outside: Outside,
    caught_up: Option<CaughtUp>,
    limits: Limits,
    linger: Duration,
    /// Claimed and read.
    owned: BTreeMap<TopicPartition, Position>,
    /// Assigned, paused, and to be claimed at that time.
    waiting: BTreeMap<TopicPartition, Instant>,
    /// Deleted offsets, from the stored position on, that only the next record's number explains.
    gaps: BTreeMap<TopicPartition, Range<i64>>,
    /// Whether a partition no longer holds the offset that was to be read: all are claimed again.
    displaced: bool,
    /// Whether the group has spoken.
    joined: bool,
    /// Why batches cannot be stored at present.
    outage: Option<String>,
}

impl Sink {
    fn run(mut self) -> anyhow::Result<()> {
        while !self.outside.shutdown.is_asked() {
            let batch = self.gather(self.limits, Instant::now() + self.linger)?;
            self.follow(&batch.changes);
            self.claim_waiting()?;
            let idle = batch.records.is_empty() && batch.changes.is_empty();
            self.store(batch.records)?;
            if std::mem::take(&mut self.displaced) || self.claims.has_another_topic(&self.owned) {
                self.claim_all_again()?;
            }
            if idle && self.has_caught_up()? {
                tracing::info!("caught up");
                break;
            }
        }
        tracing::info!("stopped after the last commit");
        Ok(())
    }

    /// The claim says which partition no longer holds its offset, and what is missing: the client
    /// does not.
    fn gather(&mut self, limits: Limits, until: Instant) -> anyhow::Result<consumer::Batch> {
        match self.consumer.gather(&limits, until) {
            Err(error) if error.is_out_of_range() => {
                tracing::warn!(%error, "every partition is claimed again");
                self.displaced = true;
                Ok(consumer::Batch::default())
            }
            gathered => Ok(gathered?),
        }
    }

    fn claim_all_again(&mut self) -> anyhow::Result<()> {
        let owned: Vec<TopicPartition> = self.owned.keys().cloned().collect();
        self.consumer.pause(&owned)?;
        self.claims.forget_ids();
        self.owned.clear();
        self.gaps.clear();
        let now = Instant::now();
        self.waiting.extend(owned.into_iter().map(|at| (at, now)));
        self.show_partitions();
        Ok(())
    }

    fn follow(&mut self, changes: &[Change]) {
        self.joined |= !changes.is_empty();
        for change in changes {
            match change {
                Change::Assigned(partitions) => {
                    tracing::info!(count = partitions.len(), "partitions assigned");
                    let now = Instant::now();
                    self.claims.forget_ids();
                    self.waiting.extend(partitions.iter().map(|at| (at.clone(), now)));
                }
                Change::Revoked(partitions) | Change::Lost(partitions) => {
                    tracing::info!(count = partitions.len(), "partitions gone");
                    for at in partitions {
                        self.waiting.remove(at);
                        self.owned.remove(at);
                        self.gaps.remove(at);
                    }
                }
            }
        }
        self.show_partitions();
    }

    fn show_partitions(&self) {
        if !self.joined {
            return;
        }
        let count = i64::try_from(self.owned.len()).unwrap_or(i64::MAX);
        self.outside.metrics.partitions.set(count);
        if let Some(outage) = &self.outage {
            self.outside.readiness.not_ready(outage);
        } else if !self.waiting.is_empty() {
            let count = self.waiting.len();
            self.outside.readiness.not_ready(format!("{count} partitions are not claimed yet"));
        } else {
            self.outside.readiness.ready();
        }
    }

    /// Claims partitions whose time has come, and starts them where PostgreSQL says.
    fn claim_waiting(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<TopicPartition> = self
            .waiting
            .iter()
            .filter(|(_, time)| **time <= now)
            .map(|(at, _)| at.clone())
            .collect();
        for at in due {
            let place = format!("{}-{}", at.0, at.1);
            match self.claim(&at) {
                Ok(position) => {
                    tracing::debug!(place, epoch = position.epoch, position.next_offset, "claimed");
                    self.waiting.remove(&at);
                    self.owned.insert(at, position);
                }
                Err(error) if is_transient(&error) => {
                    tracing::warn!(place, "cannot be claimed yet: {error:#}");
                    if let Some(fault) = error.downcast_ref::<Fault>() {
                        self.outside.metrics.failed(fault);
                    }
                    self.waiting.insert(at, now + BACKOFF.0 * 5);
                    // Whatever is missing, it is missing for the others too.
                    break;
                }
                Err(error) => return Err(error.context(place)),
            }
        }
        self.show_partitions();
        Ok(())
    }

    fn claim(&mut self, at: &TopicPartition) -> anyhow::Result<Position> {
        let Claimed { position, from, passed_over } = self.claims.claim(&mut self.database, at)?;
        self.outside.metrics.gap_offsets.inc_by(passed_over);
        self.consumer.start(at, from).map_err(NotStarted)?;
        match from > position.next_offset {
            true => self.gaps.insert(at.clone(), position.next_offset..from),
            false => self.gaps.remove(at),
        };
        Ok(position)
    }

    /// A batch that cannot be built, with what else is known of it: numbers that are missing where
    /// offsets were deleted.
    fn explained(&self, Halt(why): Halt) -> Halt {
        let known = self.gaps.iter().find(|((topic, partition), _)| {
            why.strip_prefix(&format!("{topic}-{partition}@")).is_some()
        });
        match known {
            Some((_, Range { start, end })) => {
                Halt(format!("{why}; {}; --accept-gap goes on without them", gap(*start, *end)))
            }
            None => Halt(why),
        }
    }

    /// Stores records, however long it takes; partitions that go meanwhile take theirs along.
    fn store(&mut self, mut records: Vec<(TopicPartition, Record)>) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let batch = Batch::build(records, &self.owned, &self.config.routes)
                .map_err(|halt| self.explained(halt))?;
            if batch.is_empty() {
                break;
            }
            let begun = Instant::now();
            match self.database.store(&batch) {
                Ok(stored) => {
                    self.outside.metrics.committed(&batch, &stored, begun.elapsed());
                    self.adopt(stored);
                    break;
                }
                Err(Trouble::Fenced(partitions)) => self.fenced(&partitions)?,
                Err(Trouble::Halt(why)) => return Err(Halt(why).into()),
                Err(Trouble::Stop(fault)) => {
                    self.outside.metrics.failed(&fault);
                    return Err(anyhow::Error::new(fault).context("PostgreSQL refused the batch"));
                }
                Err(Trouble::Retry(fault)) => {
                    self.outside.metrics.failed(&fault);
                    self.outside.metrics.retries.inc();
                    let pause = backoff.pause();
                    tracing::warn!(%fault, pause_ms = pause.as_millis(), "the batch is tried again");
                    self.outage = Some(format!("PostgreSQL: {fault}"));
                    records = batch.records;
                    records.extend(self.wait(pause)?);
                    if self.outside.shutdown.is_asked() {
                        return Ok(());
                    }
                    continue;
                }
            }
            records = batch.records;
        }
        if self.outage.take().is_some() {
            self.restart_owned();
        }
        Ok(())
    }

    /// Waits without losing the membership: nothing is delivered, rebalances are served.
    fn wait(&mut self, pause: Duration) -> anyhow::Result<Vec<(TopicPartition, Record)>> {
        self.show_partitions();
        let owned: Vec<TopicPartition> = self.owned.keys().cloned().collect();
        self.consumer.pause(&owned)?;
        let limits = Limits { idle: pause, ..self.limits };
        let until = Instant::now() + pause;
        let mut late = Vec::new();
        while Instant::now() < until && !self.outside.shutdown.is_asked() {
            let batch = self.gather(limits, until)?;
            self.follow(&batch.changes);
            // A few that were on their way when the partitions were paused.
            late.extend(batch.records);
        }
        Ok(late)
    }

    /// After an outage: every partition goes on from its position, whatever was on its way.
    fn restart_owned(&mut self) {
        let now = Instant::now();
        let failed: Vec<TopicPartition> = self
            .owned
            .iter()
            .filter(|(at, position)| {
                let from = self.gaps.get(at).map_or(position.next_offset, |gap| gap.end);
                self.consumer.start(at, from).is_err()
            })
            .map(|(at, _)| at.clone())
            .collect();
        for at in failed {
            self.owned.remove(&at);
            self.waiting.insert(at, now);
        }
        self.show_partitions();
    }

    fn adopt(&mut self, stored: Stored) {
        let mut shown = BTreeMap::new();
        for (at, position) in stored.positions {
            if let Some(mine) = self.owned.get_mut(&at)
                && mine.epoch == position.epoch
            {
                // A record was stored: its number was the next one.
                self.gaps.remove(&at);
                shown.insert(at, position.next_offset);
                *mine = position;
            }
        }
        self.consumer.show_progress(&shown);
    }

    fn fenced(&mut self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        let places: Vec<String> = partitions.iter().map(|(t, p)| format!("{t}-{p}")).collect();
        tracing::warn!(?places, "fenced by a newer claim");
        self.outside.metrics.fenced.inc_by(partitions.len() as u64);
        self.consumer.pause(partitions)?;
        for at in partitions {
            self.owned.remove(at);
            // A rebalance that takes the partition away comes first in most cases; the jitter
            // keeps two sinks that both think they own it from fencing each other for ever.
            let jitter = Duration::from_millis(rand::thread_rng().gen_range(200..1500));
            self.waiting.insert(at.clone(), Instant::now() + jitter);
        }
        self.show_partitions();
        Ok(())
    }

    fn has_caught_up(&mut self) -> anyhow::Result<bool> {
        let Some(caught_up) = &mut self.caught_up else { return Ok(false) };
        if !self.waiting.is_empty() {
            return Ok(false);
        }
        caught_up.is_proven(&mut self.database, Duration::from_secs(2))
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<Fault>().is_some_and(MayPass::passes)
            || cause.downcast_ref::<caudal_kafka::Error>().is_some_and(MayPass::passes)
            || cause.is::<NotStarted>()
    })
}
