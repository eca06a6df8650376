//! Stage 2: merges partials per group, for one partition of `caudal_parciales`.

mod grow;
mod sources;

use crate::block::{self, Block, Entries, Growth, Head};
use crate::metrics::Counts;
use crate::outputs::Outputs;
use crate::partials::{Message, Source};
use crate::plans::Plans;
use crate::shared::{Shared, Stage, TaskError, TaskId};
use crate::sweep::{Haste, Sweep};
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::ledger::{GroupLedger, QueryLedger, read_count, write_count};
use caudal_core::money::SumOverflow;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::sequence::{Sequence, Sequences};
use caudal_query::group::Change;
use caudal_query::merge::{Entry, MergeState, Merged};
use caudal_query::partials::{Partial, RawPartial};
use caudal_query::plan::Emit;

use std::sync::Arc;

pub use sources::Held;

/// Where a sweep has got to: in the entries of the query at this place, after this one.
type Cursor = (usize, Option<caudal_query::Cursor>);

/// All of a task that a batch changes, but its keyed state: small enough to be copied per batch.
#[derive(Debug, Clone)]
struct Progress {
    next_offset: i64,
    /// Number of the next block.
    sequence: u64,
    outputs: Outputs,
    ledger: GroupLedger,
    /// Each partition of `transacciones` as last told.
    sources: Vec<Source>,
    /// Each partition of the other streams, in the order of [`Shared::sources`].
    others: Vec<Vec<Source>>,
    /// Watermark of each query. It never goes back, also when an idle partition returns with an
    /// old stream time: a window that was closed stays closed.
    watermarks: Vec<i64>,
    sequences: Sequences,
    sweep: Sweep<Cursor>,
}

/// The task and its state.
#[derive(Debug)]
pub struct GroupTask {
    shared: Arc<Shared>,
    id: TaskId,
    plans: Plans,
    growths: Vec<Growth>,
    at: Progress,
    /// As it was before the batch; `None` between batches.
    before: Option<Box<Progress>>,
    queries: Vec<MergeState>,
    /// What this batch counted, for metrics after its commit.
    pub counts: Counts,
}

