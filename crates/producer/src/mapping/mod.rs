//! From the columns of somebody else's file to a `Transaction`, as a small TOML file says.
//!
//! [`Mapping`] is the checked file, [`columns::ColumnMapper`] the same bound to the columns of one
//! input. All of it is pure: bytes in, transaction or rejection out.

pub mod amount;
pub mod columns;
pub mod event_time;
pub mod file;
pub mod kind;
pub mod row;
pub mod text;

use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use file::{Csv, Format, MappingFile};
use std::path::Path;

/// A mapping that was read and checked.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Name of the source.
    pub source: String,
    /// Form of the input.
    pub format: Format,
    /// How CSV is written.
    pub csv: Csv,
    /// Where each field comes from; `None` for NDJSON.
    pub fields: Option<columns::Fields>,
}

impl Mapping {
    /// Reads and checks a mapping file.
    ///
    /// # Errors
    /// [`Usage`] that names the file, and the line and key where it can.
    pub fn read(path: &Path) -> Result<Mapping> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Usage(format!("cannot read the mapping {}: {e}", path.display())))?;
        Mapping::parse(&text).with_context(|| format!("mapping {}", path.display()))
    }

    /// Reads and checks the text of a mapping file.
    ///
    /// # Errors
    /// [`Usage`] that names the line and key where it can.
    pub fn parse(text: &str) -> Result<Mapping> {
        let file: MappingFile = toml::from_str(text).map_err(|e| Usage(e.to_string()))?;
        check_source(&file.source)?;
        let fields = match file.format {
            Format::Csv => Some(columns::Fields::check(&file)?),
            Format::Ndjson => {
                columns::Fields::refuse(&file)?;
                None
            }
        };
        check_csv(&file.csv)?;
        Ok(Mapping { source: file.source, format: file.format, csv: file.csv, fields })
    }
}

/// Checks that a source's name can be part of a `transactional.id` and of a file name.
///
/// # Errors
/// [`Usage`] when it is empty, longer than 64 characters, or has others than letters, digits,
/// `.`, `_` and `-`.
pub fn check_source(source: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if source.is_empty() || source.len() > 64 || !source.bytes().all(fits) {
        return Err(usage(format!(
            "source {source:?}: 1 to 64 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"
        )));
    }
    Ok(())
}

fn check_csv(csv: &Csv) -> Result<()> {
    for (key, c) in [("delimiter", csv.delimiter), ("quote", csv.quote)] {
        if !c.is_ascii() || matches!(c, '\r' | '\n') {
            return Err(usage(format!("csv.{key} = {c:?}: one ASCII character is needed")));
        }
    }
    if csv.delimiter == csv.quote {
        return Err(usage("csv.delimiter and csv.quote are the same character".into()));
    }
    match (csv.header, csv.columns.is_empty()) {
        (true, false) => Err(usage("csv.columns is only for header = false".into())),
        (false, true) => Err(usage("csv.header = false needs csv.columns = [\"…\", …]".into())),
        _ => Ok(()),
    }
}

pub(crate) fn usage(message: String) -> anyhow::Error {
    Usage(message).into()
}
