//! Files as records: exact positions, every line accounted for, the same from any cut on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::avro::{self, Reader};
use caudal_core::headers;
use caudal_core::outbox::OutRecord;
use caudal_producer::cards::Cards;
use caudal_producer::lookalike;
use caudal_producer::mapping::Mapping;
use caudal_producer::progress::Progress;
use caudal_producer::source::Source as _;
use caudal_producer::source::envelope::Envelope;
use caudal_producer::source::inputs::{self, Input, Meter, Opened};
use caudal_producer::source::lines::Lines;
use caudal_service::exit::Halt;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Cursor};
use std::path::PathBuf;

const SHOP: &str = include_str!("../../../config/sources/online-retail.toml");
const NDJSON: &str = include_str!("../../../config/sources/ndjson.toml");

fn envelope() -> Envelope {
    let cards = Cards::under(b"a key of the tests", true).unwrap();
    Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards }
}

/// Reads in pieces of `piece` bytes, so that records are cut everywhere.
fn lines<'a>(mapping: &str, data: &'a [u8], piece: usize) -> Lines<impl BufRead + use<'a>> {
    let mapping = Mapping::parse(mapping).unwrap();
    let input = BufReader::with_capacity(piece, Cursor::new(data));
    Lines::start(&mapping, envelope(), ("shop", "f.csv"), input, Meter::default(), false).unwrap()
}

fn all<R: BufRead>(lines: &mut Lines<R>) -> Vec<(OutRecord, Progress)> {
    let mut found = Vec::new();
    while let Some(record) = lines.next_record().unwrap() {
        found.push((record, lines.progress()));
    }
    found
}

fn reason(record: &OutRecord) -> Option<&str> {
    let (_, value) = record.headers.iter().find(|(name, _)| *name == headers::REASON)?;
    std::str::from_utf8(value).ok()
}

fn place(record: &OutRecord) -> &str {
    std::str::from_utf8(record.key.as_deref().unwrap()).unwrap()
}

const HEADER: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
const GOOD: &str = "1,X,d,2,2011-07-01 12:00:00,1.5,1.0,EIRE\n";

#[test]
fn every_line_is_accounted_for() {
    let mut data = b"\xef\xbb\xbf".to_vec();
    data.extend_from_slice(HEADER.replace('\n', "\r\n").as_bytes());
    data.extend_from_slice(GOOD.replace('\n', "\r\n").as_bytes());
    data.extend_from_slice(b"\r\n\n");
    data.extend_from_slice(b"2,X,\"two\nlines, \"\"quoted\"\"\",1,2011-07-01 12:00:00,1.5,,EIRE\n");
    data.extend_from_slice(b"3,X,\xff,1,2011-07-01 12:00:00,1.5,,EIRE\n");
    data.extend_from_slice(b"4,X,4111 1111 1111 1111,1\n");
    data.extend_from_slice(b"   \n,,,,,,,\n");
    data.extend_from_slice(GOOD.trim_end().as_bytes());
    for piece in [3, 7, 64, 100_000] {
        let mut source = lines(SHOP, &data, piece);
        let found = all(&mut source);
        let reasons: Vec<_> = found.iter().map(|(r, _)| reason(r)).collect();
        let dead = ["malformed", "mapping", "mapping", "missing_field"].map(Some);
        assert_eq!(reasons, [&[None, None], dead.as_slice(), &[None]].concat(), "{piece}");
        let places: Vec<_> = found[2..6].iter().map(|(r, _)| place(r)).collect();
        assert_eq!(places, ["f.csv:7", "f.csv:8", "f.csv:9", "f.csv:10"]);
        assert_eq!(found[3].0.value.as_deref(), Some(b"4,X,**** **** **** 1111,1".as_slice()));
        assert_eq!(found[2].0.value.as_deref().unwrap()[4], 0xff);
        let progress = source.progress();
        assert_eq!((progress.lines, progress.records, progress.unmappable), (7, 3, 4));
        assert_eq!(progress.byte, data.len() as u64);
        assert_eq!(progress.sums["GBP"], "7.50");
        assert!(progress.done);
        let whole = caudal_producer::source::records::hex(&Sha256::digest(&data));
        assert_eq!(progress.prefix_sha256, whole);
    }
}

