//! The Java machine and Kafka's jars.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;

/// Kafka's brokers need this release or a newer one.
const OLDEST: u32 = 17;

/// A Java machine and what it runs.
#[derive(Debug, Clone)]
pub struct Java {
    /// The `java` program.
    pub program: PathBuf,
    /// Kafka's jars, colon separated.
    pub class_path: String,
    /// The JMX exporter.
    pub agent: PathBuf,
}

impl Java {
    /// Finds Java (`JAVA_HOME`, else the PATH) and the jars.
    ///
    /// # Errors
    /// Java is missing or older than 17, or the jars were not fetched.
    pub fn find(layout: &Layout) -> Result<Java> {
        let (class_path, agent) = jars(layout.jars())?;
        let program = program();
        let output = Command::new(&program).arg("-version").output().with_context(|| {
            format!(
                "cannot run {}: install a JDK of release {OLDEST} or newer, or set JAVA_HOME \
                 (scripts/doctor.sh prints the line)",
                program.display()
            )
        })?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let Some(release) = parse_release(&words) else {
            bail!("{} -version says nothing usable: {}", program.display(), words.trim());
        };
        if release < OLDEST {
            bail!(
                "{} is Java {release}; Kafka needs {OLDEST} or newer. Set JAVA_HOME to one.",
                program.display()
            );
        }
        Ok(Java { program, class_path, agent })
    }

    /// A command for one of Kafka's classes, logging by the settings in `log4j`.
    pub fn command(&self, log4j: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            // In the environment, not among the arguments, so that `ps` stays readable.
            .env("CLASSPATH", &self.class_path)
            // glibc otherwise keeps one memory pool per thread and core.
            .env("MALLOC_ARENA_MAX", "2")
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
        command
    }
}

/// `java` of `JAVA_HOME`, or the first on the PATH.
pub fn program() -> PathBuf {
    match std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty()) {
        Some(home) => PathBuf::from(home).join("bin").join("java"),
        None => PathBuf::from("java"),
    }
}

/// `openjdk version "17.0.15" …` or, before release 9, `java version "1.8.0_…"`.
fn parse_release(words: &str) -> Option<u32> {
    let (_, rest) = words.split_once("version \"")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        release => Some(release),
    }
}

/// Kafka's class path, in a fixed order, and the JMX agent.
fn jars(folder: &Path) -> Result<(String, PathBuf)> {
    let missing = || {
        format!(
            "Kafka's jars are not in {}: run scripts/fetch-jars.sh (or set CAUDAL_JARS)",
            folder.display()
        )
    };
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .with_context(missing)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".jar"))
        .collect();
    names.sort();
    let agent = names.iter().find(|name| name.starts_with("jmx_prometheus_javaagent-"));
    let Some(agent) = agent.map(|name| folder.join(name)) else {
        bail!(missing());
    };
    if !names.iter().any(|name| name.starts_with("kafka_2.13-")) {
        bail!(missing());
    }
    let class_path: Vec<String> = names
        .iter()
        .filter(|name| !name.starts_with("jmx_prometheus") && !name.starts_with("embedded-"))
        .map(|name| folder.join(name).display().to_string())
        .collect();
    Ok((class_path.join(":"), agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_release("openjdk version \"17.0.15\" 2025-04-15\nmore"), Some(17));
        assert_eq!(parse_release("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(parse_release("java version \"1.8.0_402\""), Some(8));
        assert_eq!(parse_release("no such thing"), None);
    }
}
