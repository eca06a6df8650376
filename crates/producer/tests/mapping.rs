//! What a mapping file makes of lines, and how it says what is wrong with itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::reject::Reason;
use caudal_core::transaction::Kind;
use caudal_producer::mapping::Mapping;
use caudal_producer::mapping::columns::{ColumnMapper, LineAt, Mapped as Made};
use caudal_producer::mapping::row::{Header, Row};
use caudal_service::exit::Usage;
use proptest::prelude::*;

const SHOP: &str = include_str!("../../../config/sources/online-retail.toml");
const PLAIN: &str = include_str!("../../../config/sources/transactions.toml");
const NDJSON: &str = include_str!("../../../config/sources/ndjson.toml");

const AT: LineAt<'static> = LineAt { source: "shop/f.csv", file: "f.csv", line: 7 };

struct Sheet {
    mapper: ColumnMapper,
}

impl Sheet {
    fn new(mapping: &str, columns: &str) -> Sheet {
        let mapping = Mapping::parse(mapping).unwrap();
        let header = Header::new(columns.split(','));
        let shape = mapping.shape_of("f.csv");
        let fields = shape.fields.as_ref().unwrap();
        Sheet { mapper: ColumnMapper::bind(fields, &header, shape.csv.ragged).unwrap() }
    }

    fn shop() -> Sheet {
        let columns =
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";
        Sheet::new(SHOP, columns)
    }

    /// Fields between bars.
    fn map(&mut self, line: &str) -> Result<Mapped, Reason> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for field in line.split('|') {
            bytes.extend_from_slice(field.as_bytes());
            ends.push(bytes.len());
        }
        let row = Row::new(&bytes, &ends, true, &[]);
        let Made::Transaction(t) = self.mapper.map(row.as_ref(), AT).map_err(|r| r.reason)? else {
            panic!("{line} is left out");
        };
        Ok(Mapped {
            id: t.transaction_id.to_string(),
            account: t.account_id.to_string(),
            amount: t.amount.to_string(),
            kind: t.kind,
            country: t.country.map(|c| c.to_string()),
            attributes: t.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            time: caudal_core::time::to_rfc3339(t.event_time),
        })
    }
}

#[derive(Debug, PartialEq)]
struct Mapped {
    id: String,
    account: String,
    amount: String,
    kind: Kind,
    country: Option<String>,
    attributes: Vec<String>,
    time: String,
}

#[test]
fn an_invoice_line_becomes_a_transaction() {
    let mut shop = Sheet::shop();
    let line = "536365|85123A| WHITE |6|2010-12-01 08:26:00|2.55|17850.0|United Kingdom";
    let mapped = shop.map(line).unwrap();
    assert_eq!(mapped.id, "536365-1");
    assert_eq!(mapped.account, "17850");
    assert_eq!(mapped.amount, "15.30");
    assert_eq!(mapped.kind, Kind::Purchase);
    assert_eq!(mapped.country.as_deref(), Some("GB"));
    assert_eq!(mapped.attributes, ["invoice=536365", "quantity=6", "unit_price=2.55"]);
    assert_eq!(mapped.time, "2010-12-01T08:26:00Z");
    // The same line again is another line.
    assert_eq!(shop.map(line).unwrap().id, "536365-2");
    assert_eq!(shop.map(&line.replace("536365", "536366")).unwrap().id, "536366-1");
    assert_eq!(shop.map(line).unwrap().id, "536365-3");
}

#[test]
fn quirks_of_the_shop() {
    let mut shop = Sheet::shop();
    let mut map = |invoice: &str, quantity: &str, price: &str, rest: &str| {
        shop.map(&format!("{invoice}|X||{quantity}|2011-07-01 12:00:00|{price}|{rest}"))
    };
    let anonymous = map("536414", "56", "0.0", "|EIRE").unwrap();
    assert_eq!(anonymous.account, "anon-536414");
    assert_eq!(anonymous.kind, Kind::Adjustment);
    assert_eq!(anonymous.country.as_deref(), Some("IE"));
    // British summer time.
    assert_eq!(anonymous.time, "2011-07-01T11:00:00Z");
    assert_eq!(map("C1", "-1", "2.5", "1.0|RSA").unwrap().kind, Kind::Refund);
    assert_eq!(map("A1", "1", "11062.06", "|Unspecified").unwrap().kind, Kind::Adjustment);
    assert_eq!(map("A2", "1", "-11062.06", "|x").unwrap().kind, Kind::Adjustment);
    assert_eq!(map("9", "-3", "0.0", "|x").unwrap().kind, Kind::Adjustment);
    let islands = map("10", "1", "0.001", "1.0|Channel Islands").unwrap();
    assert_eq!((islands.amount.as_str(), islands.country), ("0.001", None));
    assert!(islands.attributes.contains(&"country=Channel Islands".to_owned()));
}

