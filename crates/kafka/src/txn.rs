//! The producer: one outbox, one txn.

use crate::args::{Kafka, RECORD_LIMIT};
use crate::consumer::{GroupConsumer, Member};
use crate::delivery::{Deliveries, Failure, Tag};
use crate::error::{Error, Result};
use crate::txn_error::{classify, classify_commit, flaw};
use crate::watchdog::Watchdog;
use caudal_core::outbox::{OutRecord, Outbox, Position};
use clap::ValueEnum;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use crate::delivery::Written;
pub use crate::txn_error::{Flaw, Refusal, TxnError};

/// Time-out of every transactional call.
const CALL: Duration = Duration::from_secs(20);
/// A commit that took this long may have asked more than once (`socket.timeout.ms`).
const ONE_REQUEST: Duration = Duration::from_secs(10);

/// Most of one partition that is handed over at once: below `batch.size` and `batch.num.messages`.
const WAVE_BYTES: usize = 980_000;
const WAVE_RECORDS: usize = 10_000;
/// What the format adds to a record: lengths, deltas, counts.
const OVERHEAD: usize = 32;

type Outcome<T> = std::result::Result<T, TxnError>;

/// What a commit promises; named as Kafka Streams' `processing.guarantee` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Guarantee {
    /// Records and positions in one txn.
    #[value(name = "exactly_once_v2")]
    ExactlyOnceV2,
    /// Records first, acknowledged; then the positions. What fails in between is processed again.
    AtLeastOnce,
}

/// A producer of outboxes, with a fixed `transactional.id` unless it works at least once.
pub struct TxnProducer {
    kafka: Kafka,
    transactional_id: String,
    guarantee: Guarantee,
    watched: Option<String>,
    producer: ThreadedProducer<Deliveries>,
    /// Whether a broker refused records of an aborted txn. librdkafka then misses their sequence
    /// numbers ("skipped sequence numbers") and would abort the next txn as well.
    is_spent: bool,
    /// Bytes of each record of the present outbox.
    sizes: Vec<usize>,
    watchdog: Watchdog,
}

/// The membership of a consumer as it was after a gathering.
pub struct GroupSnapshot {
    metadata: ConsumerGroupMetadata,
    member: Member,
}

impl GroupSnapshot {
    /// Takes it. `None` when the consumer is in no group or has lost its assignment: a broker
    /// would accept offsets from such a member unchecked.
    #[must_use]
    pub fn take(consumer: &GroupConsumer) -> Option<GroupSnapshot> {
        if consumer.assignment_lost() {
            return None;
        }
        let metadata = consumer.group_metadata()?;
        Some(GroupSnapshot { metadata, member: consumer.member() })
    }
}

impl TxnProducer {
    /// Makes a transactional producer and ends whatever a predecessor with the same id left open.
    /// Of the topic `watched`, [`TxnProducer::commit`] gives the offsets written.
    ///
    /// # Errors
    /// When the coordinator does not answer for `patience`, or refuses.
    pub fn connect(
        kafka: &Kafka,
        transactional_id: &str,
        watched: Option<&str>,
        patience: Duration,
    ) -> Result<TxnProducer> {
        let guarantee = Guarantee::ExactlyOnceV2;
        TxnProducer::connect_with(kafka, transactional_id, guarantee, watched, patience)
    }

    /// As [`TxnProducer::connect`], with the guarantee chosen.
    ///
    /// # Errors
    /// As [`TxnProducer::connect`].
    pub fn connect_with(
        kafka: &Kafka,
        transactional_id: &str,
        guarantee: Guarantee,
        watched: Option<&str>,
        patience: Duration,
    ) -> Result<TxnProducer> {
        let watchdog =
            Watchdog::start().map_err(|e| Error::permanent("cannot start a thread", e))?;
        let producer = start(kafka, transactional_id, guarantee, patience, &watchdog)?;
        let (kafka, transactional_id) = (kafka.clone(), transactional_id.to_owned());
        let watched = watched.map(str::to_owned);
        Ok(TxnProducer {
            kafka,
            transactional_id,
            guarantee,
            watched,
            producer,
            is_spent: false,
            sizes: Vec::new(),
            watchdog,
        })
    }

    /// Replaces the producer after a doubt: a new instance, whose `init_transactions` raises the
    /// epoch, so that a late request of the old one is refused (KAFKA-17754: librdkafka lacks
    /// KIP-890, and a delayed EndTxn could otherwise end a *later* txn).
    ///
    /// # Errors
    /// As [`TxnProducer::connect`].
    pub fn replace(&mut self, patience: Duration) -> Result<()> {
        self.producer =
            start(&self.kafka, &self.transactional_id, self.guarantee, patience, &self.watchdog)?;
        self.is_spent = false;
        Ok(())
    }

