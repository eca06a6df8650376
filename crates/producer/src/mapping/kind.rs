//! Kind of movement: a column, or ordered rules.

use super::file::{KindRule, KindSpec, Sign};
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;
use caudal_core::money::Amount;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Kind;

/// Kinds bound to the columns of an input.
#[derive(Debug, Clone)]
pub enum BoundKind {
    /// A column and its own words.
    Column {
        /// Position.
        at: usize,
        /// Its name, for messages.
        name: String,
        /// Its words → kinds.
        values: Vec<(String, Kind)>,
    },
    /// The first rule that fits.
    Rules(Vec<BoundRule>),
}

/// A rule bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundRule {
    is: Kind,
    text: Option<(usize, Match)>,
    sign: Option<Sign>,
}

#[derive(Debug, Clone)]
enum Match {
    Prefix(String),
    Equals(String),
}

fn kind(text: &str) -> Result<Kind> {
    Kind::parse(text).ok_or_else(|| {
        usage(format!("[kind]: {text:?} is not one of PURCHASE, REFUND and ADJUSTMENT"))
    })
}

/// Checks a spec.
///
/// # Errors
/// `Usage` when there is not exactly one of column and rules, or a rule makes no sense.
pub fn check(spec: &KindSpec) -> Result<()> {
    if spec.column.is_some() != spec.rules.is_empty() {
        return Err(usage("[kind]: exactly one of column and rules is needed".into()));
    }
    spec.values.values().try_for_each(|v| kind(v).map(|_| ()))?;
    for rule in &spec.rules {
        kind(&rule.is)?;
        let tests = usize::from(rule.prefix.is_some()) + usize::from(rule.equals.is_some());
        if tests != usize::from(rule.column.is_some()) {
            return Err(usage(format!(
                "[[kind.rules]] is = {:?}: column goes with exactly one of prefix and equals",
                rule.is
            )));
        }
    }
    Ok(())
}

impl BoundKind {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &KindSpec, header: &Header) -> Result<BoundKind> {
        let Some(name) = &spec.column else {
            let rules = spec.rules.iter().map(|r| BoundRule::bind(r, header));
            return Ok(BoundKind::Rules(rules.collect::<Result<_>>()?));
        };
        let values = spec.values.iter().map(|(word, k)| Ok((word.clone(), kind(k)?)));
        Ok(BoundKind::Column {
            at: header.find(name)?,
            name: name.clone(),
            values: values.collect::<Result<_>>()?,
        })
    }

    /// The kind of a row.
    ///
    /// # Errors
    /// A rejection when the column is empty or unknown, or no rule fits.
    pub fn read(&self, row: &Row<'_>, amount: Amount) -> Result<Kind, Rejection> {
        match self {
            BoundKind::Column { at, name, values } => {
                let text = row.text(*at);
                if text.is_empty() {
                    let message = format!("column {name} is empty");
                    return Err(Rejection::new(Reason::MissingField, message));
                }
                let translated = values.iter().find(|(word, _)| word == text).map(|(_, k)| *k);
                translated.or_else(|| Kind::parse(text)).ok_or_else(|| {
                    let message =
                        format!("column {name} has a kind that the mapping does not list");
                    Rejection::new(Reason::Mapping, message)
                })
            }
            BoundKind::Rules(rules) => {
                rules.iter().find(|r| r.fits(row, amount)).map(|r| r.is).ok_or_else(|| {
                    Rejection::new(Reason::Mapping, "no rule of [kind] fits the line")
                })
            }
        }
    }
}

impl BoundRule {
    fn bind(rule: &KindRule, header: &Header) -> Result<BoundRule> {
        let test = match (&rule.prefix, &rule.equals) {
            (Some(prefix), _) => Some(Match::Prefix(prefix.clone())),
            (_, Some(equals)) => Some(Match::Equals(equals.clone())),
            _ => None,
        };
        let at = rule.column.as_deref().map(|name| header.find(name)).transpose()?;
        Ok(BoundRule { is: kind(&rule.is)?, text: at.zip(test), sign: rule.sign })
    }

    fn fits(&self, row: &Row<'_>, amount: Amount) -> bool {
        let text = self.text.as_ref().is_none_or(|(at, test)| match test {
            Match::Prefix(prefix) => row.text(*at).starts_with(prefix.as_str()),
            Match::Equals(equals) => row.text(*at) == equals,
        });
        let sign = self.sign.is_none_or(|sign| match sign {
            Sign::Positive => amount.units > 0,
            Sign::Zero => amount.units == 0,
            Sign::Negative => amount.units < 0,
        });
        text && sign
    }
}
