//! Why a record becomes a dead letter: a closed set, so that people can count and alert by it.

use crate::money::{Amount, Currency};
use std::fmt;

/// The reason of a dead letter. The set is closed: scripts, metrics and tables rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Bytes that are neither valid Avro under their schema nor valid JSON.
    Malformed,
    /// An unknown schema id, or no known framing.
    Schema,
    /// The producer could not map the line, or the key's partition cannot be found.
    Mapping,
    /// A required field is absent or empty.
    MissingField,
    /// Not a number, too fine, out of range, or of the wrong sign for its kind.
    Amount,
    /// Not an ISO 4217 code, or a fraction in a currency without minor units.
    Currency,
    /// Not RFC 3339, too far in the past or in the future.
    Timestamp,
    /// A transaction id that was already used with other contents.
    Conflict,
    /// Larger than a record or a field may be.
    TooLarge,
    /// A record without a value.
    NullValue,
    /// A continuous query could not be evaluated on the record.
    Query,
    /// PostgreSQL refused the row.
    Constraint,
}

impl Reason {
    /// Every reason, in the order in which reports list them.
    pub const ALL: [Reason; 12] = [
        Reason::Malformed,
        Reason::Schema,
        Reason::Mapping,
        Reason::MissingField,
        Reason::Amount,
        Reason::Currency,
        Reason::Timestamp,
        Reason::Conflict,
        Reason::TooLarge,
        Reason::NullValue,
        Reason::Query,
        Reason::Constraint,
    ];

    /// The word that headers, metrics and tables carry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Schema => "schema",
            Reason::Mapping => "mapping",
            Reason::MissingField => "missing_field",
            Reason::Amount => "amount",
            Reason::Currency => "currency",
            Reason::Timestamp => "timestamp",
            Reason::Conflict => "conflict",
            Reason::TooLarge => "too_large",
            Reason::NullValue => "null_value",
            Reason::Query => "query",
            Reason::Constraint => "constraint",
        }
    }

    /// The reason that `text` names, if it is one of the set.
    #[must_use]
    pub fn parse(text: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that cannot go on, with what is known of its money, so that the ledger can balance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Rejection {
    /// Which of the closed set.
    pub reason: Reason,
    /// What is wrong, for a person. Never contains a whole field value that could be a card number.
    pub message: String,
    /// The amount, where it could be read.
    pub money: Option<(Currency, Amount)>,
}

impl Rejection {
    /// A rejection whose amount is not known.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Rejection { reason, message: message.into(), money: None }
    }

    /// The same rejection with the amount that was read before it failed.
    #[must_use]
    pub fn with_money(mut self, currency: Currency, amount: Amount) -> Self {
        self.money = Some((currency, amount));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("other"), None);
    }
}