    /// Commits an outbox: begin, produce, positions, commit. Positions go last: the coordinator
    /// may still be writing the previous txn's markers, and refuses until it has. Gives the lowest
    /// offset written to each partition of the watched topic.
    ///
    /// With a group, records are released as they are handed over: what is not committed is read
    /// again. Without one the caller may send the same outbox again.
    ///
    /// # Errors
    /// A [`TxnError`] that says what is known of the txn. At least once knows no abort: of a failed
    /// commit any part may exist (and is a [`TxnError::Doubt`]), and of a refused one too.
    pub fn commit(
        &mut self,
        outbox: &mut Outbox,
        group: Option<&GroupSnapshot>,
    ) -> Outcome<Written> {
        if self.is_spent {
            self.replace(CALL).map_err(|e| TxnError::Doubt(e.to_string()))?;
        }
        self.producer.context().begin();
        self.sizes.clear();
        self.sizes.extend(outbox.records.iter().map(OutRecord::size));
        match self.guarantee {
            Guarantee::ExactlyOnceV2 => self.commit_txn(outbox, group)?,
            Guarantee::AtLeastOnce => self.commit_plainly(outbox, group)?,
        }
        // `drain` has seen the queue empty. A record leaves the count only when its report is
        // destroyed, which is after the callback (rd_kafka_msg_destroy): all have run.
        Ok(self.producer.context().take_written())
    }

    fn commit_txn(&mut self, outbox: &mut Outbox, group: Option<&GroupSnapshot>) -> Outcome<()> {
        let begun = self.watchdog.call("begin_transaction", || self.producer.begin_transaction());
        begun.map_err(|e| classify(&e))?;
        let filled = self.send_all(outbox, group.is_some()).and_then(|()| match group {
            Some(group) => self.send_positions(&outbox.positions, group),
            None => Ok(()),
        });
        match filled {
            Ok(()) => {}
            Err(failed @ (TxnError::Aborted(_) | TxnError::Refused(_))) => {
                return Err(self.abort(outbox, failed));
            }
            Err(other) => return Err(other),
        }
        self.drain()?;
        let failed = self.producer.context().failure().is_some();
        let asked = Instant::now();
        let committed =
            self.watchdog.call("commit_transaction", || self.producer.commit_transaction(CALL));
        match committed.map_err(|e| classify_commit(&e, failed)) {
            // Answered at last, but perhaps to a second asking: the first is then still on its way,
            // and would end the *next* txn (KAFKA-17754). A new epoch keeps it out.
            Ok(()) if asked.elapsed() >= ONE_REQUEST => {
                Err(TxnError::Doubt(format!("the commit took {} s", asked.elapsed().as_secs())))
            }
            Err(aborted @ TxnError::Aborted(_)) => Err(self.abort(outbox, aborted)),
            other => other,
        }
    }

    /// Without a txn: idempotent, so that retries neither double nor reorder; positions once every
    /// record is acknowledged.
    fn commit_plainly(&self, outbox: &mut Outbox, group: Option<&GroupSnapshot>) -> Outcome<()> {
        let in_doubt = |error| match error {
            TxnError::Aborted(cause) => TxnError::Doubt(cause),
            other => other,
        };
        self.send_all(outbox, group.is_some()).map_err(in_doubt)?;
        self.drain()?;
        if let Some(failure) = self.producer.context().failure() {
            let refused = self.refusal(outbox, &failure).map(TxnError::Refused);
            return Err(refused.unwrap_or(TxnError::Doubt(failure.cause)));
        }
        let Some(group) = group else { return Ok(()) };
        let list = list_of(&outbox.positions)?;
        self.watchdog
            .call("commit_offsets", || group.member.commit(&list))
            .map_err(|e| TxnError::Doubt(e.to_string()))
    }

    fn send_positions(&self, positions: &[Position], group: &GroupSnapshot) -> Outcome<()> {
        let list = list_of(positions)?;
        self.watchdog
            .call("send_offsets_to_transaction", || {
                self.producer.send_offsets_to_transaction(&list, &group.metadata, CALL)
            })
            .map_err(|e| classify(&e))
    }

    /// Hands over one request's worth per partition at a time. The client keeps one request of a
    /// partition in flight; while records of the same partition wait behind it longer than
    /// `linger.ms`, its thread does not sleep but spins until the acknowledgement (measured: two
    /// fifths of the process's CPU). So what a partition has beyond one request waits here.
    fn send_all(&self, outbox: &mut Outbox, release: bool) -> Outcome<()> {
        // Partition by partition, so that one is handed over whole before its linger is over.
        let mut waiting: BTreeMap<(&str, i32), Vec<usize>> = BTreeMap::new();
        for (index, out) in outbox.records.iter().enumerate() {
            waiting.entry((&out.topic, out.partition)).or_default().push(index);
        }
        let mut waiting: Vec<Vec<usize>> = waiting.into_values().collect();
        while !waiting.is_empty() {
            for rest in &mut waiting {
                for index in rest.drain(..wave_length(&self.sizes, rest)) {
                    self.send_one(outbox, index)?;
                    if release {
                        outbox.records[index].release();
                    }
                }
            }
            waiting.retain(|rest| !rest.is_empty());
            if !waiting.is_empty() {
                self.drain()?;
            }
        }
        Ok(())
    }

