//! The loop: gather, follow, process, commit.
//!
//! ```text
//! each step:
//!     batch  = broker.gather(limits)        // rebalances happen only here
//!     follow(changes)                       // drop revoked, restore assigned, in slices
//!     outbox = tasks.process(batch)         // pure
//!     broker.commit(outbox)                 // one txn: outputs, state blocks, then positions
//!     on abort: undo the batch, read it again
//!     on doubt: new producer; the committed positions say whether to keep the batch or undo it
//! ```
//!
//! No txn and no uncommitted output exists while gathering, so a revoked partition needs no
//! draining: what was not committed is read again by its next owner.

mod outcome;

use crate::args::Adopt;
use crate::broker::Broker;
use crate::cut::{Cuts, peer};
use crate::idle::Idleness;
use crate::metrics::Metrics;
use crate::mutant::{self, Mutant};
use crate::restore::{Restore, Restored};
use crate::shared::{Shared, Stage, TaskError, TaskId};
use crate::status::Status;
use crate::sweep::Haste;
use crate::tables::Tables;
use crate::tasks::{Task, Tasks};
use anyhow::Result;
use caudal_core::decode::Record;
use caudal_core::outbox::Outbox;
use caudal_kafka::TopicPartition;
use caudal_kafka::consumer::{Batch, Change, Limits};
use caudal_query::plan::Emit;
use caudal_service::exit::Halt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long restoring may hold up a poll.
const RESTORE_SLICE: Duration = Duration::from_millis(200);
/// How long to ask for committed positions after a doubt before giving up (a supervisor then
/// restarts the process).
const PATIENCE: Duration = Duration::from_secs(120);

/// How often to say which windows wait for a source partition.
const WATERMARKS: Duration = Duration::from_secs(10);

/// How often to look whether a quiet task keeps the state log long.
const SWEEPS: Duration = Duration::from_secs(10);

/// What an engine may be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bounds of a batch.
    pub limits: Limits,
    /// Longest time between commits under load.
    pub interval: Duration,
    /// Which side wins when state and committed offsets do not agree.
    pub adopt: Option<Adopt>,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to process.
    Quiet,
    /// A txn was committed.
    Committed,
    /// A txn was not committed, or not for sure; what it did here is undone.
    Undone,
}

/// One engine thread: its tasks, and what is around them.
pub struct Engine<B: Broker> {
    shared: Arc<Shared>,
    broker: B,
    tasks: Tasks,
    tables: Tables,
    restore: Restore,
    /// Restored, but the reference table is not as new as they are.
    without_table: Vec<Restored>,
    /// Running, but their partitions do not deliver yet from where they stand.
    unstarted: BTreeSet<TaskId>,
    /// Gathered, not processed yet.
    backlog: VecDeque<(TopicPartition, Record)>,
    /// Empty between batches; its memory is used again.
    outbox: Outbox,
    cuts: Cuts,
    idle: Idleness,
    /// Tasks whose sweeps hold the cut of the log back.
    haste: BTreeMap<TaskId, Haste>,
    options: Options,
    metrics: Arc<Metrics>,
    status: Status,
    last_commit: Instant,
    looked_at_watermarks: Instant,
    looked_at_sweeps: Instant,
    /// Records and bytes of the state log read so far.
    restored: (u64, u64),
    /// Delivery is stopped because the state has reached its limit.
    held: bool,
}

impl<B: Broker> Engine<B> {
    /// An engine without tasks.
    #[must_use]
    pub fn new(
        broker: B,
        shared: Arc<Shared>,
        options: Options,
        metrics: Arc<Metrics>,
        status: Status,
    ) -> Engine<B> {
        Engine {
            tables: Tables::new(&shared),
            restore: Restore::new(Arc::clone(&shared), options.adopt),
            idle: Idleness::new(shared.idle_timeouts()),
            last_commit: broker.now(),
            looked_at_watermarks: broker.now(),
            looked_at_sweeps: broker.now(),
            haste: BTreeMap::new(),
            tasks: Tasks::default(),
            without_table: Vec::new(),
            unstarted: BTreeSet::new(),
            backlog: VecDeque::new(),
            outbox: Outbox::default(),
            cuts: Cuts::default(),
            restored: (0, 0),
            held: false,
            shared,
            broker,
            options,
            metrics,
            status,
        }
    }

