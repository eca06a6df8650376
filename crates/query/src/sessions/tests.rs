use super::*;
use crate::sample::{one, ventas_gold};
use crate::window::Window;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GAP: i64 = 10;

fn plan() -> Plan {
    let mut plan = ventas_gold();
    plan.window = Window::session(GAP, 5);
    plan
}

fn at(time: i64) -> Session {
    Session { start: time, end: time, values: one(1) }
}

/// By definition: the records in order, a new session wherever more than a gap lies between two.
fn naive(records: &[(u8, i64)]) -> BTreeMap<(String, i64), (i64, i64)> {
    let mut times: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
    records.iter().for_each(|(group, time)| times.entry(*group).or_default().push(*time));
    let mut sessions = BTreeMap::new();
    for (group, mut times) in times {
        times.sort_unstable();
        let mut begun = times[0];
        let mut last = times[0];
        for time in times {
            if time - last > GAP {
                begun = time;
            }
            last = time;
            let session = sessions.entry((group.to_string(), begun)).or_insert((0, 0));
            *session = (time, session.1 + 1);
        }
    }
    sessions
}

fn records() -> impl Strategy<Value = Vec<(u8, i64)>> {
    prop::collection::vec((0_u8..3, 0_i64..300), 1..80)
}

type Rows = BTreeMap<(String, i64), (i64, i64)>;

fn put(rows: &mut Rows, changes: Vec<Change>) {
    for change in changes {
        let key = (change.key().0.to_string(), change.key().1);
        match change {
            Change::Row(row) => {
                rows.insert(key, (row.end, row.values.count()));
            }
            Change::Gone(..) => {
                assert!(rows.remove(&key).is_some(), "nothing to take back at {key:?}");
            }
        }
    }
}

proptest! {
    /// Whatever the order, the size of the batches, what stage 1 joins beforehand, retries and
    /// restores: the rows are the sessions of the definition.
    #[test]
    fn sessions_are_what_their_definition_says(
        records in records(), every in 1_usize..20, joins in any::<bool>(), restores in any::<bool>()
    ) {
        let plan = plan();
        let (mut state, mut rows, mut log) = (Sessions::default(), Rows::new(), Vec::new());
        for batch in records.chunks(every) {
            for attempt in 0..2 {
                let mut first = Sessions::default();
                for (group, time) in batch {
                    let into = if joins { &mut first } else { &mut state };
                    into.absorb(&plan, &group.to_string(), at(*time)).expect("sum");
                }
                for partial in first.take() {
                    let session =
                        Session { start: partial.from, end: partial.pane, values: partial.values };
                    state.absorb(&plan, &partial.group, session).expect("sum");
                }
                if attempt == 0 {
                    state.rollback();
                    prop_assert_eq!(state.changed().count(), 0);
                }
            }
            put(&mut rows, state.changes(&plan));
            let one_by_one = |group: GroupSessions| {
                let (group, sessions) = (group.group, group.sessions.into_iter().enumerate());
                let entry = move |(at, session)| GroupSessions { group: group.clone(), sessions: vec![session], goes_on: at > 0 };
                sessions.map(entry).collect::<Vec<_>>()
            };
            log.extend(state.changed().flat_map(one_by_one));
            state.commit(&plan, i64::MIN);
            if restores {
                state = Sessions::default();
                for group in &log {
                    let mut out = Writer::new();
                    group.write(&mut out);
                    let bytes = out.into_bytes();
                    let raw = RawPartial::read(&mut Reader::new(&bytes)).expect("a frame");
                    state.restore(GroupSessions::read(&plan, raw).expect("sessions"));
                }
                state.commit(&plan, i64::MIN);
            }
        }
        prop_assert_eq!(rows.clone(), naive(&records));
        prop_assert_eq!(state.len(), rows.len());
        let mut swept = 0;
        let mut cursor = None;
        while let Some((next, group)) = state.next_after(cursor) {
            (cursor, swept) = (Some(next), swept + group.sessions.len());
        }
        prop_assert_eq!(swept, rows.len());
        let over = state.over_rows(&plan, i64::MAX);
        prop_assert_eq!(over.len(), rows.len());
        state.commit(&plan, i64::MAX);
        prop_assert_eq!((state.len(), state.held_bytes), (0, 0));
    }

    #[test]
    fn rollback_is_as_if_the_batch_had_never_been(records in records(), cut in 0_usize..80) {
        let (plan, cut) = (plan(), cut.min(records.len()));
        let mut state = Sessions::default();
        let add = |state: &mut Sessions, records: &[(u8, i64)]| {
            for (group, time) in records {
                state.absorb(&plan, &group.to_string(), at(*time)).expect("sum");
            }
        };
        add(&mut state, &records[..cut / 2]);
        state.commit(&plan, 150);
        let mut clone = state.clone();
        add(&mut state, &records[cut / 2..cut]);
        state.rollback();
        add(&mut state, &records[cut..]);
        add(&mut clone, &records[cut..]);
        prop_assert!(state.changed().eq(clone.changed()));
        prop_assert_eq!(state.changes(&plan), clone.changes(&plan));
        prop_assert_eq!(state.held_bytes, clone.held_bytes);
    }
}

#[test]
fn a_session_is_over_when_no_record_that_is_taken_can_join_it() {
    let plan = plan();
    let mut state = Sessions::default();
    state.absorb(&plan, "g", at(100)).expect("sum");
    // Records from 110 on are taken: one at 110 would still join.
    assert_eq!(plan.window.first_taken(125), 110);
    assert!(state.over_rows(&plan, 125).is_empty());
    assert_eq!(state.over_rows(&plan, 126).len(), 1);
    state.commit(&plan, 125);
    assert_eq!(state.len(), 1);
    state.commit(&plan, 126);
    assert_eq!(state.len(), 0);
}
