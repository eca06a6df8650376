//! How far the state log may be cut.
//!
//! A task needs its blocks from [`Head::complete_from`](crate::block::Head) on. Both stages of one
//! number share a partition of the log and may be owned by different processes, so each task
//! publishes the offset of that block, its *bound*, as the metadata of its committed position: in
//! the same txn as the block that closed the sweep, or a later one. Whoever cuts takes the lower of
//! both bounds; a stage that never wrote a block has none to keep.
//!
//! Walk-through: task A closes a sweep and knows bound 500; its peer B published 300. A deletes below
//! 300. If B's owner has moved on to 400 and not yet committed that, 300 is too low, never too high:
//! bounds only grow. If B is aborted, its published bound is still that of its last committed state.
//!
//! A peer that has committed nothing yet may be inside its very first txn, whose blocks lie in the log
//! while its position does not show. Such blocks hold the last stable offset back: so the log's last
//! stable offset is read *first*, then the peer's position; if that is still absent, nothing of the
//! peer's lies below.
//!
//! A task that changes little would hold the cut back while its peer fills the partition: its own
//! sweep keeps pace with its own changes only. So each task also publishes how many bytes it has
//! written, and the owner of one that [`Cuts::holds_back`] lets it sweep without input.
//!
//! An offset is known only from a txn whose commit was confirmed. After a doubt the offsets of its
//! blocks are unknown: a sweep that began there cuts nothing when it closes.

use crate::shared::{Stage, TaskId};
use caudal_kafka::offsets::Committed;
use std::collections::{BTreeMap, VecDeque};

/// What is known of one task's blocks.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Sequence and offset of the blocks that may become a bound, in order.
    blocks: VecDeque<(u64, i64)>,
    /// Offset below which this task needs nothing.
    bound: Option<i64>,
    /// Bytes of all blocks of this task, and of its last one.
    written: u64,
    last_block: u64,
    /// The bound when it was last seen to move, and what the peer had written then.
    moved: Option<(Option<i64>, u64)>,
}

/// What is known of the blocks of this engine's tasks.
#[derive(Debug, Default)]
pub struct Cuts {
    known: BTreeMap<TaskId, Known>,
    /// Bytes of blocks written to each partition since it was last cut.
    written: BTreeMap<i32, u64>,
}

impl Cuts {
    /// Takes over a task with what its last committed position said.
    pub fn take_over(&mut self, id: TaskId, metadata: &str) {
        let known =
            Known { bound: bound_of(metadata), written: written_of(metadata), ..Known::default() };
        self.known.insert(id, known);
    }

    /// Forgets a task.
    pub fn remove(&mut self, id: TaskId) {
        self.known.remove(&id);
    }

    /// The metadata to commit with a task's position: its bound, or `-` without one, the number of
    /// the block that the same txn writes, and how many bytes of blocks the task had written before.
    /// The offset alone does not name a txn: a batch without input (an idle partition is declared)
    /// leaves it where it was.
    #[must_use]
    pub fn metadata(&self, id: TaskId, sequence: u64) -> String {
        let known = self.known.get(&id);
        let bound = known.and_then(|known| known.bound);
        let bound = bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
        format!("{bound} {sequence} {}", known.map_or(0, |known| known.written))
    }

    /// A confirmed block of the task takes so many bytes.
    pub fn wrote(&mut self, id: TaskId, bytes: u64) {
        *self.written.entry(id.partition).or_default() += bytes;
        let known = self.known.entry(id).or_default();
        known.written += bytes;
        known.last_block = bytes;
    }

    /// Whether the task keeps the log long: its bound has not moved while its peer, whose committed
    /// position is given, wrote more than `after` bytes and twice what this task's whole state
    /// takes (about `live` bytes). Then it should sweep without input; it is said once, and again
    /// after as many bytes.
    pub fn holds_back(&mut self, id: TaskId, peer: &Committed, live: u64, after: u64) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        let theirs = written_of(&peer.metadata);
        let (bound, since) = *known.moved.get_or_insert((known.bound, theirs));
        let enough = after + 2 * live.max(known.last_block);
        let holds = known.bound == bound && theirs.saturating_sub(since) >= enough;
        if holds || known.bound != bound {
            known.moved = Some((known.bound, theirs));
        }
        holds
    }

    /// A confirmed txn wrote block `sequence` of the task at or after `offset`, and the task now
    /// needs nothing before block `complete_from`.
    pub fn confirmed(&mut self, id: TaskId, sequence: u64, offset: i64, complete_from: u64) {
        let known = self.known.entry(id).or_default();
        known.blocks.push_back((sequence, offset));
        while known.blocks.front().is_some_and(|(sequence, _)| *sequence < complete_from) {
            known.blocks.pop_front();
        }
        if let Some((sequence, offset)) = known.blocks.front()
            && *sequence == complete_from
        {
            known.bound = known.bound.max(Some(*offset));
        }
    }

    /// The partitions worth cutting: so many bytes came since the last time, and a bound is known.
    pub fn due(&mut self, after: u64) -> Vec<TaskId> {
        let due: Vec<TaskId> = self
            .known
            .iter()
            .filter(|(id, known)| {
                known.bound.is_some()
                    && self.written.get(&id.partition).is_some_and(|b| *b >= after)
            })
            .map(|(id, _)| *id)
            .collect();
        due.iter().for_each(|id| {
            self.written.remove(&id.partition);
        });
        due
    }

    /// Below which offset `id`'s partition of the log may be cut, given the log's last stable
    /// offset, and read after it, the committed position of the other stage's task of that number;
    /// `has_blocks` says whether any block of that one was seen in the log. `None`: nothing may be
    /// cut.
    #[must_use]
    pub fn below(
        &self,
        id: TaskId,
        stable: i64,
        peer: Option<&Committed>,
        has_blocks: bool,
    ) -> Option<i64> {
        let own = self.known.get(&id)?.bound?.min(stable);
        match peer {
            Some(committed) => Some(own.min(bound_of(&committed.metadata)?)),
            None if has_blocks => None,
            None => Some(own),
        }
    }
}

