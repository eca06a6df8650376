//! The pipeline under test: a stack, and the services as child processes.

use anyhow::{Context as _, Result, bail, ensure};
use caudal_kafka::Kafka;
use caudal_stack::Stack;
use serde_json::Value as Json;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A stack of the tests' own, empty.
pub struct Pipeline {
    /// The stack.
    pub stack: Stack,
    /// Its brokers.
    pub kafka: Kafka,
    /// Its database.
    pub database_url: String,
    /// Where logs of this test go.
    pub logs: PathBuf,
    /// The file of queries that everything runs with; none: what is built in.
    queries: Option<PathBuf>,
}

impl Pipeline {
    /// The test stack, emptied; `None` (and a word why) where there is none.
    ///
    /// # Errors
    /// When the stack does not answer.
    pub fn empty(test: &str) -> Result<Option<Pipeline>> {
        if std::env::var_os("CAUDAL_TEST_HOME").is_none() {
            println!("skipped: no test stack (run `make test`)");
            return Ok(None);
        }
        let stack = Stack::open()?;
        ensure!(
            stack.home() == PathBuf::from(std::env::var("CAUDAL_TEST_HOME")?),
            "CAUDAL_HOME and CAUDAL_TEST_HOME differ"
        );
        stack.up(&mut |_| {})?;
        let logs = stack.home().join("test-logs").join(test);
        std::fs::create_dir_all(&logs)?;
        let pipeline = Pipeline {
            kafka: Kafka::plain(&stack.bootstrap_servers()),
            database_url: stack.database_url(),
            stack,
            logs,
            queries: None,
        };
        pipeline.caudal(&["reset", "--yes"])?;
        Ok(Some(pipeline))
    }

    /// From here on every command runs these queries beside the shipped ones (`CAUDAL_QUERIES`).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_queries(&mut self, sql: &str) -> Result<()> {
        let before = match &self.queries {
            Some(file) => std::fs::read_to_string(file)?,
            None => caudal_query::plan::SHIPPED.to_owned(),
        };
        self.set_queries(&format!("{before}\n{sql}"))
    }

    /// From here on every command runs these queries and no others.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_queries(&mut self, sql: &str) -> Result<()> {
        let file = self.logs.join("queries.sql");
        std::fs::write(&file, sql)?;
        self.queries = Some(file);
        Ok(())
    }

    /// A binary of ours with this stack's addresses.
    ///
    /// # Errors
    /// When it was not built.
    pub fn command(&self, name: &str) -> Result<Command> {
        let path = binaries()?.join(name);
        ensure!(path.exists(), "{} is not there; run `make build`", path.display());
        let mut command = Command::new(path);
        command
            .env("BOOTSTRAP_SERVERS", self.stack.bootstrap_servers())
            .env("DATABASE_URL", self.stack.database_url())
            .env("CAUDAL_HOME", self.stack.home())
            .env("CAUDAL_METRICS_LISTEN", "off");
        if let Some(queries) = &self.queries {
            command.env("CAUDAL_QUERIES", queries);
        }
        Ok(command)
    }

    /// An address for metrics that no other stack's tests use.
    ///
    /// # Errors
    /// When `CAUDAL_PORT_OFFSET` is not a number.
    pub fn metrics_address(&self, place: usize) -> Result<String> {
        let offset: usize = std::env::var("CAUDAL_PORT_OFFSET")?.parse()?;
        Ok(format!("127.0.0.1:{}", offset + 9_460 + place))
    }

    /// Runs `caudal …` and gives what it printed.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn caudal(&self, args: &[&str]) -> Result<String> {
        let output = self.command("caudal")?.args(args).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "caudal {args:?}: {}\n{text}\n{errors}", output.status);
        Ok(text)
    }

    /// Starts a service; it is killed when the value is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, label: &str, args: &[&str]) -> Result<Service> {
        let path = self.logs.join(format!("{label}.log"));
        let log = std::fs::File::options().create(true).append(true).open(&path)?;
        let child = self
            .command(name)?
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Service { child, label: label.to_owned(), log: path })
    }

    /// Runs a service until it ends by itself.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub fn run(&self, name: &str, args: &[&str], limit: Duration) -> Result<()> {
        let mut service = self.start(name, name, args)?;
        let status = service.wait(limit)?;
        ensure!(status.success(), "{name}: {status}; log {}", service.log.display());
        Ok(())
    }

    /// Runs the processor, then the sink, until what is there is stored.
    ///
    /// # Errors
    /// When either fails.
    pub fn catch_up(&self) -> Result<()> {
        let limit = Duration::from_secs(300);
        self.run("caudal-processor", &["--until-caught-up"], limit)?;
        self.run("caudal-sink", &["--until-caught-up"], limit)
    }

    /// `caudal verify --json`, whatever its verdict.
    ///
    /// # Errors
    /// When it cannot tell.
    pub fn verify(&self) -> Result<Json> {
        self.verify_with(&[])
    }

    /// As [`Pipeline::verify`], with further arguments.
    ///
    /// # Errors
    /// When it cannot tell.
    pub fn verify_with(&self, args: &[&str]) -> Result<Json> {
        let output = self.command("caudal")?.args(["verify", "--json"]).args(args).output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let verdict: Json =
            serde_json::from_slice(&output.stdout).with_context(|| errors.clone())?;
        let agrees = verdict["balanced"].as_bool() == Some(output.status.success());
        ensure!(agrees, "exit status {} does not say the same as {verdict}", output.status);
        Ok(verdict)
    }

    /// That verify finds the books balanced.
    ///
    /// # Errors
    /// With the differences.
    pub fn assert_balanced(&self) -> Result<()> {
        let verdict = self.verify()?;
        ensure!(verdict["balanced"] == true, "not balanced: {verdict:#}");
        Ok(())
    }

    /// Sends `lines` to a topic as `kafka-console-producer.sh` does.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn console_produce(&self, topic: &str, lines: &str) -> Result<()> {
        let script = format!(
            "eval \"$('{}' stack env)\" && kafka-console-producer.sh --topic {topic} --bootstrap-server '{}'",
            binaries()?.join("caudal").display(),
            self.stack.bootstrap_servers()
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .env("CAUDAL_HOME", self.stack.home())
            .stdin(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("standard input")?;
        std::io::Write::write_all(&mut input, lines.as_bytes())?;
        drop(input);
        ensure!(child.wait()?.success(), "kafka-console-producer.sh failed");
        Ok(())
    }
}

/// A running service.
pub struct Service {
    child: Child,
    label: String,
    /// Its log.
    pub log: PathBuf,
}

impl Service {
    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!(
                    "{} did not end within {} s; log {}",
                    self.label,
                    limit.as_secs(),
                    self.log.display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGKILL, and collects it.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had ended by itself ({status}); log {}", self.label, self.log.display());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the exit status.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        crate::fault::signal(self.pid(), "TERM")?;
        self.wait(Duration::from_secs(60))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where the binaries are: beside this one, or one above a test's own `deps` folder.
///
/// # Errors
/// When this program's path is not as cargo lays it out.
pub fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("target folder")?;
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    Ok(above.unwrap_or(folder).to_owned())
}
