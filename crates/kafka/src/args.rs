//! How to reach Kafka, and the settings of each role, set once with the reason beside each.

use crate::properties;
use anyhow::Result;
use clap::Args;
use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where Kafka is. Shared by every binary.
#[derive(Debug, Clone, Args)]
pub struct KafkaArgs {
    /// Kafka brokers to start from, host:port, separated by commas
    #[arg(long, env = "BOOTSTRAP_SERVERS", default_value = "localhost:9092")]
    pub bootstrap_servers: String,
    /// Client settings in Java's names (security.protocol, sasl.…, ssl.…); unknown keys are refused
    #[arg(long, env = "CAUDAL_KAFKA_CONFIG", value_name = "FILE")]
    pub kafka_config: Option<PathBuf>,
}

impl KafkaArgs {
    /// The connection for a client of that name.
    ///
    /// # Errors
    /// When the properties file cannot be read or has an unknown key.
    pub fn connect(&self, client_id: &str) -> Result<Kafka> {
        let mut base = match &self.kafka_config {
            Some(path) => properties::read(path)?,
            None => BTreeMap::new(),
        };
        base.entry("bootstrap.servers".into()).or_insert_with(|| self.bootstrap_servers.clone());
        base.entry("client.id".into()).or_insert_with(|| client_id.to_owned());
        Ok(Kafka { base })
    }
}

/// A cluster and how to log in to it. Clients are made from it.
#[derive(Clone)]
pub struct Kafka {
    base: BTreeMap<String, String>,
}

/// Never prints settings: they hold passwords.
impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kafka({})", self.base.get("bootstrap.servers").map_or("", String::as_str))
    }
}

/// Most bytes of a record that is produced, as the client counts: key, value, headers and some
/// twenty bytes of framing. Room for a dead letter: input of 1 MiB plus 64 KiB of headers.
pub const RECORD_LIMIT: usize = 1_114_112;

/// Whether a reader sees records of open and aborted transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Only committed records, up to the last stable offset.
    ReadCommitted,
    /// Everything, up to the high watermark.
    ReadUncommitted,
}

impl Kafka {
    /// A plain connection to `bootstrap_servers`, for tests and tools.
    #[must_use]
    pub fn plain(bootstrap_servers: &str) -> Kafka {
        let base = [("bootstrap.servers", bootstrap_servers), ("client.id", "caudal")];
        Kafka { base: base.map(|(k, v)| (k.to_owned(), v.to_owned())).into() }
    }

    /// The brokers this starts from.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        self.base.get("bootstrap.servers").map_or("", String::as_str)
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.base {
            config.set(key, value);
        }
        config
            // Find a broker that came back within a second, not after the default ten.
            .set("reconnect.backoff.max.ms", "1000")
            // A request that is older than this is tried again: below every time-out above it.
            .set("socket.timeout.ms", "10000")
            .set("topic.metadata.refresh.interval.ms", "30000");
        config
    }

    pub(crate) fn consumer_config(&self, isolation: Isolation) -> ClientConfig {
        let mut config = self.config();
        config
            .set(
                "isolation.level",
                match isolation {
                    Isolation::ReadCommitted => "read_committed",
                    Isolation::ReadUncommitted => "read_uncommitted",
                },
            )
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // An offset out of range halts: never a silent jump over lost records.
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            // The default of a second leaves the fetcher idle after the queue was full.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "50000")
            // Counts values only: what the client keeps beside each is twice as much again.
            .set("queued.max.messages.kbytes", "4096")
            // Compressed. The bound above is looked at before a fetch: with the default of 1 MiB a
            // partition, a backlog overshoots it by 80 MB.
            .set("max.partition.fetch.bytes", "262144");
        config
    }

    pub(crate) fn producer_config(&self) -> ClientConfig {
        let mut config = self.config();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // The brokers' codec (config/kafka/server.properties), so that they never recompress.
            .set("compression.codec", "snappy")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "10000")
            .set("message.max.bytes", RECORD_LIMIT.to_string())
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "65536")
            // CONCURRENT_TRANSACTIONS is retried after this; the default of 100 ms would be added
            // to almost every commit.
            .set("retry.backoff.ms", "10")
            .set("retry.backoff.max.ms", "200");
        config
    }
}
