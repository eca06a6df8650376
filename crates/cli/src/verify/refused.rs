//! Dead letters: those of stage 1 in `transacciones_dlq`, and the table `dead_letters`, which holds
//! them and the sink's own.

use super::cut::{Cut, source_of};
use super::differences::Differences;
use super::identity::{half, half_of_hex};
use super::numbering::Numbering;
use super::place::{DEAD, Place, Topics};
use caudal_core::decode::{Record, decode};
use caudal_core::dedup::Hash16;
use caudal_core::headers;
use caudal_core::reject::Reason;
use caudal_core::transaction::Transaction;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// A row of `dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its text in the table.
    pub reason: String,
    /// Fingerprint of the stored bytes.
    pub payload: Option<Hash16>,
    /// Fingerprint that the row names, of the whole original.
    pub original: Option<Hash16>,
}

/// The rows of `dead_letters` that no record has claimed yet.
#[derive(Debug, Default)]
pub struct Refused {
    rows: FxHashMap<Place, Row>,
    /// What `caudal retention` has deleted: the reasons.
    retired: FxHashMap<Place, String>,
    /// All rows, and those that were deleted on purpose, by the number of the topic; those of topics that are not the product's under 255.
    pub by_topic: BTreeMap<u8, u64>,
}

impl Refused {
    /// Takes a row of the table.
    pub fn add(&mut self, topics: &Topics, topic: &str, partition: i32, offset: i64, row: Row) {
        let number = topics.number(topic);
        *self.by_topic.entry(number.unwrap_or(u8::MAX)).or_default() += 1;
        if let Some(number) = number {
            self.rows.insert(Place::new(number, partition, offset), row);
        }
    }

    /// Takes what is left of a row that `caudal retention` has deleted.
    pub fn add_retired(&mut self, topics: &Topics, at: (&str, i32, i64), reason: String) {
        let number = topics.number(at.0);
        *self.by_topic.entry(number.unwrap_or(u8::MAX)).or_default() += 1;
        if let Some(number) = number {
            self.retired.insert(Place::new(number, at.1, at.2), reason);
        }
    }

    /// All of them.
    pub fn count(&self) -> u64 {
        self.by_topic.values().sum()
    }

    /// The sink's own dead letter of a record, if there is one: its reason. Says when it holds
    /// other bytes than the record.
    pub fn take(
        &mut self,
        place: Place,
        record: &Record,
        differences: &mut Differences,
    ) -> Option<Reason> {
        let Some(row) = self.rows.remove(&place) else {
            let reason = self.retired.remove(&place)?;
            return Some(Reason::parse(&reason).unwrap_or(Reason::Constraint));
        };
        if row.payload != record.value.as_deref().map(half) {
            let text = format!(
                "dead_letters {} {{}}: the payload is not the record's",
                differences.at(place)
            );
            differences.of_record(text, place);
        }
        let reason = Reason::parse(&row.reason);
        if reason.is_none() {
            let at = differences.at(place);
            differences.say(format!("dead_letters {at} has unknown reason {}", row.reason));
        }
        Some(reason.unwrap_or(Reason::Constraint))
    }

    /// Compares the row of a record of `transacciones_dlq` with it.
    fn claim(&mut self, dead: &Dead, name: &str, differences: &mut Differences) {
        let (place, reason) = (dead.place, dead.reason);
        let at = differences.at(place);
        let Some(row) = self.rows.remove(&place) else {
            if self.retired.remove(&place).is_some_and(|said| said == reason.as_str()) {
                return;
            }
            let source = format!("transacciones-{}@{}", place.partition(), dead.source);
            differences.say(format!("dead_letters lacks {at} ({reason}, {name}of {source})"));
            return;
        };
        if row.reason != reason.as_str() {
            let stored = row.reason;
            differences
                .say(format!("dead_letters {at}: reason is {stored}, the record says {reason}"));
        }
        if row.payload != dead.value {
            differences.say(format!("dead_letters {at}: the payload is not the record's"));
        }
        if row.original != dead.original.or(dead.value) {
            differences.say(format!("dead_letters {at}: sha256 is not the original's"));
        }
    }

    /// Says the rows that nothing claims. Rows whose record retention has cut cannot be checked:
    /// gives their number.
    pub fn finish(&mut self, cut: &Cut, differences: &mut Differences) -> u64 {
        let mut left: Vec<(Place, Row)> = self.rows.drain().collect();
        left.sort_by_key(|(place, _)| *place);
        let mut unproven = 0;
        for (place, row) in left {
            let (topic, partition) = (place.topic(), place.partition());
            if place.offset() < cut.first(topic, partition) {
                unproven += 1;
            } else {
                let at = differences.at(place);
                let why = if cut.is_stored(place) {
                    "there is no such record"
                } else {
                    "the sink has not come so far"
                };
                differences.say(format!("dead_letters has {at} ({}), but {why}", row.reason));
            }
        }
        unproven
    }
}

