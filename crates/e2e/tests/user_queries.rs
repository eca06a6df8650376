//! Queries of a user's own file: from SQL to rows in PostgreSQL, each equal to what PostgreSQL
//! computes over the same transactions.

use anyhow::{Context as _, Result, ensure};
use caudal_e2e::drawn::{Drawn, draw};
use caudal_e2e::expectation::Expectation;
use caudal_e2e::fault::wait_until;
use caudal_e2e::pipeline::Pipeline;
use caudal_e2e::{query, topic};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
/// How long the last rows may take once all transactions are stored.
const SOON: Duration = Duration::from_secs(60);
/// How many statements a seed draws beside those below.
const DRAWN: usize = 12;

const QUERIES: &str = "
CREATE TABLE ventas_pais AS
  SELECT country, COUNT(*) AS n, SUM(amount) AS total, AVG(amount) AS media,
         MIN(event_time) AS primera, MAX(description) AS mayor
  FROM transacciones_validas WINDOW TUMBLING (SIZE 1 HOUR)
  WHERE kind = 'PURCHASE' AND currency IN ('EUR', 'GBP', 'JPY')
  GROUP BY country EMIT CHANGES;
CREATE TABLE comercios_cuenta AS
  SELECT account_id, COUNT_DISTINCT(merchant_id) AS comercios, COUNT(*) AS n
  FROM transacciones_validas WINDOW HOPPING (SIZE 10 MINUTES, ADVANCE BY 5 MINUTES)
  GROUP BY account_id HAVING COUNT(*) > 2 EMIT CHANGES;
CREATE TABLE totales AS
  SELECT currency, COUNT(*) AS n,
         SUM(CASE WHEN kind = 'REFUND' THEN amount ELSE CAST(0 AS DECIMAL(28, 9)) END) AS devuelto,
         SUM(amount) / COUNT(*) > 10 AS grande
  FROM transacciones_validas GROUP BY currency EMIT CHANGES;
CREATE TABLE inversos AS
  SELECT UCASE(merchant_id) AS comercio, SUM(60 / (source_seq % 10)) AS suma
  FROM transacciones_validas GROUP BY UCASE(merchant_id) EMIT CHANGES;
CREATE TABLE cuentas_raras AS
  SELECT account_id, COUNT(*) AS n FROM transacciones_validas WINDOW TUMBLING (SIZE 10 MINUTES)
  GROUP BY account_id HAVING COUNT(*) < 2 EMIT CHANGES;
CREATE STREAM reembolsos AS
  SELECT transaction_id, account_id, amount, country, event_time FROM transacciones_validas
  WHERE kind = 'REFUND';
CREATE TABLE rachas AS
  SELECT account_id, COUNT(*) AS n FROM reembolsos WINDOW SESSION (1 HOUR)
  GROUP BY account_id EMIT CHANGES;
";

/// They must run as they are.
const EXAMPLES: &str = include_str!("../../../config/examples.sql");

/// Per table, its rows, and PostgreSQL's own answer.
const CHECKS: [(&str, &str, &str); 7] = [
    (
        "ventas_pais",
        "SELECT format('%s|%s|%s|%s|%s|%s|%s', country, window_start, n, trim_scale(total), \
         trim_scale(media), primera, mayor) FROM ventas_pais",
        "SELECT format('%s|%s|%s|%s|%s|%s|%s', country, date_bin('1 hour', event_time, 'epoch'), \
         count(*), trim_scale(sum(amount)), trim_scale(round(avg(amount), 9)), min(event_time), \
         max(description COLLATE \"C\")) FROM transactions \
         WHERE kind = 'PURCHASE' AND currency IN ('EUR', 'GBP', 'JPY') AND country IS NOT NULL \
         GROUP BY country, date_bin('1 hour', event_time, 'epoch')",
    ),
    (
        "comercios_cuenta",
        "SELECT format('%s|%s|%s|%s', account_id, window_start, comercios, n) FROM comercios_cuenta",
        "SELECT format('%s|%s|%s|%s', account_id, start, count(DISTINCT merchant_id), count(*)) \
         FROM transactions, date_bin('5 minutes', event_time, 'epoch') AS pane, \
         generate_series(pane - interval '5 minutes', pane, '5 minutes') AS start \
         GROUP BY account_id, start HAVING count(*) > 2",
    ),
    (
        "totales",
        "SELECT format('%s|%s|%s|%s', currency, n, trim_scale(devuelto), grande) FROM totales",
        "SELECT format('%s|%s|%s|%s', currency, count(*), \
         trim_scale(sum(CASE WHEN kind = 'REFUND' THEN amount ELSE 0 END)), \
         sum(amount) / count(*) > 10) FROM transactions GROUP BY currency",
    ),
    (
        "inversos",
        "SELECT format('%s|%s', comercio, suma) FROM inversos",
        "SELECT format('%s|%s', upper(merchant_id), \
         coalesce(sum(60 / nullif(source_seq % 10, 0)), 0)) FROM transactions GROUP BY upper(merchant_id)",
    ),
    (
        "cuentas_raras",
        "SELECT format('%s|%s|%s', account_id, window_start, n) FROM cuentas_raras",
        "SELECT format('%s|%s|%s', account_id, date_bin('10 minutes', event_time, 'epoch'), count(*)) \
         FROM transactions GROUP BY account_id, date_bin('10 minutes', event_time, 'epoch') \
         HAVING count(*) < 2",
    ),
    (
        "reembolsos",
        "SELECT format('%s|%s|%s|%s|%s', transaction_id, account_id, trim_scale(amount), country, \
         event_time) FROM reembolsos",
        "SELECT format('%s|%s|%s|%s|%s', transaction_id, account_id, trim_scale(amount), country, \
         event_time) FROM transactions WHERE kind = 'REFUND'",
    ),
    (
        "rachas",
        "SELECT format('%s|%s|%s', account_id, date_trunc('milliseconds', window_start), n) \
         FROM rachas",
        "SELECT format('%s|%s|%s', account_id, date_trunc('milliseconds', min(event_time)), count(*)) \
         FROM (SELECT account_id, event_time, sum(begins) OVER all_of AS session \
         FROM (SELECT account_id, event_time, CASE WHEN event_time - lag(event_time) \
         OVER (PARTITION BY account_id ORDER BY event_time) <= interval '1 hour' THEN 0 ELSE 1 END \
         AS begins FROM transactions WHERE kind = 'REFUND') AS refunds \
         WINDOW all_of AS (PARTITION BY account_id ORDER BY event_time)) AS sessions \
         GROUP BY account_id, session",
    ),
];

