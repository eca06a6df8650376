//! A log of events of a payment service, one JSON object a line: payments among other events,
//! nested fields, amounts in minor units, 19-digit ids, and lines that were cut off.

use super::{Files, Totals};
use crate::generate::Dice;
use serde_json::{Value, json};

/// Currency, its name in the log, and how many of 10⁻⁴ its minor unit is.
const CURRENCIES: [(&str, &str, i128); 3] =
    [("EUR", "eur", 100), ("JPY", "jpy", 10_000), ("KWD", "kwd", 10)];
/// First second: 2023-11-14T22:13:20Z.
const START: i64 = 1_700_000_000;

pub(super) fn make(lines: u64, seed: u64) -> (Files, Totals) {
    let mut dice = Dice::new(seed);
    let mut totals = Totals::default();
    let mut text = String::new();
    for number in 0..lines {
        let millis = START * 1_000 + i64::try_from(number).unwrap_or(0) * 137;
        let mut line = if dice.one_in(8) {
            totals.skipped += 1;
            json!({"event": {"id": id(number), "type": "session.opened"}, "at": millis}).to_string()
        } else {
            payment(number, millis, &mut dice, &mut totals)
        };
        line.push('\n');
        text += &line;
    }
    (vec![("events.ndjson", text.into_bytes())], totals)
}

/// Nineteen digits.
fn id(number: u64) -> u64 {
    1_234_567_890_123_000_000 + number
}

fn payment(number: u64, millis: i64, dice: &mut Dice, totals: &mut Totals) -> String {
    let (currency, name, unit) = dice.pick(&CURRENCIES);
    let minor = dice.magnitude(6, 20);
    let refund = dice.one_in(12);
    let account = dice.below(50);
    let note = if dice.one_in(3) { Value::Null } else { json!("línea 1\nline 2 \u{1f4b3}") };
    let event = json!({
        "event": {
            "id": id(number),
            "type": if refund { "payment.refunded" } else { "payment.captured" },
        },
        "at": millis,
        "data": {
            "amount": {"minor": minor, "currency": name},
            "customer": {"id": 9_007_199_254_740_993_000_u64 + account},
            "items": [{"merchant": format!("shop-{}", dice.below(40))}],
            "note": note,
        },
    });
    let mut line = event.to_string();
    if dice.one_in(150) {
        // The machine went down in the middle of a line.
        line.truncate(line.floor_char_boundary(line.len() / 2));
        totals.rejected += 1;
        return line;
    }
    totals.add(currency, i128::from(minor) * unit * if refund { -1 } else { 1 });
    totals.ids += 1;
    line
}
