//! Statements into sources and queries.

mod formats;
mod properties;
mod query;
mod select;

use crate::ast::{Body, ColumnDefinition, KeyWord, SourceKind, Statement};
use crate::catalog::{Catalog, Format, KeyWindow, Source, SourceColumn, TimestampColumn};
use crate::dates::Pattern;
use crate::fault::Fault;
use crate::parser::Naming;
use crate::types::SqlType;
use properties::{Part, Properties};

/// Adds what a statement defines, or what is wrong with it.
pub(crate) fn statement(
    catalog: &mut Catalog,
    statement: &Statement,
    naming: Naming,
    faults: &mut Vec<Fault>,
) {
    let before = faults.len();
    let name = &statement.name;
    if catalog.sources.contains_key(&name.text) {
        let message = format!("{} is defined twice", name.text);
        faults.push(Fault::new(name.span, message).help("each stream and table has its own name"));
        return;
    }
    let properties = Properties::read(&statement.with, faults);
    match &statement.body {
        Body::Columns(columns) => {
            let source = source(statement, columns, &properties, naming, faults);
            if let Some(source) = &source {
                formats::check(source, name.span, faults);
            }
            if let Some(source) = source.filter(|_| faults.len() == before) {
                catalog.sources.insert(name.text.clone(), source);
            }
        }
        Body::Query(select) => {
            let query = query::compile(catalog, statement, select, &properties, naming, faults);
            if let Some(query) = query.as_ref().filter(|_| faults.len() == before) {
                formats::check_output(&query.output, name.span, faults);
            }
            if let Some(query) = query.filter(|_| faults.len() == before) {
                catalog.sources.insert(name.text.clone(), query.output.clone());
                catalog.queries.push(query);
            }
        }
    }
}

fn source(
    statement: &Statement,
    definitions: &[ColumnDefinition],
    properties: &Properties<'_>,
    naming: Naming,
    faults: &mut Vec<Fault>,
) -> Option<Source> {
    for (at, column) in definitions.iter().enumerate() {
        key_word(statement, column, faults);
        if definitions[..at].iter().any(|other| other.name.text == column.name.text) {
            let message = format!("two columns are named {}", column.name.text);
            faults.push(Fault::new(column.name.span, message));
        }
        let pseudo = ["ROWTIME", "ROWPARTITION", "ROWOFFSET", "WINDOWSTART", "WINDOWEND"];
        if pseudo.iter().any(|name| name.eq_ignore_ascii_case(&column.name.text)) {
            let message = format!("{} is a column that every source has", column.name.text);
            faults.push(Fault::new(column.name.span, message).help("choose another name"));
        }
    }
    if statement.kind == SourceKind::Table && definitions.iter().all(|c| c.key.is_none()) {
        let message = "a table has a PRIMARY KEY";
        let help = "write PRIMARY KEY after the column that is the record's key";
        faults.push(Fault::new(statement.name.span, message).help(help));
    }
    let Some(topic) = properties.text("KAFKA_TOPIC") else {
        if !properties.misspelt {
            let message =
                format!("WITH (KAFKA_TOPIC = '…') is missing for {}", statement.name.text);
            let help = "it names the topic to read";
            faults.push(Fault::new(statement.name.span, message).help(help));
        }
        return None;
    };
    let key_format = properties.format(Part::Key, faults).unwrap_or(Format::Kafka);
    let Some(value_format) = properties.format(Part::Value, faults) else {
        let stated = ["VALUE_FORMAT", "FORMAT"].iter().any(|name| properties.get(name).is_some());
        if !stated && !properties.misspelt {
            let message =
                format!("WITH (VALUE_FORMAT = '…') is missing for {}", statement.name.text);
            let help = "AVRO, JSON or DELIMITED";
            faults.push(Fault::new(statement.name.span, message).help(help));
        }
        return None;
    };
    let columns: Vec<SourceColumn> = definitions
        .iter()
        .map(|c| SourceColumn {
            name: c.name.text.clone(),
            kind: c.kind.clone(),
            key: c.key.is_some(),
        })
        .collect();
    let values = columns.iter().filter(|column| !column.key).count();
    let window = window(properties, faults);
    if let Some(property) = properties.get("WINDOW_TYPE").filter(|_| values == columns.len()) {
        let message = "a topic whose keys hold a window has a key column";
        faults.push(Fault::new(property.span, message).help("write KEY after it"));
    }
    Some(Source {
        name: statement.name.text.clone(),
        kind: statement.kind,
        topic: topic.to_owned(),
        key_format,
        value_format,
        wrapped: properties.wrapped(value_format, values, faults),
        timestamp: timestamp(&columns, properties, naming, faults),
        window,
        columns,
    })
}

