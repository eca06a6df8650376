//! The balance sheet, as text and as JSON.

use caudal_core::money::{Currency, Sums, nano_text};
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
    /// Of dead letters, where the amount can be read.
    pub dead: Sums,
    /// Of duplicates.
    pub duplicates: Sums,
    /// Of valid records that the sink has not stored yet.
    pub in_flight: Sums,
}

/// The parts of [`Money`] in the order of the equation.
const PARTS: [&str; 4] = ["rows", "dead", "duplicates", "in flight"];

impl Money {
    fn parts(&self) -> [&Sums; 4] {
        [&self.rows, &self.dead, &self.duplicates, &self.in_flight]
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
            let names = ["rows", "dead", "duplicates", "in_flight"];
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
            let mut row = format!("{:<16}", hop.hop);
            counts.iter().for_each(|count| push(&mut row, &format!("{:>14}", grouped(*count))));
            line(out, &row);
        }
        line(out, "");
    }

    fn write_money(&self, out: &mut String) {
        let mut head = format!("{:<8}{:>18} =", "money", "in");
        for (at, part) in PARTS.iter().enumerate() {
            let plus = if at == 0 { " " } else { "+" };
            push(&mut head, &format!("{plus}{part:>16} "));
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
            for (at, sums) in self.money.parts().into_iter().enumerate() {
                let plus = if at == 0 { " " } else { "+" };
                push(&mut row, &format!("{plus}{:>16} ", text(sums)));
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
