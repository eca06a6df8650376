//! The loop: gather and encode a batch while the one before it is stored.
//!
//! A batch that is encoded early supposes that the one before it is stored. Where it is not, both
//! go back to being records, and are encoded anew and stored one after the other. The first keeps
//! its records meanwhile: after a COMMIT without an answer, only the very same batch can be told
//! from another by the positions.

mod partitions;

use crate::batch::Batch;
use crate::caught_up::CaughtUp;
use crate::claims::Claims;
use crate::config::Config;
use crate::learn::Learner;
use crate::outside::{Backoff, MayPass as _, Outside};
use crate::postgres::Position;
use crate::store::{Database, Stored, Trouble};
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_kafka::consumer::{self, GroupConsumer, Limits};
use caudal_service::exit::Halt;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Consumer group of the sink.
pub const GROUP: &str = "caudal-sink";
/// Longest wait for a record before the loop looks at signals and pending claims.
const IDLE: Duration = Duration::from_millis(200);

/// Bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most records.
    pub records: usize,
    /// Most bytes of keys, values and headers.
    pub bytes: usize,
    /// How long to wait for a batch to fill.
    pub linger: Duration,
}

/// What a writer works with.
pub struct Parts {
    /// Its member of the group.
    pub consumer: GroupConsumer,
    /// Takes its partitions.
    pub claims: Claims,
    /// Schemas of topics of others.
    pub learner: Learner,
    /// Which topic goes where.
    pub config: Config,
    /// What it shows.
    pub outside: Outside,
    /// When it is done, with `--until-caught-up`.
    pub caught_up: Option<CaughtUp>,
}

/// Gathers and stores until asked to stop, or done.
///
/// # Errors
/// What the exit codes say: a halt, or a failure that does not pass.
pub fn run(parts: Parts, mut database: Database, bounds: Bounds) -> anyhow::Result<()> {
    let limits = Limits { records: bounds.records, bytes: bounds.bytes, idle: IDLE };
    let sink = Sink {
        parts,
        limits,
        linger: bounds.linger,
        owned: BTreeMap::new(),
        waiting: BTreeMap::new(),
        gaps: BTreeMap::new(),
        displaced: false,
        shown: 0,
        joined: false,
        outage: None,
    };
    sink.run(&mut database)
}

type Records = Vec<(TopicPartition, Record)>;

/// What follows the batch that is being stored.
struct Next {
    /// Whether there was neither a record nor a change of the group.
    idle: bool,
    batch: NextBatch,
}

enum NextBatch {
    /// Encoded as if the one before it were stored.
    Encoded(Batch),
    /// Records that need a schema which is not known yet.
    Read(Records),
}

impl NextBatch {
    fn into_records(self) -> Records {
        match self {
            NextBatch::Encoded(batch) => batch.records,
            NextBatch::Read(records) => records,
        }
    }
}

struct Sink {
    parts: Parts,
    limits: Limits,
    linger: Duration,
    /// Claimed and read.
    owned: BTreeMap<TopicPartition, Position>,
    /// Assigned, paused, and to be claimed at that time.
    waiting: BTreeMap<TopicPartition, Instant>,
    /// How many of `owned` the metric counts.
    shown: i64,
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
    fn run(mut self, database: &mut Database) -> anyhow::Result<()> {
        let mut ahead = None;
        while !self.parts.outside.shutdown.is_asked() {
            let next = match ahead.take() {
                Some(batch) => self.store_and_gather(database, batch)?,
                None => self.next(None)?,
            };
            self.claim_waiting(database)?;
            match next.batch {
                NextBatch::Encoded(batch) if batch.is_empty() => {}
                NextBatch::Encoded(batch) => ahead = Some(batch),
                NextBatch::Read(records) => self.store(database, records, Vec::new(), None)?,
            }
            if std::mem::take(&mut self.displaced)
                || self.parts.claims.has_another_topic(&self.owned)
            {
                // Read again from the position that the claim finds.
                ahead = None;
                self.claim_all_again()?;
            }
            if next.idle && self.has_caught_up(database)? {
                tracing::info!("caught up");
                break;
            }
        }
        tracing::info!("stopped after the last commit");
        Ok(())
    }

    /// Stores a batch, and has the next one ready by then.
    fn store_and_gather(&mut self, database: &mut Database, batch: Batch) -> anyhow::Result<Next> {
        let metrics = self.parts.outside.metrics.clone();
        let begun = Instant::now();
        let committed = |stored: &Stored| metrics.committed(&batch, stored, begun.elapsed());
        let (stored, next) = database.store_while(&batch, committed, || self.next(Some(&batch)));
        match stored {
            Ok(stored) => {
                self.adopt(stored);
                let mut next = next?;
                if let NextBatch::Encoded(batch) = &mut next.batch {
                    batch.take_ledgers(&self.owned);
                }
                Ok(next)
            }
            Err(trouble) => {
                let later = next?.batch.into_records();
                self.store(database, batch.records, later, Some(trouble))?;
                Ok(Next { idle: false, batch: NextBatch::Read(Vec::new()) })
            }
        }
    }

