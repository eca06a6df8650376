//! Contiguous sequences: every output says which task wrote it and its number there, so that a
//! reader can tell a gap (something was lost) from a repeat (something was doubled).

use crate::decode::Record;
use crate::headers;
use std::collections::BTreeMap;

/// What a sequence number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// The record carries no sequence (a foreign producer wrote it), or it is the next one.
    Next,
    /// The number was seen before.
    Repeat,
    /// Numbers are missing: the reader must halt.
    Gap {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
}

/// The last sequence number seen of each task, in one topic-partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    /// Task → last number.
    pub last: BTreeMap<String, u64>,
}

impl Sequences {
    /// Looks at a record's headers and remembers its number when it is the next.
    ///
    /// A task that was never seen may start anywhere: retention may have cut the beginning.
    pub fn observe(&mut self, record: &Record) -> Sequence {
        let task = record.header(headers::TASK);
        let number = record.header(headers::SEQUENCE).and_then(|text| text.parse::<u64>().ok());
        let (Some(task), Some(found)) = (task, number) else { return Sequence::Next };
        let Some(last) = self.last.get_mut(task) else {
            self.last.insert(task.to_owned(), found);
            return Sequence::Next;
        };
        let expected = *last + 1;
        if found == expected {
            *last = found;
            Sequence::Next
        } else if found < expected {
            Sequence::Repeat
        } else {
            Sequence::Gap { expected, found }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(task: &str, number: u64) -> Record {
        let header =
            |name: &str, text: String| (name.to_owned(), text.into_bytes().into_boxed_slice());
        let headers =
            vec![header(headers::TASK, task.into()), header(headers::SEQUENCE, number.to_string())];
        Record { headers, ..Record::default() }
    }

    #[test]
    fn tells_next_repeat_and_gap_apart() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.observe(&record("1-0", 4)), Sequence::Next);
        assert_eq!(sequences.observe(&record("1-0", 5)), Sequence::Next);
        assert_eq!(sequences.observe(&record("1-0", 5)), Sequence::Repeat);
        assert_eq!(sequences.observe(&record("1-1", 0)), Sequence::Next);
        assert_eq!(sequences.observe(&record("1-0", 8)), Sequence::Gap { expected: 6, found: 8 });
        assert_eq!(sequences.observe(&Record::default()), Sequence::Next);
    }
}
