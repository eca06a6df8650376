//! Draws that are the same on every machine: whole numbers only, no floats.

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

/// Ranks with the frequency of words: rank k is drawn in proportion to 1/k (Zipf, s = 1).
#[derive(Debug, Clone)]
pub struct Zipf {
    /// Cumulated weights of ranks 1 to n.
    cumulated: Vec<u64>,
}

impl Zipf {
    /// Ranks 1 to `count`, at least 1.
    #[must_use]
    pub fn new(count: u64) -> Zipf {
        let weight = |rank: u64| (1 << 32) / rank;
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
