//! A week in a minute: a topic of somebody else's, in Avro, with ten schema changes on the way, one
//! record in a hundred that is poison, of eight kinds, three crashes of the server and two of the
//! sink. `CAUDAL_WEEK_ROWS` records (60,000; `make chaos` sends 5,000,000).
#![allow(missing_docs)]

use anyhow::{Context as _, Result, ensure};
use caudal_core::avro::Writer;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_e2e::fault::{Moments, Work, kill_in_flight, signal, wait_until};
use caudal_e2e::flight::{database_time, open_db_tx};
use caudal_e2e::pipeline::{Pipeline, Service};
use caudal_e2e::query;
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::schemas::publication;
use caudal_kafka::txn::TxnProducer;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

const TOPIC: &str = "semana_pedidos";
const PARTITIONS: i64 = 6;
const LIMIT: Duration = Duration::from_secs(900);
/// Schema of version `v` is published under this and `v`.
const FIRST_ID: u32 = 700;
/// Versions, the first included.
const VERSIONS: i64 = 11;
const FILE: &str = "[topics.semana_pedidos]
auto.create = true
auto.evolve = true
pk.mode = \"record_value\"
pk.fields = [\"id\"]
";

/// The fields of each version: columns come, go and come back, change places, widen.
const FIELDS: [&str; 11] = [
    "id amount name",
    "id amount name note",
    "id amount name note kind_ab",
    "id amount note kind_ab",
    "id amount note kind_abc",
    "id amount note kind_abc n_int",
    "id amount note kind_abc n_long",
    "id amount note kind_abc n_long tags",
    "n_long kind_abc amount id note tags",
    "n_long kind_abc amount id note tags at",
    "id name amount note at",
];

fn schema(version: i64) -> String {
    let types = |field: &str| match field {
        "id" => ("id", "\"long\""),
        "amount" => (
            "amount",
            r#"{"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}"#,
        ),
        "name" => ("name", "\"string\""),
        "note" => ("note", r#"["null", "string"]"#),
        "kind_ab" => ("kind", r#"{"type": "enum", "name": "K", "symbols": ["A", "B"]}"#),
        "kind_abc" => ("kind", r#"{"type": "enum", "name": "K", "symbols": ["A", "C", "B"]}"#),
        "n_int" => ("n", "\"int\""),
        "n_long" => ("n", "\"long\""),
        "tags" => ("tags", r#"{"type": "map", "values": "string"}"#),
        _ => ("at", r#"["null", {"type": "long", "logicalType": "timestamp-micros"}]"#),
    };
    let fields: Vec<String> = fields(version)
        .map(types)
        .map(|(name, of)| format!(r#"{{"name": "{name}", "type": {of}}}"#))
        .collect();
    let fields = fields.join(", ");
    format!(r#"{{"type": "record", "name": "Pedido", "fields": [{fields}]}}"#)
}

fn fields(version: i64) -> impl Iterator<Item = &'static str> {
    FIELDS[usize::try_from(version).unwrap_or(0)].split(' ')
}

fn id_of(version: i64) -> u32 {
    FIRST_ID + u32::try_from(version).unwrap_or(0)
}

/// What is sent, and what must come of it.
struct Week {
    rows: i64,
}

/// Kinds of poison.
const KINDS: i64 = 8;

impl Week {
    fn version(&self, i: i64) -> i64 {
        i * VERSIONS / self.rows
    }

    fn amount(i: i64) -> i64 {
        (i * 7_919) % 100_000 - 20_000
    }

    /// The kind of poison of a record, where it is one.
    fn poison(i: i64) -> Option<i64> {
        (i % 100 == 50).then_some((i / 100) % KINDS)
    }

    fn partition(i: i64) -> i32 {
        // A conflict must come after the row that it is in conflict with.
        let i = if Week::poison(i) == Some(6) { i - 1 } else { i };
        i32::try_from(i % PARTITIONS).unwrap_or(0)
    }

    fn value(&self, i: i64, id: i64, amount: i64, note: &str) -> Vec<u8> {
        let version = self.version(i);
        let mut out = Writer::framed(id_of(version));
        for field in fields(version) {
            match field {
                "id" => out.long(id),
                "amount" => out.decimal(i128::from(amount)),
                // Version 0 has no note, so its name carries the poison.
                "name" => out.string(if version == 0 { note } else { "n" }),
                "note" => out.optional_string((i % 3 > 0).then_some(note)),
                "kind_ab" => out.long(i % 2),
                "kind_abc" => out.long(i % 3),
                "n_int" => out.long(i % 1_000),
                "n_long" => out.long(i + (1 << 20)),
                "tags" => {
                    out.long(1);
                    out.string("k");
                    out.string("v");
                    out.long(0);
                }
                _ => {
                    out.long(1);
                    out.long(1_700_000_000_000_000 + i);
                }
            }
        }
        out.into_bytes()
    }

    fn record(&self, i: i64) -> OutRecord {
        let good = || self.value(i, i, Week::amount(i), "x");
        let value = match Week::poison(i) {
            None => Some(good()),
            Some(0) => Some(Writer::framed(1).into_bytes()),
            Some(1) => Some(b"{\"id\": 7}".to_vec()),
            Some(2) => good().get(..7).map(<[u8]>::to_vec),
            Some(3) => Some([good().as_slice(), &[7]].concat()),
            Some(4) => None,
            // i % 3 may leave the note out: then it is a row like any other.
            Some(5) => Some(self.value(i, i, Week::amount(i), "a\0b")),
            Some(6) => Some(self.value(i, i - 1, Week::amount(i - 1) + 1, "x")),
            // Refused by a constraint of the table's.
            Some(_) => Some(self.value(i, i, FORBIDDEN, "x")),
        };
        OutRecord {
            topic: Arc::from(TOPIC),
            partition: Week::partition(i),
            key: Some(i.to_string().into_bytes()),
            value,
            origin: None,
            headers: Vec::new(),
        }
    }

    /// Whether a record must become a row.
    fn is_row(&self, i: i64) -> bool {
        match Week::poison(i) {
            None => true,
            Some(5) => self.version(i) > 0 && i % 3 == 0,
            Some(_) => false,
        }
    }

    fn reason(&self, i: i64) -> Option<&'static str> {
        let kind = Week::poison(i).filter(|_| !self.is_row(i))?;
        Some(match kind {
            0 => "schema",
            1..=3 => "malformed",
            4 => "null_value",
            6 => "conflict",
            _ => "constraint",
        })
    }

    /// Sends the records of that range, in txns.
    fn send(&self, producer: &mut TxnProducer, range: std::ops::Range<i64>) -> Result<()> {
        let all: Vec<i64> = range.collect();
        for chunk in all.chunks(20_000) {
            let records = chunk.iter().map(|i| self.record(*i)).collect();
            producer.commit(&mut Outbox { records, positions: Vec::new() }, None)?;
        }
        Ok(())
    }

    /// Rows, their money, and the rows that have each column that comes and goes.
    fn expected(&self) -> String {
        let rows: Vec<i64> = (0..self.rows).filter(|i| self.is_row(*i)).collect();
        let having = |field: &str| {
            rows.iter().filter(|i| fields(self.version(**i)).any(|f| f.starts_with(field))).count()
        };
        let cents: i64 = rows.iter().map(|i| Week::amount(*i)).sum();
        let n = |i: &i64| match fields(self.version(*i)).find(|f| f.starts_with("n_")) {
            Some("n_int") => i % 1_000,
            Some(_) => i + (1 << 20),
            None => 0,
        };
        let sum_n: i64 = rows.iter().map(n).sum();
        let notes = rows
            .iter()
            .filter(|i| *i % 3 > 0 && fields(self.version(**i)).any(|f| f == "note"))
            .count();
        format!(
            "{}|{cents}|{}|{notes}|{}|{sum_n}|{}|{}",
            rows.len(),
            having("name"),
            having("kind"),
            having("tags"),
            having("at"),
        )
    }

    fn dead(&self) -> String {
        let mut by_reason: BTreeMap<&str, u64> = BTreeMap::new();
        (0..self.rows)
            .filter_map(|i| self.reason(i))
            .for_each(|reason| *by_reason.entry(reason).or_default() += 1);
        by_reason.iter().fold(String::new(), |mut text, (reason, count)| {
            // Writing to a String cannot fail.
            write!(text, "{reason} {count} ").ok();
            text
        })
    }
}

/// Hundredths that the table's constraint refuses.
const FORBIDDEN: i64 = 99_999_999;

const FOUND: &str =
    "SELECT format('%s|%s|%s|%s|%s|%s|%s|%s', count(*), (sum(amount) * 100)::bigint,
    count(name), count(note), count(kind), sum(n), count(tags), count(at)) FROM semana_pedidos";
const DEAD: &str =
    "SELECT coalesce(string_agg(format('%s %s ', reason, n), '' ORDER BY reason), '')
    FROM (SELECT reason, count(*) AS n FROM dead_letters WHERE topic = 'semana_pedidos'
    GROUP BY reason) AS r";

#[test]
fn a_week_of_changes_and_crashes_is_exactly_once() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("week")? else { return Ok(()) };
    let rows = std::env::var("CAUDAL_WEEK_ROWS").map_or(Ok(60_000), |text| text.parse())?;
    let (week, url) = (Week { rows }, &pipeline.database_url);
    query::execute(url, "DROP TABLE IF EXISTS semana_pedidos")?;
    let admin = Admin::connect(&pipeline.kafka)?;
    ensure!(!admin.topics()?.contains_key(TOPIC), "topic {TOPIC} of an earlier run is there");
    admin.create(&Topic {
        name: TOPIC.into(),
        partitions: i32::try_from(PARTITIONS)?,
        replication: 3,
        config: BTreeMap::new(),
    })?;
    let mut producer =
        TxnProducer::connect(&pipeline.kafka, "semana", None, Duration::from_secs(60))?;
    for version in 0..VERSIONS {
        producer.commit(&mut publication(id_of(version), &schema(version)), None)?;
    }
    let file = pipeline.logs.join("sink.toml");
    std::fs::write(&file, FILE)?;
    let file = file.display().to_string();
    let args = ["--config", &file, "--batch-records", "1000", "--tasks-max", "2"];
    let mut since = database_time(url)?;
    let mut sink = pipeline.start("caudal-sink", "sink", &args)?;

    let quarter = rows / 6;
    week.send(&mut producer, 0..40)?;
    let is_there = "SELECT (to_regclass('semana_pedidos') IS NOT NULL)::text";
    wait_until("the table", LIMIT, || Ok(query::text(url, is_there)? == "true"))?;
    let forbid = format!(
        "ALTER TABLE semana_pedidos ADD CONSTRAINT allowed CHECK (amount <> {FORBIDDEN} * 0.01)"
    );
    query::execute(url, &forbid)?;
    let mut moments = Moments::seeded();
    let mut sent = 40;
    for step in 1..=6 {
        let until = if step == 6 { rows } else { step * quarter };
        week.send(&mut producer, sent..until)?;
        sent = until;
        match step {
            1 | 3 | 5 => {
                let open = crash_in_flight(&pipeline, &sink, &since, &mut moments)?;
                println!("the server crashed with work in flight: {open}");
            }
            2 | 4 => {
                kill_in_flight(&mut sink, &Work::DbTx(url, since), &mut moments)?;
                since = database_time(url)?;
                sink = pipeline.start("caudal-sink", "sink", &args)?;
            }
            _ => {}
        }
    }
    wait_until("every record", LIMIT, || Ok(stored(url)? == rows))?;
    println!("the last sink took at most {} MiB", peak_memory(sink.pid())? >> 20);
    let (found, expected) = (query::text(url, FOUND)?, week.expected());
    ensure!(found == expected, "found    {found}\nexpected {expected}");
    let (found, expected) = (query::text(url, DEAD)?, week.dead());
    ensure!(found == expected, "found    {found}\nexpected {expected}");
    println!("{} of {rows} records are rows; dead letters: {found}", week.expected());
    redriven(&pipeline, &week, &file)?;
    verify_sees_everything(&pipeline, &file)?;
    ensure!(sink.terminate()?.success(), "log {}", sink.log.display());
    query::execute(url, "DROP TABLE semana_pedidos")?;
    Ok(admin.delete(&[TOPIC])?)
}

/// What a constraint refused is stored once that is gone, and nothing else.
fn redriven(pipeline: &Pipeline, week: &Week, file: &str) -> Result<()> {
    let url = &pipeline.database_url;
    let rows = || query::text(url, "SELECT count(*)::text FROM semana_pedidos");
    let before: usize = rows()?.parse()?;
    query::execute(url, "ALTER TABLE semana_pedidos DROP CONSTRAINT allowed")?;
    let args = ["--topic", TOPIC, "--reason", "constraint", "--config", file];
    let done = pipeline.command("caudal")?.args(["dlq", "redrive"]).args(args).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let forbidden = (0..week.rows).filter(|i| Week::poison(*i) == Some(7)).count();
    let found = rows()?;
    ensure!(found == (before + forbidden).to_string(), "{found} rows of {before} + {forbidden}");
    Ok(())
}

/// That verify compares every row with its record, and names rows that were lost, altered or added.
fn verify_sees_everything(pipeline: &Pipeline, file: &str) -> Result<()> {
    let url = &pipeline.database_url;
    let verdict = || pipeline.verify_with(&["--config", file]);
    let sheet = verdict()?;
    ensure!(sheet["balanced"] == true, "not balanced: {sheet:#}");
    let rows = query::text(url, "SELECT count(*)::text FROM semana_pedidos")?;
    let notes = sheet["notes"].to_string().replace(',', "");
    let compared = format!("table semana_pedidos: {rows} rows compared with their records");
    ensure!(notes.contains(&compared), "{compared:?} is not said: {notes}");
    let damages = [
        (
            "DELETE FROM semana_pedidos WHERE id = 1",
            "semana_pedidos lacks the row of semana_pedidos-1@",
        ),
        (
            "UPDATE semana_pedidos SET amount = amount + 0.01 WHERE id = 2",
            "the row of id 2 is not what",
        ),
        (
            "INSERT INTO semana_pedidos (id, amount) VALUES (-7, 0)",
            "has 1 rows of which no record is known",
        ),
        (
            "DELETE FROM dead_letters WHERE ctid = (SELECT ctid FROM dead_letters
                WHERE topic = 'semana_pedidos' AND reason = 'schema' LIMIT 1)",
            "dead letters, there are",
        ),
    ];
    damages.iter().try_for_each(|(damage, _)| query::execute(url, damage).map(|_| ()))?;
    let differences = verdict()?["differences"].to_string();
    for (damage, text) in damages {
        ensure!(differences.contains(text), "{damage}: {text:?} is not said: {differences}");
    }
    Ok(())
}

/// Has the server crash at a moment at which the sink has a db_tx open, and gives that: the sink is
/// frozen at random moments until it has.
fn crash_in_flight(
    pipeline: &Pipeline,
    sink: &Service,
    since: &str,
    moments: &mut Moments,
) -> Result<String> {
    for _ in 0..400 {
        signal(sink.pid(), "STOP")?;
        let open = open_db_tx(&pipeline.database_url, since);
        let crashed = match &open {
            Ok(Some(_)) => pipeline
                .stack
                .stop_postgres_immediate()
                .and_then(|()| pipeline.stack.start("postgres")),
            _ => Ok(()),
        };
        signal(sink.pid(), "CONT")?;
        crashed?;
        if let Some(open) = open? {
            return Ok(open);
        }
        moments.wait(Duration::from_millis(50));
    }
    anyhow::bail!("no db_tx was open at 400 moments: the crash would hit nothing")
}

/// The most memory that a process had, in bytes.
fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Records whose fate is stored.
fn stored(url: &str) -> Result<i64> {
    let sql = "SELECT coalesce(sum(rows + duplicates + conflicts + dead + deleted), 0)::text
               FROM sink_offsets WHERE topic = 'semana_pedidos'";
    // The server may be starting after its crash.
    Ok(query::text(url, sql).ok().and_then(|text| text.parse().ok()).unwrap_or(-1))
}
