//! Records and queries for tests.

use caudal_core::money::{Amount, Currency};
use caudal_core::transaction::{Kind, Transaction, ValidTransaction};
use std::borrow::Cow;

use crate::aggregate::Accumulator;
use crate::plan::{Plan, shipped_one};
use crate::values::Values;

pub fn ventas_gold() -> Plan {
    shipped_one("ventas_gold")
}

pub fn alertas_fraude() -> Plan {
    shipped_one("alertas_fraude")
}

/// The values of one amount.
pub fn one(nano: i128) -> Values {
    Values::Amount(Accumulator::of(nano))
}

/// A purchase in hundredths of a euro, by an account at the merchant `m`.
pub fn valid(account: &str, event_time: i64, cents: i64) -> ValidTransaction<'static> {
    ValidTransaction {
        currency: Currency::parse("EUR").expect("EUR"),
        transaction: Transaction {
            transaction_id: Cow::Borrowed("t"),
            source: Cow::Borrowed("s"),
            source_seq: 0,
            account_id: Cow::Owned(account.to_owned()),
            merchant_id: Cow::Borrowed("m"),
            amount: Amount { units: cents, scale: 2 },
            scale_declared: true,
            currency: Cow::Borrowed("EUR"),
            kind: Kind::Purchase,
            country: None,
            event_time,
            description: None,
            attributes: vec![],
        },
    }
}
