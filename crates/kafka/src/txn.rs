//! The transactional producer: one outbox, one txn.

use crate::args::Kafka;
use crate::consumer::GroupConsumer;
use crate::delivery::{Deliveries, Watched};
use crate::error::{Error, Result};
use crate::watchdog::Watchdog;
use caudal_core::outbox::{OutRecord, Outbox};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use crate::delivery::Written;

/// Time-out of every transactional call.
const CALL: Duration = Duration::from_secs(20);

/// How a txn ended when it did not commit.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// Aborted: nothing of it exists. Forget the batch, rewind the input, go on.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// Nobody knows: a call timed out or the connection broke. Replace the producer (its epoch
    /// fences whatever is still on its way), then look at the committed offset.
    #[error("the transaction is in doubt: {0}")]
    Doubt(String),
    /// A newer producer with the same `transactional.id` has taken over.
    #[error("fenced by a newer instance with the same transactional.id: {0}")]
    Fenced(String),
}

/// A producer with a fixed `transactional.id`.
pub struct TxnProducer {
    kafka: Kafka,
    transactional_id: String,
    watched: Option<String>,
    producer: ThreadedProducer<Deliveries>,
    watchdog: Watchdog,
}

/// The membership of a consumer as it was after a gathering.
pub struct GroupSnapshot(ConsumerGroupMetadata);

impl GroupSnapshot {
    /// Takes it. `None` when the consumer is in no group or has lost its assignment: a broker
    /// would accept offsets from such a member unchecked.
    #[must_use]
    pub fn take(consumer: &GroupConsumer) -> Option<GroupSnapshot> {
        if consumer.assignment_lost() {
            return None;
        }
        consumer.group_metadata().map(GroupSnapshot)
    }
}

impl TxnProducer {
    /// Makes the producer and ends whatever a predecessor with the same id left open. Of the
    /// topic `watched`, [`TxnProducer::commit`] gives the offsets written.
    ///
    /// # Errors
    /// When the coordinator does not answer for `patience`, or refuses.
    pub fn connect(
        kafka: &Kafka,
        transactional_id: &str,
        watched: Option<&str>,
        patience: Duration,
    ) -> Result<TxnProducer> {
        let watchdog =
            Watchdog::start().map_err(|e| Error::permanent("cannot start a thread", e))?;
        let producer = init(kafka, transactional_id, patience, &watchdog)?;
        let (kafka, transactional_id) = (kafka.clone(), transactional_id.to_owned());
        let watched = watched.map(str::to_owned);
        Ok(TxnProducer { kafka, transactional_id, watched, producer, watchdog })
    }

    /// Replaces the producer after a doubt: a new instance, whose `init_transactions` raises the
    /// epoch, so that a late request of the old one is refused (KAFKA-17754: librdkafka lacks
    /// KIP-890, and a delayed EndTxn could otherwise end a *later* txn).
    ///
    /// # Errors
    /// As [`TxnProducer::connect`].
    pub fn replace(&mut self, patience: Duration) -> Result<()> {
        self.producer = init(&self.kafka, &self.transactional_id, patience, &self.watchdog)?;
        Ok(())
    }

    /// Commits an outbox: begin, produce, positions, commit. Positions go last: the coordinator
    /// may still be writing the previous txn's markers, and refuses until it has. Gives the lowest
    /// offset written to each partition of the watched topic.
    ///
    /// # Errors
    /// A [`TxnError`] that says what is known of the txn.
    pub fn commit(
        &mut self,
        outbox: &Outbox,
        group: Option<&GroupSnapshot>,
    ) -> std::result::Result<Written, TxnError> {
        let begun = self.watchdog.call("begin_transaction", || self.producer.begin_transaction());
        begun.map_err(|e| classify(&e))?;
        match self.fill(outbox, group) {
            Ok(()) => {}
            Err(TxnError::Aborted(cause)) => return Err(self.abort(cause)),
            Err(other) => return Err(other),
        }
        self.drain()?;
        let committed =
            self.watchdog.call("commit_transaction", || self.producer.commit_transaction(CALL));
        match committed.map_err(|e| classify(&e)) {
            Err(TxnError::Aborted(cause)) => Err(self.abort(cause)),
            // `drain` has seen the queue empty. A record leaves the count only when its report is
            // destroyed, which is after the callback (rd_kafka_msg_destroy): all have run.
            other => other.map(|()| self.producer.context().take_written()),
        }
    }

