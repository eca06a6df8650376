//! Pre-aggregation in stage 1: one partial per group and pane and commit, whatever the number of
//! records and windows behind it. Nothing of it outlives the commit.

use crate::aggregate::Accumulator;
use crate::group::{GroupKey, Row, write_key};
use crate::plan::Plan;
use crate::table::Table;
use crate::window::Window;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::money::SumOverflow;
use caudal_core::transaction::ValidTransaction;

/// A group's pre-aggregated records of one pane. They are in the windows that start at `from` or
/// later and hold the pane; of earlier ones they came too late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// The group.
    pub group: GroupKey,
    /// Start of the pane in microseconds.
    pub pane: i64,
    /// Start of the earliest window that the records are in, in microseconds.
    pub from: i64,
    /// What the records add up to.
    pub values: Accumulator,
}

impl Partial {
    /// Writes it into a record of `caudal_parciales` or a state block.
    pub fn write(&self, out: &mut Writer) {
        out.string(&self.group);
        out.long(self.pane);
        out.long(self.pane - self.from);
        self.values.write(out);
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not a partial.
    pub fn read(input: &mut Reader<'_>) -> Result<Partial, AvroError> {
        let (group, pane) = (input.string()?.into(), input.long()?);
        let earlier = input.long()?;
        let from = pane.checked_sub(earlier).filter(|_| earlier >= 0);
        let from = from.ok_or(input.error("partial whose first window is none of its pane's"))?;
        Ok(Partial { group, pane, from, values: Accumulator::read(input)? })
    }

    /// It as a row of each of its windows that starts before `until`.
    pub fn rows(&self, window: &Window, until: i64) -> impl Iterator<Item = Row> {
        let first = self.from.max(window.first_start(self.pane));
        let starts = window.starts(self.pane).filter(move |s| *s >= first && *s < until);
        starts.map(|start| Row { group: self.group.clone(), start, values: self.values })
    }
}

/// The partials of one plan and one commit.
#[derive(Debug, Clone, Default)]
pub struct Partials {
    table: Table,
    key: String,
}

impl Partials {
    /// Adds a record to the windows that are open at `stream_time`, and says whether it missed
    /// one. `joined` is the joined table's value, empty where nothing is joined.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn add(
        &mut self,
        plan: &Plan,
        valid: &ValidTransaction<'_>,
        joined: &str,
        stream_time: i64,
    ) -> Result<bool, SumOverflow> {
        let pane = plan.window.pane(valid.transaction.event_time);
        let first = plan.window.first_start(pane);
        let from = first.max(plan.window.first_open(stream_time));
        if from <= pane {
            write_key(plan, valid, joined, &mut self.key);
            let group = self.table.intern(&self.key);
            let one = Accumulator::of(valid.transaction.amount.nano());
            self.table.add(group, (pane, from), &one)?;
        }
        Ok(from > first)
    }

    /// Takes the partials of this commit, in a stable order: the same batch gives the same bytes.
    pub fn take(&mut self) -> Vec<Partial> {
        let table = &self.table;
        let mut all: Vec<Partial> = table.touched().map(|cell| table.entry(cell)).collect();
        all.sort_unstable_by(|a, b| (&a.group, a.pane, a.from).cmp(&(&b.group, b.pane, b.from)));
        self.table.clear();
        all
    }

    /// Forgets a batch that was not committed.
    pub fn rollback(&mut self) {
        self.table.clear();
    }
}
