//! The whole stack and each part by name: where it is, and how it starts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::java::Java;
use crate::layout::{self, Layout};
use crate::process::{self, Daemon};
use crate::topology::{Node, Topology};
use crate::{env, kafka, ports, postgres, probe, prometheus, status};

/// Receives lines that tell how far a command is.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Waiting longer than this for another command's turn means that it hangs.
const TURN: Duration = Duration::from_secs(300);

/// One native stack: its topology and its folder. Cheap; it starts nothing by itself.
#[derive(Debug)]
pub struct Stack {
    pub(crate) topology: Topology,
    pub(crate) layout: Layout,
    pub(crate) offset: u16,
}

impl Stack {
    /// Reads the topology (`CAUDAL_STACK_CONFIG`, else the built-in `config/stack.toml`) and the
    /// environment (`CAUDAL_HOME`, `CAUDAL_JARS`, `CAUDAL_PORT_OFFSET`).
    ///
    /// # Errors
    /// The topology is not valid, or `CAUDAL_PORT_OFFSET` is not a number.
    pub fn open() -> Result<Stack> {
        let offset = match std::env::var("CAUDAL_PORT_OFFSET") {
            Ok(text) if !text.trim().is_empty() => text.trim().parse().with_context(|| {
                format!("CAUDAL_PORT_OFFSET={text} is not a number up to 65535")
            })?,
            _ => 0,
        };
        let file = std::env::var_os("CAUDAL_STACK_CONFIG").filter(|path| !path.is_empty());
        let topology = Topology::load(file.as_deref().map(Path::new), offset)?;
        Ok(Stack { topology, layout: Layout::from_env()?, offset })
    }

    /// The topology, with the port offset added.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The stack's folder (`CAUDAL_HOME`), absolute.
    pub fn home(&self) -> &Path {
        self.layout.home()
    }

    /// `host:port` of every broker, comma separated.
    pub fn bootstrap_servers(&self) -> String {
        self.topology.bootstrap_servers()
    }

    /// PostgreSQL's address with role, password and database.
    pub fn database_url(&self) -> String {
        let postgres = &self.topology.postgres;
        format!(
            "postgres://{}:{}@localhost:{}/{}",
            postgres.user, postgres.password, postgres.port, postgres.database
        )
    }

    /// Prometheus's address while it runs.
    pub fn prometheus_url(&self) -> Option<String> {
        let running = prometheus::daemon(&self.layout).pid().is_some();
        running.then(|| format!("http://127.0.0.1:{}", self.topology.prometheus.port))
    }

    /// Lines for `eval` in a shell: PATH, addresses, and a `docker` function for our brokers.
    ///
    /// # Errors
    /// The program's own path cannot be found.
    pub fn env_script(&self) -> Result<String> {
        env::script(self)
    }

    /// Names of all parts: Kafka nodes in the order of the topology, `postgres`, `prometheus`.
    pub fn names(&self) -> Vec<&str> {
        let nodes = self.topology.nodes.iter().map(|node| node.name.as_str());
        nodes.chain([postgres::NAME, prometheus::NAME]).collect()
    }

    /// The log of a part.
    ///
    /// # Errors
    /// The stack has no such part.
    pub fn log_path(&self, name: &str) -> Result<PathBuf> {
        self.daemon(name)?;
        Ok(self.layout.log(name))
    }

