use super::*;
use crate::input::Input;
use crate::plan::SHIPPED;
use crate::sample::{alertas_fraude, one, valid};
use crate::window::Window;
use caudal_core::time::SECOND;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A record: account, seconds, cents.
type Event = (u8, i64, i64);

fn account(event: &Event) -> String {
    format!("a{}", event.0)
}

fn add(state: &mut PaneState, plan: &Plan, event: &Event, stream_time: i64) -> Added {
    let record = valid(&account(event), event.1 * SECOND, event.2);
    state.add(plan, &Input::new(&record, 0, 0), stream_time).expect("sum")
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Times that mostly move on, a few far behind or ahead.
    let step = prop_oneof![8 => 0_i64..9, 1 => 30_i64..150, 1 => -90_i64..0];
    prop::collection::vec((0_u8..3, step, -300_000_i64..600_000), 1..80).prop_map(|steps| {
        let mut now = 0;
        let next = steps.into_iter().map(|(account, step, cents)| {
            now += step.max(0);
            (account, now + step.min(0), cents)
        });
        next.collect()
    })
}

/// `alertas_fraude` with lower limits, or none.
fn alerts(has_having: bool) -> Plan {
    let having = "HAVING COUNT(*) > 10 OR SUM(amount) > 10000";
    assert!(SHIPPED.contains(having));
    let lower = if has_having { "HAVING COUNT(*) > 3 OR SUM(amount) > 4000" } else { "" };
    let plans = Plan::compile(&SHIPPED.replace(having, lower)).expect("a query");
    plans.into_iter().find(Plan::is_local).expect("the local one")
}

fn plans() -> impl Strategy<Value = Plan> {
    let shapes = [(6, 10, 0), (6, 10, 10), (1, 60, 10), (3, 7, 25), (1, 5, 0)];
    (prop::sample::select(shapes.to_vec()), any::<bool>(), any::<bool>()).prop_map(
        |((panes, advance, grace), has_having, is_final)| {
            let mut plan = alerts(has_having);
            plan.window =
                Window::hopping(panes * advance * SECOND, advance * SECOND, grace * SECOND);
            plan.emit = if is_final { Emit::Final } else { Emit::Changes };
            plan
        },
    )
}

type Rows = BTreeMap<(i64, String), Values>;

fn total<'e>(plan: &Plan, events: impl Iterator<Item = &'e Event>) -> Option<Values> {
    let mut total = None;
    for event in events {
        merge_into(plan, &mut total, &one(i128::from(event.2) * 10_000_000)).expect("sum");
    }
    total
}

/// What the windows are by definition, recomputed from all records each time: the row of each group
/// and window for which HAVING holds in the end, or with `EMIT FINAL` the rows of the windows that are closed.
fn naive(plan: &Plan, events: &[Event]) -> Rows {
    let window = &plan.window;
    let mut times = vec![];
    let mut rows = Rows::new();
    let holds = |s: i64, e: &Event| s <= e.1 * SECOND && e.1 * SECOND < s + window.size;
    for (i, event) in events.iter().enumerate() {
        let now = times.last().copied().unwrap_or(i64::MIN).max(event.1 * SECOND);
        times.push(now);
        for start in window.starts(event.1 * SECOND).filter(|s| !window.is_closed(*s, now)) {
            let group = events[..=i].iter().filter(|e| e.0 == event.0 && holds(start, e));
            let values = total(plan, group).expect("this record");
            let key = (start, account(event));
            if plan.emit == Emit::Changes {
                match plan.having_holds("", (start, window.end(start)), &values) {
                    true => rows.insert(key, values),
                    false => rows.remove(&key),
                };
            }
        }
    }
    let Some(end) = times.last().filter(|_| plan.emit == Emit::Final) else { return rows };
    for event in events {
        for start in window.starts(event.1 * SECOND).filter(|s| window.is_closed(*s, *end)) {
            let in_time = events.iter().zip(&times).filter(|(e, now)| {
                e.0 == event.0 && holds(start, e) && !window.is_closed(start, **now)
            });
            let values = total(plan, in_time.map(|(e, _)| e));
            let window = (start, window.end(start));
            if let Some(values) = values.filter(|values| plan.having_holds("", window, values)) {
                rows.insert((start, account(event)), values);
            }
        }
    }
    rows
}

