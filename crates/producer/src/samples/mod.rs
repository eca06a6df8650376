//! Files of other shapes than ours, seeded, with what must come of them: for tests, and for trying
//! the mappings of `config/sources/` without anybody's data (`cargo run --example sample_files`).

mod bank;
mod cards;
mod council;
mod events;

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What must come of a set of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Transactions, repeats in overlapping files included.
    pub mapped: u64,
    /// Lines that the mapping leaves out.
    pub skipped: u64,
    /// Lines that become dead letters.
    pub rejected: u64,
    /// Different transaction ids.
    pub ids: u64,
    /// Exact sums of the transactions, in units of 10⁻⁴.
    pub sums: BTreeMap<&'static str, i128>,
    /// Full card numbers that the files contain: nothing may show one.
    pub cards: Vec<String>,
}

impl Totals {
    fn add(&mut self, currency: &'static str, amount_e4: i128) {
        self.mapped += 1;
        *self.sums.entry(currency).or_default() += amount_e4;
    }
}

/// A set of files and its mapping in `config/sources/`.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Name of the folder, and of the mapping without `.toml`.
    pub name: &'static str,
    make: fn(u64, u64) -> (Files, Totals),
}

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

/// All of them.
pub const ALL: [Sample; 4] = [
    Sample { name: "bank-statement", make: bank::make },
    Sample { name: "card-dump", make: cards::make },
    Sample { name: "council-purchases", make: council::make },
    Sample { name: "event-log", make: events::make },
];

impl Sample {
    /// Writes the files, of about so many lines together, into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, lines: u64, seed: u64, folder: &Path) -> Result<Totals> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let (files, totals) = (self.make)(lines, seed);
        for (name, bytes) in files {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        Ok(totals)
    }
}

/// Cents as digits with separators: `1.234,56`.
fn money(cents: i64, decimal: char, thousands: &str) -> String {
    let whole = (cents.abs() / 100).to_string();
    let groups: Vec<&str> = whole
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    format!("{}{decimal}{:02}", groups.join(thousands), cents.abs() % 100)
}

/// Windows-1252 of texts that have nothing but ISO 8859-1 and the euro sign.
fn windows_1252(text: &str) -> Vec<u8> {
    text.chars().map(|c| if c == '€' { 0x80 } else { u8::try_from(c).unwrap_or(b'?') }).collect()
}
