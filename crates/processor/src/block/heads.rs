//! Where every task stands, without its state.

use super::{Assembler, BlockError, Head, task_of};
use crate::shared::TaskId;
use std::collections::BTreeMap;

/// Reads the state log for the head of the last whole block of each task.
#[derive(Debug, Default)]
pub struct Heads {
    assemblers: BTreeMap<TaskId, Assembler>,
    last: BTreeMap<TaskId, Head>,
}

impl Heads {
    /// Takes the next record of its partition.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn observe(&mut self, part: &[u8]) -> Result<(), BlockError> {
        let id = task_of(part)?;
        if let Some(block) = self.assemblers.entry(id).or_default().add(part)? {
            self.last.insert(id, block.head);
        }
        Ok(())
    }

    /// The heads found.
    #[must_use]
    pub fn last(&self) -> &BTreeMap<TaskId, Head> {
        &self.last
    }
}
