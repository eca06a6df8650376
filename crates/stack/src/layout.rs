//! Where everything lies: one folder (`CAUDAL_HOME`) for data, logs and pid files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders of one stack. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Layout {
    home: PathBuf,
    jars: PathBuf,
}

impl Layout {
    /// Reads `CAUDAL_HOME` and `CAUDAL_JARS`; relative paths are taken from the current folder.
    ///
    /// # Errors
    /// The current folder does not exist any more.
    pub fn from_env() -> Result<Layout> {
        let home = absolute(&from_env("CAUDAL_HOME").unwrap_or_else(|| PathBuf::from(".caudal")))?;
        let jars = match from_env("CAUDAL_JARS") {
            Some(path) => absolute(&path)?,
            None => default_jars(&home)?,
        };
        Ok(Layout { home, jars })
    }

    /// A layout with given folders, for tests.
    #[cfg(test)]
    pub fn at(home: &Path, jars: &Path) -> Layout {
        Layout { home: home.to_owned(), jars: jars.to_owned() }
    }

    /// The stack's folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder that `scripts/fetch-jars.sh` fills.
    pub fn jars(&self) -> &Path {
        &self.jars
    }

    /// Scripts for the user's PATH.
    pub fn bin(&self) -> PathBuf {
        self.home.join("bin")
    }

    /// Log files.
    pub fn logs(&self) -> PathBuf {
        self.home.join("logs")
    }

    /// Pid files.
    pub fn run(&self) -> PathBuf {
        self.home.join("run")
    }

    /// Generated settings of log4j and of the JMX exporter.
    pub fn settings(&self) -> PathBuf {
        self.home.join("settings")
    }

    /// One Kafka node's folder.
    pub fn node(&self, name: &str) -> PathBuf {
        self.home.join("nodes").join(name)
    }

    /// One Kafka node's data.
    pub fn node_data(&self, name: &str) -> PathBuf {
        self.node(name).join("data")
    }

    /// One Kafka node's properties file.
    pub fn node_properties(&self, name: &str) -> PathBuf {
        self.node(name).join("server.properties")
    }

    /// Prometheus's settings and data.
    pub fn prometheus(&self) -> PathBuf {
        self.home.join("prometheus")
    }

    /// The pid file of a process.
    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    /// The log of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What a process printed outside its log: faults of the Java machine, for instance.
    pub fn output(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.out"))
    }

    /// Present from `up` to `down`: the stack is meant to run.
    pub fn up_marker(&self) -> PathBuf {
        self.run().join("up")
    }

    /// The id shared by the nodes of this cluster.
    pub fn cluster_id(&self) -> PathBuf {
        self.home.join("nodes").join("cluster.id")
    }

    /// Eight hexadecimal digits that differ between homes, for names outside of it.
    pub fn hash(&self) -> String {
        // FNV-1a: stable across versions of the standard library, unlike its own hasher.
        let mut hash: u32 = 0x811c_9dc5;
        for byte in self.home.as_os_str().as_encoded_bytes() {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        format!("{hash:08x}")
    }

    /// Makes the folders that every command needs.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn create(&self) -> Result<()> {
        for path in [self.home.clone(), self.bin(), self.logs(), self.run(), self.settings()] {
            create_dir(&path)?;
        }
        Ok(())
    }
}

/// Makes a folder and its parents.
///
/// # Errors
/// The folder cannot be made; the message names it.
pub fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| {
        format!("cannot make the folder {}; CAUDAL_HOME chooses another place", path.display())
    })
}

/// Writes a file as a whole: it is complete or it is the one from before.
///
/// # Errors
/// The file cannot be written; the message names it.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = PathBuf::from(name);
    std::fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file or a whole folder; nothing there is fine.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

/// Bytes that a file or folder takes on disk. Sparse files count what they hold; what cannot be
/// read counts nothing.
pub fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .with_context(|| format!("cannot make {} absolute: is this folder gone?", path.display()))
}

/// The jars are shared by all homes of one clone: the nearest `.caudal/jars` above the current
/// folder or the program, else the one in the home.
fn default_jars(home: &Path) -> Result<PathBuf> {
    let own = home.join("jars");
    if own.is_dir() {
        return Ok(own);
    }
    let here = absolute(Path::new("."))?;
    let program = std::env::current_exe().unwrap_or_default();
    let found = here
        .ancestors()
        .chain(program.ancestors())
        .map(|folder| folder.join(".caudal").join("jars"))
        .find(|jars| jars.is_dir());
    Ok(found.unwrap_or(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_differ_between_homes() {
        let jars = Path::new("/j");
        let a = Layout::at(Path::new("/a"), jars).hash();
        let b = Layout::at(Path::new("/b"), jars).hash();
        assert_ne!(a, b);
        assert_eq!(a.len(), 8);
    }
}
