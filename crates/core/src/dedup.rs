//! Dedup by transaction_id for a stated horizon of event time.

mod minutes;

use crate::avro::{AvroError, Reader, Writer};
use crate::transaction::ValidTransaction;
use hashbrown::HashTable;
use minutes::{Kept, Minutes};
use sha2::{Digest, Sha256};

/// First half of the SHA-256 of a text: collisions cannot be made on purpose, and at 2³² ids an
/// accidental one has a chance below 2⁻⁶⁴.
pub type Hash16 = [u8; 16];

/// An id that was seen, with what it stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Hash of the transaction_id.
    pub id: Hash16,
    /// Hash of the business fields (not source_seq or arrival): the first eight bytes of a
    /// SHA-256. It is only ever compared with that of the same id, so an accidental match has a
    /// chance of 2⁻⁶⁴ per repeated id; and whoever searches for a match on purpose gains that a
    /// conflict of their own making is counted as a duplicate: it is left out either way.
    pub payload: [u8; 8],
    /// Event time in microseconds. Only its minute decides anything: read back, it is the
    /// minute's beginning.
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
            id: first(&Sha256::digest(t.transaction_id.as_bytes())),
            payload: first(&hash.finalize()),
            event_time: t.event_time,
        }
    }

    /// Writes it into a state block.
    pub fn write(&self, out: &mut Writer) {
        out.fixed16(&self.id);
        out.fixed8(self.payload);
        out.long(minute_of(self.event_time));
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not an id.
    pub fn read(input: &mut Reader<'_>) -> Result<Seen, AvroError> {
        let (id, payload) = (input.fixed16()?, input.fixed8()?);
        Ok(Seen { id, payload, event_time: input.long()?.saturating_mul(BUCKET) })
    }
}

fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&digest[..N]);
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

const BUCKET: i64 = crate::time::MINUTE;

fn minute_of(event_time: i64) -> i64 {
    event_time.div_euclid(BUCKET)
}

/// The first minute that is still remembered.
fn oldest_kept(stream_time: i64, horizon: i64) -> i64 {
    minute_of(stream_time.saturating_sub(horizon))
}

/// The index is split, so that growing never moves more than one part of it at once.
const SHARDS: usize = 256;
/// Stands for no position.
const NONE: u32 = u32::MAX;

/// The ids seen within the horizon, of one partition: about 35 bytes each.
///
/// A batch changes it in place; [`Dedup::rollback`] takes the batch back, [`Dedup::commit`] makes
/// it final and only then forgets.
#[derive(Debug, Clone)]
pub struct Dedup {
    minutes: Minutes,
    /// Positions by id.
    index: Vec<HashTable<u32>>,
    len: usize,
    /// Positions whose id lives on at a later one: it came again after it was forgotten.
    stale: usize,
    /// This batch's insertions: the position, and the one that the id had before.
    undo: Vec<(u32, u32)>,
}

/// Where a sweep over the ids has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    minute: i64,
    place: u32,
}

impl Default for Dedup {
    fn default() -> Self {
        Dedup {
            minutes: Minutes::default(),
            index: vec![HashTable::new(); SHARDS],
            len: 0,
            stale: 0,
            undo: Vec::new(),
        }
    }
}

/// The id is a SHA-256 already: its first bytes are the hash, another one is the shard.
fn hash_of(id: &Hash16) -> u64 {
    u64::from_le_bytes(first(id))
}

fn shard_of(id: &Hash16) -> usize {
    usize::from(id[8])
}

impl Dedup {
    /// Looks up, and remembers what is new and within the horizon (both times in microseconds).
    ///
    /// What lies beyond the horizon at `stream_time` counts as forgotten even if no commit has
    /// dropped it yet: the answer must not depend on when commits fall.
    pub fn check(&mut self, seen: &Seen, stream_time: i64, horizon: i64) -> Outcome {
        let keep = oldest_kept(stream_time, horizon);
        let found = self.find(&seen.id);
        if let Some(position) = found {
            let (minute, kept) = self.minutes.get(position);
            if minute >= keep {
                let same = kept.payload == seen.payload;
                return if same { Outcome::Duplicate } else { Outcome::Conflict };
            }
        }
        if minute_of(seen.event_time) >= keep {
            let position = self.insert(seen, found);
            self.undo.push((position, found.unwrap_or(NONE)));
        }
        Outcome::New
    }

