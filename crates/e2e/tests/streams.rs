//! Topics that others write, in any format and with any number of partitions: streams and tables
//! over them, a query over a query, a join, and a processor that is killed in the middle. Every row
//! is what was sent.

use anyhow::{Result, ensure};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_e2e::fault::{Moments, Work, kill_in_flight, wait_until};
use caudal_e2e::flight::OpenTxns;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::{query, topic};
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::txn::TxnProducer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
/// How long the last rows may take once the stream is stored.
const SOON: Duration = Duration::from_secs(60);
const ORDERS: i64 = 30_000;
const READINGS: i64 = 4_000;
/// One order in so many is no JSON.
const BROKEN: i64 = 100;

const QUERIES: &str = "
CREATE STREAM pedidos (id STRING KEY, tienda STRING, n INT, precio DECIMAL(10, 2), cuando BIGINT)
  WITH (KAFKA_TOPIC = 'prueba_pedidos', VALUE_FORMAT = 'JSON', TIMESTAMP = 'cuando');
CREATE TABLE tiendas (tienda STRING PRIMARY KEY, ciudad STRING)
  WITH (KAFKA_TOPIC = 'prueba_tiendas', VALUE_FORMAT = 'JSON');
CREATE STREAM lecturas (sensor STRING, v DOUBLE)
  WITH (KAFKA_TOPIC = 'prueba_lecturas', VALUE_FORMAT = 'DELIMITED', VALUE_DELIMITER = ';');
CREATE STREAM oro (merchant_id STRING, ventas BIGINT, total DECIMAL(38, 9))
  WITH (KAFKA_TOPIC = 'ventas_gold', VALUE_FORMAT = 'AVRO');

CREATE STREAM prueba_importes AS
  SELECT id, p.tienda AS tienda, t.ciudad AS ciudad, n, n * precio AS importe
  FROM pedidos p LEFT JOIN tiendas t ON p.tienda = t.tienda WHERE n > 0 PARTITION BY ciudad;
CREATE TABLE prueba_ciudades AS
  SELECT ciudad, COUNT(*) AS pedidos, SUM(importe) AS total FROM prueba_importes
  WINDOW TUMBLING (SIZE 1 HOUR, GRACE PERIOD 400 DAYS) GROUP BY ciudad
  HAVING COUNT(*) > 1 EMIT CHANGES;
CREATE TABLE prueba_totales AS
  SELECT tienda, COUNT(*) AS pedidos, SUM(n * precio) AS total FROM pedidos WHERE n > 0
  GROUP BY tienda EMIT CHANGES;
CREATE TABLE prueba_visitas AS
  SELECT tienda, COUNT(*) AS pedidos FROM pedidos WINDOW SESSION (30 SECONDS, GRACE PERIOD 400 DAYS)
  WHERE n > 0 GROUP BY tienda EMIT CHANGES;
CREATE TABLE prueba_sensores AS
  SELECT sensor, COUNT(*) AS lecturas, MAX(v) AS mayor FROM lecturas GROUP BY sensor EMIT CHANGES;
CREATE TABLE prueba_oro AS
  SELECT merchant_id, COUNT(*) AS filas, MAX(ventas) AS mayor FROM oro GROUP BY merchant_id
  EMIT CHANGES;
";

/// Our rows, and what PostgreSQL makes of the stream's.
const CHECKS: [(&str, &str); 3] = [
    (
        "SELECT format('%s|%s|%s|%s', ciudad, window_start, pedidos, total) FROM prueba_ciudades",
        "SELECT format('%s|%s|%s|%s', ciudad, date_bin('1 hour', c.cuando, 'epoch'), count(*), \
         sum(importe)) FROM prueba_importes JOIN cuando c USING (id) WHERE ciudad IS NOT NULL \
         GROUP BY ciudad, date_bin('1 hour', c.cuando, 'epoch') HAVING count(*) > 1",
    ),
    (
        "SELECT format('%s|%s|%s', tienda, pedidos, total) FROM prueba_totales",
        "SELECT format('%s|%s|%s', tienda, count(*), sum(importe)) FROM prueba_importes \
         GROUP BY tienda",
    ),
    (
        "SELECT format('%s|%s|%s|%s', tienda, window_start, window_end, pedidos) FROM prueba_visitas",
        "SELECT format('%s|%s|%s|%s', tienda, min(cuando), max(cuando), count(*)) FROM (SELECT *, \
         sum(begins) OVER (PARTITION BY tienda ORDER BY cuando) AS session FROM (SELECT tienda, \
         c.cuando, CASE WHEN c.cuando - lag(c.cuando) OVER (PARTITION BY tienda ORDER BY c.cuando) \
         <= interval '30 seconds' THEN 0 ELSE 1 END AS begins FROM prueba_importes \
         JOIN cuando c USING (id)) AS gaps) AS sessions GROUP BY tienda, session",
    ),
];

