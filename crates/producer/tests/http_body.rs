//! Bodies of requests as nobody should send them: seeded, so that a failure can be repeated. What is
//! taken must be good for the processor too; nothing may panic or use more memory than allowed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::decode::{Record, decode};
use caudal_core::reject::Reason;
use caudal_core::validate::validate;
use caudal_producer::cards::Cards;
use caudal_producer::generate::Dice;
use caudal_producer::http::body::{self, MAX_BODY, Refused};
use caudal_producer::http::budget::Budget;
use caudal_producer::http::lines::{Form, Mapped, Mapper, Problem, TOLD};
use caudal_producer::source::envelope::Envelope;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame};
use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

const SCHEMA: u32 = 5;
/// 2026-11-25.
const NOW: i64 = 1_795_600_000_000;
const MOST: usize = 1_000;
const BUDGET: usize = 64 << 20;
/// What the process may take at most: the budget, one body that is being mapped, and itself.
const PEAK_MIB: u64 = 160;

fn mapper() -> Mapper {
    let cards = Cards::under(b"a key of the tests", true).unwrap();
    let envelope = Envelope { topic: "t".into(), partitions: 6, schema_id: SCHEMA, cards };
    Mapper::new(envelope, "http/requests".into(), 1, MOST)
}

fn line(n: usize) -> String {
    format!(
        "{{\"transaction_id\":\"t{n}\",\"account_id\":\"a-{}\",\"merchant_id\":\"m\",\"amount\":\"{n}.50\",\
         \"currency\":\"EUR\",\"kind\":\"PURCHASE\",\"event_time\":\"2026-11-05T08:00:00Z\",\
         \"country\":null,\"description\":\"caf\\u00e9 電車\",\"attributes\":{{\"channel\":\"web\"}}}}\n",
        n % 7
    )
}

