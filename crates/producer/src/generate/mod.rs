//! Seeded records that look like life, and what they must lead to.
//!
//! Accounts and merchants with Zipf skew, refunds, three currencies with
//! different exponents, late arrivals, repeats, conflicts and broken records. A pure function of
//! its [`Recipe`]: the same on every machine, at every start.

pub mod args;
mod broken;
pub mod csv;
mod draw;
mod expected;
pub mod recipe;
mod shape;

pub use broken::Fault;
pub use draw::{Dice, Zipf};
pub use expected::{Expected, expected, expected_of};
pub use shape::{Mix, STEP, Shape};

use caudal_core::avro::{self, Writer};
use caudal_core::money::{Amount, Currency};
use caudal_core::reject::Reason;
use caudal_core::time::{MINUTE, SECOND, to_rfc3339};
use caudal_core::transaction::{Kind, Transaction};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// First event time unless another is chosen: 2026-01-05T08:00:00Z, in microseconds.
pub const BASE: i64 = 1_767_600_000 * SECOND;
/// A repeat comes at most this many records later: within two minutes of event time.
const REPEAT_WITHIN: i64 = 4_000;

/// Value of a record.
type Body = Option<Vec<u8>>;

/// What a record must lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A row.
    Valid(Currency, Amount),
    /// Nothing new: the same id and contents as before.
    Duplicate(Currency, Amount),
    /// A dead letter, with the money where it can be read.
    Dead(Reason, Option<(Currency, Amount)>),
}

impl Class {
    /// The money, where it can be read.
    #[must_use]
    pub fn money(&self) -> Option<(Currency, Amount)> {
        match self {
            Class::Valid(currency, amount) | Class::Duplicate(currency, amount) => {
                Some((*currency, *amount))
            }
            Class::Dead(_, money) => *money,
        }
    }
}

/// A generated record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The account it is keyed by.
    pub key: Vec<u8>,
    /// Avro, JSON or something broken; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// What it must lead to.
    pub class: Class,
}

/// Which records to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// How many.
    pub count: u64,
    /// The seed.
    pub seed: u64,
    /// First event time in microseconds since 1970.
    pub base: i64,
    /// What they look like.
    pub shape: Shape,
}

impl Recipe {
    /// Of [`Shape::LIFE`], with the usual first event time.
    #[must_use]
    pub fn new(count: u64, seed: u64) -> Recipe {
        Recipe { count, seed, base: BASE, shape: Shape::LIFE }
    }

    /// `<seed>-<count>`, then the first event time in seconds and the shape where they are not the
    /// usual ones.
    #[must_use]
    pub fn label(&self) -> String {
        let Recipe { count, seed, base, shape } = *self;
        let mut label = format!("{seed}-{count}");
        if base != BASE {
            label += &format!("-{}", base.div_euclid(SECOND));
        }
        label + &shape.label()
    }
}

/// Generates records, from the first on.
#[derive(Debug, Clone)]
pub struct Generator {
    recipe: Recipe,
    label: String,
    source: String,
    schema_id: u32,
    dice: Dice,
    accounts: Zipf,
    merchants: Zipf,
    next: u64,
    /// Repeats and conflicts by the record at which they are due.
    pending: BTreeMap<(u64, u64), Generated>,
}

impl Generator {
    /// A generator; `source` goes into the records, `schema_id` into their framing.
    #[must_use]
    pub fn new(recipe: Recipe, source: &str, schema_id: u32) -> Generator {
        Generator {
            recipe,
            label: recipe.label(),
            source: source.to_owned(),
            schema_id,
            dice: Dice::new(recipe.seed),
            accounts: Zipf::new(recipe.shape.accounts, recipe.shape.skew),
            merchants: Zipf::new(recipe.shape.merchants, recipe.shape.skew),
            next: 0,
            pending: BTreeMap::new(),
        }
    }

    fn fresh(&mut self, index: u64) -> Generated {
        let transaction = self.transaction(index);
        let key = transaction.account_id.as_bytes().to_vec();
        let mix = self.recipe.shape.mix;
        if self.dice.hits(mix.broken) {
            let fault = mix.fault(&mut self.dice);
            let (value, reason, money) = fault.apply(transaction, self.schema_id, &mut self.dice);
            return Generated { key, value, class: Class::Dead(reason, money) };
        }
        let money = transaction.money();
        let value = self.encode(&transaction);
        // The drawn currencies are all known.
        let class = money.map_or(Class::Dead(Reason::Currency, None), |(c, a)| Class::Valid(c, a));
        let record = Generated { key, value: Some(value), class };
        self.plan_repeat(index, &record, transaction);
        record
    }

