//! The tasks of this instance that run.

use crate::account_task::AccountTask;
use crate::block::Block;
use crate::engine::{Shared, Stage, TaskError, TaskId};
use crate::group_task::GroupTask;
use crate::metrics::Metrics;
use caudal_core::avro::AvroError;
use caudal_core::decode::Record;
use caudal_core::outbox::{Outbox, Position};
use caudal_kafka::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A task of either stage.
#[derive(Debug)]
pub enum Task {
    /// Stage 1.
    Account(Box<AccountTask>),
    /// Stage 2.
    Group(Box<GroupTask>),
}

impl Task {
    /// A task without state.
    #[must_use]
    pub fn new(id: TaskId, shared: &Arc<Shared>) -> Task {
        let shared = Arc::clone(shared);
        match id.stage {
            Stage::Account => Task::Account(Box::new(AccountTask::new(shared, id.partition, 0))),
            Stage::Group => Task::Group(Box::new(GroupTask::new(shared, id.partition, 0))),
        }
    }

    /// Applies a state block.
    ///
    /// # Errors
    /// When the block is damaged.
    pub fn apply(&mut self, block: Block) -> Result<(), AvroError> {
        match self {
            Task::Account(task) => task.apply(block),
            Task::Group(task) => task.apply(block),
        }
    }

    /// The next input offset.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        match self {
            Task::Account(task) => task.next_offset(),
            Task::Group(task) => task.next_offset(),
        }
    }

    /// Sets where a task without state begins.
    pub fn set_next_offset(&mut self, next_offset: i64) {
        match self {
            Task::Account(task) => task.set_next_offset(next_offset),
            Task::Group(task) => task.set_next_offset(next_offset),
        }
    }

    fn process(&mut self, record: &Record, outbox: &mut Outbox) -> Result<(), TaskError> {
        match self {
            Task::Account(task) => task.process(record, outbox),
            Task::Group(task) => task.process(record, outbox),
        }
    }

    fn finish(&mut self, outbox: &mut Outbox) {
        match self {
            Task::Account(task) => task.finish(outbox),
            Task::Group(task) => task.finish(outbox),
        }
    }

    fn state_entries(&self) -> usize {
        match self {
            Task::Account(task) => task.state_entries(),
            Task::Group(task) => task.state_entries(),
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

    /// Drops every task: an aborted batch leaves no memory. Gives their ids, to be restored.
    pub fn reset(&mut self) -> Vec<TaskId> {
        std::mem::take(&mut self.running).into_keys().collect()
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

    /// Ids and next offsets of the running tasks.
    pub fn positions(&self) -> impl Iterator<Item = (TaskId, i64)> + '_ {
        self.running.iter().map(|(id, task)| (*id, task.next_offset()))
    }

    /// Processes a batch: pure, no I/O, no clock. Every task that had a record adds its outputs,
    /// its state block and its input position.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn process(&mut self, batch: &[(TopicPartition, Record)]) -> Result<Outbox, TaskError> {
        let mut outbox = Outbox::default();
        let mut touched = BTreeSet::new();
        for ((topic, partition), record) in batch {
            let stage = if topic.as_ref() == Stage::Account.input() {
                Stage::Account
            } else {
                Stage::Group
            };
            let id = TaskId { stage, partition: *partition };
            // A partition whose task is not here delivers nothing: it is paused.
            let Some(task) = self.running.get_mut(&id) else { continue };
            let before = task.next_offset();
            task.process(record, &mut outbox)?;
            if task.next_offset() != before {
                touched.insert(id);
            }
        }
        for id in touched {
            let Some(task) = self.running.get_mut(&id) else { continue };
            task.finish(&mut outbox);
            outbox.positions.push(Position {
                topic: id.stage.input().into(),
                partition: id.partition,
                next_offset: task.next_offset(),
                metadata: String::new(),
            });
        }
        Ok(outbox)
    }

    /// Moves the metrics by what the tasks counted since the last call: after a commit.
    pub fn count(&mut self, metrics: &Metrics) {
        for task in self.running.values_mut() {
            match task {
                Task::Account(task) => metrics.account(&std::mem::take(&mut task.counts)),
                Task::Group(task) => metrics.group(&std::mem::take(&mut task.counts)),
            }
        }
        let entries: usize = self.running.values().map(Task::state_entries).sum();
        metrics.state_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}
