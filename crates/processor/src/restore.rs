//! Taking over tasks: from an assignment to a task that may read input.
//!
//! In this order, per task (design: "Taking over a task"):
//! 1. the committed offset, through a read_committed client that waits for stable offsets;
//! 2. the end of the task's partition of `caudal_estado`, as a read_uncommitted client sees it;
//! 3. the state blocks up to that end, once every txn below it has ended
//!    ([`caudal_kafka::log_reader::LogReader`]);
//! 4. the last block's next offset must equal the committed offset.
//!
//! Why (1) comes before (2): a predecessor's txn holds both. Read after the offset, the log's end
//! lies at or beyond whatever that offset's txn wrote; read before it, a txn could end in between,
//! and its offset would meet a log without its block.
//!
//! Tasks are restored in slices between polls, so that other tasks go on. Memory is bounded: each
//! block is applied as it comes, and what its own stream time closes is dropped at once.

use crate::args::Adopt;
use crate::block::{Assembler, Head, check_compatible, task_of};
use crate::broker::Broker;
use crate::shared::{Shared, TaskId};
use crate::source_task::SourceTask;
use crate::tables::ReadTo;
use crate::tasks::Task;
use anyhow::{Context as _, Result};
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_kafka::log_reader::Event;
use caudal_kafka::offsets::Committed;
use caudal_service::exit::Halt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a long restore says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

struct Restoring {
    task: Task,
    assembler: Assembler,
    last: Option<Head>,
    blocks: u64,
    committed: Option<Committed>,
    since: Instant,
}

/// A task whose state is back.
pub struct Restored {
    /// Which.
    pub id: TaskId,
    /// With its state.
    pub task: Task,
    /// When it was assigned.
    pub since: Instant,
    /// What its predecessor said of the state log ([`crate::cut`]).
    pub metadata: String,
    /// How far the reference tables had been read when its last block was joined with them.
    pub read_to: ReadTo,
}

/// Restores tasks from the state log.
pub struct Restore {
    shared: Arc<Shared>,
    adopt: Option<Adopt>,
    /// Assigned, not begun: with the time since when.
    waiting: BTreeMap<TaskId, Instant>,
    /// Being read. Both stages of one number share a partition of the log, and so a reading.
    reading: BTreeMap<TaskId, Restoring>,
    /// Partitions of the log that have been seen to hold blocks, by stage.
    seen: BTreeSet<TaskId>,
    said: Option<Instant>,
}