    fn fill(
        &self,
        outbox: &Outbox,
        group: Option<&GroupSnapshot>,
    ) -> std::result::Result<(), TxnError> {
        self.producer.context().begin();
        outbox.records.iter().try_for_each(|record| self.send(record))?;
        let Some(group) = group else { return Ok(()) };
        let mut list = TopicPartitionList::new();
        for position in &outbox.positions {
            let mut element = list.add_partition(&position.topic, position.partition);
            element.set_metadata(&position.metadata);
            element
                .set_offset(Offset::Offset(position.next_offset))
                .map_err(|e| TxnError::Aborted(e.to_string()))?;
        }
        self.watchdog
            .call("send_offsets_to_transaction", || {
                self.producer.send_offsets_to_transaction(&list, &group.0, CALL)
            })
            .map_err(|e| classify(&e))
    }

    fn send(&self, out: &OutRecord) -> std::result::Result<(), TxnError> {
        let mut headers = OwnedHeaders::new_with_capacity(out.headers.len());
        for (key, value) in &out.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let watched = self.watched.as_deref() == Some(&*out.topic);
        let mut record: BaseRecord<'_, [u8], [u8], Watched> =
            BaseRecord::with_opaque_to(&out.topic, Watched::from(watched))
                .partition(out.partition)
                .headers(headers);
        record.key = out.key.as_deref();
        record.payload = out.value.as_deref();
        let end = Instant::now() + CALL;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back))
                    if Instant::now() < end =>
                {
                    // The bounded queue is full: the client's thread is sending meanwhile.
                    record = back;
                    sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(classify(&error)),
            }
        }
    }

    /// Waits until every record is acknowledged. `commit_transaction` alone would flush in steps
    /// of 100 ms (rust-rdkafka since 0.38), and be an order slower.
    fn drain(&self) -> std::result::Result<(), TxnError> {
        self.watchdog.call("flush", || {
            let end = Instant::now() + CALL;
            while self.producer.in_flight_count() > 0 {
                if Instant::now() >= end {
                    return Err(TxnError::Doubt("records were not acknowledged in time".into()));
                }
                sleep(Duration::from_micros(300));
            }
            Ok(())
        })
    }

    fn abort(&self, cause: String) -> TxnError {
        let failed = self.producer.context().take_failure();
        let cause = failed.map_or(cause.clone(), |delivery| format!("{cause} ({delivery})"));
        // librdkafka 4849: an abort before every request was answered can become fatal.
        if let Err(doubt) = self.drain() {
            return doubt;
        }
        match self.watchdog.call("abort_transaction", || self.producer.abort_transaction(CALL)) {
            Ok(()) => TxnError::Aborted(cause),
            Err(error) => match classify(&error) {
                TxnError::Fenced(why) => TxnError::Fenced(why),
                _ => TxnError::Doubt(format!("{cause}; the abort failed too: {error}")),
            },
        }
    }
}

fn classify(error: &KafkaError) -> TxnError {
    let text = error.to_string();
    let fenced = [Code::ProducerFenced, Code::InvalidProducerEpoch, Code::Fenced];
    if error.rdkafka_error_code().is_some_and(|code| fenced.contains(&code)) {
        return TxnError::Fenced(text);
    }
    match error {
        KafkaError::Transaction(e) if e.txn_requires_abort() => TxnError::Aborted(text),
        // The record never left: the txn can be aborted in good order.
        KafkaError::MessageProduction(_) => TxnError::Aborted(text),
        _ => TxnError::Doubt(text),
    }
}

fn init(
    kafka: &Kafka,
    transactional_id: &str,
    patience: Duration,
    watchdog: &Watchdog,
) -> Result<ThreadedProducer<Deliveries>> {
    let what = || format!("cannot start transactions as {transactional_id}");
    let end = Instant::now() + patience;
    loop {
        let producer: ThreadedProducer<Deliveries> = kafka
            .producer_config(transactional_id)
            .create_with_context(Deliveries::default())
            .map_err(|e| Error::new(what(), &e))?;
        let begun = watchdog.call("init_transactions", || producer.init_transactions(CALL));
        let Err(error) = begun else { return Ok(producer) };
        let failed = Error::new(what(), &error);
        let retriable = matches!(&error, KafkaError::Transaction(e) if e.is_retriable());
        if Instant::now() >= end || !(failed.transient || retriable) {
            return Err(failed);
        }
        tracing::warn!(error = %failed, "waiting for the transaction coordinator");
        sleep(Duration::from_millis(500));
    }
}
