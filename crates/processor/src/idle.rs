//! When a silent source partition may be called idle.
//!
//! Windows of stage 2 close by the lowest stream time of all source partitions. One that is silent
//! holds them open, which is right as long as it may still bring old records, and is a leak when
//! it never will. So a query may say after how long a silent partition no longer counts
//! (`IDLE_TIMEOUT`). Time alone does not decide: a partition may be silent because we are slow. Stage
//! 1 asks the broker first: nothing is left to read, no transaction is open. Only then does it
//! declare, in a record of `caudal_parciales` like any other, so that stage 2 sees no clock and a
//! replay takes the same decision.

use crate::shared::TaskId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often the broker is asked about one partition at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Silence of this engine's source partitions.
#[derive(Debug)]
pub struct Idleness {
    /// Ascending, in microseconds.
    timeouts: Vec<i64>,
    partitions: BTreeMap<TaskId, Silence>,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Instant,
    looked: Option<Instant>,
    declared: i64,
}

impl Idleness {
    /// With the idle time-outs of the queries, ascending, in microseconds.
    #[must_use]
    pub fn new(timeouts: Vec<i64>) -> Idleness {
        Idleness { timeouts, partitions: BTreeMap::new() }
    }

    /// The partition has brought a record, or has just been taken over.
    pub fn active(&mut self, id: TaskId, now: Instant) {
        self.partitions.insert(id, Silence { since: now, looked: None, declared: 0 });
    }

    /// Forgets a partition.
    pub fn remove(&mut self, id: TaskId) {
        self.partitions.remove(&id);
    }

    /// The partitions that have been silent for longer than a time-out that was not declared yet,
    /// with the longest such time-out. Each is given at most once a second: the caller asks the
    /// broker whether it is true.
    pub fn due(&mut self, now: Instant) -> Vec<(TaskId, i64)> {
        let mut due = Vec::new();
        for (id, silence) in &mut self.partitions {
            let silent = now.saturating_duration_since(silence.since);
            let silent = i64::try_from(silent.as_micros()).unwrap_or(i64::MAX);
            let passed = self.timeouts.iter().rev().find(|timeout| **timeout <= silent);
            let Some(timeout) = passed.filter(|timeout| **timeout > silence.declared) else {
                continue;
            };
            let rested =
                silence.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AGAIN);
            if rested {
                silence.looked = Some(now);
                due.push((*id, *timeout));
            }
        }
        due
    }

    /// A declaration was committed.
    pub fn declared(&mut self, id: TaskId, timeout: i64) {
        if let Some(silence) = self.partitions.get_mut(&id) {
            silence.declared = timeout;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Stage;

    #[test]
    fn each_timeout_is_due_once_it_has_passed() {
        let id = TaskId { stage: Stage::Account, partition: 0 };
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut idle = Idleness::new(vec![10_000_000, 60_000_000]);
        idle.active(id, begun);
        assert!(idle.due(at(9)).is_empty());
        assert_eq!(idle.due(at(10)), [(id, 10_000_000)]);
        assert!(idle.due(at(10)).is_empty(), "asked a moment ago");
        assert_eq!(idle.due(at(11)), [(id, 10_000_000)], "it was not at its end; asked again");
        idle.declared(id, 10_000_000);
        assert!(idle.due(at(59)).is_empty());
        assert_eq!(idle.due(at(60)), [(id, 60_000_000)]);
        idle.active(id, at(61));
        assert!(idle.due(at(70)).is_empty());
    }
}
