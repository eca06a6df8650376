//! Topics that are not the pipeline's own: every record below the sink's position is a row, a
//! duplicate, a tombstone or a dead letter, and the tables hold what the records say.
//!
//! Records are counted for every such topic. Where the sink's file is at hand, they are read as the
//! sink reads them ([`reader`]), and the tables compared with them row by row ([`contents`]).

mod contents;
mod fields;
mod reader;

use super::differences::Differences;
use super::identity::half;
use super::place::Place;
use super::reading::Reading;
use super::sheet::{Hop, Sheet, grouped};
use super::tables::{OtherLedger, Snapshot};
use anyhow::Result;
use caudal_core::decode::Record;
use caudal_kafka::Kafka;
use caudal_kafka::admin::{Admin, Topic};
use caudal_sink::columns::Shape;
use caudal_sink::config::InsertMode;
use caudal_sink::learn::Routes;
use contents::{Contents, Form};
use reader::{Read, Reader, Standing};
use std::collections::BTreeMap;
use tokio::task::block_in_place;

/// What verify works with.
pub struct Work<'w, 'k> {
    pub kafka: &'k Kafka,
    pub reading: &'w mut Reading<'k>,
    pub snapshot: &'w mut Snapshot,
    pub differences: &'w mut Differences,
    pub sheet: &'w mut Sheet,
}

/// What was read of one topic.
#[derive(Debug, Default)]
struct Found {
    /// Records below the sink's position, by partition.
    records: BTreeMap<i32, u64>,
    /// Dead letters of theirs, by partition.
    letters: BTreeMap<i32, u64>,
    in_flight: u64,
    /// Whether records below the position are gone.
    cut: bool,
}

/// Compares all of them. `routes` are those of the sink's file.
///
/// # Errors
/// When something cannot be read.
pub async fn compare(work: Work<'_, '_>, ledgers: Vec<OtherLedger>, routes: Routes) -> Result<()> {
    if ledgers.is_empty() {
        return Ok(());
    }
    let Work { kafka, reading, snapshot, differences, sheet } = work;
    let there = block_in_place(|| Admin::connect(kafka)?.topics())?;
    let names: Vec<String> = ledgers.iter().map(|ledger| ledger.topic.clone()).collect();
    let mut tables: BTreeMap<String, Contents> = BTreeMap::new();
    let mut cut_tables: BTreeMap<String, bool> = BTreeMap::new();
    let mut reader = Reader::new(kafka, routes);
    reader.declared(snapshot.connection()).await?;
    let mut hops = Vec::new();
    for (number, mut ledger) in (0_u8..).zip(ledgers) {
        let name = ledger.topic.clone();
        let Some(topic) = there.get(&name) else {
            let text = format!("topic {name} is gone; the sink has stored records of it");
            match reader.standing(&name) {
                // It may be of a query that there is no more.
                Standing::Unknown => sheet.notes.push(text),
                _ => differences.say(text),
            }
            continue;
        };
        let mut found = begin(reading, topic, &ledger, sheet)?;
        let mut contents = match reader.standing(&name) {
            Standing::Compared(table) => Some(tables.entry(table).or_default()),
            _ => None,
        };
        reading.all(&name, topic.partitions, None, |record| {
            let place = Place::new(number, record.partition, record.offset);
            if !ledger.stored(record) {
                found.in_flight += 1;
                return Ok(());
            }
            *found.records.entry(record.partition).or_default() += 1;
            if claim(&mut ledger, record, differences) {
                *found.letters.entry(record.partition).or_default() += 1;
                return Ok(());
            }
            let Some(contents) = contents.as_deref_mut() else { return Ok(()) };
            match reader.read(&name, record, snapshot.connection())? {
                Read::Row { form, mode, tuple, is_gone } => {
                    if let Err(first) = contents.record((form, mode), tuple, (place, is_gone)) {
                        let first = contents::said_at(first, &names);
                        differences.say(format!(
                            "{name}-{} has the key of {first} with other contents, and is no dead \
                             letter",
                            place.short()
                        ));
                    }
                }
                Read::Refused(why) => differences.say(format!(
                    "{name}-{} can be no row ({why}), and is no dead letter",
                    place.short()
                )),
                Read::NotCompared => {}
            }
            Ok(())
        })?;
        judge(&ledger, &found, differences, sheet);
        match reader.standing(&name) {
            Standing::Compared(table) => *cut_tables.entry(table).or_default() |= found.cut,
            Standing::Untold(why) => sheet.notes.push(format!("{name}: {why}")),
            Standing::Unfit(why) => differences.say(format!("{name}: {why}")),
            Standing::Unknown => sheet.notes.push(format!(
                "{name}: its records were counted; with the sink's --config its table is compared too"
            )),
        }
        let whole = ledger.whole();
        hops.push((name, whole, found.records.values().sum::<u64>()));
    }
    compare_tables(
        snapshot,
        reading,
        &mut reader,
        (&mut tables, &cut_tables),
        &names,
        differences,
        sheet,
    )
    .await?;
    for (name, whole, records) in hops {
        sheet.hops.push(Hop {
            hop: name,
            records_in: records,
            out: whole.rows,
            duplicates: whole.duplicates,
            dead: whole.dead + whole.conflicts,
            ..Hop::default()
        });
    }
    Ok(())
}

