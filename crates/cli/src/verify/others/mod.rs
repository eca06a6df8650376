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
use anyhow::{Result, ensure};
use caudal_core::decode::Record;
use caudal_kafka::Kafka;
use caudal_kafka::admin::{Admin, Topic};
use caudal_sink::columns::Shape;
use caudal_sink::config::InsertMode;
use caudal_sink::learn::Routes;
use contents::{Contents, Form};
use fields::Column;
use reader::{Read, Reader, Standing};
use std::collections::BTreeMap;
use tokio::task::block_in_place;

/// Most topics: a [`Place`] has room for no more.
const MOST: usize = 256;

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

/// What a table must hold, and whether records that say so are gone.
#[derive(Debug, Default)]
struct Wanted {
    contents: Contents,
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
    let there = block_in_place(|| Admin::connect(work.kafka)?.topics())?;
    let mut reader = Reader::new(work.kafka, routes);
    reader.declared(work.snapshot.connection()).await?;
    ensure!(ledgers.len() <= MOST, "sink_offsets has more than {MOST} topics of others");
    let topics = ledgers.iter().map(|ledger| ledger.topic.clone()).collect();
    let mut comparison = Comparison { work, reader, topics, tables: BTreeMap::new() };
    for (number, ledger) in (0..=u8::MAX).zip(ledgers) {
        comparison.topic(number, there.get(&ledger.topic), ledger)?;
    }
    comparison.tables().await
}

struct Comparison<'w, 'k> {
    work: Work<'w, 'k>,
    reader: Reader,
    /// Names by number, for places.
    topics: Vec<String>,
    tables: BTreeMap<String, Wanted>,
}

impl Comparison<'_, '_> {
    /// Reads a topic, and judges what the sink says of it.
    fn topic(&mut self, number: u8, topic: Option<&Topic>, ledger: OtherLedger) -> Result<()> {
        let name = ledger.topic.clone();
        let Some(topic) = topic else {
            let text = format!("topic {name} is gone; the sink has stored records of it");
            match self.reader.standing(&name) {
                // It may be of a query that there is no more.
                Standing::Unknown => self.work.sheet.notes.push(text),
                _ => self.work.differences.say(text),
            }
            return Ok(());
        };
        let whole = ledger.whole();
        let found = self.records(number, topic, ledger)?;
        let sheet = &mut *self.work.sheet;
        match self.reader.standing(&name) {
            Standing::Compared(table) => self.tables.entry(table).or_default().cut |= found.cut,
            Standing::Untold(why) => sheet.notes.push(format!("{name}: {why}")),
            Standing::Unfit(why) => self.work.differences.say(format!("{name}: {why}")),
            Standing::Unknown => sheet.notes.push(format!(
                "{name}: its records were counted; with the sink's --config its table is compared too"
            )),
        }
        sheet.hops.push(Hop {
            hop: name,
            records_in: found.records.values().sum::<u64>(),
            out: whole.rows,
            duplicates: whole.duplicates,
            dead: whole.dead + whole.conflicts,
            ..Hop::default()
        });
        Ok(())
    }

    fn records(&mut self, number: u8, topic: &Topic, mut ledger: OtherLedger) -> Result<Found> {
        let Comparison { work, reader, topics, tables } = self;
        let Work { reading, snapshot, differences, sheet, .. } = work;
        let mut found = begin(reading, topic, &ledger, sheet)?;
        let mut wanted = match reader.standing(&topic.name) {
            Standing::Compared(table) => Some(tables.entry(table).or_default()),
            _ => None,
        };
        reading.all(&topic.name, topic.partitions, None, |record| {
            if !ledger.stored(record) {
                found.in_flight += 1;
                return Ok(());
            }
            *found.records.entry(record.partition).or_default() += 1;
            if claim(&mut ledger, record, differences) {
                *found.letters.entry(record.partition).or_default() += 1;
                return Ok(());
            }
            let Some(wanted) = &mut wanted else { return Ok(()) };
            let place = Place::new(number, record.partition, record.offset);
            let at = || contents::said_at(place, topics);
            match reader.read(&topic.name, record, snapshot.connection())? {
                Read::Row { form, mode, tuple, is_gone } => {
                    let taken = wanted.contents.record((form, mode), tuple, (place, is_gone));
                    if let Err(first) = taken {
                        differences.say(format!(
                            "{} has the key of {} with other contents, and is no dead letter",
                            at(),
                            contents::said_at(first, topics)
                        ));
                    }
                }
                Read::Refused(why) => {
                    differences
                        .say(format!("{} can be no row ({why}), and is no dead letter", at()));
                }
                Read::NotCompared => {}
            }
            Ok(())
        })?;
        judge(&ledger, &found, differences, sheet);
        Ok(found)
    }

    /// Reads the tables.
    async fn tables(&mut self) -> Result<()> {
        let Comparison { work, reader, topics, tables } = self;
        let Work { reading, snapshot, differences, sheet, .. } = work;
        for (table, Wanted { contents, cut }) in tables {
            let Some((columns, key)) = reader.form_of(table) else {
                sheet.notes.push(format!(
                    "table {table} was not compared: topics that share it differ in its key, or a \
                     type of the key alters values"
                ));
                continue;
            };
            let form = Form { columns: &columns, key: &key };
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            snapshot
                .rows(table, &names, |fields| {
                    reading.meter.add(table);
                    contents.row(form, fields, (table, topics), differences);
                    Ok(())
                })
                .await?;
            sheet.unproven += contents.finish((table, topics), *cut, differences);
            sheet.notes.push(note(table, contents, &columns));
        }
        Ok(())
    }
}

/// What was compared of a table.
fn note(table: &str, contents: &Contents, columns: &[Column]) -> String {
    let rows = grouped(contents.found);
    let mut note = format!("table {table}: {rows} rows compared with their records");
    if contents.not_compared > 0 {
        note += &format!(
            ", but {} of keys that came in several partitions: there, not compared",
            grouped(contents.not_compared)
        );
    }
    let altered: Vec<&str> = columns.iter().filter(|c| c.alters).map(|c| c.name.as_str()).collect();
    if !altered.is_empty() {
        note += &format!("; without {}, whose type alters values", altered.join(", "));
    }
    note
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
