//! One file or stream as records for Kafka, from any committed position on.

use super::Source;
use super::envelope::{Envelope, clear_message};
use super::inputs::Meter;
use super::records::{MAX_RECORD, Position, RawRecord, Records};
use crate::mapping::columns::{ColumnMapper, LineAt, Mapped};
use crate::mapping::file::Format;
use crate::mapping::objects::Paths;
use crate::mapping::row::{Header, Row};
use crate::mapping::{Mapping, Shape};
use crate::progress::{Progress, Tally};
use anyhow::{Context as _, Result, anyhow};
use caudal_core::json;
use caudal_core::mask::mask_card_numbers;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::OutRecord;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::{MAX_NAME, validate};
use caudal_service::exit::{Halt, Usage};
use std::io::{self, BufRead};

/// So many unmappable lines of an input are logged, as examples; all of them are counted.
const EXAMPLES: u64 = 5;

/// A file or stream that is read line by line.
pub struct Lines<R> {
    shape: Shape,
    envelope: Envelope,
    /// Source name, for progress; it may differ from the mapping's.
    source: String,
    file: String,
    /// `<source>/<file>`: the `source` of its transactions.
    coordinates: String,
    records: Records<R>,
    binding: Binding,
    raw: RawRecord,
    tally: Tally,
    growing: bool,
    done: bool,
    meter: Meter,
}

/// How a record becomes a transaction.
enum Binding {
    /// The header has not been read yet.
    Waits,
    /// By its columns; the paths are those of a JSON object.
    Columns(Box<ColumnMapper>, Option<Paths>),
    /// A JSON object named as a Transaction.
    Plain,
}

/// A record of the input, and what became of it.
#[derive(Debug)]
pub struct Outcome<'r> {
    /// The record.
    pub raw: &'r RawRecord,
    /// The file's name.
    pub file: &'r str,
    /// The transaction, or why there is none.
    pub result: Result<Transaction<'r>, Rejection>,
}

impl Outcome<'_> {
    /// `<file>:<line>`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.raw.line)
    }
}

impl<R: BufRead> Lines<R> {
    /// Starts at the first byte: reads the header, where there is one, and finds the columns. Of
    /// an input that grows, the header may come later, and a record without a line end is kept
    /// until its rest comes or [`Lines::finish`] says that there is none.
    ///
    /// # Errors
    /// [`Usage`] when the header lacks a column that the mapping names.
    pub fn start(
        mapping: &Mapping,
        envelope: Envelope,
        (source, file): (&str, &str),
        input: R,
        meter: Meter,
        growing: bool,
    ) -> Result<Lines<R>> {
        let coordinates = format!("{source}/{file}");
        if coordinates.chars().count() > MAX_NAME {
            let message =
                format!("input {file}: {coordinates:?} has more than {MAX_NAME} characters");
            return Err(
                Usage(format!("{message}; rename the file, or take a shorter --source")).into()
            );
        }
        let shape = mapping.shape_of(file).clone();
        let whole = envelope.cards.whole();
        let mut records = Records::new(input, shape.format, &shape.csv, whole);
        records.set_growing(growing);
        let mut lines = Lines {
            shape,
            envelope,
            source: source.to_owned(),
            file: file.to_owned(),
            coordinates,
            records,
            binding: Binding::Waits,
            raw: RawRecord::default(),
            tally: Tally::default(),
            growing,
            done: false,
            meter,
        };
        lines.bind().with_context(|| format!("input {file}"))?;
        Ok(lines)
    }

    /// Columns that no field takes.
    #[must_use]
    pub fn dropped(&self) -> &[String] {
        match &self.binding {
            Binding::Columns(mapper, _) => mapper.dropped(),
            _ => &[],
        }
    }

