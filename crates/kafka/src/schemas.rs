//! The schemas in `caudal_esquemas`: keys are ids, values are the schemas' texts.

use crate::args::Kafka;
use crate::error::Result;
use crate::log_reader::LogReader;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::topics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// All of them, by id; a key that is no number is nobody's.
///
/// # Errors
/// When the topic cannot be read within `patience`.
pub fn published(kafka: &Kafka, patience: Duration) -> Result<Vec<(u32, String)>> {
    let mut reader = LogReader::connect(kafka, topics::ESQUEMAS)?;
    reader.add(0, None);
    let mut schemas = BTreeMap::new();
    reader.read_all::<crate::Error>(patience, |record| {
        let text = |bytes: Option<&[u8]>| {
            bytes.and_then(|bytes| std::str::from_utf8(bytes).ok().map(str::to_owned))
        };
        let id = text(record.key.as_deref()).and_then(|key| key.parse::<u32>().ok());
        match (id, text(record.value.as_deref())) {
            (Some(id), Some(schema)) => schemas.insert(id, schema),
            (Some(id), None) => schemas.remove(&id),
            (None, _) => None,
        };
        Ok(())
    })?;
    Ok(schemas.into_iter().collect())
}

/// The record that publishes one.
#[must_use]
pub fn publication(id: u32, text: &str) -> Outbox {
    let record = OutRecord {
        origin: None,
        topic: Arc::from(topics::ESQUEMAS),
        partition: 0,
        key: Some(id.to_string().into_bytes()),
        value: Some(text.as_bytes().to_vec()),
        headers: Vec::new(),
    };
    Outbox { records: vec![record], positions: Vec::new() }
}
