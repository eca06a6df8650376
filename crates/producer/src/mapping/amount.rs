//! Exact amounts: a column, the product of two, or one of two; never rounded.

use super::file::{AmountSpec, SignSpec};
use super::notation::Notation;
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;
use caudal_core::money::{Amount, AmountError, Currency, MAX_SCALE};
use caudal_core::reject::{Reason, Rejection};

/// An amount bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundAmount {
    origin: Origin,
    notation: Notation,
    implied_decimals: u8,
    minor_units: bool,
    sign: Option<BoundSign>,
    negate: bool,
    scale: Option<u8>,
}

type Column = (usize, String);

#[derive(Debug, Clone)]
enum Origin {
    Product(Vec<Column>),
    Either { positive: Column, negative: Column },
}

#[derive(Debug, Clone)]
struct BoundSign {
    at: usize,
    spec: SignSpec,
}

/// Checks that exactly one origin is given, and the rest.
///
/// # Errors
/// `Usage` that names the key.
pub fn check(spec: &AmountSpec) -> Result<()> {
    let either = spec.positive.is_some() || spec.negative.is_some();
    let origins = [spec.column.is_some(), spec.product.is_some(), either];
    if origins.into_iter().filter(|given| *given).count() != 1 {
        let message = "[amount]: exactly one of column, product, and positive with negative";
        return Err(usage(format!("{message} is needed")));
    }
    if spec.positive.is_some() != spec.negative.is_some() {
        return Err(usage("[amount]: positive and negative go together".into()));
    }
    for (key, places) in [("scale", spec.scale), ("implied_decimals", spec.implied_decimals)] {
        if let Some(places) = places.filter(|places| *places > MAX_SCALE) {
            let message = format!("[amount] {key} = {places}: 0 to {MAX_SCALE} decimal places");
            return Err(usage(message));
        }
    }
    if spec.minor_units && spec.implied_decimals.is_some() {
        return Err(usage("[amount]: implied_decimals or minor_units, not both".into()));
    }
    if let Some(sign) = &spec.sign {
        if sign.positive.is_empty() && sign.negative.is_empty() {
            return Err(usage("[amount.sign]: positive or negative words are needed".into()));
        }
        if let Some(word) = sign.positive.iter().find(|word| sign.negative.contains(word)) {
            return Err(usage(format!("[amount.sign]: {word:?} is in both lists")));
        }
    }
    Notation::of(spec).map(|_| ())
}

