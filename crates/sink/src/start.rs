//! What comes before the loop: configuration, tables, topics; then the writers, each with partitions,
//! a member of the group and a session of its own.

use crate::args::Args;
use crate::caught_up::CaughtUp;
use crate::claims::Claims;
use crate::config::Config;
use crate::learn::Learner;
use crate::metrics::Metrics;
use crate::outside::Outside;
use crate::run::{self, Bounds, GROUP, Parts};
use crate::store::Database;
use anyhow::{Context as _, anyhow};
use caudal_kafka::Kafka;
use caudal_kafka::admin::Admin;
use caudal_kafka::args::Isolation;
use caudal_kafka::consumer::{GroupConsumer, GroupProtocol, Membership, member_name};
use caudal_kafka::offsets::Offsets;
use caudal_query::plan::{Plan, SHIPPED};
use caudal_service::exit::Usage;
use caudal_service::http::{self, Readiness};
use caudal_service::instance::Instance;
use caudal_service::metrics::registry;
use caudal_service::queries;
use caudal_service::shutdown::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// Port of the metrics.
const PORT: u16 = 9403;
const BATCH_RECORDS: usize = 5000;
const LINGER: Duration = Duration::from_millis(50);
/// Most bytes in a batch: bounds memory and the length of a db_tx. Two batches are in memory, each as
/// records and as encoded rows.
const BATCH_BYTES: usize = 8 << 20;

/// Runs the sink until it is asked to stop, or has caught up.
///
/// # Errors
/// What the exit codes say: wrong arguments, a halt, or a failure that does not pass.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut config = Config::read(args.config.as_deref())?;
    let text = queries::text(args.queries.as_deref(), SHIPPED)?;
    config.add_queries(&Plan::compile_file(&text.name, &text.sql).map_err(Usage)?)?;
    let registry = registry("caudal-sink")?;
    let metrics = Metrics::register(&registry, &config)?;
    let readiness = Readiness::starting();
    let shutdown = Shutdown::listen()?;
    if let Some(address) = args.service.listen(PORT)? {
        http::serve(address, registry, readiness.clone())?;
    }
    let instance = Instance::acquire(GROUP, args.instance.as_deref(), &args.home)?;
    let name = format!("{GROUP}-{}", instance.name);
    let kafka = args.kafka.connect(&name)?;
    let mut outside = Outside { readiness, shutdown, metrics };

    let mut database = Database::new(&args.database_url)?;
    if !make_tables(&mut outside, &mut database, &mut config)? {
        return Ok(());
    }
    let offsets = Offsets::connect(&kafka, Isolation::ReadUncommitted, GROUP)?;
    if !find_topics(&mut outside, &kafka, &offsets, &config)? {
        return Ok(());
    }
    let writers = Writers { args, kafka: &kafka, config: &config, name: &name };
    let done = writers.run(&mut outside);
    drop(instance);
    done
}

struct Writers<'a> {
    args: &'a Args,
    kafka: &'a Kafka,
    config: &'a Config,
    name: &'a str,
}

