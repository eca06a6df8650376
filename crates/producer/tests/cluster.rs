//! The producer on a real cluster: killed, resumed, refused. Needs brokers with the product's
//! topics; `CAUDAL_TEST_BOOTSTRAP=localhost:9092` says where.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use caudal_core::avro::{self, Reader};
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::partitioner::partition_of;
use caudal_producer::generate::Dice;
use caudal_producer::lookalike;
use caudal_producer::source::records::MAX_RECORD;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use support::{Bench, PARTITIONS, Watch};

/// Ids of the transactions, and the sum of their amounts in thousandths; every key leads to its
/// partition.
fn balance(records: &[Record]) -> (HashSet<String>, i128) {
    let mut ids = HashSet::new();
    let mut sum = 0;
    for record in records {
        let (_, body) = avro::unframe(record.value.as_deref().unwrap()).unwrap();
        let t = avro::read_transaction(&mut Reader::new(body)).unwrap();
        assert_eq!(record.key.as_deref(), Some(t.account_id.as_bytes()));
        assert_eq!(record.partition, partition_of(t.account_id.as_bytes(), PARTITIONS));
        assert!(ids.insert(t.transaction_id.into_owned()), "an id came twice");
        sum += t.amount.nano();
    }
    assert_eq!(sum % 1_000_000, 0);
    (ids, sum / 1_000_000)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Kills the producer three times, each at a random moment at which a transaction of its own is
/// open, then lets it end, and counts.
fn kill_until_done(bench: &Bench, input: &Path, batch: &str, (lines, sum): (u64, i128)) {
    let mut dice = Dice::new(u64::from(std::process::id()));
    let watch = Watch::new(bench);
    let start =
        || bench.start("online-retail.toml", input.to_str().unwrap(), &["--batch-records", batch]);
    for kill in 1..=3 {
        let before = watch.ends();
        let mut child = start();
        sleep(Duration::from_millis(u64::try_from(dice.between(0, 800)).unwrap()));
        let open = watch.kill_within(&mut child, &before);
        println!("kill {kill} with an open transaction: {open}");
    }
    assert!(start().wait().unwrap().success());
    let records = bench.read();
    let (ids, found) = balance(&records);
    assert_eq!((records.len() as u64, ids.len() as u64), (lines, lines));
    assert_eq!(found, sum);
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_repeats_nothing() {
    let Some(bench) = Bench::set_up("kill") else { return };
    let mut csv = Vec::new();
    let totals = lookalike::write_csv(60_000, 3, &mut csv).unwrap();
    let input = bench.folder.join("shop.csv.gz");
    fs::write(&input, gzip(&csv)).unwrap();
    kill_until_done(&bench, &input, "200", (totals.lines, totals.sum_thousandths));
    // Once more: nothing happens.
    assert_eq!(bench.run("online-retail.toml", &input, &[]), 0);
    assert_eq!(bench.read().len() as u64, totals.lines);
}

#[test]
fn online_retail_arrives_whole_however_often_it_is_killed() {
    let folder = std::env::var_os("CAUDAL_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let input = folder.join("online-retail/online_retail.csv.gz");
    if !input.exists() {
        println!("skipped: needs ../shared/data/online-retail");
        return;
    }
    let Some(bench) = Bench::set_up("retail") else { return };
    kill_until_done(&bench, &input, "3000", (541_909, 9_747_747_934));
}

#[test]
fn a_second_producer_of_the_same_source_fences_the_first() {
    let Some(bench) = Bench::set_up("fence") else { return };
    let mut csv = Vec::new();
    let totals = lookalike::write_csv(20_000, 5, &mut csv).unwrap();
    let input = bench.folder.join("shop.csv");
    fs::write(&input, csv).unwrap();
    let path = input.to_str().unwrap();
    let slow = ["--rate", "2000", "--commit-interval-ms", "20"];
    let mut first = bench.start("online-retail.toml", path, &slow);
    sleep(Duration::from_secs(4));
    assert_eq!(bench.run("online-retail.toml", &input, &[]), 0);
    assert_eq!(first.wait().unwrap().code(), Some(1));
    let (ids, sum) = balance(&bench.read());
    assert_eq!(ids.len() as u64, totals.lines);
    assert_eq!(sum, totals.sum_thousandths);
}

#[test]
fn a_truncated_gzip_goes_on_when_it_is_whole_and_a_changed_file_is_refused() {
    let Some(bench) = Bench::set_up("cut") else { return };
    let mut csv = Vec::new();
    let totals = lookalike::write_csv(8_000, 4, &mut csv).unwrap();
    let whole = gzip(&csv);
    let input = bench.folder.join("shop.csv.gz");
    fs::write(&input, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(bench.run("online-retail.toml", &input, &[]), 1);
    let so_far = bench.read().len() as u64;
    assert!(so_far > 0 && so_far < totals.lines, "{so_far}");

    let mut changed = csv.clone();
    let at = changed.iter().position(|b| *b == b'\n').unwrap() + 4;
    changed[at] = b'9';
    fs::write(&input, gzip(&changed)).unwrap();
    assert_eq!(bench.run("online-retail.toml", &input, &[]), 3);
    assert_eq!(bench.read().len() as u64, so_far);

    fs::write(&input, &whole).unwrap();
    assert_eq!(bench.run("online-retail.toml", &input, &[]), 0);
    let (ids, sum) = balance(&bench.read());
    assert_eq!(ids.len() as u64, totals.lines);
    assert_eq!(sum, totals.sum_thousandths);
}

#[test]
fn the_largest_line_fits_and_a_larger_one_goes_on_as_its_head() {
    let Some(bench) = Bench::set_up("large") else { return };
    let mut dice = Dice::new(1);
    // Bytes that do not compress.
    let mut noise = |length: usize| -> Vec<u8> {
        (0..length).map(|_| u8::try_from(dice.between(128, 255)).unwrap()).collect()
    };
    let data = [noise(MAX_RECORD - 1), noise(MAX_RECORD)].join(&b'\n');
    let data = [data, noise(10), noise(3 * MAX_RECORD)].join(&b'\n');
    let input = bench.folder.join("noise.ndjson");
    fs::write(&input, data).unwrap();
    assert_eq!(bench.run("ndjson.toml", &input, &[]), 0);
    let mut found: Vec<(String, usize)> = bench
        .read()
        .iter()
        .map(|r| {
            let line = r.header(headers::LINE).unwrap().to_owned();
            (line + " " + r.header(headers::REASON).unwrap(), r.value.as_ref().unwrap().len())
        })
        .collect();
    found.sort();
    let line = |n: u32, reason: &str, length| (format!("noise.ndjson:{n} {reason}"), length);
    assert_eq!(
        found,
        [
            line(1, "malformed", MAX_RECORD - 1),
            line(2, "too_large", 64 << 10),
            line(3, "malformed", 10),
            line(4, "too_large", 64 << 10),
        ]
    );
}

#[test]
fn standard_input_passes_lines_on_at_once_and_resumes_by_reading_again() {
    let Some(bench) = Bench::set_up("stdin") else { return };
    let line = |n: u32| {
        format!(
            "{{\"transaction_id\":\"t{n}\",\"account_id\":\"a{n}\",\"merchant_id\":\"m\",\
             \"amount\":\"1.50\",\"currency\":\"EUR\",\"kind\":\"PURCHASE\",\
             \"event_time\":\"2026-01-05T08:00:00Z\"}}\n"
        )
    };
    let broken = "{\"transaction_id\":\"x\",\"pan\":\"4111111111111111\"}\n";
    let mut child = bench.start("ndjson.toml", "-", &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all((line(1) + broken).as_bytes()).unwrap();
    sleep(Duration::from_secs(6));
    assert_eq!(bench.read().len(), 2, "lines wait for a pipe that pauses");
    child.kill().unwrap();
    child.wait().unwrap();

    let mut child = bench.start("ndjson.toml", "-", &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all((line(1) + broken + &line(2)).as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let records = bench.read();
    assert_eq!(records.len(), 3);
    let dead: Vec<_> = records.iter().filter(|r| r.header(headers::REASON).is_some()).collect();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header(headers::REASON), Some("missing_field"));
    assert_eq!(dead[0].header(headers::LINE), Some("-:2"));
    let value = String::from_utf8(dead[0].value.as_deref().unwrap().to_vec()).unwrap();
    assert!(value.contains("************1111") && !value.contains("4111111"), "{value}");
}
