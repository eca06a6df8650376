//! State blocks: what a commit changed in a task's state, and a share of what it did not change
//! ([`crate::sweep`]), written to `caudal_estado` in the same txn.
//!
//! A block is split into parts below 1 MiB; each part carries its number and a checksum. Parts of
//! two tasks may alternate in a partition (both stages of one number share it, and two processes
//! may own them), never parts of one task.

mod heads;

use crate::shared::{Shared, Stage, TaskId};
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::dedup::Seen;
use caudal_core::ledger::{read_count, write_count};
use caudal_query::plan::PlanFingerprint;

pub use heads::Heads;

/// Of a block whose task has never seen the topics grow.
const VERSION: i64 = 2;
/// Of one that has: its head ends with [`Head::growths`].
const GROWN: i64 = 3;

/// The topics got more partitions, and the tasks' state was moved with the keys
/// (`caudal topics migrate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Number of partitions before.
    pub partitions: i32,
    /// Next input offset of the task at that moment: records below it were routed by the number
    /// before.
    pub next_offset: i64,
}

/// Where a query of a block stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanState {
    /// Name of the query.
    pub name: String,
    /// Its definition.
    pub fingerprint: PlanFingerprint,
    /// Sequence of the task's first block with this definition: a query that was dropped and added
    /// again has another one, and so does not find its old entries.
    pub incarnation: u64,
    /// 1, and one more for each `--reset-query`: header `caudal.version` of its rows.
    pub version: u32,
}

/// All of a block but its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose state.
    pub task: TaskId,
    /// Number of this block, contiguous per task from 0.
    pub sequence: u64,
    /// Reading from the block with this number up to this one gives the whole state: the number of
    /// the first block of the last sweep that has closed. 0 before the first.
    pub complete_from: u64,
    /// [`Shared::rules`] when it was written.
    pub rules: [u8; 16],
    /// [`Shared::partitions`] when it was written.
    pub partitions: i32,
    /// The queries; entries refer to them by their place here.
    pub plans: Vec<PlanState>,
    /// Next input offset after this block's batch.
    pub next_offset: i64,
    /// Next offset of the reference table that this block's batch was joined with; 0 where no query
    /// joins one.
    pub table_offset: i64,
    /// What only the task itself reads: ledger, stream time, watermarks, sequences.
    pub body: Vec<u8>,
    /// Every growth of the topics, oldest first. All tasks have been through the same ones: what is
    /// older than a task lies below its first offset.
    pub growths: Vec<Growth>,
}

/// Entries of a block being written, in parts.
#[derive(Debug)]
pub struct Entries {
    chunks: Vec<(u64, Writer)>,
    part: usize,
    full: usize,
}

impl Entries {
    /// None yet; parts of about `part` bytes.
    #[must_use]
    pub fn new(part: usize) -> Entries {
        Entries { chunks: vec![(0, Writer::new())], part, full: 0 }
    }

    /// Adds an id that dedup remembers.
    pub fn seen(&mut self, seen: &Seen) {
        self.push(|out| {
            out.long(0);
            seen.write(out);
        });
    }

    /// Adds an accumulator of a query, by the query's place in [`Head::plans`].
    pub fn accumulator(&mut self, plan: usize, write: impl FnOnce(&mut Writer)) {
        self.push(|out| {
            out.long(1);
            write_count(out, plan as u64);
            write(out);
        });
    }

    fn push(&mut self, write: impl FnOnce(&mut Writer)) {
        if self.chunks.last().is_some_and(|(_, chunk)| chunk.len() >= self.part) {
            self.full += self.chunks.last().map_or(0, |(_, chunk)| chunk.len());
            self.chunks.push((0, Writer::new()));
        }
        if let Some((count, chunk)) = self.chunks.last_mut() {
            *count += 1;
            write(chunk);
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.full + self.chunks.last().map_or(0, |(_, chunk)| chunk.len())
    }

    /// The parts, ready to be produced in this order.
    #[must_use]
    pub fn into_parts(self, head: &Head) -> Vec<Vec<u8>> {
        let total = self.chunks.len() as u64;
        let parts = self.chunks.into_iter().enumerate().map(|(i, (count, chunk))| {
            let mut out = Writer::new();
            out.long(if head.growths.is_empty() { VERSION } else { GROWN });
            out.long(stage_number(head.task.stage));
            out.long(i64::from(head.task.partition));
            write_count(&mut out, head.sequence);
            write_count(&mut out, i as u64);
            write_count(&mut out, total);
            if i == 0 {
                head.write(&mut out);
            }
            write_count(&mut out, count);
            let mut bytes = out.into_bytes();
            bytes.extend_from_slice(&chunk.into_bytes());
            let checksum = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&checksum.to_be_bytes());
            bytes
        });
        parts.collect()
    }
}

