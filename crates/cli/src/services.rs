//! `caudal services up|status|down`: the processor and the sink as background processes.
//!
//! Each runs under a supervisor (`caudal services supervise NAME`, this binary again) that starts
//! it anew when it dies: a service recovers by being restarted, never by repairing itself.

use anyhow::{Context as _, Result, bail};
use caudal_service::shutdown::Shutdown;
use caudal_stack::Stack;
use caudal_stack::layout::Layout;
use caudal_stack::process::{Daemon, Signal, wait_until};
use clap::Subcommand;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// The services that run in the background, in the order of the flow.
pub const NAMES: [&str; 2] = ["caudal-processor", "caudal-sink"];

/// Subcommands of `caudal services`.
#[derive(Debug, Subcommand)]
pub enum ServicesCommand {
    /// Start the processor and the sink in the background; restart them when they die
    Up,
    /// Show what runs, and whether it is ready
    Status,
    /// Stop them: a last commit, then exit
    Down,
    /// Run one service and restart it when it dies (used by `up`)
    #[command(hide = true)]
    Supervise {
        /// Its name
        name: String,
        /// Folder of local state: names the process in a process list
        #[arg(long)]
        home: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// When a process cannot be started or stopped.
pub fn run(command: &ServicesCommand) -> Result<()> {
    match command {
        ServicesCommand::Up => up(&Stack::open()?, None),
        ServicesCommand::Status => status(&Stack::open()?),
        ServicesCommand::Down => down(),
        ServicesCommand::Supervise { name, .. } => supervise(name),
    }
}

/// Where a service serves `/metrics`.
///
/// # Errors
/// When the topology names no port for it.
pub fn metrics_address(stack: &Stack, name: &str) -> Result<String> {
    let port = stack.topology().services.get(name);
    let port = port.with_context(|| format!("config/stack.toml has no port for {name}"))?;
    Ok(format!("127.0.0.1:{port}"))
}

fn supervisor(layout: &Layout, name: &str) -> Daemon {
    Daemon {
        name: format!("supervisor of {name}"),
        pid_file: layout.pid_file(&format!("{name}-supervisor")),
        marker: format!("supervise {name}"),
    }
}

/// The service itself, as its supervisor recorded it.
#[must_use]
pub fn service(layout: &Layout, name: &str) -> Daemon {
    Daemon { name: name.to_owned(), pid_file: layout.pid_file(name), marker: name.to_owned() }
}

/// Starts the supervisors that do not run; their services run the queries of `queries`, or of
/// `CAUDAL_QUERIES`, or the standard ones.
///
/// # Errors
/// When a process cannot be started.
pub fn up(stack: &Stack, queries: Option<&Path>) -> Result<()> {
    let layout = Layout::from_env()?;
    layout.create()?;
    for name in NAMES {
        let daemon = supervisor(&layout, name);
        if daemon.pid().is_some() {
            println!("{name}: already up");
            continue;
        }
        let mut command = Command::new(std::env::current_exe().context("own path")?);
        command.args(["services", "supervise", name, "--home"]).arg(stack.home());
        if let Some(queries) = queries {
            command.env("CAUDAL_QUERIES", queries);
        }
        let pid = daemon.spawn(command, &layout.output(name))?;
        println!("{name}: up, supervisor {pid}, log {}", layout.output(name).display());
    }
    Ok(())
}

/// Stops supervisors and services.
///
/// # Errors
/// When a process does not end.
pub fn down() -> Result<()> {
    let layout = Layout::from_env()?;
    for name in NAMES.into_iter().rev() {
        let (supervisor, service) = (supervisor(&layout, name), service(&layout, name));
        if supervisor.pid().is_none() && service.pid().is_none() {
            continue;
        }
        // The supervisor passes the signal on and waits for the service's last commit.
        let ended = supervisor.end(Signal::Terminate, Duration::from_secs(40))?
            && service.end(Signal::Terminate, Duration::from_secs(10))?;
        if !ended {
            supervisor.end(Signal::Kill, Duration::from_secs(5))?;
            service.end(Signal::Kill, Duration::from_secs(5))?;
            println!("{name}: killed (it did not stop in time; a restart resumes where it was)");
        } else {
            println!("{name}: stopped");
        }
    }
    Ok(())
}

fn status(stack: &Stack) -> Result<()> {
    let layout = Layout::from_env()?;
    let mut missing = 0;
    for name in NAMES {
        let address = metrics_address(stack, name)?;
        match service(&layout, name).pid() {
            Some(pid) => println!(
                "{name}  running  pid {pid}  http://{address}/metrics  http://{address}/readyz"
            ),
            None => {
                missing += 1;
                println!("{name}  stopped  log {}", layout.output(name).display());
            }
        }
    }
    if missing > 0 {
        bail!("{missing} services do not run; start them with `caudal services up`")
    }
    Ok(())
}

fn supervise(name: &str) -> Result<()> {
    let shutdown = Shutdown::listen()?;
    let (stack, layout) = (Stack::open()?, Layout::from_env()?);
    let daemon = service(&layout, name);
    let mut pause = Duration::from_millis(200);
    while !shutdown.is_asked() {
        let begun = Instant::now();
        let mut child = start(&stack, &layout, name)?;
        // Until the kernel has replaced its image a new process has no command line to know it by.
        if !wait_until(Duration::from_secs(5), || daemon.adopt(child.id()).unwrap_or(false)) {
            eprintln!("supervisor: cannot write {}", daemon.pid_file.display());
        }
        let status = wait(&mut child, &shutdown, &daemon)?;
        caudal_stack::layout::remove(&daemon.pid_file)?;
        if shutdown.is_asked() || matches!(status.code(), Some(0 | 2 | 3)) {
            // 2 and 3 say that a person must look first: starting again would change nothing.
            eprintln!("supervisor: {name} ended ({status})");
            return Ok(());
        }
        pause = if begun.elapsed() > Duration::from_secs(60) {
            Duration::from_millis(200)
        } else {
            (pause * 2).min(Duration::from_secs(5))
        };
        eprintln!(
            "supervisor: {name} died ({status}); starting it again in {} ms",
            pause.as_millis()
        );
        wait_until(pause, || shutdown.is_asked());
    }
    Ok(())
}

fn start(stack: &Stack, layout: &Layout, name: &str) -> Result<Child> {
    let binary = sibling(name)?;
    let log = File::options().create(true).append(true).open(layout.output(name))?;
    Command::new(&binary)
        .env("BOOTSTRAP_SERVERS", stack.bootstrap_servers())
        .env("DATABASE_URL", stack.database_url())
        .env("CAUDAL_HOME", stack.home())
        .env("CAUDAL_METRICS_LISTEN", metrics_address(stack, name)?)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))
}

fn wait(child: &mut Child, shutdown: &Shutdown, daemon: &Daemon) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if shutdown.is_asked() {
            daemon.end(Signal::Terminate, Duration::ZERO)?;
            if !wait_until(Duration::from_secs(35), || matches!(child.try_wait(), Ok(Some(_)))) {
                child.kill()?;
            }
            return Ok(child.wait()?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A binary of ours, beside this one.
///
/// # Errors
/// When it is not there.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("own path")?.with_file_name(name);
    if !path.exists() {
        bail!("{} is not there; build it with `make build`", path.display());
    }
    Ok(path)
}
