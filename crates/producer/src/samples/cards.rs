//! A dump of card transactions: the date in four columns, signed 64-bit numbers for merchants,
//! `$-12.50`, declined ones among them, and full card numbers.

use super::{Files, Totals};
use crate::generate::{Dice, Zipf};
use std::fmt::Write as _;

const HEAD: &str = "User,Card Number,Year,Month,Day,Time,Amount,Use Chip,Merchant Name,Merchant \
    City,Merchant State,MCC,Errors?,Is Fraud?\n";
const CITIES: [(&str, &str); 5] = [
    ("La Verne", "CA"),
    ("ONLINE", ""),
    ("\"St. John's, \"\"Old Town\"\"\"", "NY"),
    ("Roma", "Italy"),
    ("Monterey Park", "CA"),
];

pub(super) fn make(lines: u64, seed: u64) -> (Files, Totals) {
    let mut dice = Dice::new(seed);
    let cards: Vec<String> = (0..20).map(|_| card(&mut dice)).collect();
    let merchants = Zipf::new(400, 100);
    let mut totals = Totals { cards: cards.clone(), ..Totals::default() };
    let mut text = HEAD.to_owned();
    for _ in 0..lines {
        let user = dice.below(20);
        let number = &cards[usize::try_from(user).unwrap_or(0)];
        let date = (dice.between(2018, 2025), dice.between(1, 12), dice.between(1, 28));
        let clock = format!("{:02}:{:02}", dice.between(0, 23), dice.between(0, 59));
        let mut cents = dice.magnitude(5, 16) * if dice.one_in(15) { -1 } else { 1 };
        if dice.one_in(200) {
            cents = 0;
        }
        let sign = if cents < 0 { "-" } else { "" };
        let mut amount = format!("${sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
        let declined = dice.one_in(50);
        if declined {
            totals.skipped += 1;
        } else if dice.one_in(300) {
            // A letter for a digit: nobody can tell how much that is.
            amount = format!("$1O.{:02}", dice.between(0, 99));
            totals.rejected += 1;
        } else {
            totals.add("USD", i128::from(cents) * 100);
            totals.ids += 1;
        }
        let merchant = merchant(merchants.draw(&mut dice));
        let (city, state) = dice.pick(&CITIES);
        let error = if declined { "\"Bad PIN,Insufficient Balance\"" } else { "" };
        writeln!(
            text,
            "{user},{number},{},{},{},{clock},{amount},Chip Transaction,{merchant},{city},{state},\
             5411,{error},No",
            date.0, date.1, date.2
        )
        .ok();
    }
    (vec![("card_transactions.csv", text.into_bytes())], totals)
}

/// A number that spans the 64 bits, the same for the same rank.
fn merchant(rank: u64) -> i64 {
    match rank {
        1 => i64::MAX,
        2 => i64::MIN,
        rank => (rank.wrapping_mul(0x9e37_79b9_7f4a_7c15)).cast_signed(),
    }
}

/// Sixteen digits that pass the Luhn check.
fn card(dice: &mut Dice) -> String {
    let mut digits: Vec<u8> = vec![4];
    digits.extend((0..14).map(|_| u8::try_from(dice.below(10)).unwrap_or(0)));
    let sum: u8 = digits
        .iter()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (1, _) => *digit,
            (_, doubled) => doubled / 10 + doubled % 10,
        })
        .sum();
    digits.push((10 - sum % 10) % 10);
    digits.iter().map(|digit| char::from(b'0' + digit)).collect()
}
