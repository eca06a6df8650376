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
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::BufRead;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How often folders and files are looked at.
const POLL: Duration = Duration::from_millis(250);
/// Most files that are open at once, because they may grow. Of more, those that rested longest are
/// closed: where such a file grows, it is opened anew and read from its beginning, to verify it.
const OPEN: usize = 64;
/// So many bytes before the end are compared when a file has grown.
const TAIL: u64 = 4096;

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
    /// Its last bytes then, while it is open.
    tail: Vec<u8>,
    state: State,
    /// Where it was read to, by this run or an earlier one, while it is not open.
    end: Option<Progress>,
    /// Whether its beginning was told.
    told: bool,
    /// Whether nothing is under its name any more. What is open can be read on all the same.
    gone: bool,
}

enum State {
    /// To be opened.
    Waiting,
    /// Being read; it may grow.
    Open(Box<FileLines>),
    /// Read to its end, which is the end of a line: it goes on there when it grows.
    Rested(Box<FileLines>),
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
        let (state, tail) = (State::Waiting, Vec::new());
        Followed { stamp, since, tail, state, end, told: false, gone: false }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_) | State::Rested(_))
    }

    /// Looks at the file again.
    fn look(&mut self, path: &Path, stamp: Stamp) {
        if stamp == self.stamp && !self.gone {
            return;
        }
        if self.has_only_grown(path, &stamp) {
            self.wake();
            self.tail = tail(path, stamp.size);
        } else {
            // Opened anew, what was read is verified.
            self.leave(State::Waiting);
        }
        (self.stamp, self.since, self.gone) = (stamp, Instant::now(), false);
    }

    /// Whether it can be read on where it stands. That its beginning is the same is proven when it
    /// is opened; to read all of it whenever it grows would cost too much, so here its last bytes
    /// tell whether somebody has written it anew in its place.
    fn has_only_grown(&self, path: &Path, stamp: &Stamp) -> bool {
        let goes_on = match &self.state {
            // What has no more to come, as gzip, has ended before it grew.
            State::Open(lines) => lines.grows(),
            State::Rested(_) => stamp.size != self.stamp.size,
            _ => false,
        };
        goes_on && !stamp.is_rewritten(&self.stamp) && tail(path, self.stamp.size) == self.tail
    }

    /// Nothing is under its name any more.
    fn miss(&mut self) {
        if !self.gone {
            (self.gone, self.since) = (true, Instant::now());
            self.wake();
        }
    }

    /// Reads on where it rests.
    fn wake(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Rested(lines) => State::Open(lines),
            other => other,
        };
    }

    /// Lets it rest where it stands.
    fn pause(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Waiting) {
            State::Open(lines) => State::Rested(lines),
            other => other,
        };
    }

    /// Closes it, and keeps where it was read to.
    fn leave(&mut self, next: State) {
        if let State::Open(lines) | State::Rested(lines) = &self.state {
            self.end = Some(lines.progress());
        }
        (self.state, self.tail) = (next, Vec::new());
    }
}

/// The last bytes of what a file was when it had that size; none where it cannot be read.
fn tail(path: &Path, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size.min(TAIL)).unwrap_or_default()];
    let read = File::open(path)
        .and_then(|file| file.read_exact_at(&mut bytes, size.saturating_sub(TAIL)).map(|()| bytes));
    read.unwrap_or_default()
}

#[derive(Default)]
struct Files(BTreeMap<String, Followed>);

impl Files {
    /// Whether one more may be opened; closes the one that has rested longest, where need be.
    fn has_room(&mut self) -> bool {
        if self.0.values().filter(|file| file.is_open()).count() < OPEN {
            return true;
        }
        let rested = self.0.values_mut().filter(|file| matches!(file.state, State::Rested(_)));
        let longest = rested.min_by_key(|file| file.since);
        longest.map(|file| file.leave(State::Closed)).is_some()
    }
}

