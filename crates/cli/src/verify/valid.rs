//! `transacciones_validas`: what stage 1 let pass, each record as fingerprints and its place.

use super::cut::{Cut, source_of};
use super::differences::Differences;
use super::eras::Eras;
use super::identity::{columns, half, read_valid};
use super::numbering::Numbering;
use super::place::{Place, VALID};
use super::refused::Refused;
use super::windows::Windows;
use caudal_core::decode::Record;
use caudal_core::dedup::{Hash16, Seen};
use caudal_core::money::{SumOverflow, Sums};
use caudal_core::reject::Reason;
use caudal_core::time::MINUTE;
use caudal_core::transaction::ValidTransaction;
use rustc_hash::FxHashMap;
use std::ops::Range;

/// A record of `transacciones_validas`, in 72 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Fingerprint of the transaction_id.
    pub id: Hash16,
    /// Fingerprint of what the client supplied.
    pub payload: [u8; 8],
    /// Fingerprint of every column but late_for.
    pub columns: Hash16,
    /// Offset of the cause in the partition of the same number of `transacciones`.
    pub source: i64,
    /// Where it is.
    pub place: Place,
    /// Event time in minutes since 1970.
    pub minute: i32,
    /// The queries it was late for, a bit each; the highest bit for any that is not there.
    pub late: u32,
}

/// Bits of the queries that a record was late for.
pub fn late_bits<'a>(names: &[String], late_for: impl IntoIterator<Item = &'a str>) -> u32 {
    late_for.into_iter().fold(0, |bits, query| {
        let at = names.iter().position(|name| name == query).filter(|at| *at < 31).unwrap_or(31);
        bits | 1 << at
    })
}

/// Reads the topic, record by record.
pub struct ValidReader<'a> {
    cut: &'a Cut,
    schema: u32,
    names: Vec<String>,
    entries: Vec<Vec<Entry>>,
    numbering: Numbering,
    /// Copies of a record that is there already, with the offset of their common cause.
    copies: Vec<(Place, i64)>,
    /// What nobody's record caused, by the id it claims.
    foreign: FxHashMap<Hash16, Place>,
    refused: FxHashMap<Place, Reason>,
    /// Records whose cause lies beyond the cut.
    in_flight: u64,
    /// Money of the records that the sink has not stored yet, and how many.
    pub not_stored: (u64, Sums),
    /// Money of the records that the sink refused, and how many.
    pub refused_sums: (u64, Sums),
}

impl<'a> ValidReader<'a> {
    /// `names` are the queries'.
    pub fn new(cut: &'a Cut, schema: u32, names: Vec<String>) -> ValidReader<'a> {
        let count = usize::try_from(cut.partitions).unwrap_or(0);
        ValidReader {
            cut,
            schema,
            names,
            entries: vec![Vec::new(); count],
            numbering: Numbering::new(cut, VALID, true),
            copies: Vec::new(),
            foreign: FxHashMap::default(),
            refused: FxHashMap::default(),
            in_flight: 0,
            not_stored: (0, Sums::default()),
            refused_sums: (0, Sums::default()),
        }
    }

    /// Takes the next record of its partition.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn observe(
        &mut self,
        record: &Record,
        refused: &mut Refused,
        windows: &mut Windows,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let place = Place::new(VALID, record.partition, record.offset);
        let dead = self.cut.is_stored(place).then(|| refused.take(place, record, differences));
        let dead = dead.flatten();
        let (valid, late_for) = match read_valid(record.value.as_deref(), self.schema) {
            Ok(read) => read,
            Err(what) => {
                differences.say(format!("{} {what}", differences.at(place)));
                return Ok(());
            }
        };
        let id = valid.transaction.transaction_id.as_ref();
        let Some((_, source)) = source_of(record).filter(|(p, _)| *p == record.partition) else {
            self.foreign.insert(half(id.as_bytes()), place);
            differences.say(format!(
                "{} {id} was not written by stage 1 (no caudal.source of its partition)",
                differences.at(place)
            ));
            return Ok(());
        };
        if source >= self.cut.input_end(record.partition) {
            self.in_flight += 1;
            return Ok(());
        }
        let Some(entries) =
            usize::try_from(record.partition).ok().and_then(|p| self.entries.get_mut(p))
        else {
            return Ok(());
        };
        if entries.last().is_some_and(|last| source <= last.source) {
            self.copies.push((place, source));
            return Ok(());
        }
        self.numbering.observe(place, record);
        let late = late_bits(&self.names, late_for.iter().copied());
        let seen = Seen::of(&valid);
        entries.push(Entry {
            id: seen.id,
            payload: seen.payload,
            columns: columns(&valid.transaction),
            source,
            place,
            minute: i32::try_from(seen.event_time.div_euclid(MINUTE)).unwrap_or(i32::MAX),
            late,
        });
        windows.add(&valid, late, place)?;
        self.account(place, dead, &valid)
    }

    fn account(
        &mut self,
        place: Place,
        dead: Option<Reason>,
        valid: &ValidTransaction<'_>,
    ) -> Result<(), SumOverflow> {
        let tally = match dead {
            Some(reason) => {
                self.refused.insert(place, reason);
                &mut self.refused_sums
            }
            None if !self.cut.is_stored(place) => &mut self.not_stored,
            None => return Ok(()),
        };
        tally.0 += 1;
        tally.1.add(valid.currency, valid.transaction.amount)
    }

