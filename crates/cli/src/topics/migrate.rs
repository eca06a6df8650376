//! `caudal topics migrate`: more partitions, with the state moved after its keys.
//!
//! In this order, and so that a run that was killed anywhere is completed by the next one:
//! 1. nobody is in the way: the groups have no members, and we are the processor group's only one;
//! 2. nothing is on its way: partials are merged and outputs stored, because a key's old and new
//!    partition are read in no order;
//! 3. the topics grow, the state log first and the input last: between the two the processor refuses
//!    to start;
//! 4. every task is read, and all new ones are written in one txn.

use crate::deployment::Deployment;
use crate::drained;
use crate::verify::grouped;
use anyhow::{Context as _, Result, bail};
use caudal_core::time::SECOND;
use caudal_core::topics;
use caudal_kafka::Kafka;
use caudal_kafka::admin::Admin;
use caudal_kafka::args::Isolation;
use caudal_kafka::consumer::GroupProtocol;
use caudal_kafka::offsets::Offsets;
use caudal_kafka::txn::Guarantee;
use caudal_processor::kafka_broker::{GROUP, KafkaBroker, Manner};
use caudal_processor::migrate::run::{Mover, NAME, heads};
use caudal_processor::migrate::{Moved, Widening};
use caudal_processor::shared::Shared;
use caudal_processor::topics_check::{partitioned, take_partitions};
use caudal_query::plan::Plan;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

/// `client.id`.
const CLIENT: &str = "caudal-migrate";
/// A member that was killed, or is static and has left, is listed until its session is over (6 s).
const LEAVING: Duration = Duration::from_secs(8);
/// How long brokers may take to hear of new partitions.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often in a row new partitions must be seen: each look may ask another broker.
const LOOKS: usize = 5;

/// Arguments of `caudal topics migrate`.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// How many partitions the topics shall have; more than now
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(2..=4096))]
    partitions: i32,
    #[command(flatten)]
    deployment: Deployment,
}

/// Runs the command.
///
/// # Errors
/// What is in the way, with what to do. Run again, it goes on where it was.
pub async fn run(args: &MigrateArgs) -> Result<()> {
    let deployment = &args.deployment;
    let kafka = deployment.kafka(CLIENT)?;
    let (database_url, plans) = (deployment.database_url()?, deployment.plans()?);
    let horizon = deployment.horizon();
    let job = block_in_place(|| Job::look(&kafka, args.partitions, horizon, &plans))?;
    let Some(job) = job else {
        println!("nothing to do: the topics and the state have {} partitions", args.partitions);
        return Ok(());
    };
    let mut mover = block_in_place(|| job.be_alone())?;
    let behind = drained::behind(&kafka, &database_url, job.widening.from, !job.is_begun());
    if let Some(topic) = behind.await? {
        bail!(
            "{topic} is not processed or not stored to its end. Start the processor and the sink \
             (`caudal services up`), wait (`caudal drained`), stop them (`caudal services down`), \
             and run this again"
        );
    }
    println!("nothing is on its way: all is processed and stored");
    block_in_place(|| job.grow_and_move(&mut mover))
}

/// What is to be done.
struct Job<'k> {
    kafka: &'k Kafka,
    widening: Widening,
    /// How many partitions each topic has now, in the order in which they grow.
    topics: Vec<(Arc<str>, i32)>,
    /// As the state is.
    old: Arc<Shared>,
    /// As it shall be.
    new: Arc<Shared>,
}

