//! Cuts a stream of bytes into records with exact positions, whatever the size of a record.

use crate::cards::{WholeDigest, WholeHash};
use crate::mapping::encoding;
use crate::mapping::file::{Csv, Format};
use crate::mapping::written::Delimiter;
use caudal_core::reject::Rejection;
use csv_core::{ReadRecordResult as Step, Reader as CsvReader, ReaderBuilder};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead};

/// Longest line that is kept whole, in bytes: the topic's limit of 1 MiB for one record, less 16 KiB
/// for key, headers and framing, even where nothing can be compressed.
pub const MAX_RECORD: usize = (1 << 20) - (16 << 10);

const BOM: &[u8] = b"\xef\xbb\xbf";
/// Of lines to pass over, and of a first line, no more than this is looked at.
const MAX_HEAD: usize = 1 << 20;

/// One record of the input. Its buffers are used again for the next.
#[derive(Debug, Default)]
pub struct RawRecord {
    /// Its bytes without the line end, at most [`MAX_RECORD`] of them.
    pub raw: Vec<u8>,
    /// Size without the line end.
    pub size: u64,
    /// Hashes of the whole record, where it is larger than [`MAX_RECORD`].
    pub digest: Option<WholeDigest>,
    /// Line at which it begins, from 1.
    pub line: u64,
    /// CSV, and JSON that is read by paths: the values one after another.
    pub fields: Vec<u8>,
    /// CSV, and JSON that is read by paths: where each value ends.
    pub ends: Vec<usize>,
    /// JSON that is read by paths: why there are no values.
    pub fault: Option<Rejection>,
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
    input: Input<R>,
    format: Format,
    csv: Csv,
    /// `None` until the first bytes are there.
    cutter: Option<Cutter>,
    /// After the last complete record.
    position: Position,
    /// After the last byte taken.
    running: Position,
    after_cr: bool,
    /// Hashes of no bytes yet, for each record that is too large.
    whole: WholeHash,
    large: Option<WholeHash>,
    /// Whether more may come after the end.
    growing: bool,
    /// A record that the end has cut in two: how much of its values is there.
    pending: Option<(usize, usize)>,
    /// Whether the last record ended because the input did, and not with its line.
    cut_short: bool,
}

#[derive(Debug)]
enum Cutter {
    Csv(Box<CsvReader>),
    Lines,
}

impl<R: BufRead> Records<R> {
    /// Records of `input` from its first byte. A byte order mark, and lines that the mapping passes
    /// over, count as bytes and belong to no record. `whole` hashes records that are too large.
    #[must_use]
    pub fn new(input: R, format: Format, csv: &Csv, whole: WholeHash) -> Records<R> {
        let start = Position { byte: 0, line: 0, hash: Sha256::new() };
        Records {
            input: Input { head: Vec::new(), at: 0, rest: input, limit: None },
            format,
            csv: csv.clone(),
            cutter: None,
            position: start.clone(),
            running: start,
            after_cr: false,
            whole,
            large: None,
            growing: false,
            pending: None,
            cut_short: false,
        }
    }

    /// Says whether the input grows: a record without a line end is then kept until its rest comes.
    pub fn set_growing(&mut self, growing: bool) {
        self.growing = growing;
    }

    /// Takes the input to end at that byte, as an earlier run saw it; `None` takes the rest of it.
    pub fn set_limit(&mut self, byte: Option<u64>) {
        self.input.limit = byte.map(|byte| byte.saturating_sub(self.running.byte));
    }

    /// Whether what was taken ends with the line of a record, or with blank lines after it. `record`
    /// is that of the last [`Records::read`], which has found no more.
    #[must_use]
    pub fn is_between_records(&self, record: &RawRecord) -> bool {
        self.cutter.is_some() && record.size == 0 && !self.cut_short
    }

