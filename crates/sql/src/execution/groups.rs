//! Groups and windows, one record after the other, as Kafka Streams does it.

use super::{KeyBytes, key_bytes};
use crate::aggregate::{Accumulators, Order};
use crate::ast::{Emit, WindowKind};
use crate::catalog::{Aggregation, Window};
use crate::expr::EvalError;
use crate::row::{Position, RowView};
use crate::value::Value;
use caudal_core::money::SumOverflow;
use std::collections::BTreeMap;

/// A result of a group that has changed.
pub(super) struct Change {
    pub group: Vec<Value<'static>>,
    /// Bounds in milliseconds.
    pub window: Option<(i64, i64)>,
    /// The group's row; none for a session that has become part of another.
    pub row: Option<Vec<Value<'static>>>,
    pub timestamp: i64,
}

#[derive(Clone)]
struct Cell {
    accumulators: Accumulators,
    /// The highest event time in it.
    timestamp: i64,
}

/// What waits for its window to close: by end, then key and start.
type Waiting = BTreeMap<(i64, KeyBytes, i64), Change>;

/// The groups of one query.
#[derive(Default)]
pub(super) struct Groups {
    /// By group and window.
    cells: BTreeMap<(KeyBytes, i64, i64), Cell>,
    /// The highest event time of a record that came so far.
    stream_time: Option<i64>,
    /// The highest timestamp of a result: `EMIT FINAL` waits by this clock.
    result_time: Option<i64>,
    waiting: Waiting,
}

impl Groups {
    /// Adds a record, and gives the results that have changed, or become final.
    pub fn add<R: RowView>(
        &mut self,
        aggregation: &Aggregation,
        row: &R,
        position: Position,
        errors: &mut Vec<EvalError>,
    ) -> Result<Vec<Change>, SumOverflow> {
        let keys = aggregation.group_by.iter();
        let group: Vec<Value<'static>> =
            keys.map(|key| key.value_or_null(row, errors).into_owned()).collect();
        if group.iter().any(Value::is_null) {
            return Ok(Vec::new());
        }
        let order = Order {
            rowtime: position.rowtime,
            partition: position.partition,
            offset: position.offset,
        };
        let time = self.stream_time.map_or(position.rowtime, |time| time.max(position.rowtime));
        self.stream_time = Some(time);
        let mut one = Accumulators::new(&aggregation.calls);
        one.add(&aggregation.calls, row, order, errors)?;
        let changes = match aggregation.window {
            None => vec![self.add_to(aggregation, &group, None, &one, position.rowtime)?],
            Some(window) => match window.kind {
                WindowKind::Session { gap } => {
                    self.session(aggregation, &group, (gap, window.grace), &one, position.rowtime)?
                }
                WindowKind::Tumbling { size } => self.windows(
                    aggregation,
                    &group,
                    (size, size, window.grace),
                    &one,
                    position.rowtime,
                )?,
                WindowKind::Hopping { size, advance } => self.windows(
                    aggregation,
                    &group,
                    (size, advance, window.grace),
                    &one,
                    position.rowtime,
                )?,
            },
        };
        Ok(match (aggregation.emit, aggregation.window) {
            (Emit::Final, Some(window)) => self.wait(window, changes),
            _ => changes,
        })
    }

    /// Merges a record into a group's cell.
    fn add_to(
        &mut self,
        aggregation: &Aggregation,
        group: &[Value<'static>],
        window: Option<(i64, i64)>,
        one: &Accumulators,
        timestamp: i64,
    ) -> Result<Change, SumOverflow> {
        let (start, end) = window.unwrap_or((0, 0));
        let name = (key_bytes(group), start, end);
        let cell = match self.cells.entry(name) {
            std::collections::btree_map::Entry::Occupied(entry) => {
                let cell = entry.into_mut();
                cell.accumulators.merge(&aggregation.calls, one)?;
                cell.timestamp = cell.timestamp.max(timestamp);
                cell
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Cell { accumulators: one.clone(), timestamp })
            }
        };
        Ok(change(aggregation, group, window, cell))
    }

