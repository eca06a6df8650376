//! Damaged files of every shape: no panic, nothing lost, the same from any cut on, in bounded
//! memory. `CAUDAL_CASES` asks for more cases.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use caudal_core::outbox::OutRecord;
use caudal_producer::cards::Cards;
use caudal_producer::lookalike;
use caudal_producer::mapping::Mapping;
use caudal_producer::progress::Progress;
use caudal_producer::samples::ALL;
use caudal_producer::source::Source as _;
use caudal_producer::source::envelope::Envelope;
use caudal_producer::source::inputs::Meter;
use caudal_producer::source::lines::Lines;
use proptest::prelude::*;
use std::cell::Cell;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// A damage, at a place that is a fraction of the length.
#[derive(Debug, Clone)]
enum Damage {
    Put(Vec<u8>),
    Cut(usize),
    Flip(u8),
    Repeat(usize),
}

fn damage() -> impl Strategy<Value = (f64, Damage)> {
    let texts = prop::sample::select(vec![
        b"\"".to_vec(),
        b"\0".to_vec(),
        b"\xff\xfe".to_vec(),
        b"\r".to_vec(),
        b"\n\n,;\t|\n".to_vec(),
        b"{\"event\":{\"event\":[[[[".to_vec(),
        "９９,99 €".as_bytes().to_vec(),
        b"99999999999999999999999999999999999999999.99999999999".to_vec(),
        b"-9223372036854775808".to_vec(),
        b"(((-+$)))".to_vec(),
        b"1e999999999".to_vec(),
        b"\\u0000\\ud800".to_vec(),
        b"31/02/2026 25:61".to_vec(),
        b"+00:00:00.999999999999Z".to_vec(),
    ]);
    let what = prop_oneof![
        3 => texts.prop_map(Damage::Put),
        1 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Damage::Put),
        1 => (1_usize..200).prop_map(Damage::Cut),
        2 => any::<u8>().prop_map(Damage::Flip),
        1 => (1_usize..300).prop_map(Damage::Repeat),
    ];
    (0.0..1.0_f64, what)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a file of a few kilobytes"
)]
fn apply(data: &mut Vec<u8>, (place, damage): &(f64, Damage)) {
    let at = ((data.len() as f64 * place) as usize).min(data.len().saturating_sub(1));
    match damage {
        Damage::Put(bytes) => drop(data.splice(at..at, bytes.iter().copied())),
        Damage::Cut(length) => drop(data.drain(at..(at + length).min(data.len()))),
        Damage::Flip(bits) => {
            if let Some(byte) = data.get_mut(at) {
                *byte ^= bits;
            }
        }
        Damage::Repeat(length) => {
            let part = data[at..(at + length).min(data.len())].to_vec();
            data.splice(at..at, part);
        }
    }
}

/// Mappings of config/sources/ and the beginning of a file of each.
fn whole_files(test: &str) -> Vec<(String, String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/sources");
    let mapping = |name: &str| std::fs::read_to_string(root.join(format!("{name}.toml"))).unwrap();
    let mut all = Vec::new();
    let mut shop = Vec::new();
    lookalike::write_csv(40, 3, &mut shop).unwrap();
    all.push((mapping("online-retail"), "shop.csv".to_owned(), shop));
    let unique = format!("caudal-mutations-{test}-{}", std::process::id());
    let folder = std::env::temp_dir().join(unique);
    for sample in ALL {
        sample.write(60, 3, &folder).unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            all.push((mapping(sample.name), name, std::fs::read(&path).unwrap()));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
    all
}

fn lines<R: Read>(
    mapping: &Mapping,
    file: &str,
    input: R,
    piece: usize,
) -> Option<Lines<impl BufRead + use<R>>> {
    let cards = Cards::under(b"a key of the tests", true).unwrap();
    let envelope = Envelope { topic: "t".into(), partitions: 6, schema_id: 5, cards };
    let input = BufReader::with_capacity(piece, input);
    // A header may be damaged too: then nothing is read, and the mapping says so.
    Lines::start(mapping, envelope, ("s", file), input, Meter::default(), false).ok()
}

fn all<R: BufRead>(lines: &mut Lines<R>) -> Vec<(OutRecord, Progress)> {
    let mut found = Vec::new();
    while let Some(record) = lines.next_record().unwrap() {
        found.push((record, lines.progress()));
    }
    found
}

fn cases() -> u32 {
    std::env::var("CAUDAL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

#[test]
fn whatever_is_damaged_nothing_is_lost() {
    let files = whole_files("damage");
    let config =
        ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (
        any::<prop::sample::Index>(),
        prop::collection::vec(damage(), 0..6),
        1_usize..300,
        any::<prop::sample::Index>(),
    );
    let read = Cell::new(0_u64);
    proptest!(config, |((which, damages, piece, cut) in strategy)| {
        let (mapping, name, whole) = &files[which.index(files.len())];
        let mapping = Mapping::parse(mapping).unwrap();
        let mut data = whole.clone();
        damages.iter().for_each(|damage| apply(&mut data, damage));
        if let Some(mut source) = lines(&mapping, name, Cursor::new(&data), piece) {
            let found = all(&mut source);
            let end = source.progress();
            read.set(read.get() + end.records);
            prop_assert_eq!(end.lines, found.len() as u64);
            prop_assert_eq!(end.lines, end.records + end.unmappable);
            prop_assert!(end.byte <= data.len() as u64);
            prop_assert!(found.windows(2).all(|pair| pair[0].1.byte < pair[1].1.byte));
            if !found.is_empty() {
                let cut = cut.index(found.len());
                let mut again = lines(&mapping, name, Cursor::new(&data), 4_096).unwrap();
                again.skip_to(&found[cut].1).unwrap();
                prop_assert_eq!(all(&mut again), &found[cut + 1..]);
            }
        }
    });
    assert!(
        read.get() > u64::from(cases()) * 10,
        "{} transactions: hardly any file was read",
        read.get()
    );
}

/// Endless input of one piece.
struct Endless {
    piece: Vec<u8>,
    left: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.piece.len()).min(self.left);
        buffer[..count].copy_from_slice(&self.piece[..count]);
        self.left -= count;
        Ok(count)
    }
}

/// Most memory that this process has ever had, in bytes; Linux only.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

#[test]
fn memory_is_bounded_whatever_the_length_of_a_line() {
    const INPUT: usize = 48 << 20;
    const BOUND: u64 = 40 << 20;
    let (mapping, name, head) = whole_files("memory").swap_remove(0);
    let mapping = Mapping::parse(&mapping).unwrap();
    let header = head[..=head.iter().position(|b| *b == b'\n').unwrap()].to_vec();
    let before = peak_memory();
    for piece in [&b"x"[..], b"\"", b",", b"\"\"", b"\0", b"\xff", b"a,\"", b"\r", b"1 "] {
        let body = Endless { piece: piece.repeat(65_536 / piece.len()), left: INPUT };
        let input = Cursor::new(header.clone()).chain(body);
        let mut source = lines(&mapping, &name, input, 256 << 10).unwrap();
        let mut count = 0;
        while source.next_record().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(source.progress().lines, count);
    }
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        let grown = after.saturating_sub(before);
        assert!(grown < BOUND, "{} MiB more for lines of {} MiB", grown >> 20, INPUT >> 20);
    }
}
