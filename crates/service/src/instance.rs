//! Which instance of a service this is: `<host>-<slot>`, the slot the lowest free file lock.
//!
//! The name is stable across restarts: a restart after `kill -9` finds its lock free again, takes
//! the same name, and so fences its own open txn and takes its old place in the group.

use anyhow::{Context as _, Result, bail};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Most instances of one service on one machine.
const SLOTS: u32 = 64;

/// The instance's name; while this lives, no other process on this machine gets the same.
#[derive(Debug)]
pub struct Instance {
    /// The name that was given, or `<host>-<slot>`.
    pub name: String,
    _lock: Option<File>,
}

impl Instance {
    /// The name that was given, or the lowest free slot of `service` under `home`/locks.
    ///
    /// # Errors
    /// When the folder cannot be written, or 64 instances run already.
    pub fn acquire(service: &str, given: Option<&str>, home: &Path) -> Result<Instance> {
        if let Some(name) = given {
            return Ok(Instance { name: name.to_owned(), _lock: None });
        }
        let folder = home.join("locks");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {} (set CAUDAL_HOME)", folder.display()))?;
        for slot in 0..SLOTS {
            let path = folder.join(format!("{service}-{slot}.lock"));
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            // The system drops the lock with the process, however it ends.
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Instance { name: format!("{}-{slot}", host()), _lock: Some(file) });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!("all {SLOTS} slots under {} are taken; give --instance", folder.display())
    }
}

/// The machine's name; `localhost` where it has none.
fn host() -> String {
    let from_file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command = || {
        let output = std::process::Command::new("uname").arg("-n").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = from_file.or_else(from_command).unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_and_given_back() {
        let home = std::env::temp_dir().join(format!("caudal-slots-{}", std::process::id()));
        let first = Instance::acquire("x", None, &home).unwrap();
        let second = Instance::acquire("x", None, &home).unwrap();
        assert!(first.name.ends_with("-0") && second.name.ends_with("-1"));
        drop(first);
        assert!(Instance::acquire("x", None, &home).unwrap().name.ends_with("-0"));
        assert_eq!(Instance::acquire("x", Some("y"), &home).unwrap().name, "y");
        std::fs::remove_dir_all(home).unwrap();
    }
}
