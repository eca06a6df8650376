//! Two members of one group under each protocol: they share, and give back what a member leaves;
//! positions of a stale membership are refused. And what only brokers can show of topics.

use anyhow::{Context as _, Result, ensure};
use caudal_core::outbox::{OutRecord, Outbox, Position};
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::args::Isolation;
use caudal_kafka::consumer::{Change, GroupConsumer, GroupProtocol, Limits, Membership};
use caudal_kafka::cutter::Cutter;
use caudal_kafka::offsets::Offsets;
use caudal_kafka::txn::{GroupSnapshot, Guarantee, TxnError, TxnProducer};
use caudal_kafka::{Kafka, TopicPartition};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
const LIMITS: Limits = Limits { records: 100, bytes: 1 << 20, idle: Duration::from_millis(50) };

/// A member, and what it was assigned so far.
struct Member {
    consumer: GroupConsumer,
    owned: BTreeSet<i32>,
    /// Most partitions taken from it at once.
    most_revoked: usize,
}

impl Member {
    fn join(kafka: &Kafka, topic: &str, name: &str, protocol: GroupProtocol) -> Result<Member> {
        let membership = Membership {
            group: topic.to_owned(),
            instance: Some(name.to_owned()),
            topics: vec![Arc::from(topic)],
            protocol,
        };
        let consumer = GroupConsumer::join(kafka, &membership)?;
        Ok(Member { consumer, owned: BTreeSet::new(), most_revoked: 0 })
    }

    fn gather(&mut self) -> Result<()> {
        for change in self.consumer.gather(&LIMITS, Instant::now())?.changes {
            match change {
                Change::Assigned(new) => self.owned.extend(new.iter().map(|p| p.1)),
                Change::Revoked(gone) | Change::Lost(gone) => {
                    self.most_revoked = self.most_revoked.max(gone.len());
                    gone.iter().for_each(|p| {
                        self.owned.remove(&p.1);
                    });
                }
            }
        }
        Ok(())
    }
}

/// Gathers with all members until the condition holds.
fn gather_until(
    members: &mut [Member],
    what: &str,
    mut holds: impl FnMut(&[Member]) -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        members.iter_mut().try_for_each(Member::gather)?;
        if holds(members)? {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < PATIENCE, "not within 60 s: {what}");
    }
}

struct Bench {
    kafka: Kafka,
    admin: Admin,
    topic: Arc<str>,
}

impl Bench {
    fn new(pipeline: &Pipeline, topic: &str) -> Result<Bench> {
        let admin = Admin::connect(&pipeline.kafka)?;
        admin.delete(&[topic])?;
        let wanted = Topic {
            name: topic.to_owned(),
            partitions: PARTITIONS,
            replication: 3,
            config: Default::default(),
        };
        let until = Instant::now() + PATIENCE;
        while admin.create(&wanted).is_err() || admin.leader(topic, PARTITIONS - 1)?.is_none() {
            ensure!(Instant::now() < until, "cannot create {topic}");
        }
        Ok(Bench { kafka: pipeline.kafka.clone(), admin, topic: Arc::from(topic) })
    }

    fn outbox(&self, owned: &BTreeSet<i32>, next_offset: i64) -> Outbox {
        let record = |partition: &i32| OutRecord {
            topic: Arc::clone(&self.topic),
            partition: *partition,
            key: None,
            value: Some(b"value".to_vec()),
            origin: None,
            headers: Vec::new(),
        };
        let position = |partition: &i32| Position {
            topic: Arc::clone(&self.topic),
            partition: *partition,
            next_offset,
            metadata: format!("text of {partition}"),
        };
        Outbox {
            records: owned.iter().map(record).collect(),
            positions: owned.iter().map(position).collect(),
        }
    }

    fn all(&self) -> Vec<TopicPartition> {
        (0..PARTITIONS).map(|p| (Arc::clone(&self.topic), p)).collect()
    }

    /// One commit of all that the member owns; aborts of a membership that just changed are tried
    /// again after another gathering, as the engine does.
    fn commit(&self, producer: &mut TxnProducer, member: &mut Member, next: i64) -> Result<usize> {
        let mut aborts = 0;
        let until = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < until, "no commit within 60 s");
            let group = GroupSnapshot::take(&member.consumer).context("in no group")?;
            match producer.commit(&mut self.outbox(&member.owned, next), Some(&group)) {
                Ok(_) => return Ok(aborts),
                Err(TxnError::Aborted(why)) => {
                    println!("  aborted: {why}");
                    aborts += 1;
                    member.gather()?;
                }
                Err(other) => return Err(other.into()),
            }
        }
    }
}

