//! The keys of `sink.toml`, as they are written.

use super::{InsertMode, KeyError};
use crate::generic::layout::{Nested, Style};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Where the key of a row comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PkMode {
    #[default]
    None,
    RecordKey,
    RecordValue,
    Kafka,
}

/// How a key or a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Written {
    Avro,
    Json,
    String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub batch: BatchKeys,
    #[serde(default)]
    pub linger: LingerKeys,
    #[serde(default)]
    pub tasks: TaskKeys,
    #[serde(default)]
    pub errors: ErrorKeys,
    pub topics: BTreeMap<String, TopicKeys>,
}

impl File {
    /// That numbers are within their bounds.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let share = self.errors.max.share;
        let wrong = [
            (self.batch.size == Some(0), "batch.size", "must be at least 1"),
            (
                self.batch.bytes.is_some_and(|bytes| !(1024..=1 << 30).contains(&bytes)),
                "batch.bytes",
                "must be 1024 (1 KiB) to 1073741824 (1 GiB)",
            ),
            (
                self.tasks.max.is_some_and(|max| !(1..=64).contains(&max)),
                "tasks.max",
                "must be 1 to 64",
            ),
            (
                share.is_some_and(|share| !(0.0..=1.0).contains(&share)),
                "errors.max.share",
                "must be 0 to 1; with 1 nothing stops the sink",
            ),
        ];
        match wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
            Some((_, key, what)) => Err((key, what.into())),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchKeys {
    pub size: Option<usize>,
    pub bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LingerKeys {
    pub ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskKeys {
    pub max: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorKeys {
    #[serde(default)]
    pub max: ShareKeys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareKeys {
    pub share: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicKeys {
    #[serde(default)]
    pub table: TableKeys,
    #[serde(default)]
    pub value: ValueKeys,
    #[serde(default)]
    pub key: ValueKeys,
    #[serde(default)]
    pub insert: InsertKeys,
    #[serde(default)]
    pub pk: PkKeys,
    #[serde(default)]
    pub auto: AutoKeys,
    #[serde(default)]
    pub delete: DeleteKeys,
    #[serde(default)]
    pub column: ColumnKeys,
    pub nested: Option<Nested>,
    #[serde(rename = "static")]
    pub constant: Option<StaticKeys>,
    #[serde(default)]
    pub compacted: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableKeys {
    #[serde(default)]
    pub name: NameKeys,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameKeys {
    pub format: String,
}

impl Default for NameKeys {
    fn default() -> NameKeys {
        NameKeys { format: "${topic}".into() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueKeys {
    pub format: Option<Written>,
    pub schema: Option<String>,
    pub schemas: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InsertKeys {
    pub mode: InsertMode,
}

impl Default for InsertKeys {
    fn default() -> InsertKeys {
        InsertKeys { mode: InsertMode::Insert }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PkKeys {
    #[serde(default)]
    pub mode: PkMode,
    #[serde(default)]
    pub fields: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AutoKeys {
    pub create: Option<bool>,
    pub evolve: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteKeys {
    pub enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnKeys {
    #[serde(default)]
    pub naming: NamingKeys,
    pub rename: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamingKeys {
    pub style: Option<Style>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StaticKeys {
    pub field: String,
    pub value: String,
}
