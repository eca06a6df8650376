//! A database of its own for each test, and records as the processor writes them.

pub mod midst;
pub mod proxy;

use caudal_core::avro::{self, Writer};
use caudal_core::avro_schema::Type;
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::money::Amount;
use caudal_core::row::{RowSchema, Value};
use caudal_core::schema::Schemas;
use caudal_core::transaction::{Kind, Transaction};
use caudal_kafka::TopicPartition;
use caudal_query::plan::Plan;
use caudal_sink::batch::Batch;
use caudal_sink::columns::Shape;
use caudal_sink::config::Config;
use caudal_sink::fault::Fault;
use caudal_sink::generic::Unknown;
use caudal_sink::postgres::Position;
use caudal_sink::store::{Database, PARENT_TRIES, Stored, Trouble};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Executor as _};
use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub const EVENT_TIME: i64 = 1_700_000_000_123_456;

/// A database with the tables, dropped at the end.
pub struct Scratch {
    server: String,
    name: String,
    pub url: String,
    runtime: tokio::runtime::Runtime,
    connection: Option<PgConnection>,
}

impl Scratch {
    /// `None`, and a line that says so, when there is no server to test on.
    pub fn create() -> Option<Scratch> {
        Scratch::create_as("")
    }

    /// With further words for CREATE DATABASE.
    pub fn create_as(words: &str) -> Option<Scratch> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Ok(server) = std::env::var("CAUDAL_TEST_DATABASE_URL") else {
            println!("skipped: no test database");
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("caudal_sink_test_{}_{number}", std::process::id());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut scratch = Scratch { url: server.clone(), server, name, runtime, connection: None };
        scratch.reconnect(&scratch.server.clone());
        scratch.run(&format!("CREATE DATABASE {} {words}", scratch.name));
        let (before, query) = scratch.server.split_once('?').unwrap_or((&scratch.server, ""));
        let base = before.rsplit_once('/').unwrap().0;
        scratch.url = format!("{base}/{}?{query}", scratch.name);
        caudal_sink::migrate(&scratch.url).unwrap();
        scratch.reconnect(&scratch.url.clone());
        Some(scratch)
    }

    fn reconnect(&mut self, url: &str) {
        let options = PgConnectOptions::from_str(url).unwrap().disable_statement_logging();
        self.connection = Some(self.runtime.block_on(options.connect()).unwrap());
    }

    pub fn run(&mut self, sql: &str) {
        let connection = self.connection.as_mut().unwrap();
        self.runtime.block_on(connection.execute(sqlx::raw_sql(sql))).unwrap();
    }

    /// The first column of the first row, as text.
    pub fn text(&mut self, sql: &str) -> String {
        let connection = self.connection.as_mut().unwrap();
        let sql = format!("SELECT (x.v)::text FROM ({sql}) AS x(v)");
        let found: Option<String> =
            self.runtime.block_on(sqlx::query_scalar(&sql).fetch_one(connection)).unwrap();
        found.unwrap_or_default()
    }

