//! One process: what is checked before the start, and its engine threads.

use crate::args::{Adopt, Args, METRICS_PORT};
use crate::catch_up::CatchUp;
use crate::engine::{Engine, Options};
use crate::kafka_broker::{GROUP, KafkaBroker, Manner};
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::status::{Board, Status};
use crate::topics_check::check_topics;
use anyhow::{Context as _, Result, anyhow};
use caudal_core::schema::sorted_json;
use caudal_kafka::args::Kafka;
use caudal_kafka::consumer::Limits;
use caudal_kafka::schemas;
use caudal_kafka::txn::{Guarantee, TxnProducer};
use caudal_query::plan::{Plan, SHIPPED};
use caudal_service::exit::Usage;
use caudal_service::http::{Readiness, serve};
use caudal_service::instance::Instance;
use caudal_service::metrics::registry;
use caudal_service::queries;
use caudal_service::shutdown::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of input of one commit: with what they cause they stay below the producer's queue.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait for a first record.
const IDLE: Duration = Duration::from_millis(100);
/// How long to wait for brokers when schemas are published.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether everything is caught up.
const LOOK: Duration = Duration::from_millis(300);

/// Runs the queries of the file until it is asked to stop, or has caught up.
///
/// # Errors
/// What cannot be waited out: see the message.
pub fn run(args: &Args) -> Result<()> {
    let text = queries::text(args.queries.as_deref(), SHIPPED)?;
    let plans = Plan::compile_file(&text.name, &text.sql).map_err(Usage)?;
    run_plans(args, plans)
}

/// Runs these queries until it is asked to stop, or has caught up.
///
/// # Errors
/// What cannot be waited out: see the message.
pub fn run_plans(args: &Args, plans: Vec<Plan>) -> Result<()> {
    let shutdown = Shutdown::listen()?;
    let instance = Instance::acquire("caudal-processor", args.instance.as_deref(), &args.home)?;
    let name = instance.name.as_str();
    let kafka = args.kafka.connect(&format!("caudal-processor-{name}"))?;
    let registry = registry("caudal-processor")?;
    let metrics = Arc::new(Metrics::register(&registry)?);
    let readiness = Readiness::starting();
    if let Some(address) = args.service.listen(METRICS_PORT)? {
        serve(address, registry, readiness.clone())?;
    }
    tracing::info!(instance = name, brokers = kafka.bootstrap_servers(), "caudal-processor starts");
    let horizon = i64::from(args.dedup_horizon_s) * caudal_core::time::SECOND;
    check_distinct(&plans)?;
    let mut shared = Shared::new(plans, 1, horizon);
    check_topics(&kafka, &mut shared)?;
    publish_schemas(&kafka, &shared, name)?;
    shared.reset_queries.clone_from(&args.reset_query);
    shared.adopt_rules = args.adopt == Some(Adopt::Rules);
    let process = Process { args, kafka, shared: Arc::new(shared), metrics, shutdown, readiness };
    process.run(name)
}

