//! Which instance of a service this is: `<host>-<slot>`, the slot the lowest free file lock.
//!
//! The name is stable across restarts: a restart after `kill -9` finds its lock free again, takes
//! the same name, and so fences its own open txn and takes its old place in the group.

use anyhow::{Context as _, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

/// Most instances of one service on one machine.
const SLOTS: u32 = 64;

/// A held slot; it is free again when this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Instance {
    /// `<host>-<slot>`.
    pub name: String,
    _lock: File,
}

impl Instance {
    /// Takes the lowest free slot of `service`, under `CAUDAL_HOME` (default `.caudal`)`/locks`.
    ///
    /// # Errors
    /// When the folder cannot be written, or 64 instances run already.
    pub fn take(service: &str) -> Result<Instance> {
        let home =
            std::env::var_os("CAUDAL_HOME").map_or_else(|| PathBuf::from(".caudal"), PathBuf::from);
        let folder = home.join("locks");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {} (set CAUDAL_HOME)", folder.display()))?;
        for slot in 0..SLOTS {
            let path = folder.join(format!("{service}-{slot}.lock"));
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => return Ok(Instance { name: format!("{}-{slot}", host()), _lock: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!("{SLOTS} instances of {service} run on this machine already")
    }
}

/// The machine's name; `localhost` where it has none.
fn host() -> String {
    let from_file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command = || {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = from_file.or_else(from_command).unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect();
    if name.is_empty() { "localhost".into() } else { name }
}
