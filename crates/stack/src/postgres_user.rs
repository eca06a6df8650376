//! Whom PostgreSQL runs as when this process is root.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Log-in name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the user's own group.
    pub gid: u32,
}

impl User {
    /// Makes a command run as this user, in the user's group only.
    pub fn become_for(&self, command: &mut Command) {
        // Setting the user also drops root's further groups.
        command.uid(self.uid).gid(self.gid).env("HOME", "/").env("USER", &self.name);
    }

    /// True when the user can enter `path`, or the part of it that exists.
    pub fn can_reach(&self, path: &Path) -> bool {
        path.ancestors().filter_map(|folder| folder.metadata().ok()).all(|meta| {
            let bits = meta.mode();
            let enter = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            bits & enter != 0
        })
    }
}

/// `postgres` where it exists, else `nobody`.
///
/// # Errors
/// Neither exists.
pub fn choose() -> Result<User> {
    let users = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for name in ["postgres", "nobody"] {
        if let Some(user) = find(&users, name) {
            return Ok(user);
        }
    }
    bail!(
        "PostgreSQL refuses to run as root, and neither the user postgres nor nobody exists: add \
         one (useradd --system postgres), or run as an ordinary user"
    )
}

fn find(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, ..] = fields.as_slice() else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (*found == name && uid != 0).then(|| User { name: name.to_owned(), uid, gid })
    })
}

/// A folder with a name that others can guess must not have been made by them.
///
/// # Errors
/// It belongs to somebody else.
pub fn check_owner(path: &Path, user: Option<&User>) -> Result<()> {
    let meta = std::fs::symlink_metadata(path)
        .with_context(|| format!("cannot look at {}", path.display()))?;
    let own = crate::process::effective_uid();
    let fine = meta.uid() == own || user.is_some_and(|user| meta.uid() == user.uid);
    if fine && meta.is_dir() {
        return Ok(());
    }
    bail!(
        "{} is not a folder of this user (it belongs to uid {}); remove it or choose another \
         CAUDAL_HOME",
        path.display(),
        meta.uid()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_and_root_is_not() {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\nx\n";
        let nobody = User { name: "nobody".to_owned(), uid: 65534, gid: 65533 };
        assert_eq!(find(users, "nobody"), Some(nobody));
        assert_eq!(find(users, "root"), None);
        assert_eq!(find(users, "postgres"), None);
    }

    #[test]
    fn reach_follows_every_folder_above() {
        use std::os::unix::fs::PermissionsExt;
        let stranger = User { name: "s".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        let dir = std::env::temp_dir().join(format!("caudal-reach-{}", std::process::id()));
        let deep = dir.join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        assert!(stranger.can_reach(&deep));
        assert!(stranger.can_reach(&deep.join("not/yet")));
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.can_reach(&deep));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
