//! The accumulator behind COUNT, SUM, MIN and MAX of an amount.

use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::money::SumOverflow;

/// Counts and exact money of a group, in units of 10⁻⁹. Merging is commutative and associative,
/// so that partials may arrive in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accumulator {
    /// COUNT(*).
    pub count: i64,
    /// SUM(amount).
    pub sum: i128,
    /// MIN(amount).
    pub min: i128,
    /// MAX(amount).
    pub max: i128,
}

impl Accumulator {
    /// The accumulator of one amount.
    #[must_use]
    pub fn of(nano: i128) -> Accumulator {
        Accumulator { count: 1, sum: nano, min: nano, max: nano }
    }

    /// Takes another one in.
    ///
    /// # Errors
    /// [`SumOverflow`]: the query halts rather than wrap.
    pub fn merge(&mut self, other: &Accumulator) -> Result<(), SumOverflow> {
        self.count = self.count.checked_add(other.count).ok_or(SumOverflow)?;
        self.sum = self.sum.checked_add(other.sum).ok_or(SumOverflow)?;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        Ok(())
    }

    /// Writes it into a state block or a partial.
    pub fn write(&self, out: &mut Writer) {
        out.long(self.count);
        out.decimal(self.sum);
        out.decimal(self.min);
        out.decimal(self.max);
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not an accumulator.
    pub fn read(input: &mut Reader<'_>) -> Result<Accumulator, AvroError> {
        Ok(Accumulator {
            count: input.long()?,
            sum: input.decimal()?,
            min: input.decimal()?,
            max: input.decimal()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(amounts: &[i64]) -> Option<Accumulator> {
        let mut parts = amounts.iter().map(|a| Accumulator::of(i128::from(*a)));
        let mut whole = parts.next()?;
        parts.try_for_each(|p| whole.merge(&p)).ok()?;
        Some(whole)
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter(amounts in prop::collection::vec(any::<i64>(), 2..20), cut in 1_usize..19) {
            let cut = cut.min(amounts.len() - 1);
            let mut split = all(&amounts[cut..]).expect("some");
            split.merge(&all(&amounts[..cut]).expect("some")).expect("no overflow");
            prop_assert_eq!(Some(split), all(&amounts));
            let mut out = Writer::new();
            split.write(&mut out);
            prop_assert_eq!(Accumulator::read(&mut Reader::new(&out.into_bytes())), Ok(split));
        }
    }

    #[test]
    fn overflow_is_an_error() {
        let mut a = Accumulator::of(i128::MAX);
        assert_eq!(a.merge(&Accumulator::of(1)), Err(SumOverflow));
    }
}
