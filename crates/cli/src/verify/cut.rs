//! The cut: up to where each hop has come. Taken from the end of the pipeline to its beginning, so
//! that whatever a later hop shows has its cause within what an earlier one is asked for.

use super::eras::Eras;
use super::place::{Place, VALID};
use super::retired::Retired;
use anyhow::Result;
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_kafka::args::Isolation;
use caudal_kafka::offsets::{Committed, Offsets};
use caudal_processor::block::Head;
use caudal_processor::kafka_broker::GROUP;
use caudal_processor::shared::{Stage, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Positions, by partition.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    /// Partitions of every partitioned topic.
    pub partitions: i32,
    /// Next offset of `transacciones` that stage 1 has not done.
    pub input: Vec<i64>,
    /// Next offset of `caudal_parciales` that stage 2 has not done.
    pub partials: Vec<i64>,
    /// Next offset that the sink has not stored, by topic number and partition; absent: none.
    pub stored: BTreeMap<(u8, i32), i64>,
    /// First offset that is still there, by topic number.
    pub first: BTreeMap<u8, Vec<i64>>,
    /// The growths of the topics.
    pub eras: Eras,
    /// Dedup horizon in microseconds.
    pub horizon: i64,
    /// Queries that began, or began again, when other records had been processed: what they were
    /// given is not known here.
    pub begun_later: BTreeSet<String>,
    /// What `caudal retention` has deleted of the rows of a topic, by its number.
    pub retired: BTreeMap<u8, Retired>,
}

impl Cut {
    /// Takes the committed positions of the processor, of both stages in one request. Where a group has
    /// forgotten its offsets, the last state block says where its task stands, as for the task itself.
    pub fn take_positions(&mut self, kafka: &Kafka, heads: &BTreeMap<TaskId, Head>) -> Result<()> {
        let offsets = Offsets::connect(kafka, Isolation::ReadCommitted, GROUP)?;
        let of = |topic: &str| -> Vec<(Arc<str>, i32)> {
            (0..self.partitions).map(|partition| (Arc::from(topic), partition)).collect()
        };
        let (input, partials) = (of(topics::TRANSACCIONES), of(topics::PARCIALES));
        let all: Vec<_> = input.iter().chain(&partials).cloned().collect();
        let committed = committed(&offsets, &all)?;
        let next = |stage: Stage, at: &(Arc<str>, i32)| {
            let block =
                || heads.get(&TaskId { stage, partition: at.1 }).map(|head| head.next_offset);
            // Neither committed nor a block: nothing processed.
            committed
                .get(at)
                .and_then(|c| c.as_ref().map(|c| c.next_offset))
                .or_else(block)
                .unwrap_or(0)
        };
        self.input = input.iter().map(|at| next(Stage::Account, at)).collect();
        self.partials = partials.iter().map(|at| next(Stage::Group, at)).collect();
        Ok(())
    }

    /// Whether the sink has stored (or refused) the record at a place.
    pub fn is_stored(&self, place: Place) -> bool {
        self.stored.get(&(place.topic(), place.partition())).is_some_and(|n| place.offset() < *n)
    }

    /// Rows of a topic whose time is before this, in microseconds, may have been deleted on purpose.
    pub fn retired_before(&self, topic: u8) -> i64 {
        self.retired.get(&topic).map_or(i64::MIN, |retired| retired.before)
    }

    /// Next offset of `transacciones` in a partition.
    pub fn input_end(&self, partition: i32) -> i64 {
        at(&self.input, partition).unwrap_or(0)
    }

    /// Next offset of `caudal_parciales` in a partition.
    pub fn partials_end(&self, partition: i32) -> i64 {
        at(&self.partials, partition).unwrap_or(0)
    }

    /// First offset of a topic's partition.
    pub fn first(&self, topic: u8, partition: i32) -> i64 {
        self.first.get(&topic).and_then(|all| at(all, partition)).unwrap_or(0)
    }

    /// Whether retention has cut a topic's partition.
    pub fn is_cut(&self, topic: u8, partition: i32) -> bool {
        self.first(topic, partition) > 0
    }

    /// Whether retention has cut any partition of a topic.
    pub fn any_cut(&self, topic: u8) -> bool {
        self.first.get(&topic).is_some_and(|all| all.iter().any(|first| *first > 0))
    }

    /// Whether the whole history of a partition is there, from the raw records to the valid ones,
    /// and that of every partition whose keys have come to it: then its stream time is known at
    /// every record.
    pub fn is_whole(&self, partition: i32) -> bool {
        let is_cut = |p| self.is_cut(super::place::INPUT, p) || self.is_cut(VALID, p);
        (0..self.partitions).filter(|p| self.eras.may_share(*p, partition)).all(|p| !is_cut(p))
    }
}

fn at(all: &[i64], partition: i32) -> Option<i64> {
    all.get(usize::try_from(partition).ok()?).copied()
}

/// What the header `caudal.source` says: partition and offset of the cause.
pub fn source_of(record: &Record) -> Option<(i32, i64)> {
    position(record.header(headers::SOURCE)?)
}

/// Reads `<partition>@<offset>`.
pub fn position(text: &str) -> Option<(i32, i64)> {
    let (partition, offset) = text.split_once('@')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

type Positions = BTreeMap<(Arc<str>, i32), Option<Committed>>;

/// Asks until no offset is of an open txn, which its broker ends within a minute.
fn committed(offsets: &Offsets, all: &[(Arc<str>, i32)]) -> Result<Positions> {
    const TRIES: usize = 300;
    for _ in 1..TRIES {
        match offsets.committed(all) {
            Err(error) if error.transient => {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            other => return Ok(other?),
        }
    }
    Ok(offsets.committed(all)?)
}
