//! What a mapping makes of inputs, found out without Kafka: `caudal source check` and `--dry-run`.

use crate::cards::{CardNumbers, Cards};
use crate::mapping::Mapping;
use crate::source::Source as _;
use crate::source::envelope::{Envelope, clear_message};
use crate::source::inputs::{self, Input};
use crate::source::lines::{Lines, Outcome};
use anyhow::Result;
use caudal_core::mask::mask_card_numbers;
use caudal_core::reject::Rejection;
use caudal_core::time::to_rfc3339;
use caudal_core::transaction::Transaction;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Most groups of rejections that are told apart; the rest is counted together, as [`OTHER`].
const GROUPS: usize = 50;
/// Reason of the group of all that is not told apart.
const OTHER: &str = "other";
/// Characters of a rejected line that are shown.
const EXCERPT: usize = 200;

/// How much of each input is tried, and what is kept of it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most lines of an input.
    pub lines: u64,
    /// Most transactions that are kept as a sample.
    pub samples: usize,
    /// Most rejected lines that are kept of each group.
    pub examples: usize,
}

/// What became of one input.
#[derive(Debug, Default, Serialize)]
pub struct FileTrial {
    /// Its name.
    pub file: String,
    /// Whether it was read to its end.
    pub whole: bool,
    /// Lines that were read, those that are left out included.
    pub lines: u64,
    /// Transactions.
    pub mapped: u64,
    /// Lines that `[[skip]]` leaves out.
    pub skipped: u64,
    /// Lines that would become dead letters.
    pub rejected: u64,
    /// Transactions whose account is a card number.
    pub cards: u64,
    /// Exact sums of the transactions by currency.
    pub sums: BTreeMap<String, String>,
    /// The same of rejected lines whose amount could be read.
    pub rejected_sums: BTreeMap<String, String>,
    /// First and last event time.
    pub event_times: Option<(String, String)>,
    /// Columns that no field takes.
    pub dropped: Vec<String>,
    /// The first transactions.
    pub samples: Vec<Sample>,
    /// Rejected lines by what is wrong with them, most frequent first.
    pub rejections: Vec<Group>,
    /// What becomes of card numbers.
    #[serde(skip)]
    numbers: CardNumbers,
    #[serde(skip)]
    times: Option<(i64, i64)>,
}

/// A transaction as it would be sent, card numbers masked.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of a Transaction")]
pub struct Sample {
    pub line: u64,
    pub transaction_id: String,
    pub account_id: String,
    pub merchant_id: String,
    pub amount: String,
    pub currency: String,
    pub kind: &'static str,
    pub country: String,
    pub event_time: String,
    pub description: String,
    pub attributes: BTreeMap<String, String>,
}

/// Rejected lines with which the same is wrong.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The reason that their dead letters would carry; `other` for those that are not told apart.
    pub reason: &'static str,
    /// What is wrong, the lines' own values left out.
    pub what: String,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// A rejected line, card numbers masked.
#[derive(Debug, Serialize)]
pub struct Example {
    /// `<file>:<line>`.
    pub place: String,
    /// What is wrong with it.
    pub message: String,
    /// Its beginning.
    pub text: String,
}

/// Tries every input, with the default of `--card-numbers`.
///
/// # Errors
/// When an input cannot be read, or lacks a column that the mapping names.
pub fn run(mapping: &Mapping, inputs: &[Input], bounds: Bounds) -> Result<Vec<FileTrial>> {
    run_with(mapping, inputs, bounds, CardNumbers::default())
}

/// As [`run`], where card numbers become what `numbers` says.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    mapping: &Mapping,
    inputs: &[Input],
    bounds: Bounds,
    numbers: CardNumbers,
) -> Result<Vec<FileTrial>> {
    inputs.iter().map(|input| try_one(mapping, input, bounds, numbers)).collect()
}

