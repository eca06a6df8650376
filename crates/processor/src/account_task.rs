//! Stage 1: decode → validate → right key → dedup → queries, for one partition of `transacciones`.

mod grow;
mod queries;
mod refuse;

use crate::block::{Block, Entries, Entry, Growth, Head};
use crate::metrics::Counts;
use crate::outputs::Outputs;
use crate::partials::{Source, Telling};
use crate::plans::Plans;
use crate::shared::{Shared, Stage, TaskError, TaskId};
use crate::sweep::{Haste, Sweep};
use crate::tables::{ReadTo, Tables};
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::decode::{Record, decode};
use caudal_core::dedup::{self, Dedup, Outcome, Seen};
use caudal_core::ledger::AccountLedger;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::partitioner::partition_of;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::validate::validate;
use caudal_query::group::Change;
use caudal_query::panes::PaneState;
use caudal_query::partials::{Partials, RawPartial};
use caudal_query::plan::Emit;

use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a sweep over this task's state has got to.
#[derive(Debug, Clone, Copy)]
enum Cursor {
    Seen(dedup::Cursor),
    /// All ids are behind; in the panes of the query at this place, after this entry.
    Pane(usize, Option<caudal_query::Cursor>),
}

/// All of a task that a batch changes, but its keyed state: small enough to be copied per batch.
#[derive(Debug, Clone)]
struct Progress {
    next_offset: i64,
    /// Number of the next block.
    sequence: u64,
    outputs: Outputs,
    ledger: AccountLedger,
    /// Highest event time of a valid record; `i64::MIN` before the first.
    stream_time: i64,
    /// Granule of the stream time last told to each partition of stage 2.
    told: Vec<i64>,
    /// The idle time-out that was last declared, in microseconds; 0 since a record came.
    idle: i64,
    /// How far the reference tables had been read when the last batch was joined with them.
    read_to: ReadTo,
    sweep: Sweep<Cursor>,
}

/// The task and its state.
#[derive(Debug)]
pub struct AccountTask {
    shared: Arc<Shared>,
    id: TaskId,
    arrival: Arc<str>,
    plans: Plans,
    growths: Vec<Growth>,
    at: Progress,
    /// As it was before the batch; `None` between batches.
    before: Option<Box<Progress>>,
    /// Whether this batch changed what every partition of stage 2 must know.
    tell_all: bool,
    dedup: Dedup,
    panes: Vec<PaneState>,
    partials: Vec<Partials>,
    /// Input offsets whose outputs cannot be written, with the reason: they are dead letters.
    unwritable: BTreeMap<i64, String>,
    /// What this batch counted, for metrics after its commit.
    pub counts: Counts,
}

impl AccountTask {
    /// A task with no state.
    #[must_use]
    pub fn new(shared: Arc<Shared>, partition: i32) -> AccountTask {
        let id = TaskId { stage: Stage::Account, partition };
        let at = Progress {
            next_offset: 0,
            sequence: 0,
            outputs: Outputs::new(&id.to_string()),
            ledger: AccountLedger::default(),
            stream_time: i64::MIN,
            told: vec![i64::MIN; usize::try_from(shared.partitions).unwrap_or(0)],
            idle: 0,
            read_to: ReadTo::default(),
            sweep: Sweep::default(),
        };
        AccountTask {
            id,
            arrival: format!("{}-{partition}", shared.input_topic).into(),
            plans: Plans::new(&shared, Stage::Account),
            growths: Vec::new(),
            at,
            before: None,
            tell_all: false,
            dedup: Dedup::default(),
            panes: shared.local.iter().map(|_| PaneState::default()).collect(),
            partials: shared.global.iter().map(|_| Partials::default()).collect(),
            unwritable: BTreeMap::new(),
            counts: Counts::default(),
            shared,
        }
    }

    /// Makes the input record at `offset` a dead letter when it is read again. False when it was
    /// one already: then it is the dead letter that cannot be written.
    pub fn refuse_at(&mut self, offset: i64, why: &str) -> bool {
        self.unwritable.insert(offset, why.to_owned()).is_none()
    }

