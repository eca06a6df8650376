//! What becomes of a batch: committed, undone, or in doubt until the positions tell; and the cut of
//! the state log that a commit allows.

use super::{Engine, PATIENCE, Step};
use crate::block::task_of;
use crate::broker::Broker;
use crate::cut::{block_of, peer};
use crate::mutant::{self, Mutant};
use crate::shared::{Stage, TaskId};
use crate::tasks::Task;
use anyhow::{Context as _, Result};
use caudal_core::outbox::Outbox;
use caudal_kafka::TopicPartition;
use caudal_kafka::txn::{Refusal, TxnError, Written};
use caudal_service::exit::Halt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

impl<B: Broker> Engine<B> {
    pub(super) fn commit(
        &mut self,
        mut outbox: Outbox,
        touched: &BTreeSet<TaskId>,
    ) -> Result<Step> {
        let step = self.commit_batch(&mut outbox, touched)?;
        outbox.clear();
        self.outbox = outbox;
        Ok(step)
    }

    fn commit_batch(&mut self, outbox: &mut Outbox, touched: &BTreeSet<TaskId>) -> Result<Step> {
        for position in &mut outbox.positions {
            let id = self.shared.reading(&position.topic, position.partition);
            if !id.has_log() {
                continue;
            }
            let block = self.tasks.get(id).map_or(0, |task| task.blocks().0);
            position.metadata = self.cuts.metadata(id, block);
        }
        let blocks = self.blocks_in(outbox);
        let begun = self.broker.now();
        match self.broker.commit(outbox) {
            Ok(written) => {
                let took = self.broker.now().saturating_duration_since(begun);
                self.metrics.commit_duration.observe(took.as_secs_f64());
                self.metrics.committed(outbox, &self.shared);
                self.keep(touched);
                self.note_blocks(blocks, touched, &written);
                self.cut_log()?;
                Ok(Step::Committed)
            }
            Err(TxnError::Aborted(cause)) => {
                tracing::warn!(cause, "transaction aborted; reading the batch again");
                self.metrics.transaction("aborted");
                self.undo(touched)
            }
            Err(TxnError::Doubt(cause)) => {
                tracing::warn!(
                    cause,
                    "transaction in doubt; new producer, then the positions tell"
                );
                self.metrics.transaction("doubtful");
                self.status.obstacle("replacing the producer");
                self.broker.replace_producer()?;
                self.resolve(outbox, touched)
            }
            Err(TxnError::Refused(refusal)) if refusal.is_of_record() => {
                self.refuse(outbox, &refusal, touched)
            }
            Err(other) => Err(other).context("the transaction cannot go on"),
        }
    }

    /// The txn was aborted because of a record that can never be written. Its input becomes a dead
    /// letter when the batch is read again; so no record aborts its task twice.
    fn refuse(
        &mut self,
        outbox: &Outbox,
        refusal: &Refusal,
        touched: &BTreeSet<TaskId>,
    ) -> Result<Step> {
        tracing::warn!(%refusal, "an output cannot be written; its input becomes a dead letter");
        self.metrics.transaction("aborted");
        let step = self.undo(touched)?;
        let refused = outbox.records.get(refusal.record).and_then(|record| record.origin.as_ref());
        let id = refused.and_then(|origin| {
            let is_it = |id: &&TaskId| self.shared.name_of(**id) == *origin.task;
            touched.iter().filter(|id| id.stage != Stage::Group).find(is_it)
        });
        let is_new = match (id.and_then(|id| self.tasks.get_mut(*id)), refused) {
            (Some(task), Some(origin)) => task.refuse(origin.offset, &refusal.to_string()),
            _ => false,
        };
        if is_new { Ok(step) } else { Err(Halt(refusal.to_string()).into()) }
    }

    /// The batch is committed.
    fn keep(&mut self, touched: &BTreeSet<TaskId>) {
        for id in touched {
            if let Some(task) = self.tasks.get_mut(*id) {
                task.commit();
            }
        }
        self.tasks.count(touched, &self.shared, &self.metrics);
    }

    /// The batch is not committed: nothing of it stays, and its records are read again.
    fn undo(&mut self, touched: &BTreeSet<TaskId>) -> Result<Step> {
        let mut rewound = touched.clone();
        for id in touched {
            if let Some(task) = self.tasks.get_mut(*id)
                && !mutant::is(Mutant::OverlayKeptAcrossAbort)
            {
                task.rollback();
            }
        }
        for ((topic, partition), _) in self.backlog.drain(..) {
            rewound.insert(self.shared.reading(&topic, partition));
        }
        self.stop(&rewound)?;
        self.unstarted.extend(rewound.into_iter().filter(|id| self.tasks.get(*id).is_some()));
        Ok(Step::Undone)
    }

