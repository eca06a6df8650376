//! The move on real topics: be the group's only member, read every task, commit once.
//!
//! Whoever moves the state joins group `caudal-processor` like any processor. That is what keeps
//! others out: while it holds every partition nobody else processes, and when a processor starts
//! meanwhile the group's generation changes, the coordinator refuses the positions of the old one,
//! and the txn is aborted. Its `transactional.id` is fixed, so of two migrations one is fenced.

use super::{Moved, Old, grow};
use crate::block::Heads;
use crate::broker::Broker;
use crate::restore::Restore;
use crate::shared::{Shared, Stage, TaskId};
use crate::tasks::Task;
use anyhow::{Context as _, Result, bail};
use caudal_core::outbox::Outbox;
use caudal_kafka::consumer::{Change, Limits};
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::txn::TxnError;
use caudal_kafka::{Kafka, TopicPartition};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the member, and of the producer, behind `caudal-processor-`.
pub const NAME: &str = "migrate";
/// How long to wait for every partition: above the session of a member that was killed (6 s).
const ASSIGNED: Duration = Duration::from_secs(20);
/// How long reading may stand still: above the time-out of a txn that was left open (45 s).
const STILL: Duration = Duration::from_secs(90);
const SLICE: Duration = Duration::from_millis(100);
const LIMITS: Limits = Limits { records: 1, bytes: 1, idle: SLICE };
/// How often an aborted commit is tried again.
const TRIES: usize = 5;

/// Where every task stands by the state log, which has so many partitions.
///
/// # Errors
/// When it cannot be read to its end, or a block is damaged or missing.
pub fn heads(kafka: &Kafka, shared: &Shared, partitions: i32) -> Result<Heads> {
    let mut reader = LogReader::connect(kafka, &shared.state_topic)?;
    (0..partitions).for_each(|partition| reader.add(partition, None));
    let mut heads = Heads::default();
    reader.read_all(STILL, |record| -> Result<()> {
        let at = || format!("{}-{}@{}", shared.state_topic, record.partition, record.offset);
        heads.observe(record.value.as_deref().unwrap_or_default()).with_context(at)
    })?;
    Ok(heads)
}

/// The group's only member.
pub struct Mover<B> {
    broker: B,
    /// The partitions that were there at the beginning: whoever holds them all is alone.
    wanted: BTreeSet<TopicPartition>,
    owned: BTreeSet<TopicPartition>,
}

impl<B: Broker> Mover<B> {
    /// Joins, and waits for both inputs' `partitions` partitions.
    ///
    /// # Errors
    /// When another member holds some of them.
    pub fn join(broker: B, shared: &Shared, partitions: i32) -> Result<Mover<B>> {
        let wanted = ids(partitions).map(|id| shared.input_of(id)).collect();
        let mut mover = Mover { broker, wanted, owned: BTreeSet::new() };
        mover.own_all()?;
        Ok(mover)
    }

    /// Waits until every partition is ours.
    fn own_all(&mut self) -> Result<()> {
        let until = self.broker.now() + ASSIGNED;
        self.gather()?;
        while !self.owned.is_superset(&self.wanted) {
            if self.broker.now() > until {
                let lacking = self.wanted.difference(&self.owned).count();
                bail!(
                    "another member of group caudal-processor holds {lacking} of {} partitions: a \
                     processor is running. Stop it (`caudal services down`), and run this again",
                    self.wanted.len()
                );
            }
            self.gather()?;
        }
        Ok(())
    }