#[test]
fn an_oversized_line_goes_on_as_its_head_and_hash() {
    let long = format!("9,X,{},1,2011-07-01 12:00:00,1.5,,EIRE", "é".repeat(600_000));
    let data = format!("{HEADER}{GOOD}{long}\n{GOOD}");
    let mut source = lines(SHOP, data.as_bytes(), 4_096);
    let found = all(&mut source);
    assert_eq!(found.len(), 3);
    let large = &found[1].0;
    assert_eq!(reason(large), Some("too_large"));
    assert_eq!(large.value.as_ref().map(Vec::len), Some(64 << 10));
    let header = |name: &str| &large.headers.iter().find(|(n, _)| *n == name).unwrap().1;
    // Its line end belongs to it.
    let whole = format!("{long}\n");
    assert_eq!(*header(headers::SIZE), whole.len().to_string().into_bytes());
    let digest = caudal_producer::source::records::hex(&Sha256::digest(whole.as_bytes()));
    assert_eq!(*header(headers::SHA256), digest.into_bytes());
    assert_eq!(reason(&found[2].0), None);
}

fn header<'r>(record: &'r OutRecord, name: &str) -> Option<&'r str> {
    let (_, value) = record.headers.iter().find(|(n, _)| *n == name)?;
    std::str::from_utf8(value).ok()
}

#[test]
fn a_card_number_at_the_cut_of_an_oversized_line_is_masked() {
    const CARD: &str = "4111 1111 1111 1111";
    const HEAD: usize = 64 << 10;
    let rest = "x".repeat(1 << 20);
    for (begin, masked) in [(100, true), (HEAD - 10, true), (HEAD - 1, true), (HEAD, false)] {
        let long = format!("{}{CARD}{rest}\n", "y".repeat(begin));
        let data = format!("{HEADER}{long}{GOOD}");
        let found = all(&mut lines(SHOP, data.as_bytes(), 10_000));
        let letter = &found[0].0;
        assert_eq!(reason(letter), Some("too_large"));
        let value = String::from_utf8(letter.value.clone().unwrap()).unwrap();
        let expected = long.replace(CARD, "**** **** **** 1111");
        assert_eq!(value, expected[..HEAD], "{begin}");
        let whole = envelope().cards.keyed_sha256(long.as_bytes());
        let keyed = header(letter, headers::KEYED_SHA256);
        assert_eq!(keyed, masked.then_some(whole.as_str()), "{begin}");
        let whole = caudal_producer::source::records::hex(&Sha256::digest(&long));
        assert_eq!(header(letter, headers::SHA256), Some(whole.as_str()));
    }
}

#[test]
fn a_card_number_at_the_cut_of_a_message_is_masked() {
    for before in 0..60 {
        let time = format!("{}4111111111111111", "x".repeat(before));
        let data = format!("{HEADER}1,X,d,2,{time},1.5,1.0,EIRE\n");
        let letter = &all(&mut lines(SHOP, data.as_bytes(), 100))[0].0;
        assert_eq!(reason(letter), Some("timestamp"));
        let message = header(letter, headers::ERROR_MESSAGE).unwrap();
        assert!(message.contains("format") && !message.contains("41"), "{message}");
    }
}

#[test]
fn an_account_that_tokens_make_too_long_is_a_dead_letter() {
    let good = r#"{"transaction_id":"t1","account_id":"ACCOUNT","merchant_id":"m","amount":"12.00",
"currency":"EUR","kind":"PURCHASE","event_time":"2026-01-05T08:00:00Z"}"#
        .replace('\n', "");
    let account = |beside: usize| format!("4111111111111111{}", "x".repeat(beside));
    let data = [86, 87].map(|beside| good.replace("ACCOUNT", &account(beside)) + "\n").concat();
    let mut source = lines(NDJSON, data.as_bytes(), 100);
    let found = all(&mut source);
    let reasons: Vec<_> = found.iter().map(|(r, _)| reason(r)).collect();
    assert_eq!(reasons, [None, Some("too_large")]);
    assert_eq!(found[0].0.key.as_ref().map(Vec::len), Some(128));
    assert_eq!(source.progress().sums["EUR"], "12.00");
    assert_eq!(source.progress().unmappable_sums["EUR"], "12.00");
}