    /// The next offset to read.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.at.next_offset
    }

    /// Sets where to read next (when a task has no state yet).
    pub fn set_next_offset(&mut self, next_offset: i64) {
        self.at.next_offset = next_offset;
    }

    /// Counts and money of this task since the beginning of its partition.
    #[must_use]
    pub fn ledger(&self) -> &AccountLedger {
        &self.at.ledger
    }

    /// Highest event time of a valid record, in microseconds; `i64::MIN` before the first.
    #[must_use]
    pub fn stream_time(&self) -> i64 {
        self.at.stream_time
    }

    /// Number of the last block, and of the first one that is still needed.
    #[must_use]
    pub fn blocks(&self) -> (u64, u64) {
        (self.at.sequence.saturating_sub(1), self.at.sweep.complete_from())
    }

    /// Keys and bytes of state, by query.
    #[must_use]
    pub fn state(&self) -> Vec<(&str, usize, usize)> {
        let mut all = vec![("dedup", self.dedup.len(), self.dedup.bytes())];
        for (query, panes) in self.shared.local.iter().zip(&self.panes) {
            all.push((query.plan.name.as_str(), panes.len(), panes.bytes()));
        }
        all
    }

    fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some(Box::new(self.at.clone()));
        }
    }

    /// Processes one record.
    ///
    /// # Errors
    /// [`TaskError::Overflow`]; a bad record is no error but a dead letter.
    pub fn process(
        &mut self,
        record: &Record,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        if record.offset < self.at.next_offset {
            return Ok(());
        }
        self.begin();
        self.at.next_offset = record.offset + 1;
        if self.at.idle != 0 {
            self.at.idle = 0;
            self.tell_all = true;
        }
        self.at.ledger.records_in += 1;
        self.counts.records_in += 1;
        self.process_new(record, tables, outbox)
            .map_err(|cause| self.overflow(record.offset, cause))
    }

    fn overflow(&self, offset: i64, cause: SumOverflow) -> TaskError {
        TaskError::Overflow { at: format!("{}@{offset}", self.arrival), cause }
    }

    fn process_new(
        &mut self,
        record: &Record,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        let shared = Arc::clone(&self.shared);
        let original = refuse::original_position(record);
        let moved = original.map(|(partition, _)| format!("{}-{partition}", shared.input_topic));
        // Counted, because the borrow would outlast the changes below.
        let arrival = moved.map_or_else(|| Arc::clone(&self.arrival), Arc::from);
        let offset = original.map_or(record.offset, |(_, offset)| offset);
        if let Some(why) = self.unwritable.get(&record.offset) {
            let rejection = Rejection::new(Reason::TooLarge, why.clone());
            return self.reject(record, &rejection, outbox);
        }
        let valid = decode(record, shared.transaction_schema, (&arrival, offset))
            .and_then(|transaction| validate(transaction, record.timestamp));
        let valid = match valid {
            Ok(valid) => valid,
            Err(rejection) => return self.reject(record, &rejection, outbox),
        };
        let account = valid.transaction.account_id.as_bytes();
        let home = partition_of(account, shared.partitions);
        if home != self.id.partition {
            return self.reroute(record, &valid, home, outbox);
        }
        let money = (valid.currency, valid.transaction.amount);
        let seen = Seen::of(&valid);
        // As of this record, whether or not it turns out to be one that moves the stream time.
        let now = self.at.stream_time.max(valid.transaction.event_time);
        match self.dedup.check(&seen, now, shared.horizon) {
            Outcome::Duplicate => {
                self.counts.duplicate += 1;
                self.at.ledger.repeat(money.0, money.1)
            }
            Outcome::Conflict => {
                let message = "transaction_id was already used with other contents";
                let rejection =
                    Rejection::new(Reason::Conflict, message).with_money(money.0, money.1);
                self.reject(record, &rejection, outbox)
            }
            Outcome::New => {
                self.at.ledger.accept(money.0, money.1)?;
                self.counts.valid += 1;
                self.accept(record, &valid, tables, outbox)
            }
        }
    }

    /// Says that the partition has been silent for `idle` microseconds at its confirmed end.
    pub fn declare_idle(&mut self, idle: i64) {
        self.begin();
        self.at.idle = idle;
        self.tell_all = true;
    }

    /// Closes the batch: last rows, partials and watermarks, then the state block.
    ///
    /// # Errors
    /// [`TaskError::Overflow`].
    pub fn finish(
        &mut self,
        read_to: ReadTo,
        haste: Option<Haste>,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        // A task that is only to sweep has had no record: what it writes must be undoable too.
        self.begin();
        self.at.read_to = read_to;
        let shared = Arc::clone(&self.shared);
        let last_offset = self.at.next_offset - 1;
        for (place, query) in shared.local.iter().enumerate() {
            let panes = &mut self.panes[place];
            let changes = match query.plan.emit {
                Emit::Changes => Ok(panes.take_changes(&query.plan)),
                Emit::Final => panes
                    .take_final_rows(&query.plan, self.at.stream_time)
                    .map(|rows| rows.into_iter().map(Change::Row).collect()),
            };
            let changes = changes.map_err(|cause| self.overflow(last_offset, cause))?;
            let version = self.plans.version(place);
            let mut evaluation = self.evaluation(None, outbox);
            for change in changes {
                evaluation.change(query, version, last_offset, &change);
            }
        }
        let telling = Telling {
            shared: &shared,
            topic: None,
            partition: self.id.partition,
            source: Source { stream_time: self.at.stream_time, idle: self.at.idle },
            offset: last_offset,
            tell_all: std::mem::take(&mut self.tell_all),
        };
        telling.send(&mut self.partials, &mut self.at.told, &mut self.at.outputs, outbox);
        self.write_block(haste, outbox);
        Ok(())
    }

    fn write_block(&mut self, haste: Option<Haste>, outbox: &mut Outbox) {
        let shared = Arc::clone(&self.shared);
        let mut entries = Entries::new(shared.sizes.block_part);
        self.dedup.changed().for_each(|seen| entries.seen(&seen));
        for (place, panes) in self.panes.iter().enumerate() {
            panes.changed().for_each(|pane| entries.accumulator(place, |out| pane.write(out)));
        }
        let body = self.body();
        let (dedup, panes) = (&self.dedup, &self.panes);
        let sequence = self.at.sequence;
        self.at.sweep.go_on(sequence, body.len(), haste, &mut entries, |cursor, entries| {
            next_entry(dedup, panes, cursor, entries)
        });
        self.close_block(entries, body, outbox);
    }

    /// Puts the parts of the next block into the outbox.
    fn close_block(&mut self, entries: Entries, body: Vec<u8>, outbox: &mut Outbox) {
        let shared = Arc::clone(&self.shared);
        let head = Head {
            task: self.id,
            sequence: self.at.sequence,
            complete_from: self.at.sweep.complete_from(),
            rules: shared.rules,
            partitions: shared.partitions,
            plans: self.plans.states().to_vec(),
            next_offset: self.at.next_offset,
            table_offset: self.at.read_to.offset,
            body,
            growths: self.growths.clone(),
        };
        self.at.sequence += 1;
        for part in entries.into_parts(&head) {
            outbox.records.push(OutRecord {
                topic: Arc::clone(&shared.state_topic),
                partition: self.id.partition,
                key: Some(self.id.to_string().into_bytes()),
                value: Some(part),
                origin: None,
                headers: Vec::new(),
            });
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.long(self.at.stream_time);
        out.long(self.at.idle);
        out.long(i64::try_from(self.at.told.len()).unwrap_or(0));
        self.at.told.iter().for_each(|granule| out.long(*granule));
        self.at.ledger.write(&mut out);
        self.at.outputs.write(&mut out);
        out.long(self.at.read_to.tables.into());
        out.into_bytes()
    }

    /// The batch is committed: forgets how to undo it, and drops what its stream time closes.
    pub fn commit(&mut self) {
        self.before = None;
        self.unwritable.clear();
        self.dedup.commit(self.at.stream_time, self.shared.horizon);
        for (panes, query) in self.panes.iter_mut().zip(&self.shared.local) {
            panes.commit(&query.plan, self.at.stream_time);
        }
    }

    /// The batch is not committed: as if it had never been.
    pub fn rollback(&mut self) {
        if let Some(before) = self.before.take() {
            self.at = *before;
        }
        self.tell_all = false;
        self.dedup.rollback();
        self.panes.iter_mut().for_each(PaneState::rollback);
        self.partials.iter_mut().for_each(Partials::rollback);
        self.counts = Counts::default();
    }

    /// Applies a block that was read back.
    ///
    /// # Errors
    /// When the block's body is damaged or names a query that is not there.
    pub fn apply(&mut self, block: &Block) -> Result<(), AvroError> {
        let mapping = self.plans.follow(&block.head);
        if block.head.complete_from == block.head.sequence {
            // The whole state is in this block: a small one, or one that was moved here from other
            // partitions.
            self.dedup = Dedup::default();
            self.panes.iter_mut().for_each(|panes| *panes = PaneState::default());
        }
        for place in mapping.emptied {
            if let Some(panes) = self.panes.get_mut(place) {
                *panes = PaneState::default();
            }
        }
        let mut input = Reader::new(&block.head.body);
        self.at.stream_time = input.long()?;
        self.at.idle = input.long()?;
        let told: Result<Vec<i64>, _> = (0..input.length()?).map(|_| input.long()).collect();
        self.at.told = told?;
        self.at.ledger = AccountLedger::read(&mut input)?;
        self.at.outputs.read(&mut input)?;
        // An older block does not say of which tables the offset is.
        let tables = if input.is_at_end() { 0 } else { input.long()? };
        let tables = u32::try_from(tables).map_err(|_| input.error("hash of tables"))?;
        self.at.read_to = ReadTo { offset: block.head.table_offset, tables };
        input.end()?;
        let shared = Arc::clone(&self.shared);
        let (dedup, panes) = (&mut self.dedup, &mut self.panes);
        block.for_each(|entry, input| {
            match entry {
                Entry::Seen(seen) => dedup.restore(&seen),
                Entry::Accumulator(place) => {
                    let pane = RawPartial::read(input)?;
                    let ours = mapping.places.get(place).copied().flatten();
                    let ours = ours.and_then(|place| Some((place, panes.get_mut(place)?)));
                    if let Some((place, panes)) = ours {
                        panes.restore(pane.of(&shared.local[place].plan)?);
                    }
                }
            }
            Ok(())
        })?;
        self.growths.clone_from(&block.head.growths);
        self.at.next_offset = block.head.next_offset;
        self.at.sequence = block.head.sequence + 1;
        self.at.sweep = Sweep::resumed(block.head.complete_from);
        self.commit();
        Ok(())
    }

    /// How far the reference tables had been read when its last batch was joined with them.
    #[must_use]
    pub fn read_to(&self) -> ReadTo {
        self.at.read_to
    }

    /// Compares the queries with those of the last block.
    ///
    /// # Errors
    /// What was changed, and what to do.
    pub fn settle(&mut self, last: &Head) -> Result<(), String> {
        self.plans.settle(last, &self.shared, Stage::Account)
    }
}

/// Writes the entry after a sweep's cursor.
fn next_entry(
    dedup: &Dedup,
    panes: &[PaneState],
    cursor: Option<Cursor>,
    entries: &mut Entries,
) -> Option<Cursor> {
    let after = match cursor {
        None => Some(None),
        Some(Cursor::Seen(cursor)) => Some(Some(cursor)),
        Some(Cursor::Pane(..)) => None,
    };
    if let Some((cursor, seen)) = after.and_then(|after| dedup.next_after(after)) {
        entries.seen(&seen);
        return Some(Cursor::Seen(cursor));
    }
    let (mut place, mut after) = match cursor {
        Some(Cursor::Pane(place, after)) => (place, after),
        _ => (0, None),
    };
    while let Some(state) = panes.get(place) {
        if let Some((cursor, pane)) = state.next_after(after) {
            entries.accumulator(place, |out| pane.write(out));
            return Some(Cursor::Pane(place, Some(cursor)));
        }
        (place, after) = (place + 1, None);
    }
    None
}
