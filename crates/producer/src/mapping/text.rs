//! Texts: a column, the first of several, a constant or a template; and what is done with them.

use super::file::{Case, TextSpec};
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;
use std::borrow::Cow;
use std::collections::BTreeMap;

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

    /// The columns that `text` names in braces, as far as it is a template.
    pub fn columns(text: &str) -> impl Iterator<Item = &str> {
        text.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0))
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
    /// `None` where the value is taken as it stands.
    changes: Option<Box<Changes>>,
}

#[derive(Debug, Clone)]
enum Origin {
    Column(usize),
    FirstOf(Vec<usize>),
    Constant(String),
    Template(Template),
}

/// What is done with a value, in this order.
#[derive(Debug, Clone)]
struct Changes {
    strip_prefix: Option<String>,
    strip_suffix: Option<String>,
    values: BTreeMap<String, String>,
    case: Option<Case>,
    if_empty: Option<Template>,
    mask_but: Option<usize>,
    max_length: Option<usize>,
}

/// Checks that exactly one origin is given.
///
/// # Errors
/// `Usage` that names the field.
pub fn check(field: &str, spec: &TextSpec) -> Result<()> {
    let texts = [&spec.column, &spec.constant, &spec.template];
    let given = texts.into_iter().flatten().count() + usize::from(spec.first_of.is_some());
    if given != 1 {
        let message = "exactly one of column, first_of, constant and template is needed";
        return Err(usage(format!("[{field}]: {message}")));
    }
    if spec.first_of.as_ref().is_some_and(Vec::is_empty) {
        return Err(usage(format!("[{field}]: first_of names no column")));
    }
    if spec.max_length == Some(0) {
        return Err(usage(format!("[{field}]: max_length = 0 would leave nothing")));
    }
    Ok(())
}

/// The columns that a spec names.
pub fn columns(spec: &TextSpec) -> impl Iterator<Item = &str> {
    let plain = spec.column.iter().chain(spec.first_of.iter().flatten()).map(String::as_str);
    let templates = spec.template.iter().chain(&spec.if_empty);
    plain.chain(templates.flat_map(|text| Template::columns(text)))
}

impl BoundText {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &TextSpec, header: &Header) -> Result<BoundText> {
        let origin = match spec {
            TextSpec { column: Some(name), .. } => Origin::Column(header.find(name)?),
            TextSpec { first_of: Some(names), .. } => {
                let found = names.iter().map(|name| header.find(name));
                Origin::FirstOf(found.collect::<Result<_>>()?)
            }
            TextSpec { template: Some(text), .. } => {
                Origin::Template(Template::bind(text, header)?)
            }
            spec => Origin::Constant(spec.constant.clone().unwrap_or_default()),
        };
        let if_empty = spec.if_empty.as_deref().map(|t| Template::bind(t, header)).transpose()?;
        let changes = Changes {
            strip_prefix: spec.strip_prefix.clone(),
            strip_suffix: spec.strip_suffix.clone(),
            values: spec.values.clone(),
            case: spec.case,
            if_empty,
            mask_but: spec.mask_but,
            max_length: spec.max_length,
        };
        let changes = changes.are_any().then(|| Box::new(changes));
        Ok(BoundText { origin, changes })
    }

    /// The text of a row; empty where there is none.
    #[must_use]
    pub fn read<'r>(&self, row: &Row<'r>) -> Cow<'r, str> {
        let text = match &self.origin {
            Origin::Column(at) => Cow::Borrowed(row.text(*at)),
            Origin::FirstOf(all) => {
                let found = all.iter().map(|at| row.text(*at)).find(|text| !text.is_empty());
                Cow::Borrowed(found.unwrap_or_default())
            }
            Origin::Constant(text) => Cow::Owned(text.clone()),
            Origin::Template(template) => Cow::Owned(template.fill(row)),
        };
        match &self.changes {
            Some(changes) => changes.apply(text, row),
            None => text,
        }
    }
}

impl Changes {
    fn are_any(&self) -> bool {
        self.strip_prefix.is_some()
            || self.strip_suffix.is_some()
            || !self.values.is_empty()
            || self.case.is_some()
            || self.if_empty.is_some()
            || self.mask_but.is_some()
            || self.max_length.is_some()
    }

    fn apply<'r>(&self, mut text: Cow<'r, str>, row: &Row<'r>) -> Cow<'r, str> {
        if let Some(prefix) = &self.strip_prefix
            && text.starts_with(prefix.as_str())
        {
            text = cut(text, prefix.len()..);
        }
        if let Some(suffix) = &self.strip_suffix
            && text.ends_with(suffix.as_str())
        {
            let length = text.len() - suffix.len();
            text = cut(text, ..length);
        }
        if let Some(word) = self.values.get(text.as_ref()) {
            text = Cow::Owned(word.clone());
        }
        match self.case {
            Some(Case::Upper) => text = Cow::Owned(text.to_uppercase()),
            Some(Case::Lower) => text = Cow::Owned(text.to_lowercase()),
            None => {}
        }
        if let Some(template) = &self.if_empty
            && text.is_empty()
        {
            text = Cow::Owned(template.fill(row));
        }
        if let Some(shown) = self.mask_but {
            let hidden = text.chars().count().saturating_sub(shown);
            let masked = text.chars().enumerate().map(|(at, c)| if at < hidden { '*' } else { c });
            text = Cow::Owned(masked.collect());
        }
        if let Some((end, _)) = self.max_length.and_then(|most| text.char_indices().nth(most)) {
            text = cut(text, ..end);
        }
        text
    }
}

/// A part of a text, borrowed where the whole was.
fn cut<'r, I>(text: Cow<'r, str>, range: I) -> Cow<'r, str>
where
    I: std::slice::SliceIndex<str, Output = str>,
{
    match text {
        Cow::Borrowed(whole) => Cow::Borrowed(&whole[range]),
        Cow::Owned(whole) => Cow::Owned(whole[range].to_owned()),
    }
}
