//! Fingerprints of records and rows: sixteen bytes stand for a text, so that millions fit in
//! memory.

use caudal_core::avro::{self, AvroError, Reader};
use caudal_core::dedup::Hash16;
use caudal_core::money::{Amount, Currency, MAX_SCALE};
use caudal_core::time::to_rfc3339;
use caudal_core::transaction::{Transaction, ValidTransaction};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// First half of the SHA-256 of bytes.
pub fn half(bytes: &[u8]) -> Hash16 {
    first_half(&Sha256::digest(bytes))
}

/// The first sixteen bytes of a digest.
pub fn first_half(digest: &[u8]) -> Hash16 {
    let mut out = [0; 16];
    let length = digest.len().min(16);
    out[..length].copy_from_slice(&digest[..length]);
    out
}

/// The half of a SHA-256 that is written in hex. `None` when it is not one.
pub fn half_of_hex(hex: &str) -> Option<Hash16> {
    let mut out = [0; 16];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(out)
}

/// Fingerprint of every column of a transaction but `late_for`. Attributes are a map here, as in
/// the table: of a name that occurs twice the last value counts.
pub fn columns(t: &Transaction<'_>) -> Hash16 {
    let mut hash = Sha256::new();
    let mut text = |text: &str| {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(text.as_bytes());
    };
    text(&t.transaction_id);
    text(&t.account_id);
    text(&t.merchant_id);
    text(&t.currency);
    text(t.kind.as_str());
    for optional in [&t.country, &t.description] {
        text(if optional.is_some() { "1" } else { "0" });
        text(optional.as_deref().unwrap_or_default());
    }
    let attributes: BTreeMap<&str, &str> =
        t.attributes.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    text(&attributes.len().to_string());
    for (name, value) in attributes {
        text(name);
        text(value);
    }
    text(&t.source);
    hash.update(t.source_seq.to_le_bytes());
    hash.update(t.event_time.to_le_bytes());
    hash.update(t.amount.nano().to_le_bytes());
    first_half(&hash.finalize())
}

/// Reads a value of `transacciones_validas`: the transaction and the queries it was late for.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_valid(
    value: Option<&[u8]>,
    schema: u32,
) -> Result<(ValidTransaction<'_>, Vec<&str>), String> {
    let value = value.ok_or("has no value")?;
    let (id, body) = avro::unframe(value).ok_or("has no Confluent framing")?;
    if id != schema {
        return Err(format!("has schema id {id}, not {schema}"));
    }
    let wrong = |error: AvroError| format!("cannot be read: {error}");
    let mut input = Reader::new(body);
    let transaction = avro::read_transaction(&mut input).map_err(wrong)?;
    let late_for = avro::read_strings(&mut input).map_err(wrong)?;
    input.end().map_err(wrong)?;
    let currency = Currency::parse(&transaction.currency).ok_or("has an unknown currency")?;
    Ok((ValidTransaction { transaction, currency }, late_for))
}

/// A row of `transactions` as PostgreSQL gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// `transaction_id`.
    pub id: String,
    pub account_id: String,
    pub merchant_id: String,
    /// The literal text of the numeric.
    pub amount: String,
    pub currency: String,
    pub kind: String,
    pub country: Option<String>,
    /// Microseconds since 1970.
    pub event_time: i64,
    pub description: Option<String>,
    /// The attributes; `None` is SQL NULL.
    pub attributes: Option<BTreeMap<String, String>>,
    pub source: String,
    pub source_seq: i64,
    pub late_for: Vec<String>,
}

impl Stored {
    /// The row as the transaction that it says it is. `None` when no transaction can be so: an
    /// amount or a kind that is none.
    pub fn transaction(&self) -> Option<Transaction<'_>> {
        use std::borrow::Cow;
        let nano = parse_nano(&self.amount)?;
        let attributes = self.attributes.iter().flatten();
        Some(Transaction {
            transaction_id: Cow::Borrowed(&self.id),
            source: Cow::Borrowed(&self.source),
            source_seq: self.source_seq,
            account_id: Cow::Borrowed(&self.account_id),
            merchant_id: Cow::Borrowed(&self.merchant_id),
            amount: amount_of_nano(nano)?,
            scale_declared: true,
            currency: Cow::Borrowed(&self.currency),
            kind: caudal_core::transaction::Kind::parse(&self.kind)?,
            country: self.country.as_deref().map(Cow::Borrowed),
            event_time: self.event_time,
            description: self.description.as_deref().map(Cow::Borrowed),
            attributes: attributes
                .map(|(name, value)| (Cow::Borrowed(name.as_str()), Cow::Borrowed(value.as_str())))
                .collect(),
        })
    }

    /// The columns in which the row differs from its record: name, the row's value, the record's.
    pub fn compare(&self, t: &Transaction<'_>, late_for: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        let mut column = |name: &str, row: &str, record: &str| {
            if row != record {
                all.push(format!("{name} is {}, the record says {}", shown(row), shown(record)));
            }
        };
        column("account_id", &self.account_id, &t.account_id);
        column("merchant_id", &self.merchant_id, &t.merchant_id);
        let same_amount = parse_nano(&self.amount) == Some(t.amount.nano());
        let amount = t.amount.to_string();
        column("amount", if same_amount { &amount } else { &self.amount }, &amount);
        column("currency", &self.currency, &t.currency);
        column("kind", &self.kind, t.kind.as_str());
        let or_null = |text: Option<&str>| text.unwrap_or("NULL").to_owned();
        column("country", &or_null(self.country.as_deref()), &or_null(t.country.as_deref()));
        column("event_time", &to_rfc3339(self.event_time), &to_rfc3339(t.event_time));
        let described = or_null(t.description.as_deref());
        column("description", &or_null(self.description.as_deref()), &described);
        let supplied: BTreeMap<String, String> =
            t.attributes.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let json = |map: &BTreeMap<String, String>| serde_json::to_string(map).unwrap_or_default();
        let stored = self.attributes.clone().unwrap_or_default();
        column("attributes", &json(&stored), &json(&supplied));
        column("source", &self.source, &t.source);
        column("source_seq", &self.source_seq.to_string(), &t.source_seq.to_string());
        column("late_for", &self.late_for.join(","), &late_for.join(","));
        all
    }
}

fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        _ if text.is_empty() => "empty".into(),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn amount_of_nano(nano: i128) -> Option<Amount> {
    let (units, scale) = caudal_core::money::trim_nano(nano, 0);
    Some(Amount { units: i64::try_from(units).ok()?, scale })
}

/// Units of 10⁻⁹ of a decimal text. `None` when it is no number, finer than that or too large.
pub fn parse_nano(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let places = usize::from(MAX_SCALE);
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > places || !plain(whole) || !plain(fraction) {
        return None;
    }
    let magnitude: i128 = format!("{whole}{fraction:0<places$}").parse().ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use caudal_core::transaction::Kind;
    use std::borrow::Cow;

    /// A purchase of `units` hundredths of a euro by `account`.
    pub fn purchase(id: &str, account: &str, units: i64, event_time: i64) -> Transaction<'static> {
        Transaction {
            transaction_id: Cow::Owned(id.to_owned()),
            source: Cow::Borrowed("s"),
            source_seq: 1,
            account_id: Cow::Owned(account.to_owned()),
            merchant_id: Cow::Borrowed("m"),
            amount: Amount { units, scale: 2 },
            scale_declared: true,
            currency: Cow::Borrowed("EUR"),
            kind: Kind::Purchase,
            country: None,
            event_time,
            description: None,
            attributes: vec![],
        }
    }

    /// The row that such a transaction leads to.
    pub fn row_of(t: &Transaction<'_>) -> Stored {
        Stored {
            id: t.transaction_id.to_string(),
            account_id: t.account_id.to_string(),
            merchant_id: t.merchant_id.to_string(),
            amount: t.amount.to_string(),
            currency: t.currency.to_string(),
            kind: t.kind.as_str().to_owned(),
            country: t.country.as_deref().map(str::to_owned),
            event_time: t.event_time,
            description: t.description.as_deref().map(str::to_owned),
            attributes: None,
            source: t.source.to_string(),
            source_seq: t.source_seq,
            late_for: vec![],
        }
    }

    #[test]
    fn reads_decimals_exactly() {
        assert_eq!(parse_nano("-12.5"), Some(-12_500_000_000));
        assert_eq!(parse_nano("0.0000000010"), Some(1));
        for bad in ["NaN", "", "1e3", "0.0000000001", "-", "1,5"] {
            assert_eq!(parse_nano(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_row_and_its_record_have_one_fingerprint() {
        let t = purchase("t", "a", 1050, 60);
        let mut row = row_of(&t);
        assert_eq!(row.transaction().map(|r| columns(&r)), Some(columns(&t)));
        row.amount = "10.5000".into();
        assert_eq!(row.transaction().map(|r| columns(&r)), Some(columns(&t)));
        row.amount = "11.50".into();
        assert_ne!(row.transaction().map(|r| columns(&r)), Some(columns(&t)));
        assert_eq!(row.compare(&t, &[]), ["amount is 11.50, the record says 10.50"]);
    }

    #[test]
    fn null_is_not_empty() {
        let t = purchase("t", "a", 1050, 60);
        let row = Stored { description: Some(String::new()), ..row_of(&t) };
        assert_ne!(row.transaction().map(|r| columns(&r)), Some(columns(&t)));
        assert_eq!(row.compare(&t, &[]), ["description is empty, the record says NULL"]);
    }

    #[test]
    fn hex_reads_back() {
        let digest = Sha256::digest(b"abc");
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(half_of_hex(&hex), Some(half(b"abc")));
        assert_eq!(half_of_hex("zz"), None);
    }
}
