//! `caudal-bench sink`: what the sink's database transactions cost, against a raw server-side COPY
//! BINARY of the same rows into the same table.
//!
//! Both begin with an empty table and after a CHECKPOINT. The raw COPY is one statement that reads a
//! file on the server: no client, no offsets, no dead letters, no fencing. The sink's side is what
//! its process does with records that it has read: decode, check, encode, and one db_tx a batch with
//! positions and ledger. Kafka has no part in it. Runs are interleaved; medians of `RUNS`.

mod load;
mod ways;

use crate::bars::{self, Bar};
use crate::gauge;
use crate::results::{self, number};
use crate::samples::Samples;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use caudal_core::avro_schema::Type;
use caudal_core::decode::Record;
use caudal_e2e::query;
use caudal_kafka::TopicPartition;
use caudal_sink::batch::Batch;
use caudal_sink::columns::Shape;
use caudal_sink::config::Config;
use caudal_sink::generic::Unknown;
use caudal_sink::store::Database;
use caudal_stack::Stack;
use load::Case;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// What is measured of each case: rows a db_tx, and writers.
const WAYS: [(usize, i32); 4] = [(500, 1), (2_000, 1), (5_000, 1), (5_000, 2)];
const CASES: [(Case, &str); 3] =
    [(Case::Append, "append"), (Case::Generic, "generic"), (Case::Upsert, "upsert")];
const FIGURES: [&str; 4] =
    ["rows_per_second", "postgres_cpu_us_per_row", "own_cpu_us_per_row", "wal_bytes_per_row"];

type Records = Vec<(TopicPartition, Record)>;

struct Bench {
    stack: Stack,
    url: String,
    config: Config,
    rows: i64,
    /// File of a case's rows in COPY's binary format, on the server.
    files: BTreeMap<&'static str, String>,
}

/// Runs all of it.
///
/// # Errors
/// When PostgreSQL does not run, or a run stores other rows than it was given.
pub fn run() -> Result<()> {
    let (rows, runs) = (number("ROWS", 100_000)?, number("RUNS", 5)?);
    let mut bench = Bench::begin(i64::try_from(rows)?)?;
    println!("sink: {rows} rows a run, {runs} interleaved runs");
    bench.make_files()?;
    let mut samples = Samples::default();
    for run in 0..runs {
        for (case, name) in CASES {
            let mut add = |way: &str, sample: Json| {
                println!(
                    "  run {run} {way}: {:.0} rows/s",
                    sample["rows_per_second"].as_f64().unwrap_or(f64::NAN)
                );
                samples.add(way, sample);
            };
            add(&format!("{name} raw"), bench.raw(case, name)?);
            for (batch, writers) in WAYS {
                add(&way(name, batch, writers), bench.sink(case, batch, writers)?);
            }
        }
    }
    bench.empty(Case::Upsert)?;
    let ways = ways::compare(&bench.url, &bench.config)?;
    report(&samples, rows, runs, &ways)
}

fn way(name: &str, batch: usize, writers: i32) -> String {
    format!("{name} {batch} a db_tx, {writers} writers")
}

impl Bench {
    fn begin(rows: i64) -> Result<Bench> {
        let stack = Stack::open()?;
        // Tables are emptied: not a user's.
        let own = std::env::var_os("CAUDAL_TEST_HOME").map(PathBuf::from);
        ensure!(own.as_deref() == Some(stack.home()), "no stack of its own; run `make bench-sink`");
        let url = stack.database_url();
        caudal_sink::migrate(&url)?;
        let mut config = Config::read(None)?;
        config.routes.extend(Config::parse(load::FILE, "the benchmark's sink.toml")?.routes);
        let copia = config.routes.get_mut(Case::Generic.names().0).context("the generic topic")?;
        let Shape::Generic(generic) = &copia.shape else { bail!("it is not generic") };
        let schema = Unknown::Value(load::COPIA_ID);
        let of = Type::parse(load::COPIA).map_err(|e| anyhow!("{e}"))?;
        let layout = generic.layout(schema, &of).map_err(|e| anyhow!("{e}"))?;
        Database::new(&url)?.learn(copia, schema, layout)?;
        Ok(Bench { stack, url, config, rows, files: BTreeMap::new() })
    }

