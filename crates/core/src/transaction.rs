//! The business event.

use crate::money::{Amount, Currency};
use std::borrow::Cow;

/// What kind of movement a [`Transaction`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Money in; the amount is positive.
    Purchase,
    /// Money back; the amount is negative.
    Refund,
    /// Anything else, zero included.
    Adjustment,
}

impl Kind {
    /// Every kind, in the order of the Avro enum.
    pub const ALL: [Kind; 3] = [Kind::Purchase, Kind::Refund, Kind::Adjustment];

    /// The symbol of the Avro enum and the text in JSON and SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Purchase => "PURCHASE",
            Kind::Refund => "REFUND",
            Kind::Adjustment => "ADJUSTMENT",
        }
    }

    /// The kind with that symbol.
    #[must_use]
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// The business event as it was supplied: decoded, not yet validated.
///
/// Texts borrow from the record where they can. `currency` is still text here, because an unknown
/// code is a rejection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// Unique id, 1 to 64 characters.
    pub transaction_id: Cow<'a, str>,
    /// Where the event came from; absent in JSON means the topic-partition it arrived at.
    pub source: Cow<'a, str>,
    /// Position within `source`; absent in JSON means the offset it arrived at.
    pub source_seq: i64,
    /// The account: the key of the record.
    pub account_id: Cow<'a, str>,
    /// The merchant, or the article of an invoice line.
    pub merchant_id: Cow<'a, str>,
    /// Exact amount; negative for refunds.
    pub amount: Amount,
    /// Whether the writer declared the amount's scale (Avro), so that it may exceed ISO 4217's.
    pub scale_declared: bool,
    /// ISO 4217 code as supplied.
    pub currency: Cow<'a, str>,
    /// Kind of movement.
    pub kind: Kind,
    /// ISO 3166-1 alpha-2 code.
    pub country: Option<Cow<'a, str>>,
    /// When it happened, in microseconds since 1970, UTC.
    pub event_time: i64,
    /// Free text.
    pub description: Option<Cow<'a, str>>,
    /// Further texts by name, sorted by name.
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Transaction<'_> {
    /// The amount with its currency, when the code is known: what a rejection carries.
    #[must_use]
    pub fn money(&self) -> Option<(Currency, Amount)> {
        Currency::parse(&self.currency).map(|c| (c, self.amount))
    }

    /// A copy that borrows nothing.
    #[must_use]
    pub fn into_owned(self) -> Transaction<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        Transaction {
            transaction_id: own(self.transaction_id),
            source: own(self.source),
            source_seq: self.source_seq,
            account_id: own(self.account_id),
            merchant_id: own(self.merchant_id),
            amount: self.amount,
            scale_declared: self.scale_declared,
            currency: own(self.currency),
            kind: self.kind,
            country: self.country.map(own),
            event_time: self.event_time,
            description: self.description.map(own),
            attributes: self.attributes.into_iter().map(|(k, v)| (own(k), own(v))).collect(),
        }
    }
}

/// A transaction that passed [`crate::validate::validate`]: its currency is known and its amount
/// is normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidTransaction<'a> {
    /// The event; its amount is normalised to the currency's exponent or the declared scale.
    pub transaction: Transaction<'a>,
    /// The parsed currency.
    pub currency: Currency,
}