    fn find(&self, id: &Hash16) -> Option<u32> {
        let is_same = |position: &u32| self.minutes.get(*position).1.id == *id;
        self.index[shard_of(id)].find(hash_of(id), is_same).copied()
    }

    fn insert(&mut self, seen: &Seen, before: Option<u32>) -> u32 {
        let kept = Kept { id: seen.id, payload: seen.payload };
        let position = self.minutes.push(minute_of(seen.event_time), kept);
        match before {
            Some(before) => {
                self.point(&seen.id, before, position);
                self.stale += 1;
            }
            None => {
                let minutes = &self.minutes;
                let hash = |position: &u32| hash_of(&minutes.get(*position).1.id);
                self.index[shard_of(&seen.id)].insert_unique(hash_of(&seen.id), position, hash);
                self.len += 1;
            }
        }
        position
    }

    /// Moves the index from one position of an id to another.
    fn point(&mut self, id: &Hash16, from: u32, to: u32) {
        let shard = &mut self.index[shard_of(id)];
        if let Some(position) = shard.find_mut(hash_of(id), |position| *position == from) {
            *position = to;
        }
    }

    /// Puts an id back (when a state block is read); the last one of an id counts.
    pub fn restore(&mut self, seen: &Seen) {
        let before = self.find(&seen.id);
        match before {
            Some(at) if self.minutes.get(at).0 == minute_of(seen.event_time) => {
                self.minutes.get_mut(at).payload = seen.payload;
            }
            _ => {
                self.insert(seen, before);
            }
        }
    }

    /// The ids remembered in this batch, in the order of their arrival.
    pub fn changed(&self) -> impl Iterator<Item = Seen> {
        self.undo.iter().map(|(position, _)| self.seen(*position))
    }

    fn seen(&self, position: u32) -> Seen {
        let (minute, kept) = self.minutes.get(position);
        let event_time = minute.saturating_mul(BUCKET);
        Seen { id: kept.id, payload: kept.payload, event_time }
    }

    /// Makes the batch final, then forgets ids whose event time is more than `horizon` behind
    /// `stream_time` (microseconds), whole minutes at a time.
    pub fn commit(&mut self, stream_time: i64, horizon: i64) {
        self.undo.clear();
        let Dedup { minutes, index, len, stale, .. } = self;
        minutes.drop_before(oldest_kept(stream_time, horizon), |minutes, position| {
            let id = minutes.get(position).1.id;
            let shard = &mut index[shard_of(&id)];
            match shard.find_entry(hash_of(&id), |found| *found == position) {
                Ok(entry) => {
                    entry.remove();
                    *len -= 1;
                }
                Err(_) => *stale -= 1,
            }
        });
    }

    /// Takes this batch's insertions back: the ids are as they were before it.
    pub fn rollback(&mut self) {
        while let Some((position, before)) = self.undo.pop() {
            let id = self.minutes.get(position).1.id;
            if before != NONE {
                self.point(&id, position, before);
                self.stale -= 1;
            } else if let Ok(entry) =
                self.index[shard_of(&id)].find_entry(hash_of(&id), |found| *found == position)
            {
                entry.remove();
                self.len -= 1;
            }
            self.minutes.take_back(position);
        }
    }

    /// The entry after `cursor`, or the first one: by minute, then in the order of insertion.
    /// A sweep meets every id that is there, in the same minute, from its beginning to its end.
    #[must_use]
    pub fn next_after(&self, cursor: Option<Cursor>) -> Option<(Cursor, Seen)> {
        let mut from = cursor.map(|cursor| (cursor.minute, cursor.place));
        loop {
            let ((minute, place), position) = self.minutes.after(from)?;
            let is_stale = || self.find(&self.minutes.get(position).1.id) != Some(position);
            if self.stale == 0 || !is_stale() {
                return Some((Cursor { minute, place }, self.seen(position)));
            }
            from = Some((minute, place));
        }
    }

    /// Number of ids remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap, without what the allocator adds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let index: usize = self.index.iter().map(HashTable::allocation_size).sum();
        let shards = self.index.capacity() * size_of::<HashTable<u32>>();
        self.minutes.bytes() + index + shards + self.undo.capacity() * size_of::<(u32, u32)>()
    }
}

#[cfg(test)]
mod tests;
