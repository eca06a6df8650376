//! [`Broker`] on real Kafka: one consumer, one transactional producer, one reader of the state log
//! per engine thread.

use crate::broker::Broker;
use crate::shared::Shared;
use caudal_core::outbox::Outbox;
use caudal_kafka::args::{Isolation, Kafka};
use caudal_kafka::consumer::{
    Batch, GroupConsumer, GroupProtocol, Limits, Membership, member_name,
};
use caudal_kafka::cutter::Cutter;
use caudal_kafka::kafka_log::KafkaLog;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::{Committed, Offsets};
use caudal_kafka::schemas;
use caudal_kafka::txn::{GroupSnapshot, Guarantee, TxnError, TxnProducer, Written};
use caudal_kafka::{Result, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Consumer group of every instance.
pub const GROUP: &str = "caudal-processor";
/// How long to wait for brokers at start and after a doubt before giving up (a supervisor then
/// restarts the process).
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait before asking again for a name that is still taken.
const REJOIN: Duration = Duration::from_secs(1);
/// How long to look for records behind a silent partition's position.
const LOOK: Duration = Duration::from_millis(500);

/// How to work.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// What a commit promises.
    pub guarantee: Guarantee,
    /// How partitions are given out.
    pub protocol: GroupProtocol,
    /// Whether to leave the group at the end, instead of keeping the name for a restart.
    pub is_guest: bool,
}

/// The clients of one engine thread.
pub struct KafkaBroker {
    kafka: Kafka,
    membership: Membership,
    consumer: GroupConsumer,
    /// Until when a name that is still taken by a predecessor is waited for.
    name_is_free_by: Instant,
    producer: TxnProducer,
    /// The membership as of the last gathering; `None` when the assignment was lost.
    group: Option<GroupSnapshot>,
    state_log: LogReader,
    table_logs: Vec<LogReader>,
    ends: Offsets,
    cutter: Cutter,
}

impl KafkaBroker {
    /// Connects the clients of the thread `name`, and joins the group.
    ///
    /// # Errors
    /// When a client cannot be made, or the coordinator does not answer.
    pub fn connect(
        kafka: &Kafka,
        manner: Manner,
        shared: &Shared,
        name: &str,
    ) -> Result<KafkaBroker> {
        // First of all end what a predecessor of this name left open: its offsets and blocks are
        // then stable, and nobody waits for its time-out.
        let id = format!("{GROUP}-{name}");
        let producer = TxnProducer::connect_with(
            kafka,
            &id,
            manner.guarantee,
            Some(&shared.state_topic),
            PATIENCE,
        )?;
        let sources = shared.sources.iter().map(|source| Arc::clone(&source.topic));
        let own = [Arc::clone(&shared.input_topic), Arc::clone(&shared.partials_topic)];
        let topics: Vec<Arc<str>> = own.into_iter().chain(sources).collect();
        let membership = Membership {
            group: GROUP.to_owned(),
            instance: (!manner.is_guest).then(|| member_name(&id, &topics[2..])),
            protocol: manner.protocol,
            topics,
        };
        let topics = shared.tables.iter().map(|table| &table.source.topic);
        let table_logs = topics.map(|topic| LogReader::connect(kafka, topic));
        let table_logs = table_logs.collect::<Result<_>>()?;
        Ok(KafkaBroker {
            consumer: GroupConsumer::join(kafka, &membership)?,
            producer,
            group: None,
            state_log: LogReader::connect(kafka, &shared.state_topic)?,
            table_logs,
            ends: Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-restore")?,
            cutter: Cutter::start(kafka, &shared.state_topic)?,
            kafka: kafka.clone(),
            membership,
            name_is_free_by: Instant::now() + PATIENCE,
        })
    }
}

impl Broker for KafkaBroker {
    type Log = KafkaLog;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn gather(&mut self, limits: &Limits, not_before: Instant) -> Result<Batch> {
        let batch = match self.consumer.gather(limits, not_before) {
            Ok(batch) => batch,
            Err(error) if error.transient && Instant::now() < self.name_is_free_by => {
                tracing::info!(%error, "joining again in a second");
                std::thread::sleep(REJOIN);
                self.consumer = GroupConsumer::join(&self.kafka, &self.membership)?;
                Batch::default()
            }
            Err(error) => return Err(error),
        };
        // The membership of this batch: taken after every rebalance callback was served.
        self.group = GroupSnapshot::take(&self.consumer);
        Ok(batch)
    }

    fn commit(&mut self, outbox: &mut Outbox) -> std::result::Result<Written, TxnError> {
        let Some(group) = &self.group else {
            return Err(TxnError::Aborted("the assignment was lost; nothing was sent".into()));
        };
        self.producer.commit(outbox, Some(group))
    }

    fn replace_producer(&mut self) -> Result<()> {
        self.producer.replace(PATIENCE)
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<Committed>>> {
        self.consumer.committed(partitions)
    }

    fn first_offset(&mut self, (topic, partition): &TopicPartition) -> Result<i64> {
        Ok(self.ends.watermarks(topic, *partition)?.0)
    }

    fn is_at_end(&mut self, (topic, partition): &TopicPartition, next_offset: i64) -> Result<bool> {
        let position = BTreeMap::from([(*partition, next_offset)]);
        Ok(!LogReader::drained(&self.kafka, topic, &position, LOOK)?.is_empty())
    }

    fn start(&mut self, partition: &TopicPartition, offset: i64) -> Result<()> {
        self.consumer.start(partition, offset)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.consumer.pause(partitions)
    }

    fn state_log(&mut self) -> &mut LogReader<KafkaLog> {
        &mut self.state_log
    }

    fn schemas(&mut self) -> Result<Vec<(u32, String)>> {
        schemas::published(&self.kafka, PATIENCE)
    }

    fn table_log(&mut self, place: usize) -> &mut LogReader<KafkaLog> {
        &mut self.table_logs[place]
    }

    fn delete_records(&mut self, partition: i32, below: i64) {
        self.cutter.cut(partition, below);
    }
}
