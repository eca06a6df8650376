//! Our Avro bytes held to apache-avro's, in both directions.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
#![expect(
    deprecated,
    reason = "the one-call functions are what a golden test wants; their successors are builders"
)]

use apache_avro::{Schema, from_avro_datum, to_avro_datum, types::Value};
use caudal_core::avro::{Reader, Writer, read_transaction, unframe, write_transaction};
use caudal_core::money::Amount;
use caudal_core::schema::Schemas;
use caudal_core::transaction::{Kind, Transaction};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;

fn schema() -> Schema {
    Schema::parse_str(&Schemas::shipped().transaction.json).unwrap()
}

fn optional(text: Option<&str>) -> Value {
    match text {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(t) => Value::Union(1, Box::new(Value::String(t.into()))),
    }
}

fn avro_value(t: &Transaction<'_>) -> Value {
    let text = |t: &str| Value::String(t.to_owned());
    let attributes: HashMap<String, Value> =
        t.attributes.iter().map(|(k, v)| (k.to_string(), text(v))).collect();
    let kind = Kind::ALL.iter().position(|k| *k == t.kind).unwrap() as u32;
    Value::Record(vec![
        ("transaction_id".into(), text(&t.transaction_id)),
        ("source".into(), text(&t.source)),
        ("source_seq".into(), Value::Long(t.source_seq)),
        ("account_id".into(), text(&t.account_id)),
        ("merchant_id".into(), text(&t.merchant_id)),
        (
            "amount".into(),
            Value::Record(vec![
                ("units".into(), Value::Long(t.amount.units)),
                ("scale".into(), Value::Int(i32::from(t.amount.scale))),
            ]),
        ),
        ("currency".into(), text(&t.currency)),
        ("kind".into(), Value::Enum(kind, t.kind.as_str().into())),
        ("country".into(), optional(t.country.as_deref())),
        ("event_time".into(), Value::TimestampMicros(t.event_time)),
        ("description".into(), optional(t.description.as_deref())),
        (
            "attributes".into(),
            match attributes.is_empty() {
                true => Value::Union(0, Box::new(Value::Null)),
                false => Value::Union(1, Box::new(Value::Map(attributes))),
            },
        ),
    ])
}

fn example() -> Transaction<'static> {
    Transaction {
        transaction_id: Cow::Borrowed("536365-1"),
        source: Cow::Borrowed("online-retail"),
        source_seq: 1,
        account_id: Cow::Borrowed("17850"),
        merchant_id: Cow::Borrowed("85123A"),
        amount: Amount { units: 15300, scale: 3 },
        scale_declared: true,
        currency: Cow::Borrowed("GBP"),
        kind: Kind::Purchase,
        country: Some(Cow::Borrowed("GB")),
        event_time: 1_291_191_960_000_000,
        description: None,
        attributes: vec![],
    }
}

fn ours(t: &Transaction<'_>) -> Vec<u8> {
    let mut out = Writer::new();
    write_transaction(&mut out, t);
    out.into_bytes()
}

#[test]
fn golden_bytes() {
    let expected = [
        "103533363336352d31",           // "536365-1"
        "1a6f6e6c696e652d72657461696c", // "online-retail"
        "02",
        "0a3137383530",
        "0c383531323341", // 1, "17850", "85123A"
        "88ef01",
        "06",
        "06474250",
        "00", // 15300, 3, "GBP", PURCHASE
        "02044742",
        "8090", // some "GB", event_time …
    ];
    let hex: String = ours(&example()).iter().map(|b| format!("{b:02x}")).collect();
    assert!(hex.starts_with(&expected[..expected.len() - 1].concat()), "{hex}");
    assert_eq!(ours(&example()), to_avro_datum(&schema(), avro_value(&example())).unwrap());
}

#[test]
fn framing_is_confluents() {
    let bytes = Writer::framed(0x0102_0304).into_bytes();
    assert_eq!(bytes, [0, 1, 2, 3, 4]);
    assert_eq!(unframe(&bytes), Some((0x0102_0304, &[][..])));
    assert_eq!(unframe(&[1, 0, 0, 0, 1]), None);
}

prop_compose! {
    fn any_transaction()(
        texts in prop::collection::vec("\\PC{0,20}", 5),
        seq in any::<i64>(), units in any::<i64>(), scale in 0_u8..=9, kind in 0_usize..3,
        country in prop::option::of("[A-Z]{2}"), event_time in any::<i64>(),
        description in prop::option::of("\\PC{0,30}"),
        // One attribute at most: apache-avro writes maps in arbitrary order.
        attribute in prop::option::of(("[a-z]{1,8}", "\\PC{0,10}")),
    ) -> Transaction<'static> {
        let text = |i: usize| Cow::Owned(texts[i].clone());
        Transaction {
            transaction_id: text(0), source: text(1), source_seq: seq, account_id: text(2),
            merchant_id: text(3), amount: Amount { units, scale }, scale_declared: true,
            currency: text(4), kind: Kind::ALL[kind], country: country.map(Cow::Owned), event_time,
            description: description.map(Cow::Owned),
            attributes: attribute.into_iter().map(|(k, v)| (Cow::Owned(k), Cow::Owned(v))).collect(),
        }
    }
}

proptest! {
    #[test]
    fn our_bytes_are_apache_avros(t in any_transaction()) {
        let bytes = ours(&t);
        prop_assert_eq!(&bytes, &to_avro_datum(&schema(), avro_value(&t)).unwrap());
        let mut input = Reader::new(&bytes);
        prop_assert_eq!(&read_transaction(&mut input).unwrap(), &t);
        prop_assert!(input.end().is_ok());
        prop_assert_eq!(from_avro_datum(&schema(), &mut &bytes[..], None).unwrap(), avro_value(&t));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_transaction(&mut Reader::new(&bytes)).ok();
    }

    #[test]
    fn a_cut_record_is_refused(t in any_transaction(), cut in 1_usize..40) {
        let bytes = ours(&t);
        let kept = bytes.len().saturating_sub(cut);
        let mut input = Reader::new(&bytes[..kept]);
        prop_assert!(read_transaction(&mut input).is_err());
    }

    #[test]
    fn decimals_are_the_shortest_form(value in any::<i128>()) {
        let mut out = Writer::new();
        out.decimal(value);
        let bytes = out.into_bytes();
        prop_assert_eq!(Reader::new(&bytes).decimal().unwrap(), value);
        let body = &bytes[1..];
        prop_assert!(body.len() == 1 || !(body[0] == 0 && body[1] < 0x80 || body[0] == 0xff && body[1] >= 0x80));
    }
}