impl<'k> Job<'k> {
    /// Compares topics and state with what is wanted. `None`: it is so already.
    fn look(kafka: &'k Kafka, to: i32, horizon: i64, plans: &[Plan]) -> Result<Option<Job<'k>>> {
        let found = Admin::connect(kafka)?.topics()?;
        let shared = |partitions| -> Result<Arc<Shared>> {
            let mut shared = Shared::new(plans.to_vec(), partitions, horizon);
            // What stage 2 knows of their times is moved by partition.
            take_partitions(&found, &mut shared)?;
            Ok(Arc::new(shared))
        };
        let new = shared(to)?;
        let count = |topic: &Arc<str>| {
            let count = found.get(&**topic).map(|found| found.partitions);
            let count = count.with_context(|| {
                format!(
                    "topic {topic} does not exist; `caudal topics apply` creates the product's, and \
                     caudal-processor those of its queries"
                )
            })?;
            Ok((Arc::clone(topic), count))
        };
        let topics = partitioned(&new).into_iter().map(count).collect::<Result<Vec<_>>>()?;
        let of = |name: &str| topics.iter().find(|(topic, _)| **topic == *name).map_or(0, |t| t.1);
        let heads = heads(kafka, &new, of(topics::ESTADO))?;
        let mut counts: Vec<i32> = heads.last().values().map(|head| head.partitions).collect();
        counts.sort_unstable();
        counts.dedup();
        let from = match counts[..] {
            // Nothing was ever processed.
            [] => of(topics::TRANSACCIONES),
            [from] => from,
            _ => bail!(
                "the tasks' state was made with {counts:?} partitions: a processor ran while the \
                 topics grew. Nothing is changed; start over: `caudal reset`, then send the sources \
                 again"
            ),
        };
        let has_grown = heads.last().values().any(|head| !head.growths.is_empty());
        if from == to && has_grown && topics.iter().all(|(_, count)| *count == to) {
            return Ok(None);
        }
        check_counts(from, to, &topics)?;
        Ok(Some(Job { kafka, widening: Widening { from, to }, topics, old: shared(from)?, new }))
    }

    /// Whether an earlier run has begun to grow the topics: producers may have sent by the new
    /// number of partitions meanwhile, and nobody can process that before the state has moved.
    fn is_begun(&self) -> bool {
        self.topics.iter().any(|(_, count)| *count > self.widening.from)
    }

    /// Waits until nobody is in the groups, and takes the processor's place.
    fn be_alone(&self) -> Result<Mover<KafkaBroker>> {
        let Widening { from, to } = self.widening;
        let begun = if self.is_begun() { ", begun by an earlier run" } else { "" };
        println!("{from} partitions become {to}{begun}");
        let offsets = Offsets::connect(self.kafka, Isolation::ReadCommitted, GROUP)?;
        for (group, service) in
            [(GROUP, "caudal-processor"), (caudal_sink::run::GROUP, "caudal-sink")]
        {
            wait_until_empty(&offsets, group, service)?;
        }
        let manner = Manner {
            guarantee: Guarantee::ExactlyOnceV2,
            protocol: GroupProtocol::Classic,
            is_guest: true,
        };
        let broker = KafkaBroker::connect(self.kafka, manner, &self.new, NAME)?;
        let of_inputs = [topics::TRANSACCIONES, topics::PARCIALES];
        let inputs = self.topics.iter().filter(|(topic, _)| of_inputs.contains(&&**topic));
        let count = inputs.map(|(_, count)| *count).min().unwrap_or(from);
        Mover::join(broker, &self.new, count)
    }

    fn grow_and_move(&self, mover: &mut Mover<KafkaBroker>) -> Result<()> {
        let ends = self.ends()?;
        let admin = Admin::connect(self.kafka)?;
        for (topic, count) in &self.topics {
            if *count < self.widening.to {
                self.grow(&admin, topic)?;
                println!("{topic}: {} partitions", self.widening.to);
            }
        }
        self.wait_until_seen(&admin)?;
        println!("reading the state of {} tasks", 2 * self.widening.from);
        let old = mover.read(&self.old, self.widening.to)?;
        let moved = mover.commit(&self.new, &old)?;
        say(&moved, self.widening);
        if self.ends()? != ends {
            println!(
                "transacciones has grown meanwhile: a producer is running. It sends by {} \
                 partitions until it is started again; what is then in a foreign partition is moved",
                self.widening.from
            );
        }
        Ok(())
    }

    /// Gives a topic its partitions. The broker that listed it may not have heard yet that an earlier
    /// run did so; the controller, which knows, then refuses.
    fn grow(&self, admin: &Admin, topic: &str) -> Result<()> {
        let Err(error) = admin.create_partitions(topic, self.widening.to) else { return Ok(()) };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if admin.topics()?.get(topic).is_some_and(|t| t.partitions == self.widening.to) {
                return Ok(());
            }
            if error.transient && admin.create_partitions(topic, self.widening.to).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(error.into())
    }

    /// Where the old partitions of the input end.
    fn ends(&self) -> Result<Vec<i64>> {
        let offsets = Offsets::connect(self.kafka, Isolation::ReadUncommitted, GROUP)?;
        let end = |partition| Ok(offsets.watermarks(topics::TRANSACCIONES, partition)?.1);
        (0..self.widening.from).map(end).collect()
    }

    /// The controller has made the partitions; brokers hear of it a moment later, and a client that
    /// asks one that has not would go on with the old number.
    fn wait_until_seen(&self, admin: &Admin) -> Result<()> {
        let to = self.widening.to;
        let offsets = Offsets::connect(self.kafka, Isolation::ReadCommitted, GROUP)?;
        let (mut looks, until) = (0, Instant::now() + PATIENCE);
        while looks < LOOKS {
            let found = admin.topics()?;
            let has_all =
                |topic: &Arc<str>| found.get(&**topic).is_some_and(|t| t.partitions == to);
            looks = if self.topics.iter().all(|(topic, _)| has_all(topic)) { looks + 1 } else { 0 };
            if Instant::now() > until {
                bail!("the brokers do not list {to} partitions after 30 s; run this again");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for (topic, _) in &self.topics {
            for partition in self.widening.from..to {
                while offsets.watermarks(topic, partition).is_err() {
                    if Instant::now() > until {
                        bail!("{topic}-{partition} has no leader after 30 s; run this again");
                    }
                }
            }
        }
        Ok(())
    }
}

/// That the topics can become what is wanted.
fn check_counts(from: i32, to: i32, topics: &[(Arc<str>, i32)]) -> Result<()> {
    let most = topics.iter().max_by_key(|(_, count)| *count);
    if let Some((topic, count)) = most.filter(|(_, count)| *count > to.max(from)) {
        bail!(
            "{topic} has {count} partitions already, and partitions cannot be taken away. Run this \
             with --partitions {count} or more"
        );
    }
    if to <= from {
        bail!(
            "the topics have {from} partitions; --partitions must be more: partitions cannot be \
             taken away"
        );
    }
    if let Some((topic, count)) = topics.iter().find(|(_, count)| *count < from) {
        bail!(
            "{topic} has {count} partitions, the state was made with {from}: was the topic deleted \
             and created again?"
        );
    }
    Ok(())
}

fn wait_until_empty(offsets: &Offsets, group: &str, service: &str) -> Result<()> {
    let until = Instant::now() + LEAVING;
    loop {
        let mut members = offsets.members(group)?;
        // A guest's id begins with its client's. One that was killed is waited for in the group.
        members.retain(|member| !member.starts_with(CLIENT));
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!(
                "{service} is running: group {group} has {} members ({}). Stop it, the producers \
                 too (`caudal services down` stops processor and sink), and run this again",
                members.len(),
                members.join(", ")
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn say(moved: &Moved, widening: Widening) {
    let count = |count: usize| grouped(u64::try_from(count).unwrap_or(u64::MAX));
    println!(
        "moved: {} tasks became {}; {} transaction ids, each to {} partitions; {} panes, {} totals; \
         {} KiB in one transaction",
        2 * widening.from,
        moved.tasks,
        count(moved.ids_before),
        widening.copies(),
        count(moved.panes),
        count(moved.totals),
        count(moved.bytes / 1024)
    );
    if moved.apart > 0 {
        println!(
            "the old partitions' event times lie up to {} s apart: what the slower ones still bring \
             may be late by that much (kept, and flagged in late_for)",
            moved.apart.div_euclid(SECOND) + 1
        );
    }
    println!(
        "next: start the processor and the sink (`caudal services up`), then the producers; write \
         partitions = {} into your topics.toml, so that a new cluster gets as many",
        widening.to
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(from: i32, to: i32, counts: &[i32]) -> String {
        let topics: Vec<(Arc<str>, i32)> =
            counts.iter().map(|count| ("t".into(), *count)).collect();
        check_counts(from, to, &topics).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn topics_only_grow_and_a_half_grown_cluster_is_completed() {
        assert_eq!(error(6, 10, &[6, 6]), "");
        assert_eq!(error(6, 10, &[10, 10, 6]), "", "an earlier run was killed");
        assert_eq!(error(6, 12, &[10, 6]), "", "and now more are wanted");
        assert!(error(6, 10, &[12, 6]).contains("--partitions 12 or more"));
        assert!(error(6, 6, &[6, 6]).contains("must be more"));
        assert!(error(6, 4, &[6, 6]).contains("must be more"));
        assert!(error(6, 10, &[6, 3]).contains("deleted"));
    }
}
