//! Seeded choices: the same seed makes the same schedule on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use std::ops::Range;

/// A source of choices.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The choices of `seed`; `stream` keeps those of the input, the faults and the interleaving
    /// apart, so that a change to one of them leaves the others as they were.
    pub fn new(seed: u64, stream: u64) -> Dice {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Dice(generator)
    }

    /// A number within `range`, which must not be empty.
    pub fn within(&mut self, range: Range<i64>) -> i64 {
        let width = u64::try_from(range.end - range.start).expect("a range that is not empty");
        range.start + i64::try_from(self.0.next_u64() % width).expect("below the width")
    }

    /// An index below `length`.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.0.next_u64() % length as u64).expect("an index")
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.0.next_u64() % 1000 < u64::from(per_mille)
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Puts `items` in some order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}
