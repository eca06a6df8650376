//! The reader: a thread that turns inputs into chunks of records, ahead of the commits.
//!
//! Waiting for input happens here and nowhere else, so that no txn is ever open meanwhile.

pub mod follow;

use crate::generate::Recipe;
use crate::mapping::Mapping;
use crate::progress::{Progress, Standing};
use crate::source::Source;
use crate::source::envelope::Envelope;
use crate::source::generated::GeneratedSource;
use crate::source::inputs::{self, Input, Opened};
use crate::source::lines::Lines;
use crate::source::own::{OwnRecord, OwnSource};
use anyhow::{Context as _, Result};
use caudal_core::outbox::OutRecord;
use follow::Follow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Most records and bytes of a chunk, and most chunks that wait to be committed: while one batch is
/// on its way, the next one is read.
const CHUNK_RECORDS: usize = 1_000;
const CHUNK_BYTES: usize = 1 << 20;
const CHUNKS: usize = 32;
/// A paced reader wakes up at most this often.
const PACE_STEP: Duration = Duration::from_millis(2);

/// What to read.
pub enum Origin {
    /// Files and standard input, in this order.
    Files {
        /// How their columns become transactions.
        mapping: Box<Mapping>,
        /// Which.
        inputs: Vec<Input>,
    },
    /// Files that are there, that come, and that grow, until a stop is asked for.
    Followed {
        /// How their columns become transactions.
        mapping: Box<Mapping>,
        /// Which.
        follow: Follow,
    },
    /// The generator.
    Generator(Recipe),
    /// A source of somebody else's.
    Own(Box<dyn Iterator<Item = Result<OwnRecord>> + Send>),
}

/// What the reader tells.
#[derive(Debug)]
pub enum Message {
    /// An input was opened, and what was sent before is verified.
    Opened {
        /// Where it goes on from.
        from: Box<Progress>,
        /// The part of it that lies before, 0 to 1, where its size is known.
        fraction: Option<f64>,
    },
    /// Records in order, and the position after them.
    Chunk(Box<Chunk>),
    /// So many files cannot be read, and are set aside until they change.
    SetAside(usize),
    /// Every input was read to its end; nothing more comes.
    Ended,
}

/// Records in order, and the position after them.
#[derive(Debug)]
pub struct Chunk {
    /// The records; none at an end that follows nothing new.
    pub records: Vec<OutRecord>,
    /// The position after them.
    pub progress: Progress,
    /// Bytes of keys, values and headers.
    pub bytes: usize,
    /// The part of the input that was read by then, 0 to 1, where its size is known.
    pub fraction: Option<f64>,
    /// How long the reader has waited for commits, since the start.
    pub waited: Duration,
}

/// Bounds of reading.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most records of a batch: a chunk has no more.
    pub records: usize,
    /// Records per second; 0 is as fast as possible.
    pub rate: u64,
}

/// Starts the reader. After an error nothing more comes; the chunks before it are good.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    origin: Origin,
    envelope: Envelope,
    source: String,
    standing: Standing,
    limits: Limits,
) -> Result<Receiver<Result<Message>>> {
    let (sender, receiver) = sync_channel(CHUNKS);
    let reader = Reader {
        sender,
        envelope,
        source,
        standing,
        chunk_records: limits.records.min(CHUNK_RECORDS),
        pace: Pace::new(limits.rate),
        waited: Duration::ZERO,
        stdin_read: false,
    };
    thread::Builder::new()
        .name("reader".into())
        .spawn(move || reader.run(origin))
        .context("cannot start the reader's thread")?;
    Ok(receiver)
}

/// Why the reader ends before its inputs do.
enum Stop {
    Failed(anyhow::Error),
    /// The receiver has gone: the process is stopping.
    Gone,
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Failed(error)
    }
}

struct Reader {
    sender: SyncSender<Result<Message>>,
    envelope: Envelope,
    source: String,
    standing: Standing,
    chunk_records: usize,
    pace: Pace,
    waited: Duration,
    stdin_read: bool,
}

impl Reader {
    fn run(mut self, origin: Origin) {
        let result = match origin {
            Origin::Files { mapping, inputs } => {
                inputs.iter().try_for_each(|input| self.read_file(&mapping, input))
            }
            Origin::Followed { mapping, follow } => self.follow(&mapping, &follow),
            Origin::Generator(recipe) => {
                let source = GeneratedSource::start(recipe, self.envelope.clone(), &self.source);
                self.read(source, self.chunk_records)
            }
            Origin::Own(records) => {
                let source = OwnSource::start(records, self.envelope.clone(), &self.source);
                self.read(source, self.chunk_records)
            }
        };
        let last = match result {
            Ok(()) => Some(Ok(Message::Ended)),
            Err(Stop::Failed(error)) => Some(Err(error)),
            Err(Stop::Gone) => None,
        };
        if let Some(last) = last {
            // Where the receiver has gone too, nobody needs to know.
            self.sender.send(last).ok();
        }
    }