fn shares_and_leaves(pipeline: &Pipeline, topic: &str, protocol: GroupProtocol) -> Result<()> {
    println!("{protocol:?}");
    let bench = Bench::new(pipeline, topic)?;
    let kafka = &bench.kafka;
    let mut producer = TxnProducer::connect(kafka, topic, None, PATIENCE)?;
    let all: BTreeSet<i32> = (0..PARTITIONS).collect();
    let mut members = vec![Member::join(kafka, topic, "one", protocol)?];
    let took = gather_until(&mut members, "one has all", |m| Ok(m[0].owned == all))?;
    println!("  the first member has all after {} ms", took.as_millis());
    bench.commit(&mut producer, &mut members[0], 1)?;
    let before = GroupSnapshot::take(&members[0].consumer).context("in no group")?;

    members.push(Member::join(kafka, topic, "two", protocol)?);
    let halves = |m: &[Member]| {
        Ok(m[0].owned.len() == 3 && m[1].owned.len() == 3 && m[0].owned.is_disjoint(&m[1].owned))
    };
    let took = gather_until(&mut members, "both have half", halves)?;
    println!("  the second member has its half after {} ms", took.as_millis());
    ensure!(members[0].most_revoked <= 3, "everything was revoked: not incremental");

    // Positions with the membership from before the second member came.
    let moved = members[1].owned.clone();
    match producer.commit(&mut bench.outbox(&moved, 99), Some(&before)) {
        Err(TxnError::Aborted(why)) => println!("  a stale membership is refused: {why}"),
        other => anyhow::bail!("a stale membership committed what moved away: {other:?}"),
    }
    for (member, next) in members.iter_mut().zip([2, 3]) {
        bench.commit(&mut producer, member, next)?;
    }
    let committed = members[0].consumer.committed(&bench.all())?;
    for (at, committed) in committed {
        let committed = committed.context("nothing committed")?;
        let next = if members[0].owned.contains(&at.1) { 2 } else { 3 };
        ensure!(committed.next_offset == next, "{at:?}: {committed:?} instead of {next}");
        ensure!(committed.metadata == format!("text of {}", at.1), "{committed:?}");
    }

    // Static members do not say goodbye: the partitions move when the session has ended.
    drop(members.pop());
    let took = gather_until(&mut members, "one has all again", |m| Ok(m[0].owned == all))?;
    println!("  the first member has all again after {} ms", took.as_millis());
    bench.commit(&mut producer, &mut members[0], 4)?;
    drop(members);
    bench.admin.delete(&[topic]).map_err(Into::into)
}

#[test]
fn members_share_under_both_protocols() -> Result<()> {
    let Some(pipeline) = Pipeline::empty("groups")? else { return Ok(()) };
    shares_and_leaves(&pipeline, "test-groups-classic", GroupProtocol::Classic)?;
    shares_and_leaves(&pipeline, "test-groups-consumer", GroupProtocol::Consumer)?;
    at_least_once(&pipeline)?;
    logs_are_cut_and_topics_grow(&pipeline)
}

fn at_least_once(pipeline: &Pipeline) -> Result<()> {
    let bench = Bench::new(pipeline, "test-at-least-once")?;
    let all: BTreeSet<i32> = (0..PARTITIONS).collect();
    let mut members =
        vec![Member::join(&bench.kafka, &bench.topic, "one", GroupProtocol::Consumer)?];
    gather_until(&mut members, "one has all", |m| Ok(m[0].owned == all))?;
    let mut producer = TxnProducer::connect_with(
        &bench.kafka,
        &bench.topic,
        Guarantee::AtLeastOnce,
        Some(&bench.topic),
        PATIENCE,
    )?;
    let group = GroupSnapshot::take(&members[0].consumer).context("in no group")?;
    for next in 1..4 {
        let written = producer.commit(&mut bench.outbox(&all, next), Some(&group))?;
        ensure!(written.values().all(|first| *first == next - 1), "{written:?}");
        ensure!(written.len() == all.len(), "{written:?}");
    }
    for (at, committed) in members[0].consumer.committed(&bench.all())? {
        ensure!(committed.is_some_and(|c| c.next_offset == 3), "{at:?}");
    }
    Ok(bench.admin.delete(&[&bench.topic])?)
}

fn logs_are_cut_and_topics_grow(pipeline: &Pipeline) -> Result<()> {
    let bench = Bench::new(pipeline, "test-cut")?;
    let mut producer =
        TxnProducer::connect(&bench.kafka, &bench.topic, Some(&bench.topic), PATIENCE)?;
    let all: BTreeSet<i32> = (0..PARTITIONS).collect();
    for _ in 0..3 {
        producer.commit(&mut bench.outbox(&all, 0), None)?;
    }
    let written = producer.commit(&mut bench.outbox(&all, 0), None)?;
    // Three txns of one record and one marker before it.
    ensure!(written.len() == all.len() && written.values().all(|w| *w == 6), "{written:?}");
    let cutter = Cutter::start(&bench.kafka, &bench.topic)?;
    written.iter().for_each(|(partition, below)| cutter.cut(*partition, *below));
    let offsets = Offsets::connect(&bench.kafka, Isolation::ReadCommitted, "test-cut")?;
    let until = Instant::now() + PATIENCE;
    for partition in all {
        while offsets.watermarks(&bench.topic, partition)?.0 != 6 {
            ensure!(Instant::now() < until, "{partition} is not cut");
        }
    }
    bench.admin.create_partitions(&bench.topic, PARTITIONS + 2)?;
    let until = Instant::now() + PATIENCE;
    while offsets.partitions(&bench.topic)? != PARTITIONS + 2 {
        ensure!(Instant::now() < until, "no new partitions");
    }
    ensure!(bench.admin.create_partitions(&bench.topic, PARTITIONS + 2).is_err(), "twice");
    Ok(bench.admin.delete(&[&bench.topic])?)
}