#[test]
fn other_peoples_topics_become_rows_exactly_once() -> Result<()> {
    let Some(mut pipeline) = Pipeline::empty("streams")? else { return Ok(()) };
    pipeline.add_queries(QUERIES)?;
    pipeline.caudal(&["reset", "--yes"])?;
    let admin = Admin::connect(&pipeline.kafka)?;
    let shapes = [("prueba_pedidos", 3), ("prueba_tiendas", 4), ("prueba_lecturas", 2)];
    let existing = admin.topics()?;
    let old: Vec<&str> =
        shapes.iter().map(|(name, _)| *name).filter(|name| existing.contains_key(*name)).collect();
    ensure!(old.is_empty(), "topics {old:?} of an earlier run are still there");
    for (name, partitions) in shapes {
        let compact = name == "prueba_tiendas";
        let policy = ("cleanup.policy".into(), if compact { "compact" } else { "delete" }.into());
        let config = BTreeMap::from([policy]);
        admin.create(&Topic { name: name.into(), partitions, replication: 3, config })?;
    }
    let sent = Sent::new();
    let mut producer =
        TxnProducer::connect(&pipeline.kafka, "prueba-streams", None, Duration::from_secs(60))?;
    sent.send(&mut producer, Sent::shop)?;

    let _sink = pipeline.start("caudal-sink", "sink", &[])?;
    let process = ["--batch-records", "300"];
    let mut processor = pipeline.start("caudal-processor", "processor", &process)?;
    let there = || Ok(admin.topics()?.contains_key("prueba_importes"));
    wait_until("the stream's topic", LIMIT, there)?;
    sent.send(&mut producer, Sent::order)?;
    sent.send(&mut producer, Sent::reading)?;
    let mut moments = Moments::seeded();
    let into_stream = OpenTxns::of(&pipeline.kafka, "prueba_importes")?;
    wait_until("a tenth of the stream", LIMIT, || Ok(into_stream.total()? > 2_500))?;
    let work = Work::Txn(&into_stream, into_stream.ends()?);
    kill_in_flight(&mut processor, &work, &mut moments)?;
    let before = topic::count(&pipeline.kafka, "prueba_importes")?;
    ensure!(before > 0, "nothing was done before the kill");
    ensure!(before < sent.valid.len() as u64, "all was done before the kill: {before}");
    println!("killed after {before} of {} rows of the stream", sent.valid.len());
    let mut processor = pipeline.start("caudal-processor", "processor", &[])?;
    pipeline.run("caudal-producer", &["--generate", "5000", "--seed", "5"], LIMIT)?;

    let url = &pipeline.database_url;
    sent.remember(url)?;
    let count = sent.valid.len().to_string();
    wait_until("every row of the stream", LIMIT, || {
        let counted = "SELECT count(*)::text FROM prueba_importes";
        Ok(is_there(url, "prueba_importes")? && query::text(url, counted)? == count)
    })?;
    pipeline.caudal(&["drained"])?;
    sent.check_stream(url)?;
    for (ours, theirs) in CHECKS {
        let rows = query::equal(url, ours, theirs, SOON)?;
        ensure!(rows > 0, "nothing is compared: {ours}");
        println!("{rows} rows: {}", &ours[ours.len() - 20..]);
    }
    sent.check_readings(url)?;
    // Two queries read the orders without joining them: each names what it cannot read.
    for errors in ["prueba_importes_errores", "prueba_totales_errores", "prueba_visitas_errores"] {
        let said = topic::count(&pipeline.kafka, errors)?;
        ensure!(said == sent.broken, "{errors}: {said} records, {} are broken", sent.broken);
    }
    query::equal(
        url,
        "SELECT format('%s|%s', merchant_id, mayor) FROM prueba_oro",
        "SELECT format('%s|%s', merchant_id, max(ventas)) FROM ventas_gold GROUP BY merchant_id",
        SOON,
    )?;
    pipeline.assert_balanced()?;
    ensure!(processor.terminate()?.success(), "log {}", processor.log.display());
    pipeline.run("caudal-processor", &["--until-caught-up"], LIMIT)?;
    let names: Vec<&str> = shapes.iter().map(|(name, _)| *name).collect();
    Ok(admin.delete(&names)?)
}

fn is_there(url: &str, table: &str) -> Result<bool> {
    Ok(query::text(url, &format!("SELECT (to_regclass('{table}') IS NOT NULL)::text"))? == "true")
}

/// What is sent, and what must come of it.
struct Sent {
    /// Of valid orders: id → (shop, city, pieces, hundredths, time in ms).
    valid: BTreeMap<String, (String, Option<String>, i64, i64, i64)>,
    broken: u64,
}