/// Publishes the schemas of the queries' rows before the first row, so that others can read them.
fn publish_schemas(kafka: &Kafka, shared: &Shared, name: &str) -> Result<()> {
    let known = schemas::published(kafka, PATIENCE)?;
    let is_known = |id: u32| known.iter().any(|(known, _)| *known == id);
    let missing: Vec<_> = shared.all().filter(|query| !is_known(query.schema_id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let id = format!("{GROUP}-{name}-schemas");
    let guarantee = Guarantee::ExactlyOnceV2;
    let mut producer = TxnProducer::connect_with(kafka, &id, guarantee, None, PATIENCE)?;
    for query in missing {
        let text = sorted_json(&query.row_schema.to_json());
        let published = producer.commit(&mut schemas::publication(query.schema_id, &text), None);
        published.with_context(|| {
            format!("cannot publish the schema of query {}; start again", query.plan.name)
        })?;
        tracing::info!(query = query.plan.name, id = query.schema_id, "schema published");
    }
    Ok(())
}

/// Partials name a query by its definition, state by its name: each must be one query's.
fn check_distinct(plans: &[Plan]) -> Result<()> {
    for (i, plan) in plans.iter().enumerate() {
        let same =
            |other: &&Plan| other.name == plan.name || other.fingerprint() == plan.fingerprint();
        if let Some(other) = plans[..i].iter().find(same) {
            let what = format!(
                "queries {} and {} have the same name or the same definition; drop one of them",
                other.name, plan.name
            );
            return Err(Usage(what).into());
        }
    }
    Ok(())
}

struct Process<'a> {
    args: &'a Args,
    kafka: Kafka,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    readiness: Readiness,
}

impl Process<'_> {
    /// Runs the threads; the first that fails ends them all.
    fn run(&self, name: &str) -> Result<()> {
        let catch_up = match self.args.until_caught_up {
            true => Some(CatchUp::start(&self.kafka, &self.shared, Arc::clone(&self.metrics))?),
            false => None,
        };
        let threads = usize::from(self.args.threads);
        let limit = self.args.state_limit_mib * 1024 * 1024;
        let metrics = Arc::clone(&self.metrics);
        let board = Board::new(threads, self.readiness.clone(), metrics, limit);
        let done = std::thread::scope(|scope| {
            let engines: Vec<_> = (0..threads)
                .map(|thread| {
                    let (status, name) = (board.status(thread), format!("{name}-{thread}"));
                    std::thread::Builder::new().name(format!("engine-{thread}")).spawn_scoped(
                        scope,
                        move || {
                            let result = self.engine(&name, status);
                            self.shutdown.ask();
                            result
                        },
                    )
                })
                .collect::<std::io::Result<_>>()?;
            let watched = catch_up.map_or(Ok(()), |catch_up| self.watch(catch_up));
            if watched.is_err() {
                self.shutdown.ask();
            }
            let ended = engines.into_iter().map(|engine| {
                engine.join().unwrap_or_else(|_| Err(anyhow!("an engine thread panicked")))
            });
            let ended: Vec<Result<()>> = ended.collect();
            ended.into_iter().collect::<Result<()>>().and(watched)
        });
        done?;
        tracing::info!("stopped");
        Ok(())
    }

    fn engine(&self, name: &str, status: Status) -> Result<()> {
        let manner = Manner {
            guarantee: self.args.processing_guarantee,
            protocol: self.args.group_protocol,
            is_guest: false,
        };
        let broker = KafkaBroker::connect(&self.kafka, manner, &self.shared, name)?;
        let options = Options {
            limits: Limits {
                records: usize::try_from(self.args.batch_records)?,
                bytes: BATCH_BYTES,
                idle: IDLE,
            },
            interval: Duration::from_millis(self.args.commit_interval_ms),
            adopt: self.args.adopt,
        };
        let (shared, metrics) = (Arc::clone(&self.shared), Arc::clone(&self.metrics));
        let mut engine = Engine::new(broker, shared, options, metrics, status);
        // Nothing is open between steps: stopping is leaving the loop.
        while !self.shutdown.is_asked() {
            engine.step()?;
        }
        Ok(())
    }

    fn watch(&self, mut catch_up: CatchUp) -> Result<()> {
        while !self.shutdown.is_asked() {
            if catch_up.is_done()? {
                tracing::info!("caught up");
                self.shutdown.ask();
                break;
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::{shipped, shipped_one};

    #[test]
    fn two_queries_with_one_definition_are_refused() {
        check_distinct(&shipped()).unwrap();
        let mut copy = shipped_one("ventas_gold");
        copy.name = "copia".into();
        let both = [shipped_one("ventas_gold"), copy];
        let error = check_distinct(&both).unwrap_err().to_string();
        assert!(error.contains("ventas_gold and copia"), "{error}");
    }
}
