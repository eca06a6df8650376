//! One record's values, and the names of their columns.

use super::file::ColumnSpec;
use super::usage;
use anyhow::Result;
use caudal_core::mask::mask_card_numbers;
use std::collections::BTreeMap;

/// Position of a column that a file may lack, and lacks: beyond every row, where values are empty.
const ABSENT: usize = usize::MAX;

/// The columns of one input, in order, and what else they may be called.
#[derive(Debug, Clone)]
pub struct Header {
    names: Vec<String>,
    known: BTreeMap<String, ColumnSpec>,
}

impl Header {
    /// Columns of those names; blanks around them are cut off.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Header {
        let names = names.into_iter().map(|n| n.trim().to_owned()).collect();
        Header { names, known: BTreeMap::new() }
    }

    /// The same columns, found by their other names too.
    #[must_use]
    pub fn with(mut self, known: &BTreeMap<String, ColumnSpec>) -> Header {
        self.known.clone_from(known);
        self
    }

    /// Number of columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no column.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names of the columns, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Position of a column: by its name as it is written, by its aliases in their order, and last
    /// by any of them without regard to case and to how many blanks there are. Of an optional
    /// column that is not there, a position at which every row is empty.
    ///
    /// # Errors
    /// `Usage` that lists the columns, when there is none or more than one of that name.
    pub fn find(&self, name: &str) -> Result<usize> {
        let known = self.known.get(name);
        let aliases = known.map_or(&[][..], |k| k.aliases.as_slice());
        let all = || std::iter::once(name).chain(aliases.iter().map(String::as_str));
        for wanted in all() {
            if let Some(at) = self.only(name, |n| n == wanted)? {
                return Ok(at);
            }
        }
        for wanted in all().map(folded) {
            if let Some(at) = self.only(name, |n| folded(n) == wanted)? {
                return Ok(at);
            }
        }
        if known.is_some_and(|k| k.optional) {
            return Ok(ABSENT);
        }
        // Where a file has no header, its first record stands here.
        let names = self.names.join(", ");
        Err(usage(format!(
            "no column {name:?}; the columns are {}; check `delimiter` and the names in the \
             mapping ([columns.{name:?}] takes aliases, and optional = true)",
            mask_card_numbers(&names)
        )))
    }

    fn only(&self, name: &str, fits: impl Fn(&str) -> bool) -> Result<Option<usize>> {
        let mut found = self.names.iter().enumerate().filter(|(_, n)| fits(n));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(usage(format!("column {name:?} appears twice"))),
            (found, _) => Ok(found.map(|(at, _)| at)),
        }
    }
}

/// A name without regard to case and to how many blanks there are.
fn folded(name: &str) -> String {
    let words: Vec<String> = name.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

/// The values of one record.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    fields: &'a str,
    ends: &'a [usize],
    trim: bool,
    null: &'a [String],
}

impl<'a> Row<'a> {
    /// Values that lie one after another in `fields`, each ending at its entry of `ends`.
    /// `None` when the values are not UTF-8, each by itself.
    #[must_use]
    pub fn new(
        fields: &'a [u8],
        ends: &'a [usize],
        trim: bool,
        null: &'a [String],
    ) -> Option<Row<'a>> {
        let fields = std::str::from_utf8(fields).ok()?;
        let whole = ends.iter().all(|end| fields.is_char_boundary(*end));
        whole.then_some(Row { fields, ends, trim, null })
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether no column has a value.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.texts().all(str::is_empty)
    }

    /// The value at a position: trimmed if so declared, empty where it means "no value" or where
    /// the row has ended before.
    #[must_use]
    pub fn text(&self, at: usize) -> &'a str {
        let Some(end) = self.ends.get(at) else { return "" };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        let value = &self.fields[start..*end];
        let value = if self.trim { value.trim() } else { value };
        if self.null.iter().any(|n| n == value) { "" } else { value }
    }

    /// Every value as [`Row::text`] gives it.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> + '_ {
        (0..self.len()).map(|at| self.text(at))
    }
}
