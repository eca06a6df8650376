//! The rolling sweep: why the state log stays short.
//!
//! Every block carries, after what its batch changed, at least as many bytes of entries that it did
//! not change, in the containers' own stable order, from a cursor on. When the cursor comes to the
//! end, the sweep closes, and this holds: **every entry that lives at the close was written at
//! least once since the sweep's first block**: either it was changed since, and written as a change,
//! or it stood unchanged, and the cursor came by. So a restore may begin at that block, and older
//! ones may be deleted. A sweep takes as many bytes as changes do, so at most two sweeps of the live
//! bytes, each doubled by changes, lie in the log: about four times the live bytes.
//!
//! Entries are written as absolute values *after* the batch changed them. What drops out of the
//! state meanwhile (a whole bucket that no window or horizon needs) needs no record: a restore drops
//! it by the stream time of the block.
//!
//! A sweep keeps pace with its own task's changes. Where the other stage's task of that number
//! fills the same partition of the log faster, the engine hastens it: see [`Haste`].
//!
//! Cursor and start belong to the batch: an abort takes them back with everything else. A restart
//! begins a new sweep, because the order of the containers is then another.

use crate::block::Entries;
use crate::mutant::{self, Mutant};

/// Where a task's sweep stands.
#[derive(Debug, Clone)]
pub struct Sweep<C> {
    open: Option<Open<C>>,
    complete_from: u64,
}

#[derive(Debug, Clone)]
struct Open<C> {
    first: u64,
    cursor: Option<C>,
}

/// A sweep that is to close soon, whatever the task's own changes are.
#[derive(Debug, Clone, Copy)]
pub struct Haste {
    /// It begins with this block or a later one.
    pub from: u64,
    /// Least bytes in each block.
    pub bytes: usize,
}

impl<C> Default for Sweep<C> {
    fn default() -> Sweep<C> {
        Sweep { open: None, complete_from: 0 }
    }
}

impl<C: Copy> Sweep<C> {
    /// Writes every entry: block `sequence` alone is the whole state.
    pub fn all_at_once(
        &mut self,
        sequence: u64,
        entries: &mut Entries,
        mut next: impl FnMut(Option<C>, &mut Entries) -> Option<C>,
    ) {
        let mut cursor = None;
        while let Some(after) = next(cursor, entries) {
            cursor = Some(after);
        }
        *self = Sweep::resumed(sequence);
    }

    /// None open; the last one that closed began with block `complete_from`.
    #[must_use]
    pub fn resumed(complete_from: u64) -> Sweep<C> {
        Sweep { open: None, complete_from }
    }

    /// Number of the first block of the last sweep that closed: what lies before is not needed.
    #[must_use]
    pub fn complete_from(&self) -> u64 {
        self.complete_from
    }

    /// Goes on for as many bytes as block `sequence` has already, `head` bytes outside of `entries`
    /// included, or for what `haste` asks for; opens and closes a sweep where it is due. `next`
    /// writes the entry after a cursor, or gives `None` at the end.
    pub fn go_on(
        &mut self,
        sequence: u64,
        head: usize,
        haste: Option<Haste>,
        entries: &mut Entries,
        mut next: impl FnMut(Option<C>, &mut Entries) -> Option<C>,
    ) {
        // An older sweep would free little of the log when it closes.
        self.open = self.open.take().filter(|open| haste.is_none_or(|h| open.first >= h.from));
        let open = self.open.get_or_insert(Open { first: sequence, cursor: None });
        let enough = (2 * entries.bytes() + head).max(haste.map_or(0, |h| h.bytes));
        while entries.bytes() < enough {
            let Some(cursor) = next(open.cursor, entries) else {
                let short = u64::from(mutant::is(Mutant::SweepOneBlockShort));
                self.complete_from = (open.first + short).min(sequence);
                self.open = None;
                return;
            };
            open.cursor = Some(cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps the numbers below `count`, ten bytes each.
    fn go_on(sweep: &mut Sweep<u32>, sequence: u64, changed: usize, count: u32) -> Vec<u32> {
        let mut entries = Entries::new(1 << 20);
        (0..changed).for_each(|_| entries.accumulator(0, |out| out.bytes(&[0; 9])));
        let mut seen = Vec::new();
        sweep.go_on(sequence, 0, None, &mut entries, |cursor, entries| {
            let next = cursor.map_or(0, |c| c + 1);
            (next < count).then(|| {
                entries.accumulator(0, |out| out.bytes(&[0; 9]));
                seen.push(next);
                next
            })
        });
        seen
    }

    #[test]
    fn a_sweep_takes_as_much_as_the_changes_and_closes_at_the_end() {
        let mut sweep = Sweep::default();
        assert_eq!(go_on(&mut sweep, 5, 3, 7), [0, 1, 2]);
        assert_eq!(go_on(&mut sweep, 6, 3, 7), [3, 4, 5]);
        assert_eq!(sweep.complete_from(), 0);
        assert_eq!(go_on(&mut sweep, 7, 3, 7), [6]);
        assert_eq!(sweep.complete_from(), 5, "closed in block 7, began in block 5");
        assert_eq!(go_on(&mut sweep, 8, 20, 7).len(), 7);
        assert_eq!(sweep.complete_from(), 8, "a small state is whole in one block");
    }

    #[test]
    fn a_hastened_sweep_begins_again_and_needs_no_changes() {
        let mut sweep = Sweep::default();
        go_on(&mut sweep, 0, 1, 70);
        let haste = Some(Haste { from: 5, bytes: 200 });
        let mut blocks = 0;
        while sweep.complete_from() < 5 {
            let mut entries = Entries::new(1 << 20);
            sweep.go_on(5 + blocks, 0, haste, &mut entries, |cursor: Option<u32>, entries| {
                let next = cursor.map_or(0, |c| c + 1);
                (next < 70).then(|| entries.accumulator(0, |out| out.bytes(&[0; 9])))?;
                Some(next)
            });
            blocks += 1;
        }
        assert_eq!((sweep.complete_from(), blocks), (5, 5));
    }
}