    fn stop(&mut self, ids: &BTreeSet<TaskId>) -> Result<()> {
        let running = ids.iter().filter(|id| self.tasks.get(**id).is_some());
        let partitions: Vec<TopicPartition> = running.map(|id| self.shared.input_of(*id)).collect();
        if !partitions.is_empty() {
            self.broker.pause(&partitions)?;
        }
        Ok(())
    }

    /// After a doubt. The new producer's epoch has ended the txn one way or the other, so its
    /// positions, which are part of it, are now stable: all of them as sent, then it was committed;
    /// all as before, then not. Anything else means that somebody else has gone on with a task.
    /// An offset alone does not tell: it need not move (an idle partition was declared), but the
    /// block's number beside it does.
    fn resolve(&mut self, outbox: &Outbox, touched: &BTreeSet<TaskId>) -> Result<Step> {
        let partitions: Vec<TopicPartition> =
            outbox.positions.iter().map(|p| (Arc::clone(&p.topic), p.partition)).collect();
        let until = self.broker.now() + PATIENCE;
        let committed = loop {
            match self.broker.committed(&partitions) {
                Ok(committed) => break committed,
                Err(error) if error.transient && self.broker.now() < until => {
                    tracing::debug!(%error, "committed positions after a doubt");
                    self.broker.wait(Duration::from_millis(100));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let shared = Arc::clone(&self.shared);
        let stands_at = |id: &TaskId, task: Option<&Task>| {
            let committed = committed.get(&shared.input_of(*id)).and_then(Option::as_ref);
            committed.zip(task).is_some_and(|(committed, task)| {
                committed.next_offset == task.next_offset()
                    && block_of(&committed.metadata) == Some(task.blocks().0)
            })
        };
        if touched.iter().all(|id| stands_at(id, self.tasks.get(*id))) {
            tracing::info!("the doubtful transaction was committed; its state is kept");
            self.keep(touched);
            return Ok(Step::Committed);
        }
        let step = self.undo(touched)?;
        for id in touched {
            let committed = committed.get(&shared.input_of(*id));
            let nothing = committed.is_none_or(Option::is_none);
            if !nothing && !stands_at(id, self.tasks.get(*id)) {
                tracing::warn!(task = %id, "somebody else went on with this task; its state is read again");
                self.forget(*id);
                self.restore.add(*id, self.broker.now());
            }
        }
        Ok(step)
    }

    /// Bytes of the state block of each task; its records are released when they are sent.
    fn blocks_in(&self, outbox: &Outbox) -> BTreeMap<TaskId, u64> {
        let mut blocks = BTreeMap::new();
        for record in outbox.records.iter().filter(|r| r.topic == self.shared.state_topic) {
            if let Ok(id) = task_of(record.value.as_deref().unwrap_or_default()) {
                *blocks.entry(id).or_default() += record.size() as u64;
            }
        }
        blocks
    }

    fn note_blocks(
        &mut self,
        blocks: BTreeMap<TaskId, u64>,
        touched: &BTreeSet<TaskId>,
        written: &Written,
    ) {
        blocks.into_iter().for_each(|(id, bytes)| self.cuts.wrote(id, bytes));
        for id in touched.iter().filter(|id| id.has_log()) {
            let blocks = self.tasks.get(*id).map(|task| task.blocks());
            if let (Some((sequence, needed)), Some(offset)) = (blocks, written.get(&id.partition)) {
                self.cuts.confirmed(*id, sequence, *offset, needed);
            }
        }
    }

    /// Cuts the state log where it is worth it. What cannot be looked up now is cut next time.
    fn cut_log(&mut self) -> Result<()> {
        for id in self.cuts.due(self.shared.sizes.cut_after) {
            // In this order: see `cut`.
            let Ok(stable) = self.broker.state_log().stable_end(id.partition) else { continue };
            let other = peer(id);
            let input = self.shared.input_of(other);
            let Ok(committed) = self.broker.committed(std::slice::from_ref(&input)) else {
                continue;
            };
            let committed = committed.get(&input).and_then(Option::as_ref);
            let has_blocks = self.restore.has_seen(other);
            if let Some(below) = self.cuts.below(id, stable, committed, has_blocks) {
                self.broker.delete_records(id.partition, below);
            }
        }
        Ok(())
    }
}