fn try_one(
    mapping: &Mapping,
    input: &Input,
    bounds: Bounds,
    numbers: CardNumbers,
) -> Result<FileTrial> {
    // Nothing is sent: neither partition, schema nor key matters.
    let cards = Cards::under(&[0; 32], numbers == CardNumbers::Tokenise)?;
    let envelope = Envelope { topic: "".into(), partitions: 1, schema_id: 0, cards };
    let opened = inputs::open(input)?;
    let names = (mapping.source.as_str(), input.name.as_str());
    let mut lines = Lines::start(mapping, envelope, names, opened.reader, opened.meter, false)?;
    let mut trial = FileTrial { file: input.name.clone(), numbers, ..FileTrial::default() };
    while trial.mapped + trial.rejected < bounds.lines {
        let next = lines.next_line(|_, outcome| match &outcome.result {
            Ok(transaction) => trial.accept(&outcome, transaction, bounds.samples),
            Err(rejection) => trial.reject(&outcome, rejection, bounds.examples),
        })?;
        if next.is_none() {
            trial.whole = true;
            break;
        }
    }
    let at = lines.progress();
    (trial.skipped, trial.sums, trial.rejected_sums) = (at.skipped, at.sums, at.unmappable_sums);
    trial.lines = trial.mapped + trial.rejected + trial.skipped;
    trial.dropped = lines.dropped().iter().map(|n| mask_card_numbers(n).into_owned()).collect();
    trial.event_times = trial.times.map(|(first, last)| (to_rfc3339(first), to_rfc3339(last)));
    trial.rejections.sort_by_key(|group| std::cmp::Reverse(group.count));
    Ok(trial)
}

impl FileTrial {
    fn accept(&mut self, outcome: &Outcome<'_>, t: &Transaction<'_>, samples: usize) {
        self.mapped += 1;
        self.cards += u64::from(mask_card_numbers(&t.account_id) != t.account_id);
        let (first, last) = self.times.unwrap_or((t.event_time, t.event_time));
        self.times = Some((first.min(t.event_time), last.max(t.event_time)));
        if self.samples.len() < samples {
            self.samples.push(sample(outcome.raw.line, t));
        }
    }

    fn reject(&mut self, outcome: &Outcome<'_>, rejection: &Rejection, examples: usize) {
        self.rejected += 1;
        let message = clear_message(rejection);
        let group = self.group(rejection.reason.as_str(), without_values(&message));
        group.count += 1;
        if group.examples.len() < examples {
            let text = String::from_utf8_lossy(&outcome.raw.raw);
            let text = mask_card_numbers(&text).chars().take(EXCERPT).collect();
            group.examples.push(Example { place: outcome.place(), message, text });
        }
    }

    /// The group of what is wrong; where there are too many already, that of all others.
    fn group(&mut self, reason: &'static str, what: String) -> &mut Group {
        let all = &mut self.rejections;
        let find = |all: &[Group], reason: &str, what: &str| {
            all.iter().position(|group| group.reason == reason && group.what == what)
        };
        let (mut at, mut new) = (find(all, reason, &what), (reason, what));
        if at.is_none() && all.len() >= GROUPS {
            new = (OTHER, "what is not told apart any more".to_owned());
            at = find(all, new.0, &new.1);
        }
        let at = at.unwrap_or_else(|| {
            all.push(Group { reason: new.0, what: new.1, count: 0, examples: Vec::new() });
            all.len() - 1
        });
        &mut all[at]
    }