    /// The running tasks.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Whether every assigned task runs, and nothing is at hand.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.restoring() == 0 && self.backlog.is_empty() && !self.tasks.is_empty()
    }

    fn restoring(&self) -> usize {
        self.restore.len() + self.without_table.len() + self.unstarted.len()
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// What ends the process: its restart is the recovery.
    pub fn step(&mut self) -> Result<Step> {
        if self.backlog.is_empty() {
            let limits = Limits {
                // While restoring, polls are short: the restore is what is waited for.
                idle: if self.restoring() > 0 && !self.held {
                    Duration::from_millis(1)
                } else {
                    self.options.limits.idle
                },
                ..self.options.limits
            };
            let batch = self.broker.gather(&limits, self.last_commit + self.options.interval)?;
            self.follow(&batch)?;
            self.backlog = batch.records.into();
            self.tables.learn(&self.shared, &self.backlog, &mut self.broker)?;
        }
        self.restore_slice()?;
        self.start_tasks()?;
        self.report();
        self.mind_the_limit()?;
        if let Some(step) = self.declare_idle()? {
            return Ok(step);
        }
        self.look_at_sweeps();
        if self.backlog.is_empty() && self.haste.is_empty() {
            return Ok(Step::Quiet);
        }
        self.last_commit = self.broker.now();
        let mut outbox = std::mem::take(&mut self.outbox);
        let mut touched = self
            .tasks
            .process(&self.shared, &mut self.backlog, &self.tables, &mut outbox)
            .map_err(halt)?;
        let now = self.broker.now();
        for id in touched.iter().filter(|id| id.stage != Stage::Group) {
            self.idle.active(*id, now);
        }
        touched.extend(self.haste.keys().filter(|id| !self.unstarted.contains(id)));
        if touched.is_empty() {
            self.outbox = outbox;
            return Ok(Step::Quiet);
        }
        self.finish(&touched, &mut outbox)?;
        let took = self.broker.now().saturating_duration_since(self.last_commit);
        self.metrics.process_duration.observe(took.as_secs_f64());
        self.commit(outbox, &touched)
    }

    fn finish(&mut self, touched: &BTreeSet<TaskId>, outbox: &mut Outbox) -> Result<()> {
        let touched = (touched, &self.haste);
        self.tasks.finish(touched, &self.shared, &self.tables, outbox).map_err(halt)?;
        Ok(())
    }

    /// Finds the tasks that keep the state log long although they change little, and lets them
    /// sweep, with or without input.
    fn look_at_sweeps(&mut self) {
        let tasks = &self.tasks;
        self.haste.retain(|id, haste| tasks.get(*id).is_some_and(|t| t.blocks().1 < haste.from));
        let now = self.broker.now();
        let due = now.saturating_duration_since(self.looked_at_sweeps) >= SWEEPS;
        if !due || mutant::is(Mutant::QuietTaskHoldsTheCut) {
            return;
        }
        self.looked_at_sweeps = now;
        let logged = || tasks.iter().filter(|(id, _)| id.has_log());
        let input_of_peer = |id: TaskId| self.shared.input_of(peer(id));
        let peers: Vec<TopicPartition> = logged().map(|(id, _)| input_of_peer(id)).collect();
        // What cannot be looked up now is looked up next time.
        let Ok(committed) = self.broker.committed(&peers) else { return };
        for (id, task) in logged().filter(|(id, _)| !self.unstarted.contains(id)) {
            let theirs = committed.get(&input_of_peer(id)).and_then(Option::as_ref);
            let live: usize = task.state().iter().map(|(_, _, bytes)| bytes).sum();
            let after = self.shared.sizes.cut_after;
            if theirs.is_some_and(|theirs| self.cuts.holds_back(id, theirs, live as u64, after)) {
                let from = task.blocks().0 + 1;
                tracing::debug!(task = %id, from, "its sweep is hastened: its log has grown long");
                self.haste.insert(id, Haste { from, bytes: self.shared.sizes.block_part });
            }
        }
    }

    fn follow(&mut self, batch: &Batch) -> Result<()> {
        for change in &batch.changes {
            self.metrics.rebalances.inc();
            match change {
                Change::Assigned(partitions) => {
                    tracing::info!(partitions = %names(partitions), "assigned");
                    let now = self.broker.now();
                    for id in ids(&self.shared, partitions) {
                        self.restore.add(id, now);
                    }
                }
                Change::Revoked(partitions) | Change::Lost(partitions) => {
                    tracing::info!(partitions = %names(partitions), "revoked");
                    for id in ids(&self.shared, partitions) {
                        self.forget(id);
                        self.restore.remove(id, &mut self.broker)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, id: TaskId) {
        self.tasks.remove(id);
        self.without_table.retain(|restored| restored.id != id);
        self.unstarted.remove(&id);
        self.cuts.remove(id);
        self.haste.remove(&id);
        self.idle.remove(id);
    }

    fn restore_slice(&mut self) -> Result<()> {
        if !self.restore.is_empty() {
            let restored = self.restore.step(&mut self.broker, RESTORE_SLICE)?;
            self.without_table.extend(restored);
        }
        let log = self.broker.state_log();
        let read = (log.records_read(), log.bytes_read());
        self.metrics.restored(read.0 - self.restored.0, read.1 - self.restored.1);
        self.restored = read;
        let newest_wish = self.without_table.iter().map(|restored| restored.since).max();
        self.tables.follow(&mut self.broker, newest_wish)
    }

    /// Lets restored tasks run: once the reference table is as new as they need it, and their
    /// partition has taken its position.
    fn start_tasks(&mut self) -> Result<()> {
        for restored in std::mem::take(&mut self.without_table) {
            if !self.tables.are_as_of(restored.since) {
                self.without_table.push(restored);
                continue;
            }
            let now = self.tables.read_to();
            if now.is_older_than(restored.read_to) {
                let what = format!(
                    "task {}: its last batch was joined with the reference tables at offset {} (the \
                     sum of their partitions'), they now end at {}: a topic was cut or made anew. \
                     Restore it, or start over",
                    restored.id, restored.read_to.offset, now.offset
                );
                return Err(Halt(what).into());
            }
            let took = self.broker.now().saturating_duration_since(restored.since);
            self.metrics.restore_duration.observe(took.as_secs_f64());
            if restored.id.has_log() {
                self.cuts.take_over(restored.id, &restored.metadata);
            }
            self.tasks.insert(restored.id, restored.task);
            self.unstarted.insert(restored.id);
        }
        for id in std::mem::take(&mut self.unstarted) {
            let Some(task) = self.tasks.get(id) else { continue };
            if self.held {
                self.unstarted.insert(id);
                continue;
            }
            if let Err(error) = self.broker.start(&self.shared.input_of(id), task.next_offset()) {
                tracing::debug!(%error, task = %id, "not ready to start");
                self.unstarted.insert(id);
            } else if id.stage != Stage::Group {
                self.idle.active(id, self.broker.now());
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        let running = self.tasks.len() - self.unstarted.len();
        self.status.tasks(running, self.restoring(), self.broker.state_log().remaining());
        let now = self.broker.now();
        self.status.state(now, &self.tasks);
        if now.saturating_duration_since(self.looked_at_watermarks) >= WATERMARKS {
            self.looked_at_watermarks = now;
            self.report_watermarks();
        }
    }

    /// Which queries keep windows open, and which source partition they wait for.
    fn report_watermarks(&self) {
        let mut lags: BTreeMap<&str, i64> =
            self.shared.global.iter().map(|query| (query.plan.name.as_str(), 0)).collect();
        for (id, task) in self.tasks.iter() {
            let Task::Group(task) = task else { continue };
            for held in task.held() {
                let lag = lags.entry(&held.query.plan.name).or_default();
                if *lag == 0 && held.query.plan.emit == Emit::Final {
                    tracing::warn!(
                        query = held.query.plan.name,
                        task = %id,
                        window = held.window,
                        topic = held.topic,
                        source_partition = held.partition,
                        stream_time = held.stream_time,
                        "EMIT FINAL waits for a source partition; give the query an idle time-out \
                         if nothing more will come"
                    );
                }
                *lag = held.lag.max(*lag);
            }
        }
        lags.iter().for_each(|(query, lag)| self.metrics.watermark_lag(query, *lag));
    }

    /// Stops delivery when the state of all threads together has reached its limit, and goes on
    /// when other tasks' state went with them. The membership is kept by polling.
    fn mind_the_limit(&mut self) -> Result<()> {
        let over = self.status.is_over_limit();
        if over == self.held {
            return Ok(());
        }
        self.held = over;
        let ids: Vec<TaskId> = self.tasks.iter().map(|(id, _)| id).collect();
        if over {
            let input_of = |id: &TaskId| self.shared.input_of(*id);
            let partitions: Vec<TopicPartition> = ids.iter().map(input_of).collect();
            self.broker.pause(&partitions)?;
            self.backlog.clear();
        }
        self.unstarted.extend(ids);
        Ok(())
    }

    fn declare_idle(&mut self) -> Result<Option<Step>> {
        let mut idle = Vec::new();
        for (id, timeout) in self.idle.due(self.broker.now()) {
            let Some(task) = self.tasks.get(id).filter(|_| !self.unstarted.contains(&id)) else {
                continue;
            };
            let at_end = match self.broker.is_at_end(&self.shared.input_of(id), task.next_offset())
            {
                Ok(at_end) => at_end || mutant::is(Mutant::IdleByClock),
                Err(error) if error.transient => false,
                Err(error) => return Err(error.into()),
            };
            if at_end {
                idle.push((id, timeout));
            }
        }
        if idle.is_empty() {
            return Ok(None);
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        let touched = self.tasks.declare_idle(&idle);
        self.finish(&touched, &mut outbox)?;
        let step = self.commit(outbox, &touched)?;
        if step == Step::Committed {
            for (id, timeout) in idle {
                tracing::info!(task = %id, seconds = timeout / 1_000_000, "source partition is idle");
                self.idle.declared(id, timeout);
            }
        }
        Ok(Some(step))
    }
}

fn halt(error: TaskError) -> Halt {
    Halt(error.to_string())
}

fn ids(shared: &Shared, partitions: &[TopicPartition]) -> Vec<TaskId> {
    partitions.iter().map(|(topic, partition)| shared.reading(topic, *partition)).collect()
}

fn names(partitions: &[TopicPartition]) -> String {
    let names: Vec<String> = partitions.iter().map(|(t, p)| format!("{t}-{p}")).collect();
    names.join(" ")
}
