//! Cuts a stream of bytes into records with exact positions, whatever the size of a record.

use crate::mapping::file::{Csv, Format};
use csv_core::{ReadRecordResult as Step, Reader as CsvReader, ReaderBuilder};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, Chain, Cursor, Read as _};

/// Longest line that is kept whole, in bytes: the topic's limit of 1 MiB for one record, less 16 KiB
/// for key, headers and framing, even where nothing can be compressed.
pub const MAX_RECORD: usize = (1 << 20) - (16 << 10);

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One record of the input. Its buffers are used again for the next.
#[derive(Debug, Default)]
pub struct RawRecord {
    /// Its bytes without the line end, at most [`MAX_RECORD`] of them.
    pub raw: Vec<u8>,
    /// Size without the line end.
    pub size: u64,
    /// SHA-256 of the whole record, where it is larger than [`MAX_RECORD`].
    pub digest: Option<[u8; 32]>,
    /// Line at which it begins, from 1.
    pub line: u64,
    /// CSV: the values one after another.
    pub fields: Vec<u8>,
    /// CSV: where each value ends.
    pub ends: Vec<usize>,
}

/// A position between two records. Bytes are those of the decompressed data.
#[derive(Debug, Clone)]
pub struct Position {
    /// Bytes before it.
    pub byte: u64,
    /// Line ends before it.
    pub line: u64,
    hash: Sha256,
}

impl Position {
    /// SHA-256 of everything before it, in hex.
    #[must_use]
    pub fn prefix_sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        write!(out, "{byte:02x}").ok();
        out
    })
}

/// Reads records. Blank lines are passed over: a record has at least one byte.
#[derive(Debug)]
pub struct Records<R> {
    /// The first bytes again, after they were looked at, and the rest.
    input: Chain<Cursor<Vec<u8>>, R>,
    cutter: Cutter,
    /// After the last complete record.
    position: Position,
    /// After the last byte taken.
    running: Position,
    after_cr: bool,
    large: Option<Sha256>,
}

#[derive(Debug)]
enum Cutter {
    Csv(Box<CsvReader>),
    Lines,
}

impl<R: BufRead> Records<R> {
    /// Records of `input` from its first byte. A byte order mark counts as bytes, and belongs to
    /// no record.
    ///
    /// # Errors
    /// When the first bytes cannot be read.
    pub fn new(mut input: R, format: Format, csv: &Csv) -> io::Result<Records<R>> {
        let mut first = Vec::new();
        input.by_ref().take(BOM.len() as u64).read_to_end(&mut first)?;
        let mut start = Position { byte: 0, line: 0, hash: Sha256::new() };
        if first == BOM {
            start.hash.update(&first);
            start.byte = first.len() as u64;
            first.clear();
        }
        let cutter = match format {
            Format::Ndjson => Cutter::Lines,
            Format::Csv => Cutter::Csv(Box::new(
                ReaderBuilder::new()
                    .delimiter(ascii(csv.delimiter))
                    .quote(ascii(csv.quote))
                    .build(),
            )),
        };
        Ok(Records {
            input: Cursor::new(first).chain(input),
            cutter,
            position: start.clone(),
            running: start,
            after_cr: false,
            large: None,
        })
    }

    /// The position after the last complete record.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Reads the next record; false at the end.
    ///
    /// # Errors
    /// What the input says; [`Records::position`] is then still after the last complete record.
    pub fn read(&mut self, record: &mut RawRecord) -> io::Result<bool> {
        record.raw.clear();
        record.fields.clear();
        record.ends.clear();
        (record.size, record.digest, record.line) = (0, None, 0);
        self.large = None;
        let complete = match &self.cutter {
            Cutter::Csv(_) => self.read_csv(record)?,
            Cutter::Lines => self.read_line(record)?,
        };
        if !complete {
            return Ok(false);
        }
        self.position = self.running.clone();
        record.digest = self.large.take().map(|hash| hash.finalize().into());
        while record.digest.is_none() && record.raw.last().is_some_and(|b| is_line_end(*b)) {
            record.raw.pop();
            record.size -= 1;
        }
        Ok(true)
    }

    fn read_csv(&mut self, record: &mut RawRecord) -> io::Result<bool> {
        let (mut out, mut ends) = (0, 0);
        record.fields.resize(1024, 0);
        record.ends.resize(64, 0);
        loop {
            let buffer = self.input.fill_buf()?;
            let Cutter::Csv(core) = &mut self.cutter else { return Ok(false) };
            let (step, taken, written, ended) =
                core.read_record(buffer, &mut record.fields[out..], &mut record.ends[ends..]);
            take(buffer, taken, record, &mut self.running, &mut self.after_cr, &mut self.large);
            self.input.consume(taken);
            (out, ends) = (out + written, ends + ended);
            match step {
                Step::InputEmpty => {}
                // Of a record that is too large nobody asks for the values.
                Step::OutputFull | Step::OutputEndsFull if self.large.is_some() => {
                    (out, ends) = (0, 0);
                }
                Step::OutputFull => record.fields.resize(record.fields.len() * 2, 0),
                Step::OutputEndsFull => record.ends.resize(record.ends.len() * 2, 0),
                Step::Record => {
                    record.fields.truncate(out);
                    record.ends.truncate(ends);
                    return Ok(true);
                }
                Step::End => return Ok(false),
            }
        }
    }

    fn read_line(&mut self, record: &mut RawRecord) -> io::Result<bool> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(record.size > 0);
            }
            let end = buffer.iter().position(|b| *b == b'\n');
            let taken = end.map_or(buffer.len(), |at| at + 1);
            take(buffer, taken, record, &mut self.running, &mut self.after_cr, &mut self.large);
            self.input.consume(taken);
            if end.is_some() && record.size > 0 {
                return Ok(true);
            }
        }
    }
}

fn ascii(c: char) -> u8 {
    // The mapping was checked: one ASCII character.
    u8::try_from(c).unwrap_or(b',')
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Accounts for the first `taken` bytes of `buffer`. Line ends before the record's first byte
/// belong to blank lines, not to it.
fn take(
    buffer: &[u8],
    taken: usize,
    record: &mut RawRecord,
    running: &mut Position,
    after_cr: &mut bool,
    large: &mut Option<Sha256>,
) {
    let bytes = &buffer[..taken];
    running.hash.update(bytes);
    running.byte += taken as u64;
    let mut own = bytes;
    if record.size == 0 {
        let blank = own.iter().take_while(|b| is_line_end(**b)).count();
        running.line += line_ends(&own[..blank], after_cr);
        own = &own[blank..];
        record.line = running.line + 1;
    }
    running.line += line_ends(own, after_cr);
    record.size += own.len() as u64;
    let room = MAX_RECORD - record.raw.len();
    if own.len() <= room && large.is_none() {
        record.raw.extend_from_slice(own);
        return;
    }
    let hash = large.get_or_insert_with(|| {
        let mut hash = Sha256::new();
        hash.update(&record.raw);
        hash
    });
    hash.update(own);
    record.raw.extend_from_slice(&own[..room.min(own.len())]);
}

/// LF, CR and CRLF each end one line; `after_cr` carries over a CRLF that is cut in two.
fn line_ends(bytes: &[u8], after_cr: &mut bool) -> u64 {
    let mut count = 0;
    for byte in bytes {
        count += u64::from(*byte == b'\r' || (*byte == b'\n' && !*after_cr));
        *after_cr = *byte == b'\r';
    }
    count
}
