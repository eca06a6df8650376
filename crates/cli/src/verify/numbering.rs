//! The sequence numbers that every output carries: contiguous per task and topic-partition.

use super::cut::Cut;
use super::differences::Differences;
use super::place::Place;
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::sequence::{Sequence, Sequences};

/// Watches the numbers of one topic.
#[derive(Debug)]
pub struct Numbering {
    of_partition: Vec<Sequences>,
    /// False of a compacted topic, which has gaps on purpose.
    contiguous: bool,
    /// Partitions whose beginning is still there: their numbers begin with 0.
    from_start: Vec<bool>,
    broken: Vec<(Place, String)>,
}

impl Numbering {
    /// Of a topic by its number.
    pub fn new(cut: &Cut, topic: u8, contiguous: bool) -> Numbering {
        let from_start: Vec<bool> =
            (0..cut.partitions).map(|partition| !cut.is_cut(topic, partition)).collect();
        let of_partition = vec![Sequences::default(); from_start.len()];
        Numbering { of_partition, contiguous, from_start, broken: Vec::new() }
    }

    /// Takes the next record of its partition; says whether its number was seen before.
    pub fn observe(&mut self, place: Place, record: &Record) -> bool {
        let partition = usize::try_from(record.partition).unwrap_or(usize::MAX);
        let Some(sequences) = self.of_partition.get_mut(partition) else { return false };
        let task = record.header(headers::TASK).unwrap_or("?");
        let number = record.header(headers::SEQUENCE).unwrap_or("?");
        let first = self.contiguous && self.from_start[partition];
        if first && number != "0" && number != "?" && !sequences.last.contains_key(task) {
            let what =
                format!("has number {number} of task {task}, but numbers from 0 on are missing");
            self.broken.push((place, what));
        }
        match sequences.observe(record) {
            Sequence::Next => false,
            Sequence::Repeat => {
                let what = format!("repeats number {number} of task {task}");
                self.broken.push((place, what));
                true
            }
            Sequence::Gap { expected, found } => {
                sequences.last.insert(task.to_owned(), found);
                if self.contiguous {
                    let what = format!(
                        "has number {found} of task {task}, but number {expected} is not before it: \
                         records are missing"
                    );
                    self.broken.push((place, what));
                }
                false
            }
        }
    }

    /// Says every gap and repeat.
    pub fn say(&self, differences: &mut Differences) {
        for (place, what) in &self.broken {
            differences.of_record(format!("{} {{}} {what}", differences.at(*place)), *place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::place::{Topics, VALID};

    fn numbered(offset: i64, number: u64) -> (Place, Record) {
        let header = |name: &str, text: String| (name.to_owned(), text.into_bytes().into());
        let headers = vec![
            header(headers::TASK, "1-0".into()),
            header(headers::SEQUENCE, number.to_string()),
        ];
        (Place::new(VALID, 0, offset), Record { offset, headers, ..Record::default() })
    }

    fn broken(cut: &Cut, contiguous: bool, numbers: &[u64]) -> Vec<String> {
        let mut numbering = Numbering::new(cut, VALID, contiguous);
        for (offset, number) in (0..).zip(numbers) {
            let (place, record) = numbered(offset, *number);
            numbering.observe(place, &record);
        }
        let mut differences = Differences::new(Topics::of(&[]));
        numbering.say(&mut differences);
        differences.drafts()
    }

    #[test]
    fn names_gaps_repeats_and_a_lost_beginning() {
        let whole = Cut { partitions: 1, ..Cut::default() };
        assert!(broken(&whole, true, &[0, 1, 2]).is_empty());
        let gap = broken(&whole, true, &[0, 2]);
        assert!(gap[0].starts_with("transacciones_validas-0@1 {} has number 2"), "{gap:?}");
        assert!(broken(&whole, true, &[0, 1, 1])[0].contains("repeats number 1"));
        assert!(broken(&whole, true, &[4])[0].contains("from 0 on are missing"));
        assert!(broken(&whole, false, &[0, 2]).is_empty(), "compacted");
        let mut cut = whole;
        cut.first.insert(VALID, vec![10]);
        assert!(broken(&cut, true, &[4, 5]).is_empty(), "cut by retention");
    }
}