    /// Serves the group.
    fn gather(&mut self) -> Result<()> {
        let now = self.broker.now();
        for change in self.broker.gather(&LIMITS, now)?.changes {
            match change {
                Change::Assigned(partitions) => self.owned.extend(partitions),
                Change::Revoked(gone) | Change::Lost(gone) => {
                    gone.iter().for_each(|partition| {
                        self.owned.remove(partition);
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads every task of `shared.partitions` partitions; `to` is how many there are now.
    ///
    /// # Errors
    /// What a processor would halt at: a missing block, positions that were changed from outside,
    /// another query or horizon.
    pub fn read(&mut self, shared: &Arc<Shared>, to: i32) -> Result<Old> {
        let mut restore = Restore::new(Arc::clone(shared), None);
        let begun = self.broker.now();
        ids(shared.partitions).for_each(|id| restore.add(id, begun));
        let mut old = Old::default();
        let (mut seen, mut moved) = ((restore.len(), 0), begun);
        while !restore.is_empty() {
            self.gather()?;
            for restored in restore.step(&mut self.broker, SLICE)? {
                old.metadata.insert(restored.id, restored.metadata);
                if old.read_to.offset <= restored.read_to.offset {
                    old.read_to = restored.read_to;
                }
                match restored.task {
                    Task::Account(task) => old.accounts.push(*task),
                    Task::Group(task) => old.groups.push(*task),
                    // It keeps no keys: nothing of it moves.
                    Task::Source(_) => {}
                }
            }
            let now = (restore.len(), self.broker.state_log().bytes_read());
            if now != seen {
                (seen, moved) = (now, self.broker.now());
            } else if self.broker.now().saturating_duration_since(moved) > STILL {
                bail!(
                    "{} tasks cannot be read from {}: no progress for {} s. Is every broker up? \
                     `caudal stack status`; then run this again",
                    restore.len(),
                    shared.state_topic,
                    STILL.as_secs()
                );
            }
        }
        old.sort();
        for id in ids(to).filter(|id| id.partition >= shared.partitions) {
            old.starts.insert(id, self.broker.first_offset(&shared.input_of(id))?);
        }
        Ok(old)
    }

    /// Makes the tasks of `shared.partitions` partitions and commits them.
    ///
    /// # Errors
    /// When somebody else has joined the group, or Kafka refuses. Nothing is changed then, unless
    /// the message says that it is not known.
    pub fn commit(&mut self, shared: &Arc<Shared>, old: &Old) -> Result<Moved> {
        let (outbox, moved) = grow(shared, old)?;
        let mut last = String::new();
        for _ in 0..TRIES {
            // The membership as of now. It changes when the client hears of the new partitions.
            self.own_all()?;
            match self.broker.commit(&mut outbox.clone()) {
                Ok(_) => return Ok(moved),
                Err(TxnError::Aborted(why)) => last = why,
                Err(TxnError::Doubt(why)) => {
                    self.broker.replace_producer()?;
                    if self.is_committed(&outbox)? {
                        return Ok(moved);
                    }
                    last = why;
                }
                Err(other) => return Err(other.into()),
            }
        }
        bail!(
            "the state was not moved ({last}). If a processor has started meanwhile, stop it; then \
             run this again"
        )
    }

    /// After a doubt: whether the group has the outbox's positions, which are in the same txn.
    fn is_committed(&mut self, outbox: &Outbox) -> Result<bool> {
        let asked: Vec<TopicPartition> =
            outbox.positions.iter().map(|p| (Arc::clone(&p.topic), p.partition)).collect();
        let until: Instant = self.broker.now() + STILL;
        let committed = loop {
            match self.broker.committed(&asked) {
                Ok(committed) => break committed,
                Err(error) if error.transient && self.broker.now() < until => self.gather()?,
                Err(error) => return Err(error.into()),
            }
        };
        Ok(outbox.positions.iter().all(|position| {
            let found = committed.get(&(Arc::clone(&position.topic), position.partition));
            found.and_then(Option::as_ref).is_some_and(|committed| {
                committed.next_offset == position.next_offset
                    && committed.metadata == position.metadata
            })
        }))
    }
}

fn ids(partitions: i32) -> impl Iterator<Item = TaskId> {
    let stages = [Stage::Account, Stage::Group].into_iter();
    stages.flat_map(move |stage| (0..partitions).map(move |partition| TaskId { stage, partition }))
}
