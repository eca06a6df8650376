//! A stage-1 task after the topics have grown.

use super::{AccountTask, next_entry};
use crate::block::{Entries, Growth};
use crate::migrate::{Moved, Newcomer, Widening};
use crate::shared::{Shared, TaskError};
use caudal_core::dedup::Seen;
use caudal_core::outbox::Outbox;
use caudal_core::partitioner::partition_of;
use caudal_query::group::{Change, account_of};
use caudal_query::panes::PaneState;
use caudal_query::partials::Partial;
use caudal_query::plan::{Emit, Plan};
use std::sync::Arc;

impl AccountTask {
    /// The task of `partition` among the new number of partitions, from all old tasks in the order
    /// of their partitions; those whose accounts cannot live here are passed over. The rows of
    /// windows that it closes, and its whole state as a block, go into the outbox.
    ///
    /// # Errors
    /// [`TaskError`]: a group that is none of its query's, or a sum out of range.
    pub(crate) fn grown(
        shared: &Arc<Shared>,
        (widening, partition): (Widening, i32),
        old: &[AccountTask],
        newcomer: &Newcomer,
        outbox: &mut Outbox,
        moved: &mut Moved,
    ) -> Result<AccountTask, TaskError> {
        let from: Vec<&AccountTask> =
            old.iter().filter(|task| widening.may_move(task.id.partition, partition)).collect();
        let mut task = AccountTask::new(Arc::clone(shared), partition);
        match old.iter().find(|task| task.id.partition == partition) {
            Some(own) => task.go_on_as(own),
            None => task.begin_as(from.first().copied(), newcomer.next_offset),
        }
        let next_offset = task.at.next_offset;
        task.growths.push(Growth { partitions: widening.from, next_offset });
        task.at.stream_time = widening.stream_time(partition, |p| stream_time_of(old, p));
        task.at.idle = 0;
        // Stage 2 is told by its own blocks of this txn (`GroupTask::grown`).
        let told = match task.at.stream_time {
            i64::MIN => i64::MIN,
            time => time.div_euclid(shared.sizes.granule),
        };
        task.at.told.fill(told);
        for task_before in &from {
            seen_of(task_before).for_each(|seen| task.dedup.restore(&seen));
            task.take_panes(task_before, outbox)?;
        }
        task.commit();
        task.at.read_to = newcomer.read_to;
        task.write_whole(outbox);
        moved.ids += task.dedup.len();
        moved.panes += task.panes.iter().map(PaneState::len).sum::<usize>();
        Ok(task)
    }

    /// What belongs to the partition, and not to its accounts: it stays where it is.
    fn go_on_as(&mut self, own: &AccountTask) {
        self.at.next_offset = own.at.next_offset;
        self.at.sequence = own.at.sequence;
        self.at.outputs = own.at.outputs.clone();
        self.at.ledger = own.at.ledger.clone();
        self.plans = own.plans.clone();
        self.growths.clone_from(&own.growths);
    }

    fn begin_as(&mut self, other: Option<&AccountTask>, next_offset: i64) {
        self.at.next_offset = next_offset;
        let Some(other) = other else { return };
        self.plans = other.plans.of_newcomer();
        self.growths = other.growths.iter().map(|g| Growth { next_offset, ..*g }).collect();
    }

    /// Takes the panes whose accounts live here now. Windows that the higher stream time closes
    /// give their rows (EMIT FINAL), as at any commit.
    fn take_panes(&mut self, old: &AccountTask, outbox: &mut Outbox) -> Result<(), TaskError> {
        let shared = Arc::clone(&self.shared);
        for (place, query) in shared.local.iter().enumerate() {
            let Some(panes) = old.panes.get(place) else { continue };
            let mut mine = PaneState::default();
            for pane in entries_of(panes) {
                if self.is_home(&query.plan, &pane)? {
                    mine.restore(pane.clone());
                    self.panes[place].restore(pane);
                }
            }
            if query.plan.emit == Emit::Final {
                mine.commit(&query.plan, old.at.stream_time);
                let rows = mine.take_final_rows(&query.plan, self.at.stream_time);
                let offset = self.at.next_offset - 1;
                let rows = rows.map_err(|cause| self.overflow(offset, cause))?;
                let version = self.plans.version(place);
                let mut evaluation = self.evaluation(None, outbox);
                for row in rows {
                    evaluation.change(query, version, offset, &Change::Row(row));
                }
            }
        }
        Ok(())
    }

    fn is_home(&self, plan: &Plan, pane: &Partial) -> Result<bool, TaskError> {
        let account = account_of(plan, &pane.group).ok_or_else(|| TaskError::Broken {
            at: format!("state of query {}", plan.name),
            what: format!("the group {} is none of the query's", pane.group),
        })?;
        Ok(partition_of(account.as_bytes(), self.shared.partitions) == self.id.partition)
    }

    /// A block with the whole state.
    fn write_whole(&mut self, outbox: &mut Outbox) {
        let mut entries = Entries::new(self.shared.sizes.block_part);
        let (dedup, panes) = (&self.dedup, &self.panes);
        self.at.sweep.all_at_once(self.at.sequence, &mut entries, |cursor, entries| {
            next_entry(dedup, panes, cursor, entries)
        });
        let body = self.body();
        self.close_block(entries, body, outbox);
    }

    /// Whose it is.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.id.partition
    }

    /// Number of ids that dedup remembers.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.dedup.len()
    }
}

fn stream_time_of(tasks: &[AccountTask], partition: i32) -> i64 {
    let found = tasks.iter().find(|task| task.id.partition == partition);
    found.map_or(i64::MIN, AccountTask::stream_time)
}

fn seen_of(task: &AccountTask) -> impl Iterator<Item = Seen> + '_ {
    let mut cursor = None;
    std::iter::from_fn(move || {
        let (after, seen) = task.dedup.next_after(cursor)?;
        cursor = Some(after);
        Some(seen)
    })
}

fn entries_of(panes: &PaneState) -> impl Iterator<Item = Partial> + '_ {
    let mut cursor = None;
    std::iter::from_fn(move || {
        let (after, pane) = panes.next_after(cursor)?;
        cursor = Some(after);
        Some(pane)
    })
}
