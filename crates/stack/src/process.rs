//! Processes that outlive the command that started them: pid files, signals, their size.
//!
//! A pid alone says little, because numbers are used again. A pid file therefore also holds the
//! process's start time, and a process counts as ours only when that matches and its command line
//! names a path of our home.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::layout;

/// A process that was started by this stack, now or by an earlier command.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Name used in messages, for instance `broker-2`.
    pub name: String,
    /// Where its pid and start time are kept.
    pub pid_file: PathBuf,
    /// Text that only its command line contains.
    pub marker: String,
}

/// Signals that are sent, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ask for a clean end.
    Terminate,
    /// PostgreSQL's fast shutdown.
    Interrupt,
    /// PostgreSQL's immediate shutdown.
    Quit,
    /// End at once; cannot be refused.
    Kill,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::Quit => libc::SIGQUIT,
            Signal::Kill => libc::SIGKILL,
        }
    }
}

impl Daemon {
    /// The pid when the process runs. A pid file that names another process, or none, is stale
    /// and is ignored.
    pub fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(&self.pid_file).ok()?;
        let (pid, started) = parse_pid_file(&text)?;
        let ours = is_alive(pid)
            && started.is_none_or(|started| start_time(pid).is_none_or(|now| now == started))
            && command_line(pid).is_some_and(|line| line.contains(&self.marker));
        ours.then_some(pid)
    }

    /// Takes a running process into the pid file when its command line has the marker: the file
    /// was lost, the process was not. Returns whether it was ours.
    ///
    /// # Errors
    /// The pid file cannot be written.
    pub fn adopt(&self, pid: u32) -> Result<bool> {
        let ours = is_alive(pid) && command_line(pid).is_some_and(|l| l.contains(&self.marker));
        if ours {
            self.record(pid)?;
        }
        Ok(ours)
    }

    fn record(&self, pid: u32) -> Result<()> {
        let started = start_time(pid).unwrap_or_default();
        layout::write_file(&self.pid_file, &format!("{pid}\n{started}\n"))
    }

    /// Starts the process detached from this one and its terminal, its output appended to
    /// `output`, and writes the pid file.
    ///
    /// # Errors
    /// The program cannot be run, or a file cannot be written.
    pub fn spawn(&self, mut command: Command, output: &Path) -> Result<u32> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(output)
            .with_context(|| format!("cannot write the log {}", output.display()))?;
        let err = out.try_clone().context("cannot share a log file")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        detach(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {} with {program}", self.name))?;
        let pid = child.id();
        self.record(pid)?;
        // While this process lives it is the parent, and must collect the status of a daemon that
        // ends; otherwise the dead one would still be listed. Afterwards init does.
        std::thread::spawn(move || child.wait().ok());
        Ok(pid)
    }

    /// Sends a signal and waits for the end. Returns false when the process still runs after
    /// `patience`. A process that does not run is fine.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn end(&self, signal: Signal, patience: Duration) -> Result<bool> {
        let Some(pid) = self.pid() else {
            return Ok(true);
        };
        send(pid, signal).with_context(|| format!("cannot stop {} (pid {pid})", self.name))?;
        let ended = wait_until(patience, || self.pid().is_none());
        if ended {
            layout::remove(&self.pid_file)?;
        }
        Ok(ended)
    }
}

/// Polls until `done` is true; false when `patience` runs out first.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn parse_pid_file(text: &str) -> Option<(u32, Option<String>)> {
    let mut lines = text.lines();
    let pid: u32 = lines.next()?.trim().parse().ok()?;
    let started = lines.next().map(str::trim).filter(|text| !text.is_empty());
    (pid > 1).then(|| (pid, started.map(str::to_owned)))
}

#[expect(unsafe_code, reason = "the standard library has no setsid; only async-signal-safe calls")]
fn detach(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| {
            // It fails only for a group leader, which a forked child is not.
            libc::setsid();
            Ok(())
        });
    }
}

