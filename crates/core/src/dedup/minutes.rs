//! Where dedup keeps its ids: 24 bytes each, in chunks of one event-time minute.
//!
//! Nothing large is ever copied to grow, and a minute is dropped by handing its chunks back.

use super::Hash16;
use std::collections::BTreeMap;

/// Ids in a chunk: 6 KiB.
const CHUNK: usize = 256;

/// An id with the hash of what it stood for; its minute is that of its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub id: Hash16,
    pub payload: [u8; 8],
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    minute: i64,
    kept: Vec<Kept>,
}

/// The chunks by minute. A position (chunk number and place in the chunk) is good until its
/// minute is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Minutes {
    chunks: Vec<Chunk>,
    /// Numbers of chunks that are not in use. Last freed, first used, so that taking back an
    /// insertion restores the order in which numbers will be given.
    free: Vec<u32>,
    /// Whole buffers for the next chunks.
    spare: Vec<Vec<Kept>>,
    /// Chunk numbers of each minute in the order of insertion; all but the last are full.
    minutes: BTreeMap<i64, Vec<u32>>,
    /// Room for ids in all buffers.
    room: usize,
}

fn position_of(chunk: u32, place: usize) -> u32 {
    chunk * CHUNK as u32 + place as u32
}

impl Minutes {
    /// Appends to a minute and gives the position.
    pub fn push(&mut self, minute: i64, kept: Kept) -> u32 {
        let in_use = self.minutes.get(&minute).and_then(|chunks| chunks.last()).copied();
        let number = in_use
            .filter(|number| self.chunks[*number as usize].kept.len() < CHUNK)
            .unwrap_or_else(|| self.add_chunk(minute, in_use.is_none()));
        let chunk = &mut self.chunks[number as usize].kept;
        let room = chunk.capacity();
        chunk.push(kept);
        self.room += chunk.capacity() - room;
        position_of(number, chunk.len() - 1)
    }

    /// The first chunk of a minute starts small: a replayed year has many minutes with few ids.
    fn add_chunk(&mut self, minute: i64, is_first: bool) -> u32 {
        let kept = if is_first { Vec::new() } else { self.whole_buffer() };
        let chunk = Chunk { minute, kept };
        let number = match self.free.pop() {
            Some(number) => {
                self.chunks[number as usize] = chunk;
                number
            }
            None => {
                self.chunks.push(chunk);
                self.chunks.len() as u32 - 1
            }
        };
        self.minutes.entry(minute).or_default().push(number);
        number
    }

    fn whole_buffer(&mut self) -> Vec<Kept> {
        self.spare.pop().unwrap_or_else(|| {
            self.room += CHUNK;
            Vec::with_capacity(CHUNK)
        })
    }

    fn free_chunk(&mut self, number: u32) {
        let mut kept = std::mem::take(&mut self.chunks[number as usize].kept);
        self.free.push(number);
        if kept.capacity() == CHUNK {
            kept.clear();
            self.spare.push(kept);
        } else {
            self.room -= kept.capacity();
        }
    }

    /// What is at a position, and its minute.
    pub fn get(&self, position: u32) -> (i64, &Kept) {
        let chunk = &self.chunks[position as usize / CHUNK];
        (chunk.minute, &chunk.kept[position as usize % CHUNK])
    }

    /// What is at a position, to be changed.
    pub fn get_mut(&mut self, position: u32) -> &mut Kept {
        &mut self.chunks[position as usize / CHUNK].kept[position as usize % CHUNK]
    }

    /// Takes the last insertion back. Only ever called for insertions in reverse order.
    pub fn take_back(&mut self, position: u32) {
        let number = position / CHUNK as u32;
        let chunk = &mut self.chunks[number as usize];
        chunk.kept.pop();
        if !chunk.kept.is_empty() {
            return;
        }
        let minute = chunk.minute;
        self.free_chunk(number);
        if let Some(chunks) = self.minutes.get_mut(&minute) {
            chunks.pop();
            if chunks.is_empty() {
                self.minutes.remove(&minute);
            }
        }
    }

    /// Drops the minutes before `keep`, telling `dropped` each position and what was there.
    pub fn drop_before(&mut self, keep: i64, mut dropped: impl FnMut(&Minutes, u32)) {
        while let Some(bucket) = self.minutes.first_entry().filter(|b| *b.key() < keep) {
            for number in bucket.remove() {
                for place in 0..self.chunks[number as usize].kept.len() {
                    dropped(self, position_of(number, place));
                }
                self.free_chunk(number);
            }
        }
        // A burst's memory goes back; what a steady stream needs next is at hand.
        let in_use = self.chunks.len() - self.free.len();
        while self.spare.len() > in_use / 4 + 8 {
            self.spare.pop();
            self.room -= CHUNK;
        }
    }

    /// The position after `place` in the order (minute, insertion), with its own place.
    pub fn after(&self, place: Option<(i64, u32)>) -> Option<((i64, u32), u32)> {
        let (minute, next) = place.map_or((i64::MIN, 0), |(minute, place)| (minute, place + 1));
        for (found, chunks) in self.minutes.range(minute..) {
            let next = if *found == minute { next } else { 0 };
            let Some(number) = chunks.get(next as usize / CHUNK) else { continue };
            let within = next as usize % CHUNK;
            if within < self.chunks[*number as usize].kept.len() {
                return Some(((*found, next), position_of(*number, within)));
            }
        }
        None
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.room * size_of::<Kept>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.len() * 2 * size_of::<u32>()
            + self.minutes.len() * 64
    }
}
