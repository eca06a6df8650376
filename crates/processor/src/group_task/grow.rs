//! A stage-2 task after the topics have grown.

use super::{GroupTask, next_entry};
use crate::block::{Entries, Growth};
use crate::migrate::{Moved, Newcomer, Widening};
use crate::partials::Source;
use crate::shared::{Shared, TaskError};
use caudal_core::outbox::Outbox;
use caudal_core::partitioner::partition_of;
use caudal_query::group::Change;
use caudal_query::merge::{Entry, MergeState};
use caudal_query::plan::Emit;
use std::sync::Arc;

impl GroupTask {
    /// The task of `partition` among the new number of partitions, from all old tasks in the order
    /// of their partitions. `stream_times` are those of the new stage-1 tasks. The rows of windows
    /// that it closes, and its whole state as a block, go into the outbox.
    ///
    /// Every task takes the highest watermark of all: nothing is under way, so that a window which
    /// one task has closed can get no partial any more, but from a source that was declared idle,
    /// and that one is too late for it as before. With a lower one the closed window would be open
    /// again, empty, and such a partial would replace its total.
    ///
    /// # Errors
    /// [`TaskError`]: a sum out of range.
    pub(crate) fn grown(
        shared: &Arc<Shared>,
        (widening, partition): (Widening, i32),
        old: &[GroupTask],
        (newcomer, stream_times): (&Newcomer, &[i64]),
        outbox: &mut Outbox,
        moved: &mut Moved,
    ) -> Result<GroupTask, TaskError> {
        let mut task = GroupTask::new(Arc::clone(shared), partition);
        match old.iter().find(|task| task.id.partition == partition) {
            Some(own) => task.go_on_as(own),
            None => task.begin_as(old.first(), newcomer.next_offset),
        }
        let next_offset = task.at.next_offset;
        task.growths.push(Growth { partitions: widening.from, next_offset });
        let source = |time: &i64| Source { stream_time: *time, idle: 0 };
        task.at.sources = stream_times.iter().map(source).collect();
        // All that other streams have told anybody: nothing of it is under way.
        for told in old.iter().map(|task| &task.at.others) {
            for (known, told) in task.at.others.iter_mut().zip(told) {
                for (known, told) in known.iter_mut().zip(told) {
                    known.stream_time = known.stream_time.max(told.stream_time);
                }
            }
        }
        for (place, watermark) in task.at.watermarks.iter_mut().enumerate() {
            let of_old = old.iter().filter_map(|task| task.at.watermarks.get(place));
            *watermark = of_old.copied().max().unwrap_or(i64::MIN);
        }
        for task_before in old {
            task.take_totals(task_before, outbox)?;
        }
        task.commit();
        task.write_whole(outbox);
        moved.totals += task.queries.iter().map(MergeState::len).sum::<usize>();
        Ok(task)
    }

    /// What belongs to the partition, and not to its groups: it stays where it is.
    fn go_on_as(&mut self, own: &GroupTask) {
        self.at.next_offset = own.at.next_offset;
        self.at.sequence = own.at.sequence;
        self.at.outputs = own.at.outputs.clone();
        self.at.ledger = own.at.ledger.clone();
        self.at.sequences = own.at.sequences.clone();
        self.plans = own.plans.clone();
        self.growths.clone_from(&own.growths);
    }

    fn begin_as(&mut self, other: Option<&GroupTask>, next_offset: i64) {
        self.at.next_offset = next_offset;
        let Some(other) = other else { return };
        self.plans = other.plans.of_newcomer();
        self.growths = other.growths.iter().map(|g| Growth { next_offset, ..*g }).collect();
    }

    /// Takes the totals whose groups live here now. Windows that the higher watermark closes give
    /// their rows (EMIT FINAL), as at any commit.
    fn take_totals(&mut self, old: &GroupTask, outbox: &mut Outbox) -> Result<(), TaskError> {
        let shared = Arc::clone(&self.shared);
        for (place, query) in shared.global.iter().enumerate() {
            let Some(totals) = old.queries.get(place) else { continue };
            let mut mine = MergeState::default();
            for entry in entries_of(totals) {
                let home = partition_of(entry.group().as_bytes(), shared.partitions);
                if home == self.id.partition {
                    mine.restore(entry.clone());
                    self.queries[place].restore(entry);
                }
            }
            if query.plan.emit == Emit::Final {
                mine.commit(&query.plan, old.at.watermarks[place]);
                let rows = mine.final_rows(&query.plan, self.at.watermarks[place]);
                let offset = self.at.next_offset - 1;
                for row in rows.map_err(|cause| self.overflow(offset, cause))? {
                    self.emit(place, &query.topic, &Change::Row(row), offset, outbox);
                }
            }
        }
        Ok(())
    }

