//! What one db_tx does: lock the positions, write rows and dead letters, move the positions.

use crate::batch::{Batch, Moves, dead_letter_of};
use crate::dead_letter;
use crate::fault::{Action, Fault};
use crate::ledger::Fate;
use crate::postgres;
use crate::store::Stored;
use crate::unnest::Arrays;
use crate::write;
use caudal_kafka::TopicPartition;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use std::collections::BTreeMap;

pub(crate) enum Failure {
    Fault(Fault),
    Fenced(Vec<TopicPartition>),
    Halt(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        Failure::Fault(error.into())
    }
}

pub(crate) enum Progress {
    Written(Stored, Vec<Fate>),
    AlreadyStored,
}

/// How carefully a batch is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Care {
    /// Appends go through staging tables.
    pub staging: bool,
    /// Poison rows are isolated under savepoints.
    pub isolating: bool,
    /// Rows without their parent row are poison.
    pub orphans: bool,
}

pub(crate) async fn write_batch(
    connection: &mut PgConnection,
    batch: &Batch,
    arrays: &BTreeMap<String, Option<Arrays>>,
    care: Care,
) -> Result<Progress, Failure> {
    // Immediate: a deferred constraint would speak at COMMIT, when no row can be isolated.
    connection.execute("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await?;
    let locked = postgres::lock(connection, batch.moves.keys()).await?;
    let mut fenced = Vec::new();
    let mut done = 0;
    for (at, (expected, after)) in &batch.moves {
        match locked.get(at) {
            Some((epoch, next)) if *epoch == after.epoch && next == expected => {}
            Some((epoch, next)) if *epoch == after.epoch && *next == after.next_offset => done += 1,
            _ => fenced.push(at.clone()),
        }
    }
    if !fenced.is_empty() {
        return Err(Failure::Fenced(fenced));
    }
    if done == batch.moves.len() {
        return Ok(Progress::AlreadyStored);
    }
    if done > 0 {
        let why = "sink_offsets holds one part of a batch without the other";
        return Err(Failure::Halt(why.into()));
    }
    let mut fates = batch.fates.clone();
    for rows in &batch.tables {
        let arrays = arrays.get(&rows.table.name).and_then(Option::as_ref);
        if care.isolating {
            write::isolating(connection, rows, arrays, &mut fates, care.orphans).await?;
        } else if care.staging || rows.mode.keeps_last() {
            write::through_staging(connection, rows, arrays, &mut fates).await?;
        } else {
            write::append(connection, rows).await?;
        }
    }
    let dead = write::dead_letters(connection, batch, &fates).await.map_err(dead_letter_there)?;
    let (stored, moves) = account(batch, &fates, dead, care)?;
    let moved = postgres::advance(connection, &moves).await?;
    if usize::try_from(moved) != Ok(moves.len()) {
        // The rows were locked above: only a hand in the table can do this.
        return Err(Failure::Fenced(moves.into_keys().collect()));
    }
    Ok(Progress::Written(stored, fates))
}

/// A dead letter's key is where it was read, and positions move with it: it can be there already
/// only when the topic is not the one it was.
fn dead_letter_there(fault: Fault) -> Failure {
    if fault.action == Action::RedoThroughStaging {
        let why = "dead_letters already has a record of this topic, partition and offset: \
                   was the topic deleted and created again? docs/topics-that-change.md says how \
                   to set the old letters aside";
        return Failure::Halt(why.into());
    }
    Failure::Fault(fault)
}

fn account(
    batch: &Batch,
    fates: &[Fate],
    dead_letters: u64,
    care: Care,
) -> Result<(Stored, Moves), Failure> {
    let mut moves = batch.moves.clone();
    let mut stored = Stored { staged: care.staging, ..Stored::default() };
    let mut at = 0;
    for run in batch.records.chunk_by(|(a, _), (b, _)| a == b) {
        let partition = &run[0].0;
        let of_run = at..at + run.len();
        at = of_run.end;
        let Some((_, position)) = moves.get_mut(partition) else { continue };
        for at in of_run {
            let added = position.ledger.add(&fates[at], batch.money[at]);
            added.map_err(|e| Failure::Halt(format!("{}-{}: {e}", partition.0, partition.1)))?;
        }
    }
    for fate in fates {
        match fate {
            Fate::Duplicate => stored.duplicates += 1,
            Fate::Conflict => stored.conflicts += 1,
            Fate::Row | Fate::Gone | Fate::Dead(..) => {}
        }
        if let Some((reason, _)) = dead_letter_of(fate) {
            *stored.dead.entry(reason.as_str()).or_default() += 1;
        }
    }
    for rows in &batch.tables {
        let count = |fate| rows.rows.iter().filter(|row| fates[row.record] == fate).count() as u64;
        stored.rows.insert(rows.table.name.clone(), count(Fate::Row));
        let deleted = count(Fate::Gone);
        if deleted > 0 {
            stored.deleted.insert(rows.table.name.clone(), deleted);
        }
    }
    if dead_letters > 0 {
        stored.rows.insert(dead_letter::TABLE.to_owned(), dead_letters);
    }
    stored.positions = moves.iter().map(|(at, (_, after))| (at.clone(), after.clone())).collect();
    Ok((stored, moves))
}
