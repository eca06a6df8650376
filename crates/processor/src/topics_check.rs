//! The topics that must be there before the engine starts.

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
/// How long to wait for a topic that is missing.
const TOPICS_PATIENCE: Duration = Duration::from_secs(10);

/// Every topic must be there, with as many partitions as its keys need. A topic that was made a
/// moment ago may not have reached every broker: it is waited for.
///
/// # Errors
/// The topic that is missing, or has another partition count.
pub fn check_topics(kafka: &Kafka, shared: &Shared) -> Result<i32> {
    let until = Instant::now() + TOPICS_PATIENCE;
    loop {
        match partition_count(&wait_for_topics(kafka)?, shared) {
            Err(error) if Instant::now() < until => {
                tracing::debug!(%error, "topics");
                std::thread::sleep(Duration::from_millis(500));
            }
            other => return other,
        }
    }
}

/// The topics that must have equally many partitions: the state first, the input last. They grow in
/// this order, so that topics which are only half grown are never taken for whole ones.
#[must_use]
pub fn partitioned(shared: &Shared) -> Vec<&Arc<str>> {
    let own = [&shared.state_topic, &shared.partials_topic, &shared.dead_letter_topic];
    let rows = shared.queries(Stage::Account).map(|query| &query.topic);
    let late = shared.global.iter().map(|query| &query.late_topic);
    let all = own.into_iter().chain(rows).chain(late);
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
    for table in shared.tables() {
        if partitions(table)? != 1 {
            let what = format!("topic {table} is joined as a table and must have one partition");
            return Err(Usage(what).into());
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
