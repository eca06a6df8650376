//! Stops the sink when too much becomes a dead letter: then it is not the records that are wrong, but
//! a schema, a table or a constraint, and a day would be buried.

use crate::batch::dead_letter_of;
use crate::ledger::Fate;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What is looked at.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer records than these within the window say nothing.
const LEAST: u64 = 100;

/// Counts the records of the last minute, and those of them that are dead letters of the sink's own.
#[derive(Debug)]
pub struct Breaker {
    share: f64,
    /// When, records, dead.
    stored: VecDeque<(Instant, u64, u64)>,
}

impl Breaker {
    /// Lets at most that share be dead, 0 to 1; 1 stops nothing.
    #[must_use]
    pub fn new(share: f64) -> Breaker {
        Breaker { share, stored: VecDeque::new() }
    }

    /// Why a batch of these fates must not be stored, if so: asked before COMMIT, so that what trips
    /// it is not buried either.
    #[must_use]
    pub fn objects(&mut self, now: Instant, fates: &[Fate]) -> Option<String> {
        while self.stored.front().is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW) {
            self.stored.pop_front();
        }
        let reasons = fates.iter().filter_map(dead_letter_of).map(|(reason, _)| reason);
        let mut by_reason: BTreeMap<&str, u64> = BTreeMap::new();
        reasons.for_each(|reason| *by_reason.entry(reason.as_str()).or_default() += 1);
        let sum = |of: fn(&(Instant, u64, u64)) -> u64| self.stored.iter().map(of).sum::<u64>();
        let records = sum(|(_, records, _)| *records) + fates.len() as u64;
        let now_dead: u64 = by_reason.values().sum();
        let dead = sum(|(.., dead)| *dead) + now_dead;
        #[expect(clippy::cast_precision_loss, reason = "far below 2⁵³")]
        let is_over = dead as f64 > self.share * records as f64;
        if now_dead == 0 || records < LEAST || !is_over {
            return None;
        }
        let most = by_reason.into_iter().max_by_key(|(_, count)| *count);
        let most = most.map_or("", |(reason, _)| reason);
        Some(format!(
            "{dead} of the last minute's {records} records would be dead letters, more than \
             errors.max.share = {} lets pass (now most of them `{most}`); nothing of this batch is \
             stored. `caudal dlq list` and `show` tell what is wrong; mend that, or let more pass",
            self.share
        ))
    }

    /// A batch was stored.
    pub fn stored(&mut self, now: Instant, fates: &[Fate]) {
        let dead = fates.iter().filter_map(dead_letter_of).count();
        self.stored.push_back((now, fates.len() as u64, dead as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::reject::Reason;

    fn fates(rows: usize, dead: usize) -> Vec<Fate> {
        let mut all = vec![Fate::Row; rows];
        all.resize(rows + dead, Fate::Dead(Reason::Schema, String::new()));
        all
    }

    #[test]
    fn more_than_the_share_of_a_minute_is_too_much() {
        let (mut breaker, start) = (Breaker::new(0.5), Instant::now());
        assert!(breaker.objects(start, &fates(0, 99)).is_none(), "too few to say");
        assert!(breaker.objects(start, &fates(50, 50)).is_none());
        let why = breaker.objects(start, &fates(49, 51)).unwrap();
        assert!(why.contains("51 of the last minute's 100") && why.contains("`schema`"), "{why}");
        breaker.stored(start, &fates(1_000, 0));
        assert!(breaker.objects(start, &fates(0, 1_000)).is_none());
        let later = start + Duration::from_secs(61);
        assert!(breaker.objects(later, &fates(0, 1_000)).is_some());
        assert!(Breaker::new(1.0).objects(start, &fates(0, 1_000)).is_none());
    }

    #[test]
    fn a_batch_without_dead_letters_always_passes() {
        let (mut breaker, now) = (Breaker::new(0.0), Instant::now());
        breaker.stored(now, &fates(0, 500));
        assert!(breaker.objects(now, &fates(1, 0)).is_none());
    }
}
