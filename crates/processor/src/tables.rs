//! The reference table that queries join: a compacted topic in memory.
//!
//! A task starts only when the table has been read to an end that was captured after the task was
//! assigned: so it is never older than the table that the task's last block was joined with, and a
//! first record never misses a row that was there before it. The table moves on between batches
//! only, and each block says at which offset its batch was joined: every record is joined once, with
//! a table that can be named.

use crate::broker::Broker;
use crate::shared::Shared;
use anyhow::Result;
use caudal_core::decode::Record;
use caudal_kafka::log_reader::Event;
use rustc_hash::FxHashMap;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often the table is brought up to date.
const EVERY: Duration = Duration::from_secs(1);
/// How long reading may hold up a batch.
const SLICE: Duration = Duration::from_millis(20);
/// The table has one partition.
const PARTITION: i32 = 0;

type Row = Vec<(Box<str>, Box<str>)>;

/// The reference table, or none.
#[derive(Debug)]
pub struct Tables {
    /// Columns that queries use; nothing else of a row is kept.
    columns: BTreeSet<String>,
    rows: FxHashMap<Box<str>, Row>,
    /// Every record below it is in the table.
    offset: i64,
    /// When the last reading to a captured end was begun; `None` before the first.
    as_of: Option<Instant>,
    reading_since: Option<Instant>,
    is_used: bool,
}

impl Tables {
    /// Empty; used when a query joins it.
    #[must_use]
    pub fn new(shared: &Shared) -> Tables {
        Tables {
            columns: shared.joined_columns(),
            rows: FxHashMap::default(),
            offset: 0,
            as_of: None,
            reading_since: None,
            is_used: !shared.tables().is_empty(),
        }
    }

    /// Next offset of the table's topic.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// A column of a row.
    #[must_use]
    pub fn get(&self, key: &str, column: &str) -> Option<&str> {
        let row = self.rows.get(key)?;
        row.iter().find(|(name, _)| &**name == column).map(|(_, value)| &**value)
    }

    /// Whether the table holds all that was in its topic at `time`.
    #[must_use]
    pub fn is_as_of(&self, time: Instant) -> bool {
        !self.is_used || self.as_of.is_some_and(|as_of| as_of >= time)
    }

    /// Reads on for a moment, if it is time, or if somebody needs the table as of `wish`.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn follow<B: Broker>(&mut self, broker: &mut B, wish: Option<Instant>) -> Result<()> {
        if !self.is_used {
            return Ok(());
        }
        let now = broker.now();
        let Some(log) = broker.table_log() else { return Ok(()) };
        if self.reading_since.is_none() {
            let is_old =
                self.as_of.is_none_or(|as_of| now.saturating_duration_since(as_of) >= EVERY);
            if !is_old && wish.is_none_or(|wish| self.is_as_of(wish)) {
                return Ok(());
            }
            self.reading_since = Some(now);
            log.add(PARTITION, self.as_of.map(|_| self.offset));
        }
        log.step(SLICE, |event| -> Result<()> {
            match event {
                Event::Record(record) => self.apply(&record),
                Event::End(_) => self.as_of = self.reading_since.take(),
                // Its first reading: it begins again.
                Event::Cut(_) => {
                    self.rows.clear();
                    self.reading_since = None;
                }
            }
            Ok(())
        })
    }

    fn apply(&mut self, record: &Record) {
        self.offset = record.offset + 1;
        let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) else {
            tracing::warn!(offset = record.offset, "row of the reference table without a text key");
            return;
        };
        let Some(value) = record.value.as_deref() else {
            self.rows.remove(key);
            return;
        };
        let Ok(Json::Object(fields)) = serde_json::from_slice(value) else {
            tracing::warn!(offset = record.offset, "row of the reference table is no JSON object");
            return;
        };
        let kept = fields.into_iter().filter(|(name, _)| self.columns.contains(name));
        let row = kept.filter_map(|(name, value)| Some((name.into(), text_of(value)?)));
        let row: Row = row.collect();
        self.rows.insert(key.into(), row);
    }
}

fn text_of(value: Json) -> Option<Box<str>> {
    match value {
        Json::Null => None,
        Json::String(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    }
}
