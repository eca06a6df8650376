//! `caudal dlq show`.

use super::Database;
use anyhow::{Result, bail};
use caudal_core::mask::mask_card_numbers;
use caudal_service::exit::Usage;
use caudal_sink::letters::{Filter, Letter, read};
use clap::Args;
use std::fmt::Write as _;
use std::io::Write as _;

/// Most bytes of a value that is no text which are shown.
const HEX_BYTES: usize = 256;

/// Arguments of `caudal dlq show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Where the sink read it, as `caudal where` and the table say: transacciones_dlq-2@17
    #[arg(value_name = "TOPIC-PARTITION@OFFSET")]
    place: String,
    /// Write the value to standard output, byte for byte, and nothing else
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    database: Database,
}

/// Prints one dead letter.
///
/// # Errors
/// When there is none at that place.
pub async fn run(args: &ShowArgs) -> Result<()> {
    let Some(place) = parse(&args.place) else {
        let what = format!("{}: expected TOPIC-PARTITION@OFFSET", args.place);
        return Err(Usage(what).into());
    };
    let mut connection = args.database.connect().await?;
    let filter = Filter { place: Some(place), ..Filter::default() };
    let found = read(&mut connection, &filter, None, 1).await?;
    let Some(letter) = found.first() else {
        bail!("no dead letter was read at {}; `caudal dlq list` shows what there is", args.place)
    };
    if args.raw {
        let value = letter.record.value.as_deref().unwrap_or_default();
        return Ok(std::io::stdout().write_all(value)?);
    }
    print!("{}", text(letter));
    Ok(())
}

/// `topic-partition@offset` in its parts.
pub fn parse(place: &str) -> Option<(String, i32, i64)> {
    let (front, offset) = place.rsplit_once('@')?;
    let (topic, partition) = front.rsplit_once('-')?;
    Some((topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?))
}

fn text(letter: &Letter) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        writeln!(out, "{name:<10} {value}").ok();
    };
    line("place", &letter.place());
    line("reason", letter.reason.as_str());
    line("error", &letter.error);
    if let (Some(topic), Some(partition), Some(offset)) = &letter.source {
        line("source", &format!("{topic}-{partition}@{offset}"));
    }
    line("stored", &letter.times.0);
    line("tried", &format!("{} times again", letter.replay_count));
    line("redriven", letter.times.1.as_deref().unwrap_or("no"));
    line("headers", &mask_card_numbers(&letter.headers));
    line("key", &shown(letter.record.key.as_deref()));
    if !letter.is_whole() {
        let size = letter.original_size.unwrap_or_default();
        line("value", &format!("only the beginning of {size} bytes:"));
    }
    line("value", &shown(letter.record.value.as_deref()));
    out
}

/// Bytes as text with card numbers masked, or in hex.
fn shown(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "none".into() };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => mask_card_numbers(text).into_owned(),
        _ => {
            let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let rest = bytes.len().saturating_sub(HEX_BYTES);
            let more = if rest > 0 { format!("… and {rest} bytes") } else { String::new() };
            format!("{}{more} (hex; --raw writes the bytes)", hex(&bytes[..bytes.len() - rest]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_its_end() {
        assert_eq!(parse("a-b-2@17"), Some(("a-b".into(), 2, 17)));
        assert_eq!((parse("a-2"), parse("a@2"), parse("a-x@2")), (None, None, None));
    }

    #[test]
    fn what_is_shown_holds_no_card_number() {
        assert_eq!(shown(Some(b"card 4111 1111 1111 1111")), "card **** **** **** 1111");
        assert_eq!(shown(None), "none");
        assert_eq!(shown(Some(&[0, 0xff])), "00ff (hex; --raw writes the bytes)");
        assert!(shown(Some(&[0; 300])).contains("and 44 bytes"));
    }
}
