//! Prometheus, where its binary is on the PATH.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::kafka::last_words;
use crate::layout::{self, Layout};
use crate::probe;
use crate::process::{self, Daemon};
use crate::topology::Topology;

/// Name of the process in every command.
pub const NAME: &str = "prometheus";

/// The binary, when there is one.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(NAME)).find(|file| file.is_file())
}

/// How to find its process.
pub fn daemon(layout: &Layout) -> Daemon {
    Daemon {
        name: NAME.to_owned(),
        pid_file: layout.pid_file(NAME),
        marker: settings_path(layout).display().to_string(),
    }
}

fn settings_path(layout: &Layout) -> PathBuf {
    layout.prometheus().join("prometheus.yml")
}

/// Starts it and waits until it listens.
///
/// # Errors
/// It cannot be started, or ends at once.
pub fn start(layout: &Layout, topology: &Topology, program: &Path) -> Result<()> {
    layout::create_dir(&layout.prometheus())?;
    let here = std::env::current_dir().unwrap_or_default();
    layout::write_file(&settings_path(layout), &settings(topology, &here))?;
    let output = layout.log(NAME);
    layout::remove(&output)?;
    let port = topology.prometheus.port;
    let mut command = Command::new(program);
    command
        .current_dir(layout.prometheus())
        .arg(format!("--config.file={}", settings_path(layout).display()))
        .arg(format!("--storage.tsdb.path={}", layout.prometheus().join("data").display()))
        .arg(format!("--storage.tsdb.retention.time={}", topology.prometheus.retention))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let daemon = daemon(layout);
    daemon.spawn(command, &output)?;
    let patience = Duration::from_secs(topology.cluster.start_timeout_s.min(30));
    process::wait_until(patience, || probe::listens("127.0.0.1", port) || daemon.pid().is_none());
    if daemon.pid().is_none() || !probe::listens("127.0.0.1", port) {
        bail!("Prometheus does not serve on port {port}.\n{}", last_words(layout, NAME, 0));
    }
    Ok(())
}

fn settings(topology: &Topology, here: &Path) -> String {
    let interval = topology.prometheus.scrape_interval_s;
    let mut text = format!(
        "# Written by `caudal stack` at every start; change config/stack.toml instead.\n\
         global:\n  scrape_interval: {interval}s\n  scrape_timeout: {interval}s\n  \
         evaluation_interval: {interval}s\n"
    );
    if !topology.prometheus.rule_files.is_empty() {
        text.push_str("rule_files:\n");
        for glob in &topology.prometheus.rule_files {
            text.push_str(&format!(
                "  - '{}'\n",
                here.join(glob).display().to_string().replace('\'', "''")
            ));
        }
    }
    text.push_str("scrape_configs:\n  - job_name: kafka\n    static_configs:\n");
    for node in &topology.nodes {
        text.push_str(&format!(
            "      - targets: ['127.0.0.1:{}']\n        labels: {{ broker: '{}', node: '{}' }}\n",
            node.jmx_port, node.id, node.name
        ));
    }
    for (name, port) in &topology.services {
        text.push_str(&format!(
            "  - job_name: {name}\n    static_configs:\n      - targets: ['127.0.0.1:{port}']\n"
        ));
    }
    text.push_str(&format!(
        "  - job_name: prometheus\n    static_configs:\n      - targets: ['127.0.0.1:{}']\n",
        topology.prometheus.port
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_scraped() {
        let topology = Topology::load(None, 100).unwrap();
        let text = settings(&topology, Path::new("/h"));
        for target in ["9511", "9512", "9513", "9501", "9502", "9503", "9590"] {
            assert!(text.contains(&format!("127.0.0.1:{target}'")), "{target}\n{text}");
        }
    }
}
