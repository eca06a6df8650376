//! Publishes the schema of a Transaction before its first use.

use anyhow::{Result, anyhow};
use caudal_core::schema::Schema;
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_kafka::schemas::{publication, published};
use caudal_kafka::txn::TxnProducer;
use caudal_service::exit::Halt;
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
    let known = published(kafka, patience)?;
    match known.into_iter().find(|(id, _)| *id == schema.id) {
        Some((_, text)) if text == schema.json => return Ok(()),
        Some(_) => {
            return Err(Halt(format!(
                "{} has another schema under id {} than this version's {}: their records would be \
                 mistaken for each other. Stop whatever wrote it, or use another cluster",
                topics::ESQUEMAS,
                schema.id,
                schema.name
            ))
            .into());
        }
        None => {}
    }
    producer.commit(&mut publication(schema.id, &schema.json), None).map_err(|e| {
        anyhow!("cannot publish the schema to {}: {e}; start again", topics::ESQUEMAS)
    })?;
    tracing::info!("published schema {} with id {}", schema.name, schema.id);
    Ok(())
}