fn lines(count: usize) -> Vec<u8> {
    (1..=count).flat_map(|n| line(n).into_bytes()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A body that comes in pieces.
struct Pieces(std::vec::IntoIter<Vec<u8>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

fn read(pieces: Vec<Vec<u8>>, gzip: bool, budget: &Budget) -> Result<Vec<u8>, Refused> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = Pieces(pieces.into_iter());
    runtime.block_on(body::read(body, gzip, budget.lease())).map(|(bytes, _)| bytes)
}

/// Whatever was taken, the processor takes.
fn check(mapped: &Mapped) {
    for out in &mapped.records {
        let record = Record {
            timestamp: NOW,
            key: out.key.clone().map(Into::into),
            value: out.value.clone().map(Into::into),
            ..Record::default()
        };
        let transaction = decode(&record, SCHEMA, ("t-0", 0)).unwrap();
        assert_eq!(record.key.as_deref(), Some(transaction.account_id.as_bytes()));
        validate(transaction, record.timestamp).unwrap();
    }
}

#[test]
fn a_good_body_is_taken_whole() {
    let budget = Budget::of(BUDGET);
    let data = lines(100);
    for (sent, is_gzip) in [(data.clone(), false), (gzip(&data), true)] {
        let pieces = sent.chunks(777).map(<[u8]>::to_vec).collect();
        let body = read(pieces, is_gzip, &budget).unwrap();
        assert_eq!(body, data);
        let mapped = mapper().map(&body, Form::Lines, NOW).unwrap();
        assert_eq!((mapped.records.len(), mapped.tally.records, mapped.last), (100, 100, 100));
        assert_eq!(mapped.tally.sums.texts()["EUR"], "5100.00");
        check(&mapped);
    }
    assert_eq!(budget.taken(), 0);
}

#[test]
fn an_object_may_have_many_lines_and_two_objects_are_not_one() {
    let pretty = line(1).replace(",\"", ",\n  \"");
    assert_eq!(mapper().map(pretty.as_bytes(), Form::Object, NOW).unwrap().records.len(), 1);
    assert!(mapper().map(pretty.as_bytes(), Form::Lines, NOW).is_err());
    assert!(mapper().map(&lines(2), Form::Object, NOW).is_err());
    let foreign = line(1).replace("{\"transaction_id\"", "{\"source\":\"shop\",\"transaction_id\"");
    let mapped = mapper().map(foreign.as_bytes(), Form::Object, NOW).unwrap();
    assert_eq!((mapped.elsewhere, mapped.tally.records), (1, 0));
}

#[test]
fn every_bad_line_is_told_with_its_reason_and_no_card_number() {
    let mut body = lines(1);
    for bad in [
        line(2).replace("\"2.50\"", "\"2,50\""),
        line(3).replace("\"t3\"", "null"),
        "\n".to_owned(),
        line(4).replace("2026-11-05", "2026-12-05"),
        line(5).replace("EUR", "4111111111111111"),
        line(6).replace("\"m\"", "[4111111111111111]"),
        "4111111111111111\n".to_owned(),
        line(7).replace("2026-11-05T08:00:00Z", "05/11/2026"),
    ] {
        body.extend_from_slice(bad.as_bytes());
    }
    let Err(Problem::Lines { told, count }) = mapper().map(&body, Form::Lines, NOW) else {
        panic!()
    };
    let told: Vec<_> = told.iter().map(|l| (l.line, l.reason, l.message.as_str())).collect();
    let reasons: Vec<_> = told.iter().map(|(line, reason, _)| (*line, *reason)).collect();
    let wanted = [
        (2, Reason::Amount),
        (3, Reason::MissingField),
        (5, Reason::Timestamp),
        (6, Reason::Currency),
        (7, Reason::Malformed),
        (8, Reason::Malformed),
        (9, Reason::Timestamp),
    ];
    assert_eq!((reasons.as_slice(), count), (wanted.as_slice(), 7));
    assert!(told.iter().all(|(_, _, message)| !message.contains("411111")), "{told:?}");
}

#[test]
fn an_account_that_is_a_card_goes_on_as_a_token() {
    let body = line(1).replace("a-1", "4111 1111 1111 1111").replace("web", "4111111111111111");
    let mapped = mapper().map(body.as_bytes(), Form::Object, NOW).unwrap();
    let record = &mapped.records[0];
    let text = String::from_utf8_lossy(record.value.as_deref().unwrap()).into_owned();
    assert!(record.key.as_deref().unwrap().starts_with(b"card-"), "{record:?}");
    assert!(!text.contains("4111 1111") && !text.contains("41111111"), "{text}");
    check(&mapped);
}

#[test]
fn an_account_that_tokens_make_too_long_is_refused() {
    let body =
        |beside: usize| line(1).replace("a-1", &format!("4111111111111111{}", "x".repeat(beside)));
    check(&mapper().map(body(86).as_bytes(), Form::Object, NOW).unwrap());
    let Err(Problem::Lines { told, .. }) = mapper().map(body(87).as_bytes(), Form::Object, NOW)
    else {
        panic!()
    };
    assert_eq!(told[0].reason, Reason::TooLarge);
}

#[test]
fn limits_hold() {
    let budget = Budget::of(BUDGET);
    let large = vec![b'x'; MAX_BODY + 1];
    let pieces = |data: &[u8]| data.chunks(60_000).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(read(pieces(&large), false, &budget), Err(Refused::TooLarge));
    assert!(read(pieces(&large[1..]), false, &budget).is_ok());
    // A gigabyte of zeros in a megabyte: refused where it exceeds the limit, not at its end.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    (0..1024).for_each(|_| bomb.write_all(&[0; 1 << 20]).unwrap());
    let bomb = bomb.finish().unwrap();
    assert_eq!(read(pieces(&bomb), true, &budget), Err(Refused::TooLarge));
    assert_eq!(read(pieces(&large[1..]), false, &Budget::of(1 << 20)), Err(Refused::Busy));
    let announced = Full::new(Bytes::from(large));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(body::read(announced, false, budget.lease())).unwrap_err();
    assert_eq!((refused, budget.taken()), (Refused::TooLarge, 0));

    assert_eq!(mapper().map(&lines(MOST), Form::Lines, NOW).unwrap().records.len(), MOST);
    assert_eq!(
        mapper().map(&lines(MOST + 1), Form::Lines, NOW).unwrap_err(),
        Problem::TooMany(MOST)
    );
    assert_eq!(mapper().map(b" \n\n", Form::Lines, NOW).unwrap_err(), Problem::Empty);
    let Err(Problem::Lines { told, count }) = mapper().map(&b"x\n".repeat(5_000), Form::Lines, NOW)
    else {
        panic!()
    };
    assert_eq!((told.len(), count), (TOLD, 5_000));
}

/// One random change.
fn spoil(data: &mut Vec<u8>, dice: &mut Dice) {
    const WORDS: [&[u8]; 12] = [
        b"\"",
        b"{",
        b"}",
        b"[[[[[[[[",
        b"\\u0000",
        b"\\ud800",
        b"\xff\xfe",
        b"1e999",
        b"-0",
        b"\n",
        b"\xef\xbb\xbf",
        b"99999999999999999999999999",
    ];
    let length = data.len() as u64;
    let at = usize::try_from(dice.below(length.max(1))).unwrap();
    match dice.below(6) {
        0 if length > 0 => data[at] ^= 1 << dice.below(8),
        1 => data.truncate(at),
        2 => drop(data.splice(at..at, dice.pick(&WORDS).iter().copied())),
        3 if length > 0 => drop(data.drain(at..(at + 9).min(data.len()))),
        4 => {
            let copy = data[at..(at + 40).min(data.len())].to_vec();
            data.splice(at..at, copy);
        }
        _ => data.extend(std::iter::repeat_n(b'[', usize::try_from(dice.below(3_000)).unwrap())),
    }
}

#[test]
fn ten_thousand_spoiled_bodies_neither_panic_nor_pass_what_the_processor_refuses() {
    let seed = std::env::var("CAUDAL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    let (mut dice, budget, mapper) = (Dice::new(seed), Budget::of(BUDGET), mapper());
    let (mut taken, mut refused, mut broken) = (0, 0, 0);
    for _ in 0..10_000 {
        let mut data = lines(usize::try_from(dice.between(1, 8)).unwrap());
        let is_gzip = dice.one_in(4);
        (0..dice.below(4)).for_each(|_| spoil(&mut data, &mut dice));
        if is_gzip {
            data = gzip(&data);
            (0..dice.below(3)).for_each(|_| spoil(&mut data, &mut dice));
        }
        let piece = usize::try_from(dice.between(1, 900)).unwrap();
        let pieces = data.chunks(piece).map(<[u8]>::to_vec).collect();
        let form = if dice.one_in(3) { Form::Object } else { Form::Lines };
        match read(pieces, is_gzip, &budget).map(|body| mapper.map(&body, form, NOW)) {
            Ok(Ok(mapped)) => {
                taken += 1;
                check(&mapped);
            }
            Ok(Err(_)) => refused += 1,
            Err(Refused::Broken(_)) => broken += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    println!("CAUDAL_SEED={seed}: {taken} taken, {refused} refused, {broken} broken");
    assert!(taken > 1_000 && refused > 1_000 && broken > 100, "the dice are loaded");
    assert_eq!(budget.taken(), 0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    if let Some(peak) = peak.and_then(|kib| kib.parse::<u64>().ok()) {
        assert!(peak >> 10 < PEAK_MIB, "{} MiB", peak >> 10);
    }
}
