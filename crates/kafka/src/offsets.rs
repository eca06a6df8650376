//! Positions of groups and ends of partitions.

use crate::args::{Isolation, Kafka};
use crate::consumer::Quiet;
use crate::error::{Error, Result};
use crate::{TopicPartition, list_of, topic_ids};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CALL: Duration = Duration::from_secs(10);

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub next_offset: i64,
    /// The text that was committed with it; may be empty.
    pub metadata: String,
}

/// Asks for watermarks and committed offsets; joins no group.
pub struct Offsets {
    consumer: BaseConsumer<Quiet>,
}

impl Offsets {
    /// A client that sees ends as `isolation` does: the last stable offset, or the high watermark.
    /// `group` is whose committed offsets it can ask for; with [`Isolation::ReadCommitted`] such a
    /// request waits for open txns (KIP-447's require-stable).
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn connect(kafka: &Kafka, isolation: Isolation, group: &str) -> Result<Offsets> {
        let mut config = kafka.consumer_config(isolation);
        config.set("group.id", group);
        let consumer = config
            .create_with_context(Quiet)
            .map_err(|e| Error::new("cannot create a client", &e))?;
        Ok(Offsets { consumer })
    }

    /// First and end offset of a partition.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.consumer
            .fetch_watermarks(topic, partition, CALL)
            .map_err(|e| Error::new(format!("cannot read the ends of {topic}-{partition}"), &e))
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// When no broker answers, or the topic does not exist.
    pub fn partitions(&self, topic: &str) -> Result<i32> {
        let what = || format!("cannot read the partitions of {topic}");
        let metadata =
            self.consumer.fetch_metadata(Some(topic), CALL).map_err(|e| Error::new(what(), &e))?;
        let count = metadata.topics().first().map_or(0, |t| t.partitions().len());
        match i32::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(Error::permanent(
                format!("topic {topic} does not exist"),
                "create the topics with `caudal topics apply`",
            )),
        }
    }

    /// Ids of topics; see [`crate::topic_ids::topic_ids`].
    ///
    /// # Errors
    /// As there.
    pub fn topic_ids(&self, topics: &[impl AsRef<str>]) -> Result<BTreeMap<String, String>> {
        topic_ids::ask(self.consumer.client(), topics)
    }

    /// Ids of the members of a group; of a static one it begins with its name. Those of
    /// a group under the protocol of KIP-848 are not told to this client.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub fn members(&self, group: &str) -> Result<Vec<String>> {
        let groups = self
            .consumer
            .fetch_group_list(Some(group), CALL)
            .map_err(|e| Error::new(format!("cannot read the members of group {group}"), &e))?;
        let members = groups.groups().iter().flat_map(|group| group.members());
        Ok(members.map(|member| member.id().to_owned()).collect())
    }

    /// What the group has committed: `None` where nothing was committed. An error of
    /// any partition fails the call: it never means "nothing committed".
    ///
    /// # Errors
    /// When the coordinator does not answer, or answers an error for a partition.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<Committed>>> {
        committed(&self.consumer, partitions)
    }
}

pub(crate) fn committed<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, Option<Committed>>> {
    let what = "cannot read committed offsets";
    let list =
        consumer.committed_offsets(list_of(partitions), CALL).map_err(|e| Error::new(what, &e))?;
    let mut found = BTreeMap::new();
    for element in list.elements() {
        element.error().map_err(|e| Error::new(what, &e))?;
        let committed = match element.offset() {
            Offset::Offset(next_offset) => {
                Some(Committed { next_offset, metadata: element.metadata().to_owned() })
            }
            _ => None,
        };
        found.insert((Arc::from(element.topic()), element.partition()), committed);
    }
    Ok(found)
}
