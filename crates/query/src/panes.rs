//! Stage 1 aggregation of groups that contain the account. Hopping windows are kept as panes of
//! one advance: a record changes one pane, not every window that holds it.

use crate::group::{Change, Row, write_key};
use crate::input::Input;
use crate::partials::Partial;
use crate::plan::{Emit, Plan};
use crate::table::{Cursor, Table, merge_into};
use crate::values::Values;
use caudal_core::money::SumOverflow;
use caudal_sql::expr::EvalError;
use rustc_hash::{FxHashMap, FxHashSet};

/// Panes of one plan.
///
/// A batch changes it in place; [`PaneState::rollback`] takes the batch back,
/// [`PaneState::commit`] makes it final and drops what is closed.
#[derive(Debug, Clone)]
pub struct PaneState {
    table: Table,
    /// Stream time of the last commit.
    committed: i64,
    /// Up to what stream time windows were closed in this batch.
    closed: i64,
    /// `EMIT FINAL`: the rows of the windows that were closed in this batch.
    final_rows: Vec<Row>,
    /// What HAVING said last in this batch of each group and window of which it said anything new.
    said: FxHashMap<(u32, i64), Said>,
    /// Groups and windows that have a row as of the last commit; only of a query with HAVING, and
    /// `None` after a restore, until it is asked for.
    given: Option<FxHashSet<(u32, i64)>>,
    key: String,
    /// What the panes add up to from each one before the record's to the record's, that last.
    earlier: Vec<(i64, Values)>,
}

/// What HAVING said last of a group and window.
#[derive(Debug, Clone)]
enum Said {
    /// It holds, and the row was emitted at once.
    First,
    /// It holds, and this is the row.
    Row(Values),
    /// It held and does not hold any more.
    Gone,
}

/// What a record did.
#[derive(Debug, Default, PartialEq)]
pub struct Added {
    /// Whether it missed a window that was already closed.
    pub late: bool,
    /// `EMIT CHANGES`: rows for which HAVING held for the first time in this batch.
    pub first_rows: Vec<Row>,
    /// Expressions without a value for this record.
    pub errors: Vec<EvalError>,
}

impl Default for PaneState {
    fn default() -> Self {
        PaneState {
            table: Table::default(),
            committed: i64::MIN,
            closed: i64::MIN,
            final_rows: Vec::new(),
            said: FxHashMap::default(),
            given: None,
            key: String::new(),
            earlier: Vec::new(),
        }
    }
}

