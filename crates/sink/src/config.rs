//! `config/sink.toml`: which topic goes to which table.

mod file;
mod generic;

use crate::columns::{Leading, PLACE_COLUMNS, SUPPLIED, Shape, TRANSACTION_COLUMNS, Table};
use crate::dead_letter;
use crate::tombstone::Tombstones;
use caudal_core::row::RowSchema;
use caudal_core::schema::{Schemas, id_of, sorted_json};
use caudal_query::plan::Plan;
use caudal_service::exit::Usage;
use file::{File, PkMode, StaticKeys, TopicKeys};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;

/// The configuration that is built in.
pub const SHIPPED: &str = include_str!("../../../config/sink.toml");

/// Where the file does not say it: half.
const DEAD_SHARE: f64 = 0.5;

/// How rows enter a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InsertMode {
    /// Append; a key that is there already is compared.
    Insert,
    /// Append; a key that is there already is a duplicate, whatever the row says.
    Ignore,
    /// The last value of a key wins.
    Upsert,
    /// As [`InsertMode::Upsert`], but a key that is not there stays away.
    Update,
}

impl InsertMode {
    /// Whether the last value of a key counts; otherwise the first.
    #[must_use]
    pub fn keeps_last(self) -> bool {
        matches!(self, InsertMode::Upsert | InsertMode::Update)
    }
}

/// The way of one topic.
#[derive(Debug, Clone)]
pub struct Route {
    /// Topic.
    pub topic: Arc<str>,
    /// Table.
    pub table: Table,
    /// How its values are read.
    pub shape: Shape,
    /// How its rows enter the table.
    pub mode: InsertMode,
    /// Whether compaction leaves gaps in the topic's sequences on purpose.
    pub compacted: bool,
    /// How a record without a value is read. `None`: it is a dead letter.
    pub tombstones: Option<Tombstones>,
}

/// Every topic's way, and the bounds of a batch.
#[derive(Debug, Clone)]
pub struct Config {
    /// By topic.
    pub routes: BTreeMap<Arc<str>, Route>,
    /// Topics of queries that the file does not name, in order.
    pub of_queries: Vec<Arc<str>>,
    /// Most records a batch, where the file says it.
    pub batch_records: Option<usize>,
    /// Most bytes of keys, values and headers in a batch, where the file says it.
    pub batch_bytes: Option<usize>,
    /// Milliseconds to wait for a batch to fill, where the file says it.
    pub linger_ms: Option<u64>,
    /// Writers in a process, each with partitions and a connection of its own.
    pub writers: usize,
    /// Of the records stored within a minute, the share that may be dead letters of the sink's own.
    pub dead_share: f64,
}

impl Route {
    /// Whether a record without a value takes the row of its key back.
    #[must_use]
    pub fn deletes(&self) -> bool {
        let generic = match &self.shape {
            Shape::Generic(generic) => generic.settings.deletes,
            _ => false,
        };
        generic || self.tombstones.is_some()
    }
}

