//! The PostgreSQL server: its folders, first start, start and stop.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kafka::{last_words, length, tail};
use crate::layout::{self, Layout};
use crate::postgres_binaries::{self as binaries, Binaries};
use crate::postgres_user::{self, User};
use crate::probe;
use crate::process::{self, Daemon};
use crate::topology::{Postgres, Topology};

/// Name of the process in every command.
pub const NAME: &str = "postgres";

/// Unix sockets have short paths (103 bytes on macOS), of which `/.s.PGSQL.15432` is a part.
const LONGEST_SOCKET_DIR: usize = 80;

/// A PostgreSQL server of this stack.
#[derive(Debug)]
pub struct Server<'a> {
    layout: &'a Layout,
    settings: &'a Postgres,
    /// The user it runs as, when this process is root.
    user: Option<User>,
    base: PathBuf,
}

impl<'a> Server<'a> {
    /// Finds the folders and, as root, the user to run as.
    ///
    /// # Errors
    /// As root, no unprivileged user exists.
    pub fn find(layout: &'a Layout, topology: &'a Topology) -> Result<Server<'a>> {
        let user = match process::effective_uid() {
            0 => Some(postgres_user::choose()?),
            _ => None,
        };
        let inside = layout.home().join(NAME);
        let outside = PathBuf::from(format!("/var/tmp/caudal-{}", layout.hash()));
        let base = match &user {
            // Data that is there already stays where it is, even if the home was opened since.
            Some(user) if outside.join("data").exists() || !user.can_reach(layout.home()) => {
                outside
            }
            _ => inside,
        };
        Ok(Server { layout, settings: &topology.postgres, user, base })
    }

    /// Data of the server.
    pub fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// Everything of the server on disk: data and unpacked programs.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// A line for the user when the data does not lie in the home.
    pub fn note(&self) -> Option<String> {
        let user = self.user.as_ref()?;
        (!self.base.starts_with(self.layout.home())).then(|| {
            format!(
                "PostgreSQL refuses root; it runs as {}, who cannot enter {}, so its data is in {}",
                user.name,
                self.layout.home().display(),
                self.base.display()
            )
        })
    }

    /// How to find its process.
    pub fn daemon(&self) -> Daemon {
        Daemon {
            name: NAME.to_owned(),
            pid_file: self.layout.pid_file(NAME),
            marker: format!("-D {}", self.data().display()),
        }
    }

    /// Folder of the Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        let inside = self.base.join("run");
        if inside.as_os_str().len() <= LONGEST_SOCKET_DIR {
            return inside;
        }
        PathBuf::from(format!("/tmp/caudal-{}", self.layout.hash()))
    }

    /// Starts the server, after making its data folder where there is none, and waits until it
    /// accepts a connection. Returns lines for the user.
    ///
    /// # Errors
    /// No binaries, a fault in `initdb`, data of another release, or no answer in time.
    pub fn start(&self, patience: Duration) -> Result<Vec<String>> {
        let mut notes: Vec<String> = self.note().into_iter().collect();
        self.create_folder(&self.base, 0o755)?;
        let binaries = binaries::find(self.layout, &self.base.join("dist"))?;
        if self.create_data(&binaries)? {
            notes.push(format!("postgres: new database made by {}", binaries.version));
        }
        self.create_folder(&self.socket_dir(), 0o700)?;
        self.write_settings(&binaries)?;
        self.remove_stale_locks()?;
        rotate(&self.layout.log(NAME))?;
        self.launch(&binaries, patience)?;
        Ok(notes)
    }

    fn launch(&self, binaries: &Binaries, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let log_from = length(&self.layout.log(NAME));
        loop {
            let mut command = self.command(binaries, "postgres");
            command.arg("-D").arg(self.data());
            self.daemon().spawn(command, &self.layout.log(NAME))?;
            let (port, user, database) =
                (self.settings.port, &self.settings.user, &self.settings.database);
            let mut last = String::new();
            let left = deadline.saturating_duration_since(Instant::now());
            let settled = process::wait_until(left, || {
                match probe::postgres_accepts(port, user, database) {
                    Ok(()) => return true,
                    Err(error) => last = format!("{error:#}"),
                }
                self.daemon().pid().is_none()
            });
            if self.daemon().pid().is_some() {
                if settled {
                    return Ok(());
                }
                bail!(
                    "PostgreSQL does not accept connections after {} s ({last}).\n{}",
                    patience.as_secs(),
                    last_words(self.layout, NAME, log_from)
                );
            }
            // After a kill, workers of the dead server need a moment to notice and leave.
            let words = tail(&self.layout.log(NAME), 4);
            if !words.contains("pre-existing shared memory block") || Instant::now() >= deadline {
                bail!(
                    "PostgreSQL ended while starting.\n{}",
                    last_words(self.layout, NAME, log_from)
                );
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Makes the data folder beside its final place and moves it there when it is whole, so that
    /// an interruption leaves nothing half-written. Returns whether it was made.
    fn create_data(&self, binaries: &Binaries) -> Result<bool> {
        let data = self.data();
        let version = std::fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
        if !version.trim().is_empty() && data.join("global/pg_control").exists() {
            if version.trim() != binaries.major.to_string() {
                bail!(
                    "{} was made by PostgreSQL {}, but {} is at hand ({}). Set CAUDAL_PG_BIN to \
                     the bin folder of release {}, or give the data up with \
                     `caudal stack down --wipe`.",
                    data.display(),
                    version.trim(),
                    binaries.version,
                    binaries.bin.display(),
                    version.trim()
                );
            }
            return Ok(false);
        }
        if data.join("base/1").exists() {
            bail!(
                "{} is damaged: PG_VERSION or global/pg_control is missing beside existing \
                 databases. Nothing was changed; `caudal stack down --wipe` gives it up.",
                data.display()
            );
        }
        layout::remove(&data)?;
        let fresh = self.base.join("data.new");
        layout::remove(&fresh)?;
        self.create_folder(&fresh, 0o700)?;
        self.initdb(binaries, &fresh)?;
        self.create_database(binaries, &fresh)?;
        let mut settings = std::fs::OpenOptions::new()
            .append(true)
            .open(fresh.join("postgresql.conf"))
            .with_context(|| format!("cannot write {}/postgresql.conf", fresh.display()))?;
        writeln!(settings, "\n# written again at every start\ninclude_if_exists = 'caudal.conf'")
            .context("cannot write postgresql.conf")?;
        std::fs::rename(&fresh, &data)
            .with_context(|| format!("cannot move {} to {}", fresh.display(), data.display()))?;
        Ok(true)
    }

    fn initdb(&self, binaries: &Binaries, fresh: &Path) -> Result<()> {
        let password = self.base.join("password.new");
        layout::remove(&password)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&password)
            .with_context(|| format!("cannot write {}", password.display()))?;
        file.write_all(self.settings.password.as_bytes()).context("cannot write a password")?;
        self.give(&password)?;
        let mut command = self.command(binaries, "initdb");
        command.arg("-D").arg(fresh).args(["-U", &self.settings.user]);
        command.args(["--auth-local=scram-sha-256", "--auth-host=scram-sha-256"]);
        command.arg(format!("--pwfile={}", password.display())).args(["-E", "UTF8"]);
        if binaries.major >= 17 {
            // The server's own locale: the same order on every system.
            command.args(["--locale-provider=builtin", "--locale=C.UTF-8"]);
        } else {
            command.arg("--locale=C");
        }
        let output = command.output().context("cannot run initdb")?;
        layout::remove(&password)?;
        check(&output, "initdb")
    }

    /// The relocatable binaries have no `createdb`, so the server does it by itself.
    fn create_database(&self, binaries: &Binaries, fresh: &Path) -> Result<()> {
        if self.settings.database == "postgres" {
            return Ok(());
        }
        let mut command = self.command(binaries, "postgres");
        command.args(["--single", "-D"]).arg(fresh).arg("postgres");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run postgres --single")?;
        if let Some(mut input) = child.stdin.take() {
            let name = self.settings.database.replace('"', "\"\"");
            writeln!(input, "CREATE DATABASE \"{name}\"").context("postgres --single hung up")?;
        }
        let output = child.wait_with_output().context("postgres --single failed")?;
        check(&output, "postgres --single")?;
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains("ERROR:") || words.contains("FATAL:") {
            bail!("cannot make the database {}: {}", self.settings.database, words.trim());
        }
        Ok(())
    }

    fn write_settings(&self, binaries: &Binaries) -> Result<()> {
        let compression = if self.supports_lz4(binaries) { "lz4" } else { "on" };
        let text = settings_text(self.settings, &self.socket_dir(), compression);
        let path = self.data().join("caudal.conf");
        layout::write_file(&path, &text)?;
        self.give(&path)
    }

    fn supports_lz4(&self, binaries: &Binaries) -> bool {
        let mut command = self.command(binaries, "postgres");
        command.arg("-D").arg(self.data());
        command.args(["-c", "wal_compression=lz4", "-C", "wal_compression"]);
        command.output().is_ok_and(|output| {
            output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == "lz4"
        })
    }

    /// A lock file whose pid now belongs to another program, or to a dead process that nobody
    /// collected, would keep the server from starting.
    fn remove_stale_locks(&self) -> Result<()> {
        let socket = format!(".s.PGSQL.{}.lock", self.settings.port);
        for lock in [self.data().join("postmaster.pid"), self.socket_dir().join(socket)] {
            let Some(pid) = locked_by(&lock) else { continue };
            let line = process::command_line(pid).unwrap_or_default();
            if !process::is_alive(pid) || !line.contains(&self.daemon().marker) {
                layout::remove(&lock)?;
            }
        }
        Ok(())
    }

    fn command(&self, binaries: &Binaries, program: &str) -> Command {
        let mut command = Command::new(binaries.bin.join(program));
        // Messages in one language, and a folder that the server's user may enter.
        command.env("LC_ALL", "C").env_remove("PGDATA").current_dir(&self.base);
        if let Some(user) = &self.user {
            user.become_for(&mut command);
        }
        command
    }

    /// Makes a folder, gives it to the server's user and sets its mode.
    fn create_folder(&self, path: &Path, mode: u32) -> Result<()> {
        if !path.is_dir() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .with_context(|| format!("cannot make the folder {}", path.display()))?;
        }
        postgres_user::check_owner(path, self.user.as_ref())?;
        self.give(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))
    }

    fn give(&self, path: &Path) -> Result<()> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), user.name))
    }
}

