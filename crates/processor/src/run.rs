//! The loop: gather, follow, process, commit.
//!
//! ```text
//! until shutdown:
//!     batch  = consumer.gather(limits)      // rebalances happen only here
//!     follow(changes)                       // drop revoked, restore assigned, in slices
//!     outbox = tasks.process(batch)         // pure
//!     commit(outbox)                        // one txn: outputs, state blocks, then positions
//!     on abort or doubt: drop every task, restore from the log
//! ```
//!
//! No txn and no uncommitted output exists while gathering, so a revoked partition needs no
//! draining: what was not committed is read again by its next owner.

use crate::args::{Args, METRICS_PORT};
use crate::catch_up::CatchUp;
use crate::engine::{Shared, Stage, TaskError, TaskId};
use crate::metrics::Metrics;
use crate::restore::{Restore, Restored};
use crate::tasks::Tasks;
use anyhow::{Context as _, Result};
use caudal_core::outbox::Outbox;
use caudal_core::topics;
use caudal_kafka::args::Kafka;
use caudal_kafka::consumer::{Batch, Change, GroupConsumer, Limits, Membership};
use caudal_kafka::txn::{GroupSnapshot, TxnError, TxnProducer};
use caudal_kafka::{TopicPartition, admin};
use caudal_service::exit::{Halt, Usage};
use caudal_service::http::{Readiness, serve};
use caudal_service::instance::Instance;
use caudal_service::metrics::registry;
use caudal_service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Consumer group of every instance.
pub const GROUP: &str = "caudal-processor";
/// How long to wait for brokers at start and after a doubt before giving up (a supervisor then
/// restarts the process).
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait for a topic that is missing.
const TOPICS_PATIENCE: Duration = Duration::from_secs(10);
/// How long restoring may hold up a poll.
const RESTORE_SLICE: Duration = Duration::from_millis(200);
/// Bytes of input of one commit: with what they cause they stay below the producer's queue.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Runs until it is asked to stop, or has caught up.
///
/// # Errors
/// What cannot be waited out: see the message.
pub fn run(args: &Args) -> Result<()> {
    let shutdown = Shutdown::listen()?;
    let instance = Instance::acquire("caudal-processor", args.instance.as_deref(), &args.home)?;
    let name = instance.name.as_str();
    let kafka = args.kafka.connect(&format!("caudal-processor-{name}"))?;
    let registry = registry("caudal-processor")?;
    let metrics = Metrics::register(&registry)?;
    let readiness = Readiness::starting();
    if let Some(address) = args.service.listen(METRICS_PORT)? {
        serve(address, registry, readiness.clone())?;
    }
    tracing::info!(instance = name, brokers = kafka.bootstrap_servers(), "caudal-processor starts");
    let partitions = check_topics(&kafka)?;
    let horizon = i64::from(args.dedup_horizon_s) * caudal_core::time::SECOND;
    let shared = Arc::new(Shared::new(caudal_query::plan::shipped(), partitions, horizon));
    let mut engine = Engine::start(args, &kafka, shared, metrics, readiness, name)?;
    engine.run(&shutdown)
}

/// Every topic must be there, with as many partitions as its keys need. A topic that was made a
/// moment ago may not have reached every broker: it is waited for.
fn check_topics(kafka: &Kafka) -> Result<i32> {
    let until = Instant::now() + TOPICS_PATIENCE;
    loop {
        match partition_count(&wait_for_topics(kafka)?) {
            Err(error) if Instant::now() < until => {
                tracing::debug!(%error, "topics");
                std::thread::sleep(Duration::from_millis(500));
            }
            other => return other,
        }
    }
}

fn partition_count(found: &BTreeMap<String, admin::Topic>) -> Result<i32> {
    let partitions = |topic: &str| {
        found.get(topic).map(|t| t.partitions).ok_or_else(|| {
            Usage(format!(
                "topic {topic} does not exist; create the topics with `caudal topics apply`"
            ))
        })
    };
    let expected = partitions(topics::TRANSACCIONES)?;
    let same = [
        topics::PARCIALES,
        topics::ESTADO,
        topics::VALIDAS,
        topics::VENTAS_GOLD,
        topics::ALERTAS_FRAUDE,
        topics::DLQ,
        "ventas_gold_tardias",
    ];
    for topic in same {
        let count = partitions(topic)?;
        if count != expected {
            let what = format!(
                "topic {topic} has {count} partitions, transacciones has {expected}; they must be equal"
            );
            return Err(Usage(what).into());
        }
    }
    Ok(expected)
}