    /// The position after the last complete record.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Reads the next record; false at the end. Where the input grows, the same record must be
    /// given again after the end.
    ///
    /// # Errors
    /// What the input says; [`Records::position`] is then still after the last complete record.
    /// `Unsupported` when it is UTF-16; `InvalidData` when it goes on within a line that was taken to be whole.
    pub fn read(&mut self, record: &mut RawRecord) -> io::Result<bool> {
        if self.cutter.is_none() && !self.start()? {
            return Ok(false);
        }
        let (mut out, mut ends) = (0, 0);
        match self.pending.take() {
            Some(kept) => (out, ends) = kept,
            None => {
                record.raw.clear();
                (record.size, record.digest, record.line, record.fault) = (0, None, 0, None);
                self.large = None;
                record.fields.clear();
                record.ends.clear();
                if self.format == Format::Csv {
                    record.fields.resize(1024, 0);
                    record.ends.resize(64, 0);
                }
            }
        }
        let complete = match self.format {
            Format::Csv => self.read_csv(record, &mut out, &mut ends)?,
            Format::Ndjson => self.read_line(record)?,
        };
        if !complete {
            self.pending = self.growing.then_some((out, ends));
            return Ok(false);
        }
        record.fields.truncate(out);
        record.ends.truncate(ends);
        encoding::to_utf8(self.csv.encoding, &mut record.fields, &mut record.ends);
        self.position = self.running.clone();
        record.digest = self.large.take().map(WholeHash::finish);
        while record.digest.is_none() && record.raw.last().is_some_and(|b| is_line_end(*b)) {
            record.raw.pop();
            record.size -= 1;
        }
        Ok(true)
    }

    /// Passes over what comes before the first record, and finds the delimiter; false where it has
    /// not come yet.
    fn start(&mut self) -> io::Result<bool> {
        let csv = matches!(self.format, Format::Csv);
        let skipped = if csv { self.csv.skip_lines as usize } else { 0 };
        let sniffed = csv && self.csv.delimiter == Delimiter::Auto;
        if !self.input.look(BOM.len(), skipped + usize::from(sniffed))? && self.growing {
            return Ok(false);
        }
        let head = &self.input.head;
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            let message = "it is UTF-16; bring it to UTF-8 first (iconv -f UTF-16 -t UTF-8)";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let bom = if head.starts_with(BOM) { BOM.len() } else { 0 };
        let start = bom + lines_end(&head[bom..], skipped).unwrap_or(head.len() - bom);
        self.running.hash.update(&head[..start]);
        self.running.byte = start as u64;
        self.running.line = line_ends(&head[bom..start], &mut self.after_cr);
        let line = &head[start..];
        let line = &line[..lines_end(line, 1).unwrap_or(line.len())];
        self.cutter = Some(cutter(self.format, &self.csv, line));
        self.input.consume(start);
        self.position = self.running.clone();
        Ok(true)
    }

    fn read_csv(
        &mut self,
        record: &mut RawRecord,
        out: &mut usize,
        ends: &mut usize,
    ) -> io::Result<bool> {
        loop {
            let may_grow = self.growing && self.input.limit != Some(0);
            let buffer = self.input.fill_buf()?;
            let Some(Cutter::Csv(core)) = &mut self.cutter else { return Ok(false) };
            if buffer.is_empty() && may_grow {
                return Ok(false);
            }
            let ended = buffer.is_empty();
            check_line_goes_on(&mut self.cut_short, buffer)?;
            let (step, taken, written, more_ends) =
                core.read_record(buffer, &mut record.fields[*out..], &mut record.ends[*ends..]);
            let large = (&mut self.large, &self.whole);
            take(buffer, taken, record, &mut self.running, &mut self.after_cr, large);
            self.input.consume(taken);
            (*out, *ends) = (*out + written, *ends + more_ends);
            match step {
                Step::InputEmpty => {}
                // Of a record that is too large nobody asks for the values.
                Step::OutputFull | Step::OutputEndsFull if self.large.is_some() => {
                    (*out, *ends) = (0, 0);
                }
                Step::OutputFull => record.fields.resize(record.fields.len() * 2, 0),
                Step::OutputEndsFull => record.ends.resize(record.ends.len() * 2, 0),
                Step::Record => {
                    self.cut_short = ended;
                    return Ok(true);
                }
                Step::End => return Ok(false),
            }
        }
    }