#[test]
fn json_lines_are_checked_where_their_scale_would_be_lost() {
    let good = r#"{"transaction_id":"t1","account_id":"a","merchant_id":"m","amount":"12",
"currency":"JPY","kind":"PURCHASE","event_time":"2026-01-05T08:00:00Z"}"#
        .replace('\n', "");
    let data = format!("{good}\n\n{}\nhola\n", good.replace("\"12\"", "12.5"));
    let mut source = lines(NDJSON, data.as_bytes(), 10);
    let found = all(&mut source);
    let reasons: Vec<_> = found.iter().map(|(r, _)| reason(r)).collect();
    assert_eq!(reasons, [None, Some("currency"), Some("malformed")]);
    assert_eq!(source.progress().unmappable_sums["JPY"], "12.5");
}

#[test]
fn a_changed_input_is_refused_and_a_longer_one_goes_on() {
    let old = format!("{HEADER}{GOOD}");
    let mut source = lines(SHOP, old.as_bytes(), 50);
    all(&mut source);
    let committed = source.progress();
    let grown = format!("{old}{GOOD}");
    let mut source = lines(SHOP, grown.as_bytes(), 50);
    source.skip_to(&committed).unwrap();
    let more = all(&mut source);
    assert_eq!(more.len(), 1);
    assert_eq!(more[0].1.lines, 2);
    for changed in [old.replace("1.5", "1.6"), old.replace(GOOD, ""), format!("{HEADER}\n{GOOD}")] {
        let mut source = lines(SHOP, changed.as_bytes(), 50);
        assert!(source.skip_to(&committed).unwrap_err().is::<Halt>(), "{changed}");
    }
}

