//! Rows of `dead_letters`: the processor's, which arrive on a topic, and the sink's own. Inserting
//! one cannot fail on data: every text is stripped and cut, every number checked, bytes stay bytes.

use crate::copy::{FIRST_TIMESTAMP, Tuples};
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::reject::Reason;
use caudal_kafka::TopicPartition;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Table of all dead letters.
pub const TABLE: &str = "dead_letters";
/// Its columns, in the order in which the functions here write them.
pub const COLUMNS: [&str; 15] = [
    "topic",
    "partition",
    "offset",
    "reason",
    "error",
    "key",
    "payload",
    "sha256",
    "original_size",
    "headers",
    "source_topic",
    "source_partition",
    "source_offset",
    "source_timestamp",
    "replay_count",
];
/// Longest error text, in characters.
pub const ERROR_CHARACTERS: usize = 2000;

/// Why and where a record was rejected.
struct Rejected<'a> {
    reason: Reason,
    error: &'a str,
    topic: Option<&'a str>,
    partition: Option<i32>,
    offset: Option<i64>,
    timestamp_ms: Option<i64>,
    replays: i32,
}

/// Writes a dead letter that the sink itself makes of `record`.
pub fn write_own(
    out: &mut Tuples,
    at: &TopicPartition,
    record: &Record,
    reason: Reason,
    error: &str,
) {
    let rejected = Rejected {
        reason,
        error,
        topic: Some(&at.0),
        partition: Some(at.1),
        offset: Some(record.offset),
        timestamp_ms: Some(record.timestamp),
        replays: 0,
    };
    write(out, at, record, &rejected);
}

/// Writes a record of a topic of dead letters. What its headers do not say is NULL.
pub fn write_received(out: &mut Tuples, at: &TopicPartition, record: &Record) {
    let number = |name| record.header(name).and_then(|text| text.parse::<i64>().ok());
    let partition = number(headers::ERROR_PARTITION).and_then(|n| i32::try_from(n).ok());
    let reason = record.header(headers::REASON).and_then(Reason::parse);
    let rejected = Rejected {
        reason: reason.unwrap_or(Reason::Malformed),
        error: match (record.header(headers::ERROR_MESSAGE), reason) {
            (Some(message), _) => message,
            (None, Some(_)) => "",
            (None, None) => "the dead letter does not say why (no caudal.reason)",
        },
        topic: record.header(headers::ERROR_TOPIC),
        partition,
        offset: number(headers::ERROR_OFFSET),
        timestamp_ms: number(headers::ORIGINAL_TIMESTAMP),
        replays: number(headers::REPLAYS).and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
    };
    write(out, at, record, &rejected);
}

fn write(out: &mut Tuples, at: &TopicPartition, record: &Record, rejected: &Rejected<'_>) {
    out.tuple(COLUMNS.len());
    out.text(&at.0);
    out.int4(at.1);
    out.int8(record.offset);
    out.text(rejected.reason.as_str());
    out.text(&clean(rejected.error));
    optional(out, record.key.as_deref(), Tuples::bytes);
    optional(out, record.value.as_deref(), Tuples::bytes);
    let (sha256, size) = identity(record);
    optional(out, sha256.as_deref(), Tuples::text);
    optional(out, size, Tuples::int8);
    out.jsonb(&headers_json(record));
    optional(out, rejected.topic.map(clean).as_deref(), Tuples::text);
    optional(out, rejected.partition, Tuples::int4);
    optional(out, rejected.offset, Tuples::int8);
    let micros = rejected.timestamp_ms.and_then(|ms| ms.checked_mul(1000));
    optional(out, micros.filter(|micros| *micros >= FIRST_TIMESTAMP), Tuples::timestamptz);
    out.int4(rejected.replays);
}

fn optional<T>(out: &mut Tuples, value: Option<T>, write: impl FnOnce(&mut Tuples, T)) {
    match value {
        Some(value) => write(out, value),
        None => out.null(),
    }
}

/// SHA-256 and size of the original value: from the headers where the record holds only a part.
fn identity(record: &Record) -> (Option<String>, Option<i64>) {
    let said = record.header(headers::SHA256).map(str::to_ascii_lowercase);
    if let Some(hex) = said.filter(|t| t.len() == 64 && t.bytes().all(|b| b.is_ascii_hexdigit())) {
        let size = record.header(headers::SIZE).and_then(|text| text.parse().ok());
        return (Some(hex), size);
    }
    let Some(value) = record.value.as_deref() else { return (None, None) };
    (Some(hex(&Sha256::digest(value))), i64::try_from(value.len()).ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Without NUL, which PostgreSQL's text cannot hold, and cut to [`ERROR_CHARACTERS`].
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(ERROR_CHARACTERS).collect()
}

/// `{"name": "text"}`; a value that is no text becomes `{"hex": "…"}`, a name that occurs more
/// than once an array of its values.
fn headers_json(record: &Record) -> String {
    let mut object = Map::new();
    for (name, bytes) in &record.headers {
        let value = match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Value::from(text),
            _ => Value::Object(Map::from_iter([("hex".to_owned(), Value::from(hex(bytes)))])),
        };
        // jsonb refuses NUL in names too.
        let name = name.replace('\0', "\u{fffd}");
        match object.get_mut(&name) {
            None => {
                object.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &[u8]) -> (String, Box<[u8]>) {
        (name.to_owned(), value.into())
    }

    #[test]
    fn headers_keep_bytes_and_repeats() {
        let headers =
            vec![header("a", b"x"), header("b", &[0xff, 0]), header("a", b"y"), header("a", b"z")];
        let record = Record { headers, ..Record::default() };
        assert_eq!(headers_json(&record), r#"{"a":["x","y","z"],"b":{"hex":"ff00"}}"#);
    }

    #[test]
    fn the_identity_is_of_the_original() {
        let value: Option<Box<[u8]>> = Some((*b"abc").into());
        let whole = Record { value: value.clone(), ..Record::default() };
        let (sha, size) = identity(&whole);
        assert!(sha.unwrap().starts_with("ba7816bf"));
        assert_eq!(size, Some(3));
        let text = "AB".repeat(32);
        let headers =
            vec![header(headers::SHA256, text.as_bytes()), header(headers::SIZE, b"2000000")];
        let cut = Record { value, headers, ..Record::default() };
        assert_eq!(identity(&cut), (Some("ab".repeat(32)), Some(2_000_000)));
        assert_eq!(identity(&Record::default()), (None, None));
    }

    #[test]
    fn errors_are_stripped_and_cut() {
        assert_eq!(clean("a\0b"), "ab");
        assert_eq!(clean(&"é".repeat(3000)).chars().count(), ERROR_CHARACTERS);
    }
}
