//! Stopping the stack, all of it or one part.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::{Daemon, Signal};
use crate::stack::{Progress, Stack};
use crate::topology::Node;
use crate::{kafka, layout, ports, postgres, prometheus, wipe};

/// How long a node may still take once most of its group has stopped: it waits for a quorum that
/// is gone. What it acknowledged is on the others' and its own disk already.
const ALONE: Duration = Duration::from_secs(6);

/// How long a killed process may take to vanish.
const KILLED: Duration = Duration::from_secs(10);

impl Stack {
    fn stop_patience(&self) -> Duration {
        Duration::from_secs(self.topology.cluster.stop_timeout_s)
    }

    /// Stops everything: Prometheus, the Kafka nodes together, PostgreSQL. With `wipe` also
    /// removes all data, but keeps the jars.
    ///
    /// # Errors
    /// A process does not end even when killed, or a folder cannot be removed.
    pub fn down(&self, wipe: bool, progress: Progress<'_>) -> Result<()> {
        let begun = Instant::now();
        let turn = self.take_turn(progress)?;
        let mut timed = |line: &str| {
            progress(&format!("{:5.1} s  {line}", begun.elapsed().as_secs_f64()));
        };
        self.adopt_lost()?;
        let patience = self.stop_patience();
        let mut first = self.unlisted();
        first.push(prometheus::daemon(&self.layout));
        end_together(first, Signal::Terminate, patience, &mut timed)?;
        // Brokers take leave of the controllers, so those go last.
        let (controllers, brokers): (Vec<&Node>, Vec<&Node>) =
            self.topology.nodes.iter().partition(|node| node.is_controller());
        for nodes in [brokers, controllers] {
            let daemons = nodes.iter().map(|node| kafka::daemon(&self.layout, &node.name));
            end_together(daemons.collect(), Signal::Terminate, patience, &mut timed)?;
        }
        // Interrupt is PostgreSQL's fast shutdown: it disconnects clients, then writes all.
        end_together(vec![self.postgres()?.daemon()], Signal::Interrupt, patience, &mut timed)?;
        layout::remove(&self.layout.up_marker())?;
        let postgres = self.postgres()?.base().to_owned();
        if wipe {
            wipe::remove_data(self, &postgres, &mut timed)?;
        }
        drop(turn);
        wipe::say_what_stays(&self.layout, &postgres, progress);
        Ok(())
    }

    /// Takes back processes of this stack whose pid files were lost, by the ports they hold.
    fn adopt_lost(&self) -> Result<()> {
        for name in self.names() {
            let daemon = self.daemon(name)?;
            if daemon.pid().is_some() {
                continue;
            }
            for (_, port) in self.ports_of(name) {
                if let Some(pid) = ports::holder(port).and_then(|holder| holder.pid) {
                    daemon.adopt(pid)?;
                }
            }
        }
        Ok(())
    }

    /// Nodes that run but are not in the topology any more: the file was changed under them.
    fn unlisted(&self) -> Vec<Daemon> {
        let Ok(entries) = std::fs::read_dir(self.layout.run()) else {
            return Vec::new();
        };
        let names = entries.flatten().filter_map(|entry| {
            let file = entry.file_name();
            Some(file.to_str()?.strip_suffix(".pid")?.to_owned())
        });
        let unlisted = names.filter(|name| !self.names().contains(&name.as_str()));
        unlisted.map(|name| kafka::daemon(&self.layout, &name)).collect()
    }

    /// Stops one part cleanly and waits for its end; a part that does not run is left alone.
    /// After the topology's `stop_timeout_s` it is killed.
    ///
    /// # Errors
    /// There is no such part, or it does not end even when killed.
    pub fn stop(&self, name: &str) -> Result<()> {
        let daemon = self.daemon(name)?;
        let _turn = self.take_turn(&mut |_| {})?;
        let signal = if name == postgres::NAME { Signal::Interrupt } else { Signal::Terminate };
        end_together(vec![daemon], signal, self.stop_patience(), &mut |_| {})
    }

    /// Kills one part (SIGKILL) and waits until it is gone. Takes no turn: a fault strikes
    /// whatever else is going on.
    ///
    /// # Errors
    /// There is no such part, it does not run, or it does not vanish.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::Kill)
    }

    /// Stops PostgreSQL as a crash does: no checkpoint, clients are cut off, and the next start
    /// recovers from the write-ahead log.
    ///
    /// # Errors
    /// It does not run, or it does not end.
    pub fn stop_postgres_immediate(&self) -> Result<()> {
        self.signal(postgres::NAME, Signal::Quit)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let daemon = self.daemon(name)?;
        if daemon.pid().is_none() {
            bail!("{name} does not run");
        }
        if !daemon.end(signal, KILLED)? {
            bail!("{name} still runs after {} s (pid {:?})", KILLED.as_secs(), daemon.pid());
        }
        Ok(())
    }
}

/// Signals all processes, waits for all of them, and kills what does not end in time: after
/// `patience`, or sooner when most of the others are gone.
///
/// # Errors
/// A signal is refused, or a process does not end even when killed.
fn end_together(
    daemons: Vec<Daemon>,
    signal: Signal,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<()> {
    let mut waiting = Vec::new();
    for daemon in daemons {
        if daemon.pid().is_some() {
            daemon.end(signal, Duration::ZERO)?;
            waiting.push(daemon);
        } else {
            layout::remove(&daemon.pid_file)?;
        }
    }
    let all = waiting.len();
    let mut deadline = Instant::now() + patience;
    loop {
        let before = waiting.len();
        let mut left = Vec::new();
        for daemon in waiting {
            if daemon.pid().is_some() {
                left.push(daemon);
                continue;
            }
            layout::remove(&daemon.pid_file)?;
            progress(&format!("{} stopped", daemon.name));
        }
        waiting = left;
        if waiting.len() < before && waiting.len() * 2 < all {
            deadline = deadline.min(Instant::now() + ALONE);
        }
        if waiting.is_empty() || Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut faults = Vec::new();
    for daemon in waiting {
        if daemon.end(Signal::Kill, KILLED)? {
            progress(&format!("{} killed: it did not stop by itself in time", daemon.name));
        } else {
            faults.push(format!("{} does not end (pid {:?})", daemon.name, daemon.pid()));
        }
    }
    if faults.is_empty() { Ok(()) } else { bail!(faults.join("; ")) }
}
