//! A member of a consumer group that gathers batches.
//!
//! Rebalances happen only inside [`GroupConsumer::gather`]. A newly assigned partition is paused
//! at once and stays so until [`GroupConsumer::start`] names the offset to begin at: where a task
//! begins is decided by its own state, never by a default of the client.

use crate::args::{Isolation, Kafka};
use crate::error::{Error, OUT_OF_RANGE, Result};
use crate::offsets::{self, Committed};
use crate::{TopicPartition, list_of};
use caudal_core::decode::Record;
use clap::ValueEnum;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Who decides which member gets which partition; Kafka's own setting is `group.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupProtocol {
    /// The members do, between stops of all that move: cooperative-sticky.
    Classic,
    /// The group coordinator does (KIP-848). It also sets the time-outs:
    /// `group.consumer.session.timeout.ms` and `.heartbeat.interval.ms` of the brokers.
    Consumer,
}

/// Which group to join, and how.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Group id.
    pub group: String,
    /// `group.instance.id`: static membership, so that a restart keeps its partitions and fences
    /// its predecessor. `None`: a guest, who leaves the group when it is dropped.
    pub instance: Option<String>,
    /// Topics to subscribe to.
    pub topics: Vec<Arc<str>>,
    /// How partitions are given out.
    pub protocol: GroupProtocol,
}

/// The name in the group of a member that reads these topics beside those that everybody reads. A
/// static member that comes back within its session gets the partitions that it had, and nothing of
/// topics that it subscribes to since: the coordinator compares the assignor and not the topics. So
/// one with other topics is another member.
#[must_use]
pub fn member_name(instance: &str, further_topics: &[Arc<str>]) -> String {
    if further_topics.is_empty() {
        return instance.to_owned();
    }
    let digest = caudal_core::schema::id_of(&further_topics.join("\n"));
    format!("{instance}-{digest:08x}")
}

/// Bounds of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most records.
    pub records: usize,
    /// Most bytes of keys, values and headers (exceeded by one record at most).
    pub bytes: usize,
    /// Longest wait for a first record.
    pub idle: Duration,
}

/// A change of assignment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Assigned; paused until started.
    Assigned(Vec<TopicPartition>),
    /// Revoked in good order: what is not committed yet is simply read again by the next owner.
    Revoked(Vec<TopicPartition>),
    /// Lost: another member may own them already.
    Lost(Vec<TopicPartition>),
}

/// What one gathering brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records in the order of arrival; of partitions still assigned at the end only.
    pub records: Vec<(TopicPartition, Record)>,
    /// Changes of assignment, in order. They concern tasks, not `records`, which are already
    /// filtered.
    pub changes: Vec<Change>,
}

struct Context {
    changes: Mutex<Vec<Change>>,
    /// Whether there are any: looked at for every record, where a lock would be felt.
    changed: AtomicBool,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        // Brokers come and go; what matters surfaces where a call fails.
        tracing::debug!(%error, reason, "kafka client");
    }
}

/// Context of clients that join no group: what matters surfaces where a call fails.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Quiet {}

pub(crate) fn log_client(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "kafka client");
        }
        _ => tracing::debug!(facility, message, "kafka client"),
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = partitions_of(list);
        let outcome = if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.push(Change::Assigned(partitions));
            // An explicit offset, so that the client neither looks up nor resets one: the task
            // seeks when its state is restored. Until then the partition is paused.
            list.set_all_offsets(Offset::Beginning)
                .and_then(|()| consumer.incremental_assign(list))
                .and_then(|()| consumer.pause(list))
        } else {
            let lost = consumer.assignment_lost();
            self.push(if lost { Change::Lost(partitions) } else { Change::Revoked(partitions) });
            consumer.incremental_unassign(list)
        };
        if let Err(error) = outcome {
            // The client raises it again from poll, where it is handled.
            tracing::warn!(%error, "rebalance");
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {}
}

impl Context {
    fn push(&self, change: Change) {
        if let Ok(mut changes) = self.changes.lock() {
            changes.push(change);
            self.changed.store(true, Ordering::Release);
        }
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|e| (Arc::from(e.topic()), e.partition())).collect()
}

/// A member of a consumer group, reading committed records.
pub struct GroupConsumer {
    consumer: Arc<BaseConsumer<Context>>,
    topics: BTreeMap<String, Arc<str>>,
    /// An error that came after records of the same batch: the next gathering gives it.
    held: Mutex<Option<Error>>,
}

