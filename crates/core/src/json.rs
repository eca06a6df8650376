//! `Transaction` as a JSON object, as a student types it into a console producer.
//!
//! Amounts are read from their literal text, never through a double. Ids may be numbers and keep
//! their digits. Unknown fields are kept as attributes, so that nothing is lost silently.

use crate::money::{Amount, AmountError};
use crate::reject::{Reason, Rejection};
use crate::time::parse_rfc3339;
use crate::transaction::{Kind, Transaction};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The fields of an object: names, and values as they stand in the text.
pub type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Reads one JSON object. `source` and `source_seq` say where it arrived, for objects that name
/// neither.
///
/// # Errors
/// A [`Rejection`] that names the field.
pub fn read_transaction<'a>(
    text: &'a [u8],
    source: &'a str,
    source_seq: i64,
) -> Result<Transaction<'a>, Rejection> {
    let text = std::str::from_utf8(text)
        .map_err(|e| Rejection::new(Reason::Malformed, format!("JSON that is not UTF-8: {e}")))?;
    let mut fields = read_fields(text)
        .map_err(|e| Rejection::new(Reason::Malformed, format!("not a JSON object: {e}")))?;
    let currency = required_text(&mut fields, "currency")?;
    let amount = read_amount(&mut fields)?;
    read_rest(&mut fields, currency, amount, source, source_seq)
}

/// Everything but the money; a rejection carries it, so that the ledger can sum it.
fn read_rest<'a>(
    fields: &mut Fields<'a>,
    currency: Cow<'a, str>,
    amount: Amount,
    source: &'a str,
    source_seq: i64,
) -> Result<Transaction<'a>, Rejection> {
    let money = crate::money::Currency::parse(&currency).map(|c| (c, amount));
    let mut parse = || {
        let transaction_id = required_text(fields, "transaction_id")?;
        let account_id = required_text(fields, "account_id")?;
        let merchant_id = required_text(fields, "merchant_id")?;
        let kind = required_text(fields, "kind")?;
        let kind = Kind::parse(&kind)
            .ok_or_else(|| malformed("kind", "is not one of PURCHASE, REFUND, ADJUSTMENT"))?;
        let event_time = required_text(fields, "event_time")?;
        let event_time = parse_rfc3339(&event_time).ok_or_else(|| {
            let message = "event_time is not RFC 3339 with an offset, such as 2026-01-31T12:00:00Z";
            Rejection::new(Reason::Timestamp, message)
        })?;
        let named_source = optional_text(fields, "source")?;
        let named_seq = optional_text(fields, "source_seq")?.map(|text| {
            text.parse::<i64>().map_err(|_| malformed("source_seq", "is not a 64-bit integer"))
        });
        let named_seq = named_seq.transpose()?;
        Ok(Transaction {
            transaction_id,
            source_seq: named_seq.unwrap_or(if named_source.is_some() { 0 } else { source_seq }),
            source: named_source.unwrap_or(Cow::Borrowed(source)),
            account_id,
            merchant_id,
            amount,
            scale_declared: false,
            currency: currency.clone(),
            kind,
            country: optional_text(fields, "country")?,
            event_time,
            description: optional_text(fields, "description")?,
            attributes: read_attributes(fields)?,
        })
    };
    parse().map_err(|rejection: Rejection| Rejection { money, ..rejection })
}

/// Reads one JSON object.
///
/// # Errors
/// When the text is none, or a name appears twice.
pub fn read_fields(text: &str) -> Result<Fields<'_>, serde_json::Error> {
    struct FieldsVisitor;
    impl<'de> Visitor<'de> for FieldsVisitor {
        type Value = Fields<'de>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
            let mut fields = Fields::new();
            while let Some(key) = map.next_key::<String>()? {
                let value: &'de RawValue = map.next_value()?;
                if fields.contains_key(key.as_str()) {
                    return Err(A::Error::custom(format_args!("field {key:?} appears twice")));
                }
                fields.insert(Cow::Owned(key), value);
            }
            Ok(fields)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(FieldsVisitor)?;
    deserializer.end()?;
    Ok(fields)
}

fn read_amount(fields: &mut Fields<'_>) -> Result<Amount, Rejection> {
    let text = required_text(fields, "amount")?;
    Amount::parse(&text).map_err(|e| {
        let reason = match e {
            AmountError::Syntax => "is not a decimal number",
            AmountError::TooFine => "has more than 9 decimal places",
            AmountError::Range => "does not fit 64 bits",
        };
        Rejection::new(Reason::Amount, format!("amount {reason}"))
    })
}

