//! `caudal stack …`.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::stack::Stack;
use crate::status::{StackStatus, State};
use crate::wipe::size;
use crate::{docker_ps, kafka};

/// What `caudal stack` can do.
#[derive(Debug, Clone, Subcommand)]
pub enum StackCommand {
    /// Start everything that does not run, and wait until it answers
    Up,
    /// Show what runs, where, and how large it is
    Status {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Stop parts cleanly, for instance broker-2
    Stop {
        /// Names as `status` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Start parts and wait until they answer
    Start {
        /// Names as `status` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Stop and start parts, or everything
    Restart {
        /// Names as `status` shows them; none means all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Kill parts at once (SIGKILL), as a crash would
    Kill {
        /// Names as `status` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Let PostgreSQL crash by its own immediate shutdown instead of SIGKILL
        #[arg(long)]
        immediate: bool,
    },
    /// Print the log of a part
    Logs {
        /// A name as `status` shows it
        name: String,
        /// Keep printing what is added
        #[arg(short, long)]
        follow: bool,
        /// Number of lines from the end
        #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
        lines: usize,
    },
    /// Print shell lines: eval "$(caudal stack env)"
    Env,
    /// List the native brokers in the columns of `docker ps`
    #[command(hide = true)]
    DockerPs,
    /// Stop everything; data stays unless --wipe is given
    Down {
        /// Remove all data and logs too (the jars stay)
        #[arg(long)]
        wipe: bool,
    },
}

/// Runs one command; progress goes to standard error, results to standard output.
///
/// # Errors
/// As the method of [`Stack`] it calls, or standard output cannot be written.
pub fn run(command: StackCommand) -> Result<()> {
    let stack = Stack::open()?;
    let mut progress = |line: &str| eprintln!("stack: {line}");
    match command {
        StackCommand::Up => stack.up(&mut progress),
        StackCommand::Down { wipe } => stack.down(wipe, &mut progress),
        StackCommand::Status { json } => {
            let status = stack.status()?;
            let text = if json {
                serde_json::to_string_pretty(&status).context("cannot write JSON")?
            } else {
                table(&status)
            };
            print(&format!("{text}\n"))
        }
        StackCommand::Stop { names } => each(&stack, &names, &mut progress, "stopped", Stack::stop),
        StackCommand::Start { names } => each(&stack, &names, &mut progress, "runs", Stack::start),
        StackCommand::Restart { names } if names.is_empty() => {
            stack.down(false, &mut |_| {})?;
            stack.up(&mut progress)
        }
        StackCommand::Restart { names } => {
            each(&stack, &names, &mut progress, "restarted", Stack::restart)
        }
        StackCommand::Kill { names, immediate: false } => {
            each(&stack, &names, &mut progress, "killed", Stack::kill)
        }
        StackCommand::Kill { names, immediate: true } => {
            if names != ["postgres"] {
                bail!(
                    "--immediate is PostgreSQL's own way to crash: caudal stack kill --immediate postgres"
                );
            }
            stack.stop_postgres_immediate()
        }
        StackCommand::Logs { name, follow, lines } => {
            let path = stack.log_path(&name)?;
            logs(&path, lines, follow)
        }
        StackCommand::Env => print(&stack.env_script()?),
        StackCommand::DockerPs => print(&docker_ps::table(&stack.status()?)),
    }
}

fn each(
    stack: &Stack,
    names: &[String],
    progress: &mut dyn FnMut(&str),
    done: &str,
    act: fn(&Stack, &str) -> Result<()>,
) -> Result<()> {
    for name in names {
        act(stack, name)?;
        progress(&format!("{name} {done}"));
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn table(status: &StackStatus) -> String {
    let mut text = format!(
        "{:<12} {:<18} {:<8} {:>7} {:>9} {:>9}  {}\n",
        "NAME", "ROLE", "STATE", "PID", "MEMORY", "DATA", "PORTS"
    );
    for part in &status.parts {
        let state = match part.state {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Absent => "absent",
        };
        let ports: Vec<String> =
            part.ports.iter().map(|(purpose, port)| format!("{purpose} {port}")).collect();
        let dash = || "-".to_owned();
        text.push_str(&format!(
            "{:<12} {:<18} {:<8} {:>7} {:>9} {:>9}  {}\n",
            part.name,
            part.role,
            state,
            part.pid.map_or_else(dash, |pid| pid.to_string()),
            part.rss_bytes.map_or_else(dash, size),
            size(part.data_bytes),
            ports.join(", ")
        ));
    }
    text.push_str(&format!("\nmemory {}   home {}", size(status.rss_bytes), status.home));
    text.push_str(&format!("\nbrokers {}", status.bootstrap_servers));
    text.push_str(&format!("\npostgres {}", status.database_url));
    if let Some(url) = &status.prometheus_url {
        text.push_str(&format!("\nprometheus {url}"));
    }
    text
}

fn logs(path: &Path, lines: usize, follow: bool) -> Result<()> {
    if !path.exists() && !follow {
        bail!("there is no log yet: {}", path.display());
    }
    let mut position = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let end = kafka::tail(path, lines);
    if !end.is_empty() {
        print(&format!("{end}\n"))?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let Ok(mut file) = std::fs::File::open(path) else { continue };
        let length = file.metadata().context("cannot look at the log")?.len();
        // Shorter than before: the log was rotated, and the new one is read from its start.
        if length < position {
            position = 0;
        }
        let mut added = Vec::new();
        file.seek(SeekFrom::Start(position)).context("cannot read the log")?;
        file.read_to_end(&mut added).context("cannot read the log")?;
        position += added.len() as u64;
        if !added.is_empty() {
            print(&String::from_utf8_lossy(&added))?;
        }
    }
}
