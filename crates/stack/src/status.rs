//! What runs, where, and how large it is.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::layout;
use crate::process;
use crate::stack::Stack;
use crate::{postgres, prometheus};

/// The whole stack.
#[derive(Debug, Clone, Serialize)]
pub struct StackStatus {
    /// True when every part that should run does.
    pub up: bool,
    /// The stack's folder.
    pub home: String,
    /// `host:port` of every broker, comma separated.
    pub bootstrap_servers: String,
    /// PostgreSQL's address.
    pub database_url: String,
    /// Prometheus's address while it runs.
    pub prometheus_url: Option<String>,
    /// Resident memory of everything, in bytes.
    pub rss_bytes: u64,
    /// Kafka nodes in the order of the topology, then `postgres`, then `prometheus`.
    pub parts: Vec<PartStatus>,
}

/// One Kafka node or service.
#[derive(Debug, Clone, Serialize)]
pub struct PartStatus {
    /// Name used by every command.
    pub name: String,
    /// Roles of a Kafka node, `server` otherwise.
    pub role: String,
    /// Whether it runs.
    pub state: State,
    /// Its pid while it runs.
    pub pid: Option<u32>,
    /// Ports by purpose, in the order `client`, `controller`, `metrics` for a Kafka node.
    pub ports: Vec<(String, u16)>,
    /// Resident memory in bytes while it runs; PostgreSQL's with all its workers, shared pages
    /// counted once where the system tells.
    pub rss_bytes: Option<u64>,
    /// Its data folder.
    pub data_dir: String,
    /// Bytes of that folder on disk.
    pub data_bytes: u64,
    /// Its log.
    pub log: String,
}

/// Whether a part runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The process is there.
    Running,
    /// It is not, and could be.
    Stopped,
    /// It is not, because it is not installed.
    Absent,
}

pub fn collect(stack: &Stack) -> Result<StackStatus> {
    let mut parts = Vec::new();
    for name in stack.names() {
        parts.push(part(stack, name)?);
    }
    Ok(StackStatus {
        up: parts.iter().all(|part| part.state != State::Stopped),
        home: stack.home().display().to_string(),
        bootstrap_servers: stack.bootstrap_servers(),
        database_url: stack.database_url(),
        prometheus_url: stack.prometheus_url(),
        rss_bytes: parts.iter().filter_map(|part| part.rss_bytes).sum(),
        parts,
    })
}

fn part(stack: &Stack, name: &str) -> Result<PartStatus> {
    let pid = stack.daemon(name)?.pid();
    let state = match pid {
        Some(_) => State::Running,
        None if name == prometheus::NAME && prometheus::program().is_none() => State::Absent,
        None => State::Stopped,
    };
    let data = match name {
        postgres::NAME => stack.postgres()?.data(),
        prometheus::NAME => stack.layout.prometheus().join("data"),
        _ => stack.layout.node_data(name),
    };
    let rss = |pid| {
        if name == postgres::NAME { with_children(pid) } else { process::resident_bytes(pid) }
    };
    let ports = stack.ports_of(name);
    Ok(PartStatus {
        name: name.to_owned(),
        role: stack.topology.node(name).map_or("server".to_owned(), |node| node.roles_text()),
        state,
        pid,
        ports: ports.into_iter().map(|(purpose, port)| (purpose.to_owned(), port)).collect(),
        rss_bytes: pid.and_then(rss),
        data_bytes: layout::disk_bytes(&data),
        data_dir: data.display().to_string(),
        log: stack.layout.log(name).display().to_string(),
    })
}

/// A process and its direct children; pages that they share are divided among them.
fn with_children(pid: u32) -> Option<u64> {
    let own = proportional_bytes(pid).or_else(|| process::resident_bytes(pid))?;
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Some(own);
    };
    let children = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|other| process::parent(*other) == Some(pid))
        .filter_map(|child| proportional_bytes(child).or_else(|| process::resident_bytes(child)));
    Some(own + children.sum::<u64>())
}

fn proportional_bytes(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(Path::new(&path)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kib * 1024)
}
