//! The partition of a key: Kafka's murmur2, as Java's `DefaultPartitioner` computes it.
//!
//! We compute it ourselves and name the partition explicitly, so that no client's default decides
//! where a key lives.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// 32-bit murmur2 with Kafka's seed. Source: Apache Kafka, `Utils.murmur2`.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    let mut h = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of `key` among `partitions` (at least 1), as Java's clients choose it.
///
/// # Panics
/// When `partitions` is not positive: a topic has at least one partition.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let count = u32::try_from(partitions).unwrap_or(0);
    assert!(count > 0, "a topic has at least one partition, not {partitions}");
    i32::try_from((murmur2(key) & 0x7fff_ffff) % count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors published in Apache Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn agrees_with_kafkas_published_vectors() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key) as i32, expected, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn partitions_are_in_range() {
        for i in 0..1000 {
            let p = partition_of(format!("acc-{i}").as_bytes(), 6);
            assert!((0..6).contains(&p));
        }
    }
}