    /// Every window that holds the time and is open, oldest first; none starts before 1970.
    fn windows(
        &mut self,
        aggregation: &Aggregation,
        group: &[Value<'static>],
        (size, advance, grace): (i64, i64, i64),
        one: &Accumulators,
        time: i64,
    ) -> Result<Vec<Change>, SumOverflow> {
        let closed_until = self.stream_time.unwrap_or(time).saturating_sub(grace);
        let first = (time - size + advance).max(0) / advance * advance;
        let mut changes = Vec::new();
        let mut start = first;
        while start <= time {
            if start.saturating_add(size) > closed_until {
                let window = Some((start, start.saturating_add(size)));
                changes.push(self.add_to(aggregation, group, window, one, time)?);
            }
            start += advance;
        }
        Ok(changes)
    }

    /// The sessions within the gap become one; each that grows is taken back first.
    fn session(
        &mut self,
        aggregation: &Aggregation,
        group: &[Value<'static>],
        (gap, grace): (i64, i64),
        one: &Accumulators,
        time: i64,
    ) -> Result<Vec<Change>, SumOverflow> {
        let key = key_bytes(group);
        let closed_until =
            self.stream_time.unwrap_or(time).saturating_sub(grace).saturating_sub(gap);
        let near: Vec<(KeyBytes, i64, i64)> = self
            .cells
            .range((key.clone(), i64::MIN, i64::MIN)..=(key, i64::MAX, i64::MAX))
            .map(|(name, _)| name.clone())
            .filter(|(_, start, end)| {
                let open = *end >= closed_until;
                open && *end >= time.saturating_sub(gap) && *start <= time.saturating_add(gap)
            })
            .collect();
        let (mut start, mut end) = (time, time);
        for (_, from, to) in &near {
            (start, end) = (start.min(*from), end.max(*to));
        }
        if end < closed_until {
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        let mut whole = Accumulators::new(&aggregation.calls);
        for name in near {
            let window = (name.1, name.2);
            let Some(cell) = self.cells.remove(&name) else { continue };
            whole.merge(&aggregation.calls, &cell.accumulators)?;
            if (start, end) != (time, time) {
                let group = group.to_vec();
                changes.push(Change {
                    group,
                    window: Some(window),
                    row: None,
                    timestamp: window.1,
                });
            }
        }
        whole.merge(&aggregation.calls, one)?;
        changes.push(self.add_to(aggregation, group, Some((start, end)), &whole, end)?);
        Ok(changes)
    }

    /// Sets changes aside until their window is closed, and gives those whose window is.
    fn wait(&mut self, window: Window, changes: Vec<Change>) -> Vec<Change> {
        let gap = if let WindowKind::Session { gap } = window.kind { gap } else { 0 };
        let mut ready = Vec::new();
        for change in changes {
            let Some((start, end)) = change.window else { continue };
            let time = self.result_time.map_or(change.timestamp, |t| t.max(change.timestamp));
            self.result_time = Some(time);
            let name = (end, key_bytes(&change.group), start);
            match change.row {
                Some(_) => self.waiting.insert(name, change),
                None => self.waiting.remove(&name),
            };
            let closed_until = time.saturating_sub(window.grace).saturating_sub(gap);
            while let Some(first) = self.waiting.first_entry() {
                if first.key().0 > closed_until {
                    break;
                }
                ready.push(first.remove());
            }
        }
        ready
    }
}

fn change(
    aggregation: &Aggregation,
    group: &[Value<'static>],
    window: Option<(i64, i64)>,
    cell: &Cell,
) -> Change {
    let results = cell.accumulators.values(&aggregation.calls);
    let row = aggregation.group_row(group.iter().cloned(), window, results);
    Change { group: group.to_vec(), window, row: Some(row), timestamp: cell.timestamp }
}
