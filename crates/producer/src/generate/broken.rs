//! Broken records of every sort that an input format can bring, each with the reason for which it
//! must become a dead letter.

use super::draw::Dice;
use super::{Body, encode_avro, encode_json};
use caudal_core::money::{Amount, Currency};
use caudal_core::reject::Reason;
use caudal_core::transaction::{Kind, Transaction};
use std::borrow::Cow;

/// A way to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A JSON object that is cut off.
    CutJson,
    /// An Avro body that is cut off.
    CutAvro,
    /// A schema id that nobody published.
    UnknownSchema,
    /// Text without any framing.
    NoFraming,
    /// No merchant_id.
    MissingField,
    /// A comma in the amount.
    CommaAmount,
    /// A purchase below zero.
    WrongSign,
    /// A currency that does not exist.
    UnknownCurrency,
    /// Half a yen.
    FractionOfYen,
    /// A time in the year 2999.
    FarFuture,
    /// A date as people write it.
    LocalDate,
    /// A description beyond the limit.
    LongText,
    /// A value of no bytes.
    EmptyValue,
    /// A tombstone.
    Tombstone,
}

impl Fault {
    /// All of them; each is as likely.
    pub const ALL: [Fault; 14] = [
        Fault::CutJson,
        Fault::CutAvro,
        Fault::UnknownSchema,
        Fault::NoFraming,
        Fault::MissingField,
        Fault::CommaAmount,
        Fault::WrongSign,
        Fault::UnknownCurrency,
        Fault::FractionOfYen,
        Fault::FarFuture,
        Fault::LocalDate,
        Fault::LongText,
        Fault::EmptyValue,
        Fault::Tombstone,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::CutJson => "cut_json",
            Fault::CutAvro => "cut_avro",
            Fault::UnknownSchema => "unknown_schema",
            Fault::NoFraming => "no_framing",
            Fault::MissingField => "missing_field",
            Fault::CommaAmount => "comma_amount",
            Fault::WrongSign => "wrong_sign",
            Fault::UnknownCurrency => "unknown_currency",
            Fault::FractionOfYen => "fraction_of_yen",
            Fault::FarFuture => "far_future",
            Fault::LocalDate => "local_date",
            Fault::LongText => "long_text",
            Fault::EmptyValue => "empty_value",
            Fault::Tombstone => "tombstone",
        }
    }

    /// Breaks a valid transaction: the value, the reason, and the money where it can be read.
    pub(super) fn apply(
        self,
        mut t: Transaction<'static>,
        schema_id: u32,
        dice: &mut Dice,
    ) -> (Body, Reason, Option<(Currency, Amount)>) {
        let money = t.money();
        let json = |t: &Transaction<'_>, from: &str, to: &str| {
            Some(encode_json(t).replacen(from, to, 1).into_bytes())
        };
        match self {
            Fault::CutJson => {
                let mut text = encode_json(&t);
                text.truncate(text.len() / 2);
                (Some(text.into_bytes()), Reason::Malformed, None)
            }
            Fault::CutAvro => {
                let mut value = encode_avro(schema_id, &t);
                value.truncate(value.len() - 3);
                (Some(value), Reason::Malformed, None)
            }
            Fault::UnknownSchema => (Some(encode_avro(schema_id ^ 1, &t)), Reason::Schema, None),
            Fault::NoFraming => (Some(b"hola mundo".to_vec()), Reason::Schema, None),
            Fault::MissingField => {
                (json(&t, "\"merchant_id\"", "\"merchant\""), Reason::MissingField, money)
            }
            Fault::CommaAmount => {
                let from = format!("\"{}\"", t.amount);
                (json(&t, &from, "\"12,50\""), Reason::Amount, None)
            }
            Fault::WrongSign => {
                t.kind = Kind::Purchase;
                t.amount.units = -t.amount.units.abs().max(1);
                let money = t.money();
                (Some(encode_avro(schema_id, &t)), Reason::Amount, money)
            }
            Fault::UnknownCurrency => {
                t.currency = Cow::Borrowed("XXX");
                (Some(encode_avro(schema_id, &t)), Reason::Currency, None)
            }
            Fault::FractionOfYen => {
                t.currency = Cow::Borrowed("JPY");
                // A last digit that is not zero: 125.0 would be a whole number of yen.
                let units = dice.between(10, 9_999) * 10 + dice.between(1, 9);
                t.amount = Amount { units, scale: 1 };
                (json(&t, "", ""), Reason::Currency, t.money())
            }
            Fault::FarFuture => {
                t.event_time = 32_472_144_000_000_000;
                (Some(encode_avro(schema_id, &t)), Reason::Timestamp, money)
            }
            Fault::LocalDate => {
                let time = caudal_core::time::to_rfc3339(t.event_time);
                (json(&t, &time, "05/01/2026 09:30"), Reason::Timestamp, money)
            }
            Fault::LongText => {
                t.description = Some(Cow::Owned("x".repeat(1_100)));
                (Some(encode_avro(schema_id, &t)), Reason::TooLarge, money)
            }
            Fault::EmptyValue => (Some(Vec::new()), Reason::NullValue, None),
            Fault::Tombstone => (None, Reason::NullValue, None),
        }
    }
}
