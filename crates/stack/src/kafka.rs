//! The Kafka nodes: settings, formatting, starting.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::java::Java;
use crate::layout::{self, Layout};
use crate::probe;
use crate::process::Daemon;
use crate::topology::{Node, Topology};

const PROPERTIES: &str = include_str!("../../../config/kafka/server.properties");
const LOG4J: &str = include_str!("../../../config/kafka/log4j2.yaml");
const LOG4J_TOOLS: &str = include_str!("../../../config/kafka/log4j2-tools.yaml");
const JMX: &str = include_str!("../../../config/kafka/jmx.yml");

/// What a node's data folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Nothing yet.
    Empty,
    /// The rest of a formatting that was interrupted: no record was ever stored.
    HalfWritten,
    /// Formatted for this cluster and node.
    Formatted,
}

/// How to find the process of a node.
pub fn daemon(layout: &Layout, name: &str) -> Daemon {
    Daemon {
        name: name.to_owned(),
        pid_file: layout.pid_file(name),
        marker: layout.node_properties(name).display().to_string(),
    }
}

/// Path of the tools' log settings.
pub fn tools_log4j(layout: &Layout) -> PathBuf {
    layout.settings().join("log4j2-tools.yaml")
}

/// Writes the settings that all nodes share.
///
/// # Errors
/// A file cannot be written.
pub fn write_settings(layout: &Layout) -> Result<()> {
    layout::write_file(&layout.settings().join("log4j2.yaml"), LOG4J)?;
    layout::write_file(&tools_log4j(layout), LOG4J_TOOLS)?;
    layout::write_file(&layout.settings().join("jmx.yml"), JMX)
}

/// The node's `server.properties`.
///
/// # Errors
/// The template has a placeholder that is not known here.
fn properties(topology: &Topology, node: &Node, data: &Path) -> Result<String> {
    let host = &topology.cluster.host;
    let mut listeners = Vec::new();
    listeners.extend(node.client_port.map(|port| format!("PLAINTEXT://{host}:{port}")));
    listeners.extend(node.controller_port.map(|port| format!("CONTROLLER://{host}:{port}")));
    let values = [
        ("@ROLES@", node.roles_text()),
        ("@NODE_ID@", node.id.to_string()),
        ("@VOTERS@", topology.voters()),
        ("@LISTENERS@", listeners.join(",")),
        ("@DATA_DIR@", data.display().to_string()),
        ("@SESSION_TIMEOUT_MS@", topology.cluster.session_timeout_ms.to_string()),
        ("@HEARTBEAT_INTERVAL_MS@", topology.cluster.heartbeat_interval_ms.to_string()),
    ];
    render(PROPERTIES, &values).context("in config/kafka/server.properties")
}

/// Fills placeholders into all lines but comments.
fn render(template: &str, values: &[(&str, String)]) -> Result<String> {
    let mut text = String::with_capacity(template.len());
    for line in template.lines() {
        let mut line = line.to_owned();
        if !line.starts_with('#') {
            for word in placeholders(&line) {
                let Some((_, value)) = values.iter().find(|(known, _)| *known == word) else {
                    bail!("unknown placeholder {word} in {line:?}");
                };
                line = line.replace(&word, value);
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// Words like `@NODE_ID@` in a line of the template.
fn placeholders(line: &str) -> Vec<String> {
    let pieces: Vec<&str> = line.split('@').collect();
    let inner = pieces.get(1..pieces.len().saturating_sub(1)).unwrap_or_default();
    let is_name =
        |text: &&&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    inner.iter().filter(is_name).map(|name| format!("@{name}@")).collect()
}

/// The cluster's id: the one on file, else that of a formatted node, else a new one.
///
/// # Errors
/// The file cannot be read or written.
pub fn cluster_id(layout: &Layout, topology: &Topology) -> Result<String> {
    let path = layout.cluster_id();
    let known = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
    if known.len() == 22 {
        return Ok(known);
    }
    let of_node = topology
        .nodes
        .iter()
        .find_map(|node| meta(&layout.node_data(&node.name)).map(|(cluster, _)| cluster));
    let id = match of_node {
        Some(id) => id,
        None => new_cluster_id()?,
    };
    layout::create_dir(&layout.home().join("nodes"))?;
    layout::write_file(&path, &format!("{id}\n"))?;
    Ok(id)
}

/// 128 random bits as 22 characters of URL-safe base64 that do not start with a dash.
fn new_cluster_id() -> Result<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0_u8; 21];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut random).context("cannot read /dev/urandom")?;
    let digits = random.iter().map(|byte| char::from(DIGITS[usize::from(*byte % 62)]));
    // The last character has two bits of its own only; A leaves them zero.
    Ok(digits.chain(['A']).collect())
}

/// Cluster id and node id of a formatted folder.
fn meta(data: &Path) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(data.join("meta.properties")).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((value("cluster.id")?.trim().to_owned(), value("node.id")?.trim().parse().ok()?))
}