impl BoundAmount {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &AmountSpec, header: &Header) -> Result<BoundAmount> {
        let column = |name: &String| Ok::<_, anyhow::Error>((header.find(name)?, name.clone()));
        let origin = match (&spec.positive, &spec.negative) {
            (Some(positive), Some(negative)) => {
                Origin::Either { positive: column(positive)?, negative: column(negative)? }
            }
            _ => {
                let names = spec.column.iter().chain(spec.product.iter().flatten());
                Origin::Product(names.map(column).collect::<Result<_>>()?)
            }
        };
        let sign = spec.sign.as_ref().map(|sign| {
            Ok::<_, anyhow::Error>(BoundSign { at: header.find(&sign.column)?, spec: sign.clone() })
        });
        Ok(BoundAmount {
            origin,
            notation: Notation::of(spec)?,
            minor_units: spec.minor_units,
            implied_decimals: spec.implied_decimals.unwrap_or(0),
            sign: sign.transpose()?,
            negate: spec.negate,
            scale: spec.scale,
        })
    }

    /// Whether the source declares its own scale.
    #[must_use]
    pub fn declares_scale(&self) -> bool {
        self.scale.is_some()
    }

    /// The exact amount of a row, in that currency where its code is known.
    ///
    /// # Errors
    /// A rejection that names the column: missing, not a number, out of range, finer than the
    /// declared scale, or without a known sign.
    pub fn read(&self, row: &Row<'_>, currency: Option<Currency>) -> Result<Amount, Rejection> {
        let mut exact = match &self.origin {
            Origin::Product(factors) => self.product(row, factors)?,
            Origin::Either { positive, negative } => self.either(row, positive, negative)?,
        };
        exact.scale += match (self.minor_units, currency) {
            (true, Some(currency)) => currency.exponent(),
            _ => self.implied_decimals,
        };
        let turned = match &self.sign {
            Some(sign) => sign.is_negative(row)?,
            None => false,
        };
        if turned != self.negate {
            exact.units = -exact.units;
        }
        let amount = exact.reduce(self.scale.unwrap_or(MAX_SCALE));
        amount.map_err(|e| match (e, self.scale) {
            (AmountError::TooFine, Some(scale)) => {
                let message = format!("the amount needs more than the declared {scale} decimals");
                Rejection::new(Reason::Amount, message)
            }
            (e, _) => Rejection::new(Reason::Amount, format!("the amount is {e}")),
        })
    }

    fn product(&self, row: &Row<'_>, factors: &[Column]) -> Result<Exact, Rejection> {
        let mut product = Exact { units: 1, scale: 0 };
        for (at, name) in factors {
            let text = row.text(*at);
            if text.is_empty() {
                return Err(empty(name));
            }
            let factor = self.notation.parse(text).map_err(|e| bad_number(name, e))?;
            product = product.times(factor).ok_or_else(|| bad_number(name, AmountError::Range))?;
        }
        Ok(product)
    }

    /// The one of two columns that has a number; zero in the other counts as none.
    fn either(
        &self,
        row: &Row<'_>,
        positive: &Column,
        negative: &Column,
    ) -> Result<Exact, Rejection> {
        let read = |(at, name): &Column| match row.text(*at) {
            "" => Ok(None),
            text => self.notation.parse(text).map(Some).map_err(|e| bad_number(name, e)),
        };
        let exact = |amount: Amount, sign: i128| Exact {
            units: sign * i128::from(amount.units),
            scale: amount.scale,
        };
        match (read(positive)?, read(negative)?) {
            (Some(plus), None) => Ok(exact(plus, 1)),
            (None, Some(minus)) => Ok(exact(minus, -1)),
            (Some(plus), Some(minus)) if minus.units == 0 => Ok(exact(plus, 1)),
            (Some(plus), Some(minus)) if plus.units == 0 => Ok(exact(minus, -1)),
            (None, None) => Err(empty(&format!("{} and column {}", positive.1, negative.1))),
            (Some(_), Some(_)) => {
                let message =
                    format!("columns {} and {} both have an amount", positive.1, negative.1);
                Err(Rejection::new(Reason::Amount, message))
            }
        }
    }
}

impl BoundSign {
    fn is_negative(&self, row: &Row<'_>) -> Result<bool, Rejection> {
        let word = row.text(self.at);
        let is_in = |list: &[String]| list.iter().any(|w| w == word);
        if is_in(&self.spec.negative) || is_in(&self.spec.positive) {
            return Ok(is_in(&self.spec.negative));
        }
        let column = &self.spec.column;
        if word.is_empty() {
            return Err(empty(column));
        }
        let message = format!("column {column} has {word:?}, which [amount.sign] does not list");
        Err(Rejection::new(Reason::Mapping, message))
    }
}

fn empty(column: &str) -> Rejection {
    Rejection::new(Reason::MissingField, format!("column {column} is empty"))
}

fn bad_number(column: &str, error: AmountError) -> Rejection {
    let message = match error {
        AmountError::Syntax => "is not a decimal number".to_owned(),
        other => format!("has a number {other}"),
    };
    Rejection::new(Reason::Amount, format!("column {column} {message}"))
}

/// `units × 10^-scale` before it is fitted into 64 bits: two factors give up to 126 bits.
#[derive(Debug, Clone, Copy)]
struct Exact {
    units: i128,
    scale: u8,
}

impl Exact {
    fn times(self, factor: Amount) -> Option<Exact> {
        let units = self.units.checked_mul(i128::from(factor.units))?;
        Some(Exact { units, scale: self.scale + factor.scale })
    }

    /// The same value with at most `scale` places.
    fn reduce(mut self, scale: u8) -> Result<Amount, AmountError> {
        while self.scale > scale {
            if self.units % 10 != 0 {
                return Err(AmountError::TooFine);
            }
            self.units /= 10;
            self.scale -= 1;
        }
        let units = i64::try_from(self.units).map_err(|_| AmountError::Range)?;
        Ok(Amount { units, scale: self.scale })
    }
}
