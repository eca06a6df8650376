//! Topics that are not the pipeline's own: Avro under any schema that is known, JSON under a declared
//! one, into a table made from the schema or one that is there.
//!
//! A record is read by its writer's schema ([`layout`]), value by value into the types
//! of the table's columns ([`value`], [`json_text`], [`json_row`], [`target`]). The first record of a
//! schema has the table looked at, and made or widened where the file allows it ([`table`]).

pub mod json_row;
pub mod json_text;
pub mod layout;
pub mod table;
pub mod target;
pub mod value;

use crate::columns::{Cell, Row, Table};
use crate::config::InsertMode;
use crate::fault::Fault;
use crate::write::quoted;
use caudal_core::avro::unframe;
use caudal_core::avro_schema::Type;
use caudal_core::decode::Record;
use caudal_core::reject::{Reason, Rejection};
use layout::{Bound, Given, Layout, Naming};
use rustc_hash::FxHashMap;
use sqlx::postgres::PgConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use table::{Change, Present, Wanted};
use target::Target;

/// How keys or values are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Avro in Confluent's framing: the writer's schema is looked up by its id.
    Avro,
    /// JSON under that schema.
    Json(Arc<Type>),
    /// UTF-8, as Kafka's `StringSerializer` writes it.
    Text,
}

impl Format {
    fn id(&self, bytes: &[u8]) -> Result<u32, Rejection> {
        match self {
            Format::Avro => unframe(bytes).map(|(id, _)| id).ok_or_else(|| {
                let message = "it does not begin with Confluent framing";
                Rejection::new(Reason::Malformed, message)
            }),
            Format::Json(_) | Format::Text => Ok(DECLARED),
        }
    }
}

/// The id of a schema that is declared and not looked up: no writer's has it.
pub const DECLARED: u32 = u32::MAX;

/// Where the key of a row comes from: Kafka Connect's `pk.mode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// There is none: rows are appended.
    Nothing,
    /// Topic, partition and offset, in columns of these names.
    Place([String; 3]),
    /// The record's key: these of its fields, or the name of the one column of a key without fields.
    Record(Format, Vec<String>),
    /// These fields of the value.
    Value(Vec<String>),
}

/// What the file says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of values.
    pub format: Format,
    /// Of Avro values: schemas that the file declares, by id.
    pub files: Vec<(u32, Arc<Type>)>,
    /// Of rows.
    pub key: Key,
    /// `auto.create`.
    pub creates: bool,
    /// `auto.evolve`.
    pub evolves: bool,
    /// `delete.enabled`: a record without a value deletes the row of its key.
    pub deletes: bool,
    /// Names of columns.
    pub naming: Naming,
}

/// A topic, and what is known of its schemas by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generic {
    /// What the file says.
    pub settings: Settings,
    /// Columns of a row.
    width: usize,
    /// By schema id.
    values: FxHashMap<u32, Arc<Bound>>,
    keys: FxHashMap<u32, Arc<Bound>>,
    /// Schemas by which no record can be read, and why.
    refused: FxHashMap<Unknown, String>,
}

/// Of a record: a schema that is to be learnt before it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unknown {
    /// Its key's.
    Key(u32),
    /// Its value's.
    Value(u32),
}

impl Unknown {
    /// The schema's id.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Unknown::Key(id) | Unknown::Value(id) => id,
        }
    }
}

impl Generic {
    /// Nothing is known yet but the columns that come before those of the value, which are given too.
    #[must_use]
    pub fn new(settings: Settings) -> (Generic, Vec<String>) {
        let columns = match &settings.key {
            Key::Nothing | Key::Value(_) => Vec::new(),
            Key::Place(names) => names.to_vec(),
            Key::Record(_, fields) => fields.clone(),
        };
        let (values, keys) = (FxHashMap::default(), FxHashMap::default());
        let (width, refused) = (columns.len(), FxHashMap::default());
        (Generic { settings, width, values, keys, refused }, columns)
    }

    /// The schemas that the file itself declares; the key's first, as its columns are.
    pub fn declared(&self) -> Vec<(Unknown, Arc<Type>)> {
        let key = match &self.settings.key {
            Key::Record(Format::Json(of), _) => Some(Arc::clone(of)),
            Key::Record(Format::Text, _) => Some(Arc::new(Type::Text)),
            _ => None,
        };
        let mut all: Vec<_> = key.into_iter().map(|of| (Unknown::Key(DECLARED), of)).collect();
        if let Format::Json(of) = &self.settings.format {
            all.push((Unknown::Value(DECLARED), Arc::clone(of)));
        }
        let files = self.settings.files.iter();
        all.extend(files.map(|(id, of)| (Unknown::Value(*id), Arc::clone(of))));
        all
    }

