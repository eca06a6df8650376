//! Stage 2: merges partials per group, for one partition of `caudal_parciales`.

use crate::block::{Block, Entry};
use crate::engine::{Shared, Stage, TaskError, TaskId};
use crate::metrics::Counts;
use crate::outputs::{Output, Outputs};
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::decode::Record;
use caudal_core::ledger::{GroupLedger, read_count, write_count};
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::sequence::{Sequence, Sequences};
use caudal_query::group::{self, Row};
use caudal_query::merge::{MergeState, Merged};
use caudal_query::partials::Partial;
use std::sync::Arc;

/// The task and its state.
#[derive(Debug)]
pub struct GroupTask {
    shared: Arc<Shared>,
    id: TaskId,
    next_offset: i64,
    block_sequence: u64,
    outputs: Outputs,
    ledger: GroupLedger,
    /// Stream time of each source partition as last told; `i64::MIN` of one never heard of.
    stream_times: Vec<i64>,
    sequences: Sequences,
    queries: Vec<MergeState>,
    /// What this batch counted, for metrics after its commit.
    pub counts: Counts,
}

impl GroupTask {
    /// A task that starts at `next_offset` with no state.
    #[must_use]
    pub fn new(shared: Arc<Shared>, partition: i32, next_offset: i64) -> GroupTask {
        let id = TaskId { stage: Stage::Group, partition };
        GroupTask {
            id,
            next_offset,
            block_sequence: 0,
            outputs: Outputs::new(id),
            ledger: GroupLedger::default(),
            stream_times: vec![i64::MIN; usize::try_from(shared.partitions).unwrap_or(0)],
            sequences: Sequences::default(),
            queries: shared.global.iter().map(|_| MergeState::default()).collect(),
            counts: Counts::default(),
            shared,
        }
    }

    /// The next offset to read.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Sets where to read next (when a task has no state yet).
    pub fn set_next_offset(&mut self, next_offset: i64) {
        self.next_offset = next_offset;
    }

    /// Counts of this task since the beginning of its partition.
    #[must_use]
    pub fn ledger(&self) -> &GroupLedger {
        &self.ledger
    }

    /// Number of groups in open windows.
    #[must_use]
    pub fn state_entries(&self) -> usize {
        self.queries.iter().map(MergeState::len).sum()
    }

    /// The lowest stream time of all source partitions: windows close by it. One that was never
    /// heard of counts as minus infinity, so that its late start loses nothing.
    #[must_use]
    pub fn watermark(&self) -> i64 {
        self.stream_times.iter().copied().min().unwrap_or(i64::MIN)
    }

    /// Merges one record of partials.
    ///
    /// # Errors
    /// [`TaskError`]: the topic is internal, so whatever is wrong with it must be looked at.
    pub fn process(&mut self, record: &Record, outbox: &mut Outbox) -> Result<(), TaskError> {
        if record.offset < self.next_offset {
            return Ok(());
        }
        let at =
            || format!("{}-{}@{}", self.shared.partials_topic, record.partition, record.offset);
        let broken = |what: String| TaskError::Broken { at: at(), what };
        match self.sequences.observe(record) {
            Sequence::Next => {}
            Sequence::Repeat => return Err(broken("a record of partials came twice".into())),
            Sequence::Gap { expected, found } => {
                let what =
                    format!("records of partials are missing: expected {expected}, found {found}");
                return Err(broken(what));
            }
        }
        let (partition, stream_time, partials) = read_partials(record.value.as_deref())
            .map_err(|e| broken(format!("not a record of partials: {e}")))?;
        let source = usize::try_from(partition).ok().filter(|p| *p < self.stream_times.len());
        let source = source.ok_or_else(|| broken(format!("from source partition {partition}")))?;
        if let Some((query, _)) = partials.iter().find(|(query, _)| *query >= self.queries.len()) {
            return Err(broken(format!("names query {query}, which is not there")));
        }
        self.next_offset = record.offset + 1;
        self.counts.records_in += 1;
        for (query, partial) in &partials {
            let merged = self.merge(*query, partial, record, outbox);
            merged.map_err(|cause| TaskError::Overflow {
                at: format!(
                    "{}-{}@{}",
                    self.shared.partials_topic, record.partition, record.offset
                ),
                cause,
            })?;
        }
        self.stream_times[source] = self.stream_times[source].max(stream_time);
        Ok(())
    }

