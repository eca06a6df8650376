//! Runbooks that run: reads the markdown that people read, and executes its commands.
//!
//! A command is a fenced block whose info string starts with `bash` and a step:
//!
//! ````text
//! ```bash diagnose expect="(2 of 3 in sync)" within=60s
//! kafka-topics.sh --describe --topic transacciones
//! ```
//! ````
//!
//! - `setup` blocks are run in front of every other block, in the same shell;
//! - `expect="…"` must be in the output, `not="…"` must not; each may be given several times, and
//!   `*` in them stands for any text within a line;
//! - `within=60s` repeats the block until it is as expected, for so long;
//! - `timeout=120s` is the longest that one run may take (60 s unless given);
//! - `needs=NAME` leaves the block out, and says so, where [`NEEDS`] says that something is missing.
//!
//! The block must exit 0, and an unknown word is an error: a typing error must not switch a check
//! off.

use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a block may need, and the shell condition that tells whether it is there.
pub const NEEDS: [(&str, &str); 2] = [
    ("prometheus", r#"[ -n "${PROMETHEUS_URL:-}" ] && command -v promtool"#),
    ("caudal-verify", "caudal verify --help"),
];

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Run in front of every other block.
    Setup,
    /// Looks, and changes nothing.
    Diagnose,
    /// Mends.
    Remedy,
    /// Proves that it is mended.
    Verify,
}

impl Step {
    fn parse(word: &str) -> Option<Step> {
        match word {
            "setup" => Some(Step::Setup),
            "diagnose" => Some(Step::Diagnose),
            "remedy" => Some(Step::Remedy),
            "verify" => Some(Step::Verify),
            _ => None,
        }
    }
}

/// One fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it is for.
    pub step: Step,
    /// Line of the file where it starts.
    pub line: usize,
    /// Its commands.
    pub script: String,
    expect: Vec<String>,
    not: Vec<String>,
    within: Option<Duration>,
    timeout: Duration,
    needs: Option<String>,
}

/// A runbook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runbook {
    /// `name: value` lines between the two `---` at its start.
    pub front: BTreeMap<String, String>,
    /// Titles of its sections.
    pub sections: Vec<String>,
    /// Its blocks, in order.
    pub blocks: Vec<Block>,
}

