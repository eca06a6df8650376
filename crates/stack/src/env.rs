//! What a shell needs: PATH, addresses, the course's scripts, and `docker` for native brokers.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::java;
use crate::kafka;
use crate::layout;
use crate::stack::Stack;

const TOOL: &str = include_str!("kafka-tool.sh");
const DOCKER: &str = include_str!("docker-function.sh");

/// Names of the course's scripts; all are links to one script that looks at its own name.
const TOOLS: [&str; 26] = [
    "kafka-acls.sh",
    "kafka-broker-api-versions.sh",
    "kafka-client-metrics.sh",
    "kafka-cluster.sh",
    "kafka-configs.sh",
    "kafka-console-consumer.sh",
    "kafka-console-producer.sh",
    "kafka-console-share-consumer.sh",
    "kafka-consumer-groups.sh",
    "kafka-consumer-perf-test.sh",
    "kafka-delete-records.sh",
    "kafka-dump-log.sh",
    "kafka-features.sh",
    "kafka-get-offsets.sh",
    "kafka-groups.sh",
    "kafka-leader-election.sh",
    "kafka-log-dirs.sh",
    "kafka-metadata-quorum.sh",
    "kafka-preferred-replica-election.sh",
    "kafka-producer-perf-test.sh",
    "kafka-reassign-partitions.sh",
    "kafka-replica-verification.sh",
    "kafka-share-groups.sh",
    "kafka-storage.sh",
    "kafka-topics.sh",
    "kafka-transactions.sh",
];

/// Writes the course's scripts into `<home>/bin`.
///
/// # Errors
/// A file cannot be written.
pub fn install(stack: &Stack) -> Result<()> {
    let layout = &stack.layout;
    layout.create()?;
    kafka::write_settings(layout)?;
    let text = TOOL
        .replace("@JAVA@", &quote(&java::program().display().to_string()))
        .replace("@CLASSPATH@", &quote(&format!("{}/*", layout.jars().display())))
        .replace("@LOG4J@", &quote(&kafka::tools_log4j(layout).display().to_string()))
        .replace("@BOOTSTRAP@", &quote(&stack.bootstrap_servers()));
    let script = layout.bin().join("kafka-tool");
    layout::write_file(&script, &text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", script.display()))?;
    for name in TOOLS {
        let link = layout.bin().join(name);
        if std::fs::read_link(&link).is_ok_and(|target| target == Path::new("kafka-tool")) {
            continue;
        }
        layout::remove(&link)?;
        symlink("kafka-tool", &link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    Ok(())
}

/// Shell lines for `eval`, in the words that sh, bash and zsh share.
///
/// # Errors
/// The scripts cannot be written, or the program's own path cannot be found.
pub fn script(stack: &Stack) -> Result<String> {
    install(stack)?;
    let program = program()?;
    let folder = program.parent().unwrap_or(Path::new("/")).display().to_string();
    let mut text = String::new();
    let mut export = |name: &str, value: &str| {
        text.push_str(&format!("export {name}={}\n", quote(value)));
    };
    export("CAUDAL_HOME", &stack.home().display().to_string());
    export("CAUDAL_JARS", &stack.layout.jars().display().to_string());
    export("CAUDAL_PORT_OFFSET", &stack.offset.to_string());
    if let Some(file) = std::env::var_os("CAUDAL_STACK_CONFIG").filter(|file| !file.is_empty()) {
        let file = std::path::absolute(&file).context("CAUDAL_STACK_CONFIG")?;
        export("CAUDAL_STACK_CONFIG", &file.display().to_string());
    }
    export("BOOTSTRAP_SERVERS", &stack.bootstrap_servers());
    export("DATABASE_URL", &stack.database_url());
    match stack.prometheus_url() {
        Some(url) => export("PROMETHEUS_URL", &url),
        None => text.push_str("unset PROMETHEUS_URL\n"),
    }
    for folder in [folder, stack.layout.bin().display().to_string()] {
        let folder = quote(&folder);
        // Evaluating the lines twice must not lengthen the PATH.
        text.push_str(&format!(
            "case \":$PATH:\" in *:{folder}:*) ;; *) export PATH={folder}:\"$PATH\" ;; esac\n"
        ));
    }
    let brokers: Vec<&str> = stack.topology.nodes.iter().map(|node| node.name.as_str()).collect();
    text.push_str(
        &DOCKER
            .replace("@CAUDAL@", &quote(&program.display().to_string()))
            .replace("@UP@", &quote(&stack.layout.up_marker().display().to_string()))
            .replace("@NODES@", &brokers.join("|")),
    );
    Ok(text)
}

/// The `caudal` program: `CAUDAL_BIN`, this program, or the one built beside it.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAUDAL_BIN").filter(|path| !path.is_empty()) {
        return std::path::absolute(&path).context("CAUDAL_BIN");
    }
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    if own.file_stem().is_some_and(|name| name == "caudal") {
        return Ok(own);
    }
    // Tests and examples are built into folders below the one with the program.
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("caudal"));
    Ok(beside.into_iter().find(|path| path.is_file()).unwrap_or(own))
}

/// One word of a shell, whatever is in it.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME `id` \"x\" \\ *", ""] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn the_tool_knows_every_name() {
        for name in TOOLS {
            let short = name.trim_start_matches("kafka-").trim_end_matches(".sh");
            let known = TOOL.lines().any(|line| {
                let Some((names, _)) = line.trim().split_once(") class=") else { return false };
                names.split(" | ").any(|found| found == short)
            });
            assert!(known, "{name}");
        }
    }
}
