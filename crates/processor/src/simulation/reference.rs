//! The reference of the design: each query applied by one thread, with one stream time per input
//! partition, over the records in the order in which they lie in the log. Written to be obvious:
//! windows are lists of amounts, and every answer is computed from them anew. It shares no code
//! with the engine beyond the hash that names a key's partition.

use super::input::{Fact, Input, Truth};
use super::queries::{Column, Spec};
use caudal_core::partitioner::partition_of;
use caudal_core::reject::Reason;
use caudal_core::time::MINUTE;
use std::collections::{BTreeMap, BTreeSet};

/// COUNT, SUM, MIN and MAX.
pub type Row = (i64, i128, i128, i128);

/// A record of the input where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    pub offset: i64,
    /// Number of the [`Input`].
    pub input: usize,
    /// A copy that was moved to its key's partition.
    pub moved: bool,
}

/// What must have become of one input partition.
#[derive(Debug, Default)]
pub struct Stage1 {
    /// Offset → (transaction id, the queries it is late for in byte order).
    pub valid: BTreeMap<i64, (String, Vec<&'static str>)>,
    pub dead: BTreeMap<i64, Reason>,
    pub duplicates: Vec<i64>,
    pub rerouted: Vec<i64>,
    /// Per currency, of valid records and of duplicates.
    pub valid_sums: BTreeMap<&'static str, i128>,
    pub duplicate_sums: BTreeMap<&'static str, i128>,
    pub late: BTreeMap<&'static str, u64>,
    pub stream_time: Option<i64>,
}

/// Whose amounts make up a row of a global query: (source partition, offset, amount).
pub type Members = Vec<(i32, i64, i128)>;

/// Bounds and members of a window.
pub type Window = ((i64, i64), Members);

/// What must have become of the whole input.
#[derive(Debug, Default)]
pub struct Expected {
    pub partitions: Vec<Stage1>,
    /// Query → key of the row → its last value, of EMIT CHANGES.
    pub tables: BTreeMap<&'static str, BTreeMap<String, Row>>,
    /// Query → key of the row → (bounds of the window, members), of EMIT FINAL, closed or not.
    pub windows: BTreeMap<&'static str, BTreeMap<String, Window>>,
}

/// A joined query's column for a record, as the engine says it was: by (partition, offset).
pub type Joined<'a> = dyn Fn(&Spec, i32, i64, &Fact) -> Option<String> + 'a;

/// COUNT, SUM, MIN and MAX of some amounts.
pub fn row_of(amounts: impl Iterator<Item = i128> + Clone) -> Row {
    (
        i64::try_from(amounts.clone().count()).expect("few"),
        amounts.clone().sum(),
        amounts.clone().min().unwrap_or_default(),
        amounts.max().unwrap_or_default(),
    )
}

/// Applies everything to everything.
pub fn expect(
    specs: &[Spec],
    inputs: &[Input],
    logs: &[Vec<Arrived>],
    horizon: i64,
    joined: &Joined<'_>,
) -> Expected {
    let mut expected = Expected::default();
    let mut all_visits: BTreeMap<QueryGroup, Vec<Visit>> = BTreeMap::new();
    let partitions = i32::try_from(logs.len()).expect("few");
    for (partition, log) in (0..).zip(logs) {
        let mut lane = Lane { partition, partitions, horizon, ..Lane::default() };
        for arrived in log {
            lane.take(specs, &inputs[arrived.input], arrived, joined);
        }
        for (query, rows) in lane.rows {
            expected.tables.entry(query).or_default().extend(rows);
        }
        for ((query, key, start), amounts) in lane.windows {
            let window = expected.windows.entry(query).or_default().entry(key);
            let members = &mut window.or_insert(((start, start), Members::new())).1;
            members.extend(amounts.into_iter().map(|(offset, nano)| (partition, offset, nano)));
        }
        for (of, visits) in lane.visits {
            let visits = visits.into_iter().map(|(time, at, nano)| (time, (partition, at, nano)));
            all_visits.entry(of).or_default().extend(visits);
        }
        expected.partitions.push(lane.out);
    }
    for ((query, group), visits) in all_visits {
        let spec = specs.iter().find(|spec| spec.name == query).expect("a query");
        let sessions = expected.windows.entry(query).or_default();
        for (start, end, members) in sessions_of(visits, spec.size) {
            sessions.insert(row_key(&group, start), ((start, end), members));
        }
    }
    // The last value of a global query's row is that of all its members.
    for spec in specs.iter().filter(|s| (!s.is_local() || s.session) && !s.emit_final) {
        let windows = expected.windows.get(spec.name).cloned().unwrap_or_default();
        let rows = windows
            .into_iter()
            .map(|(key, (_, members))| (key, row_of(members.iter().map(|(_, _, nano)| *nano))))
            .filter(|(_, row)| spec.holds(row));
        expected.tables.insert(spec.name, rows.collect());
    }
    expected
}

/// A record in time: when, and (source partition, offset, amount).
type Visit = (i64, (i32, i64, i128));

/// The sessions of a group: a new one wherever more than a gap lies between two records.
fn sessions_of(mut visits: Vec<Visit>, gap: i64) -> Vec<(i64, i64, Members)> {
    visits.sort_unstable();
    let mut sessions: Vec<(i64, i64, Members)> = Vec::new();
    for (time, member) in visits {
        match sessions.last_mut() {
            Some((_, end, members)) if time - *end <= gap => {
                *end = time;
                members.push(member);
            }
            _ => sessions.push((time, time, vec![member])),
        }
    }
    sessions
}

type WindowKey = (&'static str, String, i64);
/// A query and a group.
type QueryGroup = (&'static str, Vec<String>);

/// One input partition.
#[derive(Default)]
struct Lane {
    partition: i32,
    partitions: i32,
    horizon: i64,
    /// Id → what was accepted under it last.
    seen: BTreeMap<String, Fact>,
    windows: BTreeMap<WindowKey, Vec<(i64, i128)>>,
    rows: BTreeMap<&'static str, BTreeMap<String, Row>>,
    /// Of queries with sessions: query and group → (event time, offset, amount).
    visits: BTreeMap<QueryGroup, Vec<(i64, i64, i128)>>,
    out: Stage1,
}

impl Lane {
    fn take(&mut self, specs: &[Spec], input: &Input, at: &Arrived, joined: &Joined<'_>) {
        let fact = match &input.truth {
            Truth::Dead(reason) => {
                self.out.dead.insert(at.offset, *reason);
                return;
            }
            Truth::Valid(fact) => fact,
        };
        if partition_of(fact.account.as_bytes(), self.partitions) != self.partition {
            assert!(!at.moved, "a copy was moved to a foreign partition");
            self.out.rerouted.push(at.offset);
            return;
        }
        match self.known(fact) {
            Some(true) => {
                self.out.duplicates.push(at.offset);
                *self.out.duplicate_sums.entry(fact.currency).or_default() += fact.nano;
            }
            Some(false) => {
                self.out.dead.insert(at.offset, Reason::Conflict);
            }
            None => self.accept(specs, fact, at.offset, joined),
        }
    }

    /// Whether the id is known, and with the same contents: as far as ids are remembered when this
    /// record comes, in whole minutes.
    fn known(&mut self, fact: &Fact) -> Option<bool> {
        let now = self.out.stream_time.unwrap_or(i64::MIN).max(fact.event_time);
        let oldest = now.saturating_sub(self.horizon).div_euclid(MINUTE);
        let remembered = |event_time: i64| event_time.div_euclid(MINUTE) >= oldest;
        if let Some(earlier) = self.seen.get(&fact.id).filter(|f| remembered(f.event_time)) {
            return Some(earlier == fact);
        }
        if remembered(fact.event_time) {
            self.seen.insert(fact.id.clone(), fact.clone());
        }
        None
    }

    fn accept(&mut self, specs: &[Spec], fact: &Fact, offset: i64, joined: &Joined<'_>) {
        let now = self.out.stream_time.unwrap_or(i64::MIN).max(fact.event_time);
        self.out.stream_time = Some(now);
        *self.out.valid_sums.entry(fact.currency).or_default() += fact.nano;
        let mut late = BTreeSet::new();
        for spec in specs.iter().filter(|s| fact.purchase || !s.purchases_only) {
            let joined = spec.joins().then(|| joined(spec, self.partition, offset, fact));
            // An inner join: without a row of the table there is nothing.
            if joined == Some(None) {
                continue;
            }
            let group = group_of(spec, fact, joined.flatten().as_deref());
            if spec.session {
                if spec.is_over_for(fact.event_time, now) {
                    late.insert(spec.name);
                } else {
                    let visit = (fact.event_time, offset, fact.nano);
                    self.visits.entry((spec.name, group)).or_default().push(visit);
                }
                continue;
            }
            for start in spec.starts(fact.event_time) {
                if spec.is_closed((start, start), now) {
                    late.insert(spec.name);
                } else {
                    self.add(spec, &group, start, (offset, fact.nano));
                }
            }
        }
        for query in &late {
            *self.out.late.entry(query).or_default() += 1;
        }
        self.out.valid.insert(offset, (fact.id.clone(), late.into_iter().collect()));
    }

    fn add(&mut self, spec: &Spec, group: &[String], start: i64, amount: (i64, i128)) {
        let key = row_key(group, start);
        let window = self.windows.entry((spec.name, key.clone(), start)).or_default();
        window.push(amount);
        let row = row_of(window.iter().map(|(_, nano)| *nano));
        if spec.is_local() && !spec.emit_final {
            let rows = self.rows.entry(spec.name).or_default();
            match spec.holds(&row) {
                true => rows.insert(key, row),
                false => rows.remove(&key),
            };
        }
    }
}

fn group_of(spec: &Spec, fact: &Fact, joined: Option<&str>) -> Vec<String> {
    let value = |column: &Column| match column {
        Column::Account => fact.account.clone(),
        Column::Merchant => fact.merchant.clone(),
        Column::Currency => fact.currency.to_owned(),
        Column::Joined => joined.unwrap_or_default().to_owned(),
    };
    spec.group.iter().map(value).collect()
}

/// The key of an output row: a JSON array of the group and the window's start.
pub fn row_key(group: &[String], start: i64) -> String {
    let texts: Vec<String> = group.iter().map(|text| format!("{text:?}")).collect();
    format!("[{},{start}]", texts.join(","))
}
