//! Exact amounts: a column, or the product of two; never rounded.

use super::file::AmountSpec;
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;
use caudal_core::money::{Amount, AmountError, MAX_SCALE};
use caudal_core::reject::{Reason, Rejection};

/// An amount bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundAmount {
    factors: Vec<(usize, String)>,
    scale: Option<u8>,
}

/// Checks that exactly one origin is given, and the scale.
///
/// # Errors
/// `Usage` that names the key.
pub fn check(spec: &AmountSpec) -> Result<()> {
    if spec.column.is_some() == spec.product.is_some() {
        return Err(usage("[amount]: exactly one of column and product is needed".into()));
    }
    match spec.scale {
        Some(scale) if scale > MAX_SCALE => {
            Err(usage(format!("[amount] scale = {scale}: 0 to {MAX_SCALE} decimal places")))
        }
        _ => Ok(()),
    }
}

impl BoundAmount {
    /// Binds a checked spec.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &AmountSpec, header: &Header) -> Result<BoundAmount> {
        let names = spec.column.iter().chain(spec.product.iter().flatten());
        let factors = names.map(|name| Ok((header.find(name)?, name.clone())));
        Ok(BoundAmount { factors: factors.collect::<Result<_>>()?, scale: spec.scale })
    }

    /// Whether the source declares its own scale.
    #[must_use]
    pub fn declares_scale(&self) -> bool {
        self.scale.is_some()
    }

    /// The exact amount of a row.
    ///
    /// # Errors
    /// A rejection that names the column: missing, not a number, out of range, or finer than the
    /// declared scale.
    pub fn read(&self, row: &Row<'_>) -> Result<Amount, Rejection> {
        let mut product = Exact { units: 1, scale: 0 };
        for (at, name) in &self.factors {
            let text = row.text(*at);
            if text.is_empty() {
                return Err(Rejection::new(
                    Reason::MissingField,
                    format!("column {name} is empty"),
                ));
            }
            let factor = Amount::parse(text).map_err(|e| bad_number(name, e))?;
            product = product.times(factor).ok_or_else(|| bad_number(name, AmountError::Range))?;
        }
        let amount = product.reduce(self.scale.unwrap_or(MAX_SCALE));
        amount.map_err(|e| match (e, self.scale) {
            (AmountError::TooFine, Some(scale)) => {
                let message = format!("the amount needs more than the declared {scale} decimals");
                Rejection::new(Reason::Amount, message)
            }
            (e, _) => Rejection::new(Reason::Amount, format!("the amount is {e}")),
        })
    }
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
