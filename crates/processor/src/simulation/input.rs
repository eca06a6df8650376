//! What a schedule puts into `transacciones`, and what is true of each record. The reference and
//! the oracle know a record by its number here; they never decode it.

use super::dice::Dice;
use caudal_core::avro::{self, Writer};
use caudal_core::decode::Record;
use caudal_core::money::Amount;
use caudal_core::partitioner::partition_of;
use caudal_core::reject::Reason;
use caudal_core::schema::Schemas;
use caudal_core::time::{HOUR, MINUTE, SECOND, to_rfc3339};
use caudal_core::transaction::{Kind, Transaction};
use std::borrow::Cow;

/// 2025-03-01T00:00:00Z, in microseconds: event time of every schedule begins around here.
const BEGIN: i64 = 1_740_787_200 * SECOND;
const DAY: i64 = 24 * HOUR;

/// A valid transaction as its sender means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub id: String,
    pub account: String,
    pub merchant: String,
    pub currency: &'static str,
    pub purchase: bool,
    /// In units of 10⁻⁹.
    pub nano: i128,
    pub event_time: i64,
}

/// What must become of a record where it arrives first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Truth {
    /// It is a transaction.
    Valid(Fact),
    /// It is a dead letter.
    Dead(Reason),
}

/// A record of the input.
#[derive(Debug, Clone)]
pub struct Input {
    /// Where it is written.
    pub partition: i32,
    pub key: Option<Box<[u8]>>,
    pub value: Option<Box<[u8]>>,
    pub truth: Truth,
}

impl Input {
    /// A valid record in the partition where it belongs, as JSON.
    pub fn at_home(fact: Fact, partitions: i32) -> Input {
        Input {
            partition: partition_of(fact.account.as_bytes(), partitions),
            key: Some(fact.account.as_bytes().into()),
            value: Some(json(&fact).into_bytes().into()),
            truth: Truth::Valid(fact),
        }
    }

    /// As it is sent.
    pub fn record(&self) -> Record {
        Record { key: self.key.clone(), value: self.value.clone(), ..Record::default() }
    }
}

/// Bounds of one schedule's input, drawn from its seed.
#[derive(Debug, Clone)]
pub struct Shape {
    pub partitions: i32,
    pub records: usize,
    /// Some partitions may have no account.
    accounts: Vec<String>,
    merchants: usize,
    /// Where each partition's event time begins.
    bases: Vec<i64>,
    /// Typical seconds between two records of a partition.
    pace: i64,
    /// In 1000.
    duplicates: u32,
    conflicts: u32,
    foreign: u32,
    broken: u32,
    disorder: u32,
}

impl Shape {
    /// Draws one.
    pub fn draw(dice: &mut Dice) -> Shape {
        let partitions = i32::try_from(dice.within(2..5)).expect("few");
        let mut homes: Vec<i32> = (0..partitions).collect();
        dice.shuffle(&mut homes);
        if dice.chance(350) {
            homes.truncate(1 + dice.index(homes.len()));
        }
        let wanted = 2 + dice.index(7);
        let accounts = (0..)
            .map(|i| format!("cuenta-{i}"))
            .filter(|a| homes.contains(&partition_of(a.as_bytes(), partitions)))
            .take(wanted)
            .collect();
        let apart = dice.chance(500);
        let mut bases: Vec<i64> = (0..i64::from(partitions))
            .map(|p| BEGIN + if apart { p * 30 * DAY } else { dice.within(0..20) * SECOND })
            .collect();
        dice.shuffle(&mut bases);
        let mut rate = |most: i64| u32::try_from(dice.within(0..most)).expect("a rate");
        Shape {
            partitions,
            accounts,
            bases,
            duplicates: rate(200),
            conflicts: rate(60),
            foreign: rate(200),
            broken: rate(100),
            disorder: rate(500),
            records: 20 + dice.index(160),
            merchants: 1 + dice.index(4),
            pace: dice.within(1..15),
        }
    }

    /// The records, in the order in which they are sent.
    pub fn inputs(&self, dice: &mut Dice) -> Vec<Input> {
        let mut clocks = self.bases.clone();
        let mut inputs: Vec<Input> = Vec::with_capacity(self.records);
        for number in 0..self.records {
            let again = inputs.len().checked_sub(1).map(|last| dice.index(last + 1));
            let input = match again.map(|i| (inputs[i].truth.clone(), dice.within(0..1000))) {
                Some((Truth::Valid(fact), roll)) if roll < i64::from(self.duplicates) => {
                    self.valid(dice, fact)
                }
                Some((Truth::Valid(fact), roll))
                    if roll < i64::from(self.duplicates + self.conflicts) =>
                {
                    self.valid(
                        dice,
                        Fact { nano: fact.nano + fact.nano.signum() * 10_000_000, ..fact },
                    )
                }
                _ if dice.chance(self.broken) => self.broken(dice, number),
                _ => {
                    let fact = self.fact(dice, number, &mut clocks);
                    self.valid(dice, fact)
                }
            };
            inputs.push(input);
        }
        inputs
    }

