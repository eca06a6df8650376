//! Topics of others: the keys of their sections.

use super::file::{PkMode, TopicKeys, ValueKeys, Written};
use super::{InsertMode, KeyError, Route};
use crate::columns::{Shape, Table};
use crate::generic::layout::Naming;
use crate::generic::{Format, Generic, Key, Settings};
use caudal_core::avro_schema::Type;
use caudal_core::schema::{id_of, sorted_json};
use std::path::Path;
use std::sync::Arc;

/// Names of the columns of `pk.mode = "kafka"` where the file has none: Kafka Connect's.
const PLACE: [&str; 3] = ["__connect_topic", "__connect_partition", "__connect_offset"];

/// Keys that only sections of others' topics may have.
///
/// # Errors
/// The first that is there.
pub(super) fn refuse_keys(keys: &TopicKeys) -> Result<(), KeyError> {
    let present = [
        (keys.value.format.is_some(), "value.format"),
        (keys.key.format.is_some() || keys.key.schema.is_some(), "key"),
        (keys.auto.create.is_some() || keys.auto.evolve.is_some(), "auto"),
        (keys.delete.enabled.is_some(), "delete.enabled"),
        (keys.column.naming.style.is_some() || keys.column.rename.is_some(), "column"),
        (keys.nested.is_some(), "nested"),
    ];
    match present.into_iter().find(|(is_there, _)| *is_there) {
        Some((_, key)) => Err((
            key,
            "is for topics of others; this schema and its table are the product's".into(),
        )),
        None => Ok(()),
    }
}

/// The way of a topic of somebody else's.
///
/// # Errors
/// The key, and what is wrong with it.
pub(super) fn route(
    topic: &str,
    table: String,
    keys: TopicKeys,
    folder: &Path,
) -> Result<Route, KeyError> {
    if keys.constant.is_some() {
        return Err(("static", "is for the rows of queries".into()));
    }
    let mode = keys.insert.mode;
    let deletes = keys.delete.enabled.unwrap_or(false);
    let settings = Settings {
        format: value_format(&keys.value, folder)?,
        files: files(&keys.value, folder)?,
        key: key(&keys, folder)?,
        creates: keys.auto.create.unwrap_or(false),
        evolves: keys.auto.evolve.unwrap_or(false),
        deletes,
        naming: Naming {
            style: keys.column.naming.style.unwrap_or_default(),
            nested: keys.nested.unwrap_or_default(),
            renames: keys.column.rename.unwrap_or_default(),
        },
    };
    if mode != InsertMode::Insert && settings.key == Key::Nothing {
        return Err(("pk.mode", "none; only insert.mode = \"insert\" goes without a key".into()));
    }
    if deletes && !(matches!(settings.key, Key::Record(..)) && mode.keeps_last()) {
        let needed = "needs pk.mode = \"record_key\", and insert.mode = \"upsert\" or \"update\"";
        return Err(("delete.enabled", needed.into()));
    }
    let (generic, columns) = Generic::new(settings);
    let key = (0..columns.len()).collect();
    Ok(Route {
        topic: Arc::from(topic),
        table: Table { name: table, columns, key, compared: Vec::new() },
        shape: Shape::Generic(Box::new(generic)),
        mode,
        compacted: keys.compacted,
        tombstones: None,
    })
}

fn key(keys: &TopicKeys, folder: &Path) -> Result<Key, KeyError> {
    let fields = keys.pk.fields.clone();
    let needed = |key: Key| match fields.is_empty() {
        true => Err(("pk.fields", "none; name the columns of the key".into())),
        false => Ok(key),
    };
    if keys.pk.mode != PkMode::RecordKey && (keys.key.format.is_some() || keys.key.schema.is_some())
    {
        return Err(("key", "is read only with pk.mode = \"record_key\"".into()));
    }
    match keys.pk.mode {
        PkMode::None if fields.is_empty() => Ok(Key::Nothing),
        PkMode::None => Err(("pk.fields", "pk.mode is none, so there is no key".into())),
        PkMode::Kafka if fields.is_empty() => Ok(Key::Place(PLACE.map(str::to_owned))),
        PkMode::Kafka => fields.try_into().map(Key::Place).map_err(|_| {
            ("pk.fields", "expected three: of the topic, the partition and the offset".into())
        }),
        PkMode::RecordValue => needed(Key::Value(fields.clone())),
        PkMode::RecordKey => {
            let format = key_format(&keys.key, folder)?;
            if format == Format::Text && fields.len() > 1 {
                return Err(("pk.fields", "a text key is one column".into()));
            }
            needed(Key::Record(format, fields.clone()))
        }
    }
}

fn value_format(keys: &ValueKeys, folder: &Path) -> Result<Format, KeyError> {
    match (keys.format.unwrap_or(Written::Avro), &keys.schema) {
        (Written::Avro, _) => Ok(Format::Avro),
        (Written::Json, Some(path)) => {
            Ok(Format::Json(declared(path, folder).map_err(|e| ("value.schema", e))?.1))
        }
        (Written::Json, None) => Err(("value.schema", NEEDED.into())),
        (Written::String, _) => Err(("value.format", "expected avro or json".into())),
    }
}

const NEEDED: &str =
    "missing: JSON has no types, so name an Avro schema that declares them (.avsc)";

fn key_format(keys: &ValueKeys, folder: &Path) -> Result<Format, KeyError> {
    match (keys.format.unwrap_or(Written::String), &keys.schema) {
        (Written::String, None) => Ok(Format::Text),
        (Written::Avro, None) => Ok(Format::Avro),
        (Written::Json, Some(path)) => {
            Ok(Format::Json(declared(path, folder).map_err(|e| ("key.schema", e))?.1))
        }
        (Written::Json, None) => Err(("key.schema", NEEDED.into())),
        (_, Some(_)) => Err(("key.schema", "is for key.format = \"json\"".into())),
    }
}

/// The schemas of Avro values that the file names: one under the id that the product gives it
/// (`caudal_core::schema`), and those whose ids it says.
fn files(keys: &ValueKeys, folder: &Path) -> Result<Vec<(u32, Arc<Type>)>, KeyError> {
    let is_avro = keys.format.unwrap_or(Written::Avro) == Written::Avro;
    if !is_avro && keys.schemas.is_some() {
        return Err(("value.schemas", "is for value.format = \"avro\"".into()));
    }
    let mut files = Vec::new();
    if let Some(path) = keys.schema.as_ref().filter(|_| is_avro) {
        files.push(declared(path, folder).map_err(|e| ("value.schema", e))?);
    }
    for (id, path) in keys.schemas.iter().flatten() {
        let id = id.parse().map_err(|_| ("value.schemas", format!("{id} is no schema id")))?;
        files.push((id, declared(path, folder).map_err(|e| ("value.schemas", e))?.1));
    }
    Ok(files)
}

fn declared(path: &str, folder: &Path) -> Result<(u32, Arc<Type>), String> {
    let path = folder.join(path);
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(&e))?;
    let of = Type::parse(&text).map_err(|e| wrong(&e))?;
    let json = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
    Ok((id_of(&sorted_json(&json)), Arc::new(of)))
}
