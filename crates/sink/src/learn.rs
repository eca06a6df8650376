//! Schemas that records of others' topics name: looked up before the records are read.
//!
//! A schema is published to `caudal_esquemas`, acknowledged, before its first use: so one that is not
//! there when the topic was read to its end, after the record was seen, is nobody's. When the topic
//! cannot be read, that is an outage, and says nothing of the record.

use crate::columns::{Shape, Table};
use crate::config::Route;
use crate::fault::Fault;
use crate::generic::layout::Layout;
use crate::generic::{Generic, Unknown};
use crate::migrations::begin_locked;
use caudal_core::avro_schema::Type;
use caudal_core::decode::Record;
use caudal_core::topics;
use caudal_kafka::{Kafka, TopicPartition, schemas};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest reading of `caudal_esquemas`.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a schema that was not there is not looked for again.
const ABSENT: Duration = Duration::from_secs(10);

/// Ways by topic.
pub type Routes = BTreeMap<Arc<str>, Route>;

/// Schemas that topics' records name and their routes do not know.
pub type Missing = BTreeSet<(Arc<str>, Unknown)>;

/// A schema of a topic's that is to be brought into its table.
pub type Learnt = (Arc<str>, Unknown, Layout);

/// Schemas by id, as far as they were looked up.
pub struct Learner {
    kafka: Kafka,
    found: BTreeMap<u32, String>,
    reconsidered: Instant,
}

impl Learner {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(kafka: &Kafka) -> Learner {
        Learner { kafka: kafka.clone(), found: BTreeMap::new(), reconsidered: Instant::now() }
    }

    /// The schemas that records need and their routes do not know.
    pub fn missing(
        &mut self,
        routes: &mut Routes,
        records: &[(TopicPartition, Record)],
    ) -> Missing {
        if generics(routes).next().is_none() {
            return Missing::new();
        }
        if self.reconsidered.elapsed() > ABSENT {
            self.reconsidered = Instant::now();
            generics(routes).for_each(Generic::reconsider);
        }
        needed(routes, records)
    }

    /// The missing schemas, with the columns that they give. Those that no record can be read by are
    /// noted in the routes.
    ///
    /// # Errors
    /// When `caudal_esquemas` cannot be read.
    pub fn look_up(
        &mut self,
        routes: &mut Routes,
        missing: Missing,
    ) -> caudal_kafka::Result<Vec<Learnt>> {
        if missing.iter().any(|(_, unknown)| !self.found.contains_key(&unknown.id())) {
            self.found.extend(schemas::published(&self.kafka, PATIENCE)?);
        }
        let mut learnt = Vec::new();
        for (topic, unknown) in missing {
            let Some(Shape::Generic(generic)) = routes.get_mut(&topic).map(|r| &mut r.shape) else {
                continue;
            };
            let layout = match self.found.get(&unknown.id()) {
                Some(text) => Type::parse(text).and_then(|of| generic.layout(unknown, &of)),
                None => Err(format!(
                    "it is in no file of the sink's and not in {}; publish it there under that \
                     key, then `caudal dlq redrive --reason schema`",
                    topics::ESQUEMAS
                )),
            };
            match layout {
                Ok(layout) => learnt.push((topic, unknown, layout)),
                Err(why) => generic.refuse(unknown, why),
            }
        }
        Ok(learnt)
    }
}

/// The schemas that the file of the sink declares.
///
/// # Errors
/// A [`Fault`] that names the topic: a schema that gives no columns.
pub fn declared(routes: &Routes) -> Result<Vec<Learnt>, Fault> {
    let mut all = Vec::new();
    for (topic, route) in routes {
        let Shape::Generic(generic) = &route.shape else { continue };
        for (unknown, of) in generic.declared() {
            let layout = generic.layout(unknown, &of);
            let layout =
                layout.map_err(|e| Fault::stop(format!("topics.{topic}: its schema: {e}")))?;
            all.push((Arc::clone(topic), unknown, layout));
        }
    }
    Ok(all)
}

fn generics(routes: &mut Routes) -> impl Iterator<Item = &mut Generic> {
    routes.values_mut().filter_map(|route| match &mut route.shape {
        Shape::Generic(generic) => Some(&mut **generic),
        _ => None,
    })
}

fn needed(routes: &Routes, records: &[(TopicPartition, Record)]) -> Missing {
    let mut needed = Missing::new();
    for ((topic, _), record) in records {
        if let Some(Shape::Generic(generic)) = routes.get(topic).map(|route| &route.shape) {
            needed.extend(generic.unknown(record).map(|unknown| (Arc::clone(topic), unknown)));
        }
    }
    needed
}

/// Brings the table of a route up to a schema, in a db_tx of its own under the lock of the migrations.
/// Gives what was done, in words.
///
/// # Errors
/// A [`Fault`]; the db_tx is then still open, and the route as before.
pub async fn into_table(
    connection: &mut PgConnection,
    route: &mut Route,
    unknown: Unknown,
    layout: Layout,
) -> Result<Vec<String>, Fault> {
    let Shape::Generic(generic) = &route.shape else { return Ok(Vec::new()) };
    let (mut generic, mut table): (_, Table) = (generic.clone(), route.table.clone());
    begin_locked(connection).await?;
    let done = generic.learn(connection, &mut table, route.mode, (unknown, layout)).await?;
    connection.execute("COMMIT").await?;
    (route.shape, route.table) = (Shape::Generic(generic), table);
    Ok(done)
}
