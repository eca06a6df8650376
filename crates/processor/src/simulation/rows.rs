//! The rows of one query, against the reference.

use super::cluster::Cluster;
use super::oracle::{Verdict, merged, position, same};
use super::queries::Spec;
use super::reference::{Expected, Members, Row, row_of};
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::topics;
use std::collections::BTreeMap;

type Rows = BTreeMap<String, Row>;

/// Last value of each key, every closed window once, and nothing too late that need not be.
pub fn check(cluster: &Cluster, spec: &Spec, expected: &Expected) -> Verdict {
    let name = spec.name;
    let (found, repeated) = rows(cluster, spec, name)?;
    let late_topic = spec.plan().late_topic();
    let late = late_rows(cluster, spec, &late_topic);
    check_late(cluster, spec, expected, &late_topic)?;
    let mut wanted = match spec.emit_final {
        false => expected.tables.get(name).cloned().unwrap_or_default(),
        true => closed(spec, expected, &found, &late),
    };
    // What came too late is not in its row, but beside it.
    for (key, row) in &late {
        match without(wanted.get(key).copied(), *row, found.get(key).copied()) {
            Some(rest) => wanted.insert(key.clone(), rest),
            None => wanted.remove(key),
        };
    }
    if spec.emit_final && !repeated.is_empty() {
        return Err(format!("{name}: more than one final row of {repeated:?}"));
    }
    let keys = wanted.keys().chain(found.keys());
    for key in keys {
        same(|| format!("{name}: row {key}"), &wanted.get(key), &found.get(key))?;
    }
    check_ends(cluster, spec, expected, &found)
}

/// A session's row says when it ended.
fn check_ends(cluster: &Cluster, spec: &Spec, expected: &Expected, found: &Rows) -> Verdict {
    let records = cluster.partitions(spec.name).flat_map(|(_, log)| log.ever_committed());
    let mut ends = BTreeMap::new();
    for record in records.map(|visible| visible.record).filter(|_| spec.session) {
        let key = String::from_utf8(record.key.as_deref().expect("a key").to_vec()).expect("text");
        ends.insert(key, record.value.as_deref().map(|value| spec.bounds(value).1));
    }
    let sessions = expected.windows.get(spec.name);
    for (key, ((_, end), _)) in
        sessions.into_iter().flatten().filter(|(k, _)| found.contains_key(*k))
    {
        if spec.session {
            let what = || format!("{}: end of session {key}", spec.name);
            same(what, &Some(Some(*end)), &ends.get(key).copied())?;
        }
    }
    Ok(())
}

/// The last row of each key, and the keys that have more than one. A tombstone takes a row back
/// that is there.
fn rows(cluster: &Cluster, spec: &Spec, topic: &str) -> Result<(Rows, Vec<String>), String> {
    let (mut last, mut repeated) = (Rows::new(), Vec::new());
    for (record, key, row) in all(cluster, spec, topic) {
        let before = match row {
            Some(row) => last.insert(key.clone(), row),
            None if last.remove(&key).is_some() && !spec.emit_final => None,
            None => return Err(format!("{topic}@{}: no row {key} to take back", record.offset)),
        };
        if before.is_some() {
            repeated.push(key);
        }
    }
    Ok((last, repeated))
}

fn all<'a>(
    cluster: &'a Cluster,
    spec: &'a Spec,
    topic: &'a str,
) -> impl Iterator<Item = (&'a Record, String, Option<Row>)> {
    let records = cluster.partitions(topic).flat_map(|(_, log)| log.ever_committed());
    records.map(|visible| {
        let record = visible.record;
        let key = record.key.as_deref().expect("a key");
        let key = String::from_utf8(key.to_vec()).expect("text");
        (record, key, record.value.as_deref().map(|value| spec.row(value)))
    })
}

