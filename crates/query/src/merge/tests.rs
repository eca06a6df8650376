use super::*;
use crate::input::Input;
use crate::partials::Partials;
use crate::plan::{Emit, SHIPPED};
use crate::sample::{one, valid, ventas_gold};
use crate::values::Values;
use crate::window::Window;
use caudal_core::time::{MINUTE, SECOND};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn partial(start: i64, nano: i128) -> Partial {
    Partial { group: "[\"m\",\"EUR\"]".into(), pane: start, from: start, values: one(nano) }
}

#[test]
fn merges_until_the_watermark_closes_the_window() {
    let plan = ventas_gold();
    let mut state = MergeState::default();
    assert_eq!(state.merge(&plan, &partial(0, 1), i64::MIN), Ok(Merged::Merged));
    assert_eq!(state.merge(&plan, &partial(0, 2), MINUTE), Ok(Merged::Merged));
    let changes = state.changes(&plan).expect("sum");
    let Change::Row(Row { values, .. }) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!(values.result(&plan, 1), caudal_sql::value::Value::Decimal(3));
    let closing = MINUTE + plan.window.grace;
    state.commit(&plan, closing - 1);
    assert!(state.changes(&plan).expect("sum").is_empty());
    assert_eq!(state.len(), 1);
    state.commit(&plan, closing);
    assert!(state.is_empty());
    assert_eq!(state.merge(&plan, &partial(0, 4), closing), Ok(Merged::TooLate));
    assert!(state.is_empty());
}

/// A row that changed in a batch is emitted even if the batch's watermark closes its window.
#[test]
fn the_last_change_before_a_window_closes_is_emitted() {
    let plan = ventas_gold();
    let mut state = MergeState::default();
    state.merge(&plan, &partial(0, 1), i64::MIN).expect("sum");
    state.merge(&plan, &partial(MINUTE, 1), 10 * MINUTE).expect("sum");
    assert_eq!(state.changes(&plan).expect("sum").len(), 1);
}

#[test]
fn a_closed_window_stays_closed_when_the_watermark_falls() {
    let mut plan = ventas_gold();
    plan.emit = Emit::Final;
    let mut state = MergeState::default();
    state.commit(&plan, 10 * MINUTE);
    assert_eq!(state.merge(&plan, &partial(0, 4), 0), Ok(Merged::TooLate));
}

/// Its last record is not too late, its first is: that one would have joined a session whose row
/// was given.
#[test]
fn a_session_is_too_late_by_its_first_record() {
    let mut plan = ventas_gold();
    plan.window = Window::session(10, 5);
    plan.emit = Emit::Final;
    let session = |from: i64, end: i64| Partial { from, pane: end, ..partial(0, 1) };
    let mut state = MergeState::default();
    assert_eq!(state.merge(&plan, &session(0, 8), i64::MIN), Ok(Merged::Merged));
    // First taken: 85. The session is over.
    assert_eq!(state.final_rows(&plan, 100).expect("sum").len(), 1);
    state.commit(&plan, 100);
    assert_eq!(state.merge(&plan, &session(84, 90), 100), Ok(Merged::TooLate));
    assert_eq!(state.merge(&plan, &session(12, 90), 100), Ok(Merged::TooLate));
    assert_eq!(state.merge(&plan, &session(85, 90), 100), Ok(Merged::Merged));
}

const SOURCES: usize = 3;

/// What stage 1 does at a source partition: a record (group, step in seconds, cents), or a commit.
type Step = (usize, Option<(u8, i64, i64)>);
/// What stage 2 does next: take the next message of a source, or end its batch.
type Turn = Option<usize>;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![8 => 0_i64..20, 1 => 60_i64..200, 2 => -100_i64..0];
    let record = (0_u8..3, step, -900_i64..900);
    prop::collection::vec((0..SOURCES, prop::option::weighted(0.7, record)), 1..90)
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    prop::collection::vec(prop::option::weighted(0.8, 0..SOURCES), 0..120)
}

/// `ventas_gold` with a HAVING that holds and ceases to hold.
fn ventas_gold_having() -> Plan {
    let group = "GROUP BY merchant_id, currency";
    assert!(SHIPPED.contains(group));
    let having = format!("{group} HAVING SUM(amount) > 0 AND COUNT(*) < 6");
    let plans = Plan::compile(&SHIPPED.replacen(group, &having, 1)).expect("queries");
    plans.into_iter().find(|plan| plan.name == "ventas_gold").expect("one of that name")
}

