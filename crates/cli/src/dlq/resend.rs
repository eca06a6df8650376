//! Sends the processor's dead letters through `transacciones` once more, each exactly once.
//!
//! A Kafka txn cannot be joined with a db_tx. So a batch has a number: it is put down at the letters
//! before the txn, written to `caudal_progreso` in the txn, and the letters are marked after it. What
//! was interrupted in between is settled by the last number that was committed; the producer's fixed
//! `transactional.id` ends whatever a predecessor left open before that is read.

use anyhow::{Context as _, Result, bail};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::{headers, topics};
use caudal_kafka::Kafka;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::txn::{TxnError, TxnProducer};
use caudal_sink::letters::Letter;
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;

const ID: &str = "caudal-dlq-redrive";
/// Key of the numbers in `caudal_progreso`; no source's, which have a slash.
const KEY: &[u8] = b"caudal.redrive";
const PATIENCE: Duration = Duration::from_secs(120);

/// The sender.
pub struct Resender {
    kafka: Kafka,
    producer: TxnProducer,
    last: i64,
}

impl Resender {
    /// Makes it, and settles what a predecessor left: gives how many letters that marked as sent.
    ///
    /// # Errors
    /// When Kafka or PostgreSQL does not answer.
    pub async fn start(kafka: &Kafka, connection: &mut PgConnection) -> Result<(Resender, u64)> {
        let (producer, last) = block_in_place(|| {
            let producer = TxnProducer::connect(kafka, ID, None, PATIENCE)?;
            Ok::<_, anyhow::Error>((producer, last_committed(kafka)?))
        })?;
        let mut resender = Resender { kafka: kafka.clone(), producer, last };
        let settled = resender.settle(connection).await?;
        Ok((resender, settled))
    }

    async fn settle(&mut self, connection: &mut PgConnection) -> Result<u64> {
        let sent = sqlx::query(
            "UPDATE dead_letters SET redriven_at = now(), replay_count = replay_count + 1
             WHERE redrive <= $1 AND redriven_at IS NULL",
        );
        let sent = sent.bind(self.last).execute(&mut *connection).await?.rows_affected();
        sqlx::query(
            "UPDATE dead_letters SET redrive = NULL WHERE redrive > $1 AND redriven_at IS NULL",
        )
        .bind(self.last)
        .execute(connection)
        .await?;
        Ok(sent)
    }

    /// Sends them.
    ///
    /// # Errors
    /// When Kafka refuses: then none was sent, and none is marked.
    pub async fn send(&mut self, connection: &mut PgConnection, letters: &[Letter]) -> Result<u64> {
        let number = self.last + 1;
        let noted = sqlx::query(
            "UPDATE dead_letters d SET redrive = $1
             FROM UNNEST($2::text[], $3::integer[], $4::bigint[]) AS n(topic, partition, \"offset\")
             WHERE d.topic = n.topic AND d.partition = n.partition AND d.\"offset\" = n.\"offset\"
                 AND d.redriven_at IS NULL",
        )
        .bind(number)
        .bind(letters.iter().map(|letter| &*letter.at.0).collect::<Vec<&str>>())
        .bind(letters.iter().map(|letter| letter.at.1).collect::<Vec<i32>>())
        .bind(letters.iter().map(|letter| letter.record.offset).collect::<Vec<i64>>())
        .execute(&mut *connection)
        .await?;
        if usize::try_from(noted.rows_affected()) != Ok(letters.len()) {
            bail!("dead_letters was changed by somebody else meanwhile; run it again");
        }
        let records = letters.iter().map(record).chain([number_record(number)]).collect();
        let mut outbox = Outbox { records, positions: Vec::new() };
        let sent = block_in_place(|| self.producer.commit(&mut outbox, None));
        let failure = match sent {
            Ok(_) => {
                self.last = number;
                None
            }
            Err(TxnError::Doubt(why)) => {
                eprintln!("caudal: {why}; replacing the Kafka producer to find out");
                self.last = block_in_place(|| {
                    self.producer.replace(PATIENCE)?;
                    last_committed(&self.kafka)
                })?;
                (self.last < number).then_some(why)
            }
            Err(error) => Some(error.to_string()),
        };
        let settled = self.settle(connection).await?;
        match failure {
            None => Ok(settled),
            Some(why) => bail!("Kafka refused dead letters, none of these was sent: {why}"),
        }
    }
}

/// What goes into `transacciones`: key and value as they were, into the partition where they were.
fn record(letter: &Letter) -> OutRecord {
    let replays = i64::from(letter.replay_count) + 1;
    OutRecord {
        origin: None,
        topic: Arc::from(topics::TRANSACCIONES),
        // Partitions are never taken away; a key that belongs elsewhere is moved by the processor.
        partition: letter.source.1.unwrap_or(letter.at.1),
        key: letter.record.key.as_deref().map(<[u8]>::to_vec),
        value: letter.record.value.as_deref().map(<[u8]>::to_vec),
        headers: vec![(headers::REPLAYS, replays.to_string().into_bytes())],
    }
}

fn number_record(number: i64) -> OutRecord {
    OutRecord {
        origin: None,
        topic: Arc::from(topics::PROGRESO),
        partition: 0,
        key: Some(KEY.to_vec()),
        value: Some(number.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

fn last_committed(kafka: &Kafka) -> Result<i64> {
    let mut reader = LogReader::connect(kafka, topics::PROGRESO)?;
    reader.add(0, None);
    let mut last = 0;
    reader.read_all::<anyhow::Error>(PATIENCE, |record| {
        if let (Some(KEY), Some(value)) = (record.key.as_deref(), record.value.as_deref()) {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            last = number.context("caudal_progreso caudal.redrive: the value is no number")?;
        }
        Ok(())
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::decode::Record;
    use caudal_core::reject::Reason;

    #[test]
    fn a_letter_goes_back_to_where_it_was_and_counts_on() {
        let letter = Letter {
            at: (Arc::from(topics::DLQ), 3),
            record: Record { value: Some((*b"{}").into()), ..Record::default() },
            reason: Reason::Amount,
            error: String::new(),
            headers: "{}".into(),
            original_size: Some(2),
            source: (Some(topics::TRANSACCIONES.into()), Some(5), Some(7)),
            replay_count: 1,
            times: (String::new(), None),
        };
        let sent = record(&letter);
        assert_eq!((&*sent.topic, sent.partition, sent.key.as_deref()), ("transacciones", 5, None));
        assert_eq!(sent.headers, [(headers::REPLAYS, b"2".to_vec())]);
        assert!(letter.is_whole());
        assert!(!Letter { original_size: Some(3), ..letter }.is_whole());
    }
}
