//! Moving the state after its keys when the topics get more partitions
//! (`caudal topics migrate`). Pure; [`run`] is what it does with Kafka.
//!
//! Every new task is made of the old ones and writes its whole state as one block, all in one txn
//! with the positions. What belongs to a partition stays with it: position, ledger, numbers of
//! outputs. What belongs to a key goes where the key lives now:
//!
//! | state | goes to |
//! |---|---|
//! | panes of stage 1 | the partition of the account in the group |
//! | totals of stage 2 | the partition of the group |
//! | ids that dedup remembers | every partition where their account may live |
//!
//! An id is kept as a hash, without its account. But a key whose hash is `p` modulo `from` and `q`
//! modulo `to` exists only where `p` and `q` are equal modulo the greatest common divisor of both.
//! So each id goes to `to / gcd(from, to)` partitions: two when the count is doubled, five from 6 to
//! 10, all from 6 to 7. The copies that nobody asks for are forgotten after the horizon, like all.
//!
//! **Time.** A new task's stream time is the highest of the old tasks whose keys may come to it.
//! With a lower one, windows that were closed for an account would be open again, empty, and their
//! rows would be replaced by smaller ones. The price: where old partitions had come to different
//! event times, what the slower ones still bring is late by that much: kept, and flagged.

pub mod run;

use crate::account_task::AccountTask;
use crate::cut::Cuts;
use crate::group_task::GroupTask;
use crate::shared::{Shared, Stage, TaskError, TaskId};
use crate::tables::ReadTo;
use caudal_core::outbox::{Outbox, Position};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A number of partitions, and a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widening {
    /// Before.
    pub from: i32,
    /// After.
    pub to: i32,
}

impl Widening {
    /// Whether a key that lived in partition `old` may live in `new` now.
    #[must_use]
    pub fn may_move(self, old: i32, new: i32) -> bool {
        share_keys(gcd(self.from, self.to), old, new)
    }

    /// The stream time of a new partition, given that of each old one.
    #[must_use]
    pub fn stream_time(self, new: i32, of_old: impl Fn(i32) -> i64) -> i64 {
        let old = (0..self.from).filter(|old| self.may_move(*old, new));
        old.map(of_old).max().unwrap_or(i64::MIN)
    }

    /// To how many partitions each id is copied.
    #[must_use]
    pub fn copies(self) -> i32 {
        self.to / gcd(self.from, self.to)
    }
}

/// Whether a key may have lived in partition `a` and live in `b`, where `divisor` is the greatest
/// common divisor of all numbers of partitions from the one to the other.
#[must_use]
pub fn share_keys(divisor: i32, a: i32, b: i32) -> bool {
    (a - b) % divisor.max(1) == 0
}

/// Greatest common divisor.
#[must_use]
pub fn gcd(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Tasks of both stages.
    pub tasks: usize,
    /// Ids that dedup remembered before.
    pub ids_before: usize,
    /// The same after: with the copies.
    pub ids: usize,
    /// Panes of stage 1.
    pub panes: usize,
    /// Panes of stage 2.
    pub totals: usize,
    /// Rows of windows that were closed by it (EMIT FINAL).
    pub rows: usize,
    /// Bytes of the txn.
    pub bytes: usize,
    /// Between the stream times of the slowest and the fastest old partition, in microseconds.
    pub apart: i64,
}

/// How a task begins whose partition is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Newcomer {
    /// First offset of its partition.
    pub next_offset: i64,
    /// How far the reference tables had been read for some old block.
    pub read_to: ReadTo,
}

/// All old tasks at rest: nothing is between the stages.
#[derive(Debug, Default)]
pub struct Old {
    /// Stage 1, in the order of partitions.
    pub accounts: Vec<AccountTask>,
    /// Stage 2, in the order of partitions.
    pub groups: Vec<GroupTask>,
    /// Metadata of their committed positions.
    pub metadata: BTreeMap<TaskId, String>,
    /// First offsets of new partitions.
    pub starts: BTreeMap<TaskId, i64>,
    /// How far the reference tables had been read for the last block that was joined latest.
    pub read_to: ReadTo,
}

impl Old {
    fn sort(&mut self) {
        self.accounts.sort_by_key(AccountTask::partition);
        self.groups.sort_by_key(GroupTask::partition);
    }
}

/// Makes the tasks of the new number of partitions (`shared`'s): one outbox with everything.
///
/// # Errors
/// [`TaskError`]: state that is damaged, or a sum out of range.
pub fn grow(shared: &Arc<Shared>, old: &Old) -> Result<(Outbox, Moved), TaskError> {
    let from = i32::try_from(old.accounts.len()).unwrap_or(i32::MAX);
    let widening = Widening { from, to: shared.partitions };
    let mut outbox = Outbox::default();
    let mut moved = Moved {
        ids_before: old.accounts.iter().map(AccountTask::ids).sum(),
        apart: apart(&old.accounts),
        ..Moved::default()
    };
    let newcomer = |stage, partition| Newcomer {
        next_offset: old.starts.get(&TaskId { stage, partition }).copied().unwrap_or(0),
        read_to: old.read_to,
    };
    let mut stream_times = Vec::new();
    for partition in 0..shared.partitions {
        let newcomer = newcomer(Stage::Account, partition);
        let at = (widening, partition);
        let task =
            AccountTask::grown(shared, at, &old.accounts, &newcomer, &mut outbox, &mut moved)?;
        stream_times.push(task.stream_time());
        let id = TaskId { stage: Stage::Account, partition };
        commit_position(shared, old, id, (task.next_offset(), task.blocks().0), &mut outbox);
    }
    for partition in 0..shared.partitions {
        let newcomer = newcomer(Stage::Group, partition);
        let at = (widening, partition);
        let known = (&newcomer, &stream_times[..]);
        let task = GroupTask::grown(shared, at, &old.groups, known, &mut outbox, &mut moved)?;
        let id = TaskId { stage: Stage::Group, partition };
        commit_position(shared, old, id, (task.next_offset(), task.blocks().0), &mut outbox);
    }
    moved.tasks = outbox.positions.len();
    moved.rows = outbox.records.iter().filter(|record| record.origin.is_some()).count();
    moved.bytes = outbox.records.iter().map(|record| record.size()).sum();
    Ok((outbox, moved))
}

/// With the bound that the position had before: it is still one, and bounds only grow.
fn commit_position(
    shared: &Shared,
    old: &Old,
    id: TaskId,
    (next_offset, sequence): (i64, u64),
    outbox: &mut Outbox,
) {
    let mut cuts = Cuts::default();
    cuts.take_over(id, old.metadata.get(&id).map_or("", String::as_str));
    let (topic, partition) = shared.input_of(id);
    let metadata = cuts.metadata(id, sequence);
    outbox.positions.push(Position { topic, partition, next_offset, metadata });
}

/// Between the slowest and the fastest of the partitions that were heard of.
fn apart(tasks: &[AccountTask]) -> i64 {
    let times = || tasks.iter().map(AccountTask::stream_time).filter(|time| *time != i64::MIN);
    match (times().min(), times().max()) {
        (Some(slowest), Some(fastest)) => fastest - slowest,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