impl GroupConsumer {
    /// Joins the group (the join itself happens while gathering).
    ///
    /// # Errors
    /// When the client refuses its configuration.
    pub fn join(kafka: &Kafka, membership: &Membership) -> Result<GroupConsumer> {
        let mut config = kafka.consumer_config(Isolation::ReadCommitted);
        config.set("group.id", &membership.group).set("max.poll.interval.ms", "300000");
        if let Some(instance) = &membership.instance {
            config.set("group.instance.id", instance);
        }
        match membership.protocol {
            GroupProtocol::Classic => config
                .set("group.protocol", "classic")
                .set("partition.assignment.strategy", "cooperative-sticky")
                // A killed member is replaced after 6 s; a stalled broker may take longer than
                // that, which costs a rejoin and nothing else.
                .set("session.timeout.ms", "6000")
                .set("heartbeat.interval.ms", "1000"),
            // The client refuses the three settings above: they are the brokers'.
            GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
        };
        let context = Context { changes: Mutex::new(Vec::new()), changed: AtomicBool::new(false) };
        let consumer: BaseConsumer<Context> = config
            .create_with_context(context)
            .map_err(|e| Error::new("cannot create a consumer", &e))?;
        let names: Vec<&str> = membership.topics.iter().map(AsRef::as_ref).collect();
        consumer
            .subscribe(&names)
            .map_err(|e| Error::new(format!("cannot subscribe to {names:?}"), &e))?;
        let topics = membership.topics.iter().map(|t| (t.to_string(), Arc::clone(t))).collect();
        Ok(GroupConsumer { consumer: Arc::new(consumer), topics, held: Mutex::new(None) })
    }

    /// Gathers a batch: waits up to `limits.idle` for a first record; then goes on until
    /// `not_before`, and further while records are at hand, up to the limits.
    ///
    /// # Errors
    /// A permanent error of the client (fenced by a newer instance, an offset out of range, no
    /// permission). What was read before an offset out of range is given first: it may be the last
    /// copy. A broker that is away is no error: the batch is just empty. A transient error: a
    /// predecessor's name is still taken, join again in a while.
    pub fn gather(&self, limits: &Limits, not_before: Instant) -> Result<Batch> {
        if let Some(error) = self.held.lock().ok().and_then(|mut held| held.take()) {
            return Err(error);
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        let begun = Instant::now();
        loop {
            // What is at hand first: reading the clock for each record would be a tenth of it all.
            let polled = self.consumer.poll(Duration::ZERO).or_else(|| {
                self.consumer.poll(match batch.records.is_empty() {
                    true => limits.idle.saturating_sub(begun.elapsed()),
                    false => not_before.saturating_duration_since(Instant::now()),
                })
            });
            let mut ends = false;
            if let Some(Err(error)) = &polled
                && let Err(error) = self.check(error)
            {
                ends = error.is_out_of_range() && !batch.records.is_empty();
                match self.held.lock() {
                    Ok(mut held) if ends => *held = Some(error),
                    _ => return Err(error),
                }
            }
            if let Some(Ok(message)) = &polled {
                let record = owned(message);
                bytes += record.size();
                let topic = self.topic(message.topic());
                batch.records.push(((topic, message.partition()), record));
            }
            let waited = matches!(polled, None | Some(Err(_)));
            drop(polled);
            self.apply_changes(&mut batch);
            let full = batch.records.len() >= limits.records || bytes >= limits.bytes;
            let over = if batch.records.is_empty() {
                begun.elapsed() >= limits.idle || !batch.changes.is_empty()
            } else {
                waited && Instant::now() >= not_before
            };
            if full || over || ends {
                return Ok(batch);
            }
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        self.topics.get(name).map_or_else(|| Arc::from(name), Arc::clone)
    }

    /// Moves changes from the callback to the batch, and drops records of partitions that went.
    fn apply_changes(&self, batch: &mut Batch) {
        let context = self.consumer.context();
        if !context.changed.swap(false, Ordering::Acquire) {
            return;
        }
        let Ok(mut changes) = context.changes.lock() else { return };
        for change in changes.drain(..) {
            if let Change::Revoked(gone) | Change::Lost(gone) = &change {
                batch.records.retain(|(partition, _)| !gone.contains(partition));
            }
            batch.changes.push(change);
        }
    }

    fn check(&self, error: &KafkaError) -> Result<()> {
        let code = error.rdkafka_error_code();
        match code {
            // KIP-848: the brokers keep a killed member's name until its session is over, and refuse
            // the newcomer for good (a classic group lets it in, and fences the predecessor).
            Some(Code::UnreleasedInstanceId) => Err(Error {
                what: "the group still knows a member of this name".into(),
                cause: error.to_string(),
                transient: true,
            }),
            Some(Code::PollExceeded | Code::PartitionEOF) => Ok(()),
            // An offset that is not there: retention overtook the reader, or the topic is new.
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                Err(Error::permanent(OUT_OF_RANGE, error))
            }
            Some(
                Code::Fatal
                | Code::FencedInstanceId
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::Authentication
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::BadMessage,
            ) => Err(Error::permanent(
                match self.consumer.client().fatal_error() {
                    Some((_, text)) => format!("the consumer cannot go on ({text})"),
                    None => "the consumer cannot go on".to_owned(),
                },
                error,
            )),
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut) => {
                tracing::debug!(%error, "poll");
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(Error::permanent("the consumer cannot go on", error))
            }
            // Nothing is lost: the consumer stays where it is. But somebody should see why.
            _ => {
                tracing::warn!(%error, "poll");
                Ok(())
            }
        }
    }