fn inspect(node: &Node, data: &Path, cluster: &str) -> Result<Data> {
    let Ok(entries) = std::fs::read_dir(data) else {
        return Ok(Data::Empty);
    };
    let names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if names.is_empty() {
        return Ok(Data::Empty);
    }
    let Some((found, id)) = meta(data) else {
        if let Some(log) = names.iter().find(|path| holds_records(path)) {
            bail!(
                "{}: {} has no usable meta.properties, yet {} holds records. Nothing was \
                 changed. Bring the file back from another copy, or give the data up with \
                 `caudal stack down --wipe`.",
                node.name,
                data.display(),
                log.display()
            );
        }
        return Ok(Data::HalfWritten);
    };
    if found != cluster || id != node.id {
        bail!(
            "{}: {} belongs to node {id} of cluster {found}, not to node {} of cluster {cluster}. \
             Choose another CAUDAL_HOME, or give the data up with `caudal stack down --wipe`.",
            node.name,
            data.display(),
            node.id
        );
    }
    Ok(Data::Formatted)
}

/// True for a partition's folder with at least one byte of log. The metadata's own folder counts
/// as well: its log is written only after formatting.
fn holds_records(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        entry.path().extension().is_some_and(|extension| extension == "log")
            && entry.metadata().is_ok_and(|meta| meta.len() > 0)
    })
}

/// Writes the node's settings and formats its data folder where that was not done, or not to its
/// end. Returns a line for the user when there is something to tell.
///
/// # Errors
/// The folder holds foreign or damaged data, or Kafka's formatter fails.
pub fn prepare(
    layout: &Layout,
    topology: &Topology,
    node: &Node,
    java: &Java,
    cluster: &str,
) -> Result<Option<String>> {
    let data = layout.node_data(&node.name);
    layout::create_dir(&layout.node(&node.name))?;
    let path = layout.node_properties(&node.name);
    layout::write_file(&path, &properties(topology, node, &data)?)?;
    let note = match inspect(node, &data, cluster)? {
        Data::Formatted => return Ok(None),
        Data::Empty => format!("{} formatted", node.name),
        Data::HalfWritten => {
            layout::remove(&data)?;
            format!("{}: an interrupted formatting was cleared and done again", node.name)
        }
    };
    format(layout, node, java, cluster, &path)?;
    Ok(Some(note))
}

fn format(
    layout: &Layout,
    node: &Node,
    java: &Java,
    cluster: &str,
    properties: &Path,
) -> Result<()> {
    let mut command = java.command(&tools_log4j(layout));
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-XX:-UsePerfData"]);
    command.args(["kafka.tools.StorageTool", "format", "--ignore-formatted"]);
    command.args(["--cluster-id", cluster, "--config"]).arg(properties);
    let output = command.output().with_context(|| format!("cannot format {}", node.name))?;
    if !output.status.success() {
        let words = [output.stdout, output.stderr].concat();
        bail!(
            "formatting {} failed ({}):\n{}",
            node.name,
            output.status,
            String::from_utf8_lossy(&words).trim_end()
        );
    }
    Ok(())
}

