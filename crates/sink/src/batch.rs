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
use hashbrown::hash_table::{Entry, HashTable};
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
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

/// By partition: the position before a batch, and the one after it.
pub type Moves = BTreeMap<TopicPartition, (i64, Position)>;

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
    /// The ledgers are still as before.
    pub moves: Moves,
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
        let mut moves = BTreeMap::new();
        let mut fresh = Vec::with_capacity(records.len());
        // Records come in runs of one partition: what is known of it is looked up once a run.
        let mut lane: Option<Lane> = None;
        for (at, record) in records {
            if lane.as_ref().is_none_or(|lane| lane.at != at) {
                lane.take().into_iter().for_each(|done| done.close(&mut moves));
                lane = Lane::open(&at, &mut moves, owned, routes);
            }
            if let Some(lane) = &mut lane
                && lane.takes(&record)?
            {
                fresh.push((at, record));
            }
        }
        lane.into_iter().for_each(|done| done.close(&mut moves));
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

    fn of(records: Vec<(TopicPartition, Record)>, moves: Moves) -> Batch {
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

    /// The positions as they are when this batch is stored, but for the ledgers, which the database
    /// has a say in.
    #[must_use]
    pub fn leaves(
        &self,
        owned: &BTreeMap<TopicPartition, Position>,
    ) -> BTreeMap<TopicPartition, Position> {
        let mut after = owned.clone();
        for (at, position) in &mut after {
            if let Some((_, moved)) = self.moves.get(at) {
                position.clone_from(moved);
            }
        }
        after
    }

    /// Takes over the ledgers that the batch before this one left: it was built before that was
    /// stored.
    pub fn take_ledgers(&mut self, owned: &BTreeMap<TopicPartition, Position>) {
        for (at, (_, position)) in &mut self.moves {
            if let Some(stored) = owned.get(at) {
                position.ledger.clone_from(&stored.ledger);
            }
        }
    }

    fn encode(&mut self, routes: &BTreeMap<Arc<str>, Route>, superseded: &BTreeSet<usize>) {
        let mut encoders: Vec<Encoder<'_>> = Vec::new();
        let mut last = 0;
        for (at, (partition, record)) in self.records.iter().enumerate() {
            let is_of = |encoder: &Encoder<'_>| *encoder.route.topic == *partition.0;
            if !encoders.get(last).is_some_and(is_of) {
                last = encoders.iter().position(is_of).unwrap_or(encoders.len());
                if last == encoders.len() {
                    let Some(route) = routes.get(&partition.0) else { continue };
                    encoders.push(Encoder::of(route));
                }
            }
            let encoder = &mut encoders[last];
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
        // One order for all batches and sinks, or they would wait for each other.
        encoders.sort_by(|a, b| a.route.topic.cmp(&b.route.topic));
        let tables = encoders.into_iter().map(|encoder| encoder.rows);
        self.tables = tables.filter(|rows| !rows.rows.is_empty()).collect();
    }
}

/// One partition's part in a batch that is being built.
struct Lane {
    at: TopicPartition,
    compacted: bool,
    /// The position before.
    expected: i64,
    after: Position,
}

impl Lane {
    /// `None` where the partition is not to be stored.
    fn open(
        at: &TopicPartition,
        moves: &mut Moves,
        owned: &BTreeMap<TopicPartition, Position>,
        routes: &BTreeMap<Arc<str>, Route>,
    ) -> Option<Lane> {
        let position = owned.get(at)?;
        let compacted = routes.get(&at.0)?.compacted;
        let (expected, after) =
            moves.remove(at).unwrap_or_else(|| (position.next_offset, position.clone()));
        Some(Lane { at: at.clone(), compacted, expected, after })
    }

    /// Whether a record is new, and so is the next.
    fn takes(&mut self, record: &Record) -> Result<bool, Halt> {
        if record.offset < self.after.next_offset {
            return Ok(false);
        }
        if !self.compacted {
            check_sequence(&self.at, record, &mut self.after)?;
        }
        self.after.next_offset = record.offset + 1;
        Ok(true)
    }

    fn close(self, moves: &mut Moves) {
        if self.after.next_offset > self.expected {
            moves.insert(self.at, (self.expected, self.after));
        }
    }
}

struct Encoder<'r> {
    route: &'r Route,
    rows: TableRows,
    /// The encoded keys of the batch, one after the other; that of the row at hand is the last.
    keys: Tuples,
    of_key: HashTable<OfKey>,
}

/// The rows of one key.
struct OfKey {
    /// In [`Encoder::keys`].
    key: Range<usize>,
    first: usize,
    latest: usize,
}

fn hash(key: &[u8]) -> u64 {
    FxBuildHasher.hash_one(key)
}

impl<'r> Encoder<'r> {
    fn of(route: &'r Route) -> Encoder<'r> {
        let rows = TableRows {
            table: route.table.clone(),
            mode: route.mode,
            tuples: Tuples::default(),
            rows: Vec::new(),
        };
        Encoder { route, rows, keys: Tuples::default(), of_key: HashTable::new() }
    }

    /// The first and the latest row of the key that begins at `start`, before row `index`, which is
    /// the latest now; of a new key both are `index`.
    fn known(&mut self, start: usize, index: usize) -> (usize, usize) {
        let key = start..self.keys.len();
        let (keys, bytes) = (&self.keys, self.keys.slice(key.clone()));
        let entry = self.of_key.entry(
            hash(bytes),
            |of| keys.slice(of.key.clone()) == bytes,
            |of| hash(keys.slice(of.key.clone())),
        );
        match entry {
            Entry::Occupied(mut of) => {
                let of = of.get_mut();
                let before = (of.first, std::mem::replace(&mut of.latest, index));
                self.keys.truncate(start);
                before
            }
            Entry::Vacant(new) => {
                new.insert(OfKey { key, first: index, latest: index });
                (index, index)
            }
        }
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
        let key = self.keys.len();
        for column in &self.route.table.key {
            // Cannot fail: the whole row was encoded above.
            if let Err(rejection) = row.cells[*column].encode_key(&mut self.keys) {
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
        let (first, latest) = self.known(key, index);
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
