//! What processes spend, and what the processor says of itself.

use anyhow::{Context as _, Result};
use caudal_stack::Stack;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BROKERS: [&str; 3] = ["broker-1", "broker-2", "broker-3"];

/// CPU seconds of a process itself, without children. Linux counts in 1/100 s.
///
/// # Errors
/// When the process is gone.
pub fn cpu(pid: u32) -> Result<f64> {
    ticks(pid, 11)
}

/// CPU seconds of this process's children that have ended and been waited for, theirs included.
///
/// # Errors
/// When the kernel does not say.
pub fn cpu_of_children() -> Result<f64> {
    ticks(std::process::id(), 13)
}

fn ticks(pid: u32, first: usize) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit(") ").next().context("stat")?;
    let values = after_name.split(' ').skip(first).take(2);
    Ok(values.filter_map(|v| v.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

/// Largest resident size so far, in MiB.
#[must_use]
pub fn peak_rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The brokers' process ids.
#[derive(Debug, Clone)]
pub struct Brokers(Vec<u32>);

impl Brokers {
    /// Of a stack.
    ///
    /// # Errors
    /// When one does not run.
    pub fn of(stack: &Stack) -> Result<Brokers> {
        let pid = |name: &&str| stack.pid(name).with_context(|| format!("{name} does not run"));
        Ok(Brokers(BROKERS.iter().map(pid).collect::<Result<_>>()?))
    }

    /// CPU seconds of them all.
    ///
    /// # Errors
    /// When one has died.
    pub fn cpu(&self) -> Result<f64> {
        self.0.iter().map(|pid| cpu(*pid)).sum()
    }
}

/// Milliseconds since 1970: the clock of the brokers' LogAppendTime, on the same machine.
#[must_use]
pub fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}

/// Load average over a minute: whether anything else ran.
#[must_use]
pub fn load_average() -> Json {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!(text.split(' ').next().and_then(|first| first.parse::<f64>().ok()))
}

/// The samples of one look at `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Scrape(Vec<(String, f64)>);

impl Scrape {
    /// Looks; `None` while nobody answers.
    #[must_use]
    pub fn get(address: &str) -> Option<Scrape> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Some(Scrape(body.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect()))
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &(String, f64)> {
        let name = name.to_owned();
        self.0.iter().filter(move |(series, _)| series.split('{').next() == Some(&name))
    }

    /// Sum of a metric over its labels.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// A metric by the value of its one label (which is the last, after the service's own).
    #[must_use]
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let wanted = format!("{label}=\"");
        let value = |(series, value): &(String, f64)| {
            let at = series.split(&wanted).nth(1)?.split('"').next()?;
            Some((at.to_owned(), *value))
        };
        self.of(name).filter_map(value).collect()
    }

    /// One series of a metric with one label.
    #[must_use]
    pub fn one(&self, name: &str, label: &str, value: &str) -> f64 {
        self.by_label(name, label).get(value).copied().unwrap_or(0.0)
    }
}
