//! Queries run over records one by one, with a commit after each, in one thread: what
//! `caudal queries test` shows, and the reference that an engine can be compared with.
//!
//! Nothing is evicted and everything is a map: it is meant to be plainly right, not fast.

mod files;
mod groups;

pub use files::{FileError, Input, read_inputs, read_outputs};

use crate::ast::SourceKind;
use crate::catalog::{Catalog, OutputColumn, Query, Source};
use crate::codec::{decode_columns, encode_columns};
use crate::expr::EvalError;
use crate::json::Json;
use crate::row::{GenericRow, JoinedRow, Position, RowView};
use crate::value::Value;
use crate::value_bytes;
use caudal_core::avro::Writer;
use groups::Groups;
use std::collections::{BTreeMap, BTreeSet};

/// A record of a topic, as test files write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Json,
    /// Its value; null is a tombstone.
    pub value: Json,
    /// Its timestamp in milliseconds.
    pub timestamp: i64,
    /// The window in its key: start and end in milliseconds, and whether it is a session.
    pub window: Option<(i64, i64, bool)>,
}

/// A record that a query could not compute, or not read, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query {query}: {message}")]
pub struct RecordError {
    /// The query, or the source that cannot be read.
    pub query: String,
    /// What happened.
    pub message: String,
}

/// An amount left the range of its type: the query stops rather than wrap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query {0}: a sum left the range of 128 bits")]
pub struct Overflow(pub String);

/// The bytes of a key: equal keys, equal bytes.
pub(crate) type KeyBytes = Vec<u8>;

pub(crate) fn key_bytes<'v>(values: impl IntoIterator<Item = &'v Value<'v>>) -> KeyBytes {
    let mut out = Writer::new();
    values.into_iter().for_each(|value| value_bytes::write(value, &mut out));
    out.into_bytes()
}

/// What one query remembers.
#[derive(Default)]
struct State {
    groups: Groups,
    /// Keys (and windows) of which a row was given and not yet taken back.
    given: BTreeSet<(KeyBytes, Option<(i64, i64)>)>,
}

/// A row that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The row.
    pub row: GenericRow,
    /// The key's columns.
    pub key: Vec<Value<'static>>,
    /// Whether the record's value is null.
    pub tombstone: bool,
}

/// Running queries.
pub struct Execution<'c> {
    catalog: &'c Catalog,
    states: Vec<State>,
    /// Rows of tables that are joined or read, by table and key.
    tables: BTreeMap<String, BTreeMap<KeyBytes, GenericRow>>,
    /// Next offset of each topic.
    offsets: BTreeMap<String, i64>,
    outputs: Vec<Record>,
    /// What could not be read or computed, in the order of the records.
    pub errors: Vec<RecordError>,
}