    pub fn count(&mut self, table: &str) -> i64 {
        self.text(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
    }

    /// A role that may do no more than that, and the URL of a session of its own.
    pub fn role(&mut self, name: &str, rights: &[&str]) -> (String, String) {
        let role = format!("caudal_sink_{name}_{}", std::process::id());
        self.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'"));
        rights.iter().for_each(|right| self.run(&format!("GRANT {right} TO {role}")));
        let (_, rest) = self.url.split_once('@').unwrap();
        let url = format!("postgres://{role}:x@{rest}");
        (role, url)
    }

    pub fn writer(&self) -> Sink {
        Sink::new(&self.url)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.reconnect(&self.server.clone());
        self.run(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// A sink without Kafka: it owns what it has claimed.
pub struct Sink {
    pub database: Database,
    pub owned: BTreeMap<TopicPartition, Position>,
    pub config: Config,
}

impl Sink {
    pub fn new(url: &str) -> Sink {
        Sink::of(url, "")
    }

    /// Of the shipped queries and more, whose tables are made.
    pub fn of(url: &str, queries: &str) -> Sink {
        let mut config = Config::read(None).unwrap();
        config.add_queries(&caudal_query::plan::shipped()).unwrap();
        config.add_queries(&Plan::compile(queries).unwrap()).unwrap();
        let mut database = Database::new(url).unwrap();
        if !config.of_queries.is_empty() {
            database.create_tables(&mut config.routes).unwrap();
        }
        Sink { database, owned: BTreeMap::new(), config }
    }

    /// Of a file, whose declared schemas are learnt.
    pub fn of_file(url: &str, toml: &str) -> Result<Sink, Fault> {
        let mut config = Config::parse(toml, "sink.toml").map_err(|e| Fault::stop(e.0))?;
        let mut database = Database::new(url).unwrap();
        database.create_tables(&mut config.routes)?;
        Ok(Sink { database, owned: BTreeMap::new(), config })
    }

    /// Learns a schema of a topic's values, as if it were published.
    pub fn learn(&mut self, topic: &str, which: Unknown, avsc: &str) -> Result<Vec<String>, Fault> {
        let route = self.config.routes.get_mut(topic).unwrap();
        let Shape::Generic(generic) = &route.shape else { panic!("{topic}") };
        let layout = generic.layout(which, &Type::parse(avsc).unwrap()).map_err(Fault::stop)?;
        self.database.learn(route, which, layout)
    }

    /// Claims a partition that begins at 0.
    pub fn claim(&mut self, topic: &str, partition: i32) {
        let position = self.try_claim(topic, partition).unwrap();
        self.owned.insert(at(topic, partition), position);
    }

    pub fn try_claim(&mut self, topic: &str, partition: i32) -> Result<Position, Fault> {
        Ok(self.database.claim(&at(topic, partition), None, Some(0))?.unwrap())
    }

    pub fn claiming(mut self, topics: &[&str]) -> Sink {
        topics.iter().for_each(|topic| self.claim(topic, 0));
        self
    }

    pub fn batch(&self, records: &[(TopicPartition, Record)]) -> Batch {
        Batch::build(records.to_vec(), &self.owned, &self.config.routes).unwrap()
    }

    pub fn store(&mut self, records: &[(TopicPartition, Record)]) -> Result<Stored, Trouble> {
        let batch = self.batch(records);
        let stored = self.database.store(&batch)?;
        for (at, position) in &stored.positions {
            self.owned.insert(at.clone(), position.clone());
        }
        Ok(stored)
    }

    /// Stores as the loop does, without its pauses: again for as long as it is told to.
    pub fn store_at_last(&mut self, records: &[(TopicPartition, Record)]) -> Stored {
        for _ in 0..=PARENT_TRIES {
            match self.store(records) {
                Err(Trouble::Retry(fault)) => println!("again: {fault}"),
                outcome => return outcome.unwrap(),
            }
        }
        panic!("the batch is tried again for ever");
    }
}

pub fn at(topic: &str, partition: i32) -> TopicPartition {
    (Arc::from(topic), partition)
}

pub fn header(name: &str, value: &[u8]) -> (String, Box<[u8]>) {
    (name.to_owned(), value.into())
}

/// A transaction of `units` cents.
pub fn transaction(id: &str, units: i64) -> Transaction<'_> {
    Transaction {
        transaction_id: id.into(),
        source: "test".into(),
        source_seq: 7,
        account_id: "account".into(),
        merchant_id: "merchant".into(),
        amount: Amount { units, scale: 2 },
        scale_declared: true,
        currency: "EUR".into(),
        kind: Kind::Adjustment,
        country: Some("ES".into()),
        event_time: EVENT_TIME,
        description: None,
        attributes: vec![("canal".into(), "tienda \"é\"".into())],
    }
}

/// Its record in partition 0 of `transacciones_validas`.
pub fn valid(offset: i64, transaction: &Transaction<'_>) -> (TopicPartition, Record) {
    let mut out = Writer::framed(Schemas::shipped().valid.id);
    avro::write_transaction(&mut out, transaction);
    avro::write_strings(&mut out, ["ventas_gold"].into_iter());
    (at("transacciones_validas", 0), record(offset, Some(&out.into_bytes())))
}

/// `ids` from offset `first` on, 1.00 each.
pub fn valids(first: i64, ids: std::ops::Range<i64>) -> Vec<(TopicPartition, Record)> {
    (first..).zip(ids).map(|(o, id)| valid(o, &transaction(&format!("t{id}"), 100))).collect()
}

pub fn record(offset: i64, value: Option<&[u8]>) -> Record {
    Record {
        partition: 0,
        offset,
        timestamp: 1_700_000_000_000,
        key: Some((*b"key").into()),
        value: value.map(Into::into),
        headers: vec![
            header(headers::TASK, b"1-0"),
            header(headers::SEQUENCE, offset.to_string().as_bytes()),
        ],
    }
}

/// A row of `ventas_gold` with that many sales of 1.00.
pub fn gold(offset: i64, merchant: &str, sales: i64) -> (TopicPartition, Record) {
    let shipped = Schemas::shipped();
    let nano = i128::from(sales) * 1_000_000_000;
    let row = [
        Value::Text(merchant.into()),
        Value::Text("EUR".into()),
        Value::Timestamp(0),
        Value::Timestamp(60_000_000),
        Value::Long(sales),
        Value::Decimal(nano),
        Value::Decimal(1_000_000_000),
        Value::Decimal(1_000_000_000),
    ];
    let schema = RowSchema::parse(&shipped.ventas_gold.json).unwrap();
    let value = schema.encode(shipped.ventas_gold.id, &row);
    (at("ventas_gold", 0), record(offset, Some(&value)))
}

/// A row of `fraud_alerts` with that many attempts.
pub fn alert(offset: i64, account: &str, attempts: i64) -> (TopicPartition, Record) {
    let shipped = Schemas::shipped();
    let row = [
        Value::Text(account.into()),
        Value::Text("EUR".into()),
        Value::Timestamp(0),
        Value::Timestamp(60_000_000),
        Value::Long(attempts),
        Value::Decimal(1_000_000_000),
    ];
    let schema = RowSchema::parse(&shipped.alertas_fraude.json).unwrap();
    let value = schema.encode(shipped.alertas_fraude.id, &row);
    (at("alertas_fraude", 0), record(offset, Some(&value)))
}

/// The tombstone of a row that [`gold`] gave.
pub fn no_gold(offset: i64, merchant: &str) -> (TopicPartition, Record) {
    let key = format!("[\"{merchant}\",\"EUR\",0]");
    (at("ventas_gold", 0), Record { key: Some(key.into_bytes().into()), ..record(offset, None) })
}
