//! Where a source stands: the last record of each txn, in `caudal_progreso`.

use anyhow::{Context as _, Result};
use caudal_core::money::{Currency, MAX_SCALE, Sums};
use caudal_core::outbox::OutRecord;
use caudal_core::topics;
use caudal_service::exit::Halt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The value of a progress record: everything up to `byte` is in Kafka, exactly once.
///
/// `lines` = `records` + `unmappable`; a header, blank lines and lines that the mapping leaves out
/// are counted in none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Name of the source.
    pub source: String,
    /// File name, `-` for standard input, `generator` for the generator, `requests` for HTTP.
    pub file: String,
    /// Bytes of decompressed data that are done; records, for the generator.
    pub byte: u64,
    /// Line ends before `byte`; records, for the generator; the highest `source_seq`, for HTTP.
    pub line: u64,
    /// SHA-256 of everything before `byte`, in hex; empty for HTTP, which is not read again.
    pub prefix_sha256: String,
    /// Lines that became records of either sort.
    pub lines: u64,
    /// Transactions sent.
    pub records: u64,
    /// Over HTTP: transactions sent whose client named another source; in no other count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub elsewhere: u64,
    /// Lines sent as they were, with a reason.
    pub unmappable: u64,
    /// Lines that the mapping's `[[skip]]` leaves out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Exact sum of the transactions' amounts, per currency, as decimal text.
    pub sums: BTreeMap<String, String>,
    /// The same of unmappable lines whose amount could be read.
    pub unmappable_sums: BTreeMap<String, String>,
    /// Whether the end of the input was reached.
    pub done: bool,
    /// The generator's first event time, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Progress {
    /// The record's key: `<source>/<file>`.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.source, &self.file)
    }

    /// The record for a txn's end.
    ///
    /// # Errors
    /// Never in practice: these fields are always JSON.
    pub fn to_record(&self) -> Result<OutRecord> {
        let value = serde_json::to_vec(self).context("progress")?;
        Ok(OutRecord {
            origin: None,
            topic: Arc::from(topics::PROGRESO),
            partition: 0,
            key: Some(self.key().into_bytes()),
            value: Some(value),
            headers: Vec::new(),
        })
    }
}

fn key(source: &str, file: &str) -> String {
    format!("{source}/{file}")
}

/// The last progress of every file of one source.
#[derive(Debug, Clone, Default)]
pub struct Standing(BTreeMap<String, Progress>);

impl Standing {
    /// Takes a record of `caudal_progreso` into account, in the order of the log.
    ///
    /// # Errors
    /// [`Halt`] when a record of this source cannot be read.
    pub fn observe(
        &mut self,
        source: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let prefix = format!("{source}/");
        let Some(key) = key.and_then(|k| std::str::from_utf8(k).ok()) else { return Ok(()) };
        if !key.starts_with(&prefix) {
            return Ok(());
        }
        let Some(value) = value else {
            // A tombstone: somebody wants this file to be sent again.
            self.0.remove(&key[prefix.len()..]);
            return Ok(());
        };
        let progress: Progress = serde_json::from_slice(value).map_err(|e| {
            Halt(format!("the record {key} of {} is no progress: {e}", topics::PROGRESO))
        })?;
        self.0.insert(progress.file.clone(), progress);
        Ok(())
    }

    /// Lines of all files that became records.
    #[must_use]
    pub fn total_lines(&self) -> u64 {
        self.0.values().map(|progress| progress.lines).sum()
    }

    /// How far a file was committed.
    #[must_use]
    pub fn of(&self, file: &str) -> Option<&Progress> {
        self.0.get(file)
    }
}

/// The counts behind a [`Progress`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions.
    pub records: u64,
    /// Unmappable lines.
    pub unmappable: u64,
    /// Lines that are left out.
    pub skipped: u64,
    /// Sums of the transactions.
    pub sums: Sums,
    /// Sums of unmappable lines.
    pub unmappable_sums: Sums,
}

impl Tally {
    /// The counts that a progress record tells.
    ///
    /// # Errors
    /// [`Halt`] when a sum is no amount in a known currency.
    pub fn of(progress: &Progress) -> Result<Tally> {
        Ok(Tally {
            records: progress.records,
            unmappable: progress.unmappable,
            skipped: progress.skipped,
            sums: parse_sums(progress, &progress.sums)?,
            unmappable_sums: parse_sums(progress, &progress.unmappable_sums)?,
        })
    }

    /// Lines that became records of either sort.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.records + self.unmappable
    }
}

fn parse_sums(progress: &Progress, texts: &BTreeMap<String, String>) -> Result<Sums> {
    let mut sums = Sums::default();
    for (code, text) in texts {
        let entry = Currency::parse(code).zip(parse_nano(text));
        let added = entry.is_some_and(|(currency, nano)| sums.add_nano(currency, nano).is_ok());
        if !added {
            let message =
                format!("the progress of {} has sum {text:?} of {code:?}", progress.key());
            return Err(Halt(message).into());
        }
    }
    Ok(sums)
}

/// Units of 10⁻⁹ of a decimal text with at most nine places, as [`Sums::texts`] writes it.
fn parse_nano(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty()
        || fraction.len() > usize::from(MAX_SCALE)
        || !plain(whole)
        || !plain(fraction)
    {
        return None;
    }
    let places = usize::from(MAX_SCALE);
    let magnitude: i128 = format!("{whole}{fraction:0<places$}").parse().ok()?;
    Some(if negative { -magnitude } else { magnitude })
}