    /// The pid of a part while it runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.daemon(name).ok()?.pid()
    }

    /// What runs, where, and how large it is.
    ///
    /// # Errors
    /// PostgreSQL's folder cannot be determined.
    pub fn status(&self) -> Result<status::StackStatus> {
        status::collect(self)
    }

    /// True between `up` and `down`, whether or not every part runs.
    pub fn is_up(&self) -> bool {
        self.layout.up_marker().exists()
    }

    pub(crate) fn daemon(&self, name: &str) -> Result<Daemon> {
        if self.topology.node(name).is_some() {
            return Ok(kafka::daemon(&self.layout, name));
        }
        match name {
            postgres::NAME => Ok(self.postgres()?.daemon()),
            prometheus::NAME => Ok(prometheus::daemon(&self.layout)),
            _ => bail!("the stack has no {name}; it has {}", self.names().join(", ")),
        }
    }

    pub(crate) fn postgres(&self) -> Result<postgres::Server<'_>> {
        postgres::Server::find(&self.layout, &self.topology)
    }

    fn start_patience(&self) -> Duration {
        Duration::from_secs(self.topology.cluster.start_timeout_s)
    }

    /// One command at a time changes the stack; the lock ends with the returned file.
    pub(crate) fn take_turn(&self, progress: Progress<'_>) -> Result<File> {
        self.layout.create()?;
        let path = self.layout.run().join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_ok() {
            return Ok(file);
        }
        progress("another command is changing this stack; waiting for it");
        if process::wait_until(TURN, || file.try_lock().is_ok()) {
            return Ok(file);
        }
        bail!("another command still holds {} after {} s", path.display(), TURN.as_secs())
    }

    /// Starts everything that does not run, and returns when all of it answers. A second call
    /// finds it all running and changes nothing.
    ///
    /// # Errors
    /// Jars, Java or PostgreSQL are missing, a port is taken, or a part does not answer in time.
    /// What was started keeps running, so that its logs can be read; `down` stops it.
    pub fn up(&self, progress: Progress<'_>) -> Result<()> {
        let begun = Instant::now();
        let _turn = self.take_turn(progress)?;
        env::install(self)?;
        let mut missing = self.stopped()?;
        if missing.is_empty() {
            self.wait_for_cluster()?;
            progress("already up");
            return Ok(());
        }
        self.check_ports(&mut missing, progress)?;
        layout::write_file(&self.layout.up_marker(), "")?;
        let mut timed = |line: &str| {
            progress(&format!("{:5.1} s  {line}", begun.elapsed().as_secs_f64()));
        };
        self.start_parts(&missing, &mut timed)?;
        self.wait_for_cluster()?;
        timed(&format!(
            "up: Kafka {}, PostgreSQL localhost:{}",
            self.bootstrap_servers(),
            self.topology.postgres.port
        ));
        Ok(())
    }

    /// Parts that should run and do not. Prometheus counts only where it is installed.
    fn stopped(&self) -> Result<Vec<&str>> {
        let mut stopped = Vec::new();
        for name in self.names() {
            let wanted = name != prometheus::NAME || prometheus::program().is_some();
            if wanted && self.daemon(name)?.pid().is_none() {
                stopped.push(name);
            }
        }
        Ok(stopped)
    }

    /// Every port of the parts to start must be free. One that is held by a process of this very
    /// stack, whose pid file was lost, means that the part runs: it is taken off the list.
    fn check_ports(&self, missing: &mut Vec<&str>, progress: Progress<'_>) -> Result<()> {
        let mut taken = Vec::new();
        let mut adopted = Vec::new();
        for name in missing.iter() {
            let mut held: Vec<(String, String)> = Vec::new();
            for (purpose, port) in self.ports_of(name) {
                let Some(holder) = ports::lasting_holder(port) else { continue };
                let ours = match holder.pid {
                    Some(pid) => self.daemon(name)?.adopt(pid)?,
                    None => false,
                };
                if ours {
                    progress(&format!("{name} runs already; its pid file was missing"));
                    adopted.push((*name).to_owned());
                    held.clear();
                    break;
                }
                held.push((format!("{port} ({purpose})"), holder.describe()));
            }
            for by_one in held.chunk_by(|a, b| a.1 == b.1) {
                let ports: Vec<&str> = by_one.iter().map(|(port, _)| port.as_str()).collect();
                taken.push(format!("  {name}: {} by {}", ports.join(", "), by_one[0].1));
            }
        }
        missing.retain(|name| !adopted.iter().any(|other| other == name));
        if taken.is_empty() {
            return Ok(());
        }
        bail!(
            "these ports are taken:\n{}\nStop what holds them, or move the whole stack with \
             CAUDAL_PORT_OFFSET=1000 (any number), or name other ports in a copy of \
             config/stack.toml with CAUDAL_STACK_CONFIG.",
            taken.join("\n")
        )
    }

    pub(crate) fn ports_of(&self, name: &str) -> Vec<(&'static str, u16)> {
        match self.topology.node(name) {
            Some(node) => node.ports(),
            None if name == postgres::NAME => vec![("server", self.topology.postgres.port)],
            None => vec![("server", self.topology.prometheus.port)],
        }
    }

    /// Starts parts side by side; each tells its progress as it comes.
    fn start_parts(&self, names: &[&str], progress: Progress<'_>) -> Result<()> {
        let nodes: Vec<&Node> = names.iter().filter_map(|name| self.topology.node(name)).collect();
        let shared = if nodes.is_empty() {
            None
        } else {
            kafka::write_settings(&self.layout)?;
            let cluster = kafka::cluster_id(&self.layout, &self.topology)?;
            Some((Java::find(&self.layout)?, cluster))
        };
        let (tell, lines) = mpsc::channel::<String>();
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for name in names {
                let tell = tell.clone();
                let shared = shared.as_ref();
                running.push(scope.spawn(move || match (self.topology.node(name), shared) {
                    (Some(node), Some((java, cluster))) => {
                        self.start_node(node, java, cluster, &tell)
                    }
                    _ => self.start_service(name, &tell),
                }));
            }
            drop(tell);
            for line in lines {
                progress(&line);
            }
            let mut faults = Vec::new();
            for thread in running {
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => faults.push(format!("{error:#}")),
                    Err(_) => faults.push("a starting thread panicked".to_owned()),
                }
            }
            if faults.is_empty() {
                return Ok(());
            }
            bail!(faults.join("\n\n"))
        })
    }

    fn start_node(
        &self,
        node: &Node,
        java: &Java,
        cluster: &str,
        tell: &mpsc::Sender<String>,
    ) -> Result<()> {
        // A receiver that is gone means that nobody reads progress any more.
        let say = |line: String| tell.send(line).ok();
        if let Some(note) = kafka::prepare(&self.layout, &self.topology, node, java, cluster)? {
            say(note);
        }
        let begun = Instant::now();
        let log_from = kafka::length(&self.layout.log(&node.name));
        let pid = kafka::spawn(&self.layout, node, java)?;
        kafka::wait_ready(&self.layout, &self.topology, node, log_from, self.start_patience())?;
        let seconds = begun.elapsed().as_secs_f64();
        say(format!("{} serves (pid {pid}, {seconds:.1} s)", node.name));
        Ok(())
    }

    fn start_service(&self, name: &str, tell: &mpsc::Sender<String>) -> Result<()> {
        let say = |line: String| tell.send(line).ok();
        if name == postgres::NAME {
            let server = self.postgres()?;
            for note in server.start(self.start_patience())? {
                say(note);
            }
            say(format!(
                "postgres accepts connections on localhost:{}",
                self.topology.postgres.port
            ));
            return Ok(());
        }
        let program = prometheus::program().context(
            "prometheus is not on the PATH; install it (apt, dnf or brew) and try again",
        )?;
        prometheus::start(&self.layout, &self.topology, &program)?;
        say(format!("prometheus serves on http://127.0.0.1:{}", self.topology.prometheus.port));
        Ok(())
    }

    /// Waits until every running broker knows every running broker.
    fn wait_for_cluster(&self) -> Result<()> {
        let brokers: Vec<&Node> = self
            .topology
            .nodes
            .iter()
            .filter(|node| node.is_broker() && self.pid(&node.name).is_some())
            .collect();
        let host = &self.topology.cluster.host;
        let mut last = String::new();
        let whole = process::wait_until(self.start_patience(), || {
            for node in &brokers {
                let Some(port) = node.client_port else { continue };
                match probe::live_brokers(host, port) {
                    Ok(ids) => {
                        let absent = brokers.iter().find(|other| !ids.contains(&other.id));
                        if let Some(absent) = absent {
                            last = format!("{} does not see {}", node.name, absent.name);
                            return false;
                        }
                    }
                    Err(error) => {
                        last = format!("{}: {error:#}", node.name);
                        return false;
                    }
                }
            }
            true
        });
        if whole {
            return Ok(());
        }
        bail!(
            "the brokers do not form a cluster after {} s: {last}. Logs: {}",
            self.topology.cluster.start_timeout_s,
            self.layout.logs().display()
        )
    }

    /// Starts one part and waits until it answers. A part that runs is left alone.
    ///
    /// # Errors
    /// As [`Stack::up`], for this part.
    pub fn start(&self, name: &str) -> Result<()> {
        let daemon = self.daemon(name)?;
        let _turn = self.take_turn(&mut |_| {})?;
        if daemon.pid().is_some() {
            return Ok(());
        }
        let mut missing = vec![name];
        self.check_ports(&mut missing, &mut |_| {})?;
        layout::write_file(&self.layout.up_marker(), "")?;
        self.start_parts(&missing, &mut |_| {})
    }

    /// Stops and starts one part.
    ///
    /// # Errors
    /// As [`Stack::stop`] and [`Stack::start`].
    pub fn restart(&self, name: &str) -> Result<()> {
        self.stop(name)?;
        self.start(name)
    }
}
