//! A batch of records, checked and encoded, before the database sees it. Pure: the same records
//! and positions give the same batch, so that it can be built again when a partition drops out.

use crate::columns::{Shape, Table};
use crate::config::{InsertMode, Route};
use crate::copy::Tuples;
use crate::ledger::Fate;
use crate::postgres::Position;
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::money::Currency;
use caudal_core::reject::Reason;
use caudal_core::sequence::Sequence;
use caudal_kafka::TopicPartition;
use caudal_service::exit::Halt;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// One encoded row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Index of its record in the batch.
    pub record: usize,
    /// Whether the row of its key is to go: a tombstone, whose other columns are NULL.
    pub is_gone: bool,
    /// Its tuple in [`TableRows::tuples`].
    pub span: Range<usize>,
    /// Whether it is the one of its key to be stored: the first to append, the last to upsert.
    pub chosen: bool,
    /// The row of the same key that comes next in line when this one turns out to be poison:
    /// the next to append, the previous to upsert.
    pub next_in_line: Option<usize>,
}

impl Row {
    /// What becomes of its record, unless the database sees it otherwise.
    #[must_use]
    pub fn fate(&self) -> Fate {
        if self.is_gone { Fate::Gone } else { Fate::Row }
    }
}

/// The rows of one table.
#[derive(Debug)]
pub struct TableRows {
    /// The table.
    pub table: Table,
    /// How rows enter it.
    pub mode: InsertMode,
    /// Encoded rows, one after the other.
    pub tuples: Tuples,
    /// Where each begins and ends.
    pub rows: Vec<Row>,
}

/// A batch, ready to be stored.
#[derive(Debug)]
pub struct Batch {
    /// The records that are new, with where they were read.
    pub records: Vec<(TopicPartition, Record)>,
    /// What becomes of each, unless the database sees it otherwise.
    pub fates: Vec<Fate>,
    /// The money of each, in units of 10⁻⁹.
    pub money: Vec<Option<(Currency, i128)>>,
    /// Whether each is a dead letter that was received.
    pub received_dead: Vec<bool>,
    /// Rows by table.
    pub tables: Vec<TableRows>,
    /// By partition: the position before, and the one after with the ledger still as before.
    pub moves: BTreeMap<TopicPartition, (i64, Position)>,
}

impl Batch {
    /// Checks and encodes records. Those of partitions that are not `owned`, and those below the
    /// stored position (a replay), are left out.
    ///
    /// # Errors
    /// [`Halt`] at a gap or a repeat in a topic's sequences.
    pub fn build(
        records: Vec<(TopicPartition, Record)>,
        owned: &BTreeMap<TopicPartition, Position>,
        routes: &BTreeMap<Arc<str>, Route>,
    ) -> Result<Batch, Halt> {
        let mut moves: BTreeMap<TopicPartition, (i64, Position)> = BTreeMap::new();
        let mut fresh = Vec::with_capacity(records.len());
        for (at, record) in records {
            let (Some(position), Some(route)) = (owned.get(&at), routes.get(&at.0)) else {
                continue;
            };
            if !moves.contains_key(&at) {
                if record.offset < position.next_offset {
                    continue;
                }
                moves.insert(at.clone(), (position.next_offset, position.clone()));
            }
            let Some((_, position)) = moves.get_mut(&at) else { continue };
            if record.offset < position.next_offset {
                continue;
            }
            if !route.compacted {
                check_sequence(&at, &record, position)?;
            }
            position.next_offset = record.offset + 1;
            fresh.push((at, record));
        }
        let mut batch = Batch::of(fresh, moves);
        batch.encode(routes, &BTreeSet::new());
        Ok(batch)
    }

    /// Encodes records that were dead letters of the sink's, whatever the positions. Those that are
    /// `superseded`, by their index, have a fate and no row.
    #[must_use]
    pub fn of_letters(
        records: Vec<(TopicPartition, Record)>,
        routes: &BTreeMap<Arc<str>, Route>,
        superseded: &BTreeSet<usize>,
    ) -> Batch {
        let mut batch = Batch::of(records, BTreeMap::new());
        batch.encode(routes, superseded);
        batch
    }

