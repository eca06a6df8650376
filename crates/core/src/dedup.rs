//! Dedup by transaction_id for a stated horizon of event time.

use crate::transaction::ValidTransaction;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// First half of the SHA-256 of a text: collisions cannot be made on purpose, and at 2³² ids an
/// accidental one has a chance below 2⁻⁶⁴.
pub type Hash16 = [u8; 16];

/// An id that was seen, with what it stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Hash of the transaction_id.
    pub id: Hash16,
    /// Hash of the business fields (not source_seq or arrival).
    pub payload: Hash16,
    /// Event time in microseconds.
    pub event_time: i64,
}

impl Seen {
    /// The hashes of a valid transaction; its normalised values, so that `1.5` equals `1.50`.
    #[must_use]
    pub fn of(valid: &ValidTransaction<'_>) -> Seen {
        let t = &valid.transaction;
        let mut hash = Sha256::new();
        let mut text = |text: &str| {
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(text.as_bytes());
        };
        text(&t.account_id);
        text(&t.merchant_id);
        text(valid.currency.as_str());
        text(t.kind.as_str());
        text(t.country.as_deref().unwrap_or_default());
        text(t.description.as_deref().unwrap_or_default());
        for (name, value) in &t.attributes {
            text(name);
            text(value);
        }
        hash.update(t.amount.nano().to_le_bytes());
        hash.update(t.event_time.to_le_bytes());
        Seen {
            id: half(&Sha256::digest(t.transaction_id.as_bytes())),
            payload: half(&hash.finalize()),
            event_time: t.event_time,
        }
    }
}

fn half(digest: &[u8]) -> Hash16 {
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

/// What dedup says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not seen within the horizon.
    New,
    /// Seen with the same business fields: no effect, counted.
    Duplicate,
    /// Seen with other business fields: a dead letter.
    Conflict,
}

/// The ids seen within the horizon, of one partition.
#[derive(Debug, Clone, Default)]
pub struct Dedup {
    ids: FxHashMap<Hash16, (Hash16, i64)>,
    /// Event-time minute → ids, so that old ones are dropped a bucket at a time.
    buckets: BTreeMap<i64, Vec<Hash16>>,
}

const BUCKET: i64 = crate::time::MINUTE;

/// The first minute that is still remembered.
fn oldest_kept(stream_time: i64, horizon: i64) -> i64 {
    stream_time.saturating_sub(horizon).div_euclid(BUCKET)
}

impl Dedup {
    /// Looks up, and remembers what is new and within the horizon.
    ///
    /// What lies beyond the horizon at `stream_time` counts as forgotten even if [`Dedup::evict`]
    /// has not been called since: the answer must not depend on when commits fall.
    pub fn check(&mut self, seen: &Seen, stream_time: i64, horizon: i64) -> Outcome {
        let keep = oldest_kept(stream_time, horizon);
        match self.ids.get(&seen.id) {
            Some((_, event_time)) if event_time.div_euclid(BUCKET) < keep => {}
            Some((payload, _)) if *payload == seen.payload => return Outcome::Duplicate,
            Some(_) => return Outcome::Conflict,
            None => {}
        }
        if seen.event_time.div_euclid(BUCKET) >= keep {
            self.insert(seen);
        }
        Outcome::New
    }

    /// Remembers an id (when a state block is read back).
    pub fn insert(&mut self, seen: &Seen) {
        self.ids.insert(seen.id, (seen.payload, seen.event_time));
        self.buckets.entry(seen.event_time.div_euclid(BUCKET)).or_default().push(seen.id);
    }

    /// Forgets ids whose event time is more than `horizon` behind `stream_time` (microseconds),
    /// whole minutes at a time.
    pub fn evict(&mut self, stream_time: i64, horizon: i64) {
        let keep = oldest_kept(stream_time, horizon);
        while let Some(bucket) = self.buckets.first_entry() {
            let minute = *bucket.key();
            if minute >= keep {
                break;
            }
            for id in bucket.remove() {
                // An id that came again after it was forgotten lives on in a later bucket.
                if self.ids.get(&id).is_some_and(|(_, at)| at.div_euclid(BUCKET) == minute) {
                    self.ids.remove(&id);
                }
            }
        }
    }

    /// Number of ids remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{HOUR, MINUTE};
    use proptest::prelude::*;

    fn seen(id: u8, payload: u8, event_time: i64) -> Seen {
        Seen { id: [id; 16], payload: [payload; 16], event_time }
    }

    #[test]
    fn tells_new_duplicate_and_conflict_apart() {
        let mut dedup = Dedup::default();
        assert_eq!(dedup.check(&seen(1, 1, 0), 0, HOUR), Outcome::New);
        assert_eq!(dedup.check(&seen(1, 1, 0), 0, HOUR), Outcome::Duplicate);
        assert_eq!(dedup.check(&seen(1, 2, 0), 0, HOUR), Outcome::Conflict);
        assert_eq!(dedup.check(&seen(1, 1, 0), 0, HOUR), Outcome::Duplicate);
    }

    #[test]
    fn forgets_beyond_the_horizon_only() {
        let mut dedup = Dedup::default();
        dedup.check(&seen(1, 1, 0), 0, HOUR);
        dedup.check(&seen(2, 1, 10 * MINUTE), 10 * MINUTE, HOUR);
        dedup.evict(HOUR, HOUR);
        assert_eq!(dedup.len(), 2);
        dedup.evict(HOUR + MINUTE, HOUR);
        assert_eq!(dedup.len(), 1);
        assert_eq!(dedup.check(&seen(2, 1, 10 * MINUTE), HOUR + MINUTE, HOUR), Outcome::Duplicate);
        assert_eq!(dedup.check(&seen(1, 1, 0), HOUR + MINUTE, HOUR), Outcome::New);
    }

    proptest! {
        /// The answers are the same whether it evicts after every record or never.
        #[test]
        fn answers_do_not_depend_on_when_commits_fall(
            records in prop::collection::vec((0_u8..6, 0_u8..2, 0_i64..300), 1..60)
        ) {
            let (mut eager, mut lazy, mut now) = (Dedup::default(), Dedup::default(), i64::MIN);
            for (id, payload, minute) in records {
                let seen = seen(id, payload, minute * MINUTE);
                now = now.max(seen.event_time);
                prop_assert_eq!(eager.check(&seen, now, HOUR), lazy.check(&seen, now, HOUR));
                eager.evict(now, HOUR);
            }
            lazy.evict(now, HOUR);
            prop_assert_eq!(eager.len(), lazy.len());
        }
    }
}
