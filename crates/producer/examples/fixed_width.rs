//! A source of your own: a file of columns with fixed widths, which no mapping reads. Killed at any
//! moment and started again, each line arrives once; bad lines end in `dead_letters`.
//!
//! `cargo run --release -p caudal-producer --example fixed_width -- FILE`
//!
//! | columns | 0–9 | 10–21 | 22–33 | 34–43 | 44–46 | 47–66 |
//! |---|---|---|---|---|---|---|
//! | | id | account | merchant | amount in cents, signed | currency | time, RFC 3339 |

use anyhow::{Context as _, Result};
use caudal_core::money::Amount;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::time::parse_rfc3339;
use caudal_core::transaction::{Kind, Transaction};
use caudal_kafka::Kafka;
use caudal_producer::run::run_own;
use caudal_producer::source::own::OwnRecord;
use std::io::{BufRead as _, BufReader};

/// What is wrong with a line is said by a `Rejection`: reason and words of its dead letter.
fn transaction(line: &[u8]) -> Result<Transaction<'static>, Rejection> {
    let line = std::str::from_utf8(line)
        .map_err(|_| Rejection::new(Reason::Malformed, "the line is not UTF-8"))?;
    let column = |from: usize, to: usize| {
        let text = line.get(from..to).map(|text| text.trim().to_owned());
        text.ok_or_else(|| Rejection::new(Reason::Mapping, format!("it ends before column {to}")))
    };
    let cents: Result<i64, _> = column(34, 44)?.parse();
    let units = cents.map_err(|_| Rejection::new(Reason::Amount, "the amount is no number"))?;
    let time = parse_rfc3339(&column(47, 67)?);
    Ok(Transaction {
        transaction_id: column(0, 10)?.into(),
        account_id: column(10, 22)?.into(),
        merchant_id: column(22, 34)?.into(),
        amount: Amount { units, scale: 2 },
        scale_declared: false,
        currency: column(44, 47)?.into(),
        kind: if units < 0 { Kind::Refund } else { Kind::Purchase },
        event_time: time.ok_or_else(|| Rejection::new(Reason::Timestamp, "the time is no time"))?,
        source: "".into(), // filled in, as is its number
        source_seq: 0,
        country: None,
        description: None,
        attributes: Vec::new(),
    })
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("which file?")?;
    // Bytes, and not texts: a line that is not UTF-8 is a dead letter, and the next one follows.
    let lines = BufReader::new(std::fs::File::open(path)?).split(b'\n');
    // Any iterator will do that gives the same records in the same order at every start.
    let records = lines.map(|line| {
        let raw = line?;
        Ok(OwnRecord { transaction: transaction(&raw), raw })
    });
    let brokers = std::env::var("BOOTSTRAP_SERVERS").unwrap_or("localhost:9092".to_owned());
    let sent = run_own("fixed-width", records, &Kafka::plain(&brokers))?;
    println!("{} lines sent, {:?}", sent.sent, sent.total()?.sums.texts());
    Ok(())
}
