//! What the stack consists of: `config/stack.toml` with the port offset added.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

const BUILT_IN: &str = include_str!("../../../config/stack.toml");

/// The nodes, services and ports of one stack.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// What all Kafka nodes share.
    pub cluster: Cluster,
    /// The Kafka nodes, in the order of the file.
    #[serde(rename = "node")]
    pub nodes: Vec<Node>,
    /// The PostgreSQL server.
    pub postgres: Postgres,
    /// The Prometheus server, run where its binary exists.
    pub prometheus: Prometheus,
    /// Metrics ports of caudal's own services, by name.
    #[serde(default)]
    pub services: BTreeMap<String, u16>,
}

/// What all Kafka nodes share.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Name that every listener binds to and is announced as.
    pub host: String,
    /// Milliseconds of silence after which a broker is fenced.
    pub session_timeout_ms: u32,
    /// Milliseconds between a broker's heartbeats.
    pub heartbeat_interval_ms: u32,
    /// Seconds that `up` and `start` wait for an answer.
    pub start_timeout_s: u64,
    /// Seconds a process has for a clean end before it is killed.
    pub stop_timeout_s: u64,
}

/// What a Kafka node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Stores records and serves clients.
    Broker,
    /// Votes on and serves the cluster's metadata.
    Controller,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Broker => "broker",
            Role::Controller => "controller",
        }
    }
}

/// One Kafka node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Name used by every command, for instance `broker-2`.
    pub name: String,
    /// Kafka's `node.id`.
    pub id: u32,
    /// Broker, controller or both.
    pub roles: Vec<Role>,
    /// Port for clients; brokers only.
    pub client_port: Option<u16>,
    /// Port of the metadata quorum; controllers only.
    pub controller_port: Option<u16>,
    /// Port of the JMX exporter, on 127.0.0.1.
    pub jmx_port: u16,
    /// Java heap in MiB.
    pub heap_mib: u32,
}

impl Node {
    /// True when the node stores records and serves clients.
    pub fn is_broker(&self) -> bool {
        self.roles.contains(&Role::Broker)
    }

    /// True when the node votes in the metadata quorum.
    pub fn is_controller(&self) -> bool {
        self.roles.contains(&Role::Controller)
    }

    /// Kafka's `process.roles`.
    pub fn roles_text(&self) -> String {
        let words: Vec<&str> = self.roles.iter().map(|role| role.word()).collect();
        words.join(",")
    }

    /// Every port the node listens on, with its purpose.
    pub fn ports(&self) -> Vec<(&'static str, u16)> {
        let mut ports = Vec::new();
        ports.extend(self.client_port.map(|port| ("client", port)));
        ports.extend(self.controller_port.map(|port| ("controller", port)));
        ports.push(("metrics", self.jmx_port));
        ports
    }
}

/// The PostgreSQL server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// TCP port on localhost.
    pub port: u16,
    /// Role that owns everything.
    pub user: String,
    /// That role's password.
    pub password: String,
    /// Database made at first start.
    pub database: String,
    /// PostgreSQL's `shared_buffers`.
    pub shared_buffers: String,
    /// PostgreSQL's `max_wal_size`.
    pub max_wal_size: String,
    /// PostgreSQL's `max_connections`.
    pub max_connections: u32,
}

/// The Prometheus server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prometheus {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// How long samples are kept, in Prometheus's words (`6h`).
    pub retention: String,
    /// Seconds between scrapes.
    pub scrape_interval_s: u32,
    /// Globs of rule files.
    #[serde(default)]
    pub rule_files: Vec<String>,
}