    fn read_line(&mut self, record: &mut RawRecord) -> io::Result<bool> {
        loop {
            let may_grow = self.growing && self.input.limit != Some(0);
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                if may_grow {
                    return Ok(false);
                }
                self.cut_short = record.size > 0;
                return Ok(record.size > 0);
            }
            check_line_goes_on(&mut self.cut_short, buffer)?;
            let end = buffer.iter().position(|b| *b == b'\n');
            let taken = end.map_or(buffer.len(), |at| at + 1);
            let large = (&mut self.large, &self.whole);
            take(buffer, taken, record, &mut self.running, &mut self.after_cr, large);
            self.input.consume(taken);
            if end.is_some() && record.size > 0 {
                return Ok(true);
            }
        }
    }
}

/// Refuses what comes after a line that was taken to be whole, unless a line end does.
fn check_line_goes_on(cut_short: &mut bool, buffer: &[u8]) -> io::Result<()> {
    let Some(first) = buffer.first() else { return Ok(()) };
    if std::mem::take(cut_short) && !is_line_end(*first) {
        let message = "its last line had no line end when it was sent, and goes on now";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(())
}

/// An input whose first bytes can be looked at before they are taken, and that can end early.
#[derive(Debug)]
struct Input<R> {
    /// Bytes that were looked at, and how many of them were taken.
    head: Vec<u8>,
    at: usize,
    rest: R,
    /// How many more may be taken.
    limit: Option<u64>,
}

impl<R: BufRead> Input<R> {
    /// Looks at the first `bytes` and `lines`; whether all of them are there.
    fn look(&mut self, bytes: usize, lines: usize) -> io::Result<bool> {
        loop {
            let enough =
                lines_end(&self.head, lines).is_some_and(|end| end.max(bytes) <= self.head.len());
            if enough || self.head.len() > MAX_HEAD {
                return Ok(true);
            }
            let buffer = self.rest.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            let taken = buffer.len();
            self.head.extend_from_slice(buffer);
            self.rest.consume(taken);
        }
    }

    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = match self.head.get(self.at..).filter(|left| !left.is_empty()) {
            Some(left) => left,
            None => self.rest.fill_buf()?,
        };
        let most = self.limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(&buffer[..buffer.len().min(most)])
    }

    fn consume(&mut self, taken: usize) {
        if let Some(limit) = &mut self.limit {
            *limit = limit.saturating_sub(taken as u64);
        }
        if self.at < self.head.len() {
            self.at += taken;
            if self.at == self.head.len() {
                // Its memory is not needed any more.
                (self.head, self.at) = (Vec::new(), 0);
            }
            return;
        }
        self.rest.consume(taken);
    }
}

/// Where the first `lines` lines end, line ends included; `None` where there are fewer. A CR that
/// nothing follows yet may be half a line end.
fn lines_end(bytes: &[u8], lines: usize) -> Option<usize> {
    let mut at = 0;
    for _ in 0..lines {
        at += bytes[at..].iter().position(|b| is_line_end(*b))? + 1;
        if bytes[at - 1] == b'\r' && *bytes.get(at)? == b'\n' {
            at += 1;
        }
    }
    Some(at)
}

fn cutter(format: Format, csv: &Csv, line: &[u8]) -> Cutter {
    if format == Format::Ndjson {
        return Cutter::Lines;
    }
    // The mapping was checked: one ASCII character.
    let quote = u8::try_from(csv.quote).unwrap_or(b'"');
    let core = ReaderBuilder::new()
        .delimiter(csv.delimiter.of(line, quote))
        .quote(quote)
        .quoting(csv.quoting)
        .build();
    Cutter::Csv(Box::new(core))
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
    (large, whole): (&mut Option<WholeHash>, &WholeHash),
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
        let mut hash = whole.clone();
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