/// A record of `transacciones_dlq`.
#[derive(Debug, Clone, Copy)]
pub struct Dead {
    /// Offset of the cause in the partition of the same number of `transacciones`.
    pub source: i64,
    /// Where it is.
    pub place: Place,
    /// Why.
    pub reason: Reason,
    /// Fingerprint of its value; `None` of a tombstone.
    pub value: Option<Hash16>,
    /// Size of its value in bytes.
    pub size: u32,
    /// Fingerprint of the whole original, as its header names it.
    pub original: Option<Hash16>,
}

impl Dead {
    /// Whether it holds what the rejected record held: all of it, or the beginning and the
    /// fingerprint of the whole.
    pub fn holds(&self, rejected: &Record) -> bool {
        let value = rejected.value.as_deref();
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        match value {
            Some(whole) if whole.len() > size => {
                self.value == Some(half(&whole[..size])) && self.original == Some(half(whole))
            }
            whole => self.value == whole.map(half),
        }
    }
}

/// Reads `transacciones_dlq`, record by record.
pub struct DeadReader<'a> {
    cut: &'a Cut,
    schema: u32,
    numbering: Numbering,
    of_partition: Vec<Vec<Dead>>,
    /// Records whose cause lies beyond the cut.
    pub in_flight: u64,
    /// Records that the sink has not stored yet.
    pub not_stored: u64,
    /// Records that it has.
    pub stored: u64,
}

