//! A topic, a source and a folder of a test's own, and the producer as a child process.
#![allow(dead_code, reason = "each suite uses a part of it")]

use caudal_core::decode::Record;
use caudal_kafka::Kafka;
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub const PARTITIONS: i32 = 6;
/// How long to wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A topic and a source of a test's own.
pub struct Bench {
    bootstrap: String,
    /// Name of topic and source.
    pub name: String,
    /// For files; removed at the end.
    pub folder: PathBuf,
    /// Of the producers that are started.
    pub variables: Vec<(&'static str, String)>,
}

impl Bench {
    /// `None`, saying so, without a cluster.
    pub fn set_up(what: &str) -> Option<Bench> {
        let Ok(bootstrap) = std::env::var("CAUDAL_TEST_BOOTSTRAP") else {
            println!("skipped: needs CAUDAL_TEST_BOOTSTRAP");
            return None;
        };
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let name = format!("producer_test_{what}_{unique}");
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).unwrap();
        let home = folder.join(".home").display().to_string();
        let variables = vec![("CAUDAL_HOME", home)];
        let bench = Bench { bootstrap, name, folder, variables };
        let topic = Topic {
            name: bench.name.clone(),
            partitions: PARTITIONS,
            replication: 3,
            // As config/topics.toml declares it for transacciones.
            config: [("max.message.bytes".to_owned(), "1048576".to_owned())].into(),
        };
        bench.admin().create(&topic).unwrap();
        sleep(Duration::from_secs(1));
        Some(bench)
    }

    #[must_use]
    pub fn kafka(&self) -> Kafka {
        Kafka::plain(&self.bootstrap)
    }

    pub fn admin(&self) -> Admin {
        Admin::connect(&self.kafka()).unwrap()
    }

    pub fn start(&self, mapping: &str, input: &str, more: &[&str]) -> Child {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Command::new(env!("CARGO_BIN_EXE_caudal-producer"))
            .args(["--bootstrap-servers", &self.bootstrap, "--metrics-listen", "off"])
            .args(["--topic", &self.name, "--source", &self.name, "--log", "error,librdkafka=off"])
            .arg("--mapping")
            .arg(root.join("config/sources").join(mapping))
            .args(["--input", input])
            .args(more)
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn run(&self, mapping: &str, input: &Path, more: &[&str]) -> i32 {
        let mut child = self.start(mapping, input.to_str().unwrap(), more);
        child.wait().unwrap().code().unwrap()
    }

    /// Everything that is committed.
    #[must_use]
    pub fn read(&self) -> Vec<Record> {
        let mut reader = LogReader::connect(&self.kafka(), &self.name).unwrap();
        (0..PARTITIONS).for_each(|p| reader.add(p, None));
        let mut records = Vec::new();
        reader
            .read_all::<caudal_kafka::Error>(Duration::from_secs(60), |record| {
                records.push(record);
                Ok(())
            })
            .unwrap();
        records
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.admin().delete(&[&self.name]).ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Sees open transactions: the last stable offset stays behind the high watermark.
pub struct Watch<'a> {
    bench: &'a Bench,
    stable: Offsets,
    all: Offsets,
}

impl<'a> Watch<'a> {
    #[must_use]
    pub fn new(bench: &'a Bench) -> Watch<'a> {
        let offsets =
            |isolation| Offsets::connect(&bench.kafka(), isolation, "producer-test").unwrap();
        let (stable, all) =
            (offsets(Isolation::ReadCommitted), offsets(Isolation::ReadUncommitted));
        Watch { bench, stable, all }
    }

    /// The ends of all partitions, open transactions included.
    #[must_use]
    pub fn ends(&self) -> Vec<i64> {
        (0..PARTITIONS).map(|p| self.all.watermarks(&self.bench.name, p).unwrap().1).collect()
    }

    /// An open transaction that began at or after these ends: not one that a predecessor left.
    fn open_since(&self, ends: &[i64]) -> Option<String> {
        (0..PARTITIONS).zip(ends).find_map(|(p, since)| {
            let end = self.all.watermarks(&self.bench.name, p).unwrap().1;
            let stable = self.stable.watermarks(&self.bench.name, p).unwrap().1;
            let open = stable < end && stable >= *since;
            open.then(|| format!("partition {p}, stable {stable}, end {end}"))
        })
    }

    /// Kills a producer at a moment at which a transaction of its own is open, one that began at or
    /// after these ends; says which.
    pub fn kill_within(&self, child: &mut Child, ends: &[i64]) -> String {
        let begun = Instant::now();
        let open = loop {
            assert!(begun.elapsed() < PATIENCE, "no transaction was open for {PATIENCE:?}");
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before the kill: nothing was in flight");
            if self.open_since(ends).is_none() {
                continue;
            }
            signal(child, "STOP");
            // Frozen: what is open now stays open until the kill.
            if let Some(open) = self.open_since(ends) {
                break open;
            }
            signal(child, "CONT");
        };
        child.kill().unwrap();
        child.wait().unwrap();
        open
    }
}

/// Sends a signal by its name.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}
