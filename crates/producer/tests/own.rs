//! A source of somebody else's: what its records become, and how it is resumed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::headers;
use caudal_core::json::read_transaction;
use caudal_core::outbox::OutRecord;
use caudal_core::reject::{Reason, Rejection};
use caudal_producer::cards::Cards;
use caudal_producer::source::Source as _;
use caudal_producer::source::envelope::{Envelope, LARGE_HEAD};
use caudal_producer::source::own::{OwnRecord, OwnSource};
use caudal_producer::source::records::MAX_RECORD;
use caudal_service::exit::Halt;

fn envelope() -> Envelope {
    let cards = Cards::under(b"a key of the tests", true).unwrap();
    Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards }
}

fn good(id: &str, account: &str) -> OwnRecord {
    let text = format!(
        r#"{{"transaction_id":"{id}","account_id":"{account}","merchant_id":"m","amount":"1.50",
        "currency":"EUR","kind":"PURCHASE","event_time":"2026-01-05T08:00:00Z"}}"#
    );
    let transaction = read_transaction(text.as_bytes(), "", 0).map(|t| t.into_owned());
    OwnRecord { raw: text.into_bytes(), transaction }
}

fn bad(raw: Vec<u8>) -> OwnRecord {
    OwnRecord { raw, transaction: Err(Rejection::new(Reason::Amount, "the amount is no number")) }
}

fn source(records: Vec<OwnRecord>) -> OwnSource<impl Iterator<Item = anyhow::Result<OwnRecord>>> {
    OwnSource::start(records.into_iter().map(Ok), envelope(), "mine")
}

fn header<'r>(record: &'r OutRecord, name: &str) -> Option<&'r str> {
    let (_, value) = record.headers.iter().find(|(n, _)| *n == name)?;
    std::str::from_utf8(value).ok()
}

#[test]
fn a_bad_record_above_the_limit_goes_on_as_its_head() {
    let large = |size: usize| {
        let mut raw = b"4111111111111111;".to_vec();
        raw.resize(size, b'x');
        raw
    };
    let mut source = source(vec![bad(large(MAX_RECORD)), bad(large(MAX_RECORD + 1))]);
    let whole = source.next_record().unwrap().unwrap();
    assert_eq!(header(&whole, headers::REASON), Some("amount"));
    assert_eq!(whole.value.map(|value| value.len()), Some(MAX_RECORD));
    let head = source.next_record().unwrap().unwrap();
    assert_eq!(header(&head, headers::REASON), Some("too_large"));
    assert_eq!(header(&head, headers::LINE), Some("records:2"));
    assert_eq!(header(&head, headers::SIZE), Some((MAX_RECORD + 1).to_string().as_str()));
    let message = header(&head, headers::ERROR_MESSAGE).unwrap();
    assert!(message.contains("amount: the amount is no number"), "{message}");
    let keyed = envelope().cards.keyed_sha256(&large(MAX_RECORD + 1));
    assert_eq!(header(&head, headers::KEYED_SHA256), Some(keyed.as_str()));
    let value = head.value.unwrap();
    assert!(value.len() == LARGE_HEAD && value.starts_with(b"************1111;"));
    assert!(source.next_record().unwrap().is_none());
}

#[test]
fn it_goes_on_after_what_was_sent_and_halts_where_that_changed() {
    let card = format!("4111111111111111{}", "x".repeat(100));
    let records = || vec![good("1", "a"), bad(b"?".to_vec()), good("2", &card), good("3", "b")];
    let mut first = source(records());
    let mut all = Vec::new();
    let mut positions = vec![first.progress()];
    while let Some(record) = first.next_record().unwrap() {
        all.push(record);
        positions.push(first.progress());
    }
    let reasons: Vec<_> = all.iter().map(|r| header(r, headers::REASON)).collect();
    assert_eq!(reasons, [None, Some("amount"), Some("too_large"), None]);
    assert_eq!(first.progress().sums["EUR"], "3.00");
    for (sent, position) in positions.iter().enumerate() {
        let mut again = source(records());
        again.skip_to(position).unwrap();
        let rest: Vec<_> =
            std::iter::from_fn(|| again.next_record().unwrap()).map(|r| r.value).collect();
        assert_eq!(rest, all[sent..].iter().map(|r| r.value.clone()).collect::<Vec<_>>());
        assert_eq!(again.progress(), first.progress());
    }
    let mut other = source(vec![good("9", "a"), bad(b"?".to_vec())]);
    assert!(other.skip_to(&positions[2]).unwrap_err().is::<Halt>());
}
