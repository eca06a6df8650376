//! The tasks of this engine that run.

use crate::account_task::AccountTask;
use crate::block::{Block, Head};
use crate::group_task::GroupTask;
use crate::metrics::Metrics;
use crate::shared::{Shared, Stage, TaskError, TaskId};
use crate::source_task::SourceTask;
use crate::sweep::Haste;
use crate::tables::{ReadTo, Tables};
use caudal_core::avro::AvroError;
use caudal_core::decode::Record;
use caudal_core::outbox::{Outbox, Position};
use caudal_kafka::TopicPartition;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A task of any stage.
#[derive(Debug)]
pub enum Task {
    /// Stage 1.
    Account(Box<AccountTask>),
    /// Stage 1 of another stream.
    Source(Box<SourceTask>),
    /// Stage 2.
    Group(Box<GroupTask>),
}

/// Calls a method that all have.
macro_rules! each {
    ($task:expr, $bound:ident => $call:expr) => {
        match $task {
            Task::Account($bound) => $call,
            Task::Source($bound) => $call,
            Task::Group($bound) => $call,
        }
    };
}

impl Task {
    /// A task without state.
    #[must_use]
    pub fn new(id: TaskId, shared: &Arc<Shared>) -> Task {
        let shared = Arc::clone(shared);
        match id.stage {
            Stage::Account => Task::Account(Box::new(AccountTask::new(shared, id.partition))),
            Stage::Source(place) => {
                Task::Source(Box::new(SourceTask::new(shared, place, id.partition)))
            }
            Stage::Group => Task::Group(Box::new(GroupTask::new(shared, id.partition))),
        }
    }

    /// Applies a state block.
    ///
    /// # Errors
    /// When the block is damaged.
    pub fn apply(&mut self, block: &Block) -> Result<(), AvroError> {
        match self {
            Task::Account(task) => task.apply(block),
            Task::Group(task) => task.apply(block),
            // It has no blocks.
            Task::Source(_) => Ok(()),
        }
    }

    /// Compares its queries with those of the last block.
    ///
    /// # Errors
    /// What was changed, and what to do.
    pub fn settle(&mut self, last: &Head) -> Result<(), String> {
        match self {
            Task::Account(task) => task.settle(last),
            Task::Group(task) => task.settle(last),
            Task::Source(_) => Ok(()),
        }
    }

    /// The next input offset.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        each!(self, task => task.next_offset())
    }

    /// Sets where a task without state begins.
    pub fn set_next_offset(&mut self, next_offset: i64) {
        each!(self, task => task.set_next_offset(next_offset));
    }

    /// Number of its last block (or commit, where there are no blocks), and that of the first one
    /// it still needs.
    #[must_use]
    pub fn blocks(&self) -> (u64, u64) {
        match self {
            Task::Account(task) => task.blocks(),
            Task::Group(task) => task.blocks(),
            Task::Source(task) => (task.sequence(), task.sequence()),
        }
    }

    /// How far the reference tables had been read when its last batch was joined with them.
    #[must_use]
    pub fn read_to(&self) -> ReadTo {
        match self {
            Task::Account(task) => task.read_to(),
            Task::Source(task) => task.read_to(),
            Task::Group(_) => ReadTo::default(),
        }
    }

    fn process(
        &mut self,
        record: &Record,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        match self {
            Task::Account(task) => task.process(record, tables, outbox),
            Task::Source(task) => task.process(record, tables, outbox),
            Task::Group(task) => task.process(record, outbox),
        }
    }

    fn finish(
        &mut self,
        haste: Option<Haste>,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        match self {
            Task::Account(task) => task.finish(tables.read_to(), haste, outbox),
            Task::Source(task) => task.finish(tables.read_to(), outbox),
            Task::Group(task) => task.finish(haste, outbox),
        }
    }

    /// Makes the input record at this offset a dead letter: what it leads to cannot be written.
    /// False when that is so already, or when it is none of stage 1's.
    pub fn refuse(&mut self, offset: i64, why: &str) -> bool {
        match self {
            Task::Account(task) => task.refuse_at(offset, why),
            Task::Source(task) => task.refuse_at(offset, why),
            Task::Group(_) => false,
        }
    }

    /// The batch is committed: forgets how to undo it, and drops what it closed.
    pub fn commit(&mut self) {
        each!(self, task => task.commit());
    }

    /// The batch is aborted: as if it had never been.
    pub fn rollback(&mut self) {
        each!(self, task => task.rollback());
    }

    /// Keys and bytes of state, by query.
    pub fn state(&self) -> Vec<(&str, usize, usize)> {
        match self {
            Task::Account(task) => task.state(),
            Task::Group(task) => task.state(),
            Task::Source(_) => Vec::new(),
        }
    }
}