impl Config {
    /// Reads a file, or what is built in.
    ///
    /// # Errors
    /// [`Usage`] that names the file and the key.
    pub fn read(path: Option<&Path>) -> Result<Config, Usage> {
        let Some(path) = path else { return Config::parse(SHIPPED, "the built-in sink.toml") };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| Usage(format!("{name}: {e}")))?;
        Config::parse(&text, &name)
    }

    /// The topics that not every sink reads: another set of them is another member of the group.
    #[must_use]
    pub fn further_topics(&self) -> Vec<Arc<str>> {
        let others = self.routes.values().filter(|r| matches!(r.shape, Shape::Generic(_)));
        let mut all: Vec<_> = others.map(|route| Arc::clone(&route.topic)).collect();
        all.extend(self.of_queries.iter().map(Arc::clone));
        all.sort();
        all
    }

    /// Adds a way for every query that the file does not name: its rows go to a table of its name,
    /// the last row of each key; those of a stream are appended. Tombstones take rows back.
    ///
    /// # Errors
    /// [`Usage`] when the file names a query that takes rows back, with another key.
    pub fn add_queries(&mut self, plans: &[Plan]) -> Result<(), Usage> {
        for plan in plans {
            let topic: Arc<str> = plan.name.as_str().into();
            match self.routes.entry(Arc::clone(&topic)) {
                Entry::Vacant(slot) => {
                    slot.insert(query_route(plan));
                    self.of_queries.push(topic);
                }
                Entry::Occupied(mut slot) => take_tombstones(slot.get_mut(), plan)?,
            }
        }
        self.of_queries.sort();
        Ok(())
    }

    /// Reads the text of a file of that name.
    ///
    /// # Errors
    /// [`Usage`] that names the file and the key.
    pub fn parse(text: &str, file: &str) -> Result<Config, Usage> {
        let parsed: File = toml::from_str(text).map_err(|e| Usage(format!("{file}: {e}")))?;
        if parsed.topics.is_empty() {
            return Err(Usage(format!("{file}: topics: none; the sink would have nothing to do")));
        }
        parsed.check().map_err(|(key, e)| Usage(format!("{file}: {key}: {e}")))?;
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        let mut routes = BTreeMap::new();
        for (topic, keys) in parsed.topics {
            let route = route(&topic, keys, folder)
                .map_err(|(key, e)| Usage(format!("{file}: topics.{topic}.{key}: {e}")))?;
            routes.insert(Arc::clone(&route.topic), route);
        }
        Ok(Config {
            routes,
            of_queries: Vec::new(),
            batch_records: parsed.batch.size,
            batch_bytes: parsed.batch.bytes,
            linger_ms: parsed.linger.ms,
            writers: parsed.tasks.max.unwrap_or(1),
            dead_share: parsed.errors.max.share.unwrap_or(DEAD_SHARE),
        })
    }
}

fn query_route(plan: &Plan) -> Route {
    let schema = plan.row_schema().clone();
    let is_stream = plan.is_stream();
    let (leading, before, mode) = match is_stream {
        true => (Leading::Place, &PLACE_COLUMNS[..], InsertMode::Insert),
        false => (Leading::Nothing, &[][..], InsertMode::Upsert),
    };
    let names = schema.columns.iter().map(|column| column.name.as_str());
    let columns: Vec<String> = before.iter().copied().chain(names).map(str::to_owned).collect();
    let keys: Vec<&str> = plan.key_columns().collect();
    let is_key = |at: &usize| *at < before.len() || keys.contains(&columns[*at].as_str());
    let (key, compared) = (0..columns.len()).partition(is_key);
    let schema_id = id_of(&sorted_json(&schema.to_json()));
    let table = Table { name: plan.name.clone(), columns, key, compared };
    Route {
        topic: plan.name.as_str().into(),
        tombstones: Tombstones::of(plan, &leading, &table),
        table,
        shape: Shape::Row { schema, schema_id, leading },
        mode,
        compacted: !is_stream,
    }
}

/// Of a query that the file names: where the file's schema is the query's.
fn take_tombstones(route: &mut Route, plan: &Plan) -> Result<(), Usage> {
    let Shape::Row { schema, leading, .. } = &route.shape else { return Ok(()) };
    if schema != plan.row_schema() || !route.mode.keeps_last() {
        return Ok(());
    }
    route.tombstones = Tombstones::of(plan, leading, &route.table);
    if route.tombstones.is_none() && (plan.has_having() || plan.window.session) {
        let keys = plan.key_columns().collect::<Vec<_>>().join(", ");
        return Err(Usage(format!(
            "topics.{}.pk.fields: the query takes rows back by its key, so the table's must be the \
             same: {keys} (and static.field)",
            route.topic
        )));
    }
    Ok(())
}

