//! Rows that `caudal retention` has deleted, as it says in the table `retired`, against the records
//! that have no row: as many, and the same ones.

use super::differences::Differences;
use super::place::Place;
use caudal_core::dedup::Hash16;
use caudal_core::money::Sums;
use caudal_core::time::to_rfc3339;

/// What was deleted of the rows of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retired {
    /// How many.
    pub rows: u64,
    /// Sum of the fingerprints of their keys.
    pub keys: i128,
    /// Their money.
    pub sums: Sums,
    /// All of an earlier time, in microseconds.
    pub before: i64,
}

/// How often more than once the row of a key may have been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    /// So often in all: so many records could have made a row again.
    Most(u64),
    /// Any number of times.
    Any,
    /// Any, and of rows whose records the topic has no more.
    Unknown,
}

/// Records whose rows may have been deleted on purpose, because they are not there.
#[derive(Debug, Default)]
pub struct Missing(Vec<(Hash16, Place)>);

/// As the statement that deletes a row: the first 64 bits of its key's SHA-256.
fn fingerprint(key: &Hash16) -> i128 {
    let mut first = [0; 8];
    first.copy_from_slice(&key[..8]);
    i128::from(i64::from_be_bytes(first))
}

impl Missing {
    /// One more, by its key and a record of it.
    pub fn add(&mut self, key: Hash16, place: Place) {
        self.0.push((key, place));
    }

    /// How many.
    pub fn count(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap_or(u64::MAX)
    }

    /// Says where these are not the rows that were retired: a row that went otherwise is named where
    /// it is the only one. Gives how many were retired more than once.
    pub fn judge(
        &self,
        table: &str,
        retired: Option<&Retired>,
        spare: Spare,
        differences: &mut Differences,
    ) -> u64 {
        let none = Retired::default();
        let retired = retired.unwrap_or(&none);
        let before = to_rfc3339(retired.before);
        let keys: i128 = self.0.iter().map(|(key, _)| fingerprint(key)).sum();
        let (gone, known) = (self.count(), retired.rows);
        if gone > known {
            let odd = keys - retired.keys;
            let culprit = self.0.iter().find(|(key, _)| fingerprint(key) == odd);
            match culprit.filter(|_| gone == known + 1) {
                Some((_, place)) => {
                    let at = differences.at(*place);
                    let text = format!("{table} lacks {{}} ({at}), which was not retired");
                    differences.of_record(text, *place);
                }
                None => differences.say(format!(
                    "{table} lacks {gone} rows from before {before}, of which only {known} were retired"
                )),
            }
        } else if gone == known && keys != retired.keys && spare != Spare::Unknown {
            differences.say(format!(
                "{table} lacks {gone} rows from before {before}, but these are not the ones that \
                 were retired"
            ));
        }
        let more = known.saturating_sub(gone);
        match spare {
            Spare::Most(most) if more > most => {
                differences.say(format!(
                    "retired counts {known} rows of {table}, but only {} records of that time have \
                     none",
                    gone + most
                ));
                most
            }
            _ => more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::identity::half;
    use crate::verify::place::{Topics, VALID};

    fn key(number: u8) -> Hash16 {
        half(&[number])
    }

    fn retired(numbers: &[u8]) -> Retired {
        Retired {
            rows: u64::try_from(numbers.len()).expect("few"),
            keys: numbers.iter().map(|n| fingerprint(&key(*n))).sum(),
            ..Retired::default()
        }
    }

    fn said(gone: &[u8], retired: &Retired, spare: Spare) -> Vec<String> {
        let mut missing = Missing::default();
        gone.iter().for_each(|n| missing.add(key(*n), Place::new(VALID, 0, i64::from(*n))));
        let mut differences = Differences::new(Topics::of(&[]));
        missing.judge("t", Some(retired), spare, &mut differences);
        differences.drafts()
    }

    #[test]
    fn what_was_retired_is_what_is_gone() {
        assert!(said(&[1, 2, 3], &retired(&[3, 1, 2]), Spare::Most(0)).is_empty());
        assert!(said(&[], &Retired::default(), Spare::Most(0)).is_empty());
        assert!(said(&[1, 2], &retired(&[1, 2, 1]), Spare::Most(1)).is_empty());
        assert!(said(&[1], &retired(&[1, 2, 3]), Spare::Unknown).is_empty());
    }

    #[test]
    fn a_row_that_went_otherwise_is_named() {
        let one = said(&[1, 2, 3], &retired(&[1, 3]), Spare::Unknown);
        assert_eq!(one, ["t lacks {} (transacciones_validas-0@2), which was not retired"]);
        let two = said(&[1, 2, 3], &retired(&[1]), Spare::Any);
        assert!(two[0].contains("lacks 3 rows") && two[0].contains("only 1 were"), "{two:?}");
        let other = said(&[1, 2], &retired(&[1, 3]), Spare::Any);
        assert!(other[0].contains("not the ones"), "{other:?}");
    }

    #[test]
    fn an_account_of_rows_that_never_were_is_seen() {
        let all = said(&[1], &retired(&[1, 2]), Spare::Most(0));
        assert!(all[0].starts_with("retired counts 2 rows of t"), "{all:?}");
    }
}