fn plans(may_have_having: bool) -> impl Strategy<Value = Plan> {
    let shapes = [(1, 60, 10), (6, 10, 10), (3, 30, 0), (1, 20, 40)];
    (prop::sample::select(shapes.to_vec()), any::<bool>(), any::<bool>()).prop_map(
        move |((panes, advance, grace), is_final, has_having)| {
            let mut plan =
                if may_have_having && has_having { ventas_gold_having() } else { ventas_gold() };
            plan.window =
                Window::hopping(panes * advance * SECOND, advance * SECOND, grace * SECOND);
            plan.emit = if is_final { Emit::Final } else { Emit::Changes };
            plan
        },
    )
}

type Totals = BTreeMap<(i64, String), Values>;

fn add_to(plan: &Plan, totals: &mut Totals, start: i64, group: &str, values: &Values) {
    match totals.entry((start, group.to_owned())) {
        std::collections::btree_map::Entry::Occupied(mut slot) => {
            slot.get_mut().merge(plan, values).expect("sum");
        }
        std::collections::btree_map::Entry::Vacant(slot) => {
            slot.insert(values.clone());
        }
    }
}

/// A message of stage 1: its stream time, and the partials.
type Message = (i64, Vec<Partial>);

/// The messages of each source, and what one stage would make of the same records.
fn stage_1(plan: &Plan, steps: &[Step]) -> ([Vec<Message>; SOURCES], Totals) {
    let (mut messages, mut totals) = (<[Vec<Message>; SOURCES]>::default(), Totals::new());
    let mut state: [(i64, i64, Partials); SOURCES] =
        std::array::from_fn(|source| (i64::MIN, 100 * source as i64, Partials::default()));
    let ends = (0..SOURCES).map(|source| (source, None));
    for (source, record) in steps.iter().copied().chain(ends) {
        let (stream_time, now, partials) = &mut state[source];
        let Some((group, step, cents)) = record else {
            messages[source].push((*stream_time, partials.take()));
            continue;
        };
        *now += step.max(0);
        let mut record = valid("a", (*now + step.min(0)) * SECOND, cents);
        record.transaction.merchant_id = format!("m{group}").into();
        let time = record.transaction.event_time;
        *stream_time = time.max(*stream_time);
        // A batch that aborts leaves nothing.
        let mut aborted = partials.clone();
        let row = Input::new(&record, 0, 0);
        aborted.add(plan, &row, *stream_time).expect("sum");
        aborted.rollback();
        assert!(aborted.take().is_empty());
        let late = partials.add(plan, &row, *stream_time).expect("sum").late;
        let starts: Vec<i64> = plan.window.starts(time).collect();
        assert_eq!(late, starts.iter().any(|s| plan.window.is_closed(*s, *stream_time)));
        for start in starts.into_iter().filter(|s| !plan.window.is_closed(*s, *stream_time)) {
            let one = one(record.transaction.amount.nano());
            add_to(plan, &mut totals, start, &format!("[\"m{group}\",\"EUR\"]"), &one);
        }
    }
    (messages, totals)
}

struct Stage2<'p> {
    plan: &'p Plan,
    state: MergeState,
    stream_times: [i64; SOURCES],
    /// How far the watermark is ahead of the lowest stream time: a source declared idle.
    ahead: i64,
    batch: Vec<(usize, Message)>,
    rows: Totals,
    late: Totals,
    log: Vec<Entry>,
}

