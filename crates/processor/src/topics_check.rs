//! The topics that must be there before the engine starts. Those of queries are made here, like the
//! sink topics of ksqlDB: as many partitions and replicas as `transacciones`.

use crate::shared::{Shared, Stage};
use anyhow::{Context as _, Result};
use caudal_kafka::admin;
use caudal_kafka::args::Kafka;
use caudal_service::exit::Usage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for brokers.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait for a topic that is missing, and was not made a moment ago.
const TOPICS_PATIENCE: Duration = Duration::from_secs(10);

/// Every topic must be there, with as many partitions as its keys need, which are put down. A topic that was made a
/// moment ago may not have reached every broker: it is waited for.
///
/// # Errors
/// The topic that is missing, or has another partition count.
pub fn check_topics(kafka: &Kafka, shared: &mut Shared) -> Result<()> {
    let mut found = wait_for_topics(kafka)?;
    let is_new = create_missing(kafka, shared, &found)?;
    let until = Instant::now() + if is_new { PATIENCE } else { TOPICS_PATIENCE };
    loop {
        match partition_count(&found, shared) {
            Err(error) if Instant::now() < until => {
                tracing::debug!(%error, "topics");
                std::thread::sleep(Duration::from_millis(500));
                found = wait_for_topics(kafka)?;
            }
            other => {
                shared.partitions = other?;
                return take_partitions(&found, shared);
            }
        }
    }
}

/// Puts down the partition counts of the other streams and of tables, which may be any.
///
/// # Errors
/// The topic that is missing.
pub fn take_partitions(found: &BTreeMap<String, admin::Topic>, shared: &mut Shared) -> Result<()> {
    for source in &mut shared.sources {
        let Some(topic) = found.get(&*source.topic) else {
            let what = format!(
                "topic {} does not exist; a query reads it. Create it, or drop the query",
                source.topic
            );
            return Err(Usage(what).into());
        };
        source.partitions = topic.partitions;
    }
    for table in &mut shared.tables {
        let Some(topic) = found.get(&table.source.topic) else {
            let what = format!(
                "topic {} of table {} does not exist; a query joins it. Create it (compacted), or \
                 drop the query",
                table.source.topic, table.source.name
            );
            return Err(Usage(what).into());
        };
        table.partitions = topic.partitions;
    }
    Ok(())
}

/// Rows are compacted by their key; late partials and errors are kept for a month. Whether a topic
/// was made.
fn create_missing(
    kafka: &Kafka,
    shared: &Shared,
    found: &BTreeMap<String, admin::Topic>,
) -> Result<bool> {
    let Some(like) = found.get(&*shared.input_topic) else { return Ok(false) };
    let late = shared.global.iter().map(|query| (&query.late_topic, "delete"));
    let rows = shared.queries(Stage::Account).map(|query| (&query.topic, "compact,delete"));
    let streams = shared.streams.iter().map(|query| (&query.topic, "delete"));
    let errors = shared.all().filter_map(|query| query.errors_topic.as_ref());
    let errors = errors.map(|topic| (topic, "delete"));
    let all = rows.chain(streams).chain(late).chain(errors);
    let missing = all.filter(|(topic, _)| !found.contains_key(&***topic));
    let topic = |(name, policy): (&Arc<str>, &str)| {
        let config = [
            ("cleanup.policy", policy),
            ("retention.ms", "2592000000"),
            ("max.message.bytes", "1114112"),
        ];
        admin::Topic {
            name: name.to_string(),
            partitions: like.partitions,
            replication: like.replication,
            config: config.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    };
    let missing: Vec<admin::Topic> = missing.map(topic).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let names: Vec<&str> = missing.iter().map(|topic| topic.name.as_str()).collect();
    tracing::info!(topics = names.join(" "), "the topics of queries are made");
    admin::Admin::connect(kafka)?.create_all(&missing)?;
    Ok(true)
}

/// The topics that must have equally many partitions: the state first, the input last. They grow in
/// this order, so that topics which are only half grown are never taken for whole ones.
#[must_use]
pub fn partitioned(shared: &Shared) -> Vec<&Arc<str>> {
    let own = [&shared.state_topic, &shared.partials_topic, &shared.dead_letter_topic];
    let rows = shared.all().map(|query| &query.topic);
    let late = shared.global.iter().map(|query| &query.late_topic);
    let errors = shared.all().filter_map(|query| query.errors_topic.as_ref());
    let all = own.into_iter().chain(rows).chain(late).chain(errors);
    all.chain([&shared.valid_topic, &shared.input_topic]).collect()
}

fn partition_count(found: &BTreeMap<String, admin::Topic>, shared: &Shared) -> Result<i32> {
    let partitions = |topic: &str| {
        found.get(topic).map(|t| t.partitions).ok_or_else(|| {
            Usage(format!(
                "topic {topic} does not exist; create the topics with `caudal topics apply`"
            ))
        })
    };
    let expected = partitions(&shared.input_topic)?;
    for topic in partitioned(shared) {
        let count = partitions(topic)?;
        if count != expected {
            let most = count.max(expected);
            return Err(Usage(format!(
                "topic {topic} has {count} partitions, {} has {expected}; they must be equal. Let \
                 `caudal topics migrate --partitions {most}` grow all of them, and move the state",
                shared.input_topic
            ))
            .into());
        }
    }
    Ok(expected)
}

fn wait_for_topics(kafka: &Kafka) -> Result<BTreeMap<String, admin::Topic>> {
    let admin = admin::Admin::connect(kafka)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match admin.topics() {
            Err(error) if error.transient && Instant::now() < until => {
                tracing::warn!(%error, "waiting for the brokers");
            }
            other => {
                return other
                    .with_context(|| format!("is Kafka up at {}?", kafka.bootstrap_servers()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::shipped;

    #[test]
    fn half_grown_topics_are_refused_with_the_command_that_completes_them() {
        let shared = Shared::new(shipped(), 1, 0);
        let topic = |name: &str, partitions| admin::Topic {
            name: name.to_owned(),
            partitions,
            replication: 3,
            config: BTreeMap::new(),
        };
        let all = partitioned(&shared);
        assert_eq!((&**all[0], &***all.last().unwrap()), ("caudal_estado", "transacciones"));
        let names = all.iter().map(|name| name.to_string());
        let mut found: BTreeMap<String, admin::Topic> =
            names.map(|name| (name.clone(), topic(&name, 6))).collect();
        assert_eq!(partition_count(&found, &shared).unwrap(), 6);
        found.insert("caudal_estado".into(), topic("caudal_estado", 10));
        let error = partition_count(&found, &shared).unwrap_err().to_string();
        assert!(error.contains("caudal topics migrate --partitions 10"), "{error}");
        found.remove("ventas_gold");
        assert!(partition_count(&found, &shared).is_err());
    }
}
