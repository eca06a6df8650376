//! The reference tables that queries join: compacted topics in memory.
//!
//! A task starts only when every table has been read to an end that was captured after the task was
//! assigned: so it is never older than the tables that the task's last block was joined with, and a
//! first record never misses a row that was there before it. The tables move on between batches
//! only, and each block says how far they had been read when its batch was joined.

use crate::broker::Broker;
use crate::shared::{Reference, Shared};
use anyhow::Result;
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_kafka::log_reader::Event;
use caudal_query::stream;
use caudal_sql::avro::Schemas;
use caudal_sql::catalog::Source;
use caudal_sql::row::GenericRow;
use caudal_sql::value::to_text;
use rustc_hash::FxHashMap;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a table is brought up to date.
const EVERY: Duration = Duration::from_secs(1);
/// How long a schema that was not there is not looked for again: a look reads a small topic whole.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long reading may hold up a batch.
const SLICE: Duration = Duration::from_millis(20);

/// How far the reference tables had been read when a batch was joined with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadTo {
    /// The sum of their partitions' next offsets. Each of them only grows, so that a lower sum of
    /// the same tables is an older one.
    pub offset: i64,
    /// Which tables: a hash of their topics. 0: none, or it was not written down.
    pub tables: u32,
}

impl ReadTo {
    /// Whether these are the same tables, read less far. Others do not compare: a query that joined
    /// was dropped, or begins.
    #[must_use]
    pub fn is_older_than(self, other: ReadTo) -> bool {
        self.tables == other.tables && self.offset < other.offset
    }
}

/// One table.
#[derive(Debug)]
struct Table {
    /// Its declaration.
    source: Arc<Source>,
    rows: FxHashMap<Box<str>, GenericRow>,
    /// Per partition: every record below it is in the table.
    offsets: Vec<i64>,
    /// When the last reading to captured ends was begun; `None` before the first.
    as_of: Option<Instant>,
    reading: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    since: Instant,
    /// Partitions whose end has not come yet.
    left: usize,
    /// A partition was cut while it was read from its beginning: all of it begins again.
    is_void: bool,
}

/// The reference tables, in the order of [`Shared::tables`], and the schemas by which other streams
/// are read: what tasks look things up in.
#[derive(Debug)]
pub struct Tables {
    all: Vec<Table>,
    /// [`ReadTo::tables`].
    hash: u32,
    /// Writers' schemas of Avro values.
    pub schemas: Schemas,
    /// Ids that were not there when they were last looked for, and when that was.
    absent: BTreeSet<u32>,
    looked: Option<Instant>,
}

impl Tables {
    /// Empty.
    #[must_use]
    pub fn new(shared: &Shared) -> Tables {
        let table = |Reference { source, partitions }: &Reference| Table {
            source: Arc::clone(source),
            rows: FxHashMap::default(),
            offsets: vec![0; usize::try_from(*partitions).unwrap_or(0)],
            as_of: None,
            reading: None,
        };
        let mut topics: Vec<&str> =
            shared.tables.iter().map(|table| table.source.topic.as_str()).collect();
        // The order of the queries does not matter.
        topics.sort_unstable();
        Tables {
            hash: if topics.is_empty() { 0 } else { crc32fast::hash(topics.join(" ").as_bytes()) },
            all: shared.tables.iter().map(table).collect(),
            schemas: Schemas::default(),
            absent: BTreeSet::new(),
            looked: None,
        }
    }

    /// How far the tables were read.
    #[must_use]
    pub fn read_to(&self) -> ReadTo {
        let offset = self.all.iter().flat_map(|table| &table.offsets).sum();
        ReadTo { offset, tables: self.hash }
    }

    /// A row of the table at that place.
    #[must_use]
    pub fn get(&self, place: usize, key: &str) -> Option<&GenericRow> {
        self.all.get(place)?.rows.get(key)
    }

    /// Whether the tables hold all that was in their topics at `time`.
    #[must_use]
    pub fn are_as_of(&self, time: Instant) -> bool {
        self.all.iter().all(|table| table.is_as_of(time))
    }

    /// Learns the schemas by which these records must be read, if one of them is new. One that was
    /// not there is looked for again after a while.
    ///
    /// # Errors
    /// When `caudal_esquemas` cannot be read.
    pub fn learn<B: Broker>(
        &mut self,
        shared: &Shared,
        records: &VecDeque<(TopicPartition, Record)>,
        broker: &mut B,
    ) -> Result<()> {
        if shared.sources.iter().all(|source| !source.stream.has_foreign_schemas()) {
            return Ok(());
        }
        let id_of = |((topic, _), record): &(TopicPartition, Record)| {
            shared.sources.iter().find(|source| source.topic == *topic)?.stream.schema_id(record)
        };
        let ids: BTreeSet<u32> = records.iter().filter_map(id_of).collect();
        let now = broker.now();
        let rests = self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_AGAIN);
        let is_settled = |id: &u32| self.schemas.knows(*id) || rests && self.absent.contains(id);
        if ids.iter().all(is_settled) {
            return Ok(());
        }
        self.looked = Some(now);
        for (id, text) in broker.schemas()? {
            if let Err(error) = self.schemas.add(id, &text) {
                tracing::warn!(id, %error, "a schema of caudal_esquemas cannot be read");
            }
        }
        self.absent = ids.into_iter().filter(|id| !self.schemas.knows(*id)).collect();
        Ok(())
    }

    /// Reads on for a moment, if it is time, or if somebody needs the tables as of `wish`.
    ///
    /// # Errors
    /// When a topic cannot be read.
    pub fn follow<B: Broker>(&mut self, broker: &mut B, wish: Option<Instant>) -> Result<()> {
        for (place, table) in self.all.iter_mut().enumerate() {
            table.follow(place, broker, wish)?;
        }
        Ok(())
    }
}