impl Reader {
    /// Follows until a stop is asked for.
    pub(super) fn follow(&mut self, mapping: &Mapping, follow: &Follow) -> Result<(), Stop> {
        let mut files = Files::default();
        let mut told = 0;
        for pattern in follow.patterns.iter().filter(|pattern| inputs::is_absent(pattern)) {
            tracing::warn!("input {pattern}: no such file or folder yet; waiting for it");
        }
        while !follow.shutdown.is_asked() {
            let (mut busy, mut full) = (false, false);
            let inputs = inputs::expand_present(&follow.patterns, mapping.format)?;
            for input in &inputs {
                busy |= self.follow_one(mapping, follow, input, &mut files, &mut full)?;
            }
            let there: BTreeSet<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            for (name, file) in files.0.iter_mut().filter(|(name, _)| !there.contains(&***name)) {
                busy |= self.follow_gone(name, file, follow.settle)?;
            }
            let aside = files.0.values().filter(|f| matches!(f.state, State::SetAside)).count();
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
        files: &mut Files,
        full: &mut bool,
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
        let new = || Followed::new(stamp, self.standing.of(&input.name).cloned());
        let file = files.0.entry(input.name.clone()).or_insert_with(new);
        file.look(path, stamp);
        let settled = file.since.elapsed() >= follow.settle;
        let outcome = match &file.state {
            State::Rested(_) | State::Closed | State::SetAside => return Ok(false),
            State::Open(_) => self.go_on(file, settled),
            State::Waiting if stamp.size == 0 || *full => return Ok(false),
            State::Waiting => {
                *full = !files.has_room();
                match files.0.get_mut(&input.name).filter(|_| !*full) {
                    Some(file) => self.begin(mapping, input, file, settled),
                    None => return Ok(false),
                }
            }
        };
        match outcome {
            Err(Stop::Failed(error)) if !error.is::<Halt>() => {
                tracing::error!("{error:#}; set aside until the file changes, the others go on");
                if let Some(file) = files.0.get_mut(&input.name) {
                    file.leave(State::SetAside);
                }
                Ok(true)
            }
            other => other,
        }
    }

    /// Reads what is left of a file that went away or has another name now, until nothing has come
    /// for a while.
    fn follow_gone(
        &mut self,
        name: &str,
        file: &mut Followed,
        settle: Duration,
    ) -> Result<bool, Stop> {
        file.miss();
        if !matches!(file.state, State::Open(_)) {
            // It may come back, and what was sent of it is not sent again.
            file.leave(State::Closed);
            return Ok(false);
        }
        match self.go_on(file, file.since.elapsed() >= settle) {
            Err(Stop::Failed(error)) if !error.is::<Halt>() => {
                tracing::error!("{name} went away before all of it was read: {error:#}");
                file.leave(State::Closed);
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
        file.tail = input.path.as_deref().map_or_else(Vec::new, |path| tail(path, file.stamp.size));
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

    /// Reads on; rests at the end of a file that has ended, or closes it.
    fn go_on(&mut self, file: &mut Followed, settled: bool) -> Result<bool, Stop> {
        let State::Open(lines) = &mut file.state else { return Ok(false) };
        let before = lines.meter().bytes();
        let (mut fresh, mut rest) = self.pump(lines.as_mut(), self.chunk_records)?;
        if fresh {
            self.send_chunk(&mut rest, lines.as_ref())?;
        }
        let read = lines.meter().bytes();
        // Reading takes its time. What came after the look, or comes to a file without a name, has
        // not been left alone: its last line may be half of one.
        let is_all = read == if file.gone { before } else { file.stamp.size };
        if file.gone && !is_all {
            file.since = Instant::now();
        }
        if !settled || !is_all {
            return Ok(fresh);
        }
        let rests = lines.rest() && !file.gone;
        if !rests {
            lines.finish();
            let (more, left) = self.pump(lines.as_mut(), self.chunk_records)?;
            (fresh, rest) = (fresh | more, left);
        }
        self.send_chunk(&mut rest, lines.as_ref())?;
        if rests {
            file.pause();
        } else {
            file.leave(State::Closed);
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests;