impl Writers<'_> {
    /// Runs all of them to their end. One that fails has the others stop.
    fn run(&self, outside: &mut Outside) -> anyhow::Result<()> {
        let count = self.args.tasks_max.map_or(self.config.writers, usize::from);
        outside.readiness.not_ready("joining the group");
        let mut all = Vec::with_capacity(count);
        for number in 0..count {
            let Some(parts) = self.parts(number, outside)? else { return Ok(()) };
            let database = Database::new(&self.args.database_url)?;
            all.push((parts, database.stopping_at(self.config.dead_share)));
        }
        let bounds = self.bounds();
        tracing::info!(
            instance = self.name,
            writers = count,
            kafka = self.kafka.bootstrap_servers(),
            "started"
        );
        std::thread::scope(|scope| {
            let start = |(parts, database): (Parts, Database)| {
                let (readiness, shutdown) =
                    (parts.outside.readiness.clone(), parts.outside.shutdown.clone());
                scope.spawn(move || {
                    let done = run::run(parts, database, bounds);
                    match &done {
                        // What it had is somebody else's to show.
                        Ok(()) => readiness.ready(),
                        Err(_) => shutdown.ask(),
                    }
                    done
                })
            };
            let threads: Vec<_> = all.into_iter().map(start).collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a writer panicked"))));
            // All of them are waited for; the first failure is told.
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn parts(&self, number: usize, outside: &mut Outside) -> anyhow::Result<Option<Parts>> {
        let topics: Vec<Arc<str>> = self.config.routes.keys().map(Arc::clone).collect();
        let caught_up = match self.args.until_caught_up {
            true => match outside.patiently("Kafka", || CaughtUp::capture(self.kafka, &topics))? {
                None => return Ok(None),
                captured => captured,
            },
            false => None,
        };
        // The first has the name that a sink with one writer has.
        let name = match number {
            0 => self.name.to_owned(),
            _ => format!("{}-{number}", self.name),
        };
        let membership = Membership {
            group: GROUP.into(),
            instance: Some(member_name(&name, &self.config.further_topics())),
            topics: topics.clone(),
            protocol: GroupProtocol::Classic,
        };
        Ok(Some(Parts {
            consumer: GroupConsumer::join(self.kafka, &membership)?,
            claims: Claims::new(
                Offsets::connect(self.kafka, Isolation::ReadUncommitted, GROUP)?,
                &topics,
                self.args.accept_gap,
            ),
            learner: Learner::new(self.kafka),
            config: self.config.clone(),
            outside: Outside {
                readiness: outside.readiness.part(number),
                shutdown: outside.shutdown.clone(),
                metrics: outside.metrics.clone(),
            },
            caught_up,
        }))
    }

    fn bounds(&self) -> Bounds {
        let records = self.args.batch_records.and_then(|n| usize::try_from(n).ok());
        let linger = self.args.linger_ms.or(self.config.linger_ms);
        Bounds {
            records: records.or(self.config.batch_records).unwrap_or(BATCH_RECORDS),
            bytes: self.config.batch_bytes.unwrap_or(BATCH_BYTES),
            linger: linger.map_or(LINGER, Duration::from_millis),
        }
    }
}

/// False when asked to stop before.
fn make_tables(
    outside: &mut Outside,
    database: &mut Database,
    config: &mut Config,
) -> anyhow::Result<bool> {
    let applied = outside
        .patiently("PostgreSQL", || database.migrate())
        .context("cannot bring the tables up to date")?;
    let Some(applied) = applied else { return Ok(false) };
    applied.iter().for_each(|name| tracing::info!(name, "migration applied"));
    let made = outside
        .patiently("PostgreSQL", || database.create_tables(&mut config.routes))
        .context("cannot make the tables")?;
    let Some(made) = made else { return Ok(false) };
    made.iter().for_each(|what| tracing::info!("{what}"));
    Ok(true)
}

/// Every topic must be there. Those of queries are made by the processor, which may start a moment
/// later: they are waited for. False when asked to stop before.
fn find_topics(
    outside: &mut Outside,
    kafka: &Kafka,
    offsets: &Offsets,
    config: &Config,
) -> anyhow::Result<bool> {
    let admin = Admin::connect(kafka)?;
    let found = outside.patiently("Kafka", || {
        let found = admin.topics()?;
        match config.of_queries.iter().find(|topic| !found.contains_key(&***topic)) {
            Some(topic) => Err(caudal_kafka::Error {
                what: format!("topic {topic} of a query is not there yet"),
                cause: "caudal-processor makes it when it starts with the same --queries".into(),
                transient: true,
            }),
            None => Ok(()),
        }
    })?;
    if found.is_none() {
        return Ok(false);
    }
    let counted = outside.patiently("Kafka", || {
        config.routes.keys().try_for_each(|topic| offsets.partitions(topic).map(|_| ()))
    })?;
    Ok(counted.is_some())
}