    fn send_one(&self, outbox: &Outbox, index: usize) -> Outcome<()> {
        self.send(index, &outbox.records[index]).map_err(|error| {
            let code = error.rdkafka_error_code();
            let failure = Failure { record: index, code, cause: error.to_string() };
            match self.refusal(outbox, &failure) {
                Some(refusal) => TxnError::Refused(refusal),
                None => classify(&error),
            }
        })
    }

    fn send(&self, index: usize, out: &OutRecord) -> std::result::Result<(), KafkaError> {
        let watched = self.watched.as_deref() == Some(&*out.topic);
        let tag = Tag { record: index, watched };
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&out.topic, tag.to_opaque()).partition(out.partition);
        record.key = out.key.as_deref();
        record.payload = out.value.as_deref();
        if out.header_count() > 0 {
            record.headers = Some(headers_of(out));
        }
        let mut end = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error @ KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    // The bounded queue is full: the client's thread is sending meanwhile.
                    let now = Instant::now();
                    if now >= *end.get_or_insert(now + CALL) {
                        return Err(error);
                    }
                    record = back;
                    sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits until every record is acknowledged. `commit_transaction` alone would flush in steps
    /// of 100 ms (rust-rdkafka since 0.38), and be an order slower.
    fn drain(&self) -> Outcome<()> {
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

    /// Aborts; only a coordinator's word makes the txn `Aborted` (or `Refused`).
    fn abort(&mut self, outbox: &Outbox, failed: TxnError) -> TxnError {
        // librdkafka 4849: an abort before every request was answered can become fatal.
        if let Err(doubt) = self.drain() {
            return doubt;
        }
        let failure = self.producer.context().failure().filter(|f| !f.is_consequence());
        let failed = match (failed, &failure) {
            (TxnError::Aborted(cause), Some(failure)) => match self.refusal(outbox, failure) {
                Some(refusal) => TxnError::Refused(refusal),
                None => TxnError::Aborted(format!("{cause} ({})", failure.cause)),
            },
            (other, _) => other,
        };
        match self.watchdog.call("abort_transaction", || self.producer.abort_transaction(CALL)) {
            Ok(()) => {
                self.is_spent = failure.is_some();
                failed
            }
            Err(error) => match classify(&error) {
                TxnError::Fenced(why) => TxnError::Fenced(why),
                _ => TxnError::Doubt(format!("{failed}; the abort failed too: {error}")),
            },
        }
    }

    fn refusal(&self, outbox: &Outbox, failure: &Failure) -> Option<Refusal> {
        let out = outbox.records.get(failure.record)?;
        Some(Refusal {
            record: failure.record,
            topic: out.topic.clone(),
            partition: out.partition,
            flaw: flaw(failure.code?, *self.sizes.get(failure.record)?, RECORD_LIMIT)?,
            cause: failure.cause.clone(),
        })
    }
}

/// How many of the first of these records fit one request; at least one.
fn wave_length(sizes: &[usize], wanted: &[usize]) -> usize {
    let mut bytes = 0;
    let fits = |index: &&usize| {
        bytes += sizes[**index] + OVERHEAD;
        bytes <= WAVE_BYTES
    };
    let length = wanted.iter().take(WAVE_RECORDS).take_while(fits).count();
    length.max(1).min(wanted.len())
}

fn headers_of(out: &OutRecord) -> OwnedHeaders {
    let mut headers = Some(OwnedHeaders::new_with_capacity(out.header_count()));
    out.for_each_header(|key, value| {
        headers = headers.take().map(|all| all.insert(Header { key, value: Some(value) }));
    });
    headers.unwrap_or_default()
}

fn list_of(positions: &[Position]) -> Outcome<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for position in positions {
        let mut element = list.add_partition(&position.topic, position.partition);
        element.set_metadata(&position.metadata);
        element
            .set_offset(Offset::Offset(position.next_offset))
            .map_err(|e| TxnError::Aborted(e.to_string()))?;
    }
    Ok(list)
}

fn start(
    kafka: &Kafka,
    transactional_id: &str,
    guarantee: Guarantee,
    patience: Duration,
    watchdog: &Watchdog,
) -> Result<ThreadedProducer<Deliveries>> {
    let what = || format!("cannot start to produce as {transactional_id}");
    let end = Instant::now() + patience;
    let mut config = kafka.producer_config();
    if guarantee == Guarantee::ExactlyOnceV2 {
        config
            .set("transactional.id", transactional_id)
            // Above the 30 s watchdog, so that a stalled call is ended by us, not by the broker.
            .set("transaction.timeout.ms", "45000");
    }
    loop {
        let producer: ThreadedProducer<Deliveries> = config
            .create_with_context(Deliveries::default())
            .map_err(|e| Error::new(what(), &e))?;
        if guarantee == Guarantee::AtLeastOnce {
            return Ok(producer);
        }
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
