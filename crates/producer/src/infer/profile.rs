//! What the values of a column look like.

use super::sample::Sample;
use super::words::{NULLS, SYMBOLS, TIMES, Words};
use crate::mapping::event_time;
use crate::mapping::file::{AmountSpec, EventTimeSpec};
use crate::mapping::notation::Notation;
use crate::mapping::written::Names;
use caudal_core::mask::mask_card_numbers;
use caudal_core::money::Currency;
use caudal_core::validate::is_country;
use std::collections::BTreeSet;

/// Event times before 1980 and after 2100 are something else.
const SANE: std::ops::Range<i64> = 315_532_800_000_000..4_102_444_800_000_000;

/// What the values of a column look like.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) name: String,
    /// Values, those that mean none left out.
    pub(super) values: usize,
    pub(super) empty: usize,
    /// Values that mean none.
    pub(super) nulls: BTreeSet<&'static str>,
    /// The different values, as far as they are few.
    pub(super) words: Option<BTreeSet<String>>,
    pub(super) unique: bool,
    pub(super) longest: usize,
    /// The first format in which every value is a time, and the others in which it is.
    pub(super) times: Vec<&'static str>,
    /// Whether every value is a time of day.
    pub(super) clock: bool,
    pub(super) number: Option<Number>,
    /// Whether every value is a currency's code, in whatever case.
    pub(super) currencies: bool,
    /// Whether no value has a letter in upper case.
    pub(super) lower: bool,
    pub(super) countries: bool,
    /// Whether any value contains a card number.
    pub(super) cards: bool,
}

/// How a column writes numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Number {
    pub(super) decimal: char,
    pub(super) thousands: &'static str,
    pub(super) symbols: Vec<&'static str>,
    /// Most decimal places.
    pub(super) places: u8,
    pub(super) negatives: bool,
    /// Whether another notation fits as well, and gives other numbers.
    pub(super) doubtful: bool,
}

/// Most different values that are words.
const FEW: usize = 12;
/// Decimal and thousands separators that are tried.
const NOTATIONS: [(char, &str); 6] =
    [('.', ""), ('.', ","), (',', "."), (',', " "), ('.', "'"), ('.', " ")];

pub(super) fn of(sample: &Sample) -> Vec<Profile> {
    let columns = sample.columns.iter().enumerate();
    columns
        .map(|(at, name)| {
            let all = sample.rows.iter().filter_map(|row| row.get(at)).map(|v| v.trim());
            profile(name, &all.collect::<Vec<&str>>())
        })
        .collect()
}

fn profile(name: &str, all: &[&str]) -> Profile {
    let nulls: BTreeSet<&'static str> =
        NULLS.iter().copied().filter(|null| all.contains(null)).collect();
    let values: Vec<&str> =
        all.iter().copied().filter(|v| !v.is_empty() && !nulls.contains(v)).collect();
    let different: BTreeSet<&str> = values.iter().copied().collect();
    let few = !values.is_empty() && different.len() <= FEW && different.len() * 2 <= values.len();
    let each = |fits: &dyn Fn(&str) -> bool| !values.is_empty() && values.iter().all(|v| fits(v));
    Profile {
        name: name.to_owned(),
        values: values.len(),
        empty: all.len() - values.len(),
        nulls,
        words: few.then(|| different.iter().map(|v| (*v).to_owned()).collect()),
        unique: different.len() == values.len() && values.len() == all.len(),
        longest: values.iter().map(|v| v.chars().count()).max().unwrap_or(0),
        times: TIMES.iter().copied().filter(|format| is_time(format, &values)).collect(),
        clock: each(&is_clock),
        number: number(&values),
        currencies: each(&|v| Currency::parse(&v.to_uppercase()).is_some()),
        lower: each(&|v| v.chars().all(|c| !c.is_uppercase())),
        countries: each(&is_country),
        cards: values.iter().any(|v| mask_card_numbers(v) != *v),
    }
}

