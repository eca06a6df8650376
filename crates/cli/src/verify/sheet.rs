//! The balance sheet, as text and as JSON.

use super::retired::Retired;
use caudal_core::money::{Currency, Sums, nano_text};
use caudal_core::time::to_rfc3339;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Most differences that the text shows.
const SHOWN: usize = 100;

/// One hop.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Hop {
    pub hop: String,
    #[serde(rename = "in")]
    pub records_in: u64,
    pub out: u64,
    pub duplicates: u64,
    pub dead: u64,
    pub late: u64,
    pub rerouted: u64,
    /// Rows that `caudal retention` has deleted; beside `out`.
    pub retired: u64,
    /// Money of what went out.
    pub sums: BTreeMap<String, String>,
}

/// The money of the whole pipeline; what is in differs from the sum of the others only when
/// something does not balance.
#[derive(Debug, Clone, Default)]
pub struct Money {
    /// Of every record that stage 1 has judged, moved ones once.
    pub records_in: Sums,
    /// Of the rows of `transactions`.
    pub rows: Sums,
    /// Of those that `caudal retention` has deleted.
    pub retired: Sums,
    /// Of dead letters, where the amount can be read.
    pub dead: Sums,
    /// Of duplicates.
    pub duplicates: Sums,
    /// Of valid records that the sink has not stored yet.
    pub in_flight: Sums,
}

/// The parts of [`Money`] in the order of the equation.
const PARTS: [&str; 5] = ["rows", "retired", "dead", "duplicates", "in flight"];

/// What `caudal retention` has deleted of a table.
#[derive(Debug, Clone, Serialize)]
pub struct RetiredRows {
    pub rows: u64,
    /// All of an earlier time.
    pub before: String,
    /// How many of their records are in the topics: counted, but not compared one by one.
    pub not_compared: u64,
}

impl Money {
    fn parts(&self) -> [&Sums; 5] {
        [&self.rows, &self.retired, &self.dead, &self.duplicates, &self.in_flight]
    }

    /// The parts that a person is shown, with their names.
    fn shown(&self) -> Vec<(&'static str, &Sums)> {
        let is_shown =
            |(name, _): &(&str, &Sums)| *name != "retired" || self.retired.iter().next().is_some();
        PARTS.into_iter().zip(self.parts()).filter(is_shown).collect()
    }

    fn currencies(&self) -> BTreeSet<Currency> {
        let all = self.parts().into_iter().chain([&self.records_in]);
        all.flat_map(|sums| sums.iter().map(|(currency, _)| currency)).collect()
    }

    /// The currencies in which the equation does not hold: what is in, and what the parts add up to.
    pub fn unbalanced(&self) -> Vec<(Currency, i128, i128)> {
        let sum = |c: Currency| self.parts().iter().map(|sums| sums.nano(c)).sum::<i128>();
        let all = self.currencies().into_iter().map(|c| (c, self.records_in.nano(c), sum(c)));
        all.filter(|(_, records_in, parts)| records_in != parts).collect()
    }

    fn json(&self) -> BTreeMap<String, BTreeMap<&'static str, String>> {
        let of = |currency: Currency| {
            let text = |sums: &Sums| nano_text(sums.nano(currency), currency.exponent());
            let names = ["rows", "retired", "dead", "duplicates", "in_flight"];
            let mut parts: BTreeMap<&'static str, String> =
                names.into_iter().zip(self.parts().map(text)).collect();
            parts.insert("in", text(&self.records_in));
            (currency.to_string(), parts)
        };
        self.currencies().into_iter().map(of).collect()
    }
}

/// Everything that verify has to say.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    pub hops: Vec<Hop>,
    pub money: Money,
    /// At most a thousand.
    pub differences: Vec<String>,
    /// All of them.
    pub difference_count: u64,
    /// Records not judged because a later step has not come to them, by where they wait.
    pub in_flight: BTreeMap<&'static str, u64>,
    /// First offsets proven, by topic.
    pub retained: BTreeMap<String, Vec<i64>>,
    /// Records and rows that cannot be judged because retention has cut what they go with.
    pub unproven: u64,
    /// By table.
    pub retired: BTreeMap<String, RetiredRows>,
    /// Records of `transacciones` that no known source has sent.
    pub foreign: u64,
    /// Dead letters without a readable amount.
    pub without_amount: u64,
    /// Money of unmappable lines, as their producer read it: part of no equation above.
    pub unmappable_sums: BTreeMap<String, String>,
    /// Records that passed dedup again beyond the horizon.
    pub beyond_horizon: u64,
    /// What else a reader should know.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