type Made = Option<(&'static str, i32, Option<String>, String)>;

impl Sent {
    fn new() -> Sent {
        let mut sent = Sent { valid: BTreeMap::new(), broken: 0 };
        for i in 0..ORDERS {
            let (shop, pieces, price, time) = Sent::figures(i);
            if i % BROKEN == 7 {
                sent.broken += 1;
            } else if pieces > 0 {
                let city = (shop % 7 != 3).then(|| format!("ciudad-{}", shop % 5));
                let order = (format!("t-{shop}"), city, pieces, price, time);
                sent.valid.insert(format!("p-{i}"), order);
            }
        }
        sent
    }

    /// Shop, pieces, hundredths of the price, time in ms: some go back in time, some shops sell far
    /// more than others.
    fn figures(i: i64) -> (i64, i64, i64, i64) {
        let shop = (i * i) % 23;
        let time = 1_760_000_000_000 + i * 800 - if i % 11 == 0 { 50_000 } else { 0 };
        (shop, (i * 7) % 9 - 1, 100 + (i * 37) % 9_000, time)
    }

    fn shop(i: i64) -> Made {
        let value = format!(r#"{{"ciudad": "ciudad-{}"}}"#, i % 5);
        let made = ("prueba_tiendas", i32::try_from(i % 4).ok()?, Some(format!("t-{i}")), value);
        (i < 23).then_some(made).filter(|_| i % 7 != 3)
    }

    fn order(i: i64) -> Made {
        let (shop, n, price, time) = Sent::figures(i);
        let value = match i % BROKEN == 7 {
            true => format!("{{no JSON {i}"),
            false => format!(
                r#"{{"tienda": "t-{shop}", "n": {n}, "precio": {}.{:02}, "cuando": {time}}}"#,
                price / 100,
                price % 100
            ),
        };
        let partition = i32::try_from(i % 3).ok()?;
        (i < ORDERS).then(|| ("prueba_pedidos", partition, Some(format!("p-{i}")), value))
    }

    fn reading(i: i64) -> Made {
        let partition = i32::try_from(i % 2).ok()?;
        let value = format!("s-{};{}.5", i % 13, (i * 31) % 1000);
        (i < READINGS).then_some(("prueba_lecturas", partition, None, value))
    }

    fn send(&self, producer: &mut TxnProducer, make: fn(i64) -> Made) -> Result<()> {
        let all: Vec<_> = (0..ORDERS).filter_map(make).collect();
        for chunk in all.chunks(3_000) {
            let record =
                |(topic, partition, key, value): &(&str, i32, Option<String>, String)| OutRecord {
                    topic: Arc::from(*topic),
                    partition: *partition,
                    key: key.clone().map(String::into_bytes),
                    value: Some(value.clone().into_bytes()),
                    origin: None,
                    headers: Vec::new(),
                };
            let records = chunk.iter().map(record).collect();
            producer.commit(&mut Outbox { records, positions: Vec::new() }, None)?;
        }
        Ok(())
    }

    /// When each order was, for PostgreSQL: the stream does not carry it as a column.
    fn remember(&self, url: &str) -> Result<()> {
        let rows: Vec<String> = self
            .valid
            .iter()
            .map(|(id, (.., time))| format!("('{id}', to_timestamp({time} / 1000.0))"))
            .collect();
        let values = rows.join(", ");
        let table = "CREATE TABLE cuando (id text PRIMARY KEY, cuando timestamptz)";
        query::execute(
            url,
            &format!("{table}; INSERT INTO cuando VALUES {values}; ANALYZE cuando"),
        )?;
        Ok(())
    }

    /// Every order once, with its shop's city.
    fn check_stream(&self, url: &str) -> Result<()> {
        let mut found = query::texts(
            url,
            "SELECT format('%s|%s|%s|%s|%s', id, tienda, ciudad, n, (importe * 100)::bigint) \
             FROM prueba_importes",
        )?;
        found.sort_unstable();
        let mut wanted: Vec<String> = self
            .valid
            .iter()
            .map(|(id, (shop, city, n, price, _))| {
                format!("{id}|{shop}|{}|{n}|{}", city.as_deref().unwrap_or_default(), n * price)
            })
            .collect();
        wanted.sort_unstable();
        let differs = found.iter().zip(&wanted).find(|(a, b)| a != b);
        ensure!(found == wanted, "{differs:?}, {} rows, {} expected", found.len(), wanted.len());
        Ok(())
    }

    fn check_readings(&self, url: &str) -> Result<()> {
        let mut wanted: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for i in 0..READINGS {
            let sensor = wanted.entry(i % 13).or_default();
            *sensor = (sensor.0 + 1, sensor.1.max((i * 31) % 1000));
        }
        for (sensor, (count, most)) in wanted {
            let row = format!(
                "SELECT format('%s|%s', lecturas, mayor) FROM prueba_sensores \
                 WHERE sensor = 's-{sensor}'"
            );
            let found = query::text(url, &row)?;
            ensure!(found == format!("{count}|{most}.5"), "sensor {sensor}: {found}");
        }
        Ok(())
    }
}
