//! Reads records of others' topics as the sink does: by their schemas, into the types of the table.

use super::fields::Column;
use super::{Form, InsertMode, Shape};
use anyhow::{Context as _, Result};
use caudal_core::decode::Record;
use caudal_kafka::Kafka;
use caudal_sink::copy::Tuples;
use caudal_sink::generic::table::{Present, present};
use caudal_sink::learn::{self, Learner, Learnt, Missing, Routes};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// What a record is.
pub enum Read<'r> {
    /// A row, or the end of one.
    Row { form: Form<'r>, mode: InsertMode, tuple: &'r [u8], is_gone: bool },
    /// It can be no row: why.
    Refused(String),
    /// Its table is not compared.
    NotCompared,
}

/// Whether a topic's table is compared.
pub enum Standing {
    /// It is, under that name.
    Compared(String),
    /// It cannot be.
    Untold(&'static str),
    /// It should be, but does not fit.
    Unfit(String),
    /// The file does not have the topic.
    Unknown,
}

/// The columns of a route's rows.
#[derive(Debug, Clone, Default)]
struct Columns {
    all: Vec<Column>,
    /// How many the table had when these were told.
    width: usize,
}

/// Reads records.
pub struct Reader {
    learner: Learner,
    routes: Routes,
    columns: BTreeMap<Arc<str>, Columns>,
    /// Columns of tables, by table.
    present: BTreeMap<String, BTreeMap<String, Present>>,
    /// Topics whose table does not fit a schema, and why.
    unfit: BTreeMap<Arc<str>, String>,
    tuple: Tuples,
}

impl Reader {
    /// For the topics of others in a sink's file.
    pub fn new(kafka: &Kafka, routes: Routes) -> Reader {
        let routes: Routes = routes
            .into_iter()
            .filter(|(_, route)| matches!(route.shape, Shape::Generic(_)))
            .collect();
        Reader {
            learner: Learner::new(kafka),
            routes,
            columns: BTreeMap::new(),
            present: BTreeMap::new(),
            unfit: BTreeMap::new(),
            tuple: Tuples::default(),
        }
    }

    /// Whether the table of a topic is compared, as far as its schemas are known by now.
    pub fn standing(&self, topic: &str) -> Standing {
        let Some(route) = self.routes.get(topic) else { return Standing::Unknown };
        match self.unfit.get(topic) {
            Some(why) => Standing::Unfit(why.clone()),
            None if route.mode == InsertMode::Update => Standing::Untold(
                "insert.mode is update: which rows were there before is not told by its records",
            ),
            None => Standing::Compared(route.table.name.clone()),
        }
    }

    fn is_compared(&self, topic: &str) -> bool {
        let route = self.routes.get(topic).filter(|_| !self.unfit.contains_key(topic));
        route.is_some_and(|route| route.mode != InsertMode::Update)
    }

    /// The columns and the key of a table that is compared: the topics that share it have one key, of
    /// types that do not alter values.
    pub fn form_of(&self, table: &str) -> Option<(Vec<Column>, Vec<usize>)> {
        let mut of_table = self.routes.values().filter(|route| route.table.name == table);
        if !of_table.clone().all(|route| self.is_compared(&route.topic)) {
            return None;
        }
        let widest = of_table.clone().max_by_key(|route| route.table.columns.len())?;
        let key = widest.table.key.iter().map(|at| &widest.table.columns[*at]);
        let key: Vec<&String> = key.collect();
        // Several topics may share a table when they share its key.
        let agrees = of_table.all(|route| {
            let columns = &route.table.columns;
            route.table.key.iter().map(|at| &columns[*at]).eq(key.iter().copied())
        });
        let present = self.present.get(table)?;
        let column = |name: &String| Column::of(name, present.get(name));
        let columns: Vec<Column> = widest.table.columns.iter().map(column).collect();
        let is_told = widest.table.key.iter().all(|at| !columns[*at].alters);
        (agrees && is_told).then(|| (columns, widest.table.key.clone()))
    }

    /// Learns the schemas that the file itself declares.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn declared(&mut self, connection: &mut PgConnection) -> Result<()> {
        for learnt in learn::declared(&self.routes)? {
            self.learn(connection, learnt).await?;
        }
        Ok(())
    }

    /// Reads a record of a topic.
    ///
    /// # Errors
    /// When its schema cannot be looked up.
    pub fn read(
        &mut self,
        topic: &str,
        record: &Record,
        connection: &mut PgConnection,
    ) -> Result<Read<'_>> {
        self.look_up(topic, record, connection)?;
        if !self.is_compared(topic) {
            return Ok(Read::NotCompared);
        }
        let Some((name, route)) = self.routes.get_key_value(topic) else {
            return Ok(Read::NotCompared);
        };
        let row = match route.shape.row(record, topic) {
            Ok(row) => row,
            Err(rejection) => return Ok(Read::Refused(rejection.message)),
        };
        self.tuple.truncate(0);
        if let Err(rejection) = row.encode(&mut self.tuple) {
            return Ok(Read::Refused(rejection.message));
        }
        let columns = self.columns.entry(Arc::clone(name)).or_default();
        if columns.width != route.table.columns.len() {
            let present = self.present.get(&route.table.name);
            let of = |name: &String| Column::of(name, present.and_then(|all| all.get(name)));
            columns.all = route.table.columns.iter().map(of).collect();
            columns.width = columns.all.len();
        }
        let form = Form { columns: &columns.all, key: &route.table.key };
        let (mode, is_gone) = (route.mode, row.is_gone);
        Ok(Read::Row { form, mode, tuple: self.tuple.as_slice(), is_gone })
    }

    /// Learns what a record needs. Nothing is made or widened: the sink has done that.
    fn look_up(
        &mut self,
        topic: &str,
        record: &Record,
        connection: &mut PgConnection,
    ) -> Result<()> {
        let Some((name, route)) = self.routes.get_key_value(topic) else { return Ok(()) };
        let Shape::Generic(generic) = &route.shape else { return Ok(()) };
        let unknown = generic.unknown(record).map(|unknown| (Arc::clone(name), unknown));
        let missing: Missing = unknown.collect();
        if missing.is_empty() || self.unfit.contains_key(topic) {
            return Ok(());
        }
        block_in_place(|| {
            let learnt = self.learner.look_up(&mut self.routes, missing)?;
            Handle::current().block_on(async {
                for learnt in learnt {
                    self.learn(connection, learnt).await?;
                }
                Ok(())
            })
        })
    }

    async fn learn(&mut self, connection: &mut PgConnection, learnt: Learnt) -> Result<()> {
        let (topic, unknown, layout) = learnt;
        let Some(route) = self.routes.get_mut(&topic) else { return Ok(()) };
        let Shape::Generic(generic) = &mut route.shape else { return Ok(()) };
        connection.execute("SAVEPOINT caudal_learn").await?;
        let learnt = generic.learn(connection, &mut route.table, route.mode, (unknown, layout));
        if let Err(fault) = learnt.await {
            connection.execute("ROLLBACK TO SAVEPOINT caudal_learn").await?;
            let table = &route.table.name;
            let why = format!("table {table} does not fit schema id {}: {fault}", unknown.id());
            self.unfit.insert(topic, why);
            return Ok(());
        }
        let table = &route.table.name;
        if !self.present.contains_key(table) {
            let columns = present(connection, table).await;
            let columns = columns.with_context(|| format!("cannot look at table {table}"))?;
            self.present.insert(table.clone(), columns);
        }
        Ok(())
    }
}
