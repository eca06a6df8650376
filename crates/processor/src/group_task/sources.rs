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
    /// The topic that it reads.
    pub topic: &'a str,
    /// The partition of that topic that is waited for.
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
            Some(_) if mutant::is(Mutant::OthersCloseByTheInput) => &self.sources,
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
                topic: self.shared.source_of(query),
                partition: i32::try_from(slowest.0).unwrap_or(-1),
                stream_time: slowest.1.stream_time,
                lag,
            })
        })
    }

    /// A stream that no query reads any more may still have told us something; a partition that
    /// its topic did not have when this process began cannot be passed over: windows would close
    /// without waiting for it.
    pub(super) fn check_source(
        &self,
        record: &Record,
        message: &Message<'_>,
    ) -> Result<(), TaskError> {
        let sources = match message.topic {
            None => Some(&self.at.sources),
            Some(topic) => {
                let place = self.shared.sources.iter().position(|source| *source.topic == *topic);
                place.and_then(|place| self.at.others.get(place))
            }
        };
        let Some(known) = sources.map(Vec::len) else { return Ok(()) };
        if usize::try_from(message.partition).is_ok_and(|partition| partition < known) {
            return Ok(());
        }
        let topic = message.topic.unwrap_or(&self.shared.input_topic);
        let what = format!(
            "partials from {topic}-{}, but {topic} had {known} partitions when this process \
             started: it has grown since. Start the processor again, every instance: it then \
             counts with the new ones",
            message.partition
        );
        Err(self.broken(record, what))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::TaskError;
    use caudal_query::plan::Plan;
    use std::sync::Arc;

    #[test]
    fn a_partition_that_came_after_the_start_ends_the_process() {
        let file = "CREATE STREAM a (k STRING) WITH (KAFKA_TOPIC='a', VALUE_FORMAT='JSON');
            CREATE TABLE de_a AS SELECT k, COUNT(*) AS n FROM a GROUP BY k;";
        let plans = Plan::compile_file("f", file).unwrap_or_else(|faults| panic!("{faults}"));
        let mut shared = Shared::new(plans, 2, 0);
        shared.sources[0].partitions = 3;
        let task = GroupTask::new(Arc::new(shared), 0);
        let check = |topic, partition| {
            let message = Message { topic, partition, source: None, partials: Vec::new() };
            task.check_source(&Record::default(), &message).err().map(|error| match error {
                TaskError::Broken { what, .. } => what,
                other => panic!("{other}"),
            })
        };
        assert_eq!((check(None, 1), check(Some("a"), 2)), (None, None));
        // No query reads it any more.
        assert_eq!(check(Some("b"), 7), None);
        let error = check(Some("a"), 3).unwrap();
        assert!(error.contains("a had 3 partitions") && error.contains("has grown"), "{error}");
        assert!(check(None, 2).unwrap().contains("transacciones-2"));
        assert!(check(None, -1).is_some());
    }
}
