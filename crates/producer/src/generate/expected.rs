//! What generated records must lead to.

use super::{Class, Generator, Recipe};
use caudal_core::money::{SumOverflow, Sums};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// What (N, seed) must lead to, whatever happens on the way. How many records are late depends on
/// the queries' windows and is not told here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Records sent: valid + duplicates + every dead one.
    pub lines: u64,
    /// Rows.
    pub valid: u64,
    /// Repeats without effect.
    pub duplicates: u64,
    /// Dead letters with reason `conflict`; they are in `dead` too.
    pub conflicts: u64,
    /// Dead letters by reason.
    pub dead: BTreeMap<&'static str, u64>,
    /// Exact sums of the rows' amounts.
    #[serde(serialize_with = "as_texts")]
    pub sums: Sums,
    /// Exact sums of the repeats.
    #[serde(serialize_with = "as_texts")]
    pub duplicate_sums: Sums,
    /// Exact sums of the dead letters whose amount can be read.
    #[serde(serialize_with = "as_texts")]
    pub dead_sums: Sums,
}

fn as_texts<S: Serializer>(sums: &Sums, serializer: S) -> Result<S::Ok, S::Error> {
    sums.texts().serialize(serializer)
}

impl Expected {
    /// Adds one record.
    ///
    /// # Errors
    /// [`SumOverflow`] beyond 128 bits.
    pub fn add(&mut self, class: &Class) -> Result<(), SumOverflow> {
        self.lines += 1;
        let sums = match class {
            Class::Valid(..) => {
                self.valid += 1;
                &mut self.sums
            }
            Class::Duplicate(..) => {
                self.duplicates += 1;
                &mut self.duplicate_sums
            }
            Class::Dead(reason, _) => {
                self.conflicts += u64::from(*reason == caudal_core::reject::Reason::Conflict);
                *self.dead.entry(reason.as_str()).or_default() += 1;
                &mut self.dead_sums
            }
        };
        class.money().map_or(Ok(()), |(currency, amount)| sums.add(currency, amount))
    }
}

/// What `count` records of that seed and [`Shape::LIFE`](super::Shape::LIFE) must lead to; the
/// first event time makes no difference.
///
/// # Errors
/// [`SumOverflow`] beyond 128 bits: not below 10²⁰ records.
pub fn expected(count: u64, seed: u64) -> Result<Expected, SumOverflow> {
    expected_of(Recipe::new(count, seed))
}

/// What the records of a recipe must lead to.
///
/// # Errors
/// [`SumOverflow`] beyond 128 bits.
pub fn expected_of(recipe: Recipe) -> Result<Expected, SumOverflow> {
    let mut expected = Expected::default();
    for record in Generator::new(recipe, "expected", 0) {
        expected.add(&record.class)?;
    }
    Ok(expected)
}