#[test]
fn what_cannot_be_mapped_has_its_reason() {
    let mut shop = Sheet::shop();
    let line = "1|X|d|2|2011-07-01 12:00:00|1.5|1.0|EIRE";
    let mut reason = |from: &str, to: &str| shop.map(&line.replacen(from, to, 1)).unwrap_err();
    assert_eq!(reason("|EIRE", ""), Reason::Mapping);
    assert_eq!(reason("|1.5|", "||"), Reason::MissingField);
    assert_eq!(reason("|1.5|", "|1,5|"), Reason::Amount);
    // 2 × 0.00015 needs four decimals: never rounded.
    assert_eq!(reason("|1.5|", "|0.00015|"), Reason::Amount);
    assert_eq!(reason("|1.5|", "|9223372036854775807|"), Reason::Amount);
    assert_eq!(reason("2011-07-01", "01/07/2011"), Reason::Timestamp);
    assert_eq!(reason("2011-07-01", "1900-07-01"), Reason::Timestamp);
    assert_eq!(reason("1|X", "|X"), Reason::MissingField);
    assert_eq!(reason("|X|", "||"), Reason::MissingField);
}

#[test]
fn clocks_that_change_use_the_offset_before() {
    let mut shop = Sheet::shop();
    let mut time = |local: &str| shop.map(&format!("1|X||1|{local}|1.5|1.0|EIRE")).unwrap().time;
    // 01:30 does not exist on that day, and comes twice on this one.
    assert_eq!(time("2011-03-27 01:30:00"), "2011-03-27T01:30:00Z");
    assert_eq!(time("2011-10-30 01:30:00"), "2011-10-30T00:30:00Z");
}

#[test]
fn without_a_declared_scale_iso_4217_decides() {
    let columns =
        "transaction_id,account_id,merchant_id,amount,currency,kind,country,event_time,description";
    let mut plain = Sheet::new(PLAIN, columns);
    let mut map = |amount: &str, currency: &str, kind: &str| {
        plain.map(&format!("t|a|m|{amount}|{currency}|{kind}|ES|2026-01-05T08:00:00Z|"))
    };
    assert_eq!(map("1.5", "EUR", "PURCHASE").unwrap().amount, "1.50");
    assert_eq!(map("1.555", "EUR", "PURCHASE"), Err(Reason::Amount));
    assert_eq!(map("1.555", "KWD", "PURCHASE").unwrap().amount, "1.555");
    assert_eq!(map("1.5", "JPY", "PURCHASE"), Err(Reason::Currency));
    assert_eq!(map("1.5", "eur", "PURCHASE"), Err(Reason::Currency));
    assert_eq!(map("1.5", "EUR", "SALE"), Err(Reason::Mapping));
    assert_eq!(map("1.5", "EUR", "REFUND"), Err(Reason::Amount));
}