/// Running tasks by id.
#[derive(Debug, Default)]
pub struct Tasks {
    running: BTreeMap<TaskId, Task>,
}

impl Tasks {
    /// Takes over a restored task.
    pub fn insert(&mut self, id: TaskId, task: Task) {
        self.running.insert(id, task);
    }

    /// Drops a task with all it remembers.
    pub fn remove(&mut self, id: TaskId) {
        self.running.remove(&id);
    }

    /// A running task.
    #[must_use]
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.running.get(&id)
    }

    /// A running task.
    pub fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.running.get_mut(&id)
    }

    /// Number of running tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The running tasks.
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.running.iter().map(|(id, task)| (*id, task))
    }

    /// Processes records from the front of `records` until there are none or the outbox is full:
    /// pure, no I/O, no clock. Gives the tasks that had a record.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn process(
        &mut self,
        shared: &Shared,
        records: &mut VecDeque<(TopicPartition, Record)>,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<BTreeSet<TaskId>, TaskError> {
        let mut touched = BTreeSet::new();
        let (mut bytes, mut counted) = (0, 0);
        while let Some(((topic, partition), record)) = records.pop_front() {
            let id = shared.reading(&topic, partition);
            // A partition whose task is not here delivers nothing: it is paused.
            let Some(task) = self.running.get_mut(&id) else { continue };
            let before = task.next_offset();
            task.process(&record, tables, outbox)?;
            if task.next_offset() != before {
                touched.insert(id);
            }
            bytes += outbox.records[counted..].iter().map(|r| r.size()).sum::<usize>();
            counted = outbox.records.len();
            if bytes >= shared.sizes.outbox || counted >= shared.sizes.outbox_records {
                break;
            }
        }
        Ok(touched)
    }

    /// Declares that the partitions of these stage-1 tasks have been silent for `idle`
    /// microseconds at their confirmed ends. Gives the tasks.
    pub fn declare_idle(&mut self, idle: &[(TaskId, i64)]) -> BTreeSet<TaskId> {
        let mut touched = BTreeSet::new();
        for (id, idle) in idle {
            match self.running.get_mut(id) {
                Some(Task::Account(task)) => task.declare_idle(*idle),
                Some(Task::Source(task)) => task.declare_idle(*idle),
                Some(Task::Group(_)) | None => continue,
            }
            touched.insert(*id);
        }
        touched
    }

    /// Ends the batch: each of these tasks adds its last outputs, its state block and its input
    /// position; those in `haste` sweep faster, from the block given.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn finish(
        &mut self,
        (touched, haste): (&BTreeSet<TaskId>, &BTreeMap<TaskId, Haste>),
        shared: &Shared,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        for id in touched {
            let Some(task) = self.running.get_mut(id) else { continue };
            task.finish(haste.get(id).copied(), tables, outbox)?;
            let (topic, partition) = shared.input_of(*id);
            let metadata = match task {
                Task::Source(task) => task.metadata(),
                // The engine knows it.
                Task::Account(_) | Task::Group(_) => String::new(),
            };
            let next_offset = task.next_offset();
            outbox.positions.push(Position { topic, partition, next_offset, metadata });
        }
        Ok(())
    }

    /// Moves the metrics by what these tasks counted in a batch: after its commit.
    pub fn count(&mut self, touched: &BTreeSet<TaskId>, shared: &Shared, metrics: &Metrics) {
        for id in touched {
            match self.running.get_mut(id) {
                Some(Task::Account(task)) => metrics.account(&std::mem::take(&mut task.counts)),
                Some(Task::Source(task)) => {
                    let topic = shared.topic_of(id.stage);
                    metrics.source(topic, &std::mem::take(&mut task.counts));
                }
                Some(Task::Group(task)) => metrics.group(&std::mem::take(&mut task.counts)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::shipped;

    /// Seed 7953 of the simulation: the block's number stayed taken, and a restore missed a block.
    #[test]
    fn what_a_task_writes_without_a_record_is_undone_too() {
        let shared = Arc::new(Shared::new(shipped(), 2, 0));
        for stage in [Stage::Account, Stage::Group] {
            let id = TaskId { stage, partition: 0 };
            let mut tasks = Tasks::default();
            tasks.insert(id, Task::new(id, &shared));
            let haste = BTreeMap::from([(id, Haste { from: 0, bytes: 100 })]);
            let mut blocks = Vec::new();
            for _ in 0..2 {
                let mut outbox = Outbox::default();
                let touched = BTreeSet::from([id]);
                let tables = Tables::new(&shared);
                tasks.finish((&touched, &haste), &shared, &tables, &mut outbox).unwrap();
                assert_eq!(outbox.positions.len(), 1);
                blocks.push(outbox.records);
                tasks.get_mut(id).unwrap().rollback();
            }
            assert_eq!(blocks[0], blocks[1], "{id}");
        }
    }
}
