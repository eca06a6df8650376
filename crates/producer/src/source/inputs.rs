//! Files: finding them, naming them, opening them, gzip or not.

use crate::mapping::file::Format;
use crate::mapping::pattern::matches;
use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use flate2::bufread::MultiGzDecoder;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// An input and its name within the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// File name without folders, `-` for standard input: the same wherever the file lies.
    pub name: String,
    /// Where it is now; `None` for standard input.
    pub path: Option<PathBuf>,
}

/// Expands files, folders (their files of the format's kind, not deeper) and globs (`*` and `?` in
/// the last part), sorted by name.
///
/// # Errors
/// [`Usage`] when nothing is found, or two inputs have the same file name: progress is kept by
/// name.
pub fn expand(patterns: &[String], format: Format) -> Result<Vec<Input>> {
    for pattern in patterns {
        if pattern != "-" && expand_one(pattern, format)?.is_empty() {
            let absent = is_absent(pattern);
            let what = if absent { "no such file or folder" } else { "no file there fits" };
            return Err(Usage(format!("input {pattern}: {what}")).into());
        }
    }
    expand_present(patterns, format)
}

/// As [`expand`], where there may be no file yet, or for a moment.
///
/// # Errors
/// As [`expand`].
pub fn expand_present(patterns: &[String], format: Format) -> Result<Vec<Input>> {
    let mut found: BTreeMap<String, Option<PathBuf>> = BTreeMap::new();
    for pattern in patterns {
        if pattern == "-" {
            found.insert("-".into(), None);
            continue;
        }
        for path in expand_one(pattern, format)? {
            let name = file_name(&path)?;
            if let Some(Some(other)) = found.insert(name.clone(), Some(path.clone()))
                && !is_same_file(&other, &path)
            {
                return Err(Usage(format!(
                    "{} and {} have the same file name, by which progress is kept; rename one, or \
                     run them apart, each with its own --source",
                    other.display(),
                    path.display()
                ))
                .into());
            }
        }
    }
    Ok(found.into_iter().map(|(name, path)| Input { name, path }).collect())
}

/// Whether two paths, which may overlap as patterns do, lead to one file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
}

/// Whether a pattern is a path at which nothing is.
#[must_use]
pub fn is_absent(pattern: &str) -> bool {
    pattern != "-" && !is_glob(pattern) && !Path::new(pattern).exists()
}

fn is_glob(pattern: &str) -> bool {
    let last = Path::new(pattern).file_name().and_then(|n| n.to_str());
    last.unwrap_or_default().contains(['*', '?'])
}

fn expand_one(pattern: &str, format: Format) -> Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    if path.is_dir() {
        return list(path, pattern, |name| is_of_format(name, format));
    }
    let last = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    // A named pipe is no file, and can be read all the same.
    if path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    if !is_glob(pattern) {
        return Ok(Vec::new());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    list(parent.unwrap_or(Path::new(".")), pattern, |name| matches(last, name))
}

/// The files of a folder whose names are wanted and not hidden.
fn list(folder: &Path, pattern: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries = fs::read_dir(folder)
        .map_err(|e| Usage(format!("input {pattern}: cannot list {}: {e}", folder.display())))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !name.starts_with('.') && wanted(name) && path.is_file() {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    let name =
        name.ok_or_else(|| Usage(format!("input {}: the name is not UTF-8", path.display())))?;
    Ok(name.to_owned())
}

fn is_of_format(name: &str, format: Format) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let endings: &[&str] = match format {
        Format::Csv => &[".csv", ".tsv", ".txt"],
        Format::Ndjson => &[".ndjson", ".jsonl", ".json"],
    };
    endings.iter().any(|ending| name.ends_with(ending))
}

/// How much of an input was read, as it lies on disk.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    read: Arc<AtomicU64>,
    /// Size on disk in bytes, where it is known.
    pub size: Option<u64>,
}

impl Meter {
    /// A meter of that size, at zero.
    #[must_use]
    pub fn of(size: u64) -> Meter {
        Meter { size: Some(size), ..Meter::default() }
    }

    /// That much more was read.
    pub fn advance(&self, count: u64) {
        self.read.fetch_add(count, Ordering::Relaxed);
    }

    /// How many bytes were read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The part that was read, 0 to 1, where the size is known.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a display of progress, not of money")]
    pub fn fraction(&self) -> Option<f64> {
        let size = self.size.filter(|size| *size > 0)?;
        Some((self.bytes() as f64 / size as f64).min(1.0))
    }
}

struct Metered<R> {
    inner: R,
    meter: Meter,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.meter.advance(count as u64);
        Ok(count)
    }
}

/// An input that was opened.
pub struct Opened {
    /// Its bytes, decompressed.
    pub reader: Box<dyn BufRead + Send>,
    /// How much of it was read.
    pub meter: Meter,
    /// Whether it is gzip.
    pub gzip: bool,
}

/// Opens an input; gzip is told by its magic bytes, and several members are read as one.
///
/// # Errors
/// When it cannot be opened or its first bytes cannot be read.
pub fn open(input: &Input) -> Result<Opened> {
    let (raw, size): (Box<dyn Read + Send>, _) = match &input.path {
        None => (Box::new(io::stdin()), None),
        Some(path) => {
            let file = File::open(path)
                .map_err(|e| Usage(format!("cannot open {}: {e}", path.display())))?;
            let size = file.metadata().ok().filter(fs::Metadata::is_file).map(|m| m.len());
            (Box::new(file), size)
        }
    };
    let meter = Meter { size, ..Meter::default() };
    let metered = Metered { inner: raw, meter: meter.clone() };
    let mut buffered = BufReader::with_capacity(BUFFER, metered);
    let first = buffered.fill_buf().with_context(|| format!("cannot read {}", input.name))?;
    if first.starts_with(&[0x1f, 0x8b]) {
        let plain = MultiGzDecoder::new(buffered);
        let reader = Box::new(BufReader::with_capacity(BUFFER, plain));
        return Ok(Opened { reader, meter, gzip: true });
    }
    Ok(Opened { reader: Box::new(buffered), meter, gzip: false })
}
