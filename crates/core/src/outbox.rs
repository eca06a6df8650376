//! All that a batch causes: one [`Outbox`], one txn.

use crate::headers;
use std::sync::Arc;

/// Names and values of an origin's headers, about.
const ORIGIN_BYTES: usize = 70;

/// Who wrote a record, as the how-manieth, because of what: the headers `caudal.task`,
/// `caudal.sequence` and `caudal.source`. Kept as numbers until the record is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The task.
    pub task: Arc<str>,
    /// Its number among the task's records to this topic-partition.
    pub sequence: u64,
    /// Partition of the input record.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

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
    /// Of an output of the processor.
    pub origin: Option<Origin>,
    /// Further headers in order.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl OutRecord {
    /// Forgets key and value: the client has its own copy. The memory serves the next copy, so
    /// that a batch is in memory once and not twice.
    pub fn release(&mut self) {
        (self.key, self.value) = (None, None);
    }

    /// Bytes of key, value and headers, until the record is released.
    #[must_use]
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        let origin = if self.origin.is_some() { ORIGIN_BYTES } else { 0 };
        length(&self.key) + length(&self.value) + headers + origin
    }

    /// Gives every header, those of the origin first.
    pub fn for_each_header(&self, mut take: impl FnMut(&'static str, &[u8])) {
        use std::io::Write as _;
        if let Some(origin) = &self.origin {
            take(headers::TASK, origin.task.as_bytes());
            let mut text = [0_u8; 40];
            let mut write = |name, arguments: std::fmt::Arguments<'_>| {
                let mut rest = &mut text[..];
                // Forty bytes hold any of these numbers.
                let left = rest.write_fmt(arguments).map_or(40, |()| rest.len());
                take(name, &text[..40 - left]);
            };
            write(headers::SEQUENCE, format_args!("{}", origin.sequence));
            write(headers::SOURCE, format_args!("{}@{}", origin.partition, origin.offset));
        }
        self.headers.iter().for_each(|(name, value)| take(name, value));
    }

    /// Number of headers.
    #[must_use]
    pub fn header_count(&self) -> usize {
        self.headers.len() + if self.origin.is_some() { 3 } else { 0 }
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
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// Outputs, dead letters, partials, then state blocks.
    pub records: Vec<OutRecord>,
    /// Input position of every task that wrote, even if it did not move.
    pub positions: Vec<Position>,
}

impl Outbox {
    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.records.clear();
        self.positions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_becomes_three_headers() {
        let record = OutRecord {
            topic: "t".into(),
            partition: 0,
            key: None,
            value: None,
            origin: Some(Origin {
                task: "1-4".into(),
                sequence: 7,
                partition: 4,
                offset: i64::MAX,
            }),
            headers: vec![("x", b"y".to_vec())],
        };
        let mut all = Vec::new();
        record.for_each_header(|name, value| {
            all.push(format!("{name}={}", String::from_utf8_lossy(value)));
        });
        assert_eq!(
            all,
            ["caudal.task=1-4", "caudal.sequence=7", "caudal.source=4@9223372036854775807", "x=y"]
        );
        assert_eq!(record.header_count(), all.len());
    }
}
