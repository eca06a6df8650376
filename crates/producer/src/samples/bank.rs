//! Two statements of a Spanish bank that overlap by a month: lines before the table, Windows-1252,
//! a comma for decimals, amounts without a sign beside a column that tells it, years of two digits,
//! lines that only show a balance, and no id.

use super::{Files, Totals, money, windows_1252};
use crate::generate::Dice;
use jiff::civil::Date;
use std::fmt::Write as _;

const HEAD: &str = "Extracto de movimientos;;;;;;\nTitular: Señora Muñoz;;;;;;\n\n\
    Fecha;Hora;Concepto;Tipo;Importe;Saldo;Cuenta;\n";
const CONCEPTS: [&str; 6] = [
    "Café Ñandú, Málaga",
    "\"Peaje; autopista\"",
    "Nómina",
    "Recibo luz\u{a0}y gas",
    "Farmacia",
    "\"Dos\nlíneas\"",
];

struct Movement {
    day: Date,
    text: String,
    /// `None` shows a balance only.
    cents: Option<i64>,
}

pub(super) fn make(lines: u64, seed: u64) -> (Files, Totals) {
    let mut dice = Dice::new(seed);
    let months: Vec<Vec<Movement>> =
        (1..=3).map(|month| movements(month, lines / 4 + 1, &mut dice)).collect();
    let mut totals = Totals::default();
    let (first, second) = (file(&months[..2], &mut totals), file(&months[1..], &mut totals));
    let known = |month: &Vec<Movement>| month.iter().filter(|m| m.cents.is_some()).count() as u64;
    totals.ids = months.iter().map(known).sum();
    (vec![("extracto-1.csv", first), ("extracto-2.csv", second)], totals)
}

fn movements(month: i8, count: u64, dice: &mut Dice) -> Vec<Movement> {
    let mut all: Vec<Movement> = Vec::new();
    let mut balance = 100_000;
    let mut day = 1;
    for _ in 0..count {
        day = (day + i8::from(dice.one_in(5))).min(28);
        let date = jiff::civil::date(2026, month, day);
        if dice.one_in(40) {
            let text = format!(";SALDO;INFO;;{};", money(balance, ',', "."));
            all.push(Movement { day: date, text, cents: None });
            continue;
        }
        let cents = dice.magnitude(4, 20);
        let out = !dice.one_in(6);
        balance += if out { -cents } else { cents };
        let clock = format!("{:02}:{:02}", dice.between(0, 23), dice.between(0, 59));
        let concept = dice.pick(&CONCEPTS);
        let kind = if out { "CARGO" } else { "ABONO" };
        let amount = money(cents, ',', ".");
        let balance = money(balance, ',', ".");
        let text = format!("{clock};{concept};{kind};{amount} €;{balance}");
        // Money out is what somebody has bought.
        let cents = Some(if out { cents } else { -cents });
        all.push(Movement { day: date, text, cents });
    }
    all
}

fn file(months: &[Vec<Movement>], totals: &mut Totals) -> Vec<u8> {
    let mut text = HEAD.to_owned();
    for movement in months.iter().flatten() {
        let day = movement.day.strftime("%d/%m/%y");
        match movement.cents {
            Some(cents) => {
                totals.add("EUR", i128::from(cents) * 100);
                writeln!(text, "{day};{};ES9121000418450200051332;", movement.text).ok();
            }
            None => {
                totals.skipped += 1;
                writeln!(text, "{day};{};", movement.text).ok();
            }
        }
    }
    // What spreadsheets leave at the end.
    text += ";;;;;;;\n";
    totals.skipped += 1;
    windows_1252(&text)
}
