//! `--follow`: files that come and files that grow, until a stop is asked for.
//!
//! A record counts when its line has ended; a last line without a line end when its file has been
//! left alone for a while. Whatever changes after that is verified before it is read on, so that a
//! guess about an end can be wrong without a wrong record: it halts.

use super::{Message, Reader, Stop};
use crate::mapping::Mapping;
use crate::progress::Progress;
use crate::source::Source as _;
use crate::source::inputs::{self, Input, Opened};
use crate::source::lines::Lines;
use caudal_service::exit::Halt;
use caudal_service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::BufRead;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How often folders and files are looked at.
const POLL: Duration = Duration::from_millis(250);
/// Most files that are open at once, because they may grow.
const OPEN: usize = 64;

/// How files are read.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArgs {
    /// Go on with files that come into the folders and globs, and that grow, until SIGTERM. Write
    /// a new file under a name that begins with a dot and rename it, or append whole lines
    #[arg(long, env = "CAUDAL_FOLLOW", requires = "input")]
    pub follow: bool,
    /// With --follow: a file that was left alone for so long has ended, even within a line; gzip
    /// is not read before (100 to 3600000)
    #[arg(
        long,
        env = "CAUDAL_SETTLE_MS",
        default_value_t = 2_000,
        value_name = "MS",
        value_parser = clap::value_parser!(u64).range(100..=3_600_000)
    )]
    pub settle_ms: u64,
    /// Count what would be sent, explain what would be rejected, and send nothing; no Kafka needed
    #[arg(long, requires = "input", conflicts_with = "follow")]
    pub dry_run: bool,
}

/// What to follow.
#[derive(Debug, Clone)]
pub struct Follow {
    /// Files, folders and globs.
    pub patterns: Vec<String>,
    /// A file that was left alone for so long has ended.
    pub settle: Duration,
    /// When to end.
    pub shutdown: Shutdown,
}

/// What tells that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    node: (u64, u64),
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            node: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }

    /// Whether what was read before may have changed, and not only grown.
    fn is_rewritten(&self, before: &Stamp) -> bool {
        self.node != before.node || self.size < before.size
    }
}

type FileLines = Lines<Box<dyn BufRead + Send>>;

struct Followed {
    stamp: Stamp,
    /// Since when it has been so.
    since: Instant,
    state: State,
    /// Where it was read to, by this run or an earlier one.
    end: Option<Progress>,
    /// Whether its beginning was told.
    told: bool,
}

enum State {
    /// To be opened.
    Waiting,
    /// Being read; it may grow.
    Open(Box<FileLines>),
    /// Read to its end.
    Closed,
    /// It cannot be read.
    SetAside,
}

impl Followed {
    fn new(stamp: Stamp, end: Option<Progress>) -> Followed {
        let age = stamp.modified.and_then(|at| at.elapsed().ok()).unwrap_or_default();
        let now = Instant::now();
        let since = now.checked_sub(age).unwrap_or(now);
        Followed { stamp, since, state: State::Waiting, end, told: false }
    }

    /// Looks at the file again.
    fn look(&mut self, stamp: Stamp) {
        if stamp == self.stamp {
            return;
        }
        match self.state {
            State::Open(_) if !stamp.is_rewritten(&self.stamp) => {}
            // Opened anew, what was read is verified.
            _ => self.state = State::Waiting,
        }
        (self.stamp, self.since) = (stamp, Instant::now());
    }
}

impl Reader {
    /// Follows until a stop is asked for.
    pub(super) fn follow(&mut self, mapping: &Mapping, follow: &Follow) -> Result<(), Stop> {
        let mut files: BTreeMap<String, Followed> = BTreeMap::new();
        let mut told = 0;
        while !follow.shutdown.is_asked() {
            let mut busy = false;
            for input in inputs::expand_present(&follow.patterns, mapping.format)? {
                busy |= self.follow_one(mapping, follow, &input, &mut files)?;
            }
            let aside = files.values().filter(|f| matches!(f.state, State::SetAside)).count();
            if aside != told {
                self.send(Message::SetAside(aside))?;
                told = aside;
            }
            if !busy {
                thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// Reads what is new in a file; whether anything was.
    fn follow_one(
        &mut self,
        mapping: &Mapping,
        follow: &Follow,
        input: &Input,
        files: &mut BTreeMap<String, Followed>,
    ) -> Result<bool, Stop> {
        let Some(path) = &input.path else {
            // Standard input ends once.
            if self.stdin_read {
                return Ok(false);
            }
            self.stdin_read = true;
            return self.read_file(mapping, input).map(|()| true);
        };
        // One that went away between listing and looking is looked for again.
        let Ok(metadata) = path.metadata() else { return Ok(false) };
        let stamp = Stamp::of(&metadata);
        let open = files.values().filter(|f| matches!(f.state, State::Open(_))).count();
        let file = files
            .entry(input.name.clone())
            .or_insert_with(|| Followed::new(stamp, self.standing.of(&input.name).cloned()));
        file.look(stamp);
        let settled = file.since.elapsed() >= follow.settle;
        let outcome = match &mut file.state {
            State::Closed | State::SetAside => return Ok(false),
            State::Waiting if stamp.size == 0 || open >= OPEN => return Ok(false),
            State::Waiting => self.begin(mapping, input, file, settled),
            State::Open(_) => self.go_on(file, settled),
        };
        match outcome {
            Err(Stop::Failed(error)) if !error.is::<Halt>() => {
                tracing::error!("{error:#}; set aside until the file changes, the others go on");
                if let State::Open(lines) = &file.state {
                    file.end = Some(lines.progress());
                }
                file.state = State::SetAside;
                Ok(true)
            }
            other => other,
        }
    }

    fn begin(
        &mut self,
        mapping: &Mapping,
        input: &Input,
        file: &mut Followed,
        settled: bool,
    ) -> Result<bool, Stop> {
        let Opened { reader, meter, gzip } = inputs::open(input)?;
        if gzip && !settled {
            return Ok(false);
        }
        let names = (self.source.as_str(), input.name.as_str());
        let mut lines = Lines::start(mapping, self.envelope.clone(), names, reader, meter, !gzip)?;
        if file.told {
            // Its position is known already, and may not be committed yet.
            if let Some(end) = &file.end {
                lines.skip_to(end)?;
            }
        } else {
            self.open(&mut lines, file.end.as_ref())?;
            file.told = true;
        }
        file.state = State::Open(Box::new(lines));
        self.go_on(file, settled)
    }

    /// Reads on; closes a file that has ended.
    fn go_on(&mut self, file: &mut Followed, settled: bool) -> Result<bool, Stop> {
        let State::Open(lines) = &mut file.state else { return Ok(false) };
        let (mut fresh, mut rest) = self.pump(lines.as_mut(), self.chunk_records)?;
        if fresh {
            self.send_chunk(&mut rest, lines.as_ref())?;
        }
        if settled {
            lines.finish();
            let (more, mut rest) = self.pump(lines.as_mut(), self.chunk_records)?;
            self.send_chunk(&mut rest, lines.as_ref())?;
            fresh |= more;
            file.end = Some(lines.progress());
            file.state = State::Closed;
        }
        Ok(fresh)
    }
}
