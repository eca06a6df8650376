//! What the sink has done with the records of one topic-partition.

use caudal_core::money::{Currency, SumOverflow, Sums};
use caudal_core::reject::Reason;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Its row is stored (or was, until a later value of its key replaced it).
    Row,
    /// Its key was there with equal contents.
    Duplicate,
    /// Its key was there with other contents: a dead letter.
    Conflict,
    /// A tombstone: the row of its key is gone.
    Gone,
    /// A dead letter of the sink, with what was wrong.
    Dead(Reason, String),
}

/// Counts and money of one topic-partition since its beginning. Records read so far are the sum of
/// the five counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Records whose row was stored; of a topic of dead letters, the dead letters stored.
    pub rows: i64,
    /// Records whose key was there with equal contents.
    pub duplicates: i64,
    /// Records whose key was there with other contents.
    pub conflicts: i64,
    /// Records that became dead letters of the sink for another reason.
    pub dead: i64,
    /// Tombstones, which took the row of their key back.
    pub deleted: i64,
    /// Money by fate: `rows`, `duplicates`, `conflicts`, `dead`; where the records carry money.
    pub sums: BTreeMap<String, Sums>,
}

impl Ledger {
    /// Counts a record.
    ///
    /// # Errors
    /// [`SumOverflow`]: the sink halts.
    pub fn add(&mut self, fate: &Fate, money: Option<(Currency, i128)>) -> Result<(), SumOverflow> {
        let (count, word) = match fate {
            Fate::Row => (&mut self.rows, "rows"),
            Fate::Duplicate => (&mut self.duplicates, "duplicates"),
            Fate::Conflict => (&mut self.conflicts, "conflicts"),
            Fate::Gone => (&mut self.deleted, "deleted"),
            Fate::Dead(..) => (&mut self.dead, "dead"),
        };
        *count += 1;
        let Some((currency, nano)) = money else { return Ok(()) };
        match self.sums.get_mut(word) {
            Some(sums) => sums.add_nano(currency, nano),
            None => self.sums.entry(word.to_owned()).or_default().add_nano(currency, nano),
        }
    }

    /// Takes a dead letter of the sink out again: it was tried once more.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn forget(
        &mut self,
        reason: Reason,
        money: Option<(Currency, i128)>,
    ) -> Result<(), SumOverflow> {
        let (count, word) = match reason {
            Reason::Conflict => (&mut self.conflicts, "conflicts"),
            _ => (&mut self.dead, "dead"),
        };
        *count -= 1;
        let Some((currency, nano)) = money else { return Ok(()) };
        self.sums.entry(word.to_owned()).or_default().add_nano(currency, -nano)
    }

    /// The sums as `{"rows": {"EUR": "12.50"}, …}`: exact decimal text.
    #[must_use]
    pub fn sums_json(&self) -> String {
        let fates = self.sums.iter().map(|(fate, sums)| {
            let texts = sums.texts().into_iter().map(|(c, text)| (c, Value::from(text)));
            (fate.clone(), Value::Object(texts.collect()))
        });
        Value::Object(fates.collect::<Map<_, _>>()).to_string()
    }

    /// Reads [`Ledger::sums_json`] back. `None` when it is not that.
    #[must_use]
    pub fn parse_sums(json: &str) -> Option<BTreeMap<String, Sums>> {
        let fates: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(json).ok()?;
        let mut all = BTreeMap::new();
        for (fate, texts) in fates {
            let mut sums = Sums::default();
            for (code, text) in texts {
                sums.add_nano(Currency::parse(&code)?, parse_nano(&text)?).ok()?;
            }
            all.insert(fate, sums);
        }
        Some(all)
    }
}

/// Reads decimal text of up to nine places as units of 10⁻⁹: sums outgrow 64 bits, so an
/// `Amount` cannot hold them.
fn parse_nano(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let padding = "000000000".get(fraction.len()..)?;
    format!("{whole}{fraction}{padding}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_read_back() {
        let mut ledger = Ledger::default();
        let money = |code, nano| Some((Currency::parse(code).unwrap(), nano));
        ledger.add(&Fate::Row, money("EUR", -1_500_000_001)).unwrap();
        ledger.add(&Fate::Row, money("JPY", i128::MAX / 2)).unwrap();
        ledger.add(&Fate::Duplicate, money("EUR", 0)).unwrap();
        ledger.add(&Fate::Dead(Reason::Amount, String::new()), None).unwrap();
        ledger.add(&Fate::Gone, None).unwrap();
        assert_eq!((ledger.rows, ledger.duplicates, ledger.dead, ledger.deleted), (2, 1, 1, 1));
        assert_eq!(Ledger::parse_sums(&ledger.sums_json()).unwrap(), ledger.sums);
        assert!(Ledger::parse_sums("{\"rows\":{\"EUR\":\"x\"}}").is_none());
        assert_eq!(Ledger::parse_sums("{}").unwrap(), BTreeMap::new());
    }
}
