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
