//! Where PostgreSQL's programs come from: `CAUDAL_PG_BIN`, Maven's relocatable ones, the system's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::java;
use crate::layout::{self, Layout};

const OLDEST: u32 = 15;

/// PostgreSQL's programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Folder with `initdb` and `postgres`.
    pub bin: PathBuf,
    /// Major release, for instance 18.
    pub major: u32,
    /// What `postgres --version` says.
    pub version: String,
}

/// Finds the programs; those from Maven are unpacked into `dist` first.
///
/// # Errors
/// There are none, they are too old, or they cannot be unpacked.
pub fn find(layout: &Layout, dist: &Path) -> Result<Binaries> {
    if let Some(bin) = std::env::var_os("CAUDAL_PG_BIN").filter(|bin| !bin.is_empty()) {
        let bin = PathBuf::from(bin);
        return probe(&bin).with_context(|| format!("CAUDAL_PG_BIN={}", bin.display()));
    }
    if let Some(jar) = jar(layout.jars()) {
        let folder = unpack(&jar, dist)?;
        return probe(&folder.join("bin"));
    }
    let mut newest: Option<Binaries> = None;
    for bin in system_folders() {
        let Ok(found) = probe(&bin) else { continue };
        if newest.as_ref().is_none_or(|best| best.major < found.major) {
            newest = Some(found);
        }
    }
    newest.with_context(|| {
        format!(
            "no PostgreSQL {OLDEST} or newer: neither {} holds its binaries nor is it installed. \
             Run scripts/fetch-jars.sh, install the system's package, or set CAUDAL_PG_BIN to \
             the folder with initdb and postgres.",
            layout.jars().display()
        )
    })
}

fn probe(bin: &Path) -> Result<Binaries> {
    for program in ["postgres", "initdb"] {
        if !bin.join(program).is_file() {
            bail!("{} is missing", bin.join(program).display());
        }
    }
    let output = Command::new(bin.join("postgres"))
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}/postgres", bin.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let Some(major) = parse_major(&version) else {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{}/postgres --version says {version:?} {}", bin.display(), words.trim());
    };
    if major < OLDEST {
        bail!("{version} in {} is older than {OLDEST}", bin.display());
    }
    Ok(Binaries { bin: bin.to_owned(), major, version })
}

/// `postgres (PostgreSQL) 18.1` and `postgres (PostgreSQL) 17beta1 (Debian …)`.
fn parse_major(version: &str) -> Option<u32> {
    let (_, number) = version.split_once("(PostgreSQL) ")?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn system_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for parent in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        folders.extend(
            entries
                .flatten()
                .filter(|entry| {
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    name.starts_with("postgresql") || name.starts_with(|c: char| c.is_ascii_digit())
                })
                .map(|entry| entry.path().join("bin")),
        );
    }
    let mut pgsql: Vec<PathBuf> =
        (OLDEST..OLDEST + 10).map(|n| PathBuf::from(format!("/usr/pgsql-{n}/bin"))).collect();
    folders.append(&mut pgsql);
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().filter(|bin| bin.join("initdb").is_file()).collect()
}

fn jar(jars: &Path) -> Option<PathBuf> {
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let platform = match (system, machine) {
        ("linux", "x86_64") => "linux-amd64",
        ("linux", "aarch64") => "linux-arm64v8",
        ("macos", "x86_64") => "darwin-amd64",
        ("macos", "aarch64") => "darwin-arm64v8",
        _ => return None,
    };
    let start = format!("embedded-postgres-binaries-{platform}-");
    std::fs::read_dir(jars)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jar"))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start)))
        .max()
}

/// Unpacks the archive inside the jar into a folder named after the jar, once. The folder appears
/// under its name only when it is whole.
fn unpack(jar: &Path, dist: &Path) -> Result<PathBuf> {
    let stem = jar.file_stem().context("a jar without a name")?;
    let folder = dist.join(stem);
    if folder.join("bin/postgres").is_file() {
        return Ok(folder);
    }
    let fresh = dist.join("new");
    layout::remove(&fresh)?;
    layout::create_dir(&fresh)?;
    open_folder(dist)?;
    open_jar(jar, &fresh)?;
    let archive = std::fs::read_dir(&fresh)
        .with_context(|| format!("cannot read {}", fresh.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "txz"))
        .with_context(|| format!("{} holds no .txz archive", jar.display()))?;
    let output = Command::new("tar")
        .args(["-x", "-J", "-f"])
        .arg(&archive)
        .arg("-C")
        .arg(&fresh)
        .output()
        .context("cannot run tar")?;
    if !output.status.success() {
        bail!(
            "tar cannot unpack {} ({}). It needs xz: install xz-utils (apt), or xz (dnf, brew).",
            archive.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    layout::remove(&archive)?;
    layout::remove(&fresh.join("META-INF"))?;
    open_folders(&fresh)?;
    layout::remove(&folder)?;
    std::fs::rename(&fresh, &folder)
        .with_context(|| format!("cannot move {} to {}", fresh.display(), folder.display()))?;
    Ok(folder)
}

/// Lets the server's user enter a folder, whatever the umask was when it was made.
fn open_folder(folder: &Path) -> Result<()> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot set the mode of {}", folder.display()))
}

/// The same for a folder and all below it.
fn open_folders(folder: &Path) -> Result<()> {
    open_folder(folder)?;
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

/// Extracts a jar with `unzip` or the JDK's own `jar`, whichever exists.
fn open_jar(jar: &Path, into: &Path) -> Result<()> {
    let beside_java = java::program().with_file_name("jar");
    let attempts: [(&Path, Vec<&std::ffi::OsStr>); 3] = [
        (Path::new("unzip"), vec!["-o".as_ref(), "-q".as_ref(), jar.as_os_str()]),
        (&beside_java, vec!["xf".as_ref(), jar.as_os_str()]),
        (Path::new("jar"), vec!["xf".as_ref(), jar.as_os_str()]),
    ];
    let mut words = String::new();
    for (program, arguments) in attempts {
        match Command::new(program).args(arguments).current_dir(into).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => words = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(_) => {}
        }
    }
    bail!(
        "neither unzip nor the JDK's jar tool could open {} {words}; remove the file and run \
         scripts/fetch-jars.sh again",
        jar.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_major("postgres (PostgreSQL) 18.1"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) 17beta1 (Debian 17~beta1-1)"), Some(17));
        assert_eq!(parse_major("psql"), None);
    }
}