    fn of(
        records: Vec<(TopicPartition, Record)>,
        moves: BTreeMap<TopicPartition, (i64, Position)>,
    ) -> Batch {
        Batch {
            fates: vec![Fate::Row; records.len()],
            money: vec![None; records.len()],
            received_dead: vec![false; records.len()],
            records,
            tables: Vec::new(),
            moves,
        }
    }

    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn encode(&mut self, routes: &BTreeMap<Arc<str>, Route>, superseded: &BTreeSet<usize>) {
        let mut encoders: BTreeMap<&str, Encoder<'_>> =
            routes.iter().map(|(topic, route)| (&**topic, Encoder::of(route))).collect();
        for (at, (partition, record)) in self.records.iter().enumerate() {
            let Some(encoder) = encoders.get_mut(&*partition.0) else { continue };
            if matches!(encoder.route.shape, Shape::DeadLetter) {
                self.received_dead[at] = true;
                continue;
            }
            let money = &mut self.money[at];
            self.fates[at] = match superseded.contains(&at) {
                true => encoder.without_row(record, money),
                false => encoder.add(at, record, &self.records, money),
            };
        }
        let tables = encoders.into_values().map(|encoder| encoder.rows);
        self.tables = tables.filter(|rows| !rows.rows.is_empty()).collect();
    }
}

struct Encoder<'r> {
    route: &'r Route,
    rows: TableRows,
    /// Key → its first and its latest row in the batch.
    of_key: FxHashMap<Vec<u8>, (usize, usize)>,
    /// The key of the row at hand.
    key: Tuples,
}

