//! The name of this instance: stable across restarts, so that a restarted sink takes its own
//! partitions back at once instead of waiting for its predecessor to time out.

use anyhow::Context as _;
use std::fs::File;
use std::path::Path;

/// Most instances on one host.
const SLOTS: u32 = 64;

/// The instance's name; while this lives, no other process on the host gets the same.
#[derive(Debug)]
pub struct Instance {
    /// `group.instance.id`.
    pub name: String,
    _lock: Option<File>,
}

/// The name that was given, or `caudal-sink-<host>-<slot>` with the lowest free slot.
///
/// # Errors
/// When the locks' folder cannot be written, or every slot is taken.
pub fn acquire(given: Option<&str>, home: &Path) -> anyhow::Result<Instance> {
    if let Some(name) = given {
        return Ok(Instance { name: name.to_owned(), _lock: None });
    }
    let folder = home.join("locks");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    for slot in 0..SLOTS {
        let path = folder.join(format!("caudal-sink-{slot}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // The system drops the lock with the process, however it ends.
        if file.try_lock().is_ok() {
            let name = format!("caudal-sink-{}-{slot}", host());
            return Ok(Instance { name, _lock: Some(file) });
        }
    }
    anyhow::bail!("all {SLOTS} slots under {} are taken; give --instance", folder.display())
}

fn host() -> String {
    let file = |path: &str| std::fs::read_to_string(path).ok();
    let command = || {
        let output = std::process::Command::new("uname").arg("-n").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = file("/proc/sys/kernel/hostname").or_else(command).unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_and_given_back() {
        let home = std::env::temp_dir().join(format!("caudal-sink-slots-{}", std::process::id()));
        let first = acquire(None, &home).unwrap();
        let second = acquire(None, &home).unwrap();
        assert!(first.name.ends_with("-0") && second.name.ends_with("-1"));
        drop(first);
        assert!(acquire(None, &home).unwrap().name.ends_with("-0"));
        assert_eq!(acquire(Some("x"), &home).unwrap().name, "x");
        std::fs::remove_dir_all(home).unwrap();
    }
}