    /// Whether more may come after its end.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.growing
    }

    /// Says that the input has ended for now; false where it may not: it ends within a record, or
    /// does not grow. To be asked when [`Lines::next_line`] has given nothing more.
    pub fn rest(&mut self) -> bool {
        self.done = self.growing && self.records.is_between_records(&self.raw);
        self.done
    }

    /// The input has ended: what is left of it is whole.
    pub fn finish(&mut self) {
        self.growing = false;
        self.records.set_growing(false);
    }

    /// Finds the columns, where that is not done; false where the header has not come yet.
    fn bind(&mut self) -> Result<bool> {
        if !matches!(self.binding, Binding::Waits) {
            return Ok(true);
        }
        let Some(fields) = &self.shape.fields else {
            self.binding = Binding::Plain;
            return Ok(true);
        };
        let csv = &self.shape.csv;
        let (header, paths) = if self.shape.format == Format::Ndjson {
            let paths = Paths::new(fields.named(), fields.aliases());
            (Header::new(paths.names()), Some(paths))
        } else if csv.header {
            if !self.records.read(&mut self.raw).map_err(|e| self.unreadable(&e))? {
                // An empty file has no lines: nothing to map.
                self.done = !self.growing;
                return Ok(false);
            }
            let row = Row::new(&self.raw.fields, &self.raw.ends, true, &[])
                .filter(|_| self.raw.digest.is_none())
                .ok_or_else(|| {
                    Usage("the header is not UTF-8 (csv.encoding?), or larger than 1 MiB".into())
                })?;
            (Header::new(row.texts()), None)
        } else {
            (Header::new(csv.columns.iter().map(String::as_str)), None)
        };
        let mapper = ColumnMapper::bind(fields, &header, csv.ragged)?;
        if !mapper.dropped().is_empty() {
            let names = mapper.dropped().join(", ");
            tracing::info!(
                "{}: columns that no field takes: {}",
                self.file,
                mask_card_numbers(&names)
            );
        }
        self.binding = Binding::Columns(Box::new(mapper), paths);
        Ok(true)
    }

    fn unreadable(&self, error: &io::Error) -> anyhow::Error {
        if error.kind() == io::ErrorKind::InvalidData {
            let message = format!(
                "input {}: {error}. Put the old file back, or send this one as new data: under \
                 another --source, with ids that differ from the old ones",
                self.file
            );
            return Halt(message).into();
        }
        if error.kind() == io::ErrorKind::Unsupported {
            return Usage(format!("input {}: {error}", self.file)).into();
        }
        let at = self.records.position();
        anyhow!(
            "input {}: {error} (after {} complete lines, {} bytes decompressed); everything before \
             is sent. Repair or fetch the file again and start once more: it goes on there",
            self.file,
            at.line,
            at.byte
        )
    }

    fn read(&mut self) -> Result<bool> {
        if (self.done && !self.growing) || !self.bind()? {
            return Ok(false);
        }
        let more = self.records.read(&mut self.raw).map_err(|e| self.unreadable(&e))?;
        self.done = !more && !self.growing;
        if more
            && self.raw.digest.is_none()
            && let Binding::Columns(_, Some(paths)) = &self.binding
        {
            // Of a line that is no object there are no values; whoever maps it says so.
            let RawRecord { raw, fields, ends, .. } = &mut self.raw;
            self.raw.fault = paths.read(raw, fields, ends).err();
        }
        Ok(more)
    }

    /// The next record that is not left out, counted; `None` at the end, for now or for good.
    ///
    /// # Errors
    /// When the input cannot be read on, or a sum overflows.
    pub fn next_line<T>(
        &mut self,
        make: impl FnOnce(&Envelope, Outcome<'_>) -> T,
    ) -> Result<Option<T>> {
        loop {
            if !self.read()? {
                return Ok(None);
            }
            let at = LineAt { source: &self.coordinates, file: &self.file, line: self.raw.line };
            let mapped = map(&self.shape, &mut self.binding, &self.raw, at);
            let (sums, money, result) = match checked(mapped, &self.envelope) {
                Ok(Mapped::Skipped) => {
                    self.tally.skipped += 1;
                    continue;
                }
                Ok(Mapped::Transaction(transaction)) => {
                    self.tally.records += 1;
                    (&mut self.tally.sums, transaction.money(), Ok(*transaction))
                }
                Err(rejection) => {
                    self.tally.unmappable += 1;
                    (&mut self.tally.unmappable_sums, rejection.money, Err(rejection))
                }
            };
            if let Some((currency, amount)) = money {
                sums.add(currency, amount).map_err(|e: SumOverflow| {
                    Halt(format!("input {}:{}: {e}", self.file, self.raw.line))
                })?;
            }
            let outcome = Outcome { raw: &self.raw, file: &self.file, result };
            return Ok(Some(make(&self.envelope, outcome)));
        }
    }
}

