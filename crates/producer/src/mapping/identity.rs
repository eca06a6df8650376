//! Identity of a line: a column, a template, a value with its ordinal, or file and line.

use super::columns::LineAt;
use super::file::IdSpec;
use super::row::{Header, Row};
use super::text::Template;
use super::usage;
use crate::source::records::hex;
use anyhow::Result;
use caudal_core::reject::{Reason, Rejection};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;

/// Bytes of a digest that stand for a value: 128 bits.
const DIGEST: usize = 16;

/// An identity bound to the columns of an input. Ordinals are counted, so it must see every record
/// once, in order.
#[derive(Debug, Clone)]
pub struct BoundId {
    origin: Origin,
    digest: bool,
    prefix: String,
}

#[derive(Debug, Clone)]
enum Origin {
    Column(usize, String),
    Template(Template),
    /// Columns, what a message calls them, and how often each value came.
    Ordinal {
        columns: Vec<usize>,
        name: String,
        seen: HashMap<Box<str>, u64>,
    },
    FileAndLine,
}

/// Checks that exactly one origin is given.
///
/// # Errors
/// `Usage` that names the keys.
pub fn check(spec: &IdSpec) -> Result<()> {
    let given = usize::from(spec.column.is_some())
        + usize::from(spec.template.is_some())
        + usize::from(spec.ordinal_of.is_some())
        + usize::from(spec.file_and_line);
    if given == 1 {
        return Ok(());
    }
    let message = "exactly one of column, template, ordinal_of and file_and_line is needed";
    Err(usage(format!("[transaction_id]: {message}")))
}

/// The columns that a spec names.
pub fn columns(spec: &IdSpec) -> impl Iterator<Item = &str> {
    let ordinal = spec.ordinal_of.iter().flat_map(|names| &names.0);
    let plain = spec.column.iter().chain(ordinal).map(String::as_str);
    plain.chain(spec.template.iter().flat_map(|text| Template::columns(text)))
}

impl BoundId {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &IdSpec, header: &Header) -> Result<BoundId> {
        let origin = match spec {
            IdSpec { column: Some(name), .. } => Origin::Column(header.find(name)?, name.clone()),
            IdSpec { template: Some(text), .. } => Origin::Template(Template::bind(text, header)?),
            IdSpec { ordinal_of: Some(names), .. } => Origin::Ordinal {
                columns: names.0.iter().map(|n| header.find(n)).collect::<Result<_>>()?,
                name: names.0.join(", "),
                seen: HashMap::new(),
            },
            _ => Origin::FileAndLine,
        };
        Ok(BoundId { origin, digest: spec.digest, prefix: spec.prefix.clone() })
    }

    /// Counts the row: its ordinal, where the identity needs one.
    pub fn count(&mut self, row: &Row<'_>) -> u64 {
        let Origin::Ordinal { columns, seen, .. } = &mut self.origin else { return 0 };
        let value = joined(row, columns);
        if let Some(count) = seen.get_mut(value.as_ref()) {
            *count += 1;
            return *count;
        }
        seen.insert(value.into(), 1);
        1
    }

    /// The id of a row that [`BoundId::count`] has given that ordinal.
    ///
    /// # Errors
    /// A rejection when the columns are empty.
    pub fn read<'r>(
        &self,
        row: &Row<'r>,
        at: LineAt<'_>,
        ordinal: u64,
    ) -> Result<Cow<'r, str>, Rejection> {
        let empty =
            |name: &str| Rejection::new(Reason::MissingField, format!("column {name} is empty"));
        let (value, ordinal) = match &self.origin {
            Origin::Column(at, name) => match row.text(*at) {
                "" => return Err(empty(name)),
                text => (Cow::Borrowed(text), None),
            },
            Origin::Template(template) => (Cow::Owned(template.fill(row)), None),
            Origin::Ordinal { columns, name, .. } => {
                if columns.iter().all(|at| row.text(*at).is_empty()) {
                    return Err(empty(name));
                }
                (joined(row, columns), Some(ordinal))
            }
            Origin::FileAndLine => (Cow::Owned(format!("{}:{}", at.file, at.line)), None),
        };
        let value = match self.digest {
            true => Cow::Owned(hex(&Sha256::digest(value.as_bytes())[..DIGEST])),
            false => value,
        };
        Ok(match (ordinal, self.prefix.as_str()) {
            (None, "") => value,
            (None, prefix) => Cow::Owned(format!("{prefix}{value}")),
            (Some(ordinal), prefix) => Cow::Owned(format!("{prefix}{value}-{ordinal}")),
        })
    }
}

/// The values with a bar between them.
fn joined<'r>(row: &Row<'r>, columns: &[usize]) -> Cow<'r, str> {
    match columns {
        [at] => Cow::Borrowed(row.text(*at)),
        all => {
            let texts: Vec<&str> = all.iter().map(|at| row.text(*at)).collect();
            Cow::Owned(texts.join("|"))
        }
    }
}
