//! What must be true once everything is caught up. Every difference says what was expected where,
//! and what was found.

use super::cluster::Cluster;
use super::input::Fact;
use super::queries::Spec;
use super::reference::{Arrived, Expected, Row, expect};
use super::schedule::Played;
use super::state_log::StateLog;
use super::{HORIZON, TABLE, chain};
use crate::shared::Stage;
use caudal_core::avro::{self, Reader};
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::topics;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Holds or says the difference.
pub type Verdict = Result<(), String>;

/// Everything that the schedule should have caused, against everything that it did.
pub fn check(played: &Played, specs: &[Spec]) -> Result<Expected, String> {
    let logs = arrivals(played)?;
    let cluster = played.world.cluster();
    let state = StateLog::read(&cluster)?;
    let joined = |_: &Spec, partition: i32, offset: i64, fact: &Fact| {
        let below = state.table_offset(partition, offset)?;
        table_at(&cluster, below).get(&fact.merchant).cloned()
    };
    let expected = expect(specs, &played.inputs, &logs, HORIZON, &joined);
    check_reroutes(&cluster, &expected)?;
    check_stage1(&cluster, &expected)?;
    check_sequences(&cluster)?;
    for spec in specs {
        super::rows::check(&cluster, spec, &expected)?;
    }
    check_positions(&cluster, &state)?;
    let input_of = |(partition, offset): (i32, i64)| {
        let log = logs.get(usize::try_from(partition).ok()?)?;
        log.iter().find(|arrived| arrived.offset == offset).map(|arrived| arrived.input)
    };
    chain::check(&cluster, &expected, &played.inputs, input_of)?;
    chain::check_read(&cluster)?;
    drop(cluster);
    check_ledgers(played, &expected, &logs)?;
    Ok(expected)
}

/// Expected against found.
pub fn same<T: PartialEq + Debug>(
    what: impl FnOnce() -> String,
    expected: &T,
    found: &T,
) -> Verdict {
    if expected == found {
        return Ok(());
    }
    Err(format!("{}\n  expected {expected:?}\n  found    {found:?}", what()))
}

/// The records of each partition of `transacciones`, as they lie there.
fn arrivals(played: &Played) -> Result<Vec<Vec<Arrived>>, String> {
    let cluster = played.world.cluster();
    let partitions = played.world.shared.partitions;
    (0..partitions)
        .map(|partition| {
            let log = cluster.existing(topics::TRANSACCIONES, partition);
            let records = log.into_iter().flat_map(|log| log.ever_committed());
            records
                .map(|visible| {
                    let record = visible.record;
                    let origin = record.header(headers::REROUTED).and_then(position);
                    let at = origin.unwrap_or((partition, record.offset));
                    let input = played.placed.get(&at).copied();
                    let input = input.ok_or_else(|| format!("{at:?} is no record of the input"))?;
                    Ok(Arrived { offset: record.offset, input, moved: origin.is_some() })
                })
                .collect()
        })
        .collect()
}

/// `<partition>@<offset>`.
pub fn position(text: &str) -> Option<(i32, i64)> {
    let (partition, offset) = text.split_once('@')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// The table as it was at an offset.
fn table_at(cluster: &Cluster, below: i64) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    let log = cluster.existing(TABLE, 0).into_iter().flat_map(|log| log.ever_committed());
    for record in log.map(|v| v.record).filter(|record| record.offset < below) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let key = text(record.key.as_deref().expect("a key"));
        match record.value.as_deref().map(text) {
            None => rows.remove(&key),
            Some(value) => {
                let rubro = value.split('"').nth(3).expect("the value of the first field");
                rows.insert(key, rubro.to_owned())
            }
        };
    }
    rows
}

/// Each record with a foreign key has one copy in its key's partition, and nothing else was moved.
fn check_reroutes(cluster: &Cluster, expected: &Expected) -> Verdict {
    let mut found = Vec::new();
    for (_, log) in cluster.partitions(topics::TRANSACCIONES) {
        let records = log.ever_committed().map(|visible| visible.record);
        found.extend(records.filter_map(|r| r.header(headers::REROUTED).and_then(position)));
    }
    found.sort_unstable();
    let moved = (0..).zip(&expected.partitions);
    let moved: Vec<(i32, i64)> =
        moved.flat_map(|(p, lane)| lane.rerouted.iter().map(move |offset| (p, *offset))).collect();
    same(|| "records that were moved to their key's partition".into(), &moved, &found)
}

fn committed<'a>(cluster: &'a Cluster, topic: &str, partition: i32) -> Vec<&'a Record> {
    let log = cluster.existing(topic, partition).into_iter();
    log.flat_map(|log| log.ever_committed()).map(|visible| visible.record).collect()
}

fn check_stage1(cluster: &Cluster, expected: &Expected) -> Verdict {
    for (partition, lane) in (0..).zip(&expected.partitions) {
        let valid: Vec<_> =
            committed(cluster, topics::VALIDAS, partition).into_iter().map(valid_of).collect();
        let wanted: Vec<_> = lane
            .valid
            .iter()
            .map(|(offset, (id, late))| {
                let late = late.iter().map(|query| (*query).to_owned()).collect();
                ((partition, *offset), id.clone(), late)
            })
            .collect();
        same_lists(&format!("{}-{partition}", topics::VALIDAS), &wanted, &valid)?;
        let dead: Vec<_> =
            committed(cluster, topics::DLQ, partition).into_iter().map(dead_of).collect();
        let wanted: Vec<_> = lane
            .dead
            .iter()
            .map(|(offset, reason)| (*offset, reason.as_str().to_owned()))
            .collect();
        same_lists(&format!("{}-{partition}", topics::DLQ), &wanted, &dead)?;
    }
    Ok(())
}

