//! The table behind every windowed aggregate: one accumulator per group and pane, changed in
//! place with a log of what was there before.
//!
//! Eviction happens at a commit and nowhere else, whole panes at a time. A batch can be taken
//! back exactly, down to the numbers that later cells will get: a run that aborts and one that
//! does not write the same bytes afterwards.

use crate::cells::{Cell, Cells, NONE};
use crate::group::Row;
use crate::names::Names;
use crate::partials::Partial;
use crate::plan::Plan;
use crate::values::Values;
use crate::window::Window;
use caudal_core::money::SumOverflow;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Where a sweep over a container has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub(crate) u32);

#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    names: Names,
    cells: Cells,
    /// Pane → its cell that was created last; the others follow from it.
    panes: BTreeMap<i64, u32>,
    /// Each cell that this batch touched, with what it held before; `None` for one that is new.
    undo: Vec<(u32, Option<Values>)>,
    /// Heap bytes of the values, as last counted.
    value_bytes: usize,
}

impl Table {
    /// The number of a group. Whoever asks adds a record to it next: a group without cells is
    /// never freed.
    pub fn intern(&mut self, group: &str) -> u32 {
        self.names.intern(group)
    }

    pub fn group(&self, number: u32) -> &crate::group::GroupKey {
        self.names.text(number)
    }

    pub fn cell(&self, number: u32) -> &Cell {
        self.cells.get(number)
    }

    /// The numbers of the groups that have cells.
    pub fn groups(&self) -> impl Iterator<Item = u32> {
        self.names.numbers()
    }

    /// The cells of a group, ordered by pane and first window.
    pub fn cells_of(&self, group: u32) -> &[u32] {
        self.names.cells(group)
    }

    /// Merges values into a cell, and gives its place among those of the group.
    pub fn add(
        &mut self,
        plan: &Plan,
        group: u32,
        (pane, from): (i64, i64),
        values: Values,
    ) -> Result<usize, SumOverflow> {
        match self.find(group, (pane, from)) {
            Ok(at) => {
                let number = self.names.cells(group)[at];
                let cell = self.cells.get_mut(number);
                if !cell.touched {
                    cell.touched = true;
                    self.undo.push((number, Some(cell.values.clone())));
                }
                let before = cell.values.bytes();
                cell.values.merge(plan, &values)?;
                self.value_bytes = self.value_bytes + cell.values.bytes() - before;
                Ok(at)
            }
            Err(at) => {
                let number = self.create(group, at, (pane, from), values);
                self.cells.get_mut(number).touched = true;
                self.undo.push((number, None));
                Ok(at)
            }
        }
    }

    /// Puts a cell back as it was written.
    pub fn restore(&mut self, entry: Partial) {
        let group = self.names.intern(&entry.group);
        match self.find(group, (entry.pane, entry.from)) {
            Ok(at) => {
                let number = self.names.cells(group)[at];
                self.replace(number, entry.values);
            }
            Err(at) => {
                self.create(group, at, (entry.pane, entry.from), entry.values);
            }
        }
    }

    fn find(&self, group: u32, key: (i64, i64)) -> Result<usize, usize> {
        let key_of = |number: &u32| {
            let cell = self.cells.get(*number);
            (cell.pane, cell.from)
        };
        let cells = self.names.cells(group);
        // Nearly all records belong to the newest pane.
        match cells.last().map(key_of) {
            Some(last) if last == key => Ok(cells.len() - 1),
            Some(last) if last > key => cells.binary_search_by_key(&key, key_of),
            _ => Err(cells.len()),
        }
    }

    fn create(&mut self, group: u32, at: usize, (pane, from): (i64, i64), values: Values) -> u32 {
        self.value_bytes += values.bytes();
        let newest = self.panes.entry(pane).or_insert(NONE);
        let cell = Cell { values, pane, from, group, next: *newest, touched: false };
        let number = self.cells.insert(cell);
        *newest = number;
        self.names.cells_mut(group).insert(at, number);
        number
    }

    fn replace(&mut self, number: u32, values: Values) {
        let bytes = values.bytes();
        let before = std::mem::replace(&mut self.cells.get_mut(number).values, values);
        self.value_bytes = self.value_bytes + bytes - before.bytes();
    }

    fn remove(&mut self, number: u32) {
        self.value_bytes -= self.cells.get(number).values.bytes();
        self.cells.remove(number);
    }

    /// Takes back the creation of a cell; it is the newest of its pane again.
    fn take_back(&mut self, number: u32) {
        let &Cell { pane, from, group, next, .. } = self.cells.get(number);
        if let Ok(at) = self.find(group, (pane, from)) {
            let cells = self.names.cells_mut(group);
            cells.remove(at);
            if cells.is_empty() {
                self.names.release(group);
            }
        }
        if next == NONE {
            self.panes.remove(&pane);
        } else {
            self.panes.insert(pane, next);
        }
        self.remove(number);
    }

    /// Everything is as it was before the batch.
    pub fn rollback(&mut self) {
        while let Some((number, before)) = self.undo.pop() {
            match before {
                Some(values) => {
                    self.replace(number, values);
                    self.cells.get_mut(number).touched = false;
                }
                None => self.take_back(number),
            }
        }
    }

    /// Makes the batch final, and drops the panes whose last window is closed at `time`.
    pub fn commit(&mut self, window: &Window, time: i64) {
        for (number, _) in self.undo.drain(..) {
            self.cells.get_mut(number).touched = false;
        }
        // The last window that holds a pane starts with it.
        while let Some(pane) =
            self.panes.first_entry().filter(|pane| window.is_closed(*pane.key(), time))
        {
            let mut number = pane.remove();
            while number != NONE {
                let &Cell { group, next, .. } = self.cells.get(number);
                self.drop_closed(group, window, time);
                self.remove(number);
                number = next;
            }
        }
        if self.cells.len() == 0 {
            self.clear();
        }
    }

