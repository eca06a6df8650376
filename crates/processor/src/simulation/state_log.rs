//! The blocks of `caudal_estado`, all that were ever committed, and what is left after the cuts.

use super::cluster::Cluster;
use super::oracle::Verdict;
use crate::block::{Assembler, Block, task_of};
use crate::shared::{Stage, TaskId};
use caudal_core::topics;
use std::collections::BTreeMap;

/// Per task, its blocks in order.
pub struct StateLog {
    blocks: BTreeMap<TaskId, Vec<Block>>,
}

impl StateLog {
    /// Reads all of it.
    ///
    /// # Errors
    /// When a block is missing or damaged, or one goes backwards.
    pub fn read(cluster: &Cluster) -> Result<StateLog, String> {
        let mut blocks: BTreeMap<TaskId, Vec<Block>> = BTreeMap::new();
        let mut assemblers: BTreeMap<TaskId, Assembler> = BTreeMap::new();
        for (partition, log) in cluster.partitions(topics::ESTADO) {
            for record in log.ever_committed().map(|visible| visible.record) {
                let at = || format!("{}-{partition}@{}", topics::ESTADO, record.offset);
                let part = record.value.as_deref().unwrap_or_default();
                let task = task_of(part).map_err(|e| format!("{}: {e}", at()))?;
                let block = assemblers.entry(task).or_default().add(part);
                if let Some(block) = block.map_err(|e| format!("{}: {e}", at()))? {
                    blocks.entry(task).or_default().push(block);
                }
            }
        }
        let log = StateLog { blocks };
        log.check_order()?;
        Ok(log)
    }

    fn check_order(&self) -> Verdict {
        for (task, blocks) in &self.blocks {
            for (at, block) in blocks.iter().enumerate() {
                if block.head.sequence != at as u64 {
                    return Err(format!("block {at} of task {task} is {}", block.head.sequence));
                }
            }
            for pair in blocks.windows(2) {
                let (a, b) = (&pair[0].head, &pair[1].head);
                let forward = a.next_offset <= b.next_offset
                    && a.table_offset <= b.table_offset
                    && a.complete_from <= b.complete_from;
                if !forward {
                    return Err(format!("task {task} goes backwards: {a:?} then {b:?}"));
                }
            }
        }
        Ok(())
    }

    /// A task's last block.
    pub fn last(&self, stage: Stage, partition: i32) -> Option<&Block> {
        self.blocks.get(&TaskId { stage, partition })?.last()
    }

    /// The table's offset that a record of `transacciones` was joined at: that of the block whose
    /// batch held it.
    pub fn table_offset(&self, partition: i32, offset: i64) -> Option<i64> {
        let id = TaskId { stage: Stage::Account, partition };
        let block = self.blocks.get(&id)?.iter().find(|block| block.head.next_offset > offset);
        block.map(|block| block.head.table_offset)
    }
}