/// A text, or the literal digits of a number; `None` when absent or null.
fn optional_text<'a>(
    fields: &mut Fields<'a>,
    name: &'static str,
) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Some(raw) = fields.remove(name) else { return Ok(None) };
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => read_string(text).map(Some).ok_or_else(|| malformed(name, "is not a text")),
        Some(b'-' | b'0'..=b'9') => Ok(Some(Cow::Borrowed(text))),
        _ => Err(malformed(name, "is neither a text nor a number")),
    }
}

fn required_text<'a>(
    fields: &mut Fields<'a>,
    name: &'static str,
) -> Result<Cow<'a, str>, Rejection> {
    optional_text(fields, name)?
        .ok_or_else(|| Rejection::new(Reason::MissingField, format!("field {name} is missing")))
}

/// A JSON string: borrowed when it has no escapes. `None` of anything else.
#[must_use]
pub fn read_string(text: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<&str>(text)
        .map(Cow::Borrowed)
        .or_else(|_| serde_json::from_str::<String>(text).map(Cow::Owned))
        .ok()
}

type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The object `attributes`, then every field that nobody asked for, as texts.
fn read_attributes<'a>(fields: &mut Fields<'a>) -> Result<Attributes<'a>, Rejection> {
    let mut all: BTreeMap<Cow<'a, str>, Cow<'a, str>> = BTreeMap::new();
    if let Some(raw) = fields.remove("attributes")
        && raw.get() != "null"
    {
        let inner = read_fields(raw.get())
            .map_err(|_| malformed("attributes", "is not an object of texts"))?;
        all.extend(inner.into_iter().filter_map(|(name, raw)| Some((name, raw_text(raw)?))));
    }
    for (name, raw) in std::mem::take(fields) {
        if let Some(text) = raw_text(raw) {
            all.entry(name).or_insert(text);
        }
    }
    Ok(all.into_iter().collect())
}

fn raw_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get() {
        "null" => None,
        text => Some(read_string(text).unwrap_or(Cow::Borrowed(text))),
    }
}

fn malformed(field: &str, what: &str) -> Rejection {
    Rejection::new(Reason::Malformed, format!("field {field} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"transaction_id":"t1","account_id":17850,"merchant_id":"m","amount":12.50,
        "currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z","canal":"web",
        "attributes":{"a":"b"}}"#;

    fn read(text: &str) -> Result<Transaction<'_>, Rejection> {
        read_transaction(text.as_bytes(), "transacciones-0", 7)
    }

    #[test]
    fn reads_what_a_student_types() {
        let t = read(FULL).unwrap();
        assert_eq!(t.account_id, "17850");
        assert_eq!(t.amount, Amount { units: 1250, scale: 2 });
        assert_eq!((t.source.as_ref(), t.source_seq), ("transacciones-0", 7));
        let attributes: Vec<_> =
            t.attributes.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
        assert_eq!(attributes, [("a", "b"), ("canal", "web")]);
    }

    #[test]
    fn an_amount_is_never_a_double() {
        let t = read(&FULL.replace("12.50", "90071992547409.93")).unwrap().into_owned();
        assert_eq!(t.amount, Amount { units: 9_007_199_254_740_993, scale: 2 });
    }

    #[test]
    fn names_the_field_and_the_reason() {
        let reason = |text: String| read(&text).map(Transaction::into_owned).unwrap_err().reason;
        assert_eq!(reason(FULL.replace("\"t1\"", "null")), Reason::MissingField);
        assert_eq!(reason(FULL.replace("12.50", "\"12,50\"")), Reason::Amount);
        assert_eq!(reason(FULL.replace("12.50", "1e400")), Reason::Amount);
        assert_eq!(reason(FULL.replace("2026-01-31T12:00:00Z", "31/01/2026")), Reason::Timestamp);
        assert_eq!(reason(FULL.replace("PURCHASE", "SALE")), Reason::Malformed);
        assert_eq!(reason(FULL.replace("}}", "}")), Reason::Malformed);
        assert_eq!(reason(FULL.replace("\"canal\"", "\"kind\"")), Reason::Malformed);
        assert_eq!(reason("[]".into()), Reason::Malformed);
        assert_eq!(reason("[".repeat(100_000)), Reason::Malformed);
    }

    #[test]
    fn a_rejection_keeps_the_money_that_parsed() {
        let rejection =
            read(&FULL.replace("PURCHASE", "SALE")).map(Transaction::into_owned).unwrap_err();
        assert_eq!(
            rejection.money.map(|(c, a)| (c.to_string(), a.units)),
            Some(("EUR".into(), 1250))
        );
    }
}
