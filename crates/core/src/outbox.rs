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
        if let Some(origin) = &self.origin {
            take(headers::TASK, origin.task.as_bytes());
            let mut text = Digits::default();
            text.push(origin.sequence);
            take(headers::SEQUENCE, text.as_bytes());
            text = Digits::default();
            text.push(u64::try_from(origin.offset).unwrap_or(0));
            text.push_byte(b'@');
            text.push(u64::try_from(origin.partition).unwrap_or(0));
            take(headers::SOURCE, text.as_bytes());
        }
        self.headers.iter().for_each(|(name, value)| take(name, value));
    }

    /// Number of headers.
    #[must_use]
    pub fn header_count(&self) -> usize {
        self.headers.len() + if self.origin.is_some() { 3 } else { 0 }
    }
}

/// Decimal numbers, written from the right to the left: three per output record, which the
/// formatting of the standard library made dear.
struct Digits {
    text: [u8; 48],
    from: usize,
}

impl Default for Digits {
    fn default() -> Digits {
        Digits { text: [0; 48], from: 48 }
    }
}

impl Digits {
    /// Puts a byte before what is there. Two numbers and a sign take 41 bytes at most.
    fn push_byte(&mut self, byte: u8) {
        self.from -= 1;
        self.text[self.from] = byte;
    }

    fn push(&mut self, mut number: u64) {
        loop {
            self.push_byte(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[self.from..]
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
