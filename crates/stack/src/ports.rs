//! Who holds a port.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process;

/// A process that holds a port. Processes of other users may be hidden from us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid, where it can be known.
    pub pid: Option<u32>,
}

impl Holder {
    /// Words for a message: pid and both ends of the command line.
    pub fn describe(&self) -> String {
        let Some(pid) = self.pid else {
            return "a process that this user may not see".to_owned();
        };
        format!("pid {pid} ({})", shorten(&process::command_line(pid).unwrap_or_default()))
    }
}

/// Program and last argument say what a process is; Java's many options between them do not.
fn shorten(line: &str) -> String {
    let count = line.chars().count();
    if count <= 110 {
        return line.to_owned();
    }
    let start: String = line.chars().take(30).collect();
    let end: String = line.chars().skip(count - 80).collect();
    format!("{start} … {end}")
}

/// The process that keeps `port` from being bound on localhost; `None` when it is free.
pub fn holder(port: u16) -> Option<Holder> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::AddrInUse => Some(Holder { pid: owner(port) }),
        // Not allowed to bind, or no such address: the server's own message will say it better.
        Err(_) => None,
    }
}

/// As [`holder`], but gives a process that is just ending a moment: its first thread may be gone
/// while others still hold its sockets, and then nobody can be named.
pub fn lasting_holder(port: u16) -> Option<Holder> {
    let mut found = None;
    process::wait_until(Duration::from_secs(5), || {
        found = holder(port);
        found.as_ref().is_none_or(|holder| holder.pid.is_some_and(process::is_alive))
    });
    found
}

fn owner(port: u16) -> Option<u32> {
    if cfg!(target_os = "linux") { owner_by_proc(port) } else { owner_by_lsof(port) }
}

fn owner_by_lsof(port: u16) -> Option<u32> {
    let output = Command::new("lsof")
        .args(["-nP", "-t", &format!("-iTCP:{port}"), "-sTCP:LISTEN"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next()?.trim().parse().ok()
}

/// The socket's inode from the connection tables, then the process that has it open.
fn owner_by_proc(port: u16) -> Option<u32> {
    let mut inodes = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| inode_on_port(line, port)));
    }
    let wanted: HashSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files.flatten().any(|file| {
            std::fs::read_link(file.path())
                .is_ok_and(|target| wanted.contains(target.to_string_lossy().as_ref()))
        });
        if holds {
            return Some(pid);
        }
    }
    None
}

/// Local port and inode of one line of `/proc/net/tcp`. Finished connections have inode 0.
fn inode_on_port(line: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let inode: u64 = fields.get(9)?.parse().ok()?;
    (u16::from_str_radix(local, 16).ok()? == port && inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holder(port).unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(found.pid, Some(std::process::id()));
            assert!(found.describe().contains(&std::process::id().to_string()));
        }
        drop(listener);
        assert_eq!(holder(port), None);
    }

    #[test]
    fn long_command_lines_keep_both_ends() {
        let line = format!("java {} kafka.Kafka /h/server.properties", "-Dx=y ".repeat(50));
        let short = shorten(&line);
        assert!(short.starts_with("java ") && short.ends_with("/h/server.properties"), "{short}");
        assert_eq!(shorten("sleep 5"), "sleep 5");
    }

    #[test]
    fn connection_tables_are_read() {
        let line = "   0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    0 0 4711 1 0000000000000000 100 0 0 10 0";
        assert_eq!(inode_on_port(line, 9092), Some(4711));
        assert_eq!(inode_on_port(line, 9093), None);
    }
}