fn wait_for_topics(kafka: &Kafka) -> Result<BTreeMap<String, admin::Topic>> {
    let admin = admin::Admin::connect(kafka)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match admin.topics() {
            Err(error) if error.transient && Instant::now() < until => {
                tracing::warn!(%error, "waiting for the brokers");
            }
            other => {
                return other
                    .with_context(|| format!("is Kafka up at {}?", kafka.bootstrap_servers()));
            }
        }
    }
}

struct Engine {
    shared: Arc<Shared>,
    consumer: GroupConsumer,
    producer: TxnProducer,
    tasks: Tasks,
    restore: Restore,
    /// Restored, but its partition refused to seek yet.
    starting: Vec<Restored>,
    metrics: Metrics,
    readiness: Readiness,
    limits: Limits,
    interval: Duration,
    catch_up: Option<CatchUp>,
    rerouted: u64,
}

impl Engine {
    fn start(
        args: &Args,
        kafka: &Kafka,
        shared: Arc<Shared>,
        metrics: Metrics,
        readiness: Readiness,
        name: &str,
    ) -> Result<Engine> {
        // First of all end what a predecessor of this name left open: its offsets and blocks are
        // then stable, and nobody waits for its time-out.
        let producer = TxnProducer::connect(kafka, &format!("{GROUP}-{name}-0"), None, PATIENCE)?;
        let catch_up = match args.until_caught_up {
            true => Some(CatchUp::start(kafka, shared.partitions)?),
            false => None,
        };
        let membership = Membership {
            group: GROUP.to_owned(),
            instance: format!("{GROUP}-{name}-0"),
            topics: vec![Arc::clone(&shared.input_topic), Arc::clone(&shared.partials_topic)],
        };
        Ok(Engine {
            consumer: GroupConsumer::join(kafka, &membership)?,
            restore: Restore::new(kafka, Arc::clone(&shared), args.adopt)?,
            producer,
            shared,
            tasks: Tasks::default(),
            starting: Vec::new(),
            metrics,
            readiness,
            limits: Limits {
                records: usize::try_from(args.batch_records)?,
                bytes: BATCH_BYTES,
                idle: Duration::from_millis(100),
            },
            interval: Duration::from_millis(args.commit_interval_ms),
            catch_up,
            rerouted: 0,
        })
    }

    fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        let mut last_commit = Instant::now();
        while !shutdown.is_asked() {
            let restoring = !self.restore.is_empty() || !self.starting.is_empty();
            let limits = Limits {
                idle: if restoring { Duration::from_millis(1) } else { self.limits.idle },
                ..self.limits
            };
            let batch = self.consumer.gather(&limits, last_commit + self.interval)?;
            self.follow(&batch)?;
            self.restore_slice()?;
            self.show_state();
            if batch.records.is_empty() {
                if self.has_caught_up()? {
                    tracing::info!("caught up");
                    return Ok(());
                }
                continue;
            }
            last_commit = Instant::now();
            self.process(&batch)?;
        }
        // Nothing is open between batches: stopping is leaving the loop.
        tracing::info!("stopped");
        Ok(())
    }

    fn follow(&mut self, batch: &Batch) -> Result<()> {
        for change in &batch.changes {
            self.metrics.rebalances.inc();
            match change {
                Change::Assigned(partitions) => {
                    tracing::info!(partitions = %names(partitions), "assigned");
                    ids(partitions).for_each(|id| self.restore.add(id));
                }
                Change::Revoked(partitions) | Change::Lost(partitions) => {
                    tracing::info!(partitions = %names(partitions), "revoked");
                    for id in ids(partitions) {
                        self.tasks.remove(id);
                        self.restore.remove(id)?;
                        self.starting.retain(|restored| restored.id != id);
                    }
                }
            }
        }
        Ok(())
    }

    fn restore_slice(&mut self) -> Result<()> {
        if !self.restore.is_empty() {
            self.starting.extend(self.restore.step(&self.consumer, RESTORE_SLICE)?);
        }
        for restored in std::mem::take(&mut self.starting) {
            let partition = (Arc::from(restored.id.stage.input()), restored.id.partition);
            match self.consumer.start(&partition, restored.task.next_offset()) {
                Ok(()) => {
                    self.metrics.restore_duration.observe(restored.took.as_secs_f64());
                    self.tasks.insert(restored.id, restored.task);
                }
                Err(error) => {
                    tracing::debug!(%error, "not ready to start");
                    self.starting.push(restored);
                }
            }
        }
        Ok(())
    }

    fn show_state(&self) {
        let restoring = self.restore.len() + self.starting.len();
        self.metrics.tasks(self.tasks.len(), restoring);
        if restoring > 0 {
            self.readiness.not_ready(format!("restoring {restoring} tasks"));
        } else if self.tasks.is_empty() {
            self.readiness.not_ready("no partition is assigned");
        } else {
            self.readiness.ready();
        }
    }

    fn process(&mut self, batch: &Batch) -> Result<()> {
        // The membership of this batch: taken after every rebalance callback was served.
        let group = GroupSnapshot::take(&self.consumer);
        let begun = Instant::now();
        let outbox = self.tasks.process(&batch.records).map_err(|e| match e {
            TaskError::Overflow { .. } | TaskError::Broken { .. } => Halt(e.to_string()),
        })?;
        self.metrics.process_duration.observe(begun.elapsed().as_secs_f64());
        if outbox.positions.is_empty() {
            return Ok(());
        }
        let Some(group) = group else {
            tracing::warn!("the assignment was lost; the batch is dropped");
            return self.reset();
        };
        self.commit(&outbox, &group)
    }

    fn commit(&mut self, outbox: &Outbox, group: &GroupSnapshot) -> Result<()> {
        let begun = Instant::now();
        let result = self.producer.commit(outbox, Some(group));
        match result {
            Ok(_) => {
                self.metrics.commit_duration.observe(begun.elapsed().as_secs_f64());
                self.metrics.transaction("committed");
                self.metrics.outputs.inc_by(outbox.records.len() as u64);
                let touched: BTreeSet<_> =
                    outbox.records.iter().map(|r| (&r.topic, r.partition)).collect();
                self.metrics.partitions_touched.set(i64::try_from(touched.len()).unwrap_or(0));
                let input = &self.shared.input_topic;
                self.rerouted += outbox.records.iter().filter(|r| r.topic == *input).count() as u64;
                self.tasks.count(&self.metrics);
                Ok(())
            }
            Err(TxnError::Aborted(cause)) => {
                tracing::warn!(cause, "transaction aborted; reading the batch again");
                self.metrics.transaction("aborted");
                self.reset()
            }
            Err(TxnError::Doubt(cause)) => {
                tracing::warn!(cause, "transaction in doubt; new producer, state from the log");
                self.metrics.transaction("doubtful");
                self.readiness.not_ready("replacing the producer");
                self.producer.replace(PATIENCE)?;
                self.reset()
            }
            Err(fenced @ TxnError::Fenced(_)) => Err(fenced)
                .context("another process runs as this instance; give each its own --instance"),
        }
    }

    /// Drops every task and restores it from the log: what the aborted batch did is gone with it,
    /// and after a doubt the log says whether the batch was committed.
    fn reset(&mut self) -> Result<()> {
        let ids = self.tasks.reset();
        let partitions: Vec<TopicPartition> =
            ids.iter().map(|id| (Arc::from(id.stage.input()), id.partition)).collect();
        if !partitions.is_empty() {
            self.consumer.pause(&partitions)?;
        }
        ids.into_iter().for_each(|id| self.restore.add(id));
        Ok(())
    }

    fn has_caught_up(&mut self) -> Result<bool> {
        let busy = !self.restore.is_empty() || !self.starting.is_empty() || self.tasks.is_empty();
        let Some(catch_up) = self.catch_up.as_mut().filter(|_| !busy) else { return Ok(false) };
        let positions: BTreeMap<TaskId, i64> = self.tasks.positions().collect();
        catch_up.is_done(&positions, self.rerouted, self.shared.partitions)
    }
}

fn ids(partitions: &[TopicPartition]) -> impl Iterator<Item = TaskId> + '_ {
    partitions.iter().map(|(topic, partition)| {
        let account = topic.as_ref() == Stage::Account.input();
        let stage = if account { Stage::Account } else { Stage::Group };
        TaskId { stage, partition: *partition }
    })
}

fn names(partitions: &[TopicPartition]) -> String {
    let names: Vec<String> = partitions.iter().map(|(t, p)| format!("{t}-{p}")).collect();
    names.join(" ")
}
