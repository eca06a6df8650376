//! What a table of others must hold, from the records: by key the fingerprint of its row.

use super::fields::Column;
use crate::verify::differences::Differences;
use crate::verify::identity::first_half;
use crate::verify::place::Place;
use caudal_core::dedup::Hash16;
use caudal_sink::config::InsertMode;
use caudal_sink::copy;
use rustc_hash::FxHashMap;
use sha2::{Digest as _, Sha256};
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::Hasher as _;

/// What is known of the row of a key.
#[derive(Debug, Clone, Copy)]
struct Row {
    content: u64,
    /// Of the record that it is from, or that took it back.
    place: Place,
    is_gone: bool,
    /// Records of several partitions wrote it: which of them was the last (or the first) to be
    /// stored is not told by the topics.
    several: bool,
    seen: bool,
}

/// What a table must hold.
#[derive(Debug, Default)]
pub struct Contents {
    rows: FxHashMap<Hash16, Row>,
    /// Of rows without a key: how many, and the sum of their fingerprints.
    bare: (u64, u64),
    found_bare: (u64, u64),
    /// Rows that no record explains.
    extra: u64,
    /// Rows in the table.
    pub found: u64,
    /// Rows that were written from several partitions: there, but not compared.
    pub not_compared: u64,
}

/// A row in the order of these columns, some of which are its key.
#[derive(Debug, Clone, Copy)]
pub struct Form<'c> {
    pub columns: &'c [Column],
    pub key: &'c [usize],
}

impl Form<'_> {
    /// Fingerprints of the key and of the rest. NULL adds nothing, so that a row is the same before
    /// and after a column was added.
    fn digest<'f>(&self, fields: impl Iterator<Item = Option<&'f [u8]>>) -> (Hash16, u64) {
        let (mut key, mut content) = (Sha256::new(), 0_u64);
        for (at, (column, field)) in self.columns.iter().zip(fields).enumerate() {
            let Some(field) = field.filter(|_| !column.alters) else { continue };
            let field = column.canonical(field);
            if self.key.contains(&at) {
                key.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_le_bytes());
                key.update(&field);
            } else {
                let mut hash = DefaultHasher::new();
                hash.write(column.name.as_bytes());
                hash.write_u8(0xff);
                hash.write(&field);
                content = content.wrapping_add(hash.finish());
            }
        }
        (first_half(&key.finalize()), content)
    }
}

impl Contents {
    /// Takes the row of a record that is stored, in the order of its partition. Says when its key
    /// has other contents already, and it should have been a dead letter.
    pub fn record(
        &mut self,
        (form, mode): (Form<'_>, InsertMode),
        tuple: &[u8],
        (place, is_gone): (Place, bool),
    ) -> Result<(), Place> {
        let (key, content) = form.digest(copy::fields(tuple));
        if form.key.is_empty() {
            self.bare = (self.bare.0 + 1, self.bare.1.wrapping_add(content));
            return Ok(());
        }
        let new = Row { content, place, is_gone, several: false, seen: false };
        let mut slot = match self.rows.entry(key) {
            Entry::Vacant(slot) => {
                slot.insert(new);
                return Ok(());
            }
            Entry::Occupied(slot) => slot,
        };
        let row = slot.get_mut();
        let elsewhere =
            (row.place.topic(), row.place.partition()) != (place.topic(), place.partition());
        let replaces = mode.keeps_last() || row.is_gone || is_gone;
        if !replaces && mode == InsertMode::Insert && row.content != content {
            return Err(row.place);
        }
        let several =
            row.several || elsewhere && (row.content != content || row.is_gone != is_gone);
        *row = if replaces { Row { several, ..new } } else { Row { several, ..*row } };
        Ok(())
    }

    /// Takes a row of the table.
    pub fn row(
        &mut self,
        form: Form<'_>,
        fields: &[Option<&[u8]>],
        said: (&str, &[String]),
        differences: &mut Differences,
    ) {
        self.found += 1;
        let (key, content) = form.digest(fields.iter().copied());
        if form.key.is_empty() {
            self.found_bare = (self.found_bare.0 + 1, self.found_bare.1.wrapping_add(content));
            return;
        }
        let (table, topics) = said;
        let Some(row) = self.rows.get_mut(&key).filter(|row| !row.is_gone || row.several) else {
            self.extra += 1;
            return;
        };
        row.seen = true;
        if row.several {
            self.not_compared += 1;
        } else if row.content != content {
            let names = form.key.iter().map(|at| {
                let (column, field) = (&form.columns[*at], fields.get(*at).copied().flatten());
                format!("{} {}", column.name, column.shown(field))
            });
            let names = names.collect::<Vec<_>>().join(", ");
            let at = said_at(row.place, topics);
            differences.say(format!("{table}: the row of {names} is not what {at} says"));
        }
    }

    /// Says what is missing and what is too much. Where records are `cut`, a row that none explains
    /// may be of one that is gone: gives their number.
    pub fn finish(
        &self,
        (table, topics): (&str, &[String]),
        cut: bool,
        differences: &mut Differences,
    ) -> u64 {
        let lost = |row: &&Row| !row.seen && !row.is_gone && !row.several;
        let mut lost: Vec<Place> = self.rows.values().filter(lost).map(|row| row.place).collect();
        lost.sort_unstable();
        for place in lost {
            differences.say(format!("{table} lacks the row of {}", said_at(place, topics)));
        }
        let (bare, found) = (self.bare, self.found_bare);
        let missing = bare.0.saturating_sub(found.0);
        if missing > 0 {
            let rows = format!("{} rows, {} records are stored", found.0, bare.0);
            differences.say(format!("{table} has {rows}: {missing} are missing"));
        } else if bare.0 == found.0 && bare.1 != found.1 {
            differences.say(format!("{table}: a row is not what its record says"));
        }
        let extra = self.extra + found.0.saturating_sub(bare.0);
        if extra > 0 && !cut {
            differences.say(format!(
                "{table} has {extra} rows of which no record is known: did another program write \
                 them?"
            ));
        }
        if cut { extra } else { 0 }
    }
}

/// `pedidos-2@1841`.
pub fn said_at(place: Place, topics: &[String]) -> String {
    let topic = topics.get(usize::from(place.topic())).map_or("?", String::as_str);
    format!("{topic}-{}", place.short())
}

#[cfg(test)]
mod tests {
    use super::super::fields::tests::column;
    use super::*;
    use crate::verify::place::Topics;
    use caudal_sink::copy::Tuples;
    use caudal_sink::generic::target::Target;

