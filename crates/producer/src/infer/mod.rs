//! A first draft of a mapping, from a sample of a file: `caudal source infer`.
//!
//! The draft is tried on the sample before it is shown, and says where it guessed. It is a
//! beginning: what a column means only its owner knows.

mod draft;
mod profile;
mod sample;
mod words;

use crate::mapping::Mapping;
use crate::source::inputs::Input;
use crate::trial::{self, Bounds, visible};
use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use std::fmt::Write as _;
use std::path::Path;

/// Lines of the file that the draft is tried on.
const TRIED: u64 = 1_000;

/// Drafts a mapping for a file: the text of a TOML file.
///
/// # Errors
/// [`Usage`] when the file cannot be read, is empty, or is neither CSV nor NDJSON.
pub fn draft(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| Usage(format!("{}: not the name of a file", path.display())))?;
    let input = Input { name: name.to_owned(), path: Some(path.to_owned()) };
    let sample = sample::read(&input)?;
    let profiles = profile::of(&sample);
    let body = draft::write(name, &sample, &profiles);
    // Whatever was guessed, it is at least a mapping.
    let mapping = Mapping::parse(&body).context("the draft is no mapping; please report this")?;
    let bounds = Bounds { lines: TRIED, samples: 0, examples: 1 };
    let mut out = String::new();
    let mut say = |text: String| writeln!(out, "# {text}").is_ok();
    say(format!("Drafted from {name}. Read it through: lines with `guessed` are guesses."));
    for trial in trial::run(&mapping, &[input], bounds)? {
        let of = trial.mapped + trial.rejected;
        say(format!("Tried on its first {of} lines: {} become transactions.", trial.mapped));
        for group in trial.rejections.iter().take(5) {
            say(format!("  {} × {}: {}", group.count, group.reason, group.what));
            for example in &group.examples {
                say(format!("    {}: {}", example.place, visible(&example.text)));
            }
        }
    }
    Ok(out + &body)
}