#[expect(unsafe_code, reason = "the standard library can only kill its own children")]
fn send(pid: u32, signal: Signal) -> Result<()> {
    let raw = libc::pid_t::try_from(pid).context("pid out of range")?;
    if raw <= 1 {
        bail!("refusing to signal pid {raw}");
    }
    // SAFETY: kill has no memory effects; the pid is positive, so it names one process.
    if unsafe { libc::kill(raw, signal.number()) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        return Ok(());
    }
    Err(error).context("the signal was refused")
}

/// The effective user id of this process.
#[expect(unsafe_code, reason = "the standard library does not tell the effective user")]
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// True when the process exists and is not merely waiting for its parent to collect it.
pub fn is_alive(pid: u32) -> bool {
    if cfg!(target_os = "linux") {
        return stat_fields(pid).is_some_and(|fields| !matches!(fields[0].as_str(), "Z" | "X"));
    }
    ps(pid, "stat").is_some_and(|state| !state.is_empty() && !state.starts_with('Z'))
}

/// The process's command line, words separated by spaces.
pub fn command_line(pid: u32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
        return Some(text.trim_end().to_owned());
    }
    ps(pid, "command")
}

/// When the process started, in words of the system that never change while it runs.
fn start_time(pid: u32) -> Option<String> {
    if cfg!(target_os = "linux") {
        // Field 22 of stat, counted from the state, which is field 3.
        return stat_fields(pid)?.get(19).cloned();
    }
    ps(pid, "lstart")
}

/// The pid of the process's parent.
pub fn parent(pid: u32) -> Option<u32> {
    if cfg!(target_os = "linux") {
        return stat_fields(pid)?.get(1)?.parse().ok();
    }
    ps(pid, "ppid")?.trim().parse().ok()
}

/// Resident memory of the process in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    if cfg!(target_os = "linux") {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
        return Some(kib * 1024);
    }
    let kib: u64 = ps(pid, "rss")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Fields of `/proc/<pid>/stat` from the state on; the name before it may hold anything.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    (fields.len() > 19).then_some(fields)
}

fn ps(pid: u32, column: &str) -> Option<String> {
    let output = Command::new("ps")
        .args(["-ww", "-o", &format!("{column}="), "-p", &pid.to_string()])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(dir: &Path, marker: &str) -> Daemon {
        std::fs::create_dir_all(dir).unwrap();
        Daemon {
            name: "sleeper".to_owned(),
            pid_file: dir.join("sleeper.pid"),
            marker: marker.to_owned(),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("caudal-stack-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_daemon_is_found_until_it_ends() {
        let dir = scratch("daemon");
        let daemon = daemon(&dir, "97531");
        let mut command = Command::new("sleep");
        command.arg("97531");
        let pid = daemon.spawn(command, &dir.join("out")).unwrap();
        assert!(wait_until(Duration::from_secs(5), || daemon.pid() == Some(pid)));
        assert!(daemon.end(Signal::Terminate, Duration::from_secs(5)).unwrap());
        assert_eq!(daemon.pid(), None);
        assert!(!daemon.pid_file.exists());
        layout::remove(&dir).unwrap();
    }

    #[test]
    fn a_reused_pid_is_not_ours() {
        let dir = scratch("stale");
        let own = std::process::id();
        let other = daemon(&dir, "a-word-that-is-in-no-command-line");
        std::fs::write(&other.pid_file, format!("{own}\n{}\n", start_time(own).unwrap())).unwrap();
        assert_eq!(other.pid(), None, "the marker must match");

        let program = command_line(own).unwrap();
        let same = daemon(&dir, &program);
        assert_eq!(same.pid(), Some(own));
        std::fs::write(&same.pid_file, format!("{own}\n1\n")).unwrap();
        assert_eq!(same.pid(), None, "the start time must match");
        layout::remove(&dir).unwrap();
    }

    #[test]
    fn pid_files_are_read_with_suspicion() {
        assert_eq!(parse_pid_file("12\n34\n"), Some((12, Some("34".to_owned()))));
        assert_eq!(parse_pid_file("12\n"), Some((12, None)));
        for text in ["", "x", "-1\n", "0\n", "1\n", "99999999999\n"] {
            assert_eq!(parse_pid_file(text), None, "{text:?}");
        }
    }
}