/// A key of the file, and what is wrong with it.
type KeyError = (&'static str, String);

fn route(topic: &str, keys: TopicKeys, folder: &Path) -> Result<Route, KeyError> {
    let name = keys.table.name.format.replace("${topic}", topic);
    if name.is_empty() || name.len() > 63 || name.contains(['"', '\0']) {
        return Err(("table.name.format", format!("{name:?} is no table name of 1 to 63 bytes")));
    }
    match keys.value.schema.as_deref().filter(|schema| !schema.ends_with(".avsc")) {
        Some(own) => own_route(topic, name, own.to_owned(), keys),
        None => generic::route(topic, name, keys, folder),
    }
}

/// Of a topic of the pipeline's own.
fn own_route(
    topic: &str,
    name: String,
    schema: String,
    keys: TopicKeys,
) -> Result<Route, KeyError> {
    generic::refuse_keys(&keys)?;
    let (shape, columns) = shape(&schema, keys.constant)?;
    let wanted = match shape {
        Shape::DeadLetter => PkMode::Kafka,
        _ => PkMode::RecordValue,
    };
    if keys.pk.mode != wanted {
        let word = if wanted == PkMode::Kafka { "kafka" } else { "record_value" };
        return Err(("pk.mode", format!("expected {word} for {schema}")));
    }
    if shape == Shape::DeadLetter && (keys.insert.mode != InsertMode::Insert) {
        return Err(("insert.mode", "expected insert for dead letters".into()));
    }
    if shape == Shape::DeadLetter && name != dead_letter::TABLE {
        return Err(("table.name.format", format!("dead letters go to {}", dead_letter::TABLE)));
    }
    let mut key = Vec::new();
    for field in &keys.pk.fields {
        let at = columns.iter().position(|column| column == field).ok_or_else(|| {
            ("pk.fields", format!("{field} is no column; there are {}", columns.join(", ")))
        })?;
        key.push(at);
    }
    if key.is_empty() {
        return Err(("pk.fields", "none; a row needs a key".into()));
    }
    let supplied = match shape {
        _ if keys.insert.mode == InsertMode::Ignore => 0,
        Shape::Transaction { .. } => SUPPLIED,
        _ => columns.len(),
    };
    let compared = (0..supplied).filter(|at| !key.contains(at)).collect();
    Ok(Route {
        topic: Arc::from(topic),
        table: Table { name, columns, key, compared },
        shape,
        mode: keys.insert.mode,
        compacted: keys.compacted,
        tombstones: None,
    })
}

fn shape(schema: &str, constant: Option<StaticKeys>) -> Result<(Shape, Vec<String>), KeyError> {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let shipped = Schemas::shipped();
    let fixed = match schema {
        "transaccion_valida" => {
            Some((Shape::Transaction { schema_id: shipped.valid.id }, own(&TRANSACTION_COLUMNS)))
        }
        "dead_letter" => Some((Shape::DeadLetter, own(&dead_letter::COLUMNS))),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return match constant {
            None => Ok(fixed),
            Some(_) => Err(("static", format!("{schema} has no room for a further column"))),
        };
    }
    let rows = [&shipped.ventas_gold, &shipped.alertas_fraude];
    let found = rows.into_iter().find(|s| s.name == schema).ok_or_else(|| {
        let known = "transaccion_valida, ventas_gold, alertas_fraude, dead_letter";
        let files = "or the path of a schema that ends with .avsc";
        ("value.schema", format!("{schema} is unknown; there are {known}, {files}"))
    })?;
    let parsed = RowSchema::parse(&found.json).map_err(|e| ("value.schema", e.to_string()))?;
    let names = parsed.columns.iter().map(|column| column.name.clone());
    let columns = constant.iter().map(|c| c.field.clone()).chain(names).collect();
    let leading = constant.map_or(Leading::Nothing, |c| Leading::Constant(c.value));
    Ok((Shape::Row { schema: parsed, schema_id: found.id, leading }, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(from: &str, to: &str) -> String {
        assert!(SHIPPED.contains(from), "{from}");
        Config::parse(&SHIPPED.replacen(from, to, 1), "f.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_file_reads() {
        let config = Config::read(None).unwrap();
        assert_eq!(config.routes.len(), 4);
        let route = &config.routes["alertas_fraude"];
        assert_eq!(route.table.columns[0], "rule");
        assert_eq!(route.table.key, [0, 1, 2, 3]);
        let route = &config.routes["transacciones_validas"];
        assert_eq!(route.table.compared, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_query_that_the_file_does_not_name_gets_a_table_of_its_name() {
        let mut config = Config::read(None).unwrap();
        config.add_queries(&caudal_query::plan::shipped()).unwrap();
        assert!(config.of_queries.is_empty(), "both are in the file");
        let sql = "CREATE TABLE q AS SELECT merchant_id, COUNT(*) AS n FROM transacciones_validas \
                   WINDOW TUMBLING (SIZE 1 HOUR) GROUP BY merchant_id EMIT CHANGES;";
        config.add_queries(&Plan::compile(sql).unwrap()).unwrap();
        assert_eq!(config.of_queries, ["q".into()]);
        let table = &config.routes["q"].table;
        assert_eq!(table.columns, ["merchant_id", "window_start", "window_end", "n"]);
        assert_eq!((&table.key[..], &table.compared[..]), (&[0, 1][..], &[2, 3][..]));
    }

    #[test]
    fn a_stream_is_appended_under_the_place_of_its_records() {
        let mut config = Config::read(None).unwrap();
        let sql = "CREATE STREAM s AS SELECT account_id, amount FROM transacciones_validas; \
                   CREATE TABLE t AS SELECT account_id, COUNT(*) AS n FROM s \
                   WINDOW SESSION (1 HOUR) GROUP BY account_id EMIT CHANGES;";
        config.add_queries(&Plan::compile(sql).unwrap()).unwrap();
        let stream = &config.routes["s"];
        assert_eq!(stream.table.columns[..2], PLACE_COLUMNS);
        assert_eq!((&stream.table.key[..], &stream.table.compared[..]), (&[0, 1][..], &[2, 3][..]));
        assert_eq!((stream.mode, stream.compacted), (InsertMode::Insert, false));
        assert!(stream.tombstones.is_none());
        let table = &config.routes["t"];
        assert_eq!(table.table.columns, ["account_id", "window_start", "window_end", "n"]);
        assert!(table.tombstones.is_some() && table.compacted);
    }

    #[test]
    fn a_table_whose_rows_are_taken_back_has_the_key_of_its_query() {
        let fields = "\"rule\", \"account_id\", \"currency\", \"window_start\"";
        for wrong in [fields.replace("\"currency\", ", ""), format!("{fields}, \"intentos\"")] {
            let mut config = Config::parse(&SHIPPED.replacen(fields, &wrong, 1), "f").unwrap();
            let error = config.add_queries(&caudal_query::plan::shipped()).unwrap_err();
            assert!(error.0.contains("topics.alertas_fraude.pk.fields"), "{error:?}");
        }
    }

    #[test]
    fn errors_name_file_and_key() {
        let message = error("insert.mode = \"insert\"", "insert.mod = \"insert\"");
        assert!(message.contains("f.toml") && message.contains("mod"), "{message}");
        let message = error("\"transaction_id\"]", "\"id\"]");
        assert!(message.contains("topics.transacciones_validas.pk.fields: id"), "{message}");
        let message = error("\"transaccion_valida\"", "\"x\"");
        assert!(message.contains("value.schema: x is unknown"), "{message}");
        let message = error("\"record_value\"", "\"kafka\"");
        assert!(message.contains("pk.mode"), "{message}");
        assert!(error("batch.size = 5000", "batch.size = 0").contains("batch.size"));
        assert!(error("batch.size = 5000", "batch.sise = 5").contains("sise"));
    }
}
