//! From the columns of somebody else's file to a `Transaction`, as a small TOML file says.
//!
//! [`Mapping`] is the checked file, [`Shape`] what it says of one input, and
//! [`columns::ColumnMapper`] the same bound to the columns of that input. All of it is pure: bytes
//! in, transaction or rejection out.

pub mod amount;
pub mod columns;
pub mod condition;
pub mod encoding;
pub mod event_time;
pub mod fields;
pub mod file;
pub mod identity;
pub mod kind;
pub mod notation;
pub mod objects;
pub mod pattern;
pub mod row;
pub mod text;
pub mod written;

use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use fields::Fields;
use file::{Csv, Format, Json, MappingFile};
use std::path::Path;
use written::Delimiter;

/// A mapping that was read and checked.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Name of the source.
    pub source: String,
    /// Form of the input.
    pub format: Format,
    general: Shape,
    /// Patterns of file names, with what is true of those files.
    files: Vec<(String, Shape)>,
}

/// What a mapping says of one input.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Form of the input.
    pub format: Format,
    /// How CSV is written.
    pub csv: Csv,
    /// How values of NDJSON are read.
    pub json: Json,
    /// Where each field comes from; `None` for NDJSON whose objects are named as a Transaction's
    /// fields.
    pub fields: Option<Fields>,
}

impl Shape {
    fn check(file: &MappingFile) -> Result<Shape> {
        check_csv(file)?;
        let fields = Fields::check(file)?;
        if fields.is_none() && file.json != Json::default() {
            let message = "[json]: without field tables, objects are read as they are";
            return Err(usage(message.into()));
        }
        Ok(Shape { format: file.format, csv: file.csv.clone(), json: file.json.clone(), fields })
    }

    /// Whether blanks around a value are cut off, and which values mean "no value".
    #[must_use]
    pub fn values(&self) -> (bool, &[String]) {
        match self.format {
            Format::Csv => (self.csv.trim, &self.csv.null),
            Format::Ndjson => (self.json.trim, &self.json.null),
        }
    }
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
        Mapping::check(&file).map_err(|e| {
            let message = format!("{e:#}");
            usage(match line_of(text, &message) {
                Some(line) => format!("line {line}: {message}"),
                None => message,
            })
        })
    }

    fn check(file: &MappingFile) -> Result<Mapping> {
        check_source(&file.source)?;
        let files = file.files.iter().map(|one| {
            let shape = Shape::check(&file.with(one));
            let shape = shape.with_context(|| format!("[[files]] name = {:?}", one.name))?;
            Ok((one.name.clone(), shape))
        });
        Ok(Mapping {
            source: file.source.clone(),
            format: file.format,
            general: Shape::check(file)?,
            files: files.collect::<Result<_>>()?,
        })
    }

    /// What it says of a file of that name: the first of `[[files]]` that fits, or what is true of
    /// all others.
    #[must_use]
    pub fn shape_of(&self, file: &str) -> &Shape {
        let found = self.files.iter().find(|(pattern, _)| pattern::matches(pattern, file));
        found.map_or(&self.general, |(_, shape)| shape)
    }
}

/// Line of the table or key that a message begins with, such as `[amount]: …`, from 1.
fn line_of(text: &str, message: &str) -> Option<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name = message.trim_start_matches('[').split(|c| !is_name(c)).next()?;
    if name.is_empty() {
        return None;
    }
    let begins = |line: &str| {
        let rest = line.trim_start().trim_start_matches('[').strip_prefix(name);
        rest.is_some_and(|rest| !rest.starts_with(is_name))
    };
    text.lines().position(begins).map(|at| at + 1)
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

fn check_csv(file: &MappingFile) -> Result<()> {
    let csv = &file.csv;
    if file.format == Format::Ndjson {
        return match *csv == Csv::default() {
            true => Ok(()),
            false => Err(usage("[csv]: format = \"ndjson\" takes [json] instead".into())),
        };
    }
    if file.json != Json::default() {
        return Err(usage("[json]: format = \"csv\" takes [csv] instead".into()));
    }
    if !csv.quote.is_ascii() || matches!(csv.quote, '\r' | '\n') {
        let message = format!("[csv] quote = {:?}: one ASCII character is needed", csv.quote);
        return Err(usage(message));
    }
    if csv.delimiter == Delimiter::Is(csv.quote as u8) && csv.quoting {
        return Err(usage("[csv] delimiter and quote are the same character".into()));
    }
    match (csv.header, csv.columns.is_empty()) {
        (true, false) => Err(usage("[csv] columns is only for header = false".into())),
        (false, true) => Err(usage("[csv] header = false needs columns = [\"…\", …]".into())),
        _ => Ok(()),
    }
}

pub(crate) fn usage(message: String) -> anyhow::Error {
    Usage(message).into()
}
