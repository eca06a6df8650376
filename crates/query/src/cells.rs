//! Storage of aggregates: cells in chunks that never move, numbered, the free ones used again.

use crate::values::Values;

/// Cells in a chunk: 24 KiB.
const CHUNK: usize = 256;
/// Stands for no cell and no group.
pub(crate) const NONE: u32 = u32::MAX;

/// What one group's records of one pane add up to.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub values: Values,
    /// Start of the pane.
    pub pane: i64,
    /// Start of the earliest window that these records are in.
    pub from: i64,
    /// Number of the group; [`NONE`] when the cell is free.
    pub group: u32,
    /// Next cell of the pane, or next free one.
    pub next: u32,
    /// Whether this batch has changed it.
    pub touched: bool,
}

/// The cells. A number is good until its cell is removed, so that going through them by number
/// meets every cell that stays.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    chunks: Vec<Vec<Cell>>,
    /// Last freed, first used: taking back an insertion restores the order of numbers to come.
    free: u32,
    len: usize,
}

impl Default for Cells {
    fn default() -> Self {
        Cells { chunks: Vec::new(), free: NONE, len: 0 }
    }
}

impl Cells {
    pub fn get(&self, number: u32) -> &Cell {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    pub fn get_mut(&mut self, number: u32) -> &mut Cell {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    pub fn insert(&mut self, cell: Cell) -> u32 {
        self.len += 1;
        if self.free != NONE {
            let number = self.free;
            let slot = self.get_mut(number);
            let next_free = slot.next;
            *slot = cell;
            self.free = next_free;
            return number;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.last_mut() else { return NONE };
        chunk.push(cell);
        (before + chunk.len() - 1) as u32
    }

    pub fn remove(&mut self, number: u32) {
        let next = std::mem::replace(&mut self.free, number);
        let cell = self.get_mut(number);
        (cell.group, cell.next) = (NONE, next);
        self.len -= 1;
    }

    /// The first cell in use after a number, or of all.
    pub fn after(&self, number: Option<u32>) -> Option<u32> {
        let first = number.map_or(0, |number| number as usize + 1);
        let mut within = first % CHUNK;
        for (at, chunk) in self.chunks.iter().enumerate().skip(first / CHUNK) {
            let rest = chunk.get(within..).unwrap_or_default();
            if let Some(found) = rest.iter().position(|cell| cell.group != NONE) {
                return Some((at * CHUNK + within + found) as u32);
            }
            within = 0;
        }
        None
    }

    /// Forgets all, and gives the memory back but for one chunk.
    pub fn clear(&mut self) {
        self.chunks.truncate(1);
        self.chunks.iter_mut().for_each(Vec::clear);
        (self.free, self.len) = (NONE, 0);
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Cell>()
            + self.chunks.capacity() * size_of::<Vec<Cell>>()
    }
}
