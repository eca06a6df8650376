//! Publishes the schema of a Transaction before its first use.

use anyhow::{Result, anyhow};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::schema::Schema;
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::txn::TxnProducer;
use caudal_service::exit::Halt;
use std::sync::Arc;
use std::time::Duration;

/// Makes sure that `caudal_esquemas` has the schema: reads it to its end, and where it is absent
/// commits it in a txn of its own.
///
/// # Errors
/// [`Halt`] when another schema has the same id; otherwise when Kafka does not answer.
pub fn publish(
    kafka: &Kafka,
    producer: &mut TxnProducer,
    schema: &Schema,
    patience: Duration,
) -> Result<()> {
    let key = schema.id.to_string();
    let mut reader = LogReader::connect(kafka, topics::ESQUEMAS)?;
    reader.add(0, None);
    let mut published: Option<Box<[u8]>> = None;
    reader.read_all::<anyhow::Error>(patience, |record| {
        if record.key.as_deref() == Some(key.as_bytes()) {
            published = record.value;
        }
        Ok(())
    })?;
    match published {
        Some(text) if *text == *schema.json.as_bytes() => return Ok(()),
        Some(_) => {
            return Err(Halt(format!(
                "{} has another schema under id {key} than this version's {}: their records would \
                 be mistaken for each other. Stop whatever wrote it, or use another cluster",
                topics::ESQUEMAS,
                schema.name
            ))
            .into());
        }
        None => {}
    }
    let record = OutRecord {
        origin: None,
        topic: Arc::from(topics::ESQUEMAS),
        partition: 0,
        key: Some(key.into_bytes()),
        value: Some(schema.json.clone().into_bytes()),
        headers: Vec::new(),
    };
    let mut outbox = Outbox { records: vec![record], positions: Vec::new() };
    producer.commit(&mut outbox, None).map_err(|e| {
        anyhow!("cannot publish the schema to {}: {e}; start again", topics::ESQUEMAS)
    })?;
    tracing::info!("published schema {} with id {}", schema.name, schema.id);
    Ok(())
}
