//! State blocks: what a commit changed in a task's state, written to `caudal_estado` in the same
//! txn. A block is split into parts below 1 MiB; each part carries its number and a checksum.

use crate::engine::{Shared, Stage, TaskId};
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::dedup::Seen;
use caudal_core::ledger::{read_count, write_count};
use caudal_query::partials::Partial;

const VERSION: i64 = 1;
/// Entries of one part, in bytes, at most (exceeded by one entry).
const PART_BYTES: usize = 768 * 1024;

/// One piece of state, as an absolute value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An id that dedup remembers.
    Seen(Seen),
    /// A pane of a local query (index among the local ones).
    Pane(usize, Partial),
    /// A total of a global query (index among the global ones).
    Total(usize, Partial),
}

/// A whole block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Whose state.
    pub task: TaskId,
    /// Number of this block, contiguous per task from 0.
    pub sequence: u64,
    /// [`Shared::fingerprint`] when it was written.
    pub fingerprint: [u8; 16],
    /// [`Shared::partitions`] when it was written.
    pub partitions: i32,
    /// Next input offset after this block's batch.
    pub next_offset: i64,
    /// What only the task itself reads: ledger, stream time, watermarks, sequences.
    pub body: Vec<u8>,
    /// What changed.
    pub entries: Vec<Entry>,
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

