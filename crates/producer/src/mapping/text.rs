//! Texts: a column, a constant or a template.

use super::file::TextSpec;
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;
use std::borrow::Cow;

/// A text with columns in braces, bound to their positions.
#[derive(Debug, Clone)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    Column(usize),
}

impl Template {
    /// Binds the columns that `text` names in braces.
    ///
    /// # Errors
    /// `Usage` when a brace is not closed or a column does not exist.
    pub fn bind(text: &str, header: &Header) -> Result<Template> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| usage(format!("template {text:?}: a brace is not closed")))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(Part::Column(header.find(name)?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Template(parts))
    }

    /// The text of a row.
    #[must_use]
    pub fn fill(&self, row: &Row<'_>) -> String {
        let part = |p: &Part| match p {
            Part::Literal(text) => text.clone(),
            Part::Column(at) => row.text(*at).to_owned(),
        };
        self.0.iter().map(part).collect()
    }
}

/// A text bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundText {
    origin: Origin,
    strip_suffix: Option<String>,
    if_empty: Option<Template>,
}

#[derive(Debug, Clone)]
enum Origin {
    Column(usize),
    Constant(String),
    Template(Template),
}

/// Checks that exactly one origin is given.
///
/// # Errors
/// `Usage` that names the field.
pub fn check(field: &str, spec: &TextSpec) -> Result<()> {
    let given = [&spec.column, &spec.constant, &spec.template].into_iter().flatten().count();
    if given == 1 {
        return Ok(());
    }
    Err(usage(format!("[{field}]: exactly one of column, constant and template is needed")))
}

impl BoundText {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &TextSpec, header: &Header) -> Result<BoundText> {
        let origin = match spec {
            TextSpec { column: Some(name), .. } => Origin::Column(header.find(name)?),
            TextSpec { template: Some(text), .. } => {
                Origin::Template(Template::bind(text, header)?)
            }
            spec => Origin::Constant(spec.constant.clone().unwrap_or_default()),
        };
        let if_empty = spec.if_empty.as_deref().map(|t| Template::bind(t, header)).transpose()?;
        Ok(BoundText { origin, strip_suffix: spec.strip_suffix.clone(), if_empty })
    }

    /// The text of a row; empty where there is none.
    #[must_use]
    pub fn read<'r>(&self, row: &Row<'r>) -> Cow<'r, str> {
        let mut text = match &self.origin {
            Origin::Column(at) => Cow::Borrowed(row.text(*at)),
            Origin::Constant(text) => Cow::Owned(text.clone()),
            Origin::Template(template) => Cow::Owned(template.fill(row)),
        };
        if let Some(suffix) = &self.strip_suffix
            && let Some(kept) = text.strip_suffix(suffix.as_str())
        {
            let length = kept.len();
            text = match text {
                Cow::Borrowed(whole) => Cow::Borrowed(&whole[..length]),
                Cow::Owned(whole) => Cow::Owned(whole[..length].to_owned()),
            };
        }
        match &self.if_empty {
            Some(template) if text.is_empty() => Cow::Owned(template.fill(row)),
            _ => text,
        }
    }
}