impl<'r> Encoder<'r> {
    fn of(route: &'r Route) -> Encoder<'r> {
        let rows = TableRows {
            table: route.table.clone(),
            mode: route.mode,
            tuples: Tuples::default(),
            rows: Vec::new(),
        };
        Encoder { route, rows, of_key: FxHashMap::default(), key: Tuples::default() }
    }

    /// The first and the latest row of the key at hand before row `index`, which is the latest now; of
    /// a new key both are `index`. Nearly every key is new, and only such a one is copied.
    fn known(&mut self, index: usize) -> (usize, usize) {
        if let Some((first, latest)) = self.of_key.get_mut(self.key.as_slice()) {
            return (*first, std::mem::replace(latest, index));
        }
        self.of_key.insert(self.key.as_slice().to_vec(), (index, index));
        (index, index)
    }

    /// The fate and the money of a record whose row is not written, because a later one stands.
    fn without_row(&self, record: &Record, money: &mut Option<(Currency, i128)>) -> Fate {
        if record.value.is_none() && self.route.deletes() {
            return Fate::Gone;
        }
        let had = match self.route.shape.row(record, &self.route.topic) {
            Ok(row) => row.money,
            Err(rejection) => rejection.money,
        };
        *money = had.map(|(currency, amount)| (currency, amount.nano()));
        Fate::Row
    }

    fn add(
        &mut self,
        at: usize,
        record: &Record,
        all: &[(TopicPartition, Record)],
        money: &mut Option<(Currency, i128)>,
    ) -> Fate {
        let start = self.rows.tuples.len();
        let tombstones = self.route.tombstones.as_ref().filter(|_| record.value.is_none());
        let read = match tombstones {
            Some(tombstones) => tombstones.row(record),
            None => self.route.shape.row(record, &self.route.topic),
        };
        let row = read.and_then(|row| {
            row.encode(&mut self.rows.tuples)?;
            Ok(row)
        });
        let row = match row {
            Ok(row) => row,
            Err(rejection) => {
                *money = rejection.money.map(|(currency, amount)| (currency, amount.nano()));
                return Fate::Dead(rejection.reason, rejection.message);
            }
        };
        *money = row.money.map(|(currency, amount)| (currency, amount.nano()));
        let is_gone = row.is_gone;
        self.key.truncate(0);
        for column in &self.route.table.key {
            // Cannot fail: the whole row was encoded above.
            if let Err(rejection) = row.cells[*column].encode_key(&mut self.key) {
                return Fate::Dead(rejection.reason, rejection.message);
            }
        }
        let index = self.rows.rows.len();
        let span = start..self.rows.tuples.len();
        let mut new = Row { record: at, is_gone, span, chosen: true, next_in_line: None };
        let mut fate = new.fate();
        if self.route.table.key.is_empty() {
            self.rows.rows.push(new);
            return fate;
        }
        let (first, latest) = self.known(index);
        if latest != index {
            match self.route.mode.keeps_last() {
                true => {
                    self.rows.rows[latest].chosen = false;
                    new.next_in_line = Some(latest);
                }
                false => {
                    new.chosen = false;
                    self.rows.rows[latest].next_in_line = Some(index);
                    // The first is the one that is stored.
                    let stored = &all[self.rows.rows[first].record].1;
                    fate = self.compare(stored, &row.cells);
                }
            }
        }
        self.rows.rows.push(new);
        fate
    }

    /// The fate of a row whose key an earlier record of the batch has.
    fn compare(&self, earlier: &Record, cells: &[crate::columns::Cell<'_>]) -> Fate {
        let equal = self.route.shape.row(earlier, &self.route.topic).is_ok_and(|earlier| {
            self.route.table.compared.iter().all(|at| earlier.cells[*at].same(&cells[*at]))
        });
        if equal { Fate::Duplicate } else { Fate::Conflict }
    }
}

fn check_sequence(
    at: &TopicPartition,
    record: &Record,
    position: &mut Position,
) -> Result<(), Halt> {
    let place = format!("{}-{}@{}", at.0, at.1, record.offset);
    let task = record.header(headers::TASK).unwrap_or("?");
    match position.sequences.observe(record) {
        Sequence::Next => Ok(()),
        Sequence::Gap { expected, found } => Err(Halt(format!(
            "{place}: task {task} should have written number {expected} next, found {found}: \
             records are missing before this one"
        ))),
        // Below a stored position nothing is read, so this is a record that was written twice:
        // the row could be told from its key, the aggregates beside it could not.
        Sequence::Repeat => Err(Halt(format!(
            "{place}: task {task} wrote number {} a second time: a record was doubled",
            record.header(headers::SEQUENCE).unwrap_or("?")
        ))),
    }
}

/// The words of a dead letter `conflict`.
pub const CONFLICT: &str = "the key is in the table already, with other contents";

/// The reason and the words of a fate that is a dead letter.
#[must_use]
pub fn dead_letter_of(fate: &Fate) -> Option<(Reason, &str)> {
    match fate {
        Fate::Row | Fate::Gone | Fate::Duplicate => None,
        Fate::Conflict => Some((Reason::Conflict, CONFLICT)),
        Fate::Dead(reason, error) => Some((*reason, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn build(topic: &str, numbers: &[(i64, u64)]) -> Result<Batch, Halt> {
        let config = Config::read(None).unwrap();
        let at: TopicPartition = (Arc::from(topic), 2);
        let records = numbers.iter().map(|(offset, number)| {
            let header = |name: &str, text: String| (name.to_owned(), text.into_bytes().into());
            let headers = vec![
                header(headers::TASK, "1-2".into()),
                header(headers::SEQUENCE, number.to_string()),
            ];
            (at.clone(), Record { offset: *offset, headers, ..Record::default() })
        });
        let position = Position { next_offset: 10, epoch: 3, ..Position::default() };
        let owned = BTreeMap::from([(at.clone(), position)]);
        Batch::build(records.collect(), &owned, &config.routes)
    }

    #[test]
    fn a_gap_and_a_repeat_halt_and_say_where() {
        let halt = |numbers: &[(i64, u64)]| build("alertas_fraude", numbers).unwrap_err().0;
        let text = halt(&[(10, 4), (11, 7)]);
        assert!(text.starts_with("alertas_fraude-2@11: task 1-2"), "{text}");
        assert!(text.contains("number 5 next, found 7"), "{text}");
        assert!(halt(&[(10, 4), (11, 5), (12, 4)]).contains("number 4 a second time"));
    }

    #[test]
    fn compacted_topics_may_have_gaps() {
        let batch = build("ventas_gold", &[(10, 4), (11, 7), (15, 7)]).unwrap();
        let (expected, after) = &batch.moves.values().next().unwrap();
        assert_eq!((*expected, after.next_offset, after.epoch), (10, 16, 3));
    }

    #[test]
    fn replays_and_partitions_of_others_are_left_out() {
        assert!(build("alertas_fraude", &[(8, 1), (9, 2)]).unwrap().is_empty());
        let config = Config::read(None).unwrap();
        let records = vec![((Arc::from("alertas_fraude"), 0), Record::default())];
        assert!(Batch::build(records, &BTreeMap::new(), &config.routes).unwrap().is_empty());
    }
}
