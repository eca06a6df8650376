//! Reading `dead_letters`, and putting the sink's own into their tables after all.

use crate::batch::{Batch, dead_letter_of};
use crate::config::Route;
use crate::dead_letter::clean;
use crate::fault::Fault;
use crate::ledger::Fate;
use crate::postgres::{self, Position};
use crate::write;
use caudal_core::decode::Record;
use caudal_core::money::{Currency, SumOverflow};
use caudal_core::reject::Reason;
use caudal_kafka::TopicPartition;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor as _, Row as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A dead letter as it is stored.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Where the sink read it.
    pub at: TopicPartition,
    /// Key, value and offset there; no headers.
    pub record: Record,
    /// Why it is one.
    pub reason: Reason,
    /// What was wrong, in words.
    pub error: String,
    /// Its headers as JSON.
    pub headers: String,
    /// Bytes of the whole value, of which a dead letter may hold only the beginning.
    pub original_size: Option<i64>,
    /// Topic, partition and offset at which it was rejected.
    pub source: (Option<String>, Option<i32>, Option<i64>),
    /// How often it was tried again.
    pub replay_count: i32,
    /// When it was stored, and when it was redriven.
    pub times: (String, Option<String>),
}

impl Letter {
    /// `topic-partition@offset`, where the sink read it.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}-{}@{}", self.at.0, self.at.1, self.record.offset)
    }

    /// Whether it holds the value as it was rejected, and not only its beginning.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let held = self.record.value.as_ref().map_or(0, |value| value.len());
        self.original_size.is_none_or(|size| usize::try_from(size) == Ok(held))
    }
}

/// Which dead letters are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of these topics; none: of all.
    pub topics: Vec<String>,
    /// Of these reasons; none: of all.
    pub reasons: Vec<String>,
    /// The one at this place.
    pub place: Option<(String, i32, i64)>,
    /// Tried again less often than this. `None`: redriven ones too.
    pub replays_below: Option<i32>,
}

const COLUMNS: &str = "topic, partition, \"offset\", key, payload, reason, error, headers::text, \
                       original_size, source_topic, source_partition, source_offset, \
                       replay_count, stored_at::text, redriven_at::text";

fn letter(row: &PgRow) -> Result<Letter, Fault> {
    let bytes = |at| row.try_get::<Option<Vec<u8>>, _>(at).map(|b| b.map(Vec::into_boxed_slice));
    let (topic, reason): (String, String) = (row.try_get(0)?, row.try_get(5)?);
    let partition = row.try_get(1)?;
    let (offset, key, value) = (row.try_get(2)?, bytes(3)?, bytes(4)?);
    Ok(Letter {
        at: (Arc::from(topic), partition),
        record: Record { partition, offset, key, value, ..Record::default() },
        reason: Reason::parse(&reason).unwrap_or(Reason::Malformed),
        error: row.try_get(6)?,
        headers: row.try_get(7)?,
        original_size: row.try_get(8)?,
        source: (row.try_get(9)?, row.try_get(10)?, row.try_get(11)?),
        replay_count: row.try_get(12)?,
        times: (row.try_get(13)?, row.try_get(14)?),
    })
}