/// The pid in a lock file of the server.
fn locked_by(lock: &Path) -> Option<u32> {
    std::fs::read_to_string(lock).ok()?.lines().next()?.trim().parse().ok()
}

fn settings_text(settings: &Postgres, socket_dir: &Path, compression: &str) -> String {
    let quoted = |text: &str| text.replace('\'', "''");
    format!(
        "# Written by `caudal stack` at every start; change config/stack.toml instead.\n\
         listen_addresses = 'localhost'\n\
         port = {}\n\
         unix_socket_directories = '{}'\n\
         password_encryption = scram-sha-256\n\
         max_connections = {}\n\
         shared_buffers = {}\n\
         # a bulk load then checkpoints by time, not by volume\n\
         max_wal_size = {}\n\
         checkpoint_completion_target = 0.9\n\
         # a page image after each checkpoint is most of the write-ahead log\n\
         wal_compression = {compression}\n\
         # what was committed survives a crash: never off\n\
         fsync = on\n\
         synchronous_commit = on\n\
         full_page_writes = on\n\
         log_line_prefix = '%m [%p] '\n",
        settings.port,
        quoted(&socket_dir.display().to_string()),
        settings.max_connections,
        settings.shared_buffers,
        settings.max_wal_size,
    )
}

fn check(output: &Output, what: &str) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let words = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    bail!("{what} failed ({}):\n{}", output.status, String::from_utf8_lossy(&words).trim_end())
}

/// Keeps one older log once it is large.
fn rotate(log: &Path) -> Result<()> {
    const LARGE: u64 = 16 << 20;
    if std::fs::metadata(log).is_ok_and(|meta| meta.len() > LARGE) {
        let older = log.with_extension("log.1");
        std::fs::rename(log, &older).with_context(|| format!("cannot rename {}", log.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_durable_and_quoted() {
        let topology = Topology::load(None, 0).unwrap();
        let text = settings_text(&topology.postgres, Path::new("/it's/run"), "lz4");
        for line in [
            "port = 15432",
            "unix_socket_directories = '/it''s/run'",
            "fsync = on",
            "synchronous_commit = on",
            "wal_compression = lz4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
