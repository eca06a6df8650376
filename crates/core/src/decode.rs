//! From the bytes of a record to a [`Transaction`].

use crate::avro::{self, Reader};
use crate::headers;
use crate::json;
use crate::reject::{Reason, Rejection};
use crate::transaction::Transaction;

/// A record as it arrived, owning its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Partition of the topic it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The record's timestamp (the broker's clock: LogAppendTime), in ms since 1970.
    pub timestamp: i64,
    /// Key, if any.
    pub key: Option<Box<[u8]>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Box<[u8]>>,
    /// Headers in order.
    pub headers: Vec<(String, Box<[u8]>)>,
}

impl Record {
    /// The last header of that name as text, if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Bytes of key, value and headers, as a bound for batches.
    #[must_use]
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Box<[u8]>>| bytes.as_ref().map_or(0, |b| b.len());
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        length(&self.key) + length(&self.value) + headers
    }
}

/// Decodes Avro in Confluent framing (first byte 0) or JSON (first byte `{`).
///
/// `transaction_schema` is the id of `transaction.avsc`; `arrival` names the topic-partition, for
/// JSON that says no source.
///
/// # Errors
/// A [`Rejection`]: the record is a dead letter.
pub fn decode<'a>(
    record: &'a Record,
    transaction_schema: u32,
    arrival: (&'a str, i64),
) -> Result<Transaction<'a>, Rejection> {
    // A line that the producer could not map: looked at before the first byte, which is whatever
    // the file had there.
    if let Some(reason) = record.header(headers::REASON) {
        let reason = Reason::parse(reason).unwrap_or(Reason::Mapping);
        let message = record.header(headers::ERROR_MESSAGE).unwrap_or("the producer rejected it");
        return Err(Rejection::new(reason, message));
    }
    let Some(value) = record.value.as_deref() else {
        return Err(Rejection::new(Reason::NullValue, "the record has no value"));
    };
    match value.first() {
        Some(0) => decode_avro(value, transaction_schema),
        Some(b'{') => json::read_transaction(value, arrival.0, arrival.1),
        // A shell or an editor may put blanks or a byte order mark before the object.
        Some(b' ' | b'\t' | b'\r' | b'\n' | 0xef) => {
            let value = value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value).trim_ascii_start();
            json::read_transaction(value, arrival.0, arrival.1)
        }
        None => Err(Rejection::new(Reason::NullValue, "the record's value is empty")),
        Some(byte) => Err(Rejection::new(
            Reason::Schema,
            format!("first byte {byte:#04x} is neither Avro framing (0x00) nor a JSON object"),
        )),
    }
}

fn decode_avro(value: &[u8], transaction_schema: u32) -> Result<Transaction<'_>, Rejection> {
    let Some((id, body)) = avro::unframe(value) else {
        return Err(Rejection::new(Reason::Malformed, "shorter than the framing of 5 bytes"));
    };
    if id != transaction_schema {
        let message = format!("schema id {id} is unknown (Transaction has {transaction_schema})");
        return Err(Rejection::new(Reason::Schema, message));
    }
    let mut reader = Reader::new(body);
    let transaction = avro::read_transaction(&mut reader)
        .map_err(|e| Rejection::new(Reason::Malformed, format!("Avro: {e}")))?;
    reader.end().map_err(|e| Rejection {
        money: transaction.money(),
        ..Rejection::new(Reason::Malformed, format!("Avro: {e}"))
    })?;
    Ok(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::Writer;
    use crate::schema::Schemas;

    fn record(value: &[u8]) -> Record {
        Record { value: Some(value.into()), ..Record::default() }
    }

    fn reason(value: &[u8]) -> Reason {
        decode(&record(value), 5, ("t-0", 0)).map(Transaction::into_owned).unwrap_err().reason
    }

    #[test]
    fn every_framing_error_has_its_reason() {
        assert_eq!(reason(b""), Reason::NullValue);
        assert_eq!(reason(b"hola"), Reason::Schema);
        assert_eq!(reason(&[0, 0, 0]), Reason::Malformed);
        assert_eq!(reason(&[0, 0, 0, 0, 6, 1]), Reason::Schema);
        assert_eq!(reason(&[0, 0, 0, 0, 5, 1]), Reason::Malformed);
        assert_eq!(reason(b"{\"a\":"), Reason::Malformed);
        let tombstone = Record::default();
        assert_eq!(decode(&tombstone, 5, ("t-0", 0)).unwrap_err().reason, Reason::NullValue);
    }

    #[test]
    fn a_reason_header_wins_over_the_bytes() {
        let mut record = record(b"{}");
        record.headers.push((headers::REASON.into(), (*b"mapping").into()));
        assert_eq!(decode(&record, 5, ("t-0", 0)).unwrap_err().reason, Reason::Mapping);
    }

    #[test]
    fn trailing_bytes_are_malformed_and_keep_the_money() {
        let id = Schemas::shipped().transaction.id;
        let json = br#"{"transaction_id":"t","account_id":"a","merchant_id":"m","amount":"1.00",
            "currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z"}"#;
        let t = json::read_transaction(json, "s", 0).unwrap();
        let mut out = Writer::framed(id);
        avro::write_transaction(&mut out, &t);
        let mut bytes = out.into_bytes();
        let clean = record(&bytes);
        assert_eq!(decode(&clean, id, ("s", 0)).unwrap().transaction_id, "t");
        bytes.push(0);
        let rejection =
            decode(&record(&bytes), id, ("s", 0)).map(Transaction::into_owned).unwrap_err();
        assert_eq!(rejection.reason, Reason::Malformed);
        assert!(rejection.money.is_some());
    }
}
