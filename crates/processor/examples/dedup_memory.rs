//! Prints what an id that dedup remembers costs, by the resident memory of the process, at 1, 5
//! and 10 million ids of one hour: `cargo run --release --example dedup_memory`.

use caudal_core::dedup::{Dedup, Seen};
use caudal_core::time::{HOUR, MINUTE};
use std::time::Instant;

const COMMIT_EVERY: i64 = 5_000;

/// A well-mixed id (the finaliser of splitmix64, twice): what SHA-256 gives, without its cost.
fn id(number: u64) -> [u8; 16] {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let low = mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut out = [0; 16];
    out[..8].copy_from_slice(&low.to_le_bytes());
    out[8..].copy_from_slice(&mix(low ^ number).to_le_bytes());
    out
}

fn resident_bytes() -> std::io::Result<u64> {
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.unwrap_or(0) * PAGE)
}

/// Fills one hour with `live` ids, then goes on for as many again, so that every minute has been
/// dropped and filled once more.
fn measure(live: i64) -> std::io::Result<()> {
    let before = resident_bytes()?;
    let (mut dedup, begun) = (Dedup::default(), Instant::now());
    let mut filled = 0;
    for number in 0..2 * live {
        let ago = number % 3 * MINUTE;
        let now = number * (HOUR / live);
        let seen = Seen { id: id(number.cast_unsigned()), payload: [0; 8], event_time: now - ago };
        dedup.check(&seen, now, HOUR - 3 * MINUTE);
        if number % COMMIT_EVERY == 0 {
            dedup.commit(now, HOUR - 3 * MINUTE);
        }
        if number == live {
            filled = resident_bytes()? - before;
        }
    }
    let resident = resident_bytes()? - before;
    println!(
        "{live:>9} ids an hour: {} live, {:.1} B each resident ({:.1} at the first fill), {:.1} \
         by bytes(), {:.0} ns a check",
        dedup.len(),
        resident as f64 / dedup.len() as f64,
        filled as f64 / dedup.len() as f64,
        dedup.bytes() as f64 / dedup.len() as f64,
        begun.elapsed().as_nanos() as f64 / (2 * live) as f64
    );
    Ok(())
}

/// Each size in a process of its own: what one frees, the next must not get for nothing.
fn main() -> std::io::Result<()> {
    if let Some(live) = std::env::args().nth(1).and_then(|live| live.parse().ok()) {
        return measure(live);
    }
    for live in ["1000000", "5000000", "10000000"] {
        std::process::Command::new(std::env::current_exe()?).arg(live).status()?;
    }
    Ok(())
}
