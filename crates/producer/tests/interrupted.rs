//! The producer over files and `--follow`, killed and frozen at seeded moments, once for sure within
//! an open transaction, and at failpoints before and after commits: exact totals each time. Needs brokers with the product's topics
//! (`CAUDAL_TEST_BOOTSTRAP`). `CAUDAL_MOMENTS=20` is what `make chaos` asks; `CAUDAL_SEED` repeats.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use caudal_core::avro::{self, Reader};
use caudal_core::headers;
use caudal_producer::commit::standing;
use caudal_producer::generate::Dice;
use caudal_producer::progress::Progress;
use caudal_producer::samples::{ALL, Sample, Totals};
use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use support::{Bench, PATIENCE, Watch, signal};

/// Small transactions, and a pace that no slow machine outwaits: the files must not end before the
/// last moment.
const PACED: [&str; 6] = ["--batch-records", "100", "--commit-interval-ms", "20", "--rate", "1000"];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn moments() -> u64 {
    setting("CAUDAL_MOMENTS", 2)
}

fn dice() -> Dice {
    let seed = setting("CAUDAL_SEED", 1);
    println!("CAUDAL_SEED={seed}");
    Dice::new(seed)
}

/// The dump of cards: its ids name file and line, so that no two files share one.
fn cards() -> Sample {
    ALL.into_iter().find(|sample| sample.name == "card-dump").unwrap()
}

/// Starts it to die before and after a commit, again and again.
fn die_at_failpoints(bench: &mut Bench, input: &str, more: &[&str]) {
    for number in 1..=moments().div_ceil(4).max(2) {
        for side in ["before", "after"] {
            let variables = bench.variables.clone();
            bench.variables.push(("CAUDAL_FAILPOINT", format!("{side}:{number}")));
            let mut child = start(bench, input, more);
            bench.variables = variables;
            wait_until("it dies", || child.try_wait().unwrap().is_some());
            let code = child.wait().unwrap().code();
            assert_eq!(code, None, "it must die at {side}:{number}");
        }
    }
}

/// Writes a file of that name, and adds what must come of it.
fn write(folder: &Path, name: &str, (lines, seed): (u64, u64), totals: &mut Totals) -> Vec<u8> {
    let draft = folder.join(".draft");
    let more = cards().write(lines, seed, &draft).unwrap();
    totals.mapped += more.mapped;
    totals.rejected += more.rejected;
    totals.skipped += more.skipped;
    totals.ids += more.ids;
    totals.cards.extend(more.cards);
    for (currency, sum) in more.sums {
        *totals.sums.entry(currency).or_default() += sum;
    }
    let bytes = fs::read(draft.join("card_transactions.csv")).unwrap();
    if !name.is_empty() {
        fs::rename(draft.join("card_transactions.csv"), folder.join(name)).unwrap();
    }
    bytes
}

/// What arrived, against what must; and no card number anywhere.
fn check(bench: &Bench, totals: &Totals) {
    let records = bench.read();
    let (mut ids, mut sum, mut dead) = (HashSet::new(), 0_i128, 0);
    for record in &records {
        let value = record.value.as_deref().unwrap();
        let text = String::from_utf8_lossy(value);
        assert!(!totals.cards.iter().any(|card| text.contains(card.as_str())), "{text}");
        if record.header(headers::REASON).is_some() {
            dead += 1;
            continue;
        }
        let (_, body) = avro::unframe(value).unwrap();
        let t = avro::read_transaction(&mut Reader::new(body)).unwrap();
        assert!(ids.insert(t.transaction_id.to_string()), "{} came twice", t.transaction_id);
        sum += t.amount.nano() / 100_000;
    }
    assert_eq!((ids.len() as u64, dead), (totals.mapped, totals.rejected));
    assert_eq!(sum, totals.sums["USD"]);
}

fn progress(bench: &Bench, file: &str) -> Option<Progress> {
    standing(&bench.kafka(), &bench.name).unwrap().of(file).cloned()
}

fn start(bench: &Bench, input: &str, more: &[&str]) -> Child {
    bench.start("card-dump.toml", input, &[&PACED, more].concat())
}

/// Waits until a producer that was just started has committed something; the lines so far. Whatever
/// its predecessor left open is ended by it: only then can the progress be read to its end.
fn wait_until_it_sends(bench: &Bench) -> u64 {
    let lines = || standing(&bench.kafka(), &bench.name).unwrap().total_lines();
    let before = lines();
    let mut now = before;
    wait_until("it sends", || {
        now = lines();
        now > before
    });
    now
}