/// The task of the other stage that shares this one's partition of the log; of one that is in no
/// log, itself.
#[must_use]
pub fn peer(id: TaskId) -> TaskId {
    let stage = match id.stage {
        Stage::Account => Stage::Group,
        Stage::Group => Stage::Account,
        Stage::Source(_) => id.stage,
    };
    TaskId { stage, ..id }
}

fn bound_of(metadata: &str) -> Option<i64> {
    metadata.split(' ').next()?.parse().ok()
}

/// The number of the block that was committed with a position.
#[must_use]
pub fn block_of(metadata: &str) -> Option<u64> {
    metadata.split(' ').nth(1)?.parse().ok()
}

/// How many bytes of blocks the task had written before it committed this position.
fn written_of(metadata: &str) -> u64 {
    metadata.split(' ').nth(2).and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TaskId = TaskId { stage: Stage::Account, partition: 3 };

    fn committed(metadata: &str) -> Committed {
        Committed { next_offset: 9, metadata: metadata.to_owned() }
    }

    #[test]
    fn the_lower_bound_of_both_stages_counts() {
        let mut cuts = Cuts::default();
        cuts.take_over(ID, "");
        cuts.confirmed(ID, 4, 100, 0);
        assert_eq!(cuts.below(ID, 1000, None, false), None, "no sweep has closed");
        cuts.confirmed(ID, 5, 120, 4);
        assert_eq!(cuts.metadata(ID, 5), "100 5 0");
        assert_eq!(block_of(&cuts.metadata(ID, 5)), Some(5));
        assert_eq!(bound_of(&Cuts::default().metadata(ID, 5)), None);
        assert_eq!(cuts.below(ID, 1000, None, false), Some(100));
        assert_eq!(cuts.below(ID, 80, None, false), Some(80), "a first txn of the peer is open");
        assert_eq!(cuts.below(ID, 1000, None, true), None, "the peer has blocks, and says nothing");
        assert_eq!(cuts.below(ID, 1000, Some(&committed("")), true), None);
        assert_eq!(cuts.below(ID, 1000, Some(&committed("70")), true), Some(70));
        assert_eq!(cuts.below(ID, 1000, Some(&committed("170")), true), Some(100));
    }

    #[test]
    fn a_sweep_that_began_in_doubt_cuts_nothing() {
        let mut cuts = Cuts::default();
        cuts.take_over(ID, "50");
        // Block 4 was in doubt: never confirmed.
        cuts.confirmed(ID, 5, 120, 4);
        assert_eq!(cuts.below(ID, 1000, None, false), Some(50), "the old bound still holds");
        assert!(cuts.due(1).is_empty());
        cuts.wrote(ID, 10);
        assert_eq!(cuts.due(1), [ID]);
        assert!(cuts.due(1).is_empty());
    }

    #[test]
    fn a_quiet_task_holds_back_once_its_peer_has_written_much_more() {
        let mut cuts = Cuts::default();
        cuts.take_over(ID, "50 7 1000");
        let mut holds =
            |theirs: u64| cuts.holds_back(ID, &committed(&format!("900 40 {theirs}")), 100, 500);
        assert!(!holds(5000), "what lies before it was taken over does not count");
        assert!(!holds(5699));
        assert!(holds(5700));
        assert!(!holds(5701), "said a moment ago");
        assert!(holds(6400));
        cuts.confirmed(ID, 8, 120, 8);
        assert!(!cuts.holds_back(ID, &committed("900 40 9000"), 100, 500), "it has moved");
        assert_eq!(cuts.metadata(ID, 9), "120 9 1000");
    }
}
