//! The beginning of a file, cut into rows.

use crate::cards::WholeHash;
use crate::mapping::encoding::{self};
use crate::mapping::file::{Csv, Encoding, Format};
use crate::mapping::row::Row;
use crate::mapping::written::Delimiter;
use crate::source::inputs::{self, Input};
use crate::source::records::{RawRecord, Records};
use anyhow::{Context as _, Result};
use caudal_service::exit::Usage;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read as _;

/// Bytes and rows that are looked at.
const BYTES: u64 = 1 << 20;
const ROWS: usize = 1_000;

/// The beginning of a file.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) format: Format,
    pub(super) csv: Csv,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// Reads it, and finds out how it is written.
pub(super) fn read(input: &Input) -> Result<Sample> {
    let opened = inputs::open(input)?;
    let mut bytes = Vec::new();
    // A file that is cut off has a beginning all the same.
    let read = opened.reader.take(BYTES).read_to_end(&mut bytes);
    if bytes.is_empty() {
        read.with_context(|| format!("cannot read {}", input.name))?;
        return Err(Usage(format!("{} is empty", input.name)).into());
    }
    if bytes.len() as u64 == BYTES {
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.truncate(whole);
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let message = "is UTF-16; bring it to UTF-8 first (iconv -f UTF-16 -t UTF-8)";
        return Err(Usage(format!("{} {message}", input.name)).into());
    }
    match bytes.iter().find(|b| !b.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(b)) {
        Some(b'{') => read_objects(&bytes),
        Some(b'[') => Err(Usage(format!(
            "{} is one JSON list; `jq -c '.[]'` makes one object a line of it",
            input.name
        ))
        .into()),
        _ => read_csv(&bytes),
    }
}

fn read_objects(bytes: &[u8]) -> Result<Sample> {
    let mut columns: Vec<String> = Vec::new();
    let mut found: Vec<BTreeMap<String, String>> = Vec::new();
    let lines = bytes.split(|b| *b == b'\n').take(ROWS);
    for object in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let mut row = BTreeMap::new();
        flatten("", &object, &mut row);
        let new = row.keys().filter(|path| !columns.contains(path));
        let new: Vec<String> = new.cloned().collect();
        columns.extend(new);
        found.push(row);
    }
    let value = |row: &BTreeMap<String, String>, name| row.get(name).cloned().unwrap_or_default();
    let rows = found.iter().map(|row| columns.iter().map(|name| value(row, name)).collect());
    let rows = rows.collect();
    Ok(Sample { format: Format::Ndjson, csv: Csv::default(), columns, rows })
}

fn flatten(path: &str, value: &Value, row: &mut BTreeMap<String, String>) {
    let below =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(&below(name), value, row));
        }
        Value::Array(list) => {
            // What a list has beyond a few is no column.
            let few = list.iter().take(3).enumerate();
            few.for_each(|(at, value)| flatten(&below(&at.to_string()), value, row));
        }
        Value::Null => {}
        Value::String(text) => drop(row.insert(path.to_owned(), text.clone())),
        other => drop(row.insert(path.to_owned(), other.to_string())),
    }
}

fn read_csv(bytes: &[u8]) -> Result<Sample> {
    let is_utf8 = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // The last character may be cut in two.
        Err(e) => e.error_len().is_none(),
    };
    let encoding = if is_utf8 { Encoding::Utf8 } else { Encoding::Windows1252 };
    let cut = Delimiter::KNOWN.map(|delimiter| {
        let rows = rows(bytes, delimiter, encoding);
        let width = usual_width(&rows);
        let regular = rows.iter().filter(|row| row.len() == width).count();
        (width > 1, regular * 100 / rows.len().max(1), width, delimiter, rows)
    });
    let best =
        cut.into_iter().max_by_key(|(several, regular, width, ..)| (*several, *regular, *width));
    let Some((_, _, width, delimiter, mut rows)) = best else {
        return Err(Usage("the file has no rows".into()).into());
    };
    let is_full = |row: &Vec<String>| {
        row.len() == width && row.iter().filter(|v| !v.is_empty()).count() * 2 > width
    };
    let first = rows.iter().position(is_full).unwrap_or(0);
    let skip_lines = u32::try_from(lines_before(bytes, delimiter, first)).unwrap_or(0);
    rows.drain(..first);
    let header = rows.first().is_some_and(|row| names_columns(row));
    let columns =
        if header { rows.remove(0) } else { (1..=width).map(|n| format!("column {n}")).collect() };
    rows.retain(|row| row.len() == columns.len());
    let given = if header { Vec::new() } else { columns.clone() };
    let delimiter = Delimiter::Is(delimiter);
    let csv = Csv { delimiter, encoding, skip_lines, header, columns: given, ..Csv::default() };
    Ok(Sample { format: Format::Csv, csv, columns, rows })
}

fn rows(bytes: &[u8], delimiter: u8, encoding: Encoding) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for_each_record(bytes, delimiter, |record| {
        encoding::to_utf8(encoding, &mut record.fields, &mut record.ends);
        if let Some(row) = Row::new(&record.fields, &record.ends, true, &[]) {
            rows.push(row.texts().map(str::to_owned).collect());
        }
    });
    rows
}

/// Lines before the record of that number, from 0.
fn lines_before(bytes: &[u8], delimiter: u8, number: usize) -> u64 {
    let mut lines = Vec::new();
    for_each_record(bytes, delimiter, |record| lines.push(record.line.saturating_sub(1)));
    lines.get(number).copied().unwrap_or(0)
}

fn for_each_record(bytes: &[u8], delimiter: u8, mut take: impl FnMut(&mut RawRecord)) {
    let csv = Csv { delimiter: Delimiter::Is(delimiter), ..Csv::default() };
    // Nothing is sent: no key matters.
    let mut records = Records::new(bytes, Format::Csv, &csv, WholeHash::under(&[]));
    let mut record = RawRecord::default();
    for _ in 0..=ROWS {
        // Bytes in memory can be read.
        if !records.read(&mut record).unwrap_or(false) {
            break;
        }
        take(&mut record);
    }
}

/// The number of fields that most rows have.
fn usual_width(rows: &[Vec<String>]) -> usize {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.len()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(width, count)| (*count, *width)).map_or(0, |(width, _)| width)
}

/// Whether a row has the names of columns: texts, each once, none of them a value.
fn names_columns(row: &[String]) -> bool {
    let given: Vec<&String> = row.iter().filter(|v| !v.is_empty()).collect();
    let each_once = given.iter().all(|a| given.iter().filter(|b| a == *b).count() == 1);
    let names = given.iter().filter(|v| v.chars().any(char::is_alphabetic)).count();
    let values = given.iter().any(|v| v.chars().filter(char::is_ascii_digit).count() * 2 > v.len());
    !given.is_empty() && each_once && names * 10 >= given.len() * 9 && !values
}