#[test]
fn a_users_queries_become_tables_that_postgresql_agrees_with() -> Result<()> {
    let Some(mut pipeline) = Pipeline::empty("user_queries")? else { return Ok(()) };
    pipeline.add_queries(EXAMPLES)?;
    pipeline.add_queries(QUERIES)?;
    let seed_of_queries = std::env::var("DRAW").map_or(Ok(20), |seed| seed.parse())?;
    let drawn = draw(seed_of_queries, DRAWN);
    println!("drawn: {DRAWN} statements of seed {seed_of_queries} (DRAW=n draws others)");
    let statements: Vec<&str> = drawn.iter().map(|drawn| drawn.statement.as_str()).collect();
    pipeline.add_queries(&statements.join("\n"))?;
    // The topics of an earlier run of these queries.
    pipeline.caudal(&["reset", "--yes"])?;
    let (records, seed) = ("40000", "17");
    let expectation = Expectation::of(records, seed)?;
    let mut processor = pipeline.start("caudal-processor", "processor", &[])?;
    let mut sink = pipeline.start("caudal-sink", "sink", &[])?;
    pipeline.run("caudal-producer", &["--generate", records, "--seed", seed], LIMIT)?;
    expectation.wait_stored(&pipeline, LIMIT)?;
    expectation.check(&pipeline)?;

    for (table, ours, theirs) in CHECKS {
        let rows = query::equal(&pipeline.database_url, ours, theirs, SOON).context(table)?;
        ensure!(rows > 0, "{table}: nothing was compared");
        println!("{table}: {rows} rows");
    }
    let mut rows = 0;
    for Drawn { name, statement, ours, theirs } in &drawn {
        let found = query::equal(&pipeline.database_url, ours, theirs, SOON);
        rows += found.with_context(|| statement.clone())?;
        println!("{name}: equal, {rows} rows so far");
    }
    ensure!(rows > 0, "no drawn statement has rows");
    let failed = topic::count(&pipeline.kafka, "inversos_errores")?;
    let zero = query::text(
        &pipeline.database_url,
        "SELECT count(*)::text FROM transactions WHERE source_seq % 10 = 0",
    )?;
    ensure!(failed.to_string() == zero, "{failed} records without a value, expected {zero}");
    let counted = "SELECT (SELECT count(*) FROM comercios_del_dia) || ' ' || \
                   (SELECT count(*) FROM viaje_imposible)";
    println!(
        "rows of comercios_del_dia and viaje_imposible: {}",
        query::text(&pipeline.database_url, counted)?
    );
    let sheet = pipeline.caudal(&["verify"])?;
    ensure!(sheet.contains("not computed again"), "{sheet}");
    ensure!(processor.terminate()?.success(), "log {}", processor.log.display());
    ensure!(sink.terminate()?.success(), "log {}", sink.log.display());
    add_a_query(pipeline)
}

/// A query that comes later sees what comes from then on, and the books still balance.
fn add_a_query(mut pipeline: Pipeline) -> Result<()> {
    pipeline.add_queries(
        "CREATE TABLE despues AS SELECT merchant_id, COUNT(*) AS n FROM transacciones_validas \
         WINDOW TUMBLING (SIZE 1 DAY) GROUP BY merchant_id EMIT CHANGES;",
    )?;
    // Within the sessions of those that were just stopped: the sink is then given topics anew only
    // as another member.
    let _processor = pipeline.start("caudal-processor", "processor", &[])?;
    let _sink = pipeline.start("caudal-sink", "sink", &[])?;
    let more = ["--generate", "5000", "--seed", "18", "--source", "mas"];
    pipeline.run("caudal-producer", &more, LIMIT)?;
    let url = &pipeline.database_url;
    let counted = "SELECT coalesce(sum(n), 0)::text FROM despues";
    wait_until("rows of the later query", Duration::from_secs(120), || {
        let there = "SELECT (to_regclass('despues') IS NOT NULL)::text";
        Ok(query::text(url, there)? == "true" && query::text(url, counted)? != "0")
    })?;
    pipeline.caudal(&["drained"])?;
    let later = "SELECT count(*)::text FROM transactions WHERE source = 'mas'";
    let (counted, later) = (query::text(url, counted)?, query::text(url, later)?);
    ensure!(counted == later, "the later query counts {counted} of {later} later records");
    let sheet = pipeline.caudal(&["verify"])?;
    ensure!(sheet.contains("despues"), "{sheet}");
    Ok(())
}
