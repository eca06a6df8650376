//! Topics: what there is, and what should be.

use crate::args::Kafka;
use crate::error::{Error, Result};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

const CALL: Duration = Duration::from_secs(30);

/// A topic as it is, or as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replication: i32,
    /// Settings of the topic's own (not inherited from the brokers).
    pub config: BTreeMap<String, String>,
}

/// Looks at topics and changes them.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn connect(kafka: &Kafka) -> Result<Admin> {
        let client =
            kafka.config().create().map_err(|e| Error::new("cannot create a client", &e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| Error::permanent("cannot start a runtime", e))?;
        Ok(Admin { client, runtime })
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(CALL)).operation_timeout(Some(CALL))
    }

    /// Every topic that is not Kafka's own, with its settings.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn topics(&self) -> Result<BTreeMap<String, Topic>> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(None, CALL)
            .map_err(|e| Error::new("cannot list the topics", &e))?;
        let mut topics = BTreeMap::new();
        for topic in metadata.topics().iter().filter(|t| !t.name().starts_with("__")) {
            let partitions = topic.partitions();
            let replication = partitions.first().map_or(0, |p| p.replicas().len());
            topics.insert(
                topic.name().to_owned(),
                Topic {
                    name: topic.name().to_owned(),
                    partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
                    replication: i32::try_from(replication).unwrap_or(i32::MAX),
                    config: BTreeMap::new(),
                },
            );
        }
        self.read_configs(&mut topics)?;
        Ok(topics)
    }

    /// Broker id of a partition's leader; `None` while it has none.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn leader(&self, topic: &str, partition: i32) -> Result<Option<i32>> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(topic), CALL)
            .map_err(|e| Error::new(format!("cannot read the leaders of {topic}"), &e))?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        let leader = partitions.filter(|p| p.id() == partition).map(|p| p.leader()).next();
        Ok(leader.filter(|id| *id >= 0))
    }

    fn read_configs(&self, topics: &mut BTreeMap<String, Topic>) -> Result<()> {
        let names: Vec<String> = topics.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let resources: Vec<_> = names.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
        let what = "cannot read the topics' settings";
        let described = self
            .runtime
            .block_on(self.client.describe_configs(&resources, &Self::options()))
            .map_err(|e| Error::new(what, &e))?;
        for (name, result) in names.iter().zip(described) {
            let resource = result.map_err(|code| Error::of_code(what, code))?;
            let Some(topic) = topics.get_mut(name) else { continue };
            topic.config = resource
                .entries
                .into_iter()
                .filter(|e| e.source == ConfigSource::DynamicTopic)
                .filter_map(|e| Some((e.name, e.value?)))
                .collect();
        }
        Ok(())
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// When the cluster refuses; a topic that exists is no error.
    pub fn create(&self, topic: &Topic) -> Result<()> {
        self.create_all(std::slice::from_ref(topic))
    }

    /// Creates topics with one request.
    ///
    /// # Errors
    /// What the cluster refuses, by name; a topic that exists is no error.
    pub fn create_all(&self, topics: &[Topic]) -> Result<()> {
        let mut new = Vec::with_capacity(topics.len());
        for Topic { name, partitions, replication, config } in topics {
            let topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(*replication));
            new.push(config.iter().fold(topic, |topic, (key, value)| topic.set(key, value)));
        }
        let results = self
            .runtime
            .block_on(self.client.create_topics(&new, &Self::options()))
            .map_err(|e| Error::new("cannot create topics", &e))?;
        results.into_iter().try_for_each(|result| match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => Ok(()),
            Err((name, code)) => Err(Error::of_code(format!("cannot create topic {name}"), code)),
        })
    }

    /// Sets a topic's own settings to exactly `config`.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn configure(&self, name: &str, config: &BTreeMap<String, String>) -> Result<()> {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in config {
            change = change.set(key, value);
        }
        let what = format!("cannot configure topic {name}");
        let results = self
            .runtime
            .block_on(self.client.alter_configs([&change], &Self::options()))
            .map_err(|e| Error::new(&what, &e))?;
        results.into_iter().try_for_each(|result| match result {
            Ok(_) => Ok(()),
            Err((_, code)) => Err(Error::of_code(&what, code)),
        })
    }

    /// Gives a topic `new_total` partitions; those it has keep their records.
    ///
    /// # Errors
    /// When the cluster refuses, for instance because it has as many already.
    pub fn create_partitions(&self, topic: &str, new_total: i32) -> Result<()> {
        let what = format!("cannot give {topic} {new_total} partitions");
        let total = usize::try_from(new_total).map_err(|e| Error::permanent(&what, e))?;
        let new = NewPartitions::new(topic, total);
        let results = self
            .runtime
            .block_on(self.client.create_partitions([&new], &Self::options()))
            .map_err(|e| Error::new(&what, &e))?;
        results.into_iter().try_for_each(|result| match result {
            Ok(_) => Ok(()),
            Err((_, code)) => Err(Error::of_code(&what, code)),
        })
    }

    /// Deletes the records of each partition below an offset; below the first is no error.
    ///
    /// # Errors
    /// When the cluster refuses for any of them; the others are cut all the same.
    pub fn delete_records(&self, topic: &str, below: &[(i32, i64)]) -> Result<()> {
        let what = format!("cannot cut {topic}");
        let mut list = TopicPartitionList::new();
        for (partition, offset) in below {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(|e| Error::new(&what, &e))?;
        }
        let results = self
            .runtime
            .block_on(self.client.delete_records(&list, &Self::options()))
            .map_err(|e| Error::new(&what, &e))?;
        results.elements().iter().try_for_each(|element| {
            element.error().map_err(|e| Error::new(format!("{what}-{}", element.partition()), &e))
        })
    }

    /// Deletes topics and everything in them; those that do not exist are no error.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn delete(&self, names: &[&str]) -> Result<()> {
        let what = format!("cannot delete topics {names:?}");
        let results = self
            .runtime
            .block_on(self.client.delete_topics(names, &Self::options()))
            .map_err(|e| Error::new(&what, &e))?;
        results.into_iter().try_for_each(|result| match result {
            Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => Ok(()),
            Err((_, code)) => Err(Error::of_code(&what, code)),
        })
    }

    /// Forgets groups and their committed offsets; those that do not exist are no error.
    ///
    /// # Errors
    /// When the cluster refuses, for instance because a group still has members.
    pub fn delete_groups(&self, names: &[&str]) -> Result<()> {
        let what = format!("cannot delete groups {names:?}");
        let results = self
            .runtime
            .block_on(self.client.delete_groups(names, &Self::options()))
            .map_err(|e| Error::new(&what, &e))?;
        results.into_iter().try_for_each(|result| match result {
            Ok(_) | Err((_, Code::GroupIdNotFound)) => Ok(()),
            Err((_, code)) => Err(Error::of_code(&what, code)),
        })
    }
}
