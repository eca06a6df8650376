//! Deliberate faults of the engine, for the tests of its tests.
//!
//! A simulation that finds nothing proves nothing unless it finds what is known to be wrong.
//! Each mutant breaks one rule of the engine; the simulation has to notice within a stated number
//! of schedules. Outside tests `is` is a constant and the branches behind it vanish.

/// One deliberate fault. Some are made by the simulation's broker, the others by the engine.
#[cfg_attr(not(test), allow(dead_code, reason = "the broker's are constructed in tests only"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// After an aborted transaction the input is not read again from the committed offset.
    NoRewindAfterAbort,
    /// After an aborted transaction the changes of the tasks stay.
    OverlayKeptAcrossAbort,
    /// The blocks of the state log are written by a transaction of their own.
    BlockLeftOutOfTxn,
    /// A restore takes the last stable offset for the end of the state log.
    TargetFromLastStableOffset,
    /// One task's input offset is left out of the transaction.
    OffsetsOfOneTaskLeftOut,
    /// The watermark is the least over the sources that have reported, not over all of them.
    WatermarkIgnoresAbsentPartition,
    /// A source counts as idle once time has passed, whether or not its partition is at its end.
    IdleByClock,
    /// A sweep counts as closed one block before it is.
    SweepOneBlockShort,
    /// A task without input never sweeps, however much its peer writes.
    QuietTaskHoldsTheCut,
    /// A task of another stream begins to number its outputs anew after a restart.
    SourceNumbersForgotten,
    /// Records of another stream are never late.
    OthersAreNeverLate,
    /// Windows over another stream close by the stream time of `transacciones`.
    OthersCloseByTheInput,
}

/// Is the engine broken in this way? Never outside tests.
#[cfg(not(test))]
#[allow(dead_code, reason = "the first hook comes with the engine")]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(test)]
pub(crate) use switched::{is, with};

#[cfg(test)]
mod switched {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Is the engine broken in this way on this thread?
    pub(crate) fn is(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Runs `body` with the engine broken in this way on this thread.
    pub(crate) fn with<T>(mutant: Option<Mutant>, body: impl FnOnce() -> T) -> T {
        let before = ACTIVE.replace(mutant);
        let result = body();
        ACTIVE.set(before);
        result
    }
}
