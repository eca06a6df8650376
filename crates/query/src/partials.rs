//! Pre-aggregation in stage 1: one partial per group and window and commit, whatever the number of
//! records behind it. Nothing of it outlives the commit.

use crate::aggregate::Accumulator;
use crate::group::{GroupKey, key_of};
use crate::plan::Plan;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::money::SumOverflow;
use caudal_core::transaction::ValidTransaction;
use rustc_hash::FxHashMap;

/// A pre-aggregated group of one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// The group.
    pub group: GroupKey,
    /// Start of the window in microseconds.
    pub start: i64,
    /// What its records add up to.
    pub values: Accumulator,
}

impl Partial {
    /// Writes it into a record of `caudal_parciales`.
    pub fn write(&self, out: &mut Writer) {
        out.string(&self.group);
        out.long(self.start);
        self.values.write(out);
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not a partial.
    pub fn read(input: &mut Reader<'_>) -> Result<Partial, AvroError> {
        Ok(Partial {
            group: input.string()?.into(),
            start: input.long()?,
            values: Accumulator::read(input)?,
        })
    }
}

/// The partials of one plan and one commit.
#[derive(Debug, Default)]
pub struct Partials {
    groups: FxHashMap<(GroupKey, i64), Accumulator>,
}

impl Partials {
    /// Adds a record to every open window that holds it, and says whether it missed one.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn add(
        &mut self,
        plan: &Plan,
        valid: &ValidTransaction<'_>,
        stream_time: i64,
    ) -> Result<bool, SumOverflow> {
        let event_time = valid.transaction.event_time;
        let one = Accumulator::of(valid.transaction.amount.nano());
        let mut late = false;
        for start in plan.window.starts(event_time) {
            if plan.window.is_closed(start, stream_time) {
                late = true;
                continue;
            }
            match self.groups.entry((key_of(plan, valid), start)) {
                std::collections::hash_map::Entry::Occupied(mut slot) => {
                    slot.get_mut().merge(&one)?
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(one);
                }
            }
        }
        Ok(late)
    }

    /// Takes the partials of this commit, in a stable order: the same batch gives the same bytes.
    pub fn take(&mut self) -> Vec<Partial> {
        let mut all: Vec<Partial> = self
            .groups
            .drain()
            .map(|((group, start), values)| Partial { group, start, values })
            .collect();
        all.sort_by(|a, b| (&a.group, a.start).cmp(&(&b.group, b.start)));
        all
    }
}