impl Table {
    fn is_as_of(&self, time: Instant) -> bool {
        self.as_of.is_some_and(|as_of| as_of >= time)
    }

    fn follow<B: Broker>(
        &mut self,
        place: usize,
        broker: &mut B,
        wish: Option<Instant>,
    ) -> Result<()> {
        let now = broker.now();
        let log = broker.table_log(place);
        if self.reading.is_none() {
            let is_old =
                self.as_of.is_none_or(|as_of| now.saturating_duration_since(as_of) >= EVERY);
            if !is_old && wish.is_none_or(|wish| self.is_as_of(wish)) {
                return Ok(());
            }
            self.reading = Some(Reading { since: now, left: self.offsets.len(), is_void: false });
            for (partition, offset) in (0..).zip(&self.offsets) {
                log.add(partition, self.as_of.map(|_| *offset));
            }
        }
        log.step(SLICE, |event| -> Result<()> {
            match event {
                Event::Record(record) => self.apply(&record),
                Event::End(_) => self.end(false),
                Event::Cut(_) => self.end(true),
            }
            Ok(())
        })
    }

    /// A partition is read to its end, or was cut.
    fn end(&mut self, is_cut: bool) {
        let Some(reading) = &mut self.reading else { return };
        reading.left = reading.left.saturating_sub(1);
        reading.is_void |= is_cut;
        if reading.left > 0 {
            return;
        }
        if reading.is_void {
            self.rows.clear();
            self.offsets.fill(0);
        } else {
            self.as_of = Some(reading.since);
        }
        self.reading = None;
    }

    fn apply(&mut self, record: &Record) {
        let at = usize::try_from(record.partition).ok().and_then(|p| self.offsets.get_mut(p));
        if let Some(offset) = at {
            *offset = record.offset + 1;
        }
        match row_of(&self.source, record) {
            Ok((key, Some(row))) => {
                self.rows.insert(key, row);
            }
            Ok((key, None)) => {
                self.rows.remove(&key);
            }
            Err(error) => {
                let (topic, partition) = (&self.source.topic, record.partition);
                tracing::warn!(%topic, partition, offset = record.offset, %error, "row of a table");
            }
        }
    }
}

/// A record of the table's topic as its statement declares it: its key as text, and the row; none
/// where it is gone.
fn row_of(source: &Source, record: &Record) -> Result<(Box<str>, Option<GenericRow>), String> {
    let incoming =
        stream::read(source, record, &Schemas::default())?.ok_or("a record from before 1970")?;
    let (Some(key), Some(column)) = (incoming.key.first(), source.key_columns().next()) else {
        return Err("a row without a key".into());
    };
    if key.is_null() {
        return Err("a row without a key".into());
    }
    let key = to_text(key, &column.kind).into();
    Ok((key, (!incoming.tombstone).then_some(incoming.row)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::Plan;

    fn read_to(joined: &[&str], offset: i64) -> ReadTo {
        let mut file = String::new();
        for (n, table) in joined.iter().enumerate() {
            file += &format!(
                "CREATE TABLE {table} (k STRING PRIMARY KEY, c STRING) \
                 WITH (KAFKA_TOPIC='{table}', VALUE_FORMAT='JSON');
                 CREATE TABLE q{n} AS SELECT c, COUNT(*) AS n FROM transacciones_validas t \
                 JOIN {table} x ON t.merchant_id = x.k GROUP BY c;"
            );
        }
        let plans = match joined {
            [] => Vec::new(),
            _ => Plan::compile_file("f", &file).unwrap_or_else(|faults| panic!("{faults}")),
        };
        let mut tables = Tables::new(&Shared::new(plans, 1, 0));
        if let Some(table) = tables.all.first_mut() {
            table.offsets[0] = offset;
        }
        tables.read_to()
    }

    #[test]
    fn only_the_same_tables_can_be_older() {
        let both = read_to(&["a", "b"], 9);
        assert!(read_to(&["b", "a"], 8).is_older_than(both), "in whatever order");
        assert!(!read_to(&["b", "a"], 9).is_older_than(both));
        // A query that joined was dropped, or all of them.
        assert!(!read_to(&["a"], 2).is_older_than(both));
        assert!(!read_to(&[], 0).is_older_than(both));
        assert_eq!(read_to(&[], 0), ReadTo::default());
        // From before it was written down.
        assert!(!both.is_older_than(ReadTo { offset: 12, tables: 0 }));
    }
}