fn put(rows: &mut Rows, new: Vec<Change>, plan: &Plan) {
    let key = |group: &str, start| (start, group.split('"').nth(1).expect("account").to_owned());
    for change in new {
        match change {
            Change::Row(row) => {
                assert_eq!(row.end, plan.window.end(row.start));
                let before = rows.insert(key(&row.group, row.start), row.values);
                assert!(plan.emit == Emit::Changes || before.is_none(), "a final row came twice");
            }
            Change::Gone(group, start) => {
                assert!(rows.remove(&key(&group, start)).is_some(), "nothing to take back");
            }
        }
    }
}

/// Runs them with a commit after every `every` records, each batch first tried and rolled back if
/// `retries`, and started over from what was written if `restores`.
fn run(plan: &Plan, events: &[Event], every: usize, retries: bool, restores: bool) -> Rows {
    let (mut state, mut stream_time, mut rows) = (PaneState::default(), i64::MIN, Rows::new());
    let mut log: Vec<Partial> = Vec::new();
    for batch in events.chunks(every) {
        let begin = stream_time;
        for attempt in 0..=usize::from(retries) {
            let mut new = Vec::new();
            for event in batch {
                stream_time = stream_time.max(event.1 * SECOND);
                let added = add(&mut state, plan, event, stream_time);
                let is_late = |s| plan.window.is_closed(s, stream_time);
                assert_eq!(added.late, plan.window.starts(event.1 * SECOND).any(is_late));
                new.extend(added.first_rows.into_iter().map(Change::Row));
            }
            new.extend(state.take_changes(plan));
            if plan.emit == Emit::Final {
                let closed = state.take_final_rows(plan, stream_time).expect("sum");
                let order: Vec<_> = closed.iter().map(|r| (r.start, r.group.clone())).collect();
                assert!(order.is_sorted());
                new.extend(closed.into_iter().map(Change::Row));
            }
            if attempt < usize::from(retries) {
                state.rollback();
                stream_time = begin;
                continue;
            }
            put(&mut rows, new, plan);
            log.extend(state.changed());
            state.commit(plan, stream_time);
        }
        if restores {
            state = PaneState::default();
            log.iter().for_each(|entry| state.restore(entry.clone()));
            state.commit(plan, stream_time);
        }
    }
    rows
}

proptest! {
    #[test]
    fn windows_are_what_their_definition_says(
        plan in plans(), events in events(), every in 1_usize..30, retries in any::<bool>(), restores in any::<bool>()
    ) {
        prop_assert_eq!(run(&plan, &events, every, retries, restores), naive(&plan, &events));
    }

    /// Whether an alert is seen at all does not depend on commits either: the first true row of
    /// each group and window comes with its record.
    #[test]
    fn rollback_is_as_if_the_batch_had_never_been(plan in plans(), events in events(), cut in 0_usize..80) {
        let cut = cut.min(events.len());
        let mut state = PaneState::default();
        let mut stream_time = i64::MIN;
        for event in &events[..cut / 2] {
            stream_time = stream_time.max(event.1 * SECOND);
            add(&mut state, &plan, event, stream_time);
        }
        state.commit(&plan, stream_time);
        let mut clone = state.clone();
        let committed = stream_time;
        for event in &events[cut / 2..cut] {
            stream_time = stream_time.max(event.1 * SECOND);
            add(&mut state, &plan, event, stream_time);
        }
        state.rollback();
        stream_time = committed;
        for event in &events[cut..] {
            stream_time = stream_time.max(event.1 * SECOND);
            let added = add(&mut state, &plan, event, stream_time);
            prop_assert_eq!(added, add(&mut clone, &plan, event, stream_time));
        }
        prop_assert!(state.changed().eq(clone.changed()));
        prop_assert_eq!(state.take_changes(&plan), clone.take_changes(&plan));
        let closed = state.take_final_rows(&plan, stream_time);
        prop_assert_eq!(closed, clone.take_final_rows(&plan, stream_time));
    }
}

#[test]
fn the_eleventh_attempt_in_a_minute_is_seen() {
    let plan = alertas_fraude();
    let mut state = PaneState::default();
    for i in 0..11 {
        let added = add(&mut state, &plan, &(0, i, 1), i * SECOND);
        assert_eq!(added.first_rows.is_empty(), i < 10, "{i}");
    }
}