    /// Whose it is.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.id.partition
    }

    /// A block with the whole state.
    fn write_whole(&mut self, outbox: &mut Outbox) {
        let mut entries = Entries::new(self.shared.sizes.block_part);
        let queries = &self.queries;
        self.at.sweep.all_at_once(self.at.sequence, &mut entries, |cursor, entries| {
            next_entry(queries, cursor, entries)
        });
        let body = self.body();
        self.close_block(entries, body, outbox);
    }
}

fn entries_of(totals: &MergeState) -> impl Iterator<Item = Entry> + '_ {
    let mut cursor = None;
    std::iter::from_fn(move || {
        let (after, entry) = totals.next_after(cursor)?;
        cursor = Some(after);
        Some(entry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::time::{HOUR, MINUTE};
    use caudal_query::aggregate::Accumulator;
    use caudal_query::merge::Merged;
    use caudal_query::partials::Partial;
    use caudal_query::plan::{Plan, shipped_one};
    use caudal_query::values::Values;

    fn ventas_gold() -> Plan {
        shipped_one("ventas_gold")
    }

    #[test]
    fn the_times_of_other_streams_stay_with_their_partitions() {
        let file = "CREATE STREAM a (k STRING) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON');
            CREATE STREAM b (k STRING) WITH (KAFKA_TOPIC='b', VALUE_FORMAT='JSON');
            CREATE TABLE de_a AS SELECT k, COUNT(*) AS n FROM a GROUP BY k;
            CREATE TABLE de_b AS SELECT k, COUNT(*) AS n FROM b GROUP BY k;";
        let shared = |partitions: i32, of_a: i32| {
            let plans = Plan::compile_file("f", file).unwrap_or_else(|faults| panic!("{faults}"));
            let mut shared = Shared::new(plans, partitions, HOUR);
            (shared.sources[0].partitions, shared.sources[1].partitions) = (of_a, 2);
            Arc::new(shared)
        };
        let mut old = [GroupTask::new(shared(1, 1), 0)];
        for (place, partition, time) in [(0, 0, 5), (1, 0, 7), (1, 1, 9)] {
            old[0].at.others[place][partition].stream_time = time;
        }
        let (mut outbox, mut moved) = (Outbox::default(), Moved::default());
        // The topic a grows with ours: its new partitions were never heard of.
        let (new, widening) = (shared(3, 3), Widening { from: 1, to: 3 });
        let known = (&Newcomer::default(), &[0, 0, 0][..]);
        let task = GroupTask::grown(&new, (widening, 2), &old, known, &mut outbox, &mut moved);
        let times = |of: &[Source]| of.iter().map(|s| s.stream_time).collect::<Vec<_>>();
        let task = task.unwrap();
        assert_eq!(times(&task.at.others[0]), [5, i64::MIN, i64::MIN]);
        assert_eq!(times(&task.at.others[1]), [7, 9]);
    }

    #[test]
    fn a_window_that_one_task_has_closed_stays_closed_for_its_groups() {
        let shared = |partitions| Arc::new(Shared::new(vec![ventas_gold()], partitions, HOUR));
        let mut old: Vec<GroupTask> = (0..2).map(|p| GroupTask::new(shared(2), p)).collect();
        let (fast, slow) = (10 * MINUTE, 9 * MINUTE);
        (old[0].at.watermarks[0], old[1].at.watermarks[0]) = (fast, slow);
        let widening = Widening { from: 2, to: 3 };
        let known = (&Newcomer::default(), &[fast, slow, fast][..]);
        for partition in 0..3 {
            let at = (widening, partition);
            let (mut outbox, mut moved) = (Outbox::default(), Moved::default());
            let task = GroupTask::grown(&shared(3), at, &old, known, &mut outbox, &mut moved);
            let mut task = task.unwrap();
            assert_eq!(task.at.watermarks, [fast], "{partition}");
            assert_eq!(task.at.sources[1], Source { stream_time: slow, idle: 0 });
            // Closed by the fast task, open by the slow one.
            let late = Partial {
                group: "[\"m\",\"EUR\"]".into(),
                pane: 8 * MINUTE,
                from: 8 * MINUTE,
                values: Values::Amount(Accumulator::of(1)),
            };
            let watermark = task.at.watermarks[0];
            let merged = task.queries[0].merge(&ventas_gold(), &late, watermark);
            assert_eq!(merged, Ok(Merged::TooLate));
        }
    }
}