#[test]
fn gzip_in_members_is_one_file_and_a_cut_one_keeps_its_place() {
    use std::io::Write as _;
    let folder = std::env::temp_dir().join(format!("caudal-lines-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("f.csv.gz");
    let gzip = |text: &str| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let members = [gzip(HEADER), gzip(GOOD), gzip(GOOD)].concat();
    let mapping = Mapping::parse(SHOP).unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let input = Input { name: "f.csv.gz".into(), path: Some(path.clone()) };
        let Opened { reader, meter, .. } = inputs::open(&input).unwrap();
        let mut lines =
            Lines::start(&mapping, envelope(), ("shop", "f.csv.gz"), reader, meter, false).unwrap();
        let mut count = 0;
        loop {
            match lines.next_record() {
                Ok(Some(_)) => count += 1,
                Ok(None) => return (count, true, lines.progress()),
                Err(_) => return (count, false, lines.progress()),
            }
        }
    };
    assert_eq!(read(&members).0, 2);
    let (count, ended, progress) = read(&members[..members.len() - 12]);
    assert!(count >= 1 && !ended && !progress.done);
    assert!(progress.byte >= (HEADER.len() + GOOD.len()) as u64);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn folders_and_globs_are_found_and_equal_names_refused() {
    use caudal_producer::mapping::file::Format;
    let folder = std::env::temp_dir().join(format!("caudal-inputs-{}", std::process::id()));
    for name in ["b.csv", "a.csv.gz", "README.md", ".hidden.csv", "deeper/b.csv"] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let names = |patterns: &[String]| {
        let found = inputs::expand(patterns, Format::Csv)?;
        Ok::<_, anyhow::Error>(found.into_iter().map(|i| i.name).collect::<Vec<_>>())
    };
    assert_eq!(names(&[at("")]).unwrap(), ["a.csv.gz", "b.csv"]);
    assert_eq!(names(&[at("*.csv.gz"), at("?.csv")]).unwrap(), ["a.csv.gz", "b.csv"]);
    assert_eq!(names(&[at("b.csv"), at("b.csv"), "-".into()]).unwrap(), ["-", "b.csv"]);
    assert!(names(&[at("b.csv"), at("deeper/b.csv")]).unwrap_err().to_string().contains("same"));
    assert!(names(&[at("*.tsv")]).is_err() && names(&[at("c.csv")]).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn odd_files_are_read_or_refused_with_a_word() {
    let mapping = Mapping::parse(SHOP).unwrap();
    let start = |data: &'static [u8]| {
        let meter = Meter::default();
        Lines::start(&mapping, envelope(), ("shop", "f.csv"), Cursor::new(data), meter, false)
    };
    // Nothing, a mark alone, and a header alone have no lines.
    let header: &'static [u8] = HEADER.as_bytes();
    for data in [b"", b"\xef\xbb\xbf".as_slice(), header, &header[..header.len() - 1]] {
        let mut source = start(data).unwrap();
        assert!(all(&mut source).is_empty());
        assert!(source.progress().done);
    }
    let utf16 = start(b"\xff\xfeI\0n\0v\0").err().unwrap();
    assert!(format!("{utf16:#}").contains("iconv"), "{utf16:#}");
    // A file without a header whose first line has a card: the error does not show it.
    let card = start(b"4111111111111111,x\n").err().unwrap();
    assert!(format!("{card:#}").contains("************1111"), "{card:#}");
    // NUL is no text for PostgreSQL; in a column that nothing takes it does no harm.
    let nul = format!("{HEADER}{}", GOOD.replace(",d,", ",\0,"));
    let found = all(&mut lines(SHOP, nul.as_bytes(), 50));
    assert_eq!(reason(&found[0].0), Some("malformed"));
    // Nineteen digits and a line end within quotes stay as they are.
    let long = "1,9223372036854775807,\"a\nb\",2,2011-07-01 12:00:00,1.5,1.0,EIRE\n";
    let data = format!("{HEADER}{long}");
    let found = all(&mut lines(SHOP, data.as_bytes(), 7));
    let (_, body) = avro::unframe(found[0].0.value.as_deref().unwrap()).unwrap();
    let t = avro::read_transaction(&mut Reader::new(body)).unwrap();
    assert_eq!(
        (t.merchant_id.as_ref(), t.description.as_deref()),
        ("9223372036854775807", Some("a\nb"))
    );
}

#[test]
fn a_last_line_without_a_line_end_may_be_followed_and_not_go_on() {
    let old = format!("{HEADER}{GOOD}{}", GOOD.trim_end());
    let mut source = lines(SHOP, old.as_bytes(), 50);
    all(&mut source);
    let committed = source.progress();
    assert_eq!((committed.lines, committed.byte), (2, old.len() as u64));
    for more in ["\n", "\r\n", "\n\n"] {
        let grown = format!("{old}{more}{GOOD}");
        let mut source = lines(SHOP, grown.as_bytes(), 50);
        source.skip_to(&committed).unwrap();
        let found = all(&mut source);
        assert_eq!((found.len(), source.progress().lines), (1, 3));
        assert_eq!(source.progress().prefix_sha256, {
            caudal_producer::source::records::hex(&Sha256::digest(grown.as_bytes()))
        });
    }
    let mut source = lines(SHOP, b"", 50);
    assert!(source.skip_to(&committed).unwrap_err().is::<Halt>());
    let longer = format!("{old} AND MORE\n{GOOD}");
    let mut source = lines(SHOP, longer.as_bytes(), 50);
    source.skip_to(&committed).unwrap();
    assert!(source.next_record().unwrap_err().is::<Halt>());
}

#[test]
fn inputs_that_overlap_are_read_once() {
    use caudal_producer::mapping::file::Format;
    let folder = std::env::temp_dir().join(format!("caudal-overlap-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("in")).unwrap();
    std::fs::write(folder.join("in/a.csv"), "").unwrap();
    let at = |path: &str| folder.join(path).to_str().unwrap().to_owned();
    let overlap = [at("in"), at("in/../in/*.csv"), at("in/a.csv"), at("./in/a.csv")];
    let found = inputs::expand(&overlap, Format::Csv).unwrap();
    assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["a.csv"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever was committed last: what comes after it is what would have come anyway.
    #[test]
    fn any_cut_goes_on_as_if_it_had_not_been(
        seed in any::<u64>(), cut in any::<prop::sample::Index>(), piece in 1_usize..400, damage in any::<prop::sample::Index>()
    ) {
        let mut data = Vec::new();
        lookalike::write_csv(120, seed, &mut data).unwrap();
        // One damaged byte: quotes that do not close, fields that are missing.
        let at = damage.index(data.len() - 200) + 100;
        data[at] = b'"';
        let whole = all(&mut lines(SHOP, &data, 4_096));
        let cut = cut.index(whole.len());
        let committed = &whole[cut].1;
        let mut resumed = lines(SHOP, &data, piece);
        resumed.skip_to(committed).unwrap();
        prop_assert_eq!(&resumed.progress(), committed);
        prop_assert_eq!(all(&mut resumed), &whole[cut + 1..]);
    }

    /// Any bytes at all: no panic, every position grows, and lines balance.
    #[test]
    fn any_bytes_are_accounted_for(
        body in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'"'), Just(b','), any::<u8>()], 0..300),
        piece in 1_usize..50
    ) {
        let data = [HEADER.as_bytes(), &body].concat();
        for mapping in [SHOP, NDJSON] {
            let mut source = lines(mapping, &data, piece);
            let found = all(&mut source);
            let end = source.progress();
            prop_assert_eq!(end.lines, found.len() as u64);
            prop_assert_eq!(end.lines, end.records + end.unmappable);
            prop_assert!(found.windows(2).all(|pair| pair[0].1.byte < pair[1].1.byte));
            prop_assert!(end.byte <= data.len() as u64);
        }
    }
}

#[test]
fn the_lookalike_has_every_quirk_and_its_totals_hold() {
    let mut data = Vec::new();
    let totals = lookalike::write_csv(20_000, 1, &mut data).unwrap();
    assert_eq!(totals.lines, 20_000);
    assert!(totals.anonymous > 3_000 && totals.repeats > 100 && totals.cancelled > 100);
    assert!(totals.free > 50);
    let text = String::from_utf8(data.clone()).unwrap();
    for quirk in ["\nA5", ",Unspecified\n", "\"\"", "£", "RSA", "European Community"] {
        assert!(text.contains(quirk), "{quirk}");
    }
    let price = |line: &str| line.rsplit(',').nth(2).map(str::to_owned).unwrap_or_default();
    let fine = text.lines().filter(|l| price(l).split_once('.').is_some_and(|(_, d)| d.len() == 3));
    assert!(fine.count() > 0, "a price in thousandths");
    let (ids, progress) = check_all(&mut lines(SHOP, &data, 65_536));
    assert_eq!(ids, 20_000);
    let exact = caudal_core::money::nano_text(totals.sum_thousandths * 1_000_000, 2);
    assert_eq!(progress.sums["GBP"], exact);
}

#[test]
fn online_retail_is_read_whole() {
    let folder = std::env::var_os("CAUDAL_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = folder.join("online-retail/online_retail.csv.gz");
    if !path.exists() {
        println!("skipped: needs ../shared/data/online-retail");
        return;
    }
    let input = Input { name: "online_retail.csv.gz".into(), path: Some(path) };
    let Opened { reader, meter, .. } = inputs::open(&input).unwrap();
    let mapping = Mapping::parse(SHOP).unwrap();
    let mut source =
        Lines::start(&mapping, envelope(), ("online-retail", &input.name), reader, meter, false)
            .unwrap();
    let (ids, progress) = check_all(&mut source);
    assert_eq!((ids, progress.lines, progress.unmappable), (541_909, 541_909, 0));
    assert_eq!(progress.sums["GBP"], "9747747.934");
    assert!(progress.unmappable_sums.is_empty());
    assert_eq!(
        progress.prefix_sha256,
        "c35975c40d0e1e105090fbb11188a409393055f873841bd012915475fc84e69f"
    );
}

/// Number of different ids; nothing unmappable.
fn check_all<R: BufRead>(source: &mut Lines<R>) -> (usize, Progress) {
    let mut ids = HashSet::new();
    while let Some(record) = source.next_record().unwrap() {
        assert_eq!(reason(&record), None);
        let (_, body) = avro::unframe(record.value.as_deref().unwrap()).unwrap();
        let t = avro::read_transaction(&mut Reader::new(body)).unwrap();
        ids.insert(t.transaction_id.into_owned());
    }
    (ids.len(), source.progress())
}