/// What is gone of a topic's beginning.
fn begin(
    reading: &Reading<'_>,
    topic: &Topic,
    ledger: &OtherLedger,
    sheet: &mut Sheet,
) -> Result<Found> {
    let first = reading.first_offsets(&topic.name, topic.partitions)?;
    let compacts =
        topic.config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
    let is_cut =
        |(partition, first): (i32, &i64)| *first > 0 && ledger.partitions.contains_key(&partition);
    let cut = compacts || (0..).zip(&first).any(is_cut);
    sheet.retained.insert(topic.name.clone(), first);
    Ok(Found { cut, ..Found::default() })
}

/// Whether a record is a dead letter. Says when that holds other bytes.
fn claim(ledger: &mut OtherLedger, record: &Record, differences: &mut Differences) -> bool {
    let Some(letter) = ledger.letters.remove(&(record.partition, record.offset)) else {
        return false;
    };
    if letter.is_some_and(|payload| payload != record.value.as_deref().map(half)) {
        let (topic, partition, offset) = (&ledger.topic, record.partition, record.offset);
        differences.say(format!(
            "dead_letters {topic}-{partition}@{offset}: the payload is not the record's"
        ));
    }
    true
}

/// Compares the sink's counters with what was read, and says the dead letters of no record.
fn judge(ledger: &OtherLedger, found: &Found, differences: &mut Differences, sheet: &mut Sheet) {
    let topic = &ledger.topic;
    for (partition, (_, says)) in &ledger.partitions {
        let told = says.rows + says.duplicates + says.conflicts + says.dead + says.deleted;
        let read = found.records.get(partition).copied().unwrap_or(0);
        if read > told || read < told && !found.cut {
            differences.say(format!(
                "{topic}-{partition}: the sink says {} records, the topic has {}",
                grouped(told),
                grouped(read)
            ));
        }
        sheet.unproven += told.saturating_sub(read);
        let dead = says.dead + says.conflicts;
        let letters = found.letters.get(partition).copied().unwrap_or(0);
        let left = ledger.letters.keys().filter(|(p, _)| p == partition).count();
        let letters = letters + u64::try_from(left).unwrap_or(0);
        if letters != dead {
            differences.say(format!(
                "{topic}-{partition}: the sink says {} dead letters, there are {}",
                grouped(dead),
                grouped(letters)
            ));
        }
    }
    for (partition, offset) in ledger.letters.keys().filter(|_| !found.cut) {
        differences.say(format!(
            "dead_letters has {topic}-{partition}@{offset}, but there is no such record"
        ));
    }
    *sheet.in_flight.entry("records of other topics before the sink").or_default() +=
        found.in_flight;
}

/// Reads the tables.
async fn compare_tables(
    snapshot: &mut Snapshot,
    reading: &mut Reading<'_>,
    reader: &mut Reader,
    (tables, cut): (&mut BTreeMap<String, Contents>, &BTreeMap<String, bool>),
    topics: &[String],
    differences: &mut Differences,
    sheet: &mut Sheet,
) -> Result<()> {
    for (table, contents) in tables {
        // A schema that could not be bound may have come after the first records.
        let Some((columns, key)) = reader.form_of(table) else {
            sheet.notes.push(format!("table {table} was not compared"));
            continue;
        };
        let form = Form { columns: &columns, key: &key };
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let meter = &mut reading.meter;
        snapshot
            .rows(table, &names, |fields| {
                meter.add(table);
                contents.row(form, fields, (table, topics), differences);
                Ok(())
            })
            .await?;
        let cut = cut.get(table).copied().unwrap_or(false);
        sheet.unproven += contents.finish((table, topics), cut, differences);
        let mut note =
            format!("table {table}: {} rows compared with their records", grouped(contents.found));
        if contents.not_compared > 0 {
            note += &format!(
                ", but {} of keys that came in several partitions: there, not compared",
                grouped(contents.not_compared)
            );
        }
        let altered: Vec<&str> =
            columns.iter().filter(|c| c.alters).map(|c| c.name.as_str()).collect();
        if !altered.is_empty() {
            note += &format!("; without {}, whose type alters values", altered.join(", "));
        }
        sheet.notes.push(note);
    }
    Ok(())
}
