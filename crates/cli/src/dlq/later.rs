//! Whether a key of an upserted table has a later value: then an old one must not replace it.

use anyhow::Result;
use caudal_kafka::args::Isolation;
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Offsets;
use caudal_kafka::{Kafka, TopicPartition};
use caudal_sink::config::Config;
use caudal_sink::letters::{Known, Letter};
use caudal_sink::postgres::positions;
use sqlx::postgres::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// Reads the topics of upserted tables from each letter up to the sink's position.
///
/// Gives what is known of `letters`, and the indexes of those of which nothing can be: their topic no
/// longer holds what came after them.
///
/// # Errors
/// When Kafka or PostgreSQL does not answer.
pub async fn look(
    kafka: &Kafka,
    config: &Config,
    connection: &mut PgConnection,
    letters: &[Letter],
) -> Result<(Known, BTreeSet<usize>)> {
    let is_upserted = |letter: &Letter| {
        config.routes.get(&letter.at.0).is_some_and(|route| route.mode.keeps_last())
    };
    let mut wanted: BTreeMap<&TopicPartition, Vec<usize>> = BTreeMap::new();
    for (at, letter) in letters.iter().enumerate().filter(|(_, letter)| is_upserted(letter)) {
        wanted.entry(&letter.at).or_default().push(at);
    }
    let (mut known, mut unknown) = (Known::default(), BTreeSet::new());
    let topics: BTreeSet<String> = wanted.keys().map(|at| at.0.to_string()).collect();
    let stored = positions(connection, &topics.into_iter().collect::<Vec<_>>()).await?;
    for (at, indexes) in wanted {
        let next = stored.get(at).map_or(0, |position| position.next_offset);
        known.positions.insert(at.clone(), next);
        let dead = dead_offsets(connection, at).await?;
        let letters: Vec<(usize, &Letter)> = indexes.iter().map(|i| (*i, &letters[*i])).collect();
        let found = tokio::task::block_in_place(|| scan(kafka, at, next, &dead, &letters))?;
        known.superseded.extend(found.0);
        unknown.extend(found.1);
    }
    Ok((known, unknown))
}

/// Offsets of a partition that are dead letters still: they replace nothing.
async fn dead_offsets(connection: &mut PgConnection, at: &TopicPartition) -> Result<BTreeSet<i64>> {
    let offsets: Vec<i64> = sqlx::query_scalar(
        "SELECT \"offset\" FROM dead_letters
         WHERE topic = $1 AND partition = $2 AND redriven_at IS NULL
         UNION ALL
         SELECT \"offset\" FROM retired_letters WHERE topic = $1 AND partition = $2",
    )
    .bind(&*at.0)
    .bind(at.1)
    .fetch_all(connection)
    .await?;
    Ok(offsets.into_iter().collect())
}

type Found = (Vec<usize>, Vec<usize>);

/// Of letters of one partition: those with a later value below `next`, and those of which the topic
/// does not tell.
fn scan(
    kafka: &Kafka,
    at: &TopicPartition,
    next: i64,
    dead: &BTreeSet<i64>,
    letters: &[(usize, &Letter)],
) -> Result<Found> {
    let offset = |letter: &Letter| letter.record.offset;
    let offsets = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-dlq")?;
    let (first, _) = offsets.watermarks(&at.0, at.1)?;
    let (told, untold): (Vec<&(usize, &Letter)>, Vec<_>) =
        letters.iter().partition(|(_, letter)| offset(letter) + 1 >= first);
    let untold = untold.into_iter().map(|(index, _)| *index).collect();
    let Some(from) = told.iter().map(|(_, letter)| offset(letter) + 1).min() else {
        return Ok((Vec::new(), untold));
    };
    let mut last_of_key: HashMap<Box<[u8]>, i64> = HashMap::new();
    let mut reader = LogReader::connect(kafka, &at.0)?;
    reader.add(at.1, Some(from));
    reader.read_all::<caudal_kafka::Error>(PATIENCE, |record| {
        if let (true, Some(key)) = (record.offset < next, record.key)
            && !dead.contains(&record.offset)
        {
            last_of_key.insert(key, record.offset);
        }
        Ok(())
    })?;
    let is_superseded = |letter: &Letter| {
        let key = letter.record.key.as_deref();
        key.and_then(|key| last_of_key.get(key)).is_some_and(|last| *last > offset(letter))
    };
    let superseded = told.iter().filter(|(_, letter)| is_superseded(letter));
    Ok((superseded.map(|(index, _)| *index).collect(), untold))
}
