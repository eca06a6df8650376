//! Group keys of one container: each is stored once and referred to by its number.

use crate::group::GroupKey;
use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use std::hash::BuildHasher;

#[derive(Debug, Clone, Default)]
struct Name {
    text: GroupKey,
    /// Numbers of the group's cells, ordered by pane and first window.
    cells: Vec<u32>,
}

/// The keys. One is freed when its group has no cell left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    index: HashTable<u32>,
    all: Vec<Name>,
    /// Last freed, first used: taking back an insertion restores the order of numbers to come.
    free: Vec<u32>,
    text_bytes: usize,
}

fn hash(text: &str) -> u64 {
    FxBuildHasher.hash_one(text)
}

impl Names {
    /// The number of a key, given to it now if it has none. Allocates only then.
    pub fn intern(&mut self, text: &str) -> u32 {
        let Names { index, all, .. } = self;
        let hash_of_text = hash(text);
        if let Some(number) = index.find(hash_of_text, |n| &*all[*n as usize].text == text) {
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            all.push(Name::default());
            all.len() as u32 - 1
        });
        all[number as usize].text = text.into();
        self.text_bytes += text.len();
        index.insert_unique(hash_of_text, number, |n| hash(&all[*n as usize].text));
        number
    }

    /// Frees a key whose cells are gone.
    pub fn release(&mut self, number: u32) {
        let name = std::mem::take(&mut self.all[number as usize]);
        if let Ok(entry) = self.index.find_entry(hash(&name.text), |n| *n == number) {
            entry.remove();
        }
        self.text_bytes -= name.text.len();
        self.free.push(number);
    }

    /// The numbers of the keys that have cells.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.all).filter(|(_, name)| !name.cells.is_empty()).map(|(number, _)| number)
    }

    /// A key.
    pub fn text(&self, number: u32) -> &GroupKey {
        &self.all[number as usize].text
    }

    /// The cells of a group.
    pub fn cells(&self, number: u32) -> &[u32] {
        &self.all[number as usize].cells
    }

    /// The cells of a group, to be changed.
    pub fn cells_mut(&mut self, number: u32) -> &mut Vec<u32> {
        &mut self.all[number as usize].cells
    }

    /// Forgets all, and keeps the room.
    pub fn clear(&mut self) {
        self.index.clear();
        self.all.clear();
        self.free.clear();
        self.text_bytes = 0;
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Bytes on the heap, at about 16 for a counted text's header and for a short list's block.
    pub fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<Name>()
            + self.index.allocation_size()
            + self.text_bytes
            + self.len() * 32
    }
}