impl Runbook {
    /// Reads a runbook.
    ///
    /// # Errors
    /// With the line that cannot be understood.
    pub fn parse(text: &str) -> Result<Runbook> {
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        ensure!(lines.next().is_some_and(|(_, line)| line == "---"), "it does not start with ---");
        let mut front = BTreeMap::new();
        for (number, line) in lines.by_ref().take_while(|(_, line)| *line != "---") {
            let (name, value) = line.split_once(':').with_context(|| {
                format!("line {number}: expected `name: value` in the front matter")
            })?;
            front.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        let (mut sections, mut blocks) = (Vec::new(), Vec::new());
        while let Some((number, line)) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                sections.push(title.trim().to_owned());
            }
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            let body: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```")
                .collect();
            let block = Block::parse(info, &body.join("\n"), number);
            blocks.extend(block.with_context(|| format!("line {number}"))?);
        }
        Ok(Runbook { front, sections, blocks })
    }

    /// Blocks of a step, in order.
    pub fn blocks(&self, step: Step) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.step == step)
    }
}

impl Block {
    /// `None` for a block that is not to be executed: another language, or no step.
    fn parse(info: &str, script: &str, line: usize) -> Result<Option<Block>> {
        let mut words = words(info)?.into_iter();
        if words.next().is_none_or(|(language, value)| language != "bash" || value.is_some()) {
            return Ok(None);
        }
        let Some((step, _)) = words.next() else { return Ok(None) };
        let step = Step::parse(&step).with_context(|| format!("{step} is no step"))?;
        let mut block = Block {
            step,
            line,
            script: script.to_owned(),
            expect: Vec::new(),
            not: Vec::new(),
            within: None,
            timeout: Duration::from_secs(60),
            needs: None,
        };
        for (name, value) in words {
            let value = value.with_context(|| format!("{name} has no value"))?;
            match name.as_str() {
                "expect" => block.expect.push(value),
                "not" => block.not.push(value),
                "within" => block.within = Some(seconds(&value)?),
                "timeout" => block.timeout = seconds(&value)?,
                "needs" => {
                    ensure!(NEEDS.iter().any(|(known, _)| *known == value), "needs={value}?");
                    block.needs = Some(value);
                }
                _ => bail!("{name}= is not known"),
            }
        }
        Ok(Some(block))
    }

    /// Why an output is not as expected.
    fn fault(&self, output: &str) -> Option<String> {
        let found = |pattern: &String| output.lines().any(|line| matches(pattern, line));
        let missing = self.expect.iter().find(|pattern| !found(pattern));
        let unwanted = self.not.iter().find(|pattern| found(pattern));
        missing
            .map(|pattern| format!("{pattern:?} is not in the output"))
            .or_else(|| unwanted.map(|pattern| format!("{pattern:?} is in the output")))
    }
}

/// Words of an info string: `name` or `name=value`, the value in double quotes where it has spaces.
fn words(info: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut found = Vec::new();
    let mut letters = info.chars().peekable();
    while let Some(first) = letters.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut name = String::from(first);
        while let Some(letter) = letters.next_if(|c| !c.is_whitespace() && *c != '=') {
            name.push(letter);
        }
        if letters.next_if_eq(&'=').is_none() {
            found.push((name, None));
            continue;
        }
        let quoted = letters.next_if_eq(&'"').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('"') if quoted => break,
                Some('\\') if quoted => value.extend(letters.next()),
                Some(letter) if quoted || !letter.is_whitespace() => value.push(letter),
                None if quoted => bail!("{name}=\"{value} has no closing quotation mark"),
                _ => break,
            }
        }
        found.push((name, Some(value)));
    }
    Ok(found)
}

fn seconds(text: &str) -> Result<Duration> {
    let number = text.strip_suffix('s').with_context(|| format!("{text}: expected 60s"))?;
    Ok(Duration::from_secs(number.parse().with_context(|| format!("{text}: expected 60s"))?))
}

/// Whether the parts between the stars of `pattern` follow each other in `line`.
fn matches(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Where blocks are executed.
#[derive(Debug)]
pub struct Shell {
    setup: String,
    variables: Vec<(String, String)>,
    output: PathBuf,
}

impl Shell {
    /// For a runbook's blocks: with its setup, these environment variables, and outputs in a file
    /// of `folder`. A command that goes on in the background cannot hold up a file.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(
        runbook: &Runbook,
        variables: Vec<(String, String)>,
        folder: PathBuf,
    ) -> Result<Shell> {
        std::fs::create_dir_all(&folder)?;
        let setup: Vec<&str> = runbook.blocks(Step::Setup).map(|b| b.script.as_str()).collect();
        Ok(Shell { setup: setup.join("\n"), variables, output: folder.join("block.out") })
    }

    /// Executes a block until it is as expected. Gives false where something that it needs is
    /// missing, and says so.
    ///
    /// # Errors
    /// When it is not as expected in time; with its commands and their output.
    pub fn execute(&self, block: &Block) -> Result<bool> {
        let need = block.needs.as_ref().and_then(|name| NEEDS.iter().find(|(n, _)| n == name));
        if let Some((name, condition)) = need
            && !self.run(condition, Duration::from_secs(30))?.0.is_some_and(|s| s.success())
        {
            println!("skipped: line {} needs {name}", block.line);
            return Ok(false);
        }
        let begun = Instant::now();
        loop {
            let (status, output) = self.run(&block.script, block.timeout)?;
            let fault = match status {
                None => Some(format!("it did not end within {} s", block.timeout.as_secs())),
                Some(status) if !status.success() => Some(format!("it ended with {status}")),
                Some(_) => block.fault(&output),
            };
            let Some(fault) = fault else {
                println!("line {}: as expected ({:.1?})", block.line, begun.elapsed());
                return Ok(true);
            };
            if block.within.is_none_or(|limit| begun.elapsed() > limit) {
                bail!(
                    "the block in line {} of the runbook: {fault}\n$ {}\n{output}",
                    block.line,
                    block.script.replace('\n', "\n$ ")
                );
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Exit status (`None`: it was killed after `timeout`) and output, standard error included.
    fn run(&self, script: &str, timeout: Duration) -> Result<(Option<ExitStatus>, String)> {
        let file = File::create(&self.output)?;
        let mut child = Command::new("bash")
            .args(["-c", &format!("set -eo pipefail\n{}\n{script}\n", self.setup)])
            // A terminal's own settings must not decide what is printed.
            .envs([("LC_ALL", "C"), ("COLUMNS", "200")])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own, so that a pipeline ends as a whole.
            .process_group(0)
            .spawn()
            .context("bash")?;
        let until = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > until {
                Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = String::from_utf8_lossy(&std::fs::read(&self.output)?).into_owned();
        Ok((status, output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "---\nalert: A\nseverity: page\n---\n# T\n\n## One\n```bash setup\nX=1\n```\n\
        text\n```bash diagnose expect=\"a \\\"b\\\" *c\" not=x within=2s\necho \"a \\\"b\\\" $X c\"\n```\n\
        ```bash\nnot run\n```\n```text diagnose\nnot run\n```\n## Two\n```bash verify needs=prometheus timeout=9s\ntrue\n```\n";

    fn shell(runbook: &Runbook, name: &str) -> Result<Shell> {
        let folder = std::env::temp_dir().join(format!("caudal-{name}-{}", std::process::id()));
        Shell::new(runbook, vec![("PROMETHEUS_URL".into(), String::new())], folder)
    }

    fn page(info: &str, script: &str) -> Result<Runbook> {
        Runbook::parse(&format!("---\n---\n```{info}\n{script}\n```\n"))
    }

    #[test]
    fn a_page_is_read() -> Result<()> {
        let runbook = Runbook::parse(PAGE)?;
        assert_eq!(runbook.front["alert"], "A");
        assert_eq!(runbook.sections, ["One", "Two"]);
        assert_eq!(runbook.blocks.len(), 3);
        let block = &runbook.blocks[1];
        assert_eq!((block.step, block.line), (Step::Diagnose, 12));
        assert_eq!((&block.expect[0], &block.not[0]), (&"a \"b\" *c".into(), &"x".into()));
        assert_eq!(block.within, Some(Duration::from_secs(2)));
        assert_eq!(runbook.blocks[2].needs.as_deref(), Some("prometheus"));
        Ok(())
    }

    #[test]
    fn typing_errors_are_told() {
        for info in [
            "bash diagnos",
            "bash diagnose expected=a",
            "bash diagnose expect=\"a",
            "bash diagnose within=60",
            "bash verify needs=luck",
            "bash verify expect",
        ] {
            assert!(page(info, "true").is_err(), "{info}");
        }
        assert!(Runbook::parse("# no front matter").is_err());
    }

    #[test]
    fn stars_stay_within_a_line_and_keep_the_order() {
        assert!(matches("a*c", "xabcx"));
        assert!(matches("a * c", "a b c"));
        assert!(!matches("c*a", "a b c"));
        assert!(!matches("aba*ba", "aba"));
        let block = page("bash verify expect=\"a*c\"", "true").unwrap().blocks.remove(0);
        assert!(block.fault("a\nc").is_some());
    }

    #[test]
    fn blocks_are_executed_after_the_setup() -> Result<()> {
        let runbook = Runbook::parse(PAGE)?;
        assert!(shell(&runbook, "setup")?.execute(&runbook.blocks[1])?);
        Ok(())
    }

    #[test]
    fn what_is_missing_leaves_a_block_out() -> Result<()> {
        let runbook = page("bash verify needs=prometheus", "exit 3")?;
        assert!(!shell(&runbook, "needs")?.execute(&runbook.blocks[0])?);
        Ok(())
    }

    #[test]
    fn every_kind_of_fault_is_noticed() -> Result<()> {
        for (info, script) in [
            ("bash verify", "exit 3"),
            ("bash verify", "false | cat"),
            ("bash verify expect=yes", "echo no"),
            ("bash verify not=no", "echo no"),
            ("bash verify timeout=1s", "sleep 30 | cat"),
        ] {
            let runbook = page(info, script)?;
            let error = shell(&runbook, "faults")?.execute(&runbook.blocks[0]).unwrap_err();
            assert!(error.to_string().contains(script), "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_block_is_repeated_until_it_is_as_expected() -> Result<()> {
        let name = format!("caudal-repeat-{}", std::process::id());
        let marker = std::env::temp_dir().join(name).join("marker");
        let script = format!("cat '{0}' 2>&1 || {{ echo yes >'{0}'; false; }}", marker.display());
        let runbook = page("bash verify expect=yes within=10s", &script)?;
        let shell = shell(&runbook, "repeat")?;
        assert!(shell.execute(&runbook.blocks[0])?);
        std::fs::remove_file(marker)?;
        Ok(())
    }
}