    /// The whole topic, ordered for looking up; says what is doubled or missing in it.
    pub fn finish(mut self, differences: &mut Differences) -> Valid {
        let mut entries = Vec::with_capacity(self.entries.iter().map(Vec::len).sum());
        let mut ranges = Vec::with_capacity(self.entries.len());
        for of_partition in &mut self.entries {
            let start = entries.len();
            entries.append(&mut std::mem::take(of_partition));
            ranges.push(start..entries.len());
        }
        let mut by_id: Vec<u32> = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
        by_id.sort_unstable_by_key(|at| {
            let entry = &entries[index(*at)];
            (entry.id, entry.place)
        });
        let mut repeated = vec![false; entries.len()];
        for pair in by_id.windows(2) {
            if entries[index(pair[0])].id == entries[index(pair[1])].id {
                repeated[index(pair[0])] = true;
                repeated[index(pair[1])] = true;
            }
        }
        let valid = Valid {
            entries,
            ranges,
            by_id,
            repeated,
            foreign: self.foreign,
            refused: self.refused,
            in_flight: self.in_flight,
            not_stored: self.not_stored,
            refused_sums: self.refused_sums,
        };
        valid.say_copies(&self.copies, differences);
        self.numbering.say(differences);
        valid
    }
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The topic, ordered for looking up.
pub struct Valid {
    entries: Vec<Entry>,
    /// By partition, in the order of causes.
    ranges: Vec<Range<usize>>,
    /// Indexes in the order of (id, place).
    by_id: Vec<u32>,
    /// Whether another entry has the same id.
    repeated: Vec<bool>,
    foreign: FxHashMap<Hash16, Place>,
    refused: FxHashMap<Place, Reason>,
    /// Records whose cause lies beyond the cut.
    pub in_flight: u64,
    /// How many records the sink has not stored yet, and their money.
    pub not_stored: (u64, Sums),
    /// How many records the sink refused, and their money.
    pub refused_sums: (u64, Sums),
}

impl Valid {
    /// Entries of a partition in the order of their causes.
    pub fn of_partition(&self, partition: i32) -> &[Entry] {
        let range = usize::try_from(partition).ok().and_then(|p| self.ranges.get(p).cloned());
        range.map_or(&[], |range| &self.entries[range])
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries of an id, as indexes in the order of their places.
    pub fn of_id(&self, id: &Hash16) -> impl Iterator<Item = usize> + '_ {
        let start = self.by_id.partition_point(|at| self.entries[index(*at)].id < *id);
        let (id, entries) = (*id, &self.entries);
        self.by_id[start..].iter().map(|at| index(*at)).take_while(move |at| entries[*at].id == id)
    }

    /// The entries of an id that stage 1 may know of at an input record, by partition and offset:
    /// earlier ones of the partition, and those of earlier eras whose keys have come to it.
    pub fn before<'e>(
        &'e self,
        id: &Hash16,
        (partition, offset): (i32, i64),
        eras: &Eras,
    ) -> impl Iterator<Item = &'e Entry> {
        let now = (eras.of_input(partition, offset), partition);
        self.of_id(id).map(|at| &self.entries[at]).filter(move |entry| {
            let at = entry.place.partition();
            let then = (eras.of_input(at, entry.source), at);
            (at == partition && entry.source < offset) || eras.comes_to(then, now)
        })
    }

    /// The last of [`Valid::before`] for the record behind an entry.
    pub fn predecessor(&self, of: &Entry, eras: &Eras) -> Option<&Entry> {
        let at = self.of_partition(of.place.partition()).partition_point(|e| e.source < of.source);
        let start = self.ranges.get(usize::try_from(of.place.partition()).ok()?)?.start;
        if !*self.repeated.get(start + at)? {
            return None;
        }
        let order = |e: &&Entry| (eras.of_input(e.place.partition(), e.source), e.source);
        self.before(&of.id, (of.place.partition(), of.source), eras).max_by_key(order)
    }

    /// Why the sink refused the record at a place, if it did.
    pub fn refusal(&self, place: Place) -> Option<Reason> {
        self.refused.get(&place).copied()
    }

    /// A record of that id that stage 1 did not write.
    pub fn foreign(&self, id: &Hash16) -> Option<Place> {
        self.foreign.get(id).copied()
    }

    fn say_copies(&self, copies: &[(Place, i64)], differences: &mut Differences) {
        for (place, source) in copies {
            let of_partition = self.of_partition(place.partition());
            let first = of_partition.binary_search_by_key(source, |entry| entry.source);
            match first.ok().and_then(|at| of_partition.get(at)) {
                Some(first) => differences.of_record(
                    format!(
                        "transacciones_validas has {{}} twice: {} and {} (both caused by \
                         transacciones-{}@{source})",
                        first.place.short(),
                        place.short(),
                        place.partition()
                    ),
                    *place,
                ),
                None => differences.of_record(
                    format!("{} {{}} is out of the order of its causes", differences.at(*place)),
                    *place,
                ),
            }
        }
    }
}
