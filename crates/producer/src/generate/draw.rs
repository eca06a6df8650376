//! Draws that are the same on every machine: whole numbers only, no floats.

use super::shape::WHOLE;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// A seeded stream of draws.
#[derive(Debug, Clone)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from 0 to `bound` - 1; `bound` must be at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product is evenly spread, short of bound/2⁶⁴.
        let product = u128::from(self.0.next_u64()) * u128::from(bound.max(1));
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.abs_diff(low).saturating_add(1);
        low.saturating_add_unsigned(self.below(span))
    }

    /// Whether one chance in `of` came up.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// Whether a share of 10,000 was hit; nothing is drawn for a share of none.
    pub fn hits(&mut self, share: u32) -> bool {
        share > 0 && self.below(u64::from(WHOLE)) < u64::from(share)
    }

    /// One of them; `options` must not be empty.
    pub fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[usize::try_from(self.below(options.len() as u64)).unwrap_or(0)]
    }

    /// An amount between 2^`low` and 2^`high`: every power of two as likely as the next.
    pub fn magnitude(&mut self, low: u32, high: u32) -> i64 {
        let bits = low + u32::try_from(self.below(u64::from(high - low))).unwrap_or(0);
        let base = 1_i64 << bits;
        base + self.between(0, base - 1)
    }
}

/// Ranks with the frequency of words: rank k is drawn in proportion to 1/kˢ (Zipf).
#[derive(Debug, Clone)]
pub struct Zipf {
    /// Cumulated weights of ranks 1 to n.
    cumulated: Vec<u64>,
}

impl Zipf {
    /// Ranks 1 to `count`, at least 1; `skew` is s in hundredths, at most 400.
    #[must_use]
    pub fn new(count: u64, skew: u32) -> Zipf {
        let powers = halvings();
        let weight = |rank: u64| match skew {
            0 => 1 << 32,
            100 => (1 << 32) / rank,
            _ => (inverse_power(rank, skew, &powers) >> 31).max(1),
        };
        let sums = (1..=count.max(1)).scan(0_u64, |sum, rank| {
            *sum += weight(rank);
            Some(*sum)
        });
        Zipf { cumulated: sums.collect() }
    }

    /// Draws a rank, from 1.
    pub fn draw(&self, dice: &mut Dice) -> u64 {
        let total = self.cumulated.last().copied().unwrap_or(1);
        let at = dice.below(total);
        self.cumulated.partition_point(|sum| *sum <= at) as u64 + 1
    }
}

/// 2^(-2^-k) for k = 1, 2, … 32, as 63-bit fractions.
fn halvings() -> [u64; 32] {
    let mut power = 1_u64 << 62;
    std::array::from_fn(|_| {
        power = u64::try_from((u128::from(power) << 63).isqrt()).unwrap_or(u64::MAX);
        power
    })
}

/// rank^(-skew/100) as a 63-bit fraction, in whole numbers: 2^(-skew/100 · log₂ rank).
fn inverse_power(rank: u64, skew: u32, powers: &[u64; 32]) -> u64 {
    let exponent = log2(rank) * u64::from(skew) / 100;
    let (whole, fraction) = (exponent >> 32, exponent & u64::from(u32::MAX));
    let fraction = powers.iter().enumerate().fold(1_u64 << 63, |power, (k, halving)| {
        if fraction >> (31 - k) & 1 == 0 {
            return power;
        }
        u64::try_from((u128::from(power) * u128::from(*halving)) >> 63).unwrap_or(u64::MAX)
    });
    fraction.checked_shr(u32::try_from(whole).unwrap_or(u32::MAX)).unwrap_or(0)
}

/// log₂ of a number of at least 1, with 32 bits after the point.
fn log2(number: u64) -> u64 {
    let whole = number.max(1).ilog2();
    let mut mantissa = u128::from(number.max(1)) << (63 - whole);
    (0..32).fold(u64::from(whole), |bits, _| {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = u64::from(mantissa >> 64 != 0);
        mantissa >>= bit;
        bits << 1 | bit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_number_powers_are_those_of_floats() {
        let powers = halvings();
        for rank in [1_u64, 2, 3, 7, 10, 1_000, 99_999, 10_000_000] {
            for skew in [1, 50, 99, 107, 150, 200, 400] {
                #[expect(clippy::cast_precision_loss, reason = "a comparison to one in a million")]
                let (found, wanted) = (
                    inverse_power(rank, skew, &powers) as f64 / (1_u64 << 63) as f64,
                    (rank as f64).powf(-f64::from(skew) / 100.0),
                );
                // To one in a million, or to the last bits of the fraction.
                let off = (found - wanted).abs();
                assert!(off < wanted * 1e-6 + 1e-18, "{rank}^-{skew}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn a_share_is_one_in_so_many() {
        let (mut shares, mut ones) = (Dice::new(9), Dice::new(9));
        for _ in 0..100_000 {
            assert_eq!(shares.hits(20), ones.one_in(500));
        }
        assert!(!Dice::new(1).hits(0) && Dice::new(1).hits(WHOLE));
    }
}