impl<R: BufRead> Source for Lines<R> {
    fn skip_to(&mut self, committed: &Progress) -> Result<()> {
        if committed.byte == 0 {
            // It was empty then: whatever came since is new.
            return Ok(());
        }
        self.records.set_limit(Some(committed.byte));
        while self.records.position().byte < committed.byte && self.read()? {
            if self.raw.digest.is_none()
                && let Binding::Columns(mapper, _) = &mut self.binding
            {
                let (trim, null) = self.shape.values();
                let row = Row::new(&self.raw.fields, &self.raw.ends, trim, null);
                mapper.pass(row.as_ref().filter(|_| self.raw.fault.is_none()));
            }
        }
        self.records.set_limit(None);
        self.done = false;
        let here = self.records.position();
        let same = here.byte == committed.byte
            && here.line == committed.line
            && here.prefix_sha256() == committed.prefix_sha256;
        if !same {
            return Err(Halt(format!(
                "input {}: its first {} bytes (decompressed) are not those that were sent before; \
                 the file has changed. Put the old file back, or send this one as new data: under \
                 another --source, with ids that differ from the old ones",
                self.file, committed.byte
            ))
            .into());
        }
        self.tally = Tally::of(committed)?;
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<OutRecord>> {
        let examples = self.tally.unmappable < EXAMPLES;
        self.next_line(|envelope, outcome| {
            let (raw, rejection) = match &outcome.result {
                Ok(transaction) => return envelope.transaction(transaction),
                Err(rejection) => (outcome.raw, rejection),
            };
            let place = outcome.place();
            if examples {
                let (reason, why) = (rejection.reason, clear_message(rejection));
                tracing::warn!("{place} cannot be mapped ({reason}: {why}); sent as it is");
            }
            match raw.digest {
                Some(whole) => envelope.too_large(&raw.raw, &place, rejection, (&whole, raw.size)),
                None => envelope.unmappable(&raw.raw, &place, rejection),
            }
        })
    }

    fn progress(&self) -> Progress {
        let at: &Position = self.records.position();
        Progress {
            source: self.source.clone(),
            file: self.file.clone(),
            byte: at.byte,
            line: at.line,
            prefix_sha256: at.prefix_sha256(),
            lines: self.tally.lines(),
            records: self.tally.records,
            unmappable: self.tally.unmappable,
            elsewhere: 0,
            skipped: self.tally.skipped,
            sums: self.tally.sums.texts(),
            unmappable_sums: self.tally.unmappable_sums.texts(),
            done: self.done,
            base: None,
        }
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }
}

fn checked<'r>(
    mapped: Result<Mapped<'r>, Rejection>,
    envelope: &Envelope,
) -> Result<Mapped<'r>, Rejection> {
    if let Ok(Mapped::Transaction(transaction)) = &mapped {
        envelope.cards.check_account(transaction)?;
    }
    mapped
}

fn map<'r>(
    shape: &'r Shape,
    binding: &mut Binding,
    raw: &'r RawRecord,
    at: LineAt<'r>,
) -> Result<Mapped<'r>, Rejection> {
    if raw.digest.is_some() {
        let message = format!("the line has {} bytes; at most {MAX_RECORD} are sent", raw.size);
        return Err(Rejection::new(Reason::TooLarge, message));
    }
    if let Some(fault) = &raw.fault {
        return Err(fault.clone());
    }
    if let Binding::Columns(mapper, _) = binding {
        let (trim, null) = shape.values();
        let row = Row::new(&raw.fields, &raw.ends, trim, null);
        return mapper.map(row.as_ref(), at);
    }
    let line = i64::try_from(at.line).unwrap_or(i64::MAX);
    let transaction = json::read_transaction(&raw.raw, at.source, line)?;
    // ISO 4217's places are checked here: in Avro the scale would pass as declared.
    Ok(Mapped::Transaction(Box::new(validate(transaction, i64::MAX)?.transaction)))
}
