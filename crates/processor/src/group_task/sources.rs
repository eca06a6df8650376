//! What is known of the source partitions, and when windows close by it.

use super::{GroupTask, Progress};
use crate::mutant::{self, Mutant};
use crate::partials::{Message, Source};
use crate::shared::{Query, Shared, TaskError};
use caudal_core::decode::Record;

/// A query that keeps windows open although they would be over by the newest source partition.
#[derive(Debug, Clone)]
pub struct Held<'a> {
    /// The query.
    pub query: &'a Query,
    /// Start of its oldest open window in microseconds; `i64::MIN` when no window has closed yet.
    pub window: i64,
    /// The source partition that is waited for.
    pub partition: i32,
    /// That partition's stream time; `i64::MIN` when it was never heard of.
    pub stream_time: i64,
    /// How far the watermark is behind the newest stream time, in microseconds.
    pub lag: i64,
}

impl Progress {
    /// How the partitions of a query's stream stand.
    fn of(&self, query: &Query) -> &[Source] {
        match query.source {
            None => &self.sources,
            Some(place) => &self.others[usize::from(place)],
        }
    }

    /// How the partition that sent a message stands; `None` of one that no query reads.
    pub(super) fn source_mut(
        &mut self,
        shared: &Shared,
        (topic, partition): (Option<&str>, i32),
    ) -> Option<&mut Source> {
        let sources = match topic {
            None => &mut self.sources,
            Some(topic) => {
                let place = shared.sources.iter().position(|source| *source.topic == *topic)?;
                self.others.get_mut(place)?
            }
        };
        sources.get_mut(usize::try_from(partition).ok()?)
    }
}

impl GroupTask {
    /// What a query waits for, for each that waits longer than a window and its grace.
    pub fn held(&self) -> impl Iterator<Item = Held<'_>> {
        let queries = self.shared.global.iter().zip(&self.queries).zip(&self.at.watermarks);
        queries.filter_map(|((query, state), watermark)| {
            let window = &query.plan.window;
            let sources = self.at.of(query);
            let newest = sources.iter().map(|s| s.stream_time).max().unwrap_or(i64::MIN);
            let slowest = sources
                .iter()
                .enumerate()
                .filter(|(_, source)| counts(source, query))
                .min_by_key(|(_, source)| source.stream_time)?;
            let lag = newest.saturating_sub(*watermark);
            let is_held = !state.is_empty() && lag > window.size.saturating_add(window.grace);
            let open =
                if *watermark == i64::MIN { i64::MIN } else { window.first_open(*watermark) };
            is_held.then(|| Held {
                query,
                window: open,
                partition: i32::try_from(slowest.0).unwrap_or(-1),
                stream_time: slowest.1.stream_time,
                lag,
            })
        })
    }

    /// A stream that no query reads any more may still have told us something; a partition that
    /// `transacciones` does not have cannot.
    pub(super) fn check_source(
        &self,
        record: &Record,
        message: &Message<'_>,
    ) -> Result<(), TaskError> {
        let is_known = usize::try_from(message.partition).is_ok_and(|p| p < self.at.sources.len());
        if message.topic.is_none() && !is_known {
            let what = format!("from source partition {}", message.partition);
            return Err(self.broken(record, what));
        }
        Ok(())
    }

    /// Windows close by the lowest stream time of all source partitions that count for the query.
    /// One that was never heard of is at minus infinity, so that its late start loses nothing. When
    /// all of them are idle, the highest: nothing is expected any more.
    pub(super) fn raise_watermark(&mut self, place: usize) {
        let query = &self.shared.global[place];
        let sources = self.at.of(query);
        let lowest = sources
            .iter()
            .filter(|source| counts(source, query))
            .filter(|source| {
                let is_absent = source.stream_time == i64::MIN;
                !(is_absent && mutant::is(Mutant::WatermarkIgnoresAbsentPartition))
            })
            .map(|source| source.stream_time)
            .min();
        let highest = || sources.iter().map(|source| source.stream_time).max();
        let now = lowest.or_else(highest).unwrap_or(i64::MIN);
        self.at.watermarks[place] = now.max(self.at.watermarks[place]);
    }
}

/// Whether a source partition still counts for a query's watermark.
fn counts(source: &Source, query: &Query) -> bool {
    query.plan.idle_timeout.is_none_or(|timeout| source.idle < timeout)
}
