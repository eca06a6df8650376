//! Streams beside `transacciones_validas`: topics that the file declares, and those that its own
//! queries write.

use crate::group::value;
use caudal_core::avro::unframe;
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::row::RowSchema;
use caudal_core::time::MAX_AHEAD;
use caudal_sql::avro::Schemas;
use caudal_sql::catalog::{Format, Source};
use caudal_sql::execution::{self, Incoming};
use caudal_sql::row::{GenericRow, Position};
use caudal_sql::value::Value;
use caudal_sql::wire;
use std::sync::Arc;

/// A stream, and how its records are read.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its declaration.
    pub source: Arc<Source>,
    /// Of a query's own rows: their schema, and its id.
    pub rows: Option<(Arc<RowSchema>, u32)>,
}

impl Stream {
    /// Whether its writers' schemas must be learnt.
    #[must_use]
    pub fn has_foreign_schemas(&self) -> bool {
        self.rows.is_none() && self.source.value_format == Format::Avro
    }

    /// The schema id that a record must be read by, where that must be learnt.
    #[must_use]
    pub fn schema_id(&self, record: &Record) -> Option<u32> {
        let value = record.value.as_deref().filter(|_| self.has_foreign_schemas())?;
        Some(unframe(value)?.0)
    }

    /// A record as a row; `None` of one without a value, or from before 1970.
    ///
    /// # Errors
    /// What is wrong with it, in words. A time further ahead of the record's own timestamp than
    /// [`MAX_AHEAD`] is wrong: it would close the windows of everybody else.
    pub fn read(&self, record: &Record, schemas: &Schemas) -> Result<Option<GenericRow>, String> {
        let row = match &self.rows {
            None => {
                read(&self.source, record, schemas)?.filter(|read| !read.tombstone).map(|r| r.row)
            }
            Some((schema, id)) => self.read_row(schema, *id, record)?,
        };
        let latest = record.timestamp.saturating_mul(1000).saturating_add(MAX_AHEAD);
        match &row {
            Some(row) if row.position.rowtime.saturating_mul(1000) > latest => {
                Err(format!("its time, {} ms, lies in the future", row.position.rowtime))
            }
            _ => Ok(row),
        }
    }

    fn read_row(
        &self,
        schema: &RowSchema,
        id: u32,
        record: &Record,
    ) -> Result<Option<GenericRow>, String> {
        let Some(bytes) = record.value.as_deref() else { return Ok(None) };
        let (found, body) = unframe(bytes).ok_or("its value has no Confluent framing")?;
        if found != id {
            return Err(format!("it was written with schema id {found}, the query's is {id}"));
        }
        let cells = schema.decode(body).map_err(|e| format!("its value cannot be read: {e}"))?;
        let values: Result<Vec<Value<'static>>, String> =
            self.source.columns.iter().zip(cells).map(|(c, cell)| value(cell, &c.kind)).collect();
        let values = values?;
        let micros = record.header(headers::ROWTIME).and_then(|text| text.parse::<i64>().ok());
        let timestamp = micros.map_or(record.timestamp, |micros| micros.div_euclid(1000));
        let rowtime = execution::event_time(&self.source, &values, timestamp, false)?;
        let Some(rowtime) = rowtime.filter(|rowtime| *rowtime >= 0) else { return Ok(None) };
        let position =
            Position { rowtime, partition: record.partition, offset: record.offset, window: None };
        Ok(Some(GenericRow { values, position }))
    }
}

/// A record of a declared topic. `None` of one from before 1970.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(
    source: &Source,
    record: &Record,
    schemas: &Schemas,
) -> Result<Option<Incoming>, String> {
    let key = wire::key(source, record.key.as_deref()).map_err(|e| e.to_string())?;
    let value = wire::value(source, record.value.as_deref(), schemas).map_err(|e| e.to_string())?;
    let flat = execution::Record {
        topic: source.topic.clone(),
        key,
        value,
        timestamp: record.timestamp,
        window: None,
    };
    let mut incoming = execution::read(source, &flat, record.offset)?;
    if let Some(incoming) = &mut incoming {
        incoming.row.position.partition = record.partition;
    }
    Ok(incoming)
}