    fn merge(
        &mut self,
        index: usize,
        partial: &Partial,
        record: &Record,
        outbox: &mut Outbox,
    ) -> Result<(), caudal_core::money::SumOverflow> {
        let shared = Arc::clone(&self.shared);
        let (watermark, query) = (self.watermark(), &shared.global[index]);
        let merged = self.queries[index].merge(&query.plan, partial, watermark)?;
        self.ledger.partials += 1;
        self.ledger.records += u64::try_from(partial.values.count).unwrap_or(0);
        let until = match merged {
            Merged::Merged => return Ok(()),
            Merged::PartlyLate { until } => until,
            Merged::TooLate => i64::MAX,
        };
        self.ledger.too_late += 1;
        self.counts.late += 1;
        for row in partial.rows(&query.plan.window, until) {
            self.emit_row(index, &row, true, record.offset, outbox);
        }
        Ok(())
    }

    fn emit_row(
        &mut self,
        index: usize,
        row: &Row,
        too_late: bool,
        offset: i64,
        outbox: &mut Outbox,
    ) {
        let shared = Arc::clone(&self.shared);
        let query = &shared.global[index];
        // The group was written by this plan, so it has this plan's columns.
        let Some(values) = group::row(&query.plan, &row.group, row.start, &row.values) else {
            return;
        };
        self.outputs.emit(
            outbox,
            Output {
                topic: if too_late { &query.late_topic } else { &query.topic },
                partition: self.id.partition,
                key: Some(group::row_key(&row.group, row.start)),
                value: Some(query.row_schema.encode(query.schema_id, &values)),
                source: (self.id.partition, offset),
                headers: Vec::new(),
            },
        );
    }

    /// Closes the batch: changed rows, then the state block.
    pub fn finish(&mut self, outbox: &mut Outbox) {
        let (shared, watermark) = (Arc::clone(&self.shared), self.watermark());
        let mut entries = Vec::new();
        for (i, query) in shared.global.iter().enumerate() {
            for row in self.queries[i].changed_rows(&query.plan).unwrap_or_default() {
                self.emit_row(i, &row, false, self.next_offset - 1, outbox);
            }
            let is_open = |p: &Partial| !query.plan.window.is_closed(p.pane, watermark);
            let open = self.queries[i].changed().filter(is_open);
            entries.extend(open.map(|partial| Entry::Total(i, partial)));
        }
        self.evict();
        let block = Block {
            task: self.id,
            sequence: self.block_sequence,
            fingerprint: shared.fingerprint,
            partitions: shared.partitions,
            next_offset: self.next_offset,
            body: self.body(),
            entries,
        };
        self.block_sequence += 1;
        for part in block.into_parts() {
            outbox.records.push(OutRecord {
                topic: Arc::clone(&shared.state_topic),
                partition: self.id.partition,
                key: Some(self.id.to_string().into_bytes()),
                value: Some(part),
                headers: Vec::new(),
            });
        }
    }

    fn evict(&mut self) {
        let watermark = self.watermark();
        for (state, query) in self.queries.iter_mut().zip(&self.shared.global) {
            state.commit(&query.plan, watermark);
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.long(i64::try_from(self.stream_times.len()).unwrap_or(0));
        self.stream_times.iter().for_each(|time| out.long(*time));
        write_count(&mut out, self.sequences.last.len() as u64);
        for (task, last) in &self.sequences.last {
            out.string(task);
            write_count(&mut out, *last);
        }
        self.ledger.write(&mut out);
        self.outputs.write(&mut out);
        out.into_bytes()
    }

    /// Applies a block that was read back.
    ///
    /// # Errors
    /// When the block's body is damaged or names a query that is not there.
    pub fn apply(&mut self, block: Block) -> Result<(), AvroError> {
        let mut input = Reader::new(&block.body);
        let times: Result<Vec<i64>, _> = (0..input.length()?).map(|_| input.long()).collect();
        self.stream_times = times?;
        self.sequences.last.clear();
        for _ in 0..input.length()? {
            let task = input.string()?.to_owned();
            self.sequences.last.insert(task, read_count(&mut input)?);
        }
        self.ledger = GroupLedger::read(&mut input)?;
        self.outputs.read(&mut input)?;
        input.end()?;
        for entry in block.entries {
            let Entry::Total(i, total) = entry else {
                return Err(input.error("entry of stage 1 in a block of stage 2"));
            };
            let state = self.queries.get_mut(i).ok_or(input.error("unknown query"))?;
            state.restore(&total);
        }
        self.next_offset = block.next_offset;
        self.block_sequence = block.sequence + 1;
        self.evict();
        Ok(())
    }
}

type Partials = (i64, i64, Vec<(usize, Partial)>);

fn read_partials(value: Option<&[u8]>) -> Result<Partials, AvroError> {
    let mut input = Reader::new(value.unwrap_or_default());
    let (partition, stream_time) = (input.long()?, input.long()?);
    let mut partials = Vec::new();
    while !input.is_at_end() {
        let query = usize::try_from(input.long()?).map_err(|_| input.error("query"))?;
        partials.push((query, Partial::read(&mut input)?));
    }
    Ok((partition, stream_time, partials))
}