struct Json<'s> {
    balanced: bool,
    hops: &'s [Hop],
    money: BTreeMap<String, BTreeMap<&'static str, String>>,
    differences: &'s [String],
    difference_count: u64,
    in_flight: &'s BTreeMap<&'static str, u64>,
    retained: &'s BTreeMap<String, Vec<i64>>,
    unproven: u64,
    retired: &'s BTreeMap<String, RetiredRows>,
    foreign: u64,
    without_amount: u64,
    unmappable_sums: &'s BTreeMap<String, String>,
    beyond_horizon: u64,
    notes: &'s [String],
}

impl Sheet {
    /// Whether nothing differs.
    pub fn is_balanced(&self) -> bool {
        self.difference_count == 0
    }

    /// Adds what was deleted on purpose of a topic's rows.
    pub fn retire(&mut self, table: &str, retired: Option<&Retired>, not_compared: u64) {
        let Some(retired) = retired else { return };
        let all = self.retired.entry(table.to_owned()).or_insert_with(|| RetiredRows {
            rows: 0,
            before: to_rfc3339(retired.before),
            not_compared: 0,
        });
        all.rows += retired.rows;
        all.not_compared += not_compared;
    }

    /// As JSON, indented.
    ///
    /// # Errors
    /// Never in practice: these fields are always JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&Json {
            balanced: self.is_balanced(),
            hops: &self.hops,
            money: self.money.json(),
            differences: &self.differences,
            difference_count: self.difference_count,
            in_flight: &self.in_flight,
            retained: &self.retained,
            unproven: self.unproven,
            retired: &self.retired,
            foreign: self.foreign,
            without_amount: self.without_amount,
            unmappable_sums: &self.unmappable_sums,
            beyond_horizon: self.beyond_horizon,
            notes: &self.notes,
        })
    }

    /// As text for a screen of 100 columns. When something differs the first difference comes
    /// first.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Some(first) = self.differences.first() {
            line(&mut out, first);
            line(&mut out, "");
        }
        self.write_hops(&mut out);
        self.write_money(&mut out);
        self.write_range(&mut out);
        let total = self.difference_count;
        if self.is_balanced() {
            line(&mut out, "balanced");
            return out;
        }
        let plural = if total == 1 { "difference" } else { "differences" };
        line(&mut out, &format!("NOT BALANCED: {} {plural}", grouped(total)));
        for (number, text) in self.differences.iter().take(SHOWN).enumerate() {
            line(&mut out, &format!("{:>4}  {text}", number + 1));
        }
        let shown = u64::try_from(self.differences.len().min(SHOWN)).unwrap_or(total);
        if total > shown {
            line(&mut out, &format!("      and {} more", grouped(total - shown)));
        }
        out
    }

    fn write_hops(&self, out: &mut String) {
        let titles = ["in", "out", "duplicates", "dead", "late", "rerouted"];
        let mut head = format!("{:<16}", "hop");
        titles.iter().for_each(|title| push(&mut head, &format!("{title:>14}")));
        line(out, &head);
        line(out, &"-".repeat(100));
        for hop in &self.hops {
            let counts =
                [hop.records_in, hop.out, hop.duplicates, hop.dead, hop.late, hop.rerouted];
            let mut row = match hop.hop.chars().count() {
                0..16 => format!("{:<16}", hop.hop),
                _ => {
                    line(out, &hop.hop);
                    " ".repeat(16)
                }
            };
            counts.iter().for_each(|count| push(&mut row, &format!("{:>14}", grouped(*count))));
            line(out, &row);
        }
        line(out, "");
    }

    fn write_money(&self, out: &mut String) {
        let mut head = format!("{:<8}{:>18} =", "money", "in");
        let parts = self.money.shown();
        let width = if parts.len() == PARTS.len() { 12 } else { 16 };
        for (at, (part, _)) in parts.iter().enumerate() {
            let plus = if at == 0 { " " } else { "+" };
            push(&mut head, &format!("{plus}{part:>width$} "));
        }
        line(out, &head);
        line(out, &"-".repeat(100));
        let unbalanced = self.money.unbalanced();
        for currency in self.money.currencies() {
            let text = |sums: &Sums| nano_text(sums.nano(currency), currency.exponent());
            let differs = unbalanced.iter().any(|(c, ..)| *c == currency);
            let sign = if differs { '≠' } else { '=' };
            let mut row =
                format!("{:<8}{:>18} {sign}", currency.as_str(), text(&self.money.records_in));
            for (at, (_, sums)) in parts.iter().enumerate() {
                let plus = if at == 0 { " " } else { "+" };
                push(&mut row, &format!("{plus}{:>width$} ", text(sums)));
            }
            line(out, row.trim_end());
        }
        if self.without_amount > 0 {
            line(
                out,
                &format!("{} dead letters have no readable amount", grouped(self.without_amount)),
            );
        }
        for (currency, sum) in &self.unmappable_sums {
            line(out, &format!("unmappable lines: {sum} {currency}, as their producer read it"));
        }
        line(out, "");
    }

    fn write_range(&self, out: &mut String) {
        let cut: Vec<String> = self
            .retained
            .iter()
            .filter(|(_, first)| first.iter().any(|offset| *offset > 0))
            .map(|(topic, first)| format!("{topic} from offsets {first:?}"))
            .collect();
        if cut.is_empty() {
            line(out, "proven: every record from offset 0 on");
        } else {
            line(out, &format!("proven: only what retention has left: {}", cut.join("; ")));
            line(out, &format!("not provable for that: {}", grouped(self.unproven)));
        }
        for (table, gone) in &self.retired {
            let (rows, before) = (grouped(gone.rows), &gone.before);
            line(out, &format!("retired on purpose: {rows} rows of {table} from before {before}"));
            if gone.not_compared > 0 {
                let records = grouped(gone.not_compared);
                line(
                    out,
                    &format!(
                        "  their records ({records} in the topics) were counted, not compared"
                    ),
                );
            }
        }
        for (place, count) in self.in_flight.iter().filter(|(_, count)| **count > 0) {
            line(out, &format!("in flight, not judged: {} {place}", grouped(*count)));
        }
        if self.foreign > 0 {
            let foreign = grouped(self.foreign);
            line(
                out,
                &format!("foreign: {foreign} records of transacciones are of no known source"),
            );
        }
        self.notes.iter().for_each(|note| line(out, note));
        line(out, "");
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn push(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    write!(out, "{text}").ok();
}

/// `541909` as `541,909`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(nano: i128) -> Sums {
        let mut sums = Sums::default();
        sums.add_nano(Currency::parse("GBP").expect("GBP"), nano).expect("sum");
        sums
    }

    fn sheet() -> Sheet {
        Sheet {
            hops: vec![Hop { hop: "producer".into(), records_in: 541_909, ..Hop::default() }],
            money: Money {
                records_in: sums(5_001_000_000),
                rows: sums(5_001_000_000),
                ..Money::default()
            },
            ..Sheet::default()
        }
    }

    #[test]
    fn a_balanced_sheet_says_so_in_a_hundred_columns() {
        let text = sheet().text();
        assert!(text.contains("541,909") && text.contains("5.001 ="), "{text}");
        assert!(text.ends_with("\nbalanced\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&sheet().json().expect("json")).expect("json");
        assert_eq!((&json["balanced"], &json["hops"][0]["in"]), (&true.into(), &541_909.into()));
        assert_eq!(json["money"]["GBP"]["rows"], "5.001");
    }

    #[test]
    fn what_was_retired_has_a_column_and_a_line() {
        let mut sheet = sheet();
        sheet.money.rows = sums(1_000_000);
        sheet.money.retired = sums(5_000_000_000);
        let retired = Retired { rows: 1_234, before: 0, ..Retired::default() };
        sheet.retire("transactions", Some(&retired), 1_000);
        let text = sheet.text();
        assert!(text.contains("1,234 rows of transactions from before 1970-01-01"), "{text}");
        assert!(text.contains("+     retired") && sheet.money.unbalanced().is_empty(), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("(1,000 in the topics) were counted, not compared"), "{text}");
    }

    #[test]
    fn the_first_difference_is_the_first_line() {
        let mut sheet = sheet();
        sheet.differences = (0..150).map(|i| format!("difference {i}")).collect();
        sheet.difference_count = 1_500;
        let text = sheet.text();
        assert!(text.starts_with("difference 0\n"), "{text}");
        assert!(text.contains("NOT BALANCED: 1,500 differences"), "{text}");
        assert!(text.ends_with("      and 1,400 more\n"), "{text}");
    }

    #[test]
    fn money_that_is_missing_is_seen() {
        let mut money = sheet().money;
        assert!(money.unbalanced().is_empty());
        money.dead = sums(1);
        assert_eq!(money.unbalanced().len(), 1);
    }
}