impl<'c> Execution<'c> {
    /// The queries of a catalog, before any record.
    #[must_use]
    pub fn new(catalog: &'c Catalog) -> Execution<'c> {
        Execution {
            catalog,
            states: catalog.queries.iter().map(|_| State::default()).collect(),
            tables: BTreeMap::new(),
            offsets: BTreeMap::new(),
            outputs: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Reads a record, and gives what the queries make of it, those of queries over queries
    /// included.
    ///
    /// # Errors
    /// [`Overflow`].
    pub fn process(&mut self, record: &Record) -> Result<Vec<Record>, Overflow> {
        self.deliver(record)?;
        Ok(std::mem::take(&mut self.outputs))
    }

    fn deliver(&mut self, record: &Record) -> Result<(), Overflow> {
        let catalog = self.catalog;
        let offset = self.offsets.entry(record.topic.clone()).or_insert(0);
        let position = *offset;
        *offset += 1;
        for source in catalog.sources.values().filter(|source| source.topic == record.topic) {
            let used = catalog.queries.iter().any(|query| {
                query.from == source.name
                    || query.join.as_ref().is_some_and(|join| join.table == source.name)
            });
            if !used {
                continue;
            }
            match read(source, record, position) {
                Ok(Some(incoming)) => self.take(source, &incoming)?,
                Ok(None) => {}
                Err(message) => {
                    self.errors.push(RecordError { query: source.name.clone(), message });
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, source: &Source, incoming: &Incoming) -> Result<(), Overflow> {
        if source.kind == SourceKind::Table {
            if incoming.key.iter().all(Value::is_null) {
                return Ok(());
            }
            let table = self.tables.entry(source.name.clone()).or_default();
            let key = key_bytes(&incoming.key);
            if incoming.tombstone {
                table.remove(&key);
            } else {
                table.insert(key, incoming.row.clone());
            }
        }
        for number in 0..self.catalog.queries.len() {
            if self.catalog.queries[number].from == source.name {
                self.run(number, source, incoming)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, number: usize, source: &Source, incoming: &Incoming) -> Result<(), Overflow> {
        let query = &self.catalog.queries[number];
        let Some(join) = &query.join else {
            return self.run_row(number, &incoming.row, incoming);
        };
        // As in Kafka Streams, a record without key or value joins nothing.
        let mut errors = Vec::new();
        let key = join.key.value_or_null(&incoming.row, &mut errors).into_owned();
        self.report(query, errors);
        if incoming.tombstone || key.is_null() {
            return Ok(());
        }
        let table = self.tables.get(&join.table);
        let right = table.and_then(|rows| rows.get(&key_bytes([&key]))).cloned();
        if right.is_none() && !join.left {
            return Ok(());
        }
        let left_columns = source.row_columns().len();
        let row = JoinedRow { left: &incoming.row, left_columns, right: right.as_ref() };
        self.run_row(number, &row, incoming)
    }

    fn run_row<R: RowView>(
        &mut self,
        number: usize,
        row: &R,
        incoming: &Incoming,
    ) -> Result<(), Overflow> {
        let query = &self.catalog.queries[number];
        let mut errors = Vec::new();
        let passes = match &query.filter {
            None => true,
            Some(_) if incoming.tombstone => false,
            Some(filter) => filter.holds(row).unwrap_or_else(|error| {
                errors.push(error);
                false
            }),
        };
        if let Some(aggregation) = &query.aggregation {
            if passes && !incoming.tombstone {
                let groups = &mut self.states[number].groups;
                let position = incoming.row.position;
                let changed = groups
                    .add(aggregation, row, position, &mut errors)
                    .map_err(|_| Overflow(query.name.clone()))?;
                for change in changed {
                    self.give_group(number, change)?;
                }
            }
            self.report(query, errors);
            return Ok(());
        }
        if !passes && query.output.kind == SourceKind::Stream {
            self.report(query, errors);
            return Ok(());
        }
        let source = &self.catalog.sources[&query.from];
        let is_key = |at: usize| source.columns.get(at).is_some_and(|column| column.key);
        let of = |key: bool, errors: &mut Vec<EvalError>| -> Vec<Value<'static>> {
            let columns = query.columns.iter().filter(|column| column.key == key);
            let value = |c: &OutputColumn| {
                // As in ksqlDB, a new key of a tombstone knows the old key alone.
                if incoming.tombstone && query.repartitions && !c.value.reads_only(&is_key) {
                    return Value::Null;
                }
                c.value.value_or_null(row, errors).into_owned()
            };
            columns.map(value).collect()
        };
        let key = of(true, &mut errors);
        let gone = incoming.tombstone || !passes;
        let values = if gone { None } else { Some(of(false, &mut errors)) };
        self.report(query, errors);
        let position = incoming.row.position;
        if query.output.kind == SourceKind::Table {
            return self.give_row(number, key, values, position.rowtime, None);
        }
        let record = written(query, &key, values.as_deref(), position.rowtime, position.window);
        self.emit(record)
    }

    fn give_group(&mut self, number: usize, change: groups::Change) -> Result<(), Overflow> {
        let query = &self.catalog.queries[number];
        let mut errors = Vec::new();
        let row = change.row;
        let holds =
            query.aggregation.as_ref().and_then(|a| a.having.as_ref()).is_none_or(|having| {
                row.is_none()
                    || having.holds(row.as_deref().unwrap_or_default()).unwrap_or_else(|error| {
                        errors.push(error);
                        false
                    })
            });
        let values = row.as_deref().filter(|_| holds).map(|row| {
            let columns = query.columns.iter().filter(|column| !column.key);
            columns
                .map(|c| c.value.value_or_null(row, &mut errors).into_owned())
                .collect::<Vec<_>>()
        });
        // The key's columns are the grouping expressions alone.
        let group: Vec<Value<'static>> = change.group;
        let keys = query.columns.iter().filter(|column| column.key);
        let key =
            keys.map(|c| c.value.value_or_null(&group[..], &mut errors).into_owned()).collect();
        self.report(query, errors);
        self.give_row(number, key, values, change.timestamp, change.window)
    }

    /// Gives a row of a table, or takes back the one that was given before.
    fn give_row(
        &mut self,
        number: usize,
        key: Vec<Value<'static>>,
        values: Option<Vec<Value<'static>>>,
        timestamp: i64,
        window: Option<(i64, i64)>,
    ) -> Result<(), Overflow> {
        let query = &self.catalog.queries[number];
        let given = &mut self.states[number].given;
        let name = (key_bytes(&key), window);
        let goes_on = if values.is_some() {
            given.insert(name);
            true
        } else {
            given.remove(&name)
        };
        if !goes_on {
            return Ok(());
        }
        self.emit(written(query, &key, values.as_deref(), timestamp, window))
    }

    fn emit(&mut self, record: Option<Record>) -> Result<(), Overflow> {
        let Some(record) = record else { return Ok(()) };
        self.outputs.push(record.clone());
        self.deliver(&record)
    }

    fn report(&mut self, query: &Query, errors: Vec<EvalError>) {
        let of = |error: EvalError| RecordError { query: query.name.clone(), message: error.0 };
        self.errors.extend(errors.into_iter().map(of));
    }
}

/// A record as a row of its source; its partition is 0. `None` for one before 1970.
///
/// # Errors
/// When its key or value is not what the source declares, or its event time is missing.
pub fn read(source: &Source, record: &Record, offset: i64) -> Result<Option<Incoming>, String> {
    let text = |error: crate::codec::DecodeError| error.to_string();
    let keys: Vec<_> = source.key_columns().collect();
    // A single key column is written bare, whatever the format.
    let key =
        decode_columns(&record.key, &keys, source.key_format, keys.len() > 1).map_err(text)?;
    let columns = source.value_columns();
    let value = decode_columns(&record.value, &columns, source.value_format, source.wrapped)
        .map_err(text)?;
    let tombstone = value.is_none();
    let key = key.unwrap_or_else(|| vec![Value::Null; keys.len()]);
    let mut from_key = key.clone().into_iter();
    let mut from_value = value.unwrap_or_default().into_iter();
    let values: Vec<Value<'static>> = source
        .columns
        .iter()
        .map(|c| if c.key { from_key.next() } else { from_value.next() }.unwrap_or_default())
        .collect();
    let rowtime = match event_time(source, &values, record.timestamp, tombstone)? {
        Some(rowtime) if rowtime >= 0 => rowtime,
        _ => return Ok(None),
    };
    let window = record.window.map(|(start, end, _)| (start, end));
    let position = Position { rowtime, partition: 0, offset, window };
    Ok(Some(Incoming { row: GenericRow { values, position }, key, tombstone }))
}

/// The event time of a row in milliseconds: its record's timestamp, unless TIMESTAMP names a column.
///
/// # Errors
/// When that column holds none.
pub fn event_time(
    source: &Source,
    values: &[Value<'static>],
    timestamp: i64,
    tombstone: bool,
) -> Result<Option<i64>, String> {
    let Some(column) = source.timestamp.as_ref().filter(|_| !tombstone) else {
        return Ok(Some(timestamp));
    };
    match (&values[column.index], &column.pattern) {
        (Value::Null, _) => Err("the column of TIMESTAMP is null".to_owned()),
        (Value::Text(text), Some(pattern)) => {
            let micros = pattern.parse(text, &jiff::tz::TimeZone::UTC)?;
            Ok(Some(micros.div_euclid(1_000)))
        }
        (Value::Timestamp(micros), _) => Ok(Some(micros.div_euclid(1_000))),
        (value, _) => Ok(value.as_long()),
    }
}

/// The output record of a query.
fn written(
    query: &Query,
    key: &[Value<'_>],
    values: Option<&[Value<'_>]>,
    timestamp: i64,
    window: Option<(i64, i64)>,
) -> Option<Record> {
    let output = &query.output;
    let keys: Vec<_> = output.key_columns().collect();
    let json_key = match keys.len() {
        0 => Json::Null,
        1 if key[0].is_null() => Json::Null,
        // A key that was null stays null; one that was made of NULLs is an object of nulls.
        _ if !query.repartitions && key.iter().all(Value::is_null) => Json::Null,
        count => encode_columns(key, &keys, output.key_format, count > 1),
    };
    let columns = output.value_columns();
    let value = values.map_or(Json::Null, |values| {
        encode_columns(values, &columns, output.value_format, output.wrapped)
    });
    let mut all: Vec<Value<'static>> = Vec::new();
    all.extend(key.iter().map(|value| value.clone().into_owned()));
    all.extend(values.unwrap_or_default().iter().map(|value| value.clone().into_owned()));
    let timestamp = match event_time(output, &all, timestamp, values.is_none()) {
        Ok(Some(timestamp)) if timestamp >= 0 => timestamp,
        _ => return None,
    };
    let session = output.window == Some(crate::catalog::KeyWindow::Session);
    Some(Record {
        topic: output.topic.clone(),
        key: json_key,
        value,
        timestamp,
        window: window.map(|(start, end)| (start, end, session)),
    })
}
