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
use caudal_query::stream;
use caudal_sql::catalog::Source;
use caudal_sql::row::GenericRow;
use caudal_sql::value::to_text;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the table is brought up to date.
const EVERY: Duration = Duration::from_secs(1);
/// How long reading may hold up a batch.
const SLICE: Duration = Duration::from_millis(20);
/// The table has one partition.
const PARTITION: i32 = 0;

/// The reference table, or none.
#[derive(Debug)]
pub struct Tables {
    /// The table's declaration.
    source: Option<Arc<Source>>,
    rows: FxHashMap<Box<str>, GenericRow>,
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
            source: shared.table(),
            rows: FxHashMap::default(),
            offset: 0,
            as_of: None,
            reading_since: None,
            is_used: shared.table().is_some(),
        }
    }

    /// Next offset of the table's topic.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// A row.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&GenericRow> {
        self.rows.get(key)
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
        let Some(source) = &self.source else { return };
        match row_of(source, record) {
            Ok((key, Some(row))) => {
                self.rows.insert(key, row);
            }
            Ok((key, None)) => {
                self.rows.remove(&key);
            }
            Err(error) => {
                tracing::warn!(offset = record.offset, %error, "row of the reference table");
            }
        }
    }
}

/// A record of the table's topic as its statement declares it: its key as text, and the row; none
/// where it is gone.
fn row_of(source: &Source, record: &Record) -> Result<(Box<str>, Option<GenericRow>), String> {
    let incoming = stream::read(source, record)?.ok_or("a record from before 1970")?;
    let (Some(key), Some(column)) = (incoming.key.first(), source.key_columns().next()) else {
        return Err("a row without a key".into());
    };
    if key.is_null() {
        return Err("a row without a key".into());
    }
    let key = to_text(key, &column.kind).into();
    Ok((key, (!incoming.tombstone).then_some(incoming.row)))
}
