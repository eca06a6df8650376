//! All that a batch causes: one [`Outbox`], one txn.

use std::sync::Arc;

/// A record to be produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRecord {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition, always explicit.
    pub partition: i32,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl OutRecord {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        length(&self.key) + length(&self.value) + headers
    }
}

/// An input position: topic, partition and the next offset to read (last + 1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// The next offset to read.
    pub next_offset: i64,
    /// Text that is committed with it, for whoever owns the partition next; may be empty.
    pub metadata: String,
}

/// The outputs and input positions of one batch, in the order in which they are produced.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Outputs, dead letters, partials, then state blocks.
    pub records: Vec<OutRecord>,
    /// Input position of every task that wrote, even if it did not move.
    pub positions: Vec<Position>,
}