impl Stage2<'_> {
    fn watermark(&self) -> i64 {
        self.stream_times.iter().copied().min().unwrap_or(i64::MIN).saturating_add(self.ahead)
    }

    fn apply(&mut self) -> Vec<(i64, crate::group::GroupKey, Values)> {
        let mut late = Vec::new();
        for (source, (stream_time, partials)) in self.batch.clone() {
            for partial in &partials {
                let merged = self.state.merge(self.plan, partial, self.watermark()).expect("sum");
                let until = match merged {
                    Merged::Merged => continue,
                    Merged::PartlyLate { until } => until,
                    Merged::TooLate => i64::MAX,
                };
                assert!(self.ahead > 0, "late although no source was left behind");
                let rows = partial.rows(&self.plan.window, until);
                late.extend(rows.into_iter().map(|row| (row.start, row.group, row.values)));
            }
            self.stream_times[source] = self.stream_times[source].max(stream_time);
        }
        late
    }

    /// Ends a batch: tried once and rolled back, then done, then read back from what was written.
    fn end(&mut self) {
        let before = self.stream_times;
        let tried = self.apply();
        self.state.rollback();
        self.stream_times = before;
        let late = self.apply();
        assert_eq!(tried, late);
        for (start, group, values) in &late {
            add_to(self.plan, &mut self.late, *start, group, values);
        }
        let watermark = self.watermark();
        let changes = match self.plan.emit {
            Emit::Changes => self.state.changes(self.plan).expect("sum"),
            Emit::Final => {
                let rows = self.state.final_rows(self.plan, watermark).expect("sum");
                rows.into_iter().map(Change::Row).collect()
            }
        };
        let place = |change: &Change| (change.key().1, change.key().0.clone());
        assert!(changes.is_sorted_by(|a, b| place(a) < place(b)));
        for change in changes {
            let key = (change.key().1, change.key().0.to_string());
            let before = match change {
                Change::Row(row) => self.rows.insert(key, row.values),
                Change::Gone(..) => {
                    assert!(self.rows.remove(&key).is_some(), "nothing to take back");
                    None
                }
            };
            assert!(self.plan.emit == Emit::Changes || before.is_none(), "a final row came twice");
        }
        self.log.extend(self.state.changed());
        self.state = MergeState::default();
        self.log.iter().for_each(|entry| self.state.restore(entry.clone()));
        self.state.commit(self.plan, watermark);
        self.batch.clear();
    }
}

/// Runs stage 2 over the messages in the order of `turns`, then over what is left.
fn stage_2<'p>(
    plan: &'p Plan,
    messages: [Vec<Message>; SOURCES],
    turns: &[Turn],
    ahead: i64,
) -> Stage2<'p> {
    let mut stage = Stage2 {
        plan,
        state: MergeState::default(),
        stream_times: [i64::MIN; SOURCES],
        ahead,
        batch: Vec::new(),
        rows: Totals::new(),
        late: Totals::new(),
        log: Vec::new(),
    };
    let mut queues = messages.map(Vec::into_iter);
    for turn in turns {
        match turn {
            Some(source) => stage.batch.extend(queues[*source].next().map(|m| (*source, m))),
            None => stage.end(),
        }
    }
    for (source, queue) in queues.into_iter().enumerate() {
        stage.batch.extend(queue.map(|message| (source, message)));
    }
    stage.end();
    stage
}

proptest! {
    /// With the watermark as the lowest of the sources' stream times nothing is ever too late,
    /// and two stages give what one would, however their messages interleave.
    #[test]
    fn two_stages_give_what_one_would(plan in plans(true), steps in steps(), turns in turns()) {
        let (messages, mut totals) = stage_1(&plan, &steps);
        let stage = stage_2(&plan, messages, &turns, 0);
        if plan.emit == Emit::Final {
            let end = stage.watermark();
            totals.retain(|(start, _), _| plan.window.is_closed(*start, end));
        }
        totals.retain(|(start, group), values| {
            plan.having_holds(group, (*start, plan.window.end(*start)), values)
        });
        prop_assert_eq!(stage.rows, totals);
    }

    /// With a watermark that runs ahead (a source was declared idle) nothing is lost either: rows
    /// and late rows add up to the totals.
    #[test]
    fn rows_and_late_rows_add_up(plan in plans(false), steps in steps(), turns in turns(), ahead in 1_i64..300) {
        let (messages, mut totals) = stage_1(&plan, &steps);
        let stage = stage_2(&plan, messages, &turns, ahead * SECOND);
        let mut sum = stage.rows.clone();
        for ((start, group), values) in &stage.late {
            add_to(&plan, &mut sum, *start, group, values);
        }
        if plan.emit == Emit::Final {
            let end = stage.watermark();
            totals.retain(|(start, _), _| plan.window.is_closed(*start, end));
        }
        prop_assert_eq!(sum, totals);
    }
}