    /// The schemas that must be learnt before a record can be read.
    pub fn unknown(&self, record: &Record) -> impl Iterator<Item = Unknown> {
        let key = match (&self.settings.key, record.key.as_deref()) {
            (Key::Record(format, _), Some(key)) => format.id(key).ok(),
            _ => None,
        };
        let key = key.filter(|id| !self.keys.contains_key(id)).map(Unknown::Key);
        let value = record.value.as_deref().and_then(|v| self.settings.format.id(v).ok());
        let value = value.filter(|id| !self.values.contains_key(id)).map(Unknown::Value);
        key.into_iter().chain(value).filter(|unknown| !self.refused.contains_key(unknown))
    }

    /// Records of that schema are dead letters, until [`Generic::reconsider`].
    pub fn refuse(&mut self, which: Unknown, why: String) {
        self.refused.insert(which, why);
    }

    /// Schemas that were refused may be known by now.
    pub fn reconsider(&mut self) {
        self.refused.clear();
    }

    /// Reads a record as a row.
    ///
    /// # Errors
    /// A [`Rejection`]: the record becomes a dead letter of the sink.
    pub fn row<'a>(&self, record: &'a Record, topic: &str) -> Result<Row<'a>, Rejection> {
        let mut cells = vec![Cell::Null; self.width];
        if record.value.is_none() && !self.settings.deletes {
            let message = "a record without a value; delete.enabled is off for its topic";
            return Err(Rejection::new(Reason::NullValue, message));
        }
        if let Some(value) = record.value.as_deref() {
            self.read(Unknown::Value, &self.settings.format, value, &mut cells)?;
        }
        match &self.settings.key {
            Key::Nothing | Key::Value(_) => {}
            Key::Place(_) => {
                let place = [
                    Cell::Text(topic.to_owned().into()),
                    Cell::Integer(record.partition),
                    Cell::Long(record.offset),
                ];
                cells.iter_mut().zip(place).for_each(|(cell, place)| *cell = place);
            }
            Key::Record(format, _) => {
                let missing = || Rejection::new(Reason::MissingField, "the record has no key");
                let key = record.key.as_deref().ok_or_else(missing)?;
                self.read(Unknown::Key, format, key, &mut cells)
                    .map_err(|e| Rejection { message: format!("key: {}", e.message), ..e })?;
            }
        }
        Ok(Row { cells, money: None, is_gone: record.value.is_none() })
    }

    /// Learns a schema: looks at the table, makes it or widens it where the file allows that, and
    /// brings `table` up to date. Gives what was done, in words. In the caller's db_tx.
    ///
    /// # Errors
    /// A [`Fault`]: the server's, or a table that cannot hold rows of the schema.
    pub async fn learn(
        &mut self,
        connection: &mut PgConnection,
        table: &mut Table,
        mode: InsertMode,
        (which, layout): (Unknown, Layout),
    ) -> Result<Vec<String>, Fault> {
        let (name, key) = (table.name.clone(), self.key_names());
        let columns = self.columns(which, &layout);
        let mut there = table::present(connection, &name).await?;
        let mut done = Vec::new();
        if there.is_empty() {
            let wanted: Vec<Wanted> = columns.iter().map(|(wanted, _)| wanted.clone()).collect();
            if !self.settings.creates {
                return Err(Fault::stop(format!(
                    "there is no table {name}, and auto.create is off; for instance: {}",
                    table::create_statement(&name, &wanted, &key, mode.keeps_last())
                )));
            }
            table::create(connection, &name, &wanted, &key, mode.keeps_last()).await?;
            done.push(format!("table {name} made"));
        } else {
            let changes = self.changes(&name, which, &columns, &there)?;
            // Made by its key alone, because that came first.
            let is_begun = self.settings.creates && there.keys().all(|name| key.contains(name));
            if !changes.is_empty() && !self.settings.evolves && !is_begun {
                return Err(Fault::stop(format!(
                    "table {name} cannot hold rows of schema id {}, and auto.evolve is off; it \
                     lacks: {}",
                    which.id(),
                    table::statements(&name, &changes)
                )));
            }
            done = table::evolve(connection, &name, &changes).await?;
        }
        there = table::present(connection, &name).await?;
        if !key.is_empty() && !table::is_unique(connection, &name, &key).await? {
            let columns: Vec<String> = key.iter().map(|name| quoted(name)).collect();
            return Err(Fault::stop(format!(
                "table {name} has no unique index that tells rows apart by pk.fields; \
                 CREATE UNIQUE INDEX ON {} ({})",
                quoted(&name),
                columns.join(", ")
            )));
        }
        self.bind(table, mode, (which, layout), &there);
        Ok(done)
    }

    /// The columns of a schema.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn layout(&self, which: Unknown, of: &Type) -> Result<Layout, String> {
        let (single, fields) = match (&self.settings.key, which) {
            (Key::Record(_, fields), Unknown::Key(_)) => {
                (fields.first().filter(|_| fields.len() == 1), fields.as_slice())
            }
            (Key::Value(fields), _) => (None, fields.as_slice()),
            _ => (None, &[][..]),
        };
        let layout = Layout::of(of, &self.settings.naming, single.map(String::as_str))?;
        match fields.iter().find(|f| !layout.columns.iter().any(|column| column.name == **f)) {
            Some(field) => Err(format!("pk.fields: it has no field for column {field}")),
            None => Ok(layout),
        }
    }

    fn key_names(&self) -> Vec<String> {
        match &self.settings.key {
            Key::Nothing => Vec::new(),
            Key::Place(names) => names.to_vec(),
            Key::Record(_, fields) | Key::Value(fields) => fields.clone(),
        }
    }

    /// Whether the table takes that column of a layout from there.
    fn takes(&self, which: Unknown, column: &Given) -> bool {
        match (&self.settings.key, which) {
            (Key::Record(_, fields), Unknown::Key(_)) => fields.contains(&column.name),
            (Key::Record(_, fields), Unknown::Value(_)) => !fields.contains(&column.name),
            (Key::Place(names), _) => !names.contains(&column.name),
            (Key::Nothing | Key::Value(_), _) => true,
        }
    }

    /// The columns that rows of a schema have, and what may hold their values.
    fn columns(&self, which: Unknown, layout: &Layout) -> Vec<(Wanted, Type)> {
        let mut columns = Vec::new();
        if let Key::Place(names) = &self.settings.key {
            let types = [Type::Text, Type::Int, Type::Long];
            columns.extend(names.iter().zip(types).map(|(name, of)| {
                let target = Target::made_for(&of);
                (Wanted { name: name.clone(), target, nullable: false, symbols: None }, of)
            }));
        }
        let key = self.key_names();
        let taken = layout.columns.iter().filter(|column| self.takes(which, column));
        columns.extend(taken.map(|column| {
            let nullable = column.nullable && !key.contains(&column.name);
            (Wanted { nullable, ..Wanted::of(column) }, column.of.clone())
        }));
        columns
    }

    fn changes(
        &self,
        table: &str,
        which: Unknown,
        columns: &[(Wanted, Type)],
        there: &BTreeMap<String, Present>,
    ) -> Result<Vec<Change>, Fault> {
        let mut changes = table::lacks(table, columns, &self.key_names(), there)?;
        if let (Unknown::Key(_), Key::Record(..)) = (which, &self.settings.key) {
            // The value's columns are none of the key's.
            changes.retain(|change| !matches!(change, Change::DropNotNull(_)));
        }
        Ok(changes)
    }

    fn bind(
        &mut self,
        table: &mut Table,
        mode: InsertMode,
        (which, layout): (Unknown, Layout),
        there: &BTreeMap<String, Present>,
    ) {
        let mut places = Vec::with_capacity(layout.columns.len());
        for column in &layout.columns {
            let target = there.get(&column.name).and_then(|present| present.target);
            places.push(target.filter(|_| self.takes(which, column)).map(|target| {
                let at = table.columns.iter().position(|name| *name == column.name);
                let at = at.unwrap_or_else(|| {
                    table.columns.push(column.name.clone());
                    table.columns.len() - 1
                });
                (at, target)
            }));
        }
        self.width = table.columns.len();
        let key = self.key_names();
        (table.key, table.compared) =
            (0..self.width).partition(|at| key.contains(&table.columns[*at]));
        if mode == InsertMode::Ignore {
            table.compared.clear();
        }
        let bound = Arc::new(Bound { layout, places });
        match which {
            Unknown::Key(id) => self.keys.insert(id, bound),
            Unknown::Value(id) => self.values.insert(id, bound),
        };
    }

    fn read<'a>(
        &self,
        which: fn(u32) -> Unknown,
        format: &Format,
        bytes: &'a [u8],
        cells: &mut [Cell<'a>],
    ) -> Result<(), Rejection> {
        let id = format.id(bytes)?;
        let bound = match which(id) {
            Unknown::Key(id) => self.keys.get(&id),
            Unknown::Value(id) => self.values.get(&id),
        };
        let bound = bound.ok_or_else(|| {
            let why = self.refused.get(&which(id)).map_or("it is unknown", String::as_str);
            Rejection::new(Reason::Schema, format!("schema id {id}: {why}"))
        })?;
        match format {
            Format::Avro => bound.read_avro(unframe(bytes).map_or(bytes, |(_, body)| body), cells),
            Format::Json(_) => bound.read_json(bytes, cells),
            Format::Text => bound.read_text(bytes, cells),
        }
    }
}