    /// Takes all closed panes out of a group's list at once, when its first cell is dropped.
    fn drop_closed(&mut self, group: u32, window: &Window, time: i64) {
        let cells = &self.cells;
        let list = self.names.cells_mut(group);
        let closed = list.partition_point(|number| window.is_closed(cells.get(*number).pane, time));
        list.drain(..closed);
        if closed > 0 && list.is_empty() {
            self.names.release(group);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.names.clear();
        self.cells.clear();
        self.panes.clear();
        self.undo.clear();
        self.value_bytes = 0;
    }

    /// The cells that this batch touched, in the order in which it first did.
    pub fn touched(&self) -> impl Iterator<Item = u32> {
        self.undo.iter().map(|(number, _)| *number)
    }

    pub fn entry(&self, number: u32) -> Partial {
        let cell = self.cells.get(number);
        Partial {
            group: self.names.text(cell.group).clone(),
            pane: cell.pane,
            from: cell.from,
            values: cell.values.clone(),
        }
    }

    /// The entry after `cursor`, or the first one.
    pub fn next_after(&self, cursor: Option<Cursor>) -> Option<(Cursor, Partial)> {
        let number = self.cells.after(cursor.map(|cursor| cursor.0))?;
        Some((Cursor(number), self.entry(number)))
    }

    /// What a group adds up to in the window that starts at `start`: its panes, without the
    /// records that came after the window had closed.
    pub fn total(
        &self,
        plan: &Plan,
        group: u32,
        start: i64,
    ) -> Result<Option<Values>, SumOverflow> {
        self.total_of(plan, group, start, |number| Some(&self.cells.get(number).values))
    }

    /// What it added up to before this batch.
    pub fn total_before(
        &self,
        plan: &Plan,
        group: u32,
        start: i64,
        before: &FxHashMap<u32, Option<&Values>>,
    ) -> Result<Option<Values>, SumOverflow> {
        self.total_of(plan, group, start, |number| match before.get(&number) {
            Some(before) => *before,
            None => Some(&self.cells.get(number).values),
        })
    }

    /// What the cells that this batch touched held before; nothing where they are new.
    pub fn before(&self) -> FxHashMap<u32, Option<&Values>> {
        self.undo.iter().map(|(number, values)| (*number, values.as_ref())).collect()
    }

    fn total_of<'s>(
        &'s self,
        plan: &Plan,
        group: u32,
        start: i64,
        values: impl Fn(u32) -> Option<&'s Values>,
    ) -> Result<Option<Values>, SumOverflow> {
        let window = &plan.window;
        let cells = self.names.cells(group);
        let first = cells.partition_point(|number| self.cells.get(*number).pane < start);
        let mut total: Option<Values> = None;
        for number in &cells[first..] {
            let cell = self.cells.get(*number);
            if cell.pane >= start.saturating_add(window.size) {
                break;
            }
            if let Some(values) = values(*number).filter(|_| cell.from <= start) {
                merge_into(plan, &mut total, values)?;
            }
        }
        Ok(total)
    }

    /// Final rows: those of the windows that are closed at `time` and were not at `before`, by
    /// start and group, as far as HAVING holds.
    pub fn closed_rows(
        &self,
        plan: &Plan,
        before: i64,
        time: i64,
    ) -> Result<Vec<Row>, SumOverflow> {
        let window = &plan.window;
        let mut rows = Vec::new();
        let mut start = window.first_open(before);
        while let Some((pane, _)) = self.panes.range(start..).next() {
            start = start.max(window.first_start(*pane));
            if !window.is_closed(start, time) {
                break;
            }
            self.rows_of_window(plan, start, &mut rows)?;
            start += window.advance;
        }
        Ok(rows)
    }

    fn rows_of_window(
        &self,
        plan: &Plan,
        start: i64,
        rows: &mut Vec<Row>,
    ) -> Result<(), SumOverflow> {
        let mut totals: FxHashMap<u32, Option<Values>> = FxHashMap::default();
        for (_, newest) in self.panes.range(start..start.saturating_add(plan.window.size)) {
            let mut number = *newest;
            while number != NONE {
                let cell = self.cells.get(number);
                if cell.from <= start {
                    merge_into(plan, totals.entry(cell.group).or_default(), &cell.values)?;
                }
                number = cell.next;
            }
        }
        let (begin, window) = (rows.len(), (start, plan.window.end(start)));
        for (group, total) in totals {
            let name = self.names.text(group);
            if let Some(values) = total.filter(|values| plan.having_holds(name, window, values)) {
                rows.push(Row { group: name.clone(), start, end: window.1, values });
            }
        }
        rows[begin..].sort_unstable_by(|a, b| a.group.cmp(&b.group));
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn bytes(&self) -> usize {
        self.names.bytes()
            + self.cells.bytes()
            + self.cells.len() * size_of::<u32>()
            + self.panes.len() * 32
            + self.undo.capacity() * size_of::<(u32, Option<Values>)>()
            + self.value_bytes
    }
}

/// Merges values into a total that may not have begun.
pub(crate) fn merge_into(
    plan: &Plan,
    total: &mut Option<Values>,
    values: &Values,
) -> Result<(), SumOverflow> {
    match total {
        Some(total) => total.merge(plan, values),
        None => {
            *total = Some(values.clone());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
