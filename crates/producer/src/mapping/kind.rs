//! Kind of movement: a column, the sign, or ordered rules.

use super::condition::{Condition, Question};
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
    /// The sign of the amount.
    Sign,
    /// The first rule that fits.
    Rules(Vec<BoundRule>),
}

/// A rule bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundRule {
    is: Kind,
    condition: Option<Condition>,
    sign: Option<Sign>,
}

fn kind(text: &str) -> Result<Kind> {
    Kind::parse(text).ok_or_else(|| {
        usage(format!("[kind]: {text:?} is not one of PURCHASE, REFUND and ADJUSTMENT"))
    })
}

/// Checks a spec.
///
/// # Errors
/// `Usage` when there is not exactly one of column, by_sign and rules, or a rule makes no sense.
pub fn check(spec: &KindSpec) -> Result<()> {
    let given = [spec.column.is_some(), spec.by_sign, !spec.rules.is_empty()];
    if given.into_iter().filter(|given| *given).count() != 1 {
        return Err(usage("[kind]: exactly one of column, by_sign and rules is needed".into()));
    }
    if spec.column.is_none() && !spec.values.is_empty() {
        return Err(usage("[kind]: values needs a column".into()));
    }
    spec.values.values().try_for_each(|v| kind(v).map(|_| ()))?;
    for rule in &spec.rules {
        kind(&rule.is)?;
        Question::from(rule).check(&format!("[[kind.rules]] is = {:?}", rule.is))?;
    }
    Ok(())
}

/// The columns that a spec names.
pub fn columns(spec: &KindSpec) -> impl Iterator<Item = &str> {
    let rules = spec.rules.iter().filter_map(|rule| rule.column.as_deref());
    spec.column.as_deref().into_iter().chain(rules)
}

impl BoundKind {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &KindSpec, header: &Header) -> Result<BoundKind> {
        if spec.by_sign {
            return Ok(BoundKind::Sign);
        }
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
                    let message = format!("column {name} has {text:?}, which [kind] does not list");
                    Rejection::new(Reason::Mapping, message)
                })
            }
            BoundKind::Sign => Ok(match amount.units.signum() {
                1 => Kind::Purchase,
                -1 => Kind::Refund,
                _ => Kind::Adjustment,
            }),
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
        let condition = Question::from(rule).bind(header)?;
        Ok(BoundRule { is: kind(&rule.is)?, condition, sign: rule.sign })
    }

    fn fits(&self, row: &Row<'_>, amount: Amount) -> bool {
        let sign = self.sign.is_none_or(|sign| match sign {
            Sign::Positive => amount.units > 0,
            Sign::Zero => amount.units == 0,
            Sign::Negative => amount.units < 0,
        });
        sign && self.condition.as_ref().is_none_or(|condition| condition.fits(row))
    }
}