    /// Stores each case's rows once, and has the server write them to a file.
    fn make_files(&mut self) -> Result<()> {
        let folder = query::text(&self.url, "SELECT current_setting('data_directory')")?;
        for (case, name) in CASES {
            let distinct = if case == Case::Upsert { Case::Distinct } else { case };
            self.sink(distinct, 5_000, 1)?;
            let file = format!("{folder}/caudal_bench_{name}");
            let columns = self.columns(case);
            let table = case.names().1;
            let copy = format!("COPY \"{table}\" ({columns}) TO '{file}' (FORMAT binary)");
            query::execute(&self.url, &copy)?;
            self.files.insert(name, file);
        }
        Ok(())
    }

    /// The columns that the sink writes.
    fn columns(&self, case: Case) -> String {
        let columns = self.config.routes.get(case.names().0).map(|route| &route.table.columns);
        let quoted = columns.into_iter().flatten().map(|column| format!("\"{column}\""));
        quoted.collect::<Vec<_>>().join(", ")
    }

    fn empty(&self, case: Case) -> Result<()> {
        let table = case.names().1;
        let sql = format!("TRUNCATE \"{table}\", sink_offsets, dead_letters; CHECKPOINT");
        query::execute(&self.url, &sql)?;
        Ok(())
    }

    fn raw(&self, case: Case, name: &'static str) -> Result<Json> {
        let file = self.files.get(name).context("file")?;
        let (columns, table) = (self.columns(case), case.names().1);
        self.empty(case)?;
        let copy = format!("COPY \"{table}\" ({columns}) FROM '{file}' (FORMAT binary)");
        self.measured(self.rows, || query::execute(&self.url, &copy).map(|_| ()))
    }

    fn sink(&self, case: Case, batch: usize, writers: i32) -> Result<Json> {
        self.empty(case)?;
        let each = self.rows / i64::from(writers);
        let parts = (0..writers)
            .map(|partition| load::records(case, partition, i64::from(partition) * each, each))
            .collect::<Result<Vec<_>>>()?;
        let stored = each * i64::from(writers);
        let sample = self.measured(stored, || {
            std::thread::scope(|scope| {
                let writing = |part| scope.spawn(|| self.write(part, batch));
                let threads: Vec<_> = parts.into_iter().map(writing).collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().map_err(|_| anyhow!("a writer panicked"))?
                })
            })
        })?;
        let table = case.names().1;
        let found = query::text(&self.url, &format!("SELECT count(*)::text FROM \"{table}\""))?;
        let wanted = if case == Case::Upsert { stored / 2 } else { stored };
        ensure!(found == wanted.to_string(), "{table} has {found} rows, {wanted} were given");
        Ok(sample)
    }

    /// What a writer of the sink does with what it has read.
    fn write(&self, records: Records, batch: usize) -> Result<()> {
        let mut database = Database::new(&self.url)?;
        let Some((at, _)) = records.first().cloned() else { return Ok(()) };
        let position = database.claim(&at, None, Some(0))?.context("claim")?;
        let mut owned = BTreeMap::from([(at, position)]);
        let mut records = records.into_iter();
        let mut build = |owned: &BTreeMap<_, _>| {
            let gathered: Records = records.by_ref().take(batch).collect();
            Batch::build(gathered, owned, &self.config.routes)
        };
        let mut next = build(&owned)?;
        while !next.is_empty() {
            let after = next.leaves(&owned);
            let (stored, following) = database.store_while(&next, |_| (), || build(&after));
            owned.extend(stored.map_err(|e| anyhow!("{e:?}"))?.positions);
            next = following?;
            next.take_ledgers(&owned);
        }
        Ok(())
    }

    fn measured(&self, rows: i64, work: impl FnOnce() -> Result<()>) -> Result<Json> {
        let postmaster = self.stack.pid("postgres").context("PostgreSQL does not run")?;
        let own = std::process::id();
        let lsn = || query::text(&self.url, "SELECT pg_current_wal_lsn()::text");
        let (wal, server, mine) = (lsn()?, results::cpu_seconds(postmaster)?, gauge::cpu(own)?);
        let begun = Instant::now();
        work()?;
        let seconds = begun.elapsed().as_secs_f64();
        let (server, mine) = (results::cpu_seconds(postmaster)? - server, gauge::cpu(own)? - mine);
        let written = format!("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{wal}')::text");
        let bytes: f64 = query::text(&self.url, &written)?.parse()?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2⁵³")]
        let rows = rows as f64;
        Ok(json!({
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "postgres_cpu_us_per_row": server * 1e6 / rows,
            "own_cpu_us_per_row": mine * 1e6 / rows,
            "wal_bytes_per_row": bytes / rows,
            "load_average": gauge::load_average(),
        }))
    }
}