/// Says the first difference of two lists, not both lists.
fn same_lists<T: PartialEq + Debug>(what: &str, expected: &[T], found: &[T]) -> Verdict {
    let longest = expected.len().max(found.len());
    (0..longest).try_for_each(|at| {
        let what = || format!("{what}: record {at} of {}", expected.len());
        same(what, &expected.get(at), &found.get(at))
    })
}

type Valid = ((i32, i64), String, BTreeSet<String>);

fn valid_of(record: &Record) -> Valid {
    let source = record.header(headers::SOURCE).and_then(position).expect("a source");
    let value = record.value.as_deref().expect("a value");
    let mut input = Reader::new(&value[5..]);
    let id = avro::read_transaction(&mut input).expect("a transaction").transaction_id.into_owned();
    let late = avro::read_strings(&mut input).expect("texts");
    (source, id, late.into_iter().map(str::to_owned).collect())
}

fn dead_of(record: &Record) -> (i64, String) {
    let text = |name| record.header(name).expect("a header of a dead letter");
    let offset = text(headers::ERROR_OFFSET).parse().expect("an offset");
    (offset, text(headers::REASON).to_owned())
}

/// Sequences are contiguous from 0, per task, topic and partition.
fn check_sequences(cluster: &Cluster) -> Verdict {
    let without = [topics::TRANSACCIONES, topics::ESTADO, TABLE];
    for topic in cluster.topics().into_iter().filter(|topic| !without.contains(topic)) {
        for (partition, log) in cluster.partitions(topic) {
            let mut next: BTreeMap<&str, u64> = BTreeMap::new();
            for record in log.ever_committed().map(|visible| visible.record) {
                let task = record.header(headers::TASK).expect("a task");
                let sequence = record.header(headers::SEQUENCE).and_then(|s| s.parse().ok());
                let next = next.entry(task).or_default();
                let what =
                    || format!("{topic}-{partition}@{}: sequence of task {task}", record.offset);
                same(what, &Some(*next), &sequence)?;
                *next += 1;
            }
        }
    }
    Ok(())
}

/// The committed position of each task is its last block's, and nothing is left to read.
fn check_positions(cluster: &Cluster, state: &StateLog) -> Verdict {
    for topic in [topics::TRANSACCIONES, topics::PARCIALES] {
        for (partition, log) in cluster.partitions(topic) {
            let committed = cluster.group.committed(&(topic.into(), partition));
            let committed = committed.map_err(|()| format!("{topic}-{partition} is not stable"))?;
            let committed = committed.map(|c| c.next_offset);
            let stage = if topic == topics::TRANSACCIONES { Stage::Account } else { Stage::Group };
            let block = state.last(stage, partition).map(|block| block.head.next_offset);
            same(
                || format!("{topic}-{partition}: committed, and its last block"),
                &committed,
                &block,
            )?;
            if let Some(left) = log.next(committed.unwrap_or(0)) {
                return Err(format!("{topic}-{partition}@{} was not read", left.record.offset));
            }
        }
    }
    Ok(())
}

type Ledger = [u64; 5];

fn check_ledgers(played: &Played, expected: &Expected, logs: &[Vec<Arrived>]) -> Verdict {
    let mut found: BTreeMap<i32, (Ledger, String)> = BTreeMap::new();
    played.world.engines(|engine| {
        for (id, task) in engine.tasks().iter() {
            let crate::tasks::Task::Account(task) = task else { continue };
            let ledger = task.ledger();
            let counts = [
                ledger.records_in,
                ledger.valid,
                ledger.duplicate,
                ledger.rerouted,
                ledger.dead_count(),
            ];
            let sums = format!(
                "{:?} {:?} {:?}",
                sums(&ledger.valid_sums),
                sums(&ledger.duplicate_sums),
                ledger.late
            );
            found.insert(id.partition, (counts, sums));
        }
    });
    for ((partition, lane), log) in (0..).zip(&expected.partitions).zip(logs) {
        let lengths = [
            log.len(),
            lane.valid.len(),
            lane.duplicates.len(),
            lane.rerouted.len(),
            lane.dead.len(),
        ];
        let sums = format!("{:?} {:?} {:?}", lane.valid_sums, lane.duplicate_sums, lane.late);
        let wanted = (lengths.map(|length| length as u64), sums);
        let found = found.get(&partition);
        same(|| format!("ledger of task 1-{partition}"), &Some(&wanted), &found)?;
    }
    Ok(())
}

fn sums(sums: &caudal_core::money::Sums) -> BTreeMap<String, i128> {
    sums.iter().map(|(currency, nano)| (currency.as_str().to_owned(), nano)).collect()
}

/// The row that two rows make together.
pub fn merged(a: Row, b: Row) -> Row {
    (a.0 + b.0, a.1 + b.1, a.2.min(b.2), a.3.max(b.3))
}
