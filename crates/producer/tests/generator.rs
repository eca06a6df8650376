//! The generator: the same everywhere, and as it says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::decode::{Record, decode};
use caudal_core::dedup::{Dedup, Outcome, Seen};
use caudal_core::reject::Reason;
use caudal_core::time::HOUR;
use caudal_core::transaction::Transaction;
use caudal_core::validate::validate;
use caudal_producer::cards::Cards;
use caudal_producer::generate::{
    BASE, Class, Dice, Expected, Generator, Mix, Recipe, STEP, Shape, Zipf, csv, expected,
    expected_of,
};
use caudal_producer::mapping::Mapping;
use caudal_producer::source::Source as _;
use caudal_producer::source::envelope::Envelope;
use caudal_producer::source::inputs::Meter;
use caudal_producer::source::lines::Lines;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::process::Command;

const SCHEMA: u32 = 5;
const COUNT: u64 = 60_000;

fn generate(count: u64, seed: u64) -> Generator {
    Generator::new(Recipe::new(count, seed), "generate", SCHEMA)
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_every_machine() {
    let mut hash = Sha256::new();
    for record in generate(1_000, 42) {
        hash.update(&record.key);
        hash.update(record.value.as_deref().unwrap_or_default());
    }
    let digest = caudal_producer::source::records::hex(&hash.finalize());
    assert_eq!(digest, "84a1c4a438c47e171a7ecaa55daece58d6cadcd30d95ecc42791228381277067");
    assert!(generate(1_000, 42).eq(generate(1_000, 42)));
    assert!(!generate(1_000, 42).eq(generate(1_000, 43)));
}

#[test]
fn expected_agrees_with_decoding_validating_and_dedup() {
    let mut found = Expected::default();
    let mut dedup = Dedup::default();
    let mut latest = 0;
    for (index, generated) in generate(COUNT, 11).enumerate() {
        let record = Record {
            timestamp: (BASE + STEP * COUNT.cast_signed()) / 1_000,
            key: Some(generated.key.into()),
            value: generated.value.map(Into::into),
            ..Record::default()
        };
        let outcome =
            decode(&record, SCHEMA, ("t-0", 0)).and_then(|t| validate(t, record.timestamp));
        let class = match outcome {
            Err(rejection) => Class::Dead(rejection.reason, rejection.money),
            Ok(valid) => {
                let t = &valid.transaction;
                assert_eq!(record.key.as_deref(), Some(t.account_id.as_bytes()));
                let money = (valid.currency, t.amount);
                latest = latest.max(t.event_time);
                let outcome = dedup.check(&Seen::of(&valid), latest, HOUR);
                dedup.commit(latest, HOUR);
                match outcome {
                    Outcome::New => Class::Valid(money.0, money.1),
                    Outcome::Duplicate => Class::Duplicate(money.0, money.1),
                    Outcome::Conflict => Class::Dead(Reason::Conflict, Some(money)),
                }
            }
        };
        assert_eq!(class.money(), generated.class.money(), "record {index}");
        found.add(&class).unwrap();
    }
    assert_eq!(found, expected(COUNT, 11).unwrap());
    assert_eq!(found.lines, COUNT);
    assert_eq!(found.lines, found.valid + found.duplicates + found.dead.values().sum::<u64>());
}

#[test]
fn it_looks_like_life() {
    let expected = expected(COUNT, 5).unwrap();
    let share = |count: u64, of: u64| count * of / COUNT;
    assert!((7..=12).contains(&share(expected.duplicates, 1_000)), "about 1 %: {expected:?}");
    let broken = expected.dead.values().sum::<u64>() - expected.conflicts;
    assert!((14..=27).contains(&share(broken, 10_000)), "about 0.2 %: {expected:?}");
    assert!(expected.conflicts > 0);
    assert_eq!(expected.dead.len(), 9, "{:?}", expected.dead);
    assert_eq!(expected.sums.iter().count(), 3);
    let mut accounts: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut json = 0;
    for record in generate(COUNT, 5) {
        *accounts.entry(record.key).or_default() += 1;
        json += u64::from(record.value.is_some_and(|v| v.starts_with(b"{")));
    }
    assert!((80..=120).contains(&share(json, 1_000)));
    // The harmonic number of 10,000 is 9.8: the first account has a tenth.
    assert!((90..=115).contains(&share(accounts[b"acc-00001".as_slice()], 1_000)));
}

#[test]
fn another_first_event_time_changes_ids_but_no_sum() {
    let later = Recipe { base: BASE + HOUR, ..Recipe::new(500, 9) };
    let mut shifted = Generator::new(later, "generate", SCHEMA);
    for record in generate(500, 9) {
        let other = shifted.next().unwrap();
        assert_eq!(record.class, other.class);
        assert!(record.value != other.value || record.value.is_none_or(|v| v.len() < 11));
    }
}

#[test]
fn the_load_is_avro_with_one_in_a_thousand_broken() {
    let recipe = Recipe { shape: Shape::LOAD, ..Recipe::new(COUNT, 5) };
    let (mut found, mut json) = (Expected::default(), 0);
    for record in Generator::new(recipe, "generate", SCHEMA) {
        let broken = matches!(record.class, Class::Dead(..));
        json += u64::from(!broken && record.value.is_some_and(|v| v.starts_with(b"{")));
        found.add(&record.class).unwrap();
    }
    assert_eq!((json, found.conflicts), (0, 0));
    let share = |count: u64, of: u64| count * of / COUNT;
    assert!((7..=12).contains(&share(found.duplicates, 1_000)), "about 1 %: {found:?}");
    let dead: u64 = found.dead.values().sum();
    assert!((7..=13).contains(&share(dead, 10_000)), "about 0.1 %: {found:?}");
}

#[test]
fn zipf_draws_every_rank_in_range() {
    let (zipf, mut dice) = (Zipf::new(3, 100), Dice::new(1));
    let mut counts = [0_u32; 4];
    (0..11_000).for_each(|_| counts[usize::try_from(zipf.draw(&mut dice)).unwrap()] += 1);
    // 1 : 1/2 : 1/3.
    assert_eq!(counts[0], 0);
    assert!(
        (5_800..6_200).contains(&counts[1]) && (1_850..2_150).contains(&counts[3]),
        "{counts:?}"
    );
}

/// Ids, money and kinds of what a mapping makes of the generator's CSV, against the generator's own.
#[test]
fn as_csv_it_is_the_same_data() {
    let recipe = Recipe::new(20_000, 12);
    let mut data = Vec::new();
    csv::write(recipe, &mut data).unwrap();
    let mapping = Mapping::parse(include_str!("../../../config/sources/generated.toml")).unwrap();
    let cards = Cards::under(b"a key of the test, long enough...", true).unwrap();
    let envelope = Envelope { topic: "t".into(), partitions: 6, schema_id: SCHEMA, cards };
    let names = ("generated", "f.csv");
    let data = data.as_slice();
    let mut lines = Lines::start(&mapping, envelope, names, data, Meter::default(), false).unwrap();
    let (mut mapped, mut unmappable) = (Vec::new(), 0_u64);
    while let Some(out) = lines.next_record().unwrap() {
        if out.headers.is_empty() {
            mapped.extend(told(out.value));
        } else {
            unmappable += 1;
        }
    }
    let wanted: Vec<String> =
        Generator::new(recipe, "generate", SCHEMA).filter_map(|r| told(r.value)).collect();
    assert_eq!(mapped, wanted);
    let expected = expected(20_000, 12).unwrap();
    assert_eq!(lines.progress().lines, expected.lines);
    assert_eq!(wanted.len() as u64, expected.valid + expected.duplicates + expected.conflicts);
    assert!(unmappable > 0 && unmappable <= expected.dead.values().sum::<u64>());
}

/// What a valid record says; nothing of one that the processor would refuse.
fn told(value: Option<Vec<u8>>) -> Option<String> {
    let record = Record { value: value.map(Into::into), ..Record::default() };
    let t = decode(&record, SCHEMA, ("t-0", 0)).ok()?;
    let t = validate(t, BASE / 1_000 + 7_200_000).ok()?.transaction;
    let Transaction { transaction_id, account_id, merchant_id, amount, currency, .. } = &t;
    Some(format!(
        "{transaction_id} {account_id} {merchant_id} {amount} {currency} {:?} {} {:?} {:?} {:?}",
        t.kind, t.event_time, t.country, t.description, t.attributes
    ))
}

#[test]
fn a_shape_is_what_it_says() {
    let clean = Shape { skew: 0, accounts: 50, mix: Mix::CLEAN, step: 1_000, ..Shape::LIFE };
    let expected = expected_of(Recipe { shape: clean, ..Recipe::new(10_000, 3) }).unwrap();
    assert_eq!((expected.valid, expected.lines), (10_000, 10_000));
    let mut accounts: HashMap<Vec<u8>, u64> = HashMap::new();
    for record in Generator::new(Recipe { shape: clean, ..Recipe::new(10_000, 3) }, "s", SCHEMA) {
        *accounts.entry(record.key).or_default() += 1;
    }
    assert_eq!(accounts.len(), 50);
    assert!(accounts.values().all(|n| (130..290).contains(n)), "all alike: {accounts:?}");
    let steep = Shape { skew: 150, ..clean };
    let first = Generator::new(Recipe { shape: steep, ..Recipe::new(10_000, 3) }, "s", SCHEMA)
        .filter(|record| record.key == b"acc-00001")
        .count();
    // Of 50 ranks with s = 1.5 the first has 1/2.33.
    assert!((4_100..4_500).contains(&first), "{first}");
    let mix = Mix::parse("clean,wrong_sign=200,tombstone=100").unwrap();
    let shape = Shape { mix, ..Shape::LIFE };
    let found = expected_of(Recipe { shape, ..Recipe::new(COUNT, 3) }).unwrap();
    let reasons: Vec<&str> = found.dead.keys().copied().collect();
    assert_eq!(reasons, ["amount", "null_value"]);
    let share = |reason: &str| found.dead[reason] * 10_000 / COUNT;
    assert!((170..230).contains(&share("amount")) && (80..120).contains(&share("null_value")));
}

#[test]
fn records_are_written_as_csv_without_kafka() {
    let path = std::env::temp_dir().join(format!("caudal-generated-{}.csv", std::process::id()));
    let status = Command::new(env!("CARGO_BIN_EXE_caudal-producer"))
        .args(["--generate", "10", "--kafka-config", "/no/such/file", "--write-csv"])
        .arg(&path)
        .status();
    assert!(status.unwrap().success());
    assert!(std::fs::read_to_string(&path).unwrap().lines().count() > 10);
    std::fs::remove_file(path).unwrap();
}
