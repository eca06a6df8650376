//! Which types a format can hold.

use crate::ast::SourceKind;
use crate::catalog::{Format, Source, SourceColumn};
use crate::fault::Fault;
use crate::text::Span;
use crate::types::SqlType;

fn has_map(kind: &SqlType) -> bool {
    match kind {
        SqlType::Map(_) => true,
        SqlType::Array(item) => has_map(item),
        SqlType::Struct(fields) => fields.iter().any(|(_, kind)| has_map(kind)),
        _ => false,
    }
}

/// Why a format does not hold a type.
fn refusal(format: Format, kind: &SqlType) -> Option<&'static str> {
    let nested = matches!(kind, SqlType::Array(_) | SqlType::Map(_) | SqlType::Struct(_));
    let plain = matches!(kind, SqlType::Int | SqlType::Bigint | SqlType::Double | SqlType::String);
    match format {
        Format::Delimited(_) if nested => Some("DELIMITED"),
        Format::Kafka if !plain => Some("KAFKA"),
        _ => None,
    }
}

/// The name within a column, or its own, that Avro cannot hold: it has letters, digits and `_`, no
/// digit first.
fn unfit_for_avro<'n>(name: &'n str, kind: &'n SqlType) -> Option<&'n str> {
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if fits { unfit_field(kind) } else { Some(name) }
}

fn unfit_field(kind: &SqlType) -> Option<&str> {
    match kind {
        SqlType::Array(item) | SqlType::Map(item) => unfit_field(item),
        SqlType::Struct(fields) => {
            fields.iter().find_map(|(name, kind)| unfit_for_avro(name, kind))
        }
        _ => None,
    }
}

/// Checks the columns that a query makes.
pub(super) fn check_output(output: &Source, span: Span, faults: &mut Vec<Fault>) {
    if output.columns.iter().all(|column| column.key) {
        let message = format!("{} has no column beside its key", output.name);
        faults.push(Fault::new(span, message).help("copy the key with AS_VALUE(…)"));
        return;
    }
    check(output, span, faults);
}

/// Checks the columns of a source against its formats.
pub(super) fn check(source: &Source, span: Span, faults: &mut Vec<Fault>) {
    const RESERVED: [&str; 5] =
        ["ROWTIME", "ROWPARTITION", "ROWOFFSET", "WINDOWSTART", "WINDOWEND"];
    let mut fault = |message: String, help: &str| faults.push(Fault::new(span, message).help(help));
    for SourceColumn { name, kind, key } in &source.columns {
        if *key && has_map(kind) {
            fault(
                format!("key column {name} is {kind}: equal maps have no equal bytes"),
                "a key has no MAP",
            );
            continue;
        }
        let (format, place) = match key {
            true => (source.key_format, "KEY_FORMAT"),
            false => (source.value_format, "VALUE_FORMAT"),
        };
        if let Some(word) = refusal(format, kind) {
            fault(
                format!("column {name} is {kind}, which {place} {word} cannot hold"),
                &format!("{place} = 'JSON'"),
            );
        }
        // A key of one column is written without its name.
        let named = !*key || source.key_columns().count() > 1;
        let unfit = if named { unfit_for_avro(name, kind) } else { unfit_field(kind) };
        if let (Format::Avro, Some(unfit)) = (format, unfit) {
            fault(
                format!("{unfit} is no name in {place} AVRO"),
                "letters, digits and _, no digit first; or another format",
            );
        }
        if format == Format::None {
            fault(
                format!("{place} NONE holds no column, and {name} is one"),
                "choose another format",
            );
        }
        if !key && RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
            fault(
                format!("{name} is a column that every source has"),
                "give it another name with AS",
            );
        }
    }
    let values = source.columns.iter().filter(|column| !column.key).count();
    if source.value_format == Format::Kafka && values > 1 {
        fault("VALUE_FORMAT KAFKA holds one column".into(), "VALUE_FORMAT = 'JSON'");
    }
    if source.kind == SourceKind::Table && values == 0 {
        fault("the table has no column beside its key".into(), "copy the key with AS_VALUE(…)");
    }
}
