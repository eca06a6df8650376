//! Where transactions come from: files and standard input, the generator, or a source of your own.

pub mod envelope;
pub mod generated;
pub mod inputs;
pub mod lines;
pub mod own;
pub mod records;

use crate::progress::Progress;
use anyhow::Result;
use caudal_core::outbox::OutRecord;
use inputs::Meter;

/// Records in a fixed order, to be read from any committed position on.
pub trait Source {
    /// Passes over what an earlier run has committed, and proves by its hash that it is the same.
    ///
    /// # Errors
    /// [`caudal_service::exit::Halt`] when it is not.
    fn skip_to(&mut self, committed: &Progress) -> Result<()>;

    /// The next record, `None` at the end. May wait for input.
    ///
    /// # Errors
    /// When the input cannot be read on, or a sum overflows.
    fn next_record(&mut self) -> Result<Option<OutRecord>>;

    /// The position after the last record, with everything before it.
    fn progress(&self) -> Progress;

    /// How much of it was read.
    fn meter(&self) -> &Meter;
}