impl Head {
    fn write(&self, out: &mut Writer) {
        write_count(out, self.complete_from);
        out.fixed16(&self.rules);
        out.long(i64::from(self.partitions));
        write_count(out, self.plans.len() as u64);
        for plan in &self.plans {
            out.string(&plan.name);
            out.bytes(&plan.fingerprint);
            write_count(out, plan.incarnation);
            write_count(out, u64::from(plan.version));
        }
        out.long(self.next_offset);
        out.long(self.table_offset);
        out.bytes(&self.body);
        if !self.growths.is_empty() {
            write_count(out, self.growths.len() as u64);
            for growth in &self.growths {
                out.long(i64::from(growth.partitions));
                out.long(growth.next_offset);
            }
        }
    }

    fn read(
        (version, task): (i64, TaskId),
        sequence: u64,
        input: &mut Reader<'_>,
    ) -> Result<Head, BlockError> {
        let complete_from = read_count(input)?;
        let rules = input.fixed16()?;
        let partitions = i32::try_from(input.long()?).unwrap_or(0);
        let mut plans = Vec::new();
        for _ in 0..input.length()? {
            plans.push(PlanState {
                name: input.string()?.to_owned(),
                fingerprint: input
                    .bytes()?
                    .try_into()
                    .map_err(|_| BlockError::Damaged("fingerprint of a query".into()))?,
                incarnation: read_count(input)?,
                version: u32::try_from(read_count(input)?).unwrap_or(u32::MAX),
            });
        }
        let (next_offset, table_offset) = (input.long()?, input.long()?);
        let body = input.bytes()?.to_vec();
        let mut growths = Vec::new();
        for _ in 0..if version == GROWN { input.length()? } else { 0 } {
            let partitions = i32::try_from(input.long()?).unwrap_or(0);
            growths.push(Growth { partitions, next_offset: input.long()? });
        }
        Ok(Head {
            task,
            sequence,
            complete_from,
            rules,
            partitions,
            plans,
            next_offset,
            table_offset,
            body,
            growths,
        })
    }
}

/// A whole block that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// All but the entries.
    pub head: Head,
    /// Number of entries and their bytes, per part.
    pub chunks: Vec<(u64, Vec<u8>)>,
}

/// One piece of state, as an absolute value; an accumulator's own bytes follow in the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// An id that dedup remembers.
    Seen(Seen),
    /// An accumulator of the query at this place of [`Head::plans`].
    Accumulator(usize),
}

impl Block {
    /// Gives each entry to `take`, which must read an accumulator's bytes to their end.
    ///
    /// # Errors
    /// When the bytes are not entries, or what `take` returns.
    pub fn for_each(
        &self,
        mut take: impl FnMut(Entry, &mut Reader<'_>) -> Result<(), AvroError>,
    ) -> Result<(), AvroError> {
        for (count, bytes) in &self.chunks {
            let mut input = Reader::new(bytes);
            for _ in 0..*count {
                let entry = match input.long()? {
                    0 => Entry::Seen(Seen::read(&mut input)?),
                    1 => {
                        let plan = usize::try_from(input.long()?);
                        let plan = plan.ok().filter(|p| *p < self.head.plans.len());
                        Entry::Accumulator(plan.ok_or(input.error("unknown query"))?)
                    }
                    _ => return Err(input.error("unknown entry")),
                };
                take(entry, &mut input)?;
            }
            input.end()?;
        }
        Ok(())
    }
}

/// A block that cannot be used: the restore halts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Damaged or of another format.
    #[error("state block is damaged: {0}")]
    Damaged(String),
    /// Parts or whole blocks are missing.
    #[error("state blocks are missing: {0}")]
    Missing(String),
}

impl From<AvroError> for BlockError {
    fn from(error: AvroError) -> Self {
        BlockError::Damaged(error.to_string())
    }
}

/// The task that a part belongs to: looked at before anything else of it is read.
///
/// # Errors
/// When the checksum is wrong or the beginning is not a part's.
pub fn task_of(part: &[u8]) -> Result<TaskId, BlockError> {
    let mut input = Reader::new(checked(part)?);
    Ok(read_task(&mut input)?.1)
}

fn checked(part: &[u8]) -> Result<&[u8], BlockError> {
    let damaged = || BlockError::Damaged("checksum".into());
    let split = part.len().checked_sub(4).ok_or_else(damaged)?;
    let (bytes, checksum) = part.split_at(split);
    let expected = crc32fast::hash(bytes).to_be_bytes();
    if checksum == expected { Ok(bytes) } else { Err(damaged()) }
}

