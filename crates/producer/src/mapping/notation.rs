//! How a source writes numbers: separators, symbols and signs.

use super::file::AmountSpec;
use super::usage;
use anyhow::Result;
use caudal_core::money::{Amount, AmountError};
use std::borrow::Cow;

/// A way to write decimal numbers.
#[derive(Debug, Clone)]
pub struct Notation {
    decimal: char,
    thousands: Vec<char>,
    symbols: Vec<String>,
    negative_marks: Vec<String>,
    plain: bool,
}

impl Notation {
    /// Takes it from a mapping.
    ///
    /// # Errors
    /// `Usage` when a separator is a digit or a sign, or both separators are the same.
    pub fn of(spec: &AmountSpec) -> Result<Notation> {
        let decimal = spec.decimal.unwrap_or('.');
        let mut thousands: Vec<char> = spec.thousands.chars().collect();
        let odd = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '+' | '−' | '(' | ')');
        if let Some(c) = std::iter::once(&decimal).chain(&thousands).find(|c| odd(c)) {
            return Err(usage(format!("[amount]: {c:?} cannot separate digits")));
        }
        if thousands.contains(&decimal) {
            let message = format!("[amount]: {decimal:?} is both decimal and thousands separator");
            return Err(usage(message));
        }
        // What looks the same in print is the same.
        if thousands.contains(&' ') {
            thousands.extend(['\u{a0}', '\u{202f}', '\u{2009}']);
        }
        if thousands.contains(&'\'') {
            thousands.push('’');
        }
        let plain = decimal == '.' && thousands.is_empty();
        let texts = |list: &[String]| list.iter().filter(|t| !t.is_empty()).cloned().collect();
        Ok(Notation {
            decimal,
            thousands,
            symbols: texts(&spec.symbols),
            negative_marks: texts(&spec.negative_marks),
            plain,
        })
    }

    /// The number that a text writes: signs before or after it, or parentheses for a negative one;
    /// symbols and marks on either side; digits in groups of three, where they are in groups.
    ///
    /// # Errors
    /// [`AmountError`] when it is no number so written, too fine or out of range.
    pub fn parse(&self, text: &str) -> Result<Amount, AmountError> {
        if self.plain
            && let Ok(amount) = Amount::parse(text)
        {
            return Ok(amount);
        }
        let (negative, bare) = self.bare(text)?;
        let digits = self.digits(bare)?;
        Amount::parse(&format!("{}{digits}", if negative { "-" } else { "" }))
    }

    /// The sign, and the number without it and without what stands around it.
    fn bare<'t>(&self, text: &'t str) -> Result<(bool, &'t str), AmountError> {
        let mut rest = text.trim();
        let (mut signs, mut negative) = (0, false);
        loop {
            let before = rest;
            if let Some(inner) = rest.strip_prefix('(').and_then(|r| r.strip_suffix(')')) {
                (rest, negative, signs) = (inner, true, signs + 1);
            }
            for (sign, is_minus) in [("-", true), ("−", true), ("+", false)] {
                if let Some(inner) = rest.strip_prefix(sign).or_else(|| rest.strip_suffix(sign)) {
                    (rest, signs) = (inner, signs + 1);
                    negative |= is_minus;
                }
            }
            for mark in &self.negative_marks {
                if let Some(inner) = around(rest, mark) {
                    (rest, negative, signs) = (inner, true, signs + 1);
                }
            }
            if let Some(inner) = self.symbols.iter().find_map(|symbol| around(rest, symbol)) {
                rest = inner;
            }
            rest = rest.trim();
            if rest == before {
                break;
            }
        }
        if signs > 1 { Err(AmountError::Syntax) } else { Ok((negative, rest)) }
    }

    /// The digits with a point between whole and fraction, and no other separator.
    fn digits<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, AmountError> {
        let (whole, fraction) = match text.split_once(self.decimal) {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let whole = self.ungrouped(whole)?;
        match fraction {
            // Without a decimal separator of its own, a point is none of ours.
            None if self.decimal != '.' && whole.contains('.') => Err(AmountError::Syntax),
            None => Ok(whole),
            Some(fraction) if fraction.is_empty() || fraction.contains('.') => {
                Err(AmountError::Syntax)
            }
            Some(fraction) => {
                let whole = if whole.is_empty() { "0" } else { &whole };
                Ok(Cow::Owned(format!("{whole}.{fraction}")))
            }
        }
    }

    /// Whole digits without the separators of their groups. Groups have three digits, or two where
    /// the last has three (1,00,000): so `12.34` is not taken for 1234.
    fn ungrouped<'t>(&self, whole: &'t str) -> Result<Cow<'t, str>, AmountError> {
        if !whole.contains(&self.thousands[..]) {
            return Ok(Cow::Borrowed(whole));
        }
        let groups: Vec<&str> = whole.split(&self.thousands[..]).collect();
        let last = groups.len() - 1;
        let fits = |(at, group): (usize, &&str)| {
            let length = match at {
                0 => 1..=3,
                at if at == last => 3..=3,
                _ => 2..=3,
            };
            length.contains(&group.len()) && group.bytes().all(|b| b.is_ascii_digit())
        };
        if groups.iter().enumerate().all(fits) {
            Ok(Cow::Owned(groups.concat()))
        } else {
            Err(AmountError::Syntax)
        }
    }
}