#[test]
fn a_mapping_says_what_is_wrong_with_it() {
    let error = |text: &str| {
        let error = Mapping::parse(text).unwrap_err();
        assert!(error.is::<Usage>());
        error.to_string()
    };
    assert!(Mapping::parse(NDJSON).unwrap().shape_of("f").fields.is_none());
    let unknown = error(&SHOP.replace("strip_suffix", "strip_sufix"));
    assert!(unknown.contains("strip_sufix") && unknown.contains("line "), "{unknown}");
    assert!(error(&SHOP.replace("scale = 3", "scale = 10")).contains("0 to 9"));
    assert!(error(&SHOP.replace("Europe/London", "Europe/Londres")).contains("Europe/Londres"));
    assert!(error(&SHOP.replace("time_zone", "#")).contains("time_zone"));
    assert!(error(&SHOP.replace("is = \"REFUND\"", "is = \"RETURN\"")).contains("RETURN"));
    assert!(error(&SHOP.replace("\"AU\"", "\"AUS\"")).contains("AUS"));
    assert!(error(&SHOP.replace("constant = \"GBP\"", "")).contains("[currency]"));
    assert!(error(&SHOP.replace("\"online-retail\"", "\"a b\"")).contains("source"));
    assert!(error(&NDJSON.replace("format = \"ndjson\"", "format = \"csv\"")).contains("missing"));
    // One table asks for the others.
    let table = error(&format!("{NDJSON}\n[currency]\nconstant = \"EUR\""));
    assert!(table.contains("[event_time] is missing"), "{table}");
    let shop = Mapping::parse(SHOP).unwrap();
    let fields = shop.shape_of("f.csv").fields.as_ref().unwrap();
    let missing = ColumnMapper::bind(fields, &Header::new(["InvoiceNo", "Precio"]), false);
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("InvoiceNo, Precio"), "{missing}");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let council = include_str!("../../../config/sources/council-purchases.toml");
    let log = include_str!("../../../config/sources/event-log.toml");
    // What is put in the place of what, and what the error must say.
    let cases: [(&str, &str, &str, &[&str]); 16] = [
        (council, "thousands = \",\"\nsymbols", "thousand = \",\"\nsymbols", &["thousand", "line"]),
        (council, "thousands = \",\"\nsymbols", "thousands = 3\nsymbols", &["integer `3`", "line"]),
        (council, "delimiter = \"auto\"", "delimiter = \"||\"", &["\"||\"", "line 8"]),
        (council, "encoding = \"auto\"", "encoding = \"latin-9\"", &["latin-9", "windows-1252"]),
        (
            council,
            "decimal = \",\"",
            "decimal = \".\"",
            &["both decimal", "purchases-2025-02.csv", "line 12"],
        ),
        (council, "[columns.Date]", "[columns.Data]", &["[columns.\"Data\"]", "line 17"]),
        (council, "blank = true", "blank = true\ncolumn = \"Date\"", &["[[skip]]", "line"]),
        (council, "blank = true", "column = \"Date\"", &["exactly one of prefix", "line"]),
        (council, "by_sign = true", "by_sign = true\ncolumn = \"Date\"", &["[kind]", "line"]),
        (council, "\"%d-%b-%y\"]", "\"day\"]", &["\"day\"", "strptime", "line"]),
        (council, "time_of_day = \"12:00:00\"", "time_of_day = \"noon\"", &["noon", "line"]),
        (council, "if_empty = \"council\"", "constant = \"x\"", &["[account_id]", "exactly one"]),
        (
            council,
            "other_columns = \"attributes\"",
            "other_columns = \"keep\"",
            &["keep", "line 5"],
        ),
        (
            log,
            "minor_units = true",
            "minor_units = true\nimplied_decimals = 2",
            &["not both", "line"],
        ),
        (
            log,
            "negative = [\"payment.refunded\"]",
            "negative = [\"payment.captured\"]",
            &["both lists"],
        ),
        (log, "[currency]", "[csv]\ndelimiter = \";\"\n[currency]", &["[csv]", "[json] instead"]),
    ];
    for (mapping, from, to, said) in cases {
        assert!(mapping.contains(from), "{from}");
        let error = Mapping::parse(&mapping.replacen(from, to, 1)).unwrap_err();
        assert!(error.is::<Usage>());
        let text = format!("{error:#}");
        assert!(said.iter().all(|part| text.contains(part)), "{to}: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// The product of two decimals, by whole numbers of 10⁻⁶.
    #[test]
    fn products_are_exact_or_refused(quantity in -100_000_i64..100_000, price in 0_i64..100_000_000) {
        let text = format!("{}.{:06}", price / 1_000_000, price % 1_000_000);
        let exact = i128::from(quantity) * i128::from(price);
        let line = format!("A1|X||{quantity}|2011-07-01 12:00:00|{text}|1.0|EIRE");
        match Sheet::shop().map(&line) {
            Ok(mapped) => {
                let amount = caudal_core::money::Amount::parse(&mapped.amount).unwrap();
                prop_assert_eq!(amount.nano(), exact * 1_000);
            }
            Err(reason) => {
                prop_assert_eq!(reason, Reason::Amount);
                prop_assert!(exact % 1_000 != 0);
            }
        }
    }
}