    struct Case {
        contents: Contents,
        columns: [Column; 2],
        key: &'static [usize],
        mode: InsertMode,
        differences: Differences,
    }

    impl Case {
        fn new(key: &'static [usize], mode: InsertMode) -> Case {
            let columns =
                [column("id", "bigint", Target::BigInt), column("note", "text", Target::Text)];
            let differences = Differences::new(Topics::of(&[]));
            Case { contents: Contents::default(), columns, key, mode, differences }
        }

        fn record(&mut self, at: (i32, i64), id: i64, note: Option<&str>) -> Result<(), Place> {
            let mut tuple = Tuples::default();
            tuple.tuple(2);
            tuple.int8(id);
            match note {
                Some(note) => tuple.text(note),
                None => tuple.null(),
            }
            let form = Form { columns: &self.columns, key: self.key };
            let place = Place::new(0, at.0, at.1);
            self.contents.record((form, self.mode), tuple.as_slice(), (place, note.is_none()))
        }

        fn said(mut self, rows: &[(i64, &str)], cut: bool) -> (Vec<String>, u64) {
            let topics = ["t".to_owned()];
            for (id, note) in rows {
                let id = id.to_be_bytes();
                let fields = [Some(&id[..]), Some(note.as_bytes())];
                let form = Form { columns: &self.columns, key: self.key };
                self.contents.row(form, &fields, ("rows", &topics), &mut self.differences);
            }
            let unproven = self.contents.finish(("rows", &topics), cut, &mut self.differences);
            (self.differences.drafts(), unproven)
        }
    }

    #[test]
    fn the_last_value_of_a_key_is_its_row_and_a_tombstone_takes_it_back() {
        let case = || {
            let mut case = Case::new(&[0], InsertMode::Upsert);
            for (offset, id, note) in
                [(0, 1, Some("a")), (1, 1, Some("b")), (2, 2, Some("c")), (3, 2, None)]
            {
                case.record((0, offset), id, note).expect("upserts never conflict");
            }
            case
        };
        assert_eq!(case().said(&[(1, "b")], false), (vec![], 0));
        let (said, _) = case().said(&[(1, "a"), (2, "c")], false);
        assert_eq!(said[0], "rows: the row of id 1 is not what t-0@1 says");
        assert!(said[1].starts_with("rows has 1 rows of which no record is known"), "{said:?}");
        assert_eq!(case().said(&[], false).0, ["rows lacks the row of t-0@1"]);
        assert_eq!(case().said(&[(1, "b"), (7, "x")], true), (vec![], 1));
    }

    #[test]
    fn the_first_value_of_a_key_stands_and_another_must_be_a_dead_letter() {
        let mut case = Case::new(&[0], InsertMode::Insert);
        assert_eq!(case.record((0, 0), 1, Some("a")), Ok(()));
        assert_eq!(case.record((1, 0), 1, Some("a")), Ok(()));
        assert_eq!(case.record((0, 1), 1, Some("b")), Err(Place::new(0, 0, 0)));
        assert_eq!(case.said(&[(1, "a")], false), (vec![], 0));
    }

    #[test]
    fn a_key_of_two_partitions_is_there_and_not_compared() {
        let mut case = Case::new(&[0], InsertMode::Upsert);
        case.record((0, 0), 1, Some("a")).expect("first");
        case.record((1, 0), 1, Some("b")).expect("second");
        assert_eq!(case.said(&[(1, "a")], false), (vec![], 0));
    }

    #[test]
    fn rows_without_a_key_are_counted_and_summed() {
        let case = || {
            let mut case = Case::new(&[], InsertMode::Insert);
            case.record((0, 0), 1, Some("a")).expect("one");
            case.record((0, 1), 1, Some("a")).expect("two");
            case
        };
        assert_eq!(case().said(&[(1, "a"), (1, "a")], false), (vec![], 0));
        assert!(case().said(&[(1, "a")], false).0[0].contains("1 are missing"));
        assert!(case().said(&[(1, "a"), (1, "b")], false).0[0].contains("not what its record"));
        assert!(case().said(&[(1, "a"); 3], false).0[0].contains("1 rows of which"));
    }
}