impl Block {
    /// The parts, ready to be produced in this order.
    #[must_use]
    pub fn into_parts(self) -> Vec<Vec<u8>> {
        let mut chunks: Vec<(u64, Writer)> = vec![(0, Writer::new())];
        for entry in &self.entries {
            if chunks.last().is_some_and(|(_, chunk)| chunk.len() >= PART_BYTES) {
                chunks.push((0, Writer::new()));
            }
            if let Some((count, chunk)) = chunks.last_mut() {
                *count += 1;
                write_entry(chunk, entry);
            }
        }
        let total = chunks.len() as u64;
        let parts = chunks.into_iter().enumerate().map(|(i, (count, chunk))| {
            let mut out = Writer::new();
            out.long(VERSION);
            out.long(self.task.stage.number());
            out.long(i64::from(self.task.partition));
            write_count(&mut out, self.sequence);
            write_count(&mut out, i as u64);
            write_count(&mut out, total);
            if i == 0 {
                out.fixed16(&self.fingerprint);
                out.long(i64::from(self.partitions));
                out.long(self.next_offset);
                out.bytes(&self.body);
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

fn write_entry(out: &mut Writer, entry: &Entry) {
    match entry {
        Entry::Seen(seen) => {
            out.long(0);
            seen.write(out);
        }
        Entry::Pane(query, pane) => {
            out.long(1);
            write_count(out, *query as u64);
            pane.write(out);
        }
        Entry::Total(query, total) => {
            out.long(2);
            write_count(out, *query as u64);
            total.write(out);
        }
    }
}

fn read_entry(input: &mut Reader<'_>) -> Result<Entry, AvroError> {
    let kind = input.long()?;
    if kind == 0 {
        return Seen::read(input).map(Entry::Seen);
    }
    let query = usize::try_from(input.long()?).map_err(|_| input.error("query"))?;
    let partial = Partial::read(input)?;
    match kind {
        1 => Ok(Entry::Pane(query, partial)),
        2 => Ok(Entry::Total(query, partial)),
        _ => Err(input.error("unknown entry")),
    }
}

/// The task that a part belongs to: looked at before anything else of it is read.
///
/// # Errors
/// When the checksum is wrong or the beginning is not a part's.
pub fn task_of(part: &[u8]) -> Result<TaskId, BlockError> {
    let mut input = Reader::new(checked(part)?);
    read_task(&mut input)
}

fn checked(part: &[u8]) -> Result<&[u8], BlockError> {
    let damaged = || BlockError::Damaged("checksum".into());
    let split = part.len().checked_sub(4).ok_or_else(damaged)?;
    let (bytes, checksum) = part.split_at(split);
    let expected = crc32fast::hash(bytes).to_be_bytes();
    if checksum == expected { Ok(bytes) } else { Err(damaged()) }
}

fn read_task(input: &mut Reader<'_>) -> Result<TaskId, BlockError> {
    if input.long()? != VERSION {
        return Err(BlockError::Damaged("written by another version".into()));
    }
    let stage = match input.long()? {
        1 => Stage::Account,
        2 => Stage::Group,
        other => return Err(BlockError::Damaged(format!("stage {other}"))),
    };
    let partition = i32::try_from(input.long()?);
    let partition = partition.map_err(|_| BlockError::Damaged("partition".into()))?;
    Ok(TaskId { stage, partition })
}

/// Puts parts together and checks that neither parts nor blocks are missing.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<(Block, u64, u64)>,
    last_sequence: Option<u64>,
}

impl Assembler {
    /// Takes the next part of its task; gives the block when it is whole.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn add(&mut self, part: &[u8]) -> Result<Option<Block>, BlockError> {
        let mut input = Reader::new(checked(part)?);
        let task = read_task(&mut input)?;
        let sequence = read_count(&mut input)?;
        let (index, total) = (read_count(&mut input)?, read_count(&mut input)?);
        let (mut block, expected) = match self.open.take() {
            None if index == 0 => {
                self.check_sequence(task, sequence)?;
                let block = Block {
                    task,
                    sequence,
                    fingerprint: input.fixed16()?,
                    partitions: i32::try_from(input.long()?).unwrap_or(0),
                    next_offset: input.long()?,
                    body: input.bytes()?.to_vec(),
                    entries: Vec::new(),
                };
                (block, 0)
            }
            Some((block, next, _)) if block.sequence == sequence => (block, next),
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
        for _ in 0..read_count(&mut input)? {
            block.entries.push(read_entry(&mut input)?);
        }
        input.end()?;
        if index + 1 < total {
            self.open = Some((block, index + 1, total));
            return Ok(None);
        }
        self.last_sequence = Some(sequence);
        Ok(Some(block))
    }

    fn check_sequence(&self, task: TaskId, sequence: u64) -> Result<(), BlockError> {
        match self.last_sequence {
            Some(last) if sequence != last + 1 => Err(BlockError::Missing(format!(
                "after block {last} of task {task} comes block {sequence}"
            ))),
            _ => Ok(()),
        }
    }

    /// That no block is cut off at the end.
    ///
    /// # Errors
    /// [`BlockError::Missing`].
    pub fn finish(&self) -> Result<(), BlockError> {
        match &self.open {
            None => Ok(()),
            Some((block, next, total)) => Err(BlockError::Missing(format!(
                "part {} of {total} of block {} of task {}",
                next + 1,
                block.sequence,
                block.task
            ))),
        }
    }
}

/// Whether a block was written for the same queries, validation, horizon and partition count.
///
/// # Errors
/// A text that says what differs and what to do.
pub fn check_compatible(block: &Block, shared: &Shared) -> Result<(), String> {
    if block.partitions != shared.partitions {
        return Err(format!(
            "the state was made with {} partitions, the topic has {}; keys have moved away from \
             their state: give the topic its old partition count, or start over with new topics",
            block.partitions, shared.partitions
        ));
    }
    if block.fingerprint != shared.fingerprint {
        return Err("the state was made with other queries, validation rules or dedup horizon; \
             run the version and options that made it, or start over with new topics"
            .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::aggregate::Accumulator;

    fn block(sequence: u64, entries: usize) -> Block {
        let entry = |i: usize| match i % 3 {
            0 => Entry::Seen(Seen { id: [1; 16], payload: [2; 8], event_time: 0 }),
            1 => Entry::Pane(0, partial(i)),
            _ => Entry::Total(1, partial(i)),
        };
        Block {
            task: TaskId { stage: Stage::Account, partition: 3 },
            sequence,
            fingerprint: [7; 16],
            partitions: 6,
            next_offset: 42,
            body: vec![1, 2, 3],
            entries: (0..entries).map(entry).collect(),
        }
    }

    fn partial(i: usize) -> Partial {
        let values = Accumulator::of(i as i128);
        Partial { group: format!("[\"{}\"]", "x".repeat(200)).into(), pane: 60, from: 60, values }
    }

    #[test]
    fn a_block_of_many_parts_reads_back() {
        for entries in [0, 1, 20_000] {
            let whole = block(0, entries);
            let parts = whole.clone().into_parts();
            assert!(parts.iter().all(|p| p.len() < 1024 * 1024));
            assert_eq!(parts.len() > 1, entries == 20_000);
            let mut assembler = Assembler::default();
            let mut read: Vec<Block> =
                parts.iter().filter_map(|p| assembler.add(p).expect("part")).collect();
            assembler.finish().expect("whole");
            assert_eq!(read.pop(), Some(whole));
        }
    }

    #[test]
    fn missing_parts_and_blocks_are_noticed() {
        let parts = block(0, 20_000).into_parts();
        let mut assembler = Assembler::default();
        assembler.add(&parts[0]).expect("first");
        assert!(assembler.finish().is_err());
        assert!(assembler.add(&parts[2]).is_err());
        assert!(Assembler::default().add(&parts[1]).is_err());
        let mut assembler = Assembler::default();
        assembler.add(&block(0, 1).into_parts()[0]).expect("block 0");
        assert!(matches!(assembler.add(&block(2, 1).into_parts()[0]), Err(BlockError::Missing(_))));
    }

    #[test]
    fn a_damaged_part_is_noticed() {
        let mut part = block(0, 2).into_parts().remove(0);
        part[10] ^= 1;
        assert!(matches!(task_of(&part), Err(BlockError::Damaged(_))));
    }
}