    fn home(&self, account: &str) -> i32 {
        partition_of(account.as_bytes(), self.partitions)
    }

    fn fact(&self, dice: &mut Dice, number: usize, clocks: &mut [i64]) -> Fact {
        let account = dice.pick(&self.accounts).clone();
        let clock = &mut clocks[usize::try_from(self.home(&account)).expect("a partition")];
        *clock += dice.within(0..2 * self.pace * SECOND);
        if dice.chance(30) {
            *clock += dice.within(0..5 * MINUTE);
        }
        let late = match dice.chance(self.disorder) {
            true if dice.chance(150) => dice.within(0..20 * MINUTE),
            true => dice.within(0..40 * SECOND),
            false => 0,
        };
        let purchase = dice.chance(850);
        let cents = if dice.chance(50) { dice.within(1..900_000) } else { dice.within(1..9_000) };
        let nano = i128::from(if purchase { cents } else { -cents }) * 10_000_000;
        Fact {
            id: format!("t-{number}"),
            account,
            merchant: format!("m-{}", dice.index(self.merchants)),
            currency: if dice.chance(800) { "EUR" } else { "GBP" },
            purchase,
            nano,
            event_time: *clock - late,
        }
    }

    /// A record with this content, in the right partition or, now and then, in a foreign one.
    fn valid(&self, dice: &mut Dice, fact: Fact) -> Input {
        let home = self.home(&fact.account);
        let foreign = dice.chance(self.foreign);
        let partition =
            if foreign { dice.index(usize::try_from(self.partitions).expect("few")) } else { 0 };
        let value = if dice.chance(500) { json(&fact).into_bytes() } else { avro_of(&fact) };
        Input {
            partition: if foreign { i32::try_from(partition).expect("few") } else { home },
            key: (!foreign || dice.chance(500)).then(|| fact.account.as_bytes().into()),
            value: Some(value.into()),
            truth: Truth::Valid(fact),
        }
    }

    fn broken(&self, dice: &mut Dice, number: usize) -> Input {
        let fact = Fact {
            id: format!("t-{number}"),
            account: dice.pick(&self.accounts).clone(),
            merchant: "m-0".into(),
            currency: "EUR",
            purchase: true,
            nano: 1_230_000_000,
            event_time: BEGIN,
        };
        let text = json(&fact);
        let far = to_rfc3339(BEGIN + 3650 * DAY);
        let (reason, value) = match dice.index(6) {
            0 => (Reason::NullValue, None),
            1 => (Reason::Malformed, Some("{\"amount\":".to_owned())),
            2 => (Reason::Amount, Some(text.replace("1.230000000", "-1"))),
            3 => (Reason::Timestamp, Some(text.replace(&to_rfc3339(BEGIN), &far))),
            4 => (Reason::MissingField, Some(text.replace("merchant_id", "comercio"))),
            _ => (Reason::Schema, Some("hola".to_owned())),
        };
        let partitions = usize::try_from(self.partitions).expect("few");
        Input {
            partition: i32::try_from(dice.index(partitions)).expect("few"),
            key: None,
            value: value.map(|text| text.into_bytes().into()),
            truth: Truth::Dead(reason),
        }
    }
}

fn kind(fact: &Fact) -> Kind {
    if fact.purchase { Kind::Purchase } else { Kind::Refund }
}

fn json(fact: &Fact) -> String {
    format!(
        r#"{{"transaction_id":"{}","account_id":"{}","merchant_id":"{}","amount":"{}","currency":"{}","kind":"{}","event_time":"{}"}}"#,
        fact.id,
        fact.account,
        fact.merchant,
        caudal_core::money::decimal_text(fact.nano, 9),
        fact.currency,
        kind(fact).as_str(),
        to_rfc3339(fact.event_time)
    )
}

fn avro_of(fact: &Fact) -> Vec<u8> {
    thread_local! {
        static SCHEMA: u32 = Schemas::shipped().transaction.id;
    }
    let mut out = Writer::framed(SCHEMA.with(|id| *id));
    let transaction = Transaction {
        transaction_id: Cow::Borrowed(&fact.id),
        source: Cow::Borrowed("simulation"),
        source_seq: 0,
        account_id: Cow::Borrowed(&fact.account),
        merchant_id: Cow::Borrowed(&fact.merchant),
        amount: Amount { units: i64::try_from(fact.nano / 10_000_000).expect("cents"), scale: 2 },
        scale_declared: true,
        currency: Cow::Borrowed(fact.currency),
        kind: kind(fact),
        country: None,
        event_time: fact.event_time,
        description: None,
        attributes: Vec::new(),
    };
    avro::write_transaction(&mut out, &transaction);
    out.into_bytes()
}