/// Tasks of other streams have no blocks.
fn stage_number(stage: Stage) -> i64 {
    match stage {
        Stage::Account => 1,
        Stage::Group => 2,
        Stage::Source(_) => 0,
    }
}

/// The version of a part, and its task.
fn read_task(input: &mut Reader<'_>) -> Result<(i64, TaskId), BlockError> {
    let version = input.long()?;
    if version != VERSION && version != GROWN {
        return Err(BlockError::Damaged("written by another version".into()));
    }
    let stage = match input.long()? {
        1 => Stage::Account,
        2 => Stage::Group,
        other => return Err(BlockError::Damaged(format!("stage {other}"))),
    };
    let partition = i32::try_from(input.long()?);
    let partition = partition.map_err(|_| BlockError::Damaged("partition".into()))?;
    Ok((version, TaskId { stage, partition }))
}

/// Puts parts together and checks that neither parts nor blocks are missing.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<(Block, u64, u64)>,
    first_sequence: Option<u64>,
    last: Option<(u64, u64)>,
}

impl Assembler {
    /// Takes the next part of its task; gives the block when it is whole.
    ///
    /// The log is cut at the first record of one task's block, which may lie between two parts of
    /// another's: parts at the very beginning without their block's first one are passed over.
    /// That nothing needed was cut off is checked by [`Assembler::finish`].
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn add(&mut self, part: &[u8]) -> Result<Option<Block>, BlockError> {
        let mut input = Reader::new(checked(part)?);
        let (version, task) = read_task(&mut input)?;
        let sequence = read_count(&mut input)?;
        let (index, total) = (read_count(&mut input)?, read_count(&mut input)?);
        let (mut block, expected) = match self.open.take() {
            None if index == 0 => {
                self.check_sequence(task, sequence)?;
                let head = Head::read((version, task), sequence, &mut input)?;
                (Block { head, chunks: Vec::new() }, 0)
            }
            None if self.first_sequence.is_none() => return Ok(None),
            Some((block, next, _)) if block.head.sequence == sequence => (block, next),
            _ => {
                let what = format!("part {} of block {sequence} of task {task}", index + 1);
                return Err(BlockError::Missing(format!("{what} has no predecessor")));
            }
        };
        if index != expected {
            let what =
                format!("part {} of {total} of block {sequence} of task {task}", expected + 1);
            return Err(BlockError::Missing(what));
        }
        let count = read_count(&mut input)?;
        block.chunks.push((count, input.rest().to_vec()));
        if index + 1 < total {
            self.open = Some((block, index + 1, total));
            return Ok(None);
        }
        self.last = Some((sequence, block.head.complete_from));
        Ok(Some(block))
    }

    fn check_sequence(&mut self, task: TaskId, sequence: u64) -> Result<(), BlockError> {
        self.first_sequence.get_or_insert(sequence);
        match self.last {
            Some((last, _)) if sequence != last + 1 => Err(BlockError::Missing(format!(
                "after block {last} of task {task} comes block {sequence}"
            ))),
            _ => Ok(()),
        }
    }

    /// That no block is cut off at the end, and that the log begins early enough to give the whole
    /// state.
    ///
    /// # Errors
    /// [`BlockError::Missing`].
    pub fn finish(&self, task: TaskId) -> Result<(), BlockError> {
        if let Some((block, next, total)) = &self.open {
            return Err(BlockError::Missing(format!(
                "part {} of {total} of block {} of task {task}",
                next + 1,
                block.head.sequence,
            )));
        }
        match (self.first_sequence, self.last) {
            (Some(first), Some((_, needed))) if first > needed => {
                Err(BlockError::Missing(format!(
                    "the log of task {task} begins with block {first}, block {needed} is needed"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a task's last block was written for the same partition count, validation and horizon.
///
/// # Errors
/// A text that says what differs and what to do.
pub fn check_compatible(head: &Head, shared: &Shared) -> Result<(), String> {
    if head.partitions < shared.partitions {
        let (had, has) = (head.partitions, shared.partitions);
        return Err(format!(
            "the state was made with {had} partitions, the topics have {has}: keys have moved away \
             from their state. Move it after them: stop the services, then \
             `caudal topics migrate --partitions {has}`"
        ));
    }
    if head.partitions > shared.partitions {
        return Err(format!(
            "the state was made with {} partitions, the topics have {}. Partitions cannot be taken \
             away. Give the topics their partition count back (new topics, filled again), or start \
             over: stop the services, `caudal reset`, then send the sources again",
            head.partitions, shared.partitions
        ));
    }
    if head.rules != shared.rules && !shared.adopt_rules {
        return Err("the state was made with other validation rules or another dedup horizon. \
             Run with the version and --dedup-horizon-s that made it, or once with --adopt rules: \
             the new ones then hold from here on, and what was decided stays as it is"
            .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
