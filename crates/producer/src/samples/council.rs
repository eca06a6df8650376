//! What a council publishes of its purchases each month: another delimiter, another encoding, other
//! names of columns and another way to write dates and credits every time.

use super::{Files, Totals, money, windows_1252};
use crate::generate::Dice;
use std::fmt::Write as _;

const SUPPLIERS: [&str; 6] =
    ["Crème & Co", "Smith, Jones & Partners", "O'Hara Ltd", "Müller GmbH", "Post Office", "Zoë's"];

struct Purchase {
    number: u64,
    day: i64,
    supplier: &'static str,
    pence: i64,
}

pub(super) fn make(lines: u64, seed: u64) -> (Files, Totals) {
    let mut dice = Dice::new(seed);
    let mut totals = Totals::default();
    let mut number = 100_000;
    let mut month = |totals: &mut Totals| -> Vec<Purchase> {
        (0..lines / 3 + 1)
            .map(|_| {
                number += 1;
                let pence = dice.magnitude(6, 19) * if dice.one_in(12) { -1 } else { 1 };
                totals.add("GBP", i128::from(pence) * 100);
                totals.ids += 1;
                Purchase {
                    number,
                    day: dice.between(1, 28),
                    supplier: dice.pick(&SUPPLIERS),
                    pence,
                }
            })
            .collect()
    };
    let months = [month(&mut totals), month(&mut totals), month(&mut totals)];
    // The last one ends in records without anything.
    totals.skipped += 2;
    let files = vec![
        ("purchases-2025-01.csv", january(&months[0])),
        ("purchases-2025-02.csv", february(&months[1])),
        ("purchases-2025-03.csv", march(&months[2])),
    ];
    (files, totals)
}

fn january(purchases: &[Purchase]) -> Vec<u8> {
    let mut text = "\u{feff}Date,Supplier,Amount,Transaction No,Card Holder\n".to_owned();
    for p in purchases {
        let amount = money(p.pence, '.', ",");
        let amount = if p.pence < 0 { format!("-£{amount}") } else { format!("£{amount}") };
        let supplier = p.supplier;
        writeln!(text, "{:02}/01/2025,\"{supplier}\",\"{amount}\",{},Clerk", p.day, p.number).ok();
    }
    text.into_bytes()
}

fn february(purchases: &[Purchase]) -> Vec<u8> {
    let mut text = "Purchasing cards, February 2025;;;;\n".to_owned();
    text += " Trans Date ;Merchant Name;Gross Amt;VAT;Trans No\n";
    for p in purchases {
        let amount = money(p.pence, ',', ".");
        let amount = if p.pence < 0 { format!("{amount}-") } else { amount };
        writeln!(text, "2025-02-{:02};{};{amount};0,00;{}", p.day, p.supplier, p.number).ok();
    }
    windows_1252(&text)
}

fn march(purchases: &[Purchase]) -> Vec<u8> {
    let mut text =
        "TRANSACTION DATE\tsupplier name\tNet  Amount (£)\tTransaction Number\tCategory\n"
            .to_owned();
    for p in purchases {
        let amount = money(p.pence, '.', ",");
        let amount = if p.pence < 0 { format!("({amount})") } else { amount };
        writeln!(text, "{:02}-Mar-25\t{}\t{amount}\t{}\tOffice", p.day, p.supplier, p.number).ok();
    }
    text += "\t\t\t\t\n\t\t\t\t\n";
    text.into_bytes()
}
