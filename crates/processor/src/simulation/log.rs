//! One partition: records and transaction markers, each at its offset.

use caudal_core::decode::Record;
use std::collections::{BTreeMap, BTreeSet};

/// A Kafka transaction, numbered over the whole schedule.
pub type TxnId = u64;

/// What lies at an offset.
enum Entry {
    Data { record: Record, txn: Option<TxnId> },
    Marker,
}

/// A record that a reader may see.
#[derive(Clone, Copy)]
pub struct Visible<'a> {
    /// The record.
    pub record: &'a Record,
}

/// A partition.
#[derive(Default)]
pub struct Log {
    entries: Vec<Entry>,
    start: i64,
    /// Open transactions and the first offset of each.
    open: BTreeMap<TxnId, i64>,
    aborted: BTreeSet<TxnId>,
}

impl Log {
    /// Appends a record, of a transaction or of none; gives its offset.
    pub fn append(&mut self, mut record: Record, txn: Option<TxnId>) -> i64 {
        let offset = self.high_watermark();
        record.offset = offset;
        if let Some(txn) = txn {
            self.open.entry(txn).or_insert(offset);
        }
        self.entries.push(Entry::Data { record, txn });
        offset
    }

    /// Appends the marker that ends a transaction here.
    pub fn end(&mut self, txn: TxnId, committed: bool) {
        self.open.remove(&txn);
        if !committed {
            self.aborted.insert(txn);
        }
        self.entries.push(Entry::Marker);
    }

    /// The end with everything in it.
    pub fn high_watermark(&self) -> i64 {
        i64::try_from(self.entries.len()).expect("a short log")
    }

    /// The end below which every transaction has ended.
    pub fn last_stable(&self) -> i64 {
        self.open.values().copied().min().unwrap_or_else(|| self.high_watermark())
    }

    /// The first offset.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Cuts off what lies below an offset, as DeleteRecords does.
    pub fn cut(&mut self, below: i64) {
        self.start = self.start.max(below.min(self.high_watermark()));
    }

    /// The first committed record at or after `from`, below the last stable offset.
    pub fn next(&self, from: i64) -> Option<Visible<'_>> {
        self.committed(from).next()
    }

    /// The committed records from `from` up to the last stable offset.
    pub fn committed(&self, from: i64) -> impl Iterator<Item = Visible<'_>> {
        self.below(from, self.last_stable())
    }

    /// The committed records, cut off or not: what was once in the log.
    pub fn ever_committed(&self) -> impl Iterator<Item = Visible<'_>> {
        self.visible(0, self.last_stable())
    }

    fn below(&self, from: i64, end: i64) -> impl Iterator<Item = Visible<'_>> {
        self.visible(from.max(self.start), end)
    }

    fn visible(&self, from: i64, end: i64) -> impl Iterator<Item = Visible<'_>> {
        let bound = |offset: i64| usize::try_from(offset).expect("an offset");
        let (from, end) = (bound(from.min(end)), bound(end));
        self.entries[from..end].iter().filter_map(|entry| match entry {
            Entry::Data { record, txn } if txn.is_none_or(|t| !self.aborted.contains(&t)) => {
                Some(Visible { record })
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(log: &Log) -> Vec<i64> {
        log.committed(0).map(|visible| visible.record.offset).collect()
    }

    #[test]
    fn a_reader_sees_committed_records_below_the_first_open_txn() {
        let mut log = Log::default();
        for txn in [Some(1), Some(2), None, Some(1)] {
            log.append(Record::default(), txn);
        }
        assert_eq!((log.last_stable(), log.high_watermark()), (0, 4));
        assert!(offsets(&log).is_empty());
        log.end(1, false);
        assert_eq!((log.last_stable(), log.high_watermark()), (1, 5));
        assert!(offsets(&log).is_empty(), "of txn 1 nothing, of txn 2 nothing yet");
        log.end(2, true);
        assert_eq!(log.last_stable(), 6);
        assert_eq!(offsets(&log), [1, 2]);
        log.cut(2);
        assert_eq!((log.start(), offsets(&log)), (2, vec![2]));
    }
}