/// Lets it send something and then kills it within a second, or freezes it first: for a moment, or
/// until its successor has taken over. A frozen one that wakes up then must end as a fenced one.
/// Gives the lines that were sent before.
fn interrupt(bench: &Bench, start: &dyn Fn() -> Child, dice: &mut Dice) -> u64 {
    let mut child = start();
    let before = wait_until_it_sends(bench);
    sleep(Duration::from_millis(dice.below(700)));
    assert!(child.try_wait().unwrap().is_none(), "it ended before it was interrupted");
    match dice.below(4) {
        0 => {
            signal(&child, "STOP");
            sleep(Duration::from_millis(dice.below(500)));
            signal(&child, "CONT");
            sleep(Duration::from_millis(dice.below(300)));
            child.kill().unwrap();
        }
        1 => {
            signal(&child, "STOP");
            let mut successor = start();
            wait_until_it_sends(bench);
            signal(&child, "CONT");
            wait_until("the zombie ends", || child.try_wait().unwrap().is_some());
            assert_eq!(child.wait().unwrap().code(), Some(1), "a zombie must be fenced");
            successor.kill().unwrap();
            successor.wait().unwrap();
            println!("a zombie woke up");
            return before;
        }
        _ => child.kill().unwrap(),
    }
    child.wait().unwrap();
    before
}

/// Lets it send something and then kills it within a transaction, which is proven to be open: a
/// random moment may fall between two. Gives the lines that were sent before.
fn kill_within_a_transaction(bench: &Bench, start: &dyn Fn() -> Child) -> u64 {
    let watch = Watch::new(bench);
    let ends = watch.ends();
    let mut child = start();
    let before = wait_until_it_sends(bench);
    let open = watch.kill_within(&mut child, &ends);
    println!("killed with an open transaction: {open}");
    before
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn files_arrive_whole_however_often_it_is_interrupted() {
    let Some(mut bench) = Bench::set_up("interrupted") else { return };
    let mut dice = dice();
    let mut totals = Totals::default();
    // One more than the moments: for the kill within a transaction.
    let lines = 20_000 * (moments() + 1);
    for (name, seed) in [("a.csv", 3), ("b.csv", 4)] {
        write(&bench.folder, name, (lines / 2, seed), &mut totals);
    }
    let input = bench.folder.display().to_string();
    for moment in 1..=moments() {
        let sent = interrupt(&bench, &|| start(&bench, &input, &[]), &mut dice);
        println!("moment {moment}: after {sent} of {lines} lines");
    }
    let sent = kill_within_a_transaction(&bench, &|| start(&bench, &input, &[]));
    println!("within a transaction: after {sent} of {lines} lines");
    die_at_failpoints(&mut bench, &input, &[]);
    assert!(bench.start("card-dump.toml", &input, &[]).wait().unwrap().success());
    check(&bench, &totals);
}

#[test]
fn files_that_come_and_grow_arrive_whole_however_often_it_is_interrupted() {
    let Some(mut bench) = Bench::set_up("followed") else { return };
    let mut dice = dice();
    let mut totals = Totals::default();
    let lines = 4_000 * moments();
    let growing = write(&bench.folder, "", (lines, 5), &mut totals);
    let names: Vec<String> = (0..moments()).map(|n| format!("new-{n}.csv")).collect();
    let mut waiting: Vec<(String, Vec<u8>)> = Vec::new();
    for (seed, name) in (10..).zip(&names) {
        waiting.push((name.clone(), write(&bench.folder, "", (6_000, seed), &mut totals)));
    }
    let input = bench.folder.display().to_string();
    let follow = ["--follow", "--settle-ms", "2500"];
    let written = AtomicBool::new(false);
    scope(|scope| {
        let (folder, written) = (bench.folder.clone(), &written);
        scope.spawn(move || write_slowly(&folder, &growing, waiting, written));
        for moment in 1..=moments() {
            let sent = interrupt(&bench, &|| start(&bench, &input, &follow), &mut dice);
            println!("moment {moment}: after {sent} lines of files that come and grow");
        }
        die_at_failpoints(&mut bench, &input, &follow);
        let mut last = bench.start("card-dump.toml", &input, &follow);
        wait_until("all is written", || written.load(Ordering::SeqCst));
        let mut all = names.clone();
        all.push("growing.csv".into());
        wait_until("all is sent", || {
            all.iter().all(|name| progress(&bench, name).is_some_and(|p| p.done))
        });
        signal(&last, "TERM");
        assert_eq!(last.wait().unwrap().code(), Some(0));
    });
    check(&bench, &totals);
}

/// A file that grows by pieces that end anywhere, and new ones that are renamed into the folder.
fn write_slowly(
    folder: &Path,
    growing: &[u8],
    waiting: Vec<(String, Vec<u8>)>,
    written: &AtomicBool,
) {
    let mut file = fs::File::create(folder.join("growing.csv")).unwrap();
    let pieces: Vec<&[u8]> = growing.chunks(growing.len() / 400 + 1).collect();
    let every = pieces.len() / (waiting.len() + 1);
    let mut waiting = waiting.into_iter();
    for (at, piece) in pieces.iter().enumerate() {
        file.write_all(piece).unwrap();
        if at % every.max(1) == 0
            && let Some((name, bytes)) = waiting.next()
        {
            let hidden = folder.join(format!(".{name}"));
            fs::write(&hidden, bytes).unwrap();
            fs::rename(hidden, folder.join(name)).unwrap();
        }
        sleep(Duration::from_millis(15));
    }
    for (name, bytes) in waiting {
        fs::write(folder.join(name), bytes).unwrap();
    }
    written.store(true, Ordering::SeqCst);
}