fn late_rows(cluster: &Cluster, spec: &Spec, topic: &str) -> Rows {
    let mut sums = Rows::new();
    for (_, key, row) in all(cluster, spec, topic) {
        let row = row.expect("late rows are never taken back");
        sums.entry(key).and_modify(|sum| *sum = merged(*sum, row)).or_insert(row);
    }
    sums
}

/// `whole` without `late`; least and greatest cannot be taken apart, so they are as found, as long
/// as they and the late ones make those of the whole.
fn without(whole: Option<Row>, late: Row, found: Option<Row>) -> Option<Row> {
    let whole = whole?;
    let found = found.unwrap_or((0, 0, late.2, late.3));
    let (least, greatest) = (found.2.min(late.2), found.3.max(late.3));
    let rest = (whole.0 - late.0, whole.1 - late.1);
    if rest.0 == 0 && rest.1 == 0 {
        return None;
    }
    let fits = (least, greatest) == (whole.2, whole.3);
    Some((rest.0, rest.1, if fits { found.2 } else { whole.2 }, found.3))
}

/// The final rows that must be there: of every window that the reference's time has closed. Where
/// idle partitions no longer count, more may be closed: then it is whole.
fn closed(spec: &Spec, expected: &Expected, found: &Rows, late: &Rows) -> Rows {
    let empty = BTreeMap::new();
    let windows = expected.windows.get(spec.name).unwrap_or(&empty);
    let times = || expected.partitions.iter().map(|lane| lane.stream_time);
    let watermark = times().min().flatten();
    let is_closed = |bounds: (i64, i64), members: &Members| {
        let now = match spec.is_local() && !spec.session {
            // All members of a local group are in one partition.
            true => members.first().and_then(|(p, ..)| {
                expected.partitions[usize::try_from(*p).expect("a partition")].stream_time
            }),
            false => watermark,
        };
        now.is_some_and(|now| spec.is_closed(bounds, now))
    };
    windows
        .iter()
        .filter(|(key, (bounds, members))| {
            let early =
                spec.idle.is_some() && (found.contains_key(*key) || late.contains_key(*key));
            is_closed(*bounds, members) || early
        })
        .map(|(key, (_, members))| (key.clone(), row_of(members.iter().map(|(.., nano)| *nano))))
        .filter(|(_, row)| spec.holds(row))
        .collect()
}

/// A partial may be too late only where an idle partition was no longer waited for, and only with
/// records that were appended after its end was confirmed.
fn check_late(cluster: &Cluster, spec: &Spec, expected: &Expected, topic: &str) -> Verdict {
    for (record, key, row) in all(cluster, spec, topic) {
        let what = || format!("{topic}: row {key} {row:?}");
        if spec.idle.is_none() {
            return Err(format!("{}: nothing may be too late for this query", what()));
        }
        let (partition, offset) =
            record.header(headers::SOURCE).and_then(position).expect("a source");
        let partials = cluster.existing(topics::PARCIALES, partition).expect("partials");
        let partial = partials.ever_committed().map(|v| v.record).find(|r| r.offset == offset);
        let partial =
            partial.ok_or_else(|| format!("{}: no partial {partition}@{offset}", what()))?;
        let (source, _) = partial.header(headers::SOURCE).and_then(position).expect("a source");
        let ends = cluster.observed.confirmed_ends.get(&source);
        let first_end = ends.and_then(|ends| ends.iter().copied().min());
        let members = expected.windows.get(spec.name).and_then(|windows| windows.get(&key));
        let newest = members.into_iter().flat_map(|(_, members)| members);
        let newest = newest.filter(|(p, ..)| *p == source).map(|(_, offset, _)| *offset).max();
        if first_end.is_none_or(|end| newest.is_none_or(|newest| newest < end)) {
            return Err(format!(
                "{}: from partition {source}, whose end was first confirmed at {first_end:?}, \
                 newest record of the window at {newest:?}",
                what()
            ));
        }
    }
    Ok(())
}
