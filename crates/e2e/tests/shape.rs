//! The shape of the project: which crate may name what, how large files are, and that the two
//! READMEs show the same commands. Needs no server.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Text of a crate's `[dependencies]`, without `[dev-dependencies]`.
fn dependencies(name: &str) -> Result<Vec<String>> {
    let path = root().join("crates").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let section = text.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let name_of = |line: &str| {
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        (!name.is_empty() && !name.starts_with('#')).then(|| name.to_owned())
    };
    Ok(section.lines().filter_map(name_of).collect())
}

/// ARCHITECTURE.md's table: which crates of ours each crate may name.
#[test]
fn every_arrow_points_down() -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("core", &[][..]),
        ("query", &["core", "sql"]),
        ("sql", &["core"]),
        ("kafka", &["core"]),
        ("service", &[]),
        ("stack", &[]),
        ("producer", &["core", "kafka", "service"]),
        ("processor", &["core", "sql", "query", "kafka", "service"]),
        ("sink", &["core", "query", "kafka", "service"]),
    ]);
    for (name, allowed) in allowed {
        for dependency in dependencies(name)? {
            if let Some(ours) = dependency.strip_prefix("caudal-") {
                ensure!(allowed.contains(&ours), "crates/{name} may not name caudal-{ours}");
            }
        }
    }
    Ok(())
}

#[test]
fn only_kafka_names_the_client_and_few_name_sqlx() -> Result<()> {
    for entry in std::fs::read_dir(root().join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let dependencies = dependencies(&name)?;
        let has = |wanted: &str| dependencies.iter().any(|d| d == wanted);
        ensure!(!has("rdkafka") || name == "kafka", "crates/{name} names rdkafka");
        let sql = ["sink", "cli", "e2e"].contains(&name.as_str());
        ensure!(!has("sqlx") || sql, "crates/{name} names sqlx");
    }
    Ok(())
}

/// Invariant 1: `core`, `query` and `sql` have no I/O, clock, randomness or globals.
#[test]
fn core_query_and_sql_are_pure() -> Result<()> {
    let banned = [
        "std::fs",
        "std::net",
        "std::time",
        "std::env",
        "std::thread",
        "SystemTime",
        "Instant::now",
        "static mut",
        "LazyLock",
        "OnceLock",
        "println!",
        "rand::",
    ];
    for folder in ["core", "query", "sql"] {
        for file in sources(&root().join("crates").join(folder).join("src"))? {
            let text = std::fs::read_to_string(&file)?;
            for word in banned {
                ensure!(!text.contains(word), "{} names {word}", file.display());
            }
        }
    }
    Ok(())
}

#[test]
fn files_stay_small() -> Result<()> {
    for file in sources(&root().join("crates"))? {
        let lines = std::fs::read_to_string(&file)?.lines().count();
        ensure!(lines <= 600, "{} has {lines} lines; is there a seam?", file.display());
    }
    Ok(())
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Lines of fenced shell blocks: what a reader would type.
fn commands(file: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join(file)).with_context(|| file.to_owned())?;
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```bash" && !inside;
        } else if inside && !line.trim().is_empty() {
            found.push(line.split("  #").next().unwrap_or_default().trim().to_owned());
        }
    }
    Ok(found)
}

#[test]
fn both_readmes_show_the_same_commands() -> Result<()> {
    let (english, spanish) = (commands("README.md")?, commands("README.es.md")?);
    ensure!(!english.is_empty(), "README.md shows no commands");
    ensure!(english == spanish, "commands differ:\n{english:#?}\n{spanish:#?}");
    Ok(())
}

#[test]
fn every_target_of_the_readme_exists() -> Result<()> {
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    for command in commands("README.md")? {
        if let Some(target) = command.strip_prefix("make ").and_then(|rest| rest.split(' ').next())
        {
            ensure!(makefile.contains(&format!("\n{target}:")), "README.md shows `make {target}`");
        }
    }
    Ok(())
}