fn is_time(format: &'static str, values: &[&str]) -> bool {
    let has_zone = format.contains("%z") || !format.contains('%');
    let spec = EventTimeSpec {
        column: Some("x".into()),
        format: Some(Names(vec![format.to_owned()])),
        time_zone: (!has_zone).then(|| "UTC".to_owned()),
        ..EventTimeSpec::default()
    };
    let Ok(forms) = event_time::check(&spec) else { return false };
    let digits =
        format.starts_with("unix") || ["%Y%m%d", "%y%m%d", "%Y%m%d%H%M%S"].contains(&format);
    let length = |v: &str| match format {
        "%y%m%d" => v.len() == 6,
        "%Y%m%d" => v.len() == 8,
        "%Y%m%d%H%M%S" => v.len() == 14,
        _ => true,
    };
    let fits = |v: &&str| {
        let is_digits = v.bytes().all(|b| b.is_ascii_digit());
        is_digits == digits && length(v) && forms.parse(v).is_some_and(|t| SANE.contains(&t))
    };
    are_most(values.iter().filter(|v| fits(v)).count(), values.len())
}

/// Whether so many of all leave few out: a wrong value here and there makes no other column.
fn are_most(some: usize, all: usize) -> bool {
    let wrong = all - some;
    some > 0 && (wrong * 20 <= all || (wrong == 1 && some > 1))
}

/// `12:34`, `12:34:56`.
fn is_clock(value: &str) -> bool {
    let parts: Vec<&str> = value.split(':').collect();
    let small = |p: &&str| p.len() <= 2 && p.parse::<u8>().is_ok_and(|n| n < 60);
    (2..=3).contains(&parts.len()) && parts.iter().all(small)
}

fn number(values: &[&str]) -> Option<Number> {
    let symbols: Vec<&'static str> =
        SYMBOLS.iter().map(|(s, _)| *s).filter(|s| values.iter().any(|v| v.contains(s))).collect();
    let read = |(decimal, thousands): (char, &'static str)| {
        let spec = AmountSpec {
            decimal: Some(decimal),
            thousands: thousands.to_owned(),
            symbols: symbols.iter().map(|s| (*s).to_owned()).collect(),
            ..AmountSpec::default()
        };
        let notation = Notation::of(&spec).ok()?;
        let read: Vec<_> = values.iter().map(|v| notation.parse(v).ok()).collect();
        are_most(read.iter().flatten().count(), values.len()).then_some(read)
    };
    let mut fitting = NOTATIONS.iter().filter_map(|n| Some((*n, read(*n)?)));
    let ((decimal, thousands), amounts) = fitting.next()?;
    let doubtful = fitting.any(|(_, others)| others != amounts);
    Some(Number {
        decimal,
        thousands,
        symbols,
        places: amounts
            .iter()
            .flatten()
            .map(|a| a.normalise(0).unwrap_or(*a).scale)
            .max()
            .unwrap_or(0),
        negatives: amounts.iter().flatten().any(|a| a.units < 0),
        doubtful,
    })
}

impl Profile {
    /// How surely the column's name says that; `None` where it does not. Less is surer.
    pub(super) fn says(&self, words: Words) -> Option<usize> {
        let folded = |text: &str| -> String {
            let spaced = text.chars().map(|c| if matches!(c, '_' | '-' | '.') { ' ' } else { c });
            let lower = spaced.collect::<String>().to_lowercase();
            lower.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let name = folded(&self.name);
        words.iter().position(|word| {
            let word = folded(word);
            let found = name.match_indices(&word).any(|(at, _)| {
                let before = name[..at].chars().next_back();
                let after = name[at + word.len()..].chars().next();
                !before.is_some_and(char::is_alphanumeric)
                    && !after.is_some_and(char::is_alphanumeric)
            });
            found || name == word.replace(' ', "")
        })
    }
}
