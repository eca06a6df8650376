//! Stage 2: merges partials per group, until the watermark closes their windows.

use crate::group::{Change, GroupKey, Row};
use crate::partials::{Partial, RawPartial};
use crate::plan::Plan;
use crate::sessions::{GroupSessions, Session, Sessions};
use crate::table::{Cursor, Table};
use caudal_core::avro::{AvroError, Writer};
use caudal_core::money::SumOverflow;

/// What the open windows of one plan are made of: panes, as stage 1 sends them.
///
/// A batch changes it in place; [`MergeState::rollback`] takes the batch back,
/// [`MergeState::commit`] makes it final and drops what is closed.
#[derive(Debug, Clone)]
pub struct MergeState {
    /// Of a query with windows of fixed size, or without windows.
    table: Table,
    /// Of a query with sessions.
    sessions: Sessions,
    /// The watermark of the last commit.
    committed: i64,
}

/// An entry of the state, as blocks hold it.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A pane of a group.
    Pane(Partial),
    /// The sessions of a group.
    Sessions(GroupSessions),
}

impl Entry {
    /// Reads one of a query.
    ///
    /// # Errors
    /// When the values are not that query's.
    pub fn read(plan: &Plan, raw: RawPartial<'_>) -> Result<Entry, AvroError> {
        if plan.window.session {
            return Ok(Entry::Sessions(GroupSessions::read(plan, raw)?));
        }
        Ok(Entry::Pane(raw.of(plan)?))
    }

    /// Writes it into a state block.
    pub fn write(&self, out: &mut Writer) {
        match self {
            Entry::Pane(pane) => pane.write(out),
            Entry::Sessions(group) => group.write(out),
        }
    }

    /// It as blocks hold it: in several entries, one after the other, where it is large.
    #[must_use]
    pub fn split(self) -> Vec<Entry> {
        match self {
            Entry::Pane(_) => vec![self],
            Entry::Sessions(group) => group.split().into_iter().map(Entry::Sessions).collect(),
        }
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> &GroupKey {
        match self {
            Entry::Pane(pane) => &pane.group,
            Entry::Sessions(group) => &group.group,
        }
    }
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
        MergeState { table: Table::default(), sessions: Sessions::default(), committed: i64::MIN }
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
        if window.session {
            return self.merge_session(plan, partial, watermark);
        }
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

    fn merge_session(
        &mut self,
        plan: &Plan,
        partial: &Partial,
        watermark: i64,
    ) -> Result<Merged, SumOverflow> {
        // Its first record decides: one that it would have joined may be over, its row given.
        if partial.from < plan.window.first_taken(watermark.max(self.committed)) {
            return Ok(Merged::TooLate);
        }
        let values = partial.values.clone();
        let session = Session { start: partial.from, end: partial.pane, values };
        self.sessions.absorb(plan, &partial.group, session)?;
        Ok(Merged::Merged)
    }

    /// Puts an entry back (when a state block is read); the last one of its group, pane and first
    /// window counts, or of its group where there are sessions.
    pub fn restore(&mut self, entry: Entry) {
        match entry {
            Entry::Pane(pane) => self.table.restore(pane),
            Entry::Sessions(group) => self.sessions.restore(group),
        }
    }

    /// `EMIT CHANGES`: the rows of the windows that changed in this batch and were open then, as
    /// they are now, and the windows that have no row any more, by start and group.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn changes(&self, plan: &Plan) -> Result<Vec<Change>, SumOverflow> {
        if plan.window.session {
            return Ok(self.sessions.changes(plan));
        }
        let mut windows: Vec<(i64, u32)> = Vec::new();
        for number in self.table.touched() {
            let cell = self.table.cell(number);
            // A cell is only ever changed while all its windows are open.
            let starts = plan.window.starts(cell.pane).filter(|start| *start >= cell.from);
            windows.extend(starts.map(|start| (start, cell.group)));
        }
        windows.sort_unstable();
        windows.dedup();
        let before = if plan.has_having() { self.table.before() } else { Default::default() };
        let mut changes = Vec::with_capacity(windows.len());
        for (start, group) in windows {
            let (name, window) = (self.table.group(group), (start, plan.window.end(start)));
            let Some(values) = self.table.total(plan, group, start)? else { continue };
            if plan.having_holds(name, window, &values) {
                let row = Row { group: name.clone(), start, end: window.1, values };
                changes.push(Change::Row(row));
                continue;
            }
            let before = self.table.total_before(plan, group, start, &before)?;
            if before.is_some_and(|before| plan.having_holds(name, window, &before)) {
                changes.push(Change::Gone(name.clone(), start));
            }
        }
        changes.sort_unstable_by(|a, b| {
            let ((a, start), (b, begin)) = (a.key(), b.key());
            (start, a).cmp(&(begin, b))
        });
        Ok(changes)
    }

    /// `EMIT FINAL`: the rows of the windows that the watermark has closed since the last commit,
    /// by start and group. The watermark must be the one that is committed next.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn final_rows(&self, plan: &Plan, watermark: i64) -> Result<Vec<Row>, SumOverflow> {
        if plan.window.session {
            return Ok(self.sessions.over_rows(plan, watermark));
        }
        self.table.closed_rows(plan, self.committed, watermark)
    }

    /// The entries that this batch changed, as they are now, in the order of their first change.
    pub fn changed(&self) -> impl Iterator<Item = Entry> {
        let panes = self.table.touched().map(|cell| Entry::Pane(self.table.entry(cell)));
        panes.chain(self.sessions.changed().map(Entry::Sessions))
    }

    /// Makes the batch final, and drops the panes that the watermark closes.
    pub fn commit(&mut self, plan: &Plan, watermark: i64) {
        self.committed = self.committed.max(watermark);
        if plan.window.session {
            self.sessions.commit(plan, self.committed);
        } else {
            self.table.commit(&plan.window, self.committed);
        }
    }

    /// Everything is as it was before the batch.
    pub fn rollback(&mut self) {
        self.table.rollback();
        self.sessions.rollback();
    }

    /// The entry after `cursor`, or the first one. A sweep meets every entry that is there from
    /// its beginning to its end.
    #[must_use]
    pub fn next_after(&self, cursor: Option<Cursor>) -> Option<(Cursor, Entry)> {
        // One of the two is empty.
        let pane = self.table.next_after(cursor).map(|(at, pane)| (at, Entry::Pane(pane)));
        let sessions = || self.sessions.next_after(cursor);
        pane.or_else(|| sessions().map(|(at, group)| (at, Entry::Sessions(group))))
    }

    /// Number of entries: groups × panes (more where some records missed some windows), or
    /// sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() + self.sessions.len()
    }

    /// Whether no window is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the heap, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.sessions.bytes()
    }
}

#[cfg(test)]
mod tests;