    fn read_file(&mut self, mapping: &Mapping, input: &Input) -> Result<(), Stop> {
        let Opened { reader, meter, .. } = inputs::open(input)?;
        // A pipe may pause at any line: what was read before must not wait for the next.
        let chunk_records = if meter.size.is_some() { self.chunk_records } else { 1 };
        let names = (self.source.as_str(), input.name.as_str());
        let lines = Lines::start(mapping, self.envelope.clone(), names, reader, meter, false)?;
        self.read(lines, chunk_records)
    }

    fn read(&mut self, mut source: impl Source, chunk_records: usize) -> Result<(), Stop> {
        let committed = self.standing.of(&source.progress().file).cloned();
        self.open(&mut source, committed.as_ref())?;
        let (fresh, mut rest) = self.pump(&mut source, chunk_records)?;
        if !fresh && committed.is_some_and(|c| c.done) {
            tracing::info!("{}: already done, nothing new in it", source.progress().file);
            return Ok(());
        }
        self.send_chunk(&mut rest, &source)
    }

    /// Goes to where the source stands, and says so.
    fn open(&mut self, source: &mut impl Source, committed: Option<&Progress>) -> Result<(), Stop> {
        if let Some(committed) = committed {
            tracing::info!(
                "{}: {} lines were sent before; verifying that they are the same",
                committed.file,
                committed.lines
            );
            source.skip_to(committed)?;
        }
        // As it was committed, so that a txn in doubt can be compared with it.
        let from = Box::new(committed.cloned().unwrap_or_else(|| source.progress()));
        self.send(Message::Opened { from, fraction: source.meter().fraction() })
    }

    /// Sends what comes until nothing does; whether anything came, and what is left to be sent.
    fn pump(
        &mut self,
        source: &mut impl Source,
        chunk_records: usize,
    ) -> Result<(bool, Gathering), Stop> {
        let mut chunk = Gathering::default();
        let mut fresh = false;
        loop {
            match source.next_record() {
                Ok(Some(record)) => {
                    fresh = true;
                    chunk.push(record);
                    let pause = self.pace.pause();
                    if chunk.is_full(chunk_records) || pause.is_some() {
                        self.send_chunk(&mut chunk, source)?;
                    }
                    if let Some(pause) = pause {
                        thread::sleep(pause);
                    }
                }
                Ok(None) => return Ok((fresh, chunk)),
                Err(error) => {
                    self.send_chunk(&mut chunk, source)?;
                    return Err(Stop::Failed(error));
                }
            }
        }
    }

    fn send_chunk(&mut self, chunk: &mut Gathering, source: &impl Source) -> Result<(), Stop> {
        let message = chunk.finish(source, self.waited);
        self.send(message)
    }

    fn send(&mut self, message: Message) -> Result<(), Stop> {
        let begun = Instant::now();
        let sent = self.sender.send(Ok(message)).map_err(|_| Stop::Gone);
        self.waited += begun.elapsed();
        sent
    }
}

#[derive(Default)]
struct Gathering {
    records: Vec<OutRecord>,
    bytes: usize,
}

impl Gathering {
    fn push(&mut self, record: OutRecord) {
        self.bytes += record.size();
        self.records.push(record);
    }

    fn is_full(&self, records: usize) -> bool {
        self.records.len() >= records || self.bytes >= CHUNK_BYTES
    }

    fn finish(&mut self, source: &impl Source, waited: Duration) -> Message {
        let records = std::mem::take(&mut self.records);
        let (progress, fraction) = (source.progress(), source.meter().fraction());
        Message::Chunk(Box::new(Chunk {
            records,
            progress,
            bytes: std::mem::take(&mut self.bytes),
            fraction,
            waited,
        }))
    }
}

/// An open loop: record n is due n/rate seconds after the start, whatever happened before.
struct Pace {
    rate: u64,
    started: Option<Instant>,
    count: u64,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        Pace { rate, started: None, count: 0 }
    }

    /// How long to wait before the next record is due; `None` when it is due already.
    fn pause(&mut self) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        self.count += 1;
        let elapsed = self.started.get_or_insert_with(Instant::now).elapsed();
        let nanos = u128::from(self.count) * 1_000_000_000 / u128::from(self.rate);
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let ahead = due.saturating_sub(elapsed);
        // Rather a burst that is late by a step than a wake-up per record.
        (!ahead.is_zero()).then(|| ahead.max(PACE_STEP))
    }
}