    /// Starts (or restarts) reading a partition at `offset`.
    ///
    /// # Errors
    /// When the partition is not ready to seek; try again after another gathering.
    pub fn start(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        let what = || format!("cannot seek {}-{} to {offset}", partition.0, partition.1);
        // Resume, then seek: resuming goes back to the last position that was read, so the seek
        // must have the last word. Nothing is polled in between.
        self.resume(std::slice::from_ref(partition))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.0, partition.1, Offset::Offset(offset))
            .map_err(|e| Error::new(what(), &e))?;
        let mut sought = self.seek(&list);
        if matches!(&sought, Err(e) if e.rdkafka_error_code() == Some(Code::State)) {
            // After an offset out of range the client has given the partition up, and seeks it no
            // more: it is taken anew, from that offset.
            sought = self
                .consumer
                .incremental_unassign(&list)
                .and_then(|()| self.consumer.incremental_assign(&list));
        }
        let sought = sought.map_err(|e| Error::new(what(), &e));
        if sought.is_err() {
            // Not at its offset: it must not deliver anything.
            self.pause(std::slice::from_ref(partition))?;
        }
        sought
    }

    fn seek(&self, list: &TopicPartitionList) -> std::result::Result<(), KafkaError> {
        let sought = self.consumer.seek_partitions(list.clone(), Duration::from_secs(10))?;
        sought.elements().iter().try_for_each(|element| element.error())
    }

    /// Stops delivery of these partitions; polling keeps the membership alive.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.consumer.pause(&list_of(partitions)).map_err(|e| Error::new("cannot pause", &e))
    }

    /// Goes on with these partitions.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.consumer.resume(&list_of(partitions)).map_err(|e| Error::new("cannot resume", &e))
    }

    /// What the group has committed, stable offsets only.
    ///
    /// # Errors
    /// As [`offsets::Offsets::committed`].
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<Committed>>> {
        offsets::committed(&self.consumer, partitions)
    }

    /// Whether the assignment was lost: nothing may be committed for it any more.
    #[must_use]
    pub fn assignment_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }

    /// The membership as a txn needs it: taken after a gathering, used for that batch.
    pub(crate) fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }

    /// The member itself, to commit positions outside of a txn.
    pub(crate) fn member(&self) -> Member {
        Member(Arc::clone(&self.consumer))
    }

    /// Commits positions to the group, for display only, without waiting.
    pub fn show_progress(&self, positions: &BTreeMap<TopicPartition, i64>) {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in positions {
            if list.add_partition_offset(topic, *partition, Offset::Offset(*next)).is_err() {
                return;
            }
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "group commit for display");
        }
    }
}

/// A member's client.
pub(crate) struct Member(Arc<BaseConsumer<Context>>);

impl Member {
    /// Commits positions with the membership as it is now, and waits for the answer.
    pub fn commit(&self, positions: &TopicPartitionList) -> std::result::Result<(), KafkaError> {
        self.0.commit(positions, CommitMode::Sync)
    }
}

pub(crate) fn owned(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().into())).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(Into::into),
        value: message.payload().map(Into::into),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_topics_are_another_member() {
        let name = |topics: &[&str]| {
            let topics: Vec<Arc<str>> = topics.iter().map(|topic| (*topic).into()).collect();
            member_name("caudal-sink-a", &topics)
        };
        assert_eq!(name(&[]), "caudal-sink-a");
        assert_eq!(name(&["q"]), name(&["q"]));
        assert_ne!(name(&["q"]), name(&["q", "r"]));
        assert!(name(&["q"]).starts_with("caudal-sink-a-"));
    }
}
