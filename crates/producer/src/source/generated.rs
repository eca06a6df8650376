//! The generator as a source: its position is the number of records.

use super::Source;
use super::envelope::Envelope;
use super::inputs::Meter;
use super::records::hex;
use crate::generate::{Generated, Generator, Recipe};
use crate::progress::{Progress, Tally};
use anyhow::Result;
use caudal_core::outbox::OutRecord;
use caudal_service::exit::Halt;
use sha2::{Digest as _, Sha256};

/// Name of the generator among the files of a source.
pub const FILE: &str = "generator";

/// Generated records, hashed like a file, so that another version's records are never taken for
/// the rest of this one's.
#[derive(Debug)]
pub struct GeneratedSource {
    generator: Generator,
    envelope: Envelope,
    source: String,
    base: i64,
    hash: Sha256,
    tally: Tally,
    done: bool,
    meter: Meter,
}

impl GeneratedSource {
    /// From the first record.
    #[must_use]
    pub fn start(recipe: Recipe, envelope: Envelope, source: &str) -> GeneratedSource {
        GeneratedSource {
            generator: Generator::new(recipe, source, envelope.schema_id),
            envelope,
            source: source.to_owned(),
            base: recipe.base,
            hash: Sha256::new(),
            tally: Tally::default(),
            done: false,
            meter: Meter::of(recipe.count),
        }
    }

    fn advance(&mut self) -> Result<Option<Generated>> {
        let Some(record) = self.generator.next() else {
            self.done = true;
            return Ok(None);
        };
        for part in [Some(&record.key), record.value.as_ref()].into_iter().flatten() {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        self.tally.records += 1;
        self.meter.advance(1);
        if let Some((currency, amount)) = record.class.money() {
            self.tally.sums.add(currency, amount).map_err(|e| Halt(e.to_string()))?;
        }
        Ok(Some(record))
    }
}

impl Source for GeneratedSource {
    fn skip_to(&mut self, committed: &Progress) -> Result<()> {
        while self.tally.records < committed.byte && self.advance()?.is_some() {}
        let here = self.progress();
        let same = here.byte == committed.byte
            && here.prefix_sha256 == committed.prefix_sha256
            && here.sums == committed.sums;
        if same {
            return Ok(());
        }
        Err(Halt(format!(
            "the first {} records of {} are not those that were sent before: another version \
             generated them. Start over with another --seed or --source",
            committed.byte, self.source
        ))
        .into())
    }

    fn next_record(&mut self) -> Result<Option<OutRecord>> {
        let record = self.advance()?;
        Ok(record.map(|r| self.envelope.record(r.key, r.value, Vec::new())))
    }

    fn progress(&self) -> Progress {
        Progress {
            source: self.source.clone(),
            file: FILE.to_owned(),
            byte: self.tally.records,
            line: self.tally.records,
            prefix_sha256: hex(&self.hash.clone().finalize()),
            lines: self.tally.lines(),
            records: self.tally.records,
            unmappable: 0,
            elsewhere: 0,
            skipped: 0,
            sums: self.tally.sums.texts(),
            unmappable_sums: self.tally.unmappable_sums.texts(),
            done: self.done,
            base: Some(self.base),
        }
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }
}