    fn plan_repeat(&mut self, index: u64, record: &Generated, mut t: Transaction<'static>) {
        let Class::Valid(currency, amount) = record.class else { return };
        let mix = self.recipe.shape.mix;
        if self.dice.hits(mix.duplicate) {
            let class = Class::Duplicate(currency, amount);
            let due = index.saturating_add_signed(self.dice.between(1, REPEAT_WITHIN));
            self.pending.insert((due, index), Generated { class, ..record.clone() });
        } else if self.dice.hits(mix.conflict) {
            // One minor unit more (less, for a refund): the sign still fits the kind.
            t.amount.units += if t.amount.units < 0 { -1 } else { 1 };
            let class = Class::Dead(Reason::Conflict, t.money());
            let due = index.saturating_add_signed(self.dice.between(1, REPEAT_WITHIN));
            let value = Some(self.encode(&t));
            self.pending.insert((due, index), Generated { value, class, ..record.clone() });
        }
    }

    fn transaction(&mut self, index: u64) -> Transaction<'static> {
        let account = self.accounts.draw(&mut self.dice);
        let merchant = self.merchants.draw(&mut self.dice);
        // Most people spend in one currency.
        let (currency, scale, low, high) = match account % 10 {
            0..=6 => ("EUR", 2, 6, 17),
            7 | 8 => ("JPY", 0, 6, 13),
            _ => ("KWD", 3, 7, 17),
        };
        let units = self.dice.magnitude(low, high);
        let (kind, units) = match self.dice.below(100) {
            0..=4 => (Kind::Refund, -units),
            5 => (Kind::Adjustment, self.dice.between(-units, units)),
            _ => (Kind::Purchase, units),
        };
        let country = (!self.dice.one_in(10))
            .then(|| Cow::Borrowed(self.dice.pick(&["ES", "ES", "PT", "FR", "DE", "JP", "KW"])));
        let description = self.dice.one_in(3).then(|| {
            Cow::Borrowed(self.dice.pick(&["café", "Lebensmittel", "電車", "billet", "groceries"]))
        });
        let channel = self.dice.pick(&["web", "app", "store"]);
        Transaction {
            transaction_id: Cow::Owned(format!("g{}-{index}", self.label)),
            source: Cow::Owned(self.source.clone()),
            source_seq: i64::try_from(index).unwrap_or(i64::MAX),
            account_id: Cow::Owned(format!("acc-{account:05}")),
            merchant_id: Cow::Owned(format!("mer-{merchant:04}")),
            amount: Amount { units, scale },
            scale_declared: true,
            currency: Cow::Borrowed(currency),
            kind,
            country,
            event_time: self.event_time(index),
            description,
            attributes: vec![(Cow::Borrowed("channel"), Cow::Borrowed(channel))],
        }
    }

    /// Two seconds of jitter; the late ones arrive half a minute to six minutes late: some after
    /// their window and its grace, some in time.
    fn event_time(&mut self, index: u64) -> i64 {
        let now = i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(self.recipe.shape.step);
        let delay = if self.dice.hits(self.recipe.shape.mix.late) {
            self.dice.between(30 * SECOND, 6 * MINUTE)
        } else {
            self.dice.between(0, 2 * SECOND)
        };
        self.recipe.base.saturating_add(now).saturating_sub(delay)
    }

    /// Some are JSON, as a student would type it.
    fn encode(&mut self, t: &Transaction<'_>) -> Vec<u8> {
        if self.dice.hits(self.recipe.shape.mix.json) {
            return encode_json(t).into_bytes();
        }
        encode_avro(self.schema_id, t)
    }
}

impl Iterator for Generator {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        let index = self.next;
        if index >= self.recipe.count {
            return None;
        }
        self.next += 1;
        if let Some(due) = self.pending.first_entry()
            && due.key().0 <= index
        {
            return Some(due.remove());
        }
        Some(self.fresh(index))
    }
}

fn encode_avro(schema_id: u32, t: &Transaction<'_>) -> Vec<u8> {
    let mut out = Writer::framed(schema_id);
    avro::write_transaction(&mut out, t);
    out.into_bytes()
}

fn encode_json(t: &Transaction<'_>) -> String {
    let attributes: BTreeMap<_, _> = t.attributes.iter().cloned().collect();
    // Keys in alphabetical order, so that the bytes are the same whatever order serde_json keeps.
    json!({
        "account_id": t.account_id,
        "amount": t.amount.to_string(),
        "attributes": attributes,
        "country": t.country,
        "currency": t.currency,
        "description": t.description,
        "event_time": to_rfc3339(t.event_time),
        "kind": t.kind.as_str(),
        "merchant_id": t.merchant_id,
        "source": t.source,
        "source_seq": t.source_seq,
        "transaction_id": t.transaction_id,
    })
    .to_string()
}
