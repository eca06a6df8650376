use super::*;
use crate::time::{HOUR, MINUTE};
use proptest::prelude::*;

fn seen(id: u8, payload: u8, event_time: i64) -> Seen {
    Seen { id: [id; 16], payload: [payload; 8], event_time }
}

#[test]
fn tells_new_duplicate_and_conflict_apart() {
    let mut dedup = Dedup::default();
    assert_eq!(dedup.check(&seen(1, 1, 0), 0, HOUR), Outcome::New);
    assert_eq!(dedup.check(&seen(1, 1, 0), 0, HOUR), Outcome::Duplicate);
    assert_eq!(dedup.check(&seen(1, 2, 0), 0, HOUR), Outcome::Conflict);
    assert_eq!(dedup.check(&seen(1, 1, 0), 0, HOUR), Outcome::Duplicate);
}

#[test]
fn forgets_beyond_the_horizon_only() {
    let mut dedup = Dedup::default();
    dedup.check(&seen(1, 1, 0), 0, HOUR);
    dedup.check(&seen(2, 1, 10 * MINUTE), 10 * MINUTE, HOUR);
    dedup.commit(HOUR, HOUR);
    assert_eq!(dedup.len(), 2);
    dedup.commit(HOUR + MINUTE, HOUR);
    assert_eq!(dedup.len(), 1);
    assert_eq!(dedup.check(&seen(2, 1, 10 * MINUTE), HOUR + MINUTE, HOUR), Outcome::Duplicate);
    assert_eq!(dedup.check(&seen(1, 1, 0), HOUR + MINUTE, HOUR), Outcome::New);
}

proptest! {
    /// The answers are the same whether it commits after every record or never.
    #[test]
    fn answers_do_not_depend_on_when_commits_fall(
        records in prop::collection::vec((0_u8..6, 0_u8..2, 0_i64..300), 1..60)
    ) {
        let (mut eager, mut lazy, mut now) = (Dedup::default(), Dedup::default(), i64::MIN);
        for (id, payload, minute) in records {
            let seen = seen(id, payload, minute * MINUTE);
            now = now.max(seen.event_time);
            prop_assert_eq!(eager.check(&seen, now, HOUR), lazy.check(&seen, now, HOUR));
            eager.commit(now, HOUR);
        }
        lazy.commit(now, HOUR);
        prop_assert_eq!(eager.len(), lazy.len());
    }
}

/// Records of one batch (id, payload, minutes behind the front), how far the front moves before
/// it, and whether it commits.
type Batch = (Vec<(u8, u8, i64)>, i64, bool);

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let records = prop::collection::vec((0_u8..40, 0_u8..2, 0_i64..90), 0..30);
    prop::collection::vec((records, 0_i64..40, any::<bool>()), 1..20)
}

/// Applies a batch around minute `front`, the stream time being `now`; gives the answers and the
/// stream time after it.
fn apply(dedup: &mut Dedup, batch: &Batch, front: i64, mut now: i64) -> (Vec<Outcome>, i64) {
    let answers = batch.0.iter().map(|(id, payload, behind)| {
        let seen = seen(*id, *payload, (front + 40 - behind) * MINUTE + i64::from(*id));
        now = now.max(seen.event_time);
        dedup.check(&seen, now, HOUR)
    });
    (answers.collect(), now)
}

fn listed(dedup: &Dedup) -> Vec<Seen> {
    let mut cursor = None;
    let next = || {
        let (next, seen) = dedup.next_after(cursor)?;
        cursor = Some(next);
        Some(seen)
    };
    std::iter::from_fn(next).collect()
}