/// `text` without `mark` at its beginning or else at its end; `None` where it is at neither.
fn around<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    text.strip_prefix(mark).or_else(|| text.strip_suffix(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notation(change: impl FnOnce(&mut AmountSpec)) -> Notation {
        let mut spec = AmountSpec::default();
        change(&mut spec);
        Notation::of(&spec).unwrap()
    }

    fn all(notation: &Notation, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            let found = notation.parse(text).ok().map(|a| a.to_string());
            assert_eq!(found.as_deref(), *expected, "{text}");
        }
    }

    #[test]
    fn continental_numbers() {
        let german = notation(|spec| {
            spec.decimal = Some(',');
            spec.thousands = ".".into();
            spec.symbols = vec!["€".into(), "EUR".into()];
        });
        all(
            &german,
            &[
                ("1.234,56", Some("1234.56")),
                ("-1.234,56 €", Some("-1234.56")),
                ("€ 12", Some("12")),
                (",5", Some("0.5")),
                ("12,00-", Some("-12.00")),
                ("1.234.567,8 EUR", Some("1234567.8")),
                ("12.34", None),
                ("1.2345", None),
                ("1,234,5", None),
                ("5,", None),
                ("", None),
                ("€", None),
            ],
        );
        all(&notation(|spec| spec.decimal = Some(',')), &[("1.5", None), ("1,5", Some("1.5"))]);
    }

    #[test]
    fn accountants_numbers() {
        let bank = notation(|spec| {
            spec.thousands = ", '".into();
            spec.symbols = vec!["£".into(), "CR".into()];
            spec.negative_marks = vec!["DR".into()];
        });
        all(
            &bank,
            &[
                ("(£1,234.50)", Some("-1234.50")),
                ("£(5)", Some("-5")),
                ("12.50 DR", Some("-12.50")),
                ("12.50 CR", Some("12.50")),
                ("+7", Some("7")),
                ("−7", Some("-7")),
                ("1\u{a0}234\u{a0}567.00", Some("1234567.00")),
                ("12’345.05", Some("12345.05")),
                ("1,00,000", Some("100000")),
                ("-(5)", None),
                ("--5", None),
                ("5 DR-", None),
                ("1,,000", None),
            ],
        );
    }

    #[test]
    fn separators_that_cannot_be() {
        let spec = |decimal, thousands: &str| AmountSpec {
            decimal: Some(decimal),
            thousands: thousands.into(),
            ..AmountSpec::default()
        };
        for (decimal, thousands) in [(',', ","), ('1', ""), ('.', "-")] {
            assert!(Notation::of(&spec(decimal, thousands)).is_err(), "{decimal} {thousands}");
        }
    }
}