fn report(samples: &Samples, rows: u64, runs: u64, ways: &Json) -> Result<()> {
    let of = |way: &str, figure: &str| samples.median(way, figure);
    println!(
        "{:<34} {:>9} {:>7} {:>9} {:>9} {:>9}",
        "medians", "rows/s", "of raw", "pg µs/row", "own µs", "WAL B/row"
    );
    let mut ratios = BTreeMap::new();
    for way in samples.names() {
        let raw = format!("{} raw", way.split(' ').next().unwrap_or_default());
        let ratio = of(way, "rows_per_second") / of(&raw, "rows_per_second");
        let [rate, server, own, wal] = FIGURES.map(|figure| of(way, figure));
        println!("{way:<34} {rate:>9.0} {ratio:>7.2} {server:>9.2} {own:>9.2} {wal:>9.0}");
        ratios.insert(
            way.to_owned(),
            json!({
                "rows_per_second_of_raw": ratio,
                "postgres_cpu_of_raw": server / of(&raw, "postgres_cpu_us_per_row"),
                "wal_of_raw": wal / of(&raw, "wal_bytes_per_row"),
            }),
        );
    }
    let ratio =
        |way: &str, name: &str| ratios.get(way).and_then(|r| r[name].as_f64()).unwrap_or(f64::NAN);
    let rate = |name: &str, batch| ratio(&way(name, batch, 1), "rows_per_second_of_raw");
    let append = way("append", 5_000, 1);
    let all = [
        Bar::at_least("append of raw COPY, 2,000 rows a db_tx", rate("append", 2_000), 0.6),
        Bar::at_least("append of raw COPY, 5,000 rows a db_tx", rate("append", 5_000), 0.75),
        Bar::at_least("generic table of raw COPY, 5,000 rows a db_tx", rate("generic", 5_000), 0.5),
        Bar::at_least("upsert of raw COPY, 5,000 rows a db_tx", rate("upsert", 5_000), 0.35),
        Bar::at_most(
            "PostgreSQL's CPU per appended row, of raw COPY's",
            ratio(&append, "postgres_cpu_of_raw"),
            1.5,
        ),
        Bar::at_most(
            "the sink's own CPU, µs an appended row (without Kafka)",
            of(&append, "own_cpu_us_per_row"),
            4.0,
        ),
    ];
    bars::print(&all);
    let bars: Vec<Json> = all.iter().map(Bar::json).collect();
    results::write(
        "sink",
        &json!({
            "rows": rows, "runs": runs, "ratios": ratios, "bars": bars,
            "samples": samples.described(&FIGURES), "upsert_ways": ways,
        }),
    )
}