impl PaneState {
    /// Adds a record; `stream_time` is the highest event time so far, this record's included.
    ///
    /// `EMIT CHANGES` evaluates HAVING for every open window that holds the record. The first
    /// true row of a group and window in a batch is returned at once, the last one by
    /// [`PaneState::take_changes`]: whether something is seen, and the last value of each key, do
    /// not depend on when commits fall. A row for which HAVING holds no longer is gone. `EMIT FINAL` first sets aside the rows of the windows
    /// that `stream_time` closes: what comes after a window's end and grace is not in its row,
    /// wherever the commits fall.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn add(
        &mut self,
        plan: &Plan,
        row: &Input<'_>,
        stream_time: i64,
    ) -> Result<Added, SumOverflow> {
        if plan.emit == Emit::Final {
            self.close(plan, stream_time)?;
        }
        let pane = plan.window.pane(row.event_time());
        let first = plan.window.first_start(pane);
        let open = first.max(plan.window.first_open(stream_time));
        let mut added = Added::default();
        match write_key(plan, row, &mut self.key) {
            Ok(true) => {}
            Ok(false) => return Ok(added),
            Err(error) => {
                added.errors.push(error);
                return Ok(added);
            }
        }
        added.late = open > first;
        if open > pane {
            return Ok(added);
        }
        let one = Values::of(plan, row, &mut added.errors)?;
        if plan.emit == Emit::Changes && plan.has_having() && self.given.is_none() {
            self.given = Some(self.standing(plan)?);
        }
        let group = self.table.intern(&self.key);
        let at = self.table.add(plan, group, (pane, first), one)?;
        if plan.emit == Emit::Changes {
            self.evaluate(plan, group, at, open, &mut added.first_rows)?;
        }
        Ok(added)
    }

    /// Evaluates the windows that start at `open` or later and hold the pane at place `at` of its
    /// group. Each is the panes from its start to that one, and those after that one to its end:
    /// the first shrink and the second grow as the start moves on, so that every pane is merged
    /// once, not once a window.
    fn evaluate(
        &mut self,
        plan: &Plan,
        group: u32,
        at: usize,
        open: i64,
        first_rows: &mut Vec<Row>,
    ) -> Result<(), SumOverflow> {
        let PaneState { table, earlier, said, given, .. } = self;
        let cells = table.cells_of(group);
        earlier.clear();
        let mut sum = None;
        for cell in cells[..=at].iter().rev().map(|number| table.cell(*number)) {
            if cell.pane < open {
                break;
            }
            merge_into(plan, &mut sum, &cell.values)?;
            earlier.extend(sum.clone().map(|sum| (cell.pane, sum)));
        }
        let mut later = cells[at + 1..].iter().map(|number| table.cell(*number)).peekable();
        let mut sum_later = None;
        let mut start = open;
        while let Some((oldest, sum)) = earlier.last() {
            let (oldest, mut values) = (*oldest, sum.clone());
            while let Some(cell) =
                later.next_if(|cell| cell.pane < start.saturating_add(plan.window.size))
            {
                merge_into(plan, &mut sum_later, &cell.values)?;
            }
            if let Some(later) = &sum_later {
                values.merge(plan, later)?;
            }
            let (window, key) = ((start, plan.window.end(start)), (group, start));
            if plan.having_holds(table.group(group), window, &values) {
                match said.entry(key) {
                    std::collections::hash_map::Entry::Vacant(slot) => {
                        slot.insert(Said::First);
                        let group = table.group(group).clone();
                        first_rows.push(Row { group, start, end: window.1, values });
                    }
                    std::collections::hash_map::Entry::Occupied(mut slot) => {
                        slot.insert(Said::Row(values));
                    }
                }
            } else if said.contains_key(&key) || given.as_ref().is_some_and(|g| g.contains(&key)) {
                said.insert(key, Said::Gone);
            }
            if start >= oldest {
                earlier.pop();
            }
            start = start.saturating_add(plan.window.advance);
        }
        Ok(())
    }

    fn close(&mut self, plan: &Plan, stream_time: i64) -> Result<(), SumOverflow> {
        if stream_time > self.closed {
            self.final_rows.extend(self.table.closed_rows(plan, self.closed, stream_time)?);
            self.closed = stream_time;
        }
        Ok(())
    }

    /// The groups and open windows for which HAVING holds: what has a row after a restore. Each
    /// window is added up once, whatever the number of its panes.
    fn standing(&self, plan: &Plan) -> Result<FxHashSet<(u32, i64)>, SumOverflow> {
        let mut standing = FxHashSet::default();
        let open = plan.window.first_open(self.committed);
        for group in self.table.groups() {
            // The windows up to here are those of the panes before.
            let mut done = None;
            for number in self.table.cells_of(group) {
                let pane = self.table.cell(*number).pane;
                let is_new = |start: &i64| *start >= open && done.is_none_or(|done| *start > done);
                for start in plan.window.starts(pane).filter(is_new) {
                    let Some(values) = self.table.total(plan, group, start)? else { continue };
                    let window = (start, plan.window.end(start));
                    if plan.having_holds(self.table.group(group), window, &values) {
                        standing.insert((group, start));
                    }
                }
                done = Some(pane);
            }
        }
        Ok(standing)
    }

    /// `EMIT CHANGES`: what this batch changed beside the rows that were emitted at once, by group
    /// and start. The windows are those of the batch until its commit.
    pub fn take_changes(&mut self, plan: &Plan) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for ((group, start), said) in &mut self.said {
            let group = self.table.group(*group).clone();
            match std::mem::replace(said, Said::First) {
                Said::First => {}
                Said::Row(values) => {
                    let end = plan.window.end(*start);
                    changes.push(Change::Row(Row { group, start: *start, end, values }));
                }
                Said::Gone => {
                    changes.push(Change::Gone(group, *start));
                    *said = Said::Gone;
                }
            }
        }
        changes.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        changes
    }

    /// `EMIT FINAL`: takes the rows of the windows that `stream_time` has closed since the last
    /// commit, by start and group.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn take_final_rows(
        &mut self,
        plan: &Plan,
        stream_time: i64,
    ) -> Result<Vec<Row>, SumOverflow> {
        self.close(plan, stream_time)?;
        Ok(std::mem::take(&mut self.final_rows))
    }

    /// The panes that this batch changed, as they are now, in the order of their first change.
    pub fn changed(&self) -> impl Iterator<Item = Partial> {
        self.table.touched().map(|cell| self.table.entry(cell))
    }

    /// Puts a pane back (when a state block is read); the last one of its group and pane counts.
    pub fn restore(&mut self, entry: Partial) {
        self.given = None;
        self.table.restore(entry);
    }

    /// Makes the batch final, and drops the panes whose last window is closed at `stream_time`.
    pub fn commit(&mut self, plan: &Plan, stream_time: i64) {
        let before = plan.window.first_open(self.committed);
        self.committed = self.committed.max(stream_time);
        self.closed = self.committed;
        if let Some(given) = self.given.as_mut().filter(|_| plan.has_having()) {
            for (key, said) in &self.said {
                match said {
                    Said::Gone => given.remove(key),
                    Said::First | Said::Row(_) => given.insert(*key),
                };
            }
            // Before the numbers of groups are given again.
            let open = plan.window.first_open(self.committed);
            if open > before {
                given.retain(|(_, start)| *start >= open);
            }
        }
        self.forget_rows();
        self.table.commit(&plan.window, self.committed);
    }

    /// Everything is as it was before the batch.
    pub fn rollback(&mut self) {
        self.closed = self.committed;
        self.forget_rows();
        self.table.rollback();
    }

    fn forget_rows(&mut self) {
        self.final_rows.clear();
        self.said.clear();
    }

    /// The entry after `cursor`, or the first one. A sweep meets every entry that is there from
    /// its beginning to its end.
    #[must_use]
    pub fn next_after(&self, cursor: Option<Cursor>) -> Option<(Cursor, Partial)> {
        self.table.next_after(cursor)
    }

    /// Number of entries: groups × panes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no pane is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the heap, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let given = self.given.as_ref().map_or(0, FxHashSet::capacity);
        let said = self.said.capacity();
        self.table.bytes()
            + given * (size_of::<(u32, i64)>() + 1)
            + said * (size_of::<((u32, i64), Said)>() + 1)
    }
}

#[cfg(test)]
mod tests;