proptest! {
    /// After a rollback everything, the order of the sweep included, is as if the batch had never
    /// been: compared with one that never saw it, there and in all that follows.
    #[test]
    fn a_batch_that_rolls_back_leaves_nothing(batches in batches()) {
        let (mut tried, mut plain) = (Dedup::default(), Dedup::default());
        let (mut front, mut now) = (0, i64::MIN);
        for batch in &batches {
            front += batch.1;
            let (answers, then) = apply(&mut tried, batch, front, now);
            if batch.2 {
                prop_assert_eq!(answers, apply(&mut plain, batch, front, now).0);
                prop_assert!(tried.changed().eq(plain.changed()));
                now = then;
                tried.commit(now, HOUR);
                plain.commit(now, HOUR);
            } else {
                tried.rollback();
            }
            prop_assert_eq!(tried.changed().count(), 0);
            prop_assert_eq!(listed(&tried), listed(&plain));
            prop_assert_eq!((tried.len(), tried.stale), (plain.len(), plain.stale));
            prop_assert_eq!(listed(&tried).len(), tried.len());
        }
    }

    /// A sweep of a few ids a batch meets every id that stays from its beginning to its end. What
    /// it meets in a batch that rolls back does not count.
    #[test]
    fn a_sweep_misses_nothing_that_stays(batches in batches(), before in 0_usize..10, step in 1_usize..12) {
        let (mut dedup, mut front, mut now) = (Dedup::default(), 0, i64::MIN);
        let (mut due, mut met, mut cursor, mut is_done) = (Vec::new(), Vec::new(), None, false);
        for (i, batch) in batches.iter().cycle().take(80).enumerate() {
            if i == before {
                due = listed(&dedup);
            }
            front += batch.1;
            let (_, then) = apply(&mut dedup, batch, front, now);
            let begin = (cursor, met.len());
            for _ in 0..if i < before { 0 } else { step } {
                let Some((next, seen)) = dedup.next_after(cursor) else {
                    is_done = batch.2;
                    break;
                };
                prop_assert_eq!(dedup.find(&seen.id).map(|at| dedup.seen(at)), Some(seen));
                cursor = Some(next);
                met.push(seen);
            }
            if batch.2 {
                now = then;
                dedup.commit(now, HOUR);
            } else {
                dedup.rollback();
                cursor = begin.0;
                met.truncate(begin.1);
            }
            if is_done {
                break;
            }
        }
        let lives = |seen: &&Seen| dedup.find(&seen.id).is_some_and(|at| dedup.seen(at) == **seen);
        for seen in due.iter().filter(lives).filter(|_| is_done) {
            prop_assert!(met.contains(seen), "{seen:?}");
        }
    }

    /// What was written, with sweeps of the unchanged in between, reads back to the same ids, and
    /// they give the same answers.
    #[test]
    fn what_is_read_back_decides_the_same(batches in batches(), step in 0_usize..12) {
        let (mut dedup, mut restored) = (Dedup::default(), Dedup::default());
        let (mut front, mut cursor, mut log) = (0, None, Writer::new());
        let (last, first) = batches.split_last().expect("one at least");
        let mut now = i64::MIN;
        for batch in first {
            front += batch.1;
            (_, now) = apply(&mut dedup, batch, front, now);
            dedup.changed().for_each(|seen| seen.write(&mut log));
            for _ in 0..step {
                let next = dedup.next_after(cursor);
                cursor = next.map(|(cursor, _)| cursor);
                next.iter().for_each(|(_, seen)| seen.write(&mut log));
            }
            dedup.commit(now, HOUR);
        }
        let log = log.into_bytes();
        let mut input = Reader::new(&log);
        while !input.is_at_end() {
            restored.restore(&Seen::read(&mut input).expect("written"));
        }
        restored.commit(now, HOUR);
        let sorted = |dedup: &Dedup| {
            let mut all = listed(dedup);
            all.sort_by_key(|seen| seen.id);
            all
        };
        prop_assert_eq!(sorted(&restored), sorted(&dedup));
        front += last.1;
        prop_assert_eq!(apply(&mut restored, last, front, now), apply(&mut dedup, last, front, now));
    }
}

#[test]
fn a_minute_of_many_chunks_goes_and_comes_back() {
    let id = |i: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&i.to_be_bytes());
        id[8..12].copy_from_slice(&i.to_le_bytes());
        id
    };
    let of = |i: u32, minute: i64| Seen { id: id(i), payload: [0; 8], event_time: minute * MINUTE };
    let mut dedup = Dedup::default();
    for round in 0..3 {
        let minute = 100 * round;
        for i in 0..5_000 {
            assert_eq!(dedup.check(&of(i, minute), minute * MINUTE, HOUR), Outcome::New);
        }
        if round == 1 {
            dedup.rollback();
            assert_eq!(listed(&dedup).len(), 5_000);
            continue;
        }
        dedup.commit(minute * MINUTE, HOUR);
        assert!(listed(&dedup).into_iter().eq((0..5_000).map(|i| of(i, minute))));
    }
    let full = dedup.bytes();
    dedup.commit(1_000 * MINUTE, HOUR);
    assert!(dedup.is_empty());
    assert!(dedup.bytes() < full * 2 / 3, "{} of {full} bytes kept", dedup.bytes());
}
