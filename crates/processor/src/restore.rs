//! Taking over tasks: from an assignment to a task that may read input.
//!
//! In this order, per task (design: "Taking over a task"):
//! 1. the committed offset, through a read_committed client that waits for stable offsets;
//! 2. the end of the task's partition of `caudal_estado`, as a read_uncommitted client sees it;
//! 3. the state blocks up to that end, once every txn below it has ended ([`LogReader`]);
//! 4. the last block's next offset must equal the committed offset.
//!
//! Why (1) comes before (2): a predecessor's txn holds both. Read after the offset, the log's end
//! lies at or beyond whatever that offset's txn wrote; read before it, a txn could end in between,
//! and its offset would meet a log without its block.
//!
//! Tasks are restored in slices between polls, so that other tasks go on.

use crate::args::Adopt;
use crate::block::{Assembler, check_compatible, task_of};
use crate::engine::{Shared, TaskId};
use crate::tasks::Task;
use anyhow::{Context as _, Result};
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_kafka::args::{Isolation, Kafka};
use caudal_kafka::consumer::GroupConsumer;
use caudal_kafka::log_reader::{Event, LogReader};
use caudal_kafka::offsets::Offsets;
use caudal_service::exit::Halt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Restoring {
    task: Task,
    assembler: Assembler,
    blocks: u64,
    committed: Option<i64>,
    since: Instant,
}

/// A task whose state is back.
pub struct Restored {
    /// Which.
    pub id: TaskId,
    /// With its state.
    pub task: Task,
    /// How long it took.
    pub took: Duration,
}

/// Restores tasks from the state log.
pub struct Restore {
    shared: Arc<Shared>,
    adopt: Option<Adopt>,
    reader: LogReader,
    ends: Offsets,
    /// Assigned, not begun: with the time since when.
    waiting: BTreeMap<TaskId, Instant>,
    /// Being read. Both stages of one number share a partition of the log, and so a reading.
    reading: BTreeMap<TaskId, Restoring>,
}

impl Restore {
    /// Nothing to restore yet.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn new(kafka: &Kafka, shared: Arc<Shared>, adopt: Option<Adopt>) -> Result<Restore> {
        Ok(Restore {
            reader: LogReader::connect(kafka, &shared.state_topic)?,
            ends: Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-restore")?,
            shared,
            adopt,
            waiting: BTreeMap::new(),
            reading: BTreeMap::new(),
        })
    }

    /// A task to restore.
    pub fn add(&mut self, id: TaskId) {
        self.waiting.insert(id, Instant::now());
    }

    /// Forgets a task that was revoked meanwhile.
    ///
    /// # Errors
    /// When the reader cannot drop its partition.
    pub fn remove(&mut self, id: TaskId) -> Result<()> {
        self.waiting.remove(&id);
        self.reading.remove(&id);
        if !self.is_reading(id.partition) {
            self.reader.remove(id.partition)?;
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

    fn is_reading(&self, partition: i32) -> bool {
        self.reading.keys().any(|id| id.partition == partition)
    }

    /// Goes on for up to `slice`; gives the tasks that are back.
    ///
    /// # Errors
    /// [`Halt`] when state and committed offsets do not agree, or a block is missing or damaged.
    pub fn step(&mut self, consumer: &GroupConsumer, slice: Duration) -> Result<Vec<Restored>> {
        self.begin_waiting(consumer)?;
        let (reading, shared) = (&mut self.reading, &self.shared);
        let mut ended: Vec<i32> = Vec::new();
        self.reader.step(slice, |event| -> Result<()> {
            match event {
                Event::Record(record) => apply(reading, shared, &record),
                Event::End(partition) => {
                    ended.push(partition);
                    Ok(())
                }
            }
        })?;
        let mut restored = Vec::new();
        for partition in ended {
            let ids: Vec<TaskId> =
                self.reading.keys().copied().filter(|id| id.partition == partition).collect();
            for id in ids {
                let Some(done) = self.reading.remove(&id) else { continue };
                restored.push(self.finish(id, done)?);
            }
        }
        Ok(restored)
    }

    /// Begins every waiting task whose partition is not being read already: a reading that has
    /// begun has passed records that the newcomer needs.
    fn begin_waiting(&mut self, consumer: &GroupConsumer) -> Result<()> {
        let ids: Vec<TaskId> =
            self.waiting.keys().copied().filter(|id| !self.is_reading(id.partition)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> =
            ids.iter().map(|id| (id.stage.input().into(), id.partition)).collect();
        let committed = match consumer.committed(&partitions) {
            Ok(committed) => committed,
            // An error never means "nothing committed": ask again next time.
            Err(error) if error.transient => {
                tracing::debug!(%error, "committed offsets");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for (id, partition) in ids.into_iter().zip(partitions) {
            let Some(since) = self.waiting.remove(&id) else { continue };
            let committed =
                committed.get(&partition).and_then(|c| c.as_ref().map(|c| c.next_offset));
            let task = Task::new(id, &self.shared);
            let assembler = Assembler::default();
            self.reading.insert(id, Restoring { task, assembler, blocks: 0, committed, since });
            self.reader.add(id.partition, None);
        }
        Ok(())
    }

    fn finish(&self, id: TaskId, mut done: Restoring) -> Result<Restored> {
        done.assembler.finish().map_err(|e| halt(id, &e.to_string()))?;
        let input = format!("{}-{}", id.stage.input(), id.partition);
        let from_state = (done.blocks > 0).then(|| done.task.next_offset());
        let start = match (from_state, done.committed) {
            (None, None) => {
                let (first, _) = self.ends.watermarks(id.stage.input(), id.partition)?;
                first
            }
            // A block and nothing committed (the group was deleted): the block wins.
            (Some(state), None) => state,
            (Some(state), Some(committed)) if state == committed => state,
            (state, Some(committed)) => match (self.adopt, state) {
                (Some(Adopt::State), Some(state)) => state,
                (Some(Adopt::Group), _) => committed,
                _ => {
                    let state =
                        state.map_or("no state".into(), |s| format!("the state ends at {s}"));
                    return Err(halt(
                        id,
                        &format!(
                            "{state}, but group caudal-processor has committed {committed} of {input}. \
                         One of them was changed from outside. Run once with --adopt state (repeats \
                         or skips input to match the state) or --adopt group (keeps the offset; \
                         totals may be wrong)"
                        ),
                    ));
                }
            },
        };
        done.task.set_next_offset(start);
        tracing::info!(task = %id, blocks = done.blocks, start, "restored {input}");
        Ok(Restored { id, task: done.task, took: done.since.elapsed() })
    }
}

fn apply(
    reading: &mut BTreeMap<TaskId, Restoring>,
    shared: &Shared,
    record: &Record,
) -> Result<()> {
    let at = || format!("{}-{}@{}", shared.state_topic, record.partition, record.offset);
    let part = record.value.as_deref().unwrap_or_default();
    let id = task_of(part).map_err(|e| Halt(format!("{}: {e}", at())))?;
    let Some(restoring) = reading.get_mut(&id) else { return Ok(()) };
    let block = restoring.assembler.add(part).map_err(|e| Halt(format!("{}: {e}", at())))?;
    let Some(block) = block else { return Ok(()) };
    check_compatible(&block, shared).map_err(|what| Halt(format!("{}: {what}", at())))?;
    restoring.blocks += 1;
    restoring.task.apply(block).with_context(at).map_err(|e| Halt(format!("{e:#}")).into())
}

fn halt(id: TaskId, what: &str) -> anyhow::Error {
    Halt(format!("task {id}: {what}")).into()
}
