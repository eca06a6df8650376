//! One bound for the memory of all requests together.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in such steps.
const STEP: usize = 1024;

/// So many bytes for all requests that are read or wait for their commit.
#[derive(Debug, Clone)]
pub struct Budget {
    steps: Arc<Semaphore>,
    size: usize,
}

impl Budget {
    /// A budget of that many bytes.
    #[must_use]
    pub fn of(bytes: usize) -> Budget {
        let size = bytes / STEP;
        Budget { steps: Arc::new(Semaphore::new(size)), size }
    }

    /// A part of it, of no bytes yet.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease { budget: self.clone(), held: None }
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        (self.size - self.steps.available_permits()) * STEP
    }
}

/// One request's part of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Makes it at least `bytes` large. False when the budget has not that much left.
    pub fn cover(&mut self, bytes: usize) -> bool {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(STEP).saturating_sub(held);
        let Ok(missing) = u32::try_from(missing) else { return false };
        if missing == 0 {
            return true;
        }
        let Ok(more) = Arc::clone(&self.budget.steps).try_acquire_many_owned(missing) else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back() {
        let budget = Budget::of(10 * STEP);
        let (mut first, mut second) = (budget.lease(), budget.lease());
        assert!(first.cover(STEP) && first.cover(6 * STEP) && first.cover(3));
        assert_eq!(budget.taken(), 6 * STEP);
        assert!(second.cover(4 * STEP) && !second.cover(5 * STEP));
        assert_eq!(budget.taken(), 10 * STEP);
        drop(first);
        assert!(second.cover(10 * STEP) && !second.cover(usize::MAX));
        drop(second);
        assert_eq!(budget.taken(), 0);
    }
}