    /// What a person reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}: {} lines{}: {} transactions, {} rejected, {} left out\n",
            self.file,
            self.lines,
            if self.whole { "" } else { " tried" },
            self.mapped,
            self.rejected,
            self.skipped
        );
        let sums = |sums: &BTreeMap<String, String>| {
            let all: Vec<String> = sums.iter().map(|(c, sum)| format!("{sum} {c}")).collect();
            all.join(", ")
        };
        let mut line = |text: String| writeln!(out, "  {text}").is_ok();
        if !self.sums.is_empty() {
            line(format!("sums: {}", sums(&self.sums)));
        }
        if !self.rejected_sums.is_empty() {
            line(format!("sums of rejected lines: {}", sums(&self.rejected_sums)));
        }
        if let Some((first, last)) = &self.event_times {
            line(format!("event times: {first} to {last}"));
        }
        if self.cards > 0 {
            let sent = match self.numbers {
                CardNumbers::Tokenise => "tokens (--card-numbers keep sends them as they are)",
                CardNumbers::Keep => "they are",
            };
            line(format!("{} accounts are card numbers; they are sent as {sent}", self.cards));
        }
        if !self.dropped.is_empty() {
            line(format!("columns that no field takes: {}", self.dropped.join(", ")));
        }
        for group in &self.rejections {
            line(format!("{} × {}: {}", group.count, group.reason, group.what));
            for example in &group.examples {
                line(format!("    {}: {}", example.place, example.message));
                line(format!("        {}", visible(&example.text)));
            }
        }
        out
    }
}

fn sample(line: u64, t: &Transaction<'_>) -> Sample {
    let masked = |text: &str| mask_card_numbers(text).into_owned();
    Sample {
        line,
        transaction_id: masked(&t.transaction_id),
        account_id: masked(&t.account_id),
        merchant_id: masked(&t.merchant_id),
        amount: t.amount.to_string(),
        currency: t.currency.clone().into_owned(),
        kind: t.kind.as_str(),
        country: t.country.as_deref().unwrap_or_default().to_owned(),
        event_time: to_rfc3339(t.event_time),
        description: masked(t.description.as_deref().unwrap_or_default()),
        attributes: t.attributes.iter().map(|(n, v)| (n.clone().into_owned(), masked(v))).collect(),
    }
}

/// A text with what cannot be seen, line ends and other control characters, as escapes.
#[must_use]
pub fn visible(text: &str) -> String {
    let seen = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(seen).collect()
}

/// A message with dots in the place of what it quotes of the line, and of numbers.
fn without_values(message: &str) -> String {
    let mut kept = String::new();
    for (at, part) in message.split('"').enumerate() {
        if at % 2 == 1 {
            kept.push_str("\"…\"");
            continue;
        }
        let mut in_number = false;
        for c in part.chars() {
            let is_digit = c.is_ascii_digit();
            match (is_digit, in_number) {
                (true, false) => kept.push('…'),
                (true, true) => {}
                (false, _) => kept.push(c),
            }
            in_number = is_digit;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_by_its_values_alone_is_one_group() {
        let what = without_values("EUR has 2 decimal places, the amount \"12.505\" has 3");
        assert_eq!(what, "EUR has … decimal places, the amount \"…\" has …");
        assert_eq!(without_values("2026-01-05 is 1234567"), "…-…-… is …");
        let mut trial = FileTrial::default();
        for lines in 1..200 {
            let what = without_values(&format!("the line has {lines} bytes"));
            trial.group("too_large", what).count += 1;
        }
        assert_eq!(trial.rejections.len(), 1);
        assert_eq!(trial.rejections[0].count, 199);
    }

    #[test]
    fn what_is_too_much_is_a_group_of_its_own() {
        let mut trial = FileTrial::default();
        let word = |n: usize| "x".repeat(n);
        for n in 0..GROUPS + 10 {
            trial.group("mapping", word(n)).count += 1;
        }
        trial.group("mapping", word(GROUPS - 1)).count += 1;
        trial.group("amount", word(0)).count += 1;
        assert_eq!(trial.rejections.len(), GROUPS + 1);
        assert_eq!(trial.rejections[GROUPS - 1].count, 2);
        let other = trial.rejections.last().unwrap();
        assert_eq!((other.reason, other.count), (OTHER, 11));
    }

    #[test]
    fn what_becomes_of_card_numbers_is_said_as_it_is() {
        let text = |numbers| FileTrial { cards: 2, numbers, ..FileTrial::default() }.text();
        assert!(text(CardNumbers::Tokenise).contains("sent as tokens"));
        assert!(text(CardNumbers::Keep).contains("sent as they are"));
    }
}