impl GroupTask {
    /// A task with no state.
    #[must_use]
    pub fn new(shared: Arc<Shared>, partition: i32) -> GroupTask {
        let id = TaskId { stage: Stage::Group, partition };
        let unheard = |count: i32| {
            vec![Source { stream_time: i64::MIN, idle: 0 }; usize::try_from(count).unwrap_or(0)]
        };
        let at = Progress {
            next_offset: 0,
            sequence: 0,
            outputs: Outputs::new(&id.to_string()),
            ledger: GroupLedger::default(),
            sources: unheard(shared.partitions),
            others: shared.sources.iter().map(|source| unheard(source.partitions)).collect(),
            watermarks: vec![i64::MIN; shared.global.len()],
            sequences: Sequences::default(),
            sweep: Sweep::default(),
        };
        GroupTask {
            id,
            plans: Plans::new(&shared, Stage::Group),
            growths: Vec::new(),
            at,
            before: None,
            queries: shared.global.iter().map(|_| MergeState::default()).collect(),
            counts: Counts::default(),
            shared,
        }
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

    /// Counts of this task since the beginning of its partition.
    #[must_use]
    pub fn ledger(&self) -> &GroupLedger {
        &self.at.ledger
    }

    /// Number of the last block, and of the first one that is still needed.
    #[must_use]
    pub fn blocks(&self) -> (u64, u64) {
        (self.at.sequence.saturating_sub(1), self.at.sweep.complete_from())
    }

    /// Keys and bytes of state, by query.
    #[must_use]
    pub fn state(&self) -> Vec<(&str, usize, usize)> {
        let states = self.shared.global.iter().zip(&self.queries);
        states.map(|(q, state)| (q.plan.name.as_str(), state.len(), state.bytes())).collect()
    }

    fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some(Box::new(self.at.clone()));
        }
    }

    /// Merges one record of partials.
    ///
    /// # Errors
    /// [`TaskError`]: the topic is internal, so whatever is wrong with it must be looked at.
    pub fn process(&mut self, record: &Record, outbox: &mut Outbox) -> Result<(), TaskError> {
        if record.offset < self.at.next_offset {
            return Ok(());
        }
        self.begin();
        self.check_sequence(record)?;
        let message = Message::read(record.value.as_deref().unwrap_or_default())
            .map_err(|e| self.broken(record, format!("not a record of partials: {e}")))?;
        self.check_source(record, &message)?;
        self.at.next_offset = record.offset + 1;
        self.counts.records_in += 1;
        let shared = Arc::clone(&self.shared);
        let from = (message.topic, message.partition);
        for (fingerprint, partials) in message.partials {
            // Sent under a definition that is not ours: the query was dropped or begun again.
            let Some(place) = shared.global.iter().position(|q| q.fingerprint == fingerprint)
            else {
                self.counts.stale += partials.len() as u64;
                continue;
            };
            for partial in partials {
                let partial = partial
                    .of(&shared.global[place].plan)
                    .map_err(|e| self.broken(record, format!("not a partial: {e}")))?;
                let merged = self.merge(place, &partial, record.offset, outbox);
                merged.map_err(|cause| self.overflow(record.offset, cause))?;
            }
        }
        if let Some(told) = message.source {
            if let Some(known) = self.at.source_mut(&shared, from) {
                known.stream_time = known.stream_time.max(told.stream_time);
                known.idle = told.idle;
            }
            (0..self.queries.len()).for_each(|place| self.raise_watermark(place));
        }
        Ok(())
    }

    fn check_sequence(&mut self, record: &Record) -> Result<(), TaskError> {
        match self.at.sequences.observe(record) {
            Sequence::Next => Ok(()),
            Sequence::Repeat => Err(self.broken(record, self.repeated(record))),
            Sequence::Gap { expected, found } => {
                let what =
                    format!("records of partials are missing: expected {expected}, found {found}");
                Err(self.broken(record, what))
            }
        }
    }

    /// A task's numbers never go back, unless what it remembered of them was taken from it.
    fn repeated(&self, record: &Record) -> String {
        let task = record.header(headers::TASK).unwrap_or_default();
        let number = record.header(headers::SEQUENCE).unwrap_or_default();
        let last = self.at.sequences.last.get(task).copied().unwrap_or_default();
        format!(
            "a record of partials came twice: it is number {number} of task {task}, whose number \
             {last} is merged already. The task has begun anew: its committed position in group \
             caudal-processor was deleted or set from outside, or the state of one stage was. \
             Nothing was added up twice; start over (`caudal reset --yes`), then send the sources \
             again"
        )
    }

    fn at_offset(&self, offset: i64) -> String {
        format!("{}-{}@{offset}", self.shared.partials_topic, self.id.partition)
    }

    fn broken(&self, record: &Record, what: String) -> TaskError {
        TaskError::Broken { at: self.at_offset(record.offset), what }
    }

    fn overflow(&self, offset: i64, cause: SumOverflow) -> TaskError {
        TaskError::Overflow { at: self.at_offset(offset), cause }
    }

    fn merge(
        &mut self,
        place: usize,
        partial: &Partial,
        offset: i64,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        let shared = Arc::clone(&self.shared);
        let (watermark, query) = (self.at.watermarks[place], &shared.global[place]);
        let merged = self.queries[place].merge(&query.plan, partial, watermark)?;
        self.at.ledger.partials += 1;
        let records = u64::try_from(partial.values.count()).unwrap_or(0);
        self.at.ledger.records += records;
        self.at.ledger.count(&query.plan.name, QueryLedger { records, too_late: 0 });
        let until = match merged {
            Merged::Merged => return Ok(()),
            Merged::PartlyLate { until } => until,
            Merged::TooLate => i64::MAX,
        };
        self.at.ledger.too_late += 1;
        self.at.ledger.count(&query.plan.name, QueryLedger { records: 0, too_late: 1 });
        self.counts.late += 1;
        for row in partial.rows(&query.plan.window, until) {
            self.emit(place, &query.late_topic, &Change::Row(row), offset, outbox);
        }
        Ok(())
    }

    fn emit(
        &mut self,
        place: usize,
        topic: &Arc<str>,
        change: &Change,
        offset: i64,
        outbox: &mut Outbox,
    ) {
        let shared = Arc::clone(&self.shared);
        let query = &shared.global[place];
        let to = (topic, self.id.partition, (self.id.partition, offset));
        let version = self.plans.version(place);
        self.counts.query_errors += self.at.outputs.emit_change(outbox, query, version, to, change);
    }

    /// Closes the batch: changed or closed rows, then the state block.
    ///
    /// # Errors
    /// [`TaskError::Overflow`].
    pub fn finish(&mut self, haste: Option<Haste>, outbox: &mut Outbox) -> Result<(), TaskError> {
        // A task that is only to sweep has had no record: what it writes must be undoable too.
        self.begin();
        let shared = Arc::clone(&self.shared);
        let last_offset = self.at.next_offset - 1;
        for (place, query) in shared.global.iter().enumerate() {
            let state = &self.queries[place];
            let changes = match query.plan.emit {
                Emit::Changes => state.changes(&query.plan),
                Emit::Final => state
                    .final_rows(&query.plan, self.at.watermarks[place])
                    .map(|rows| rows.into_iter().map(Change::Row).collect()),
            };
            for change in changes.map_err(|cause| self.overflow(last_offset, cause))? {
                self.emit(place, &query.topic, &change, last_offset, outbox);
            }
        }
        self.write_block(haste, outbox);
        Ok(())
    }

    fn write_block(&mut self, haste: Option<Haste>, outbox: &mut Outbox) {
        let shared = Arc::clone(&self.shared);
        let mut entries = Entries::new(shared.sizes.block_part);
        for (place, state) in self.queries.iter().enumerate() {
            let parts = state.changed().flat_map(Entry::split);
            parts.for_each(|entry| entries.accumulator(place, |out| entry.write(out)));
        }
        let body = self.body();
        let (queries, sequence) = (&self.queries, self.at.sequence);
        self.at.sweep.go_on(sequence, body.len(), haste, &mut entries, |cursor, entries| {
            next_entry(queries, cursor, entries)
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
            table_offset: 0,
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
        write_count(&mut out, self.at.sources.len() as u64);
        for source in &self.at.sources {
            out.long(source.stream_time);
            out.long(source.idle);
        }
        // By their place in the head's table of queries.
        write_count(&mut out, self.at.watermarks.len() as u64);
        self.at.watermarks.iter().for_each(|watermark| out.long(*watermark));
        write_count(&mut out, self.at.sequences.last.len() as u64);
        for (task, last) in &self.at.sequences.last {
            out.string(task);
            write_count(&mut out, *last);
        }
        self.at.ledger.write(&mut out);
        self.at.outputs.write(&mut out);
        let others = self.shared.sources.iter().zip(&self.at.others);
        write_count(&mut out, others.len() as u64);
        for (source, partitions) in others {
            out.string(&source.topic);
            write_count(&mut out, partitions.len() as u64);
            for partition in partitions {
                out.long(partition.stream_time);
                out.long(partition.idle);
            }
        }
        self.at.ledger.write_queries(&mut out);
        out.into_bytes()
    }

    /// The batch is committed: forgets how to undo it, and drops what the watermarks close.
    pub fn commit(&mut self) {
        self.before = None;
        let queries = self.queries.iter_mut().zip(&self.shared.global).zip(&self.at.watermarks);
        queries.for_each(|((state, query), watermark)| state.commit(&query.plan, *watermark));
    }

    /// The batch is not committed: as if it had never been.
    pub fn rollback(&mut self) {
        if let Some(before) = self.before.take() {
            self.at = *before;
        }
        self.queries.iter_mut().for_each(MergeState::rollback);
        self.counts = Counts::default();
    }

    /// Applies a block that was read back.
    ///
    /// # Errors
    /// When the block's body is damaged or names a query that is not there.
    pub fn apply(&mut self, block: &Block) -> Result<(), AvroError> {
        let mapping = self.plans.follow(&block.head);
        let is_whole = block.head.complete_from == block.head.sequence;
        for place in 0..self.queries.len() {
            if is_whole || mapping.emptied.contains(&place) {
                self.queries[place] = MergeState::default();
            }
            if mapping.emptied.contains(&place) {
                self.at.watermarks[place] = i64::MIN;
            }
        }
        self.read_body(&block.head.body, &mapping.places)?;
        let shared = Arc::clone(&self.shared);
        let queries = &mut self.queries;
        block.for_each(|entry, input| {
            let block::Entry::Accumulator(place) = entry else {
                return Err(input.error("entry of stage 1 in a block of stage 2"));
            };
            let entry = RawPartial::read(input)?;
            let ours = mapping.places.get(place).copied().flatten();
            let ours = ours.and_then(|place| Some((place, queries.get_mut(place)?)));
            if let Some((place, state)) = ours {
                state.restore(Entry::read(&shared.global[place].plan, entry)?);
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

    fn read_body(&mut self, body: &[u8], places: &[Option<usize>]) -> Result<(), AvroError> {
        let mut input = Reader::new(body);
        let source =
            |input: &mut Reader<'_>| Ok(Source { stream_time: input.long()?, idle: input.long()? });
        let count = input.length()?;
        let sources: Result<Vec<Source>, AvroError> =
            (0..count).map(|_| source(&mut input)).collect();
        self.at.sources = sources?;
        for place in 0..input.length()? {
            let watermark = input.long()?;
            if let Some(ours) = places.get(place).copied().flatten() {
                self.at.watermarks[ours] = watermark;
            }
        }
        self.at.sequences.last.clear();
        for _ in 0..input.length()? {
            let task = input.string()?.to_owned();
            self.at.sequences.last.insert(task, read_count(&mut input)?);
        }
        self.at.ledger = GroupLedger::read(&mut input)?;
        self.at.outputs.read(&mut input)?;
        if input.rest().is_empty() {
            // Written before other streams could be read, and queries were counted one by one.
            return Ok(());
        }
        for _ in 0..input.length()? {
            let topic = input.string()?.to_owned();
            let place = self.shared.sources.iter().position(|source| *source.topic == *topic);
            for partition in 0..input.length()? {
                let told = source(&mut input)?;
                let known = place.and_then(|place| self.at.others[place].get_mut(partition));
                if let Some(known) = known {
                    *known = told;
                }
            }
        }
        self.at.ledger.read_queries(&mut input)?;
        input.end()
    }

    /// Compares the queries with those of the last block. One that begins now takes its first
    /// watermark from the sources: what they have passed, it has missed.
    ///
    /// # Errors
    /// What was changed, and what to do.
    pub fn settle(&mut self, last: &Head) -> Result<(), String> {
        self.plans.settle(last, &self.shared, Stage::Group)?;
        for place in 0..self.queries.len() {
            // Only those without state: a window that closes must give its row, in a batch.
            if self.queries[place].is_empty() && self.at.watermarks[place] == i64::MIN {
                self.raise_watermark(place);
            }
        }
        self.commit();
        Ok(())
    }
}

/// Writes the entry after a sweep's cursor.
fn next_entry(
    queries: &[MergeState],
    cursor: Option<Cursor>,
    entries: &mut Entries,
) -> Option<Cursor> {
    let (mut place, mut after) = cursor.unwrap_or((0, None));
    while let Some(state) = queries.get(place) {
        if let Some((cursor, entry)) = state.next_after(after) {
            for part in entry.split() {
                entries.accumulator(place, |out| part.write(out));
            }
            return Some((place, Some(cursor)));
        }
        (place, after) = (place + 1, None);
    }
    None
}
