//! One file or stream as records for Kafka, from any committed position on.

use super::Source;
use super::envelope::{Envelope, clear_message};
use super::inputs::Meter;
use super::records::{MAX_RECORD, Position, RawRecord, Records, hex};
use crate::mapping::Mapping;
use crate::mapping::columns::{ColumnMapper, LineAt};
use crate::mapping::file::Format;
use crate::mapping::row::{Header, Row};
use crate::progress::{Progress, Tally};
use anyhow::{Context as _, Result, anyhow};
use caudal_core::json;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::OutRecord;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::{MAX_NAME, validate};
use caudal_service::exit::{Halt, Usage};
use std::io::BufRead;

/// So many unmappable lines of an input are logged, as examples; all of them are counted.
const EXAMPLES: u64 = 5;

/// A file or stream that is read line by line.
pub struct Lines<R> {
    mapping: Mapping,
    envelope: Envelope,
    /// Source name, for progress; it may differ from the mapping's.
    source: String,
    file: String,
    /// `<source>/<file>`: the `source` of its transactions.
    coordinates: String,
    records: Records<R>,
    mapper: Option<ColumnMapper>,
    raw: RawRecord,
    tally: Tally,
    done: bool,
    meter: Meter,
}

impl<R: BufRead> Lines<R> {
    /// Starts at the first byte: reads the header, where there is one, and finds the columns.
    ///
    /// # Errors
    /// [`Usage`] when the header lacks a column that the mapping names.
    pub fn start(
        mapping: &Mapping,
        envelope: Envelope,
        (source, file): (&str, &str),
        input: R,
        meter: Meter,
    ) -> Result<Lines<R>> {
        let coordinates = format!("{source}/{file}");
        if coordinates.chars().count() > MAX_NAME {
            let message =
                format!("input {file}: {coordinates:?} has more than {MAX_NAME} characters");
            return Err(
                Usage(format!("{message}; rename the file, or take a shorter --source")).into()
            );
        }
        let records = Records::new(input, mapping.format, &mapping.csv)
            .with_context(|| format!("cannot read {file}"))?;
        let mut lines = Lines {
            mapping: mapping.clone(),
            envelope,
            source: source.to_owned(),
            file: file.to_owned(),
            coordinates,
            records,
            mapper: None,
            raw: RawRecord::default(),
            tally: Tally::default(),
            done: false,
            meter,
        };
        lines.bind().with_context(|| format!("input {file}"))?;
        Ok(lines)
    }

    fn bind(&mut self) -> Result<()> {
        let Some(fields) = &self.mapping.fields else { return Ok(()) };
        let csv = &self.mapping.csv;
        let header = if csv.header {
            if !self.records.read(&mut self.raw).context("cannot read the header")? {
                // An empty file has no lines: nothing to map.
                self.done = true;
                return Ok(());
            }
            let row = Row::new(&self.raw.fields, &self.raw.ends, true, &[])
                .filter(|_| self.raw.digest.is_none())
                .ok_or_else(|| Usage("the header is not UTF-8, or larger than 1 MiB".into()))?;
            Header::new(row.texts())
        } else {
            Header::new(csv.columns.iter().map(String::as_str))
        };
        self.mapper = Some(ColumnMapper::bind(fields, &header)?);
        Ok(())
    }

    fn read(&mut self) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        let more = self.records.read(&mut self.raw).map_err(|e| {
            let at = self.records.position();
            anyhow!(
                "input {}: {e} (after {} complete lines, {} bytes decompressed); everything \
                 before is sent. Repair or fetch the file again and start once more: it goes on there",
                self.file,
                at.line,
                at.byte
            )
        })?;
        self.done = !more;
        Ok(more)
    }
}

impl<R: BufRead> Source for Lines<R> {
    fn skip_to(&mut self, committed: &Progress) -> Result<()> {
        while self.records.position().byte < committed.byte && self.read()? {
            if self.raw.digest.is_none()
                && let Some(mapper) = &mut self.mapper
            {
                let csv = &self.mapping.csv;
                let row = Row::new(&self.raw.fields, &self.raw.ends, csv.trim, &csv.null);
                mapper.pass(row.as_ref());
            }
        }
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
        if !self.read()? {
            return Ok(None);
        }
        let raw = &self.raw;
        let at = LineAt { source: &self.coordinates, file: &self.file, line: raw.line };
        let outcome = map(&self.mapping, self.mapper.as_mut(), raw, at);
        let (sums, money, record) = match outcome {
            Ok(transaction) => {
                self.tally.records += 1;
                let record = self.envelope.transaction(&transaction);
                (&mut self.tally.sums, transaction.money(), record)
            }
            Err(rejection) => {
                self.tally.unmappable += 1;
                let place = format!("{}:{}", self.file, raw.line);
                if self.tally.unmappable <= EXAMPLES {
                    let (reason, why) = (rejection.reason, clear_message(&rejection));
                    tracing::warn!("{place} cannot be mapped ({reason}: {why}); sent as it is");
                }
                let record = match raw.digest {
                    Some(digest) => {
                        let whole = (hex(&digest), raw.size);
                        let whole = (whole.0.as_str(), whole.1);
                        self.envelope.too_large(&raw.raw, &place, &rejection, whole)
                    }
                    None => self.envelope.unmappable(&raw.raw, &place, &rejection),
                };
                (&mut self.tally.unmappable_sums, rejection.money, record)
            }
        };
        if let Some((currency, amount)) = money {
            sums.add(currency, amount)
                .map_err(|e: SumOverflow| Halt(format!("input {}:{}: {e}", self.file, raw.line)))?;
        }
        Ok(Some(record))
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

fn map<'r>(
    mapping: &'r Mapping,
    mapper: Option<&mut ColumnMapper>,
    raw: &'r RawRecord,
    at: LineAt<'r>,
) -> Result<Transaction<'r>, Rejection> {
    if raw.digest.is_some() {
        let message = format!("the line has {} bytes; at most {MAX_RECORD} are sent", raw.size);
        return Err(Rejection::new(Reason::TooLarge, message));
    }
    match (mapping.format, mapper) {
        (Format::Csv, Some(mapper)) => {
            let csv = &mapping.csv;
            let row = Row::new(&raw.fields, &raw.ends, csv.trim, &csv.null);
            mapper.map(row.as_ref(), at)
        }
        _ => {
            let line = i64::try_from(at.line).unwrap_or(i64::MAX);
            let transaction = json::read_transaction(&raw.raw, at.source, line)?;
            // ISO 4217's places are checked here: in Avro the scale would pass as declared.
            Ok(validate(transaction, i64::MAX)?.transaction)
        }
    }
}