impl<'a> DeadReader<'a> {
    pub fn new(cut: &'a Cut, schema: u32) -> DeadReader<'a> {
        DeadReader {
            cut,
            schema,
            numbering: Numbering::new(cut, DEAD, true),
            of_partition: vec![Vec::new(); usize::try_from(cut.partitions).unwrap_or(0)],
            in_flight: 0,
            not_stored: 0,
            stored: 0,
        }
    }

    /// Takes the next record of its partition.
    pub fn observe(
        &mut self,
        record: &Record,
        refused: &mut Refused,
        differences: &mut Differences,
    ) {
        let place = Place::new(DEAD, record.partition, record.offset);
        let at = differences.at(place);
        let reason = record.header(headers::REASON).and_then(Reason::parse);
        let source = source_of(record).filter(|(p, _)| *p == record.partition);
        let (Some(reason), Some((_, source))) = (reason, source) else {
            differences
                .say(format!("{at} was not written by stage 1 (no caudal.source or reason)"));
            return;
        };
        if source >= self.cut.input_end(record.partition) {
            self.in_flight += 1;
            return;
        }
        let dead = Dead {
            source,
            place,
            reason,
            value: record.value.as_deref().map(half),
            size: u32::try_from(record.value.as_deref().map_or(0, <[u8]>::len)).unwrap_or(u32::MAX),
            original: record.header(headers::SHA256).and_then(half_of_hex),
        };
        let Some(of_partition) =
            usize::try_from(record.partition).ok().and_then(|p| self.of_partition.get_mut(p))
        else {
            return;
        };
        match of_partition.last() {
            Some(last) if source <= last.source => {
                let first = of_partition.iter().find(|first| first.source == source);
                let first = first.map_or_else(String::new, |f| format!("{} and ", f.place.short()));
                differences.say(format!(
                    "transacciones_dlq has transacciones-{}@{source} ({reason}) twice: {first}{}",
                    record.partition,
                    place.short()
                ));
            }
            _ => {
                self.numbering.observe(place, record);
                of_partition.push(dead);
            }
        }
        if self.cut.is_stored(place) {
            self.stored += 1;
            refused.claim(&dead, &self.name(record), differences);
        } else {
            self.not_stored += 1;
        }
    }

    /// `<id> ` where the record can be read.
    fn name(&self, record: &Record) -> String {
        let mut bare = record.clone();
        bare.headers.clear();
        let id = decode(&bare, self.schema, ("", 0)).map(Transaction::into_owned);
        id.map_or_else(|_| String::new(), |t| format!("{} ", t.transaction_id))
    }

    /// The records by partition, in the order of their causes.
    pub fn finish(self, differences: &mut Differences) -> Vec<Vec<Dead>> {
        self.numbering.say(differences);
        self.of_partition
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn header(name: &str, text: &str) -> (String, Box<[u8]>) {
        (name.to_owned(), text.as_bytes().into())
    }

    /// A record of `transacciones_dlq`, partition 0.
    pub fn dead_letter(offset: i64, source: i64, number: u64, value: &[u8]) -> Record {
        Record {
            offset,
            value: Some(value.into()),
            headers: vec![
                header(headers::TASK, "1-0"),
                header(headers::SEQUENCE, &number.to_string()),
                header(headers::SOURCE, &format!("0@{source}")),
                header(headers::REASON, "amount"),
            ],
            ..Record::default()
        }
    }

    fn row(value: &[u8]) -> Row {
        Row { reason: "amount".into(), payload: Some(half(value)), original: Some(half(value)) }
    }

    fn cut() -> Cut {
        let stored = [((DEAD, 0), 100)].into();
        Cut { partitions: 1, input: vec![100], stored, ..Cut::default() }
    }

    fn said(records: &[Record], rows: &[(i64, Row)]) -> Vec<String> {
        let topics = Topics::of(&[]);
        let (cut, mut refused) = (cut(), Refused::default());
        for (offset, row) in rows {
            refused.add(&topics, "transacciones_dlq", 0, *offset, row.clone());
        }
        let mut differences = Differences::new(topics);
        let mut reader = DeadReader::new(&cut, 1);
        records.iter().for_each(|r| reader.observe(r, &mut refused, &mut differences));
        reader.finish(&mut differences);
        refused.finish(&cut, &mut differences);
        differences.drafts()
    }

    #[test]
    fn a_dead_letter_and_its_row_agree() {
        let all = said(&[dead_letter(7, 3, 0, b"x")], &[(7, row(b"x"))]);
        assert!(all.is_empty(), "{all:?}");
    }

    #[test]
    fn names_what_is_missing_altered_or_invented() {
        let lacks = said(&[dead_letter(7, 3, 0, b"x")], &[]);
        assert_eq!(
            lacks,
            ["dead_letters lacks transacciones_dlq-0@7 (amount, of transacciones-0@3)"]
        );
        let altered = said(&[dead_letter(7, 3, 0, b"x")], &[(7, row(b"y"))]);
        assert_eq!(altered.len(), 2);
        assert!(altered[0].contains("payload is not the record's"), "{altered:?}");
        let invented = said(&[], &[(9, row(b"x"))]);
        assert_eq!(
            invented,
            ["dead_letters has transacciones_dlq-0@9 (amount), but there is no such record"]
        );
        let reason = Row { reason: "schema".into(), ..row(b"x") };
        let reason = said(&[dead_letter(7, 3, 0, b"x")], &[(7, reason)]);
        assert!(reason[0].contains("reason is schema, the record says amount"), "{reason:?}");
    }

    #[test]
    fn a_retired_dead_letter_is_not_missing() {
        let topics = Topics::of(&[]);
        let (cut, mut refused) = (cut(), Refused::default());
        refused.add_retired(&topics, ("transacciones_dlq", 0, 7), "amount".into());
        refused.add_retired(&topics, ("transacciones_validas", 0, 2), "conflict".into());
        let mut differences = Differences::new(topics);
        let mut reader = DeadReader::new(&cut, 1);
        reader.observe(&dead_letter(7, 3, 0, b"x"), &mut refused, &mut differences);
        let own = Place::new(super::super::place::VALID, 0, 2);
        let record = Record { offset: 2, ..Record::default() };
        assert_eq!(refused.take(own, &record, &mut differences), Some(Reason::Conflict));
        assert_eq!((refused.count(), refused.finish(&cut, &mut differences)), (2, 0));
        assert!(differences.drafts().is_empty(), "{:?}", differences.drafts());
    }

    #[test]
    fn names_a_dead_letter_that_came_twice() {
        let records = [dead_letter(7, 3, 0, b"x"), dead_letter(8, 3, 0, b"x")];
        let all = said(&records, &[(7, row(b"x")), (8, row(b"x"))]);
        assert_eq!(
            all,
            ["transacciones_dlq has transacciones-0@3 (amount) twice: 7 and 8"
                .replace("7 and 8", "0@7 and 0@8")]
        );
    }

    #[test]
    fn a_cut_dead_letter_names_the_whole() {
        let whole = Record { value: Some((*b"abcdef").into()), ..Record::default() };
        let mut dead = Dead {
            source: 0,
            place: Place::new(DEAD, 0, 0),
            reason: Reason::Amount,
            value: Some(half(b"abc")),
            size: 3,
            original: Some(half(b"abcdef")),
        };
        assert!(dead.holds(&whole));
        dead.original = None;
        assert!(!dead.holds(&whole));
    }
}