/// The next dead letters after a place, in the order of places.
///
/// # Errors
/// A [`Fault`].
pub async fn read(
    connection: &mut PgConnection,
    filter: &Filter,
    after: Option<&Letter>,
    most: i64,
) -> Result<Vec<Letter>, Fault> {
    let after = after.map(|l| (l.at.0.to_string(), l.at.1, l.record.offset));
    let after = after.unwrap_or_else(|| (String::new(), -1, -1));
    let place = filter.place.as_ref();
    let statement = format!(
        "SELECT {COLUMNS} FROM dead_letters
         WHERE (cardinality($1::text[]) = 0 OR topic = ANY($1))
             AND (cardinality($2::text[]) = 0 OR reason = ANY($2))
             AND ($3::text IS NULL OR (topic, partition, \"offset\") = ($3, $4, $5))
             AND ($6::integer IS NULL OR (redriven_at IS NULL AND replay_count < $6))
             AND (topic, partition, \"offset\") > ($7, $8, $9)
         ORDER BY topic, partition, \"offset\" LIMIT $10"
    );
    let rows = sqlx::query(&statement)
        .bind(&filter.topics)
        .bind(&filter.reasons)
        .bind(place.map(|(topic, ..)| topic))
        .bind(place.map(|(_, partition, _)| partition))
        .bind(place.map(|(.., offset)| offset))
        .bind(filter.replays_below)
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(most)
        .fetch_all(connection)
        .await?;
    rows.iter().map(letter).collect()
}

/// What a redrive in the database needs to know of the letters.
#[derive(Debug, Default)]
pub struct Known {
    /// The sink's positions at which that was found out: the redrive is void where they have moved.
    pub positions: BTreeMap<TopicPartition, i64>,
    /// Letters, by their index, whose key has a later value that is stored: nothing is written.
    pub superseded: BTreeSet<usize>,
}

/// Puts the sink's own dead letters into their tables, in one db_tx with the ledgers of their
/// positions and the marks on the letters. Gives the fate of each; `None` when a position has moved
/// or somebody else has redriven one: then nothing was done.
///
/// The positions are claimed: a sink that runs loses them for a moment, and finds the new ledgers
/// when it claims them back.
///
/// # Errors
/// A [`Fault`]; nothing was done, unless the answer to the COMMIT was lost: the letters' marks tell.
pub async fn redrive(
    connection: &mut PgConnection,
    routes: &BTreeMap<Arc<str>, Route>,
    letters: &[Letter],
    known: &Known,
) -> Result<Option<Vec<Fate>>, Fault> {
    let records = letters.iter().map(|letter| (letter.at.clone(), letter.record.clone()));
    let batch = Batch::of_letters(records.collect(), routes, &known.superseded);
    for rows in &batch.tables {
        write::create_staging(connection, &rows.table).await?;
    }
    // Immediate: a deferred constraint would speak at COMMIT, when no row can be isolated.
    connection.execute("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await?;
    let done = write_all(connection, &batch, letters, known).await;
    let end = if matches!(done, Ok(Some(_))) { "COMMIT" } else { "ROLLBACK" };
    let ended = connection.execute(end).await;
    // Where the work failed, its error says more than that of the end.
    let done = done?;
    ended?;
    Ok(done)
}

async fn write_all(
    connection: &mut PgConnection,
    batch: &Batch,
    letters: &[Letter],
    known: &Known,
) -> Result<Option<Vec<Fate>>, Fault> {
    let mut moves: BTreeMap<TopicPartition, (i64, Position)> = BTreeMap::new();
    for at in letters.iter().map(|letter| &letter.at).collect::<BTreeSet<_>>() {
        let Some(position) = postgres::claim(connection, at, None, None).await? else {
            return Err(Fault::stop(format!("sink_offsets has no position of {}-{}", at.0, at.1)));
        };
        if known.positions.get(at).is_some_and(|next| *next != position.next_offset) {
            return Ok(None);
        }
        moves.insert(at.clone(), (position.next_offset, position));
    }
    let mut fates = batch.fates.clone();
    for rows in &batch.tables {
        write::isolating(connection, rows, None, &mut fates, true).await?;
    }
    for (at, letter) in letters.iter().enumerate() {
        let Some((_, position)) = moves.get_mut(&letter.at) else { continue };
        account(position, letter.reason, &fates[at], batch.money[at])
            .map_err(|e| Fault::stop(format!("{}: {e}", letter.place())))?;
    }
    let marked = mark(connection, letters, &fates).await?;
    let moved = postgres::advance(connection, &moves).await?;
    let all = usize::try_from(marked) == Ok(letters.len());
    Ok((all && usize::try_from(moved) == Ok(moves.len())).then_some(fates))
}

/// Moves a record in the ledger from the dead letters to its new fate.
fn account(
    position: &mut Position,
    reason: Reason,
    fate: &Fate,
    money: Option<(Currency, i128)>,
) -> Result<(), SumOverflow> {
    // What could not be read had no money when it was counted.
    let had_money = !matches!(reason, Reason::Malformed | Reason::Schema | Reason::NullValue);
    position.ledger.forget(reason, money.filter(|_| had_money))?;
    position.ledger.add(fate, money)
}

async fn mark(
    connection: &mut PgConnection,
    letters: &[Letter],
    fates: &[Fate],
) -> Result<u64, Fault> {
    let wrong: Vec<_> = fates.iter().map(dead_letter_of).collect();
    let marked = sqlx::query(
        "UPDATE dead_letters d SET replay_count = d.replay_count + 1,
             redriven_at = CASE WHEN n.reason IS NULL THEN now() END,
             reason = coalesce(n.reason, d.reason), error = coalesce(n.error, d.error)
         FROM UNNEST($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::text[])
             AS n(topic, partition, \"offset\", reason, error)
         WHERE d.topic = n.topic AND d.partition = n.partition AND d.\"offset\" = n.\"offset\"
             AND d.redriven_at IS NULL",
    )
    .bind(letters.iter().map(|letter| &*letter.at.0).collect::<Vec<&str>>())
    .bind(letters.iter().map(|letter| letter.at.1).collect::<Vec<i32>>())
    .bind(letters.iter().map(|letter| letter.record.offset).collect::<Vec<i64>>())
    .bind(wrong.iter().map(|w| w.map(|(reason, _)| reason.as_str())).collect::<Vec<_>>())
    .bind(wrong.iter().map(|w| w.map(|(_, error)| clean(error))).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(marked.rows_affected())
}