impl Topology {
    /// Reads `path`, or the topology built into the program when there is none, and adds `offset`
    /// to every port.
    ///
    /// # Errors
    /// The file cannot be read or understood, two things share a port or a name, a node lacks the
    /// port its role needs, or a port leaves the range 1 to 65535.
    pub fn load(path: Option<&Path>, offset: u16) -> Result<Topology> {
        let (text, origin) = match path {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| {
                    format!("cannot read the topology {} (CAUDAL_STACK_CONFIG)", path.display())
                })?;
                (text, path.display().to_string())
            }
            None => (BUILT_IN.to_owned(), "the built-in config/stack.toml".to_owned()),
        };
        Topology::parse(&text, offset).with_context(|| format!("in {origin}"))
    }

    /// Parses a topology and adds `offset` to every port.
    ///
    /// # Errors
    /// As [`Topology::load`], without the file.
    pub fn parse(text: &str, offset: u16) -> Result<Topology> {
        let mut topology: Topology = toml::from_str(text).context("the topology is not valid")?;
        topology.shift(offset)?;
        topology.check()?;
        Ok(topology)
    }

    fn shift(&mut self, offset: u16) -> Result<()> {
        let add = |port: &mut u16| -> Result<()> {
            *port = port.checked_add(offset).with_context(|| {
                format!("port {port} plus CAUDAL_PORT_OFFSET={offset} is above 65535")
            })?;
            Ok(())
        };
        for node in &mut self.nodes {
            for port in [&mut node.client_port, &mut node.controller_port].into_iter().flatten() {
                add(port)?;
            }
            add(&mut node.jmx_port)?;
        }
        add(&mut self.postgres.port)?;
        add(&mut self.prometheus.port)?;
        self.services.values_mut().try_for_each(add)
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeMap::from([("postgres", ()), ("prometheus", ())]);
        let mut ids = BTreeMap::new();
        for node in &self.nodes {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if node.name.is_empty() || !node.name.chars().all(plain) {
                bail!("node name {:?} must consist of letters, digits, - and _", node.name);
            }
            if names.insert(&node.name, ()).is_some() {
                bail!("the name {} is used twice", node.name);
            }
            if let Some(other) = ids.insert(node.id, &node.name) {
                bail!("{other} and {} have the same id {}", node.name, node.id);
            }
            if node.roles.is_empty() {
                bail!("{} has no role; roles are \"broker\" and \"controller\"", node.name);
            }
            if node.is_broker() != node.client_port.is_some() {
                bail!("{}: a client_port belongs to the broker role and only to it", node.name);
            }
            if node.is_controller() != node.controller_port.is_some() {
                bail!(
                    "{}: a controller_port belongs to the controller role and only to it",
                    node.name
                );
            }
        }
        if !self.nodes.iter().any(Node::is_broker) || !self.nodes.iter().any(Node::is_controller) {
            bail!("the topology needs at least one broker and one controller");
        }
        let mut ports = BTreeMap::new();
        for (owner, port) in self.ports() {
            if port == 0 {
                bail!("{owner}: port 0 cannot be announced to clients; choose a number");
            }
            if let Some(other) = ports.insert(port, owner.clone()) {
                bail!("{other} and {owner} both want port {port}");
            }
        }
        Ok(())
    }

    /// Every port of the stack with the name of its owner, for instance `broker-1 client`.
    pub fn ports(&self) -> Vec<(String, u16)> {
        let mut ports = Vec::new();
        for node in &self.nodes {
            for (purpose, port) in node.ports() {
                ports.push((format!("{} {purpose}", node.name), port));
            }
        }
        ports.push(("postgres".to_owned(), self.postgres.port));
        ports.push(("prometheus".to_owned(), self.prometheus.port));
        ports.extend(self.services.iter().map(|(name, port)| (name.clone(), *port)));
        ports
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// `host:port` of every broker, comma separated.
    pub fn bootstrap_servers(&self) -> String {
        let host = &self.cluster.host;
        let addresses: Vec<String> = self
            .nodes
            .iter()
            .filter_map(|node| node.client_port)
            .map(|port| format!("{host}:{port}"))
            .collect();
        addresses.join(",")
    }

    /// `id@host:port` of every controller, comma separated.
    pub fn voters(&self) -> String {
        let host = &self.cluster.host;
        let voters: Vec<String> = self
            .nodes
            .iter()
            .filter_map(|node| Some(format!("{}@{host}:{}", node.id, node.controller_port?)))
            .collect();
        voters.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_topology_has_the_documented_ports() {
        let topology = Topology::load(None, 0).unwrap();
        assert_eq!(topology.bootstrap_servers(), "localhost:9092,localhost:9094,localhost:9096");
        assert_eq!(topology.voters(), "1@localhost:9093,2@localhost:9095,3@localhost:9097");
        assert_eq!(topology.postgres.port, 15432);
        assert!(topology.ports().iter().all(|(_, port)| *port < 32768));
        assert_eq!(topology.nodes[1].roles_text(), "broker,controller");
    }

    #[test]
    fn the_offset_moves_every_port() {
        let here = Topology::load(None, 0).unwrap();
        let there = Topology::load(None, 1000).unwrap();
        for ((owner, a), (_, b)) in here.ports().into_iter().zip(there.ports()) {
            assert_eq!(a + 1000, b, "{owner}");
        }
        let error = Topology::load(None, 60000).unwrap_err();
        assert!(format!("{error:#}").contains("CAUDAL_PORT_OFFSET"), "{error:#}");
    }

    #[test]
    fn faults_are_named() {
        let base = BUILT_IN;
        for (from, to, words) in [
            ("client_port = 9094", "client_port = 9092", "both want port 9092"),
            ("name = \"broker-2\"", "name = \"broker-1\"", "used twice"),
            ("id = 2", "id = 1", "same id 1"),
            ("name = \"broker-3\"", "name = \"a b\"", "letters"),
            ("client_port = 9094\n", "", "client_port belongs"),
            ("heap_mib = 384", "heap = 384", "unknown field"),
        ] {
            let text = base.replacen(from, to, 1);
            assert_ne!(text, base, "{from}");
            let error = Topology::parse(&text, 0).unwrap_err();
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
    }
}