    /// Gathers records, and encodes them as those that follow `stored`.
    fn next(&mut self, stored: Option<&Batch>) -> anyhow::Result<Next> {
        let gathered = self.gather(self.limits, Instant::now() + self.linger)?;
        self.follow(&gathered.changes);
        let records = gathered.records;
        let idle = records.is_empty() && gathered.changes.is_empty();
        let Parts { learner, config, .. } = &mut self.parts;
        if !learner.missing(&mut config.routes, &records).is_empty() {
            return Ok(Next { idle, batch: NextBatch::Read(records) });
        }
        let after = stored.map(|stored| stored.leaves(&self.owned));
        let after = after.as_ref().unwrap_or(&self.owned);
        let batch = Batch::build(records, after, &config.routes);
        let batch = batch.map_err(|halt| self.explained(halt))?;
        Ok(Next { idle, batch: NextBatch::Encoded(batch) })
    }

    /// The claim says which partition no longer holds its offset, and what is missing: the client
    /// does not.
    fn gather(&mut self, limits: Limits, until: Instant) -> anyhow::Result<consumer::Batch> {
        match self.parts.consumer.gather(&limits, until) {
            Err(error) if error.is_out_of_range() => {
                tracing::warn!(%error, "every partition is claimed again");
                self.displaced = true;
                Ok(consumer::Batch::default())
            }
            gathered => Ok(gathered?),
        }
    }

    /// Stores records and then later ones, however long it takes; partitions that go meanwhile take
    /// theirs along. `trouble` is what the first attempt met, where there was one.
    fn store(
        &mut self,
        database: &mut Database,
        mut records: Records,
        mut later: Records,
        mut trouble: Option<Trouble>,
    ) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let wait = match trouble.take() {
                Some(trouble) => self.outage_of(trouble)?,
                None => self.learn(database, &records)?,
            };
            if let Some(outage) = wait {
                let pause = backoff.pause();
                tracing::warn!(outage, pause_ms = pause.as_millis(), "the batch is tried again");
                self.outage = Some(outage);
                later.extend(self.wait(pause)?);
                if self.parts.outside.shutdown.is_asked() {
                    return Ok(());
                }
                continue;
            }
            let batch = Batch::build(records, &self.owned, &self.parts.config.routes)
                .map_err(|halt| self.explained(halt))?;
            if !batch.is_empty() {
                let begun = Instant::now();
                match database.store(&batch) {
                    Ok(stored) => {
                        self.parts.outside.metrics.committed(&batch, &stored, begun.elapsed());
                        self.adopt(stored);
                    }
                    Err(met) => {
                        trouble = Some(met);
                        records = batch.records;
                        continue;
                    }
                }
            }
            if later.is_empty() {
                break;
            }
            records = std::mem::take(&mut later);
        }
        if self.outage.take().is_some() {
            self.restart_owned();
        }
        Ok(())
    }

    /// What to wait for after a trouble, if anything.
    ///
    /// # Errors
    /// What does not pass.
    fn outage_of(&mut self, trouble: Trouble) -> anyhow::Result<Option<String>> {
        let metrics = &self.parts.outside.metrics;
        match trouble {
            Trouble::Fenced(partitions) => self.fenced(&partitions).map(|()| None),
            Trouble::Halt(why) => Err(Halt(why).into()),
            Trouble::Stop(fault) => {
                metrics.failed(&fault);
                Err(anyhow::Error::new(fault).context("PostgreSQL refused the batch"))
            }
            Trouble::Retry(fault) => {
                metrics.failed(&fault);
                metrics.retries.inc();
                Ok(Some(format!("PostgreSQL: {fault}")))
            }
        }
    }

    /// Learns the schemas that records of others' topics name. What is away, if something is.
    fn learn(
        &mut self,
        database: &mut Database,
        records: &Records,
    ) -> anyhow::Result<Option<String>> {
        let Parts { learner, config, .. } = &mut self.parts;
        let missing = learner.missing(&mut config.routes, records);
        let learnt = match learner.look_up(&mut config.routes, missing) {
            Ok(learnt) => learnt,
            Err(error) if error.passes() => return Ok(Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        for (topic, unknown, layout) in learnt {
            let Some(route) = config.routes.get_mut(&topic) else { continue };
            match database.learn(route, unknown, layout) {
                Ok(done) => done.iter().for_each(|what| tracing::info!("{what}")),
                Err(fault) if fault.passes() => {
                    self.parts.outside.metrics.failed(&fault);
                    return Ok(Some(format!("PostgreSQL: {fault}")));
                }
                Err(fault) => return Err(anyhow::Error::new(fault).context(topic)),
            }
        }
        Ok(None)
    }

    /// Waits without losing the membership: nothing is delivered, rebalances are served.
    fn wait(&mut self, pause: Duration) -> anyhow::Result<Records> {
        self.show_partitions();
        let owned: Vec<TopicPartition> = self.owned.keys().cloned().collect();
        self.parts.consumer.pause(&owned)?;
        let limits = Limits { idle: pause, ..self.limits };
        let until = Instant::now() + pause;
        let mut late = Vec::new();
        while Instant::now() < until && !self.parts.outside.shutdown.is_asked() {
            let batch = self.gather(limits, until)?;
            self.follow(&batch.changes);
            // A few that were on their way when the partitions were paused.
            late.extend(batch.records);
        }
        Ok(late)
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
        self.parts.consumer.show_progress(&shown);
    }

    fn has_caught_up(&mut self, database: &mut Database) -> anyhow::Result<bool> {
        let Some(caught_up) = &mut self.parts.caught_up else { return Ok(false) };
        if !self.waiting.is_empty() {
            return Ok(false);
        }
        caught_up.is_proven(database, Duration::from_secs(2))
    }
}
