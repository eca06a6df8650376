//! Stage 2: merges partials per group, until the watermark closes their windows.

use crate::group::Row;
use crate::partials::Partial;
use crate::plan::Plan;
use crate::table::{Cursor, Table};
use caudal_core::money::SumOverflow;

/// What the open windows of one plan are made of: panes, as stage 1 sends them.
///
/// A batch changes it in place; [`MergeState::rollback`] takes the batch back,
/// [`MergeState::commit`] makes it final and drops what is closed.
#[derive(Debug, Clone)]
pub struct MergeState {
    table: Table,
    /// The watermark of the last commit.
    committed: i64,
}

/// What became of a partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is in the total of all its windows.
    Merged,
    /// Its windows that start before `until` were already closed, the others have it. Its rows
    /// of the closed ones must be kept elsewhere.
    PartlyLate {
        /// Start of the first window that was open, in microseconds.
        until: i64,
    },
    /// All its windows were already closed: it must be kept elsewhere, never merged.
    TooLate,
}

impl Default for MergeState {
    fn default() -> Self {
        MergeState { table: Table::default(), committed: i64::MIN }
    }
}

impl MergeState {
    /// Merges a partial, given the watermark: the lowest stream time of all source partitions.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn merge(
        &mut self,
        plan: &Plan,
        partial: &Partial,
        watermark: i64,
    ) -> Result<Merged, SumOverflow> {
        let window = &plan.window;
        // A window whose row is final stays closed, whatever becomes of the watermark.
        let open = window.first_open(watermark.max(self.committed));
        if open > partial.pane {
            return Ok(Merged::TooLate);
        }
        let first = partial.from.max(window.first_start(partial.pane));
        let group = self.table.intern(&partial.group);
        let key = (partial.pane, first.max(open));
        self.table.add(plan, group, key, partial.values.clone())?;
        Ok(if open > first { Merged::PartlyLate { until: open } } else { Merged::Merged })
    }

    /// Puts an entry back (when a state block is read); the last one of its group, pane and
    /// first window counts.
    pub fn restore(&mut self, entry: Partial) {
        self.table.restore(entry);
    }

    /// `EMIT CHANGES`: the rows of the windows that changed in this batch and were open then, as
    /// they are now, by start and group.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn changed_rows(&self, plan: &Plan) -> Result<Vec<Row>, SumOverflow> {
        let mut windows: Vec<(i64, u32)> = Vec::new();
        for number in self.table.touched() {
            let cell = self.table.cell(number);
            // A cell is only ever changed while all its windows are open.
            let starts = plan.window.starts(cell.pane).filter(|start| *start >= cell.from);
            windows.extend(starts.map(|start| (start, cell.group)));
        }
        windows.sort_unstable();
        windows.dedup();
        let mut rows = Vec::with_capacity(windows.len());
        for (start, group) in windows {
            let total = self.table.total(plan, group, start)?;
            let name = self.table.group(group);
            if let Some(values) = total.filter(|values| plan.having_holds(name, start, values)) {
                rows.push(Row { group: name.clone(), start, values });
            }
        }
        rows.sort_unstable_by(|a, b| (a.start, &a.group).cmp(&(b.start, &b.group)));
        Ok(rows)
    }

    /// `EMIT FINAL`: the rows of the windows that the watermark has closed since the last commit,
    /// by start and group. The watermark must be the one that is committed next.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn final_rows(&self, plan: &Plan, watermark: i64) -> Result<Vec<Row>, SumOverflow> {
        self.table.closed_rows(plan, self.committed, watermark)
    }

    /// The entries that this batch changed, as they are now, in the order of their first change.
    pub fn changed(&self) -> impl Iterator<Item = Partial> {
        self.table.touched().map(|cell| self.table.entry(cell))
    }

    /// Makes the batch final, and drops the panes that the watermark closes.
    pub fn commit(&mut self, plan: &Plan, watermark: i64) {
        self.committed = self.committed.max(watermark);
        self.table.commit(&plan.window, self.committed);
    }

    /// Everything is as it was before the batch.
    pub fn rollback(&mut self) {
        self.table.rollback();
    }

    /// The entry after `cursor`, or the first one. A sweep meets every entry that is there from
    /// its beginning to its end.
    #[must_use]
    pub fn next_after(&self, cursor: Option<Cursor>) -> Option<(Cursor, Partial)> {
        self.table.next_after(cursor)
    }

    /// Number of entries: groups × panes (more where some records missed some windows).
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no window is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the heap, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }
}

#[cfg(test)]
mod tests;
