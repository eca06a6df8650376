//! How many different values there are: exact for few, HyperLogLog (Flajolet et al., 2007) for
//! many.

use caudal_core::avro::{AvroError, Reader, Writer};

/// So many different values are counted exactly (by their 64-bit hashes); more are estimated with
/// a standard error of 1.6 %.
pub const EXACT_DISTINCT: usize = 1_024;
/// Bits of the hash that choose a register.
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;

/// The different values of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distinct {
    /// Their hashes, in order.
    Exact(Vec<u64>),
    /// Per register, the longest run of zeros that a hash began with, plus one.
    Estimated(Box<[u8]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Distinct::Exact(Vec::new())
    }
}

/// 64 bits that every bit of a value's bytes decides: FNV-1a, then the finaliser of MurmurHash3.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut h = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| {
        (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

impl Distinct {
    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        match self {
            Distinct::Exact(hashes) => hashes.capacity() * size_of::<u64>(),
            Distinct::Estimated(registers) => registers.len(),
        }
    }

    pub fn add(&mut self, hash: u64) {
        match self {
            Distinct::Exact(known) => {
                if let Err(at) = known.binary_search(&hash) {
                    known.insert(at, hash);
                    if known.len() > EXACT_DISTINCT {
                        *self = Distinct::Estimated(registers(known));
                    }
                }
            }
            Distinct::Estimated(registers) => register(registers, hash),
        }
    }

    pub fn merge(&mut self, other: &Distinct) {
        match (&mut *self, other) {
            (_, Distinct::Exact(hashes)) => hashes.iter().for_each(|hash| self.add(*hash)),
            (Distinct::Exact(known), Distinct::Estimated(theirs)) => {
                let mut all = theirs.clone();
                known.iter().for_each(|hash| register(&mut all, *hash));
                *self = Distinct::Estimated(all);
            }
            (Distinct::Estimated(ours), Distinct::Estimated(theirs)) => {
                ours.iter_mut().zip(theirs).for_each(|(one, other)| *one = (*one).max(*other));
            }
        }
    }

    pub fn count(&self) -> i64 {
        match self {
            Distinct::Exact(known) => known.len() as i64,
            Distinct::Estimated(registers) => estimate(registers),
        }
    }

    pub fn write(&self, out: &mut Writer) {
        match self {
            Distinct::Exact(known) => {
                out.long(known.len() as i64);
                known.iter().for_each(|hash| out.fixed8(hash.to_be_bytes()));
            }
            Distinct::Estimated(registers) => {
                out.long(-1);
                out.bytes(registers);
            }
        }
    }

    pub fn read(input: &mut Reader<'_>) -> Result<Distinct, AvroError> {
        let count = input.long()?;
        if count < 0 {
            let error = input.error("registers that are not 4096");
            let registers = input.bytes()?;
            if registers.len() != REGISTERS {
                return Err(error);
            }
            return Ok(Distinct::Estimated(registers.into()));
        }
        if count > EXACT_DISTINCT as i64 {
            return Err(input.error("more hashes than are kept"));
        }
        let hashes = (0..count).map(|_| input.fixed8().map(u64::from_be_bytes));
        Ok(Distinct::Exact(hashes.collect::<Result<_, _>>()?))
    }
}

fn registers(hashes: &[u64]) -> Box<[u8]> {
    let mut all = vec![0; REGISTERS].into_boxed_slice();
    hashes.iter().for_each(|hash| register(&mut all, *hash));
    all
}

fn register(registers: &mut [u8], hash: u64) {
    let index = (hash >> (64 - INDEX_BITS)) as usize;
    let zeros = (hash << INDEX_BITS).leading_zeros().min(64 - INDEX_BITS);
    registers[index] = registers[index].max(zeros as u8 + 1);
}

fn estimate(registers: &[u8]) -> i64 {
    let m = REGISTERS as f64;
    let sum: f64 = registers.iter().map(|r| (-f64::from(*r)).exp2()).sum();
    let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
    let empty = registers.iter().filter(|r| **r == 0).count();
    // Linear counting where many registers are still empty.
    let refined = if raw <= 2.5 * m && empty > 0 { m * (m / empty as f64).ln() } else { raw };
    refined.round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: std::ops::Range<u32>) -> Distinct {
        let mut distinct = Distinct::default();
        range.for_each(|n| distinct.add(hash(&n.to_be_bytes())));
        distinct
    }

    #[test]
    fn few_are_exact_and_many_are_near() {
        assert_eq!(of(0..1_024).count(), 1_024);
        for count in [1_025, 5_000, 20_000, 200_000] {
            let found = of(0..count).count() as f64;
            let error = (found / f64::from(count) - 1.0).abs();
            assert!(error < 0.05, "{count}: {found}");
        }
    }

    #[test]
    fn merging_and_writing_keep_what_is_known() {
        let all = of(0..3_000);
        for cut in [10, 1_500, 2_990] {
            let mut merged = of(0..cut);
            merged.merge(&of(cut - 5..3_000));
            assert_eq!(merged, all);
        }
        for distinct in [of(0..7), all] {
            let mut out = Writer::new();
            distinct.write(&mut out);
            assert_eq!(Distinct::read(&mut Reader::new(&out.into_bytes())), Ok(distinct));
        }
    }
}
