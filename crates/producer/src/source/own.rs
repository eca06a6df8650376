//! A source of your own: anything that gives the same records in the same order whenever it is
//! asked. `examples/fixed_width.rs` is one.

use super::Source;
use super::envelope::Envelope;
use super::inputs::Meter;
use super::records::{MAX_RECORD, hex};
use crate::progress::{Progress, Tally};
use anyhow::Result;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::OutRecord;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::validate;
use caudal_service::exit::Halt;
use sha2::{Digest as _, Sha256};

/// What stands in the place of a file's name.
pub const FILE: &str = "records";

/// A record of a source of your own.
#[derive(Debug, Clone)]
pub struct OwnRecord {
    /// Its bytes as they came: they tell whether the source is still the same, and become the dead
    /// letter where there is no transaction; above [`MAX_RECORD`] bytes, their first 64 KiB do.
    pub raw: Vec<u8>,
    /// The transaction, or why there is none. Its `source` and `source_seq` are filled in; it is
    /// validated before it is sent, and becomes a dead letter where it is not valid.
    pub transaction: Result<Transaction<'static>, Rejection>,
}

/// Records of an iterator; its position is their number.
pub struct OwnSource<I> {
    records: I,
    envelope: Envelope,
    source: String,
    hash: Sha256,
    tally: Tally,
    done: bool,
    meter: Meter,
}

impl<I: Iterator<Item = Result<OwnRecord>>> OwnSource<I> {
    /// From the first record.
    pub fn start(records: I, envelope: Envelope, source: &str) -> OwnSource<I> {
        OwnSource {
            records,
            envelope,
            source: source.to_owned(),
            hash: Sha256::new(),
            tally: Tally::default(),
            done: false,
            meter: Meter::default(),
        }
    }

    /// The next record, counted; `None` at the end.
    fn advance<T>(&mut self, make: impl FnOnce(&Envelope, Counted<'_>) -> T) -> Result<Option<T>> {
        let Some(record) = self.records.next().transpose()? else {
            self.done = true;
            return Ok(None);
        };
        let OwnRecord { raw, transaction } = record;
        self.hash.update((raw.len() as u64).to_le_bytes());
        self.hash.update(&raw);
        let number = self.tally.lines() + 1;
        let result = transaction.and_then(|t| self.valid(t, number));
        let (sums, money) = match &result {
            Ok(t) => {
                self.tally.records += 1;
                (&mut self.tally.sums, t.money())
            }
            Err(rejection) => {
                self.tally.unmappable += 1;
                (&mut self.tally.unmappable_sums, rejection.money)
            }
        };
        if let Some((currency, amount)) = money {
            sums.add(currency, amount)
                .map_err(|e: SumOverflow| Halt(format!("record {number}: {e}")))?;
        }
        Ok(Some(make(&self.envelope, Counted { raw: &raw, number, result })))
    }

    fn valid<'t>(&self, mut t: Transaction<'t>, number: u64) -> Result<Transaction<'t>, Rejection> {
        t.source = format!("{}/{FILE}", self.source).into();
        t.source_seq = i64::try_from(number).unwrap_or(i64::MAX);
        let valid = validate(t, i64::MAX)?.transaction;
        self.envelope.cards.check_account(&valid)?;
        Ok(valid)
    }
}

/// A record that was counted, and what became of it.
struct Counted<'r> {
    raw: &'r [u8],
    /// From 1.
    number: u64,
    result: Result<Transaction<'static>, Rejection>,
}

impl Counted<'_> {
    fn into_record(self, envelope: &Envelope) -> OutRecord {
        let rejection = match &self.result {
            Ok(transaction) => return envelope.transaction(transaction),
            Err(rejection) => rejection,
        };
        let (raw, place) = (self.raw, format!("{FILE}:{}", self.number));
        if raw.len() <= MAX_RECORD {
            return envelope.unmappable(raw, &place, rejection);
        }
        let mut whole = envelope.cards.whole();
        whole.update(raw);
        // What is wrong with it stays to be read; the reason is that of any line of its size.
        let message = format!(
            "the record has {} bytes; at most {MAX_RECORD} are sent ({rejection})",
            raw.len()
        );
        let too_large = Rejection::new(Reason::TooLarge, message);
        envelope.too_large(raw, &place, &too_large, (&whole.finish(), raw.len() as u64))
    }
}

impl<I: Iterator<Item = Result<OwnRecord>>> Source for OwnSource<I> {
    fn skip_to(&mut self, committed: &Progress) -> Result<()> {
        while self.tally.lines() < committed.byte && self.advance(|_, _| ())?.is_some() {}
        let here = self.progress();
        let same = here.byte == committed.byte
            && here.prefix_sha256 == committed.prefix_sha256
            && here.sums == committed.sums;
        if same {
            self.done = false;
            return Ok(());
        }
        Err(Halt(format!(
            "the first {} records of {} are not those that were sent before; send them as new \
             data: under another name, with ids that differ from the old ones",
            committed.byte, self.source
        ))
        .into())
    }

    fn next_record(&mut self) -> Result<Option<OutRecord>> {
        self.advance(|envelope, counted| counted.into_record(envelope))
    }

    fn progress(&self) -> Progress {
        Progress {
            source: self.source.clone(),
            file: FILE.to_owned(),
            byte: self.tally.lines(),
            line: self.tally.lines(),
            prefix_sha256: hex(&self.hash.clone().finalize()),
            lines: self.tally.lines(),
            records: self.tally.records,
            unmappable: self.tally.unmappable,
            sums: self.tally.sums.texts(),
            unmappable_sums: self.tally.unmappable_sums.texts(),
            done: self.done,
            ..Progress::default()
        }
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }
}