/// Starts the node's process and returns its pid. It does not answer yet.
///
/// # Errors
/// It cannot be started.
pub fn spawn(layout: &Layout, node: &Node, java: &Java) -> Result<u32> {
    let log = layout.log(&node.name);
    let mut command = java.command(&layout.settings().join("log4j2.yaml"));
    let heap = node.heap_mib;
    // The serial collector: on small heaps and few cores it took less CPU and memory than G1. An
    // archive of loaded classes would speed up the start, but Java refuses one with an agent.
    command
        .current_dir(layout.node(&node.name))
        .args([format!("-Xms{heap}m"), format!("-Xmx{heap}m")])
        .args(["-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"])
        .arg(format!("-Dcaudal.log={}", log.display()))
        .arg(format!(
            "-javaagent:{}=127.0.0.1:{}:{}",
            java.agent.display(),
            node.jmx_port,
            layout.settings().join("jmx.yml").display()
        ))
        .arg("kafka.Kafka")
        .arg(layout.node_properties(&node.name));
    let output = layout.output(&node.name);
    // Only what this start prints is of interest.
    layout::remove(&output)?;
    daemon(layout, &node.name).spawn(command, &output)
}

/// Waits until the node serves: a broker answers and is itself among the live brokers, a
/// controller accepts connections.
///
/// # Errors
/// The process ends, or it does not serve within `patience`; both with what it logged after byte
/// `log_from` of its log.
pub fn wait_ready(
    layout: &Layout,
    topology: &Topology,
    node: &Node,
    log_from: u64,
    patience: Duration,
) -> Result<()> {
    let daemon = daemon(layout, &node.name);
    let host = &topology.cluster.host;
    let deadline = Instant::now() + patience;
    let mut last = String::from("it does not listen yet");
    loop {
        if daemon.pid().is_none() {
            bail!(
                "{} ended while starting.\n{}",
                node.name,
                last_words(layout, &node.name, log_from)
            );
        }
        match node.client_port {
            Some(port) => match probe::live_brokers(host, port) {
                Ok(ids) if ids.contains(&node.id) => return Ok(()),
                Ok(ids) => last = format!("it is not yet among the live brokers {ids:?}"),
                Err(error) => last = format!("{error:#}"),
            },
            None => {
                if node.controller_port.is_some_and(|port| probe::listens(host, port)) {
                    return Ok(());
                }
            }
        }
        if Instant::now() >= deadline {
            bail!(
                "{} does not serve after {} s ({last}).\n{}",
                node.name,
                patience.as_secs(),
                last_words(layout, &node.name, log_from)
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a process wrote since `from` (bytes of its log), for an error message: its last complaints,
/// the end, and the paths.
pub fn last_words(layout: &Layout, name: &str, from: u64) -> String {
    let mut text = String::new();
    let log = layout.log(name);
    let since = read_end(&log, from);
    let mut complaints: Vec<&str> =
        since.lines().filter(|line| line.contains(" ERROR ") || line.contains("FATAL")).collect();
    complaints.drain(..complaints.len().saturating_sub(4));
    if !complaints.is_empty() {
        text.push_str(&format!("Complaints in {}:\n{}\n", log.display(), complaints.join("\n")));
    }
    let all: Vec<&str> = since.lines().collect();
    let end = all[all.len().saturating_sub(6)..].join("\n");
    text.push_str(&format!("The end of {}:\n{end}\n", log.display()));
    let output = layout.output(name);
    let printed = tail(&output, 10);
    if !printed.is_empty() {
        text.push_str(&format!("The end of {}:\n{printed}\n", output.display()));
    }
    if since.contains("No space left on device") {
        text.push_str("The disk is full: make room, then run `caudal stack up` again.\n");
    }
    let both = since + &printed;
    if both.contains("insufficient memory") || both.contains("OutOfMemoryError") {
        text.push_str(
            "Memory ran out: close something, or change heap_mib in a copy of config/stack.toml \
             named by CAUDAL_STACK_CONFIG.\n",
        );
    }
    text
}

/// Bytes of a file, 0 when there is none.
pub fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// The last `count` lines of a file; of a large one, of its last 64 KiB.
pub fn tail(path: &Path, count: usize) -> String {
    let text = read_end(path, 0);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A file from byte `from` on, at most its last 64 KiB; empty when it cannot be read.
fn read_end(path: &Path, from: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        // Shorter than before: it was rotated meanwhile.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(64 * 1024))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(text: &'a str, key: &str) -> &'a str {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("absent")
    }

    #[test]
    fn properties_of_a_combined_node() {
        let topology = Topology::load(None, 0).unwrap();
        let text = properties(&topology, &topology.nodes[1], Path::new("/d")).unwrap();
        assert_eq!(value(&text, "node.id"), "2");
        assert_eq!(value(&text, "process.roles"), "broker,controller");
        assert_eq!(
            value(&text, "listeners"),
            "PLAINTEXT://localhost:9094,CONTROLLER://localhost:9095"
        );
        assert_eq!(value(&text, "log.dirs"), "/d");
        for (key, course) in [
            ("num.partitions", "6"),
            ("default.replication.factor", "3"),
            ("min.insync.replicas", "2"),
            ("log.retention.hours", "168"),
            ("compression.type", "snappy"),
            ("num.network.threads", "3"),
            ("num.io.threads", "8"),
            ("socket.send.buffer.bytes", "102400"),
            ("socket.receive.buffer.bytes", "102400"),
        ] {
            assert_eq!(value(&text, key), course);
        }
    }

    #[test]
    fn properties_of_separate_roles() {
        let text = include_str!("../../../config/stack.toml")
            .replacen("[\"broker\", \"controller\"]", "[\"controller\"]", 1)
            .replacen("client_port = 9092\n", "", 1);
        let topology = Topology::parse(&text, 0).unwrap();
        let text = properties(&topology, &topology.nodes[0], Path::new("/d")).unwrap();
        assert_eq!(value(&text, "listeners"), "CONTROLLER://localhost:9093");
        assert_eq!(topology.bootstrap_servers(), "localhost:9094,localhost:9096");
    }

    #[test]
    fn an_unknown_placeholder_is_refused() {
        assert!(render("a=@WHAT@", &[]).is_err());
        assert_eq!(render("# @WHAT@", &[]).unwrap(), "# @WHAT@\n");
        let values = [("@V@", "1@h:2,3@h:4".to_owned()), ("@N@", "5".to_owned())];
        assert_eq!(render("a=@V@", &values).unwrap(), "a=1@h:2,3@h:4\n");
        assert_eq!(render("a=@N@@N@,x@y", &values).unwrap(), "a=55,x@y\n");
    }

    #[test]
    fn half_written_folders_are_told_from_damaged_ones() {
        let dir = std::env::temp_dir().join(format!("caudal-format-{}", std::process::id()));
        let topology = Topology::load(None, 0).unwrap();
        let node = &topology.nodes[0];
        let data = dir.join("data");
        assert_eq!(inspect(node, &data, "c").unwrap(), Data::Empty);
        layout::create_dir(&data.join("t-0")).unwrap();
        std::fs::write(data.join("bootstrap.checkpoint"), "x").unwrap();
        std::fs::write(data.join("t-0/0.log"), "").unwrap();
        assert_eq!(inspect(node, &data, "c").unwrap(), Data::HalfWritten);
        std::fs::write(data.join("t-0/0.log"), "x").unwrap();
        assert!(format!("{:#}", inspect(node, &data, "c").unwrap_err()).contains("holds records"));
        std::fs::write(data.join("meta.properties"), "cluster.id=c\nnode.id=1\n").unwrap();
        assert_eq!(inspect(node, &data, "c").unwrap(), Data::Formatted);
        assert!(inspect(node, &data, "other").is_err());
        layout::remove(&dir).unwrap();
    }

    #[test]
    fn cluster_ids_are_well_formed() {
        let id = new_cluster_id().unwrap();
        assert_eq!(id.len(), 22);
        assert!(id.ends_with('A') && !id.starts_with('-'));
        assert_ne!(id, new_cluster_id().unwrap());
    }
}
