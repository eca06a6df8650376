//! One record's values, and the names of their columns.

use super::usage;
use anyhow::Result;

/// The columns of one input, in order.
#[derive(Debug, Clone)]
pub struct Header {
    names: Vec<String>,
}

impl Header {
    /// Columns of those names; blanks around them are cut off.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Header {
        Header { names: names.into_iter().map(|n| n.trim().to_owned()).collect() }
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

    /// Position of a column.
    ///
    /// # Errors
    /// `Usage` that lists the columns, when there is none or more than one of that name.
    pub fn find(&self, name: &str) -> Result<usize> {
        let mut found = self.names.iter().enumerate().filter(|(_, n)| *n == name);
        match (found.next(), found.next()) {
            (Some((at, _)), None) => Ok(at),
            (Some(_), Some(_)) => Err(usage(format!("column {name:?} appears twice"))),
            (None, _) => Err(usage(format!(
                "no column {name:?}; the columns are {}; check `delimiter` and the names in the mapping",
                self.names.join(", ")
            ))),
        }
    }
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

    /// The value at a position: trimmed if so declared, empty where it means "no value".
    #[must_use]
    pub fn text(&self, at: usize) -> &'a str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        let value = &self.fields[start..self.ends[at]];
        let value = if self.trim { value.trim() } else { value };
        if self.null.iter().any(|n| n == value) { "" } else { value }
    }

    /// Every value as it stands, for a header.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> + '_ {
        (0..self.len()).map(|at| self.text(at))
    }
}