fn key_word(statement: &Statement, column: &ColumnDefinition, faults: &mut Vec<Fault>) {
    let (wrong, right) = match (statement.kind, column.key) {
        (SourceKind::Stream, Some(KeyWord::PrimaryKey)) => ("PRIMARY KEY", "KEY"),
        (SourceKind::Table, Some(KeyWord::Key)) => ("KEY", "PRIMARY KEY"),
        _ => return,
    };
    let message = format!("a column of a {} is no {wrong}", statement.kind.word());
    faults.push(Fault::new(column.name.span, message).help(format!("write {right}")));
}

/// The column that TIMESTAMP names.
fn timestamp(
    columns: &[SourceColumn],
    properties: &Properties<'_>,
    naming: Naming,
    faults: &mut Vec<Fault>,
) -> Option<TimestampColumn> {
    let property = properties.get("TIMESTAMP")?;
    let name = match property.value.strip_prefix('`').and_then(|name| name.strip_suffix('`')) {
        Some(quoted) => quoted.to_owned(),
        None => naming.apply(&property.value),
    };
    let Some(index) = columns.iter().position(|column| column.name == name) else {
        let fault = Fault::new(property.span, format!("TIMESTAMP names no column {name}"));
        faults.push(fault.nearest(&name, columns.iter().map(|c| c.name.as_str())));
        return None;
    };
    let format = properties.get("TIMESTAMP_FORMAT");
    let mut fault = |span, message: String| faults.push(Fault::new(span, message));
    match (&columns[index].kind, format) {
        (SqlType::Bigint | SqlType::Timestamp, None) => {
            Some(TimestampColumn { index, pattern: None })
        }
        (SqlType::String, Some(format)) => match Pattern::compile(&format.value) {
            Ok(pattern) => Some(TimestampColumn { index, pattern: Some(pattern) }),
            Err(why) => {
                fault(format.span, why);
                None
            }
        },
        (SqlType::String, None) => {
            fault(property.span, format!("{name} is a STRING: TIMESTAMP_FORMAT = '…' is missing"));
            None
        }
        (kind, None) => {
            fault(property.span, format!("TIMESTAMP is a BIGINT, TIMESTAMP or STRING, not {kind}"));
            None
        }
        (kind, Some(format)) => {
            fault(format.span, format!("TIMESTAMP_FORMAT reads a STRING, and {name} is {kind}"));
            None
        }
    }
}

/// `WINDOW_TYPE` and `WINDOW_SIZE`: the keys of the topic hold a window.
fn window(properties: &Properties<'_>, faults: &mut Vec<Fault>) -> Option<KeyWindow> {
    let kind = properties.get("WINDOW_TYPE")?;
    match kind.value.to_uppercase().as_str() {
        "SESSION" => {
            if let Some(size) = properties.get("WINDOW_SIZE") {
                let fault = Fault::new(size.span, "a session has no WINDOW_SIZE");
                faults.push(fault.help("leave it out"));
            }
            Some(KeyWindow::Session)
        }
        "TUMBLING" | "HOPPING" => {
            let Some(size) = properties.get("WINDOW_SIZE") else {
                let message = format!("WINDOW_SIZE is missing for WINDOW_TYPE {}", kind.value);
                faults.push(Fault::new(kind.span, message).help("WINDOW_SIZE = '30 SECONDS'"));
                return None;
            };
            let length = crate::parser::parse_duration(&size.value);
            if length.is_none() {
                let message = format!("'{}' is no duration", size.value);
                faults.push(Fault::new(size.span, message).help("as in '30 SECONDS'"));
            }
            length.map(|micros| KeyWindow::Time(micros / 1_000))
        }
        _ => {
            let fault = Fault::new(kind.span, format!("unknown WINDOW_TYPE {}", kind.value));
            faults.push(fault.nearest(&kind.value, ["SESSION", "TUMBLING", "HOPPING"]));
            None
        }
    }
}