impl Restore {
    /// Nothing to restore yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>, adopt: Option<Adopt>) -> Restore {
        Restore {
            shared,
            adopt,
            waiting: BTreeMap::new(),
            reading: BTreeMap::new(),
            seen: BTreeSet::new(),
            said: None,
        }
    }

    /// A task to restore, assigned at `now`.
    pub fn add(&mut self, id: TaskId, now: Instant) {
        self.waiting.insert(id, now);
    }

    /// Forgets a task that was revoked meanwhile.
    ///
    /// # Errors
    /// When the reader cannot drop its partition.
    pub fn remove<B: Broker>(&mut self, id: TaskId, broker: &mut B) -> Result<()> {
        self.waiting.remove(&id);
        self.reading.remove(&id);
        if id.has_log() && !self.is_reading(id.partition) {
            broker.state_log().remove(id.partition)?;
        }
        Ok(())
    }

    /// Number of tasks that are not back yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.reading.len()
    }

    /// Whether every task is back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a block of the task was seen in the log while any task of its number was restored.
    #[must_use]
    pub fn has_seen(&self, id: TaskId) -> bool {
        self.seen.contains(&id)
    }

    fn is_reading(&self, partition: i32) -> bool {
        self.reading.keys().any(|id| id.partition == partition)
    }

    /// Goes on for up to `slice`; gives the tasks that are back.
    ///
    /// # Errors
    /// [`Halt`] when state and committed offsets do not agree, or a block is missing or damaged.
    pub fn step<B: Broker>(&mut self, broker: &mut B, slice: Duration) -> Result<Vec<Restored>> {
        let mut restored = self.begin_waiting(broker)?;
        let (reading, seen, shared) = (&mut self.reading, &mut self.seen, &self.shared);
        let (mut ended, mut cut): (Vec<i32>, Vec<i32>) = (Vec::new(), Vec::new());
        broker.state_log().step(slice, |event| -> Result<()> {
            match event {
                Event::Record(record) => apply(reading, seen, shared, &record),
                Event::End(partition) => {
                    ended.push(partition);
                    Ok(())
                }
                Event::Cut(partition) => {
                    cut.push(partition);
                    Ok(())
                }
            }
        })?;
        cut.into_iter().for_each(|partition| self.begin_again(partition));
        for partition in ended {
            let ids: Vec<TaskId> =
                self.reading.keys().copied().filter(|id| id.partition == partition).collect();
            for id in ids {
                let Some(done) = self.reading.remove(&id) else { continue };
                let since = done.since;
                match self.finish(id, done, broker)? {
                    Some(done) => restored.push(done),
                    None => {
                        self.waiting.insert(id, since);
                    }
                }
            }
        }
        self.say_progress(broker);
        Ok(restored)
    }

    /// The owner of the other stage's task cut the partition while it was read. What it cut is
    /// needed by neither, but a reading may have stopped in the middle of it.
    fn begin_again(&mut self, partition: i32) {
        tracing::info!(partition, "the state log was cut while it was read; reading it again");
        let ids: Vec<TaskId> =
            self.reading.keys().copied().filter(|id| id.partition == partition).collect();
        for id in ids {
            if let Some(restoring) = self.reading.remove(&id) {
                self.waiting.insert(id, restoring.since);
            }
        }
    }

    fn say_progress<B: Broker>(&mut self, broker: &mut B) {
        let now = broker.now();
        if self.is_empty() {
            self.said = None;
            return;
        }
        let said = *self.said.get_or_insert(now);
        if now.saturating_duration_since(said) < PROGRESS {
            return;
        }
        self.said = Some(now);
        let log = broker.state_log();
        tracing::info!(
            tasks = self.len(),
            read_mib = log.bytes_read() / (1024 * 1024),
            records_left = log.remaining(),
            "restoring"
        );
    }

    /// Begins every waiting task whose partition is not being read already: a reading that has
    /// begun has passed records that the newcomer needs. Gives the tasks that have no log: all of
    /// theirs is beside their position.
    fn begin_waiting<B: Broker>(&mut self, broker: &mut B) -> Result<Vec<Restored>> {
        let can_begin = |id: &TaskId| !id.has_log() || !self.is_reading(id.partition);
        let ids: Vec<TaskId> = self.waiting.keys().copied().filter(can_begin).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let partitions: Vec<TopicPartition> =
            ids.iter().map(|id| self.shared.input_of(*id)).collect();
        let mut committed = match broker.committed(&partitions) {
            Ok(committed) => committed,
            // An error never means "nothing committed": ask again next time.
            Err(error) if error.transient => {
                tracing::debug!(%error, "committed offsets");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error.into()),
        };
        let mut restored = Vec::new();
        for (id, partition) in ids.into_iter().zip(partitions) {
            let Some(since) = self.waiting.remove(&id) else { continue };
            let committed = committed.remove(&partition).flatten();
            if let Task::Source(task) = Task::new(id, &self.shared) {
                let begun = (&partition, since, self.adopt);
                restored.push(resumed(id, *task, committed, begun, broker)?);
                continue;
            }
            let restoring = Restoring {
                task: Task::new(id, &self.shared),
                assembler: Assembler::default(),
                last: None,
                blocks: 0,
                committed,
                since,
            };
            self.reading.insert(id, restoring);
            broker.state_log().add(id.partition, None);
        }
        Ok(restored)
    }

    /// `None`: somebody else went on with the task while it was read; it is to be read again.
    fn finish<B: Broker>(
        &self,
        id: TaskId,
        mut done: Restoring,
        broker: &mut B,
    ) -> Result<Option<Restored>> {
        done.assembler.finish(id).map_err(|e| halt(id, &e.to_string()))?;
        if let Some(last) = &done.last {
            check_compatible(last, &self.shared).map_err(|what| halt(id, &what))?;
            done.task.settle(last).map_err(|what| halt(id, &what))?;
        }
        let from_state = done.last.as_ref().map(|last| last.next_offset);
        let committed = done.committed.as_ref().map(|c| c.next_offset);
        let start = match (from_state, committed) {
            (None, None) => broker.first_offset(&self.shared.input_of(id))?,
            // A block and nothing committed (the group was deleted): the block wins.
            (Some(state), None) => state,
            (Some(state), Some(committed)) if state == committed => state,
            _ if self.has_moved(id, done.committed.as_ref(), broker)? => return Ok(None),
            (state, Some(committed)) => self.disagreement(id, state, committed)?,
        };
        done.task.set_next_offset(start);
        tracing::info!(task = %id, blocks = done.blocks, start, "restored");
        let read_to = done.task.read_to();
        Ok(Some(Restored {
            id,
            task: done.task,
            since: done.since,
            metadata: done.committed.map(|c| c.metadata).unwrap_or_default(),
            read_to,
        }))
    }

    /// Whether the committed position is no longer `before`, or cannot be asked for now. A process
    /// that stalls for longer than its session between asking for the position and reading the log
    /// finds its successor's blocks there. It is about to be told that the task is no longer its
    /// own; nothing was changed from outside.
    fn has_moved<B: Broker>(
        &self,
        id: TaskId,
        before: Option<&Committed>,
        broker: &mut B,
    ) -> Result<bool> {
        let input = self.shared.input_of(id);
        match broker.committed(std::slice::from_ref(&input)) {
            Ok(now) => Ok(now.get(&input).and_then(Option::as_ref) != before),
            Err(error) if error.transient => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn disagreement(&self, id: TaskId, state: Option<i64>, committed: i64) -> Result<i64> {
        match (self.adopt, state) {
            (Some(Adopt::State), Some(state)) => return Ok(state),
            (Some(Adopt::Group), _) => return Ok(committed),
            _ => {}
        }
        let (topic, partition) = self.shared.input_of(id);
        let state = state.map_or("no state".into(), |s| format!("the state ends at {s}"));
        Err(halt(
            id,
            &format!(
                "{state}, but group caudal-processor has committed {committed} of \
                 {topic}-{partition}. One of them was changed from outside. Run once with --adopt \
                 state (repeats or skips input to match the state) or --adopt group (keeps the \
                 offset; totals may be wrong)"
            ),
        ))
    }
}

/// A task that has no log, after the commit that its position carries.
fn resumed<B: Broker>(
    id: TaskId,
    mut task: SourceTask,
    committed: Option<Committed>,
    (partition, since, adopt): (&TopicPartition, Instant, Option<Adopt>),
    broker: &mut B,
) -> Result<Restored> {
    let metadata = committed.as_ref().map(|c| c.metadata.clone()).unwrap_or_default();
    let is_new = committed.is_none() || metadata.is_empty() && adopt == Some(Adopt::Group);
    if !is_new {
        task.resume(&metadata).map_err(|what| {
            let (topic, number) = partition;
            halt(id, &format!("{topic}-{number}: {what}"))
        })?;
    }
    let start = match &committed {
        Some(committed) => committed.next_offset,
        None => broker.first_offset(partition)?,
    };
    task.set_next_offset(start);
    let (topic, number) = partition;
    tracing::info!(%topic, partition = number, start, "restored");
    let read_to = task.read_to();
    Ok(Restored { id, task: Task::Source(Box::new(task)), since, metadata, read_to })
}

fn apply(
    reading: &mut BTreeMap<TaskId, Restoring>,
    seen: &mut BTreeSet<TaskId>,
    shared: &Shared,
    record: &Record,
) -> Result<()> {
    let at = || format!("{}-{}@{}", shared.state_topic, record.partition, record.offset);
    let part = record.value.as_deref().unwrap_or_default();
    let id = task_of(part).map_err(|e| Halt(format!("{}: {e}", at())))?;
    seen.insert(id);
    let Some(restoring) = reading.get_mut(&id) else { return Ok(()) };
    let block = restoring.assembler.add(part).map_err(|e| Halt(format!("{}: {e}", at())))?;
    let Some(block) = block else { return Ok(()) };
    restoring.blocks += 1;
    let applied = restoring.task.apply(&block).with_context(at);
    restoring.last = Some(block.head);
    applied.map_err(|e| Halt(format!("{e:#}")).into())
}

fn halt(id: TaskId, what: &str) -> anyhow::Error {
    Halt(format!("task {id}: {what}")).into()
}
