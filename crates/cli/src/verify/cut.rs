//! The cut: up to where each hop has come. Taken from the end of the pipeline to its beginning, so
//! that whatever a later hop shows has its cause within what an earlier one is asked for.

use super::eras::Eras;
use super::place::{Place, VALID};
use caudal_core::decode::Record;
use caudal_core::headers;
use std::collections::{BTreeMap, BTreeSet};

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
}

impl Cut {
    /// Whether the sink has stored (or refused) the record at a place.
    pub fn is_stored(&self, place: Place) -> bool {
        self.stored.get(&(place.topic(), place.partition())).is_some_and(|n| place.offset() < *n)
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
