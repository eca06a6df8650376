//! Stage 1: decode → validate → right key → dedup → queries, for one partition of `transacciones`.

use crate::block::{Block, Entry};
use crate::engine::{Query, Shared, Stage, TaskError, TaskId};
use crate::metrics::Counts;
use crate::outputs::{Output, Outputs};
use caudal_core::avro::{self, AvroError, Reader, Writer};
use caudal_core::decode::{Record, decode};
use caudal_core::dedup::{Dedup, Outcome, Seen};
use caudal_core::headers;
use caudal_core::ledger::AccountLedger;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::partitioner::partition_of;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::ValidTransaction;
use caudal_core::validate::validate;
use caudal_query::group::{self, Row};
use caudal_query::panes::PaneState;
use caudal_query::partials::{Partial, Partials};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Largest record that `transacciones` takes, in bytes, less room for the batch around it.
const INPUT_LIMIT: usize = 1024 * 1024 - 1024;
/// A dead letter above this is cut: 64 KiB more than an input, less room for the batch around it.
const DEAD_LETTER_LIMIT: usize = 1024 * 1024 + 60 * 1024;
/// How much of a value that is too large a dead letter keeps.
const KEPT: usize = 64 * 1024;
/// Longest error text in a header, in characters.
const MESSAGE: usize = 500;
/// Bytes of partials in one record of `caudal_parciales`.
const PARTIALS_BYTES: usize = 256 * 1024;
/// Stage 2 is told the stream time whenever it enters another slice of this length.
const GRANULE: i64 = 10 * caudal_core::time::SECOND;

/// The task and its state.
#[derive(Debug)]
pub struct AccountTask {
    shared: Arc<Shared>,
    id: TaskId,
    arrival: String,
    next_offset: i64,
    block_sequence: u64,
    outputs: Outputs,
    ledger: AccountLedger,
    /// Highest event time of a valid record; `i64::MIN` before the first.
    stream_time: i64,
    /// Granule of the stream time last told to each partition of stage 2.
    told: Vec<i64>,
    dedup: Dedup,
    panes: Vec<PaneState>,
    partials: Vec<Partials>,
    /// What this batch counted, for metrics after its commit.
    pub counts: Counts,
}

impl AccountTask {
    /// A task that starts at `next_offset` with no state.
    #[must_use]
    pub fn new(shared: Arc<Shared>, partition: i32, next_offset: i64) -> AccountTask {
        let id = TaskId { stage: Stage::Account, partition };
        let told = vec![i64::MIN; usize::try_from(shared.partitions).unwrap_or(0)];
        AccountTask {
            id,
            arrival: format!("{}-{partition}", shared.input_topic),
            next_offset,
            block_sequence: 0,
            outputs: Outputs::new(id),
            ledger: AccountLedger::default(),
            stream_time: i64::MIN,
            told,
            dedup: Dedup::default(),
            panes: shared.local.iter().map(|_| PaneState::default()).collect(),
            partials: shared.global.iter().map(|_| Partials::default()).collect(),
            counts: Counts::default(),
            shared,
        }
    }

    /// The next offset to read.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Sets where to read next (when a task has no state yet).
    pub fn set_next_offset(&mut self, next_offset: i64) {
        self.next_offset = next_offset;
    }

    /// Counts and money of this task since the beginning of its partition.
    #[must_use]
    pub fn ledger(&self) -> &AccountLedger {
        &self.ledger
    }

    /// Number of ids and panes kept.
    #[must_use]
    pub fn state_entries(&self) -> usize {
        self.dedup.len() + self.panes.iter().map(PaneState::len).sum::<usize>()
    }

    /// Processes one record.
    ///
    /// # Errors
    /// [`TaskError::Overflow`]; a bad record is no error but a dead letter.
    pub fn process(&mut self, record: &Record, outbox: &mut Outbox) -> Result<(), TaskError> {
        if record.offset < self.next_offset {
            return Ok(());
        }
        self.next_offset = record.offset + 1;
        self.ledger.records_in += 1;
        self.counts.records_in += 1;
        self.process_new(record, outbox).map_err(|cause| TaskError::Overflow {
            at: format!("{}@{}", self.arrival, record.offset),
            cause,
        })
    }

    fn process_new(&mut self, record: &Record, outbox: &mut Outbox) -> Result<(), SumOverflow> {
        let shared = Arc::clone(&self.shared);
        let arrival = self.arrival.clone();
        let original = original_position(record);
        let source = match &original {
            Some((partition, _)) => format!("{}-{partition}", shared.input_topic),
            None => arrival,
        };
        let offset = original.map_or(record.offset, |(_, offset)| offset);
        let valid = decode(record, shared.transaction_schema, (&source, offset))
            .and_then(|transaction| validate(transaction, record.timestamp));
        let valid = match valid {
            Ok(valid) => valid,
            Err(rejection) => return self.reject(record, &rejection, outbox),
        };
        let account = valid.transaction.account_id.as_bytes();
        let home = partition_of(account, shared.partitions);
        if home != self.id.partition {
            return self.reroute(record, &valid, home, outbox);
        }
        let money = (valid.currency, valid.transaction.amount);
        let seen = Seen::of(&valid);
        // As of this record, whether or not it turns out to be one that moves the stream time.
        let now = self.stream_time.max(seen.event_time);
        match self.dedup.check(&seen, now, shared.horizon) {
            Outcome::Duplicate => {
                self.counts.duplicate += 1;
                self.ledger.repeat(money.0, money.1)
            }
            Outcome::Conflict => {
                let message = "transaction_id was already used with other contents";
                let rejection =
                    Rejection::new(Reason::Conflict, message).with_money(money.0, money.1);
                self.reject(record, &rejection, outbox)
            }
            Outcome::New => {
                self.ledger.accept(money.0, money.1)?;
                self.counts.valid += 1;
                self.accept(record, &valid, outbox)
            }
        }
    }

    /// Runs the queries on a new valid record and emits it.
    fn accept(
        &mut self,
        record: &Record,
        valid: &ValidTransaction<'_>,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        let shared = Arc::clone(&self.shared);
        self.stream_time = self.stream_time.max(valid.transaction.event_time);
        let mut late_for: Vec<&str> = Vec::new();
        for (i, query) in shared.local.iter().enumerate().filter(|(_, q)| q.plan.takes(valid)) {
            let added = self.panes[i].add(&query.plan, valid, "", self.stream_time)?;
            if added.late {
                late_for.push(&query.plan.name);
            }
            for row in added.first_rows {
                self.emit_row(query, &row, record.offset, outbox);
            }
        }
        for (i, query) in shared.global.iter().enumerate().filter(|(_, q)| q.plan.takes(valid)) {
            if self.partials[i].add(&query.plan, valid, "", self.stream_time)? {
                late_for.push(&query.plan.name);
            }
        }
        for query in &late_for {
            *self.ledger.late.entry((*query).to_owned()).or_default() += 1;
            self.counts.late += 1;
        }
        let mut value = Writer::framed(shared.valid_schema);
        avro::write_transaction(&mut value, &valid.transaction);
        avro::write_strings(&mut value, late_for.iter().copied());
        self.outputs.emit(
            outbox,
            Output {
                topic: &shared.valid_topic,
                partition: self.id.partition,
                key: Some(valid.transaction.account_id.as_bytes().to_vec()),
                value: Some(value.into_bytes()),
                source: (record.partition, record.offset),
                headers: Vec::new(),
            },
        );
        Ok(())
    }

    fn emit_row(&mut self, query: &Query, row: &Row, offset: i64, outbox: &mut Outbox) {
        // The group was written by this plan, so it has this plan's columns.
        let Some(values) = group::row(&query.plan, &row.group, row.start, &row.values) else {
            return;
        };
        self.outputs.emit(
            outbox,
            Output {
                topic: &query.topic,
                partition: self.id.partition,
                key: Some(group::row_key(&row.group, row.start)),
                value: Some(query.row_schema.encode(query.schema_id, &values)),
                source: (self.id.partition, offset),
                headers: Vec::new(),
            },
        );
    }

    /// Moves a record to its key's partition. It is no dead letter, and it does not move the
    /// stream time of the partition it leaves; where it arrives it is a record like any other.
    fn reroute(
        &mut self,
        record: &Record,
        valid: &ValidTransaction<'_>,
        home: i32,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        let money = (valid.currency, valid.transaction.amount);
        let refuse =
            |reason, message: &str| Rejection::new(reason, message).with_money(money.0, money.1);
        if record.header(headers::REROUTED).is_some() {
            let message = "moved to its key's partition once and still in a foreign one: the \
                           topic's partition count differs from the processor's";
            return self.reject(record, &refuse(Reason::Mapping, message), outbox);
        }
        let mut all = copied_headers(record);
        let position = format!("{}@{}", record.partition, record.offset);
        all.push((headers::REROUTED, position.into_bytes()));
        all.push((headers::ORIGINAL_TIMESTAMP, record.timestamp.to_string().into_bytes()));
        let out = OutRecord {
            topic: Arc::clone(&self.shared.input_topic),
            partition: home,
            key: Some(valid.transaction.account_id.as_bytes().to_vec()),
            value: record.value.as_deref().map(<[u8]>::to_vec),
            headers: all,
        };
        if out.size() > INPUT_LIMIT {
            let message = "has a foreign key and no room for the header that moving it needs";
            return self.reject(record, &refuse(Reason::TooLarge, message), outbox);
        }
        self.ledger.rerouted += 1;
        self.counts.rerouted += 1;
        outbox.records.push(out);
        Ok(())
    }

    fn reject(
        &mut self,
        record: &Record,
        rejection: &Rejection,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        self.counts.reject(rejection.reason);
        let mut all = copied_headers(record);
        // What the producer said of an unmappable line is said again below, once.
        all.retain(|(name, _)| *name != headers::REASON && *name != headers::ERROR_MESSAGE);
        let mut value = record.value.as_deref().map(<[u8]>::to_vec);
        let mut key = record.key.as_deref().map(<[u8]>::to_vec);
        if record.size() > DEAD_LETTER_LIMIT {
            let whole = value.unwrap_or_default();
            all.push((headers::SHA256, hex(&Sha256::digest(&whole)).into_bytes()));
            all.push((headers::SIZE, whole.len().to_string().into_bytes()));
            value = Some(whole[..whole.len().min(KEPT)].to_vec());
            key = key.map(|key| key[..key.len().min(KEPT)].to_vec());
        }
        let message: String = rejection.message.chars().take(MESSAGE).collect();
        all.extend([
            (headers::REASON, rejection.reason.as_str().into()),
            (headers::ERROR_EXCEPTION, format!("caudal.{}", rejection.reason).into_bytes()),
            (headers::ERROR_MESSAGE, message.into_bytes()),
            (headers::ERROR_TOPIC, self.shared.input_topic.as_bytes().to_vec()),
            (headers::ERROR_PARTITION, record.partition.to_string().into_bytes()),
            (headers::ERROR_OFFSET, record.offset.to_string().into_bytes()),
            (headers::ORIGINAL_TIMESTAMP, record.timestamp.to_string().into_bytes()),
        ]);
        let shared = Arc::clone(&self.shared);
        self.outputs.emit(
            outbox,
            Output {
                topic: &shared.dead_letter_topic,
                partition: self.id.partition,
                key,
                value,
                source: (record.partition, record.offset),
                headers: all,
            },
        );
        self.ledger.reject(rejection)
    }

    /// Closes the batch: last rows, partials and watermarks, then the state block.
    pub fn finish(&mut self, outbox: &mut Outbox) {
        let shared = Arc::clone(&self.shared);
        let last_offset = self.next_offset - 1;
        for (i, query) in shared.local.iter().enumerate() {
            for row in self.panes[i].take_last_rows() {
                self.emit_row(query, &row, last_offset, outbox);
            }
        }
        self.send_partials(outbox);
        let mut entries: Vec<Entry> = self.dedup.changed().map(Entry::Seen).collect();
        for (i, panes) in self.panes.iter().enumerate() {
            entries.extend(panes.changed().map(|pane| Entry::Pane(i, pane)));
        }
        self.evict();
        let block = Block {
            task: self.id,
            sequence: self.block_sequence,
            fingerprint: shared.fingerprint,
            partitions: shared.partitions,
            next_offset: self.next_offset,
            body: self.body(),
            entries,
        };
        self.block_sequence += 1;
        for part in block.into_parts() {
            outbox.records.push(OutRecord {
                topic: Arc::clone(&shared.state_topic),
                partition: self.id.partition,
                key: Some(self.id.to_string().into_bytes()),
                value: Some(part),
                headers: Vec::new(),
            });
        }
    }

    /// Sends this commit's partials, packed into as few records as there are partitions to tell,
    /// each with the stream time: a partition without partials is told only when the stream time
    /// has entered another granule.
    fn send_partials(&mut self, outbox: &mut Outbox) {
        let shared = Arc::clone(&self.shared);
        let count = self.told.len();
        let mut packed: Vec<Vec<(usize, Partial)>> = vec![Vec::new(); count];
        for (i, partials) in self.partials.iter_mut().enumerate() {
            for partial in partials.take() {
                let home = partition_of(partial.group.as_bytes(), shared.partitions);
                packed[usize::try_from(home).unwrap_or(0)].push((i, partial));
            }
        }
        let granule = self.stream_time.div_euclid(GRANULE);
        for (home, partials) in packed.into_iter().enumerate() {
            if partials.is_empty() && (self.stream_time == i64::MIN || self.told[home] == granule) {
                continue;
            }
            self.told[home] = granule;
            for value in partial_values(self.id.partition, self.stream_time, &partials) {
                self.outputs.emit(
                    outbox,
                    Output {
                        topic: &shared.partials_topic,
                        partition: i32::try_from(home).unwrap_or(0),
                        key: Some(self.id.to_string().into_bytes()),
                        value: Some(value),
                        source: (self.id.partition, self.next_offset - 1),
                        headers: Vec::new(),
                    },
                );
            }
        }
    }

    fn evict(&mut self) {
        self.dedup.commit(self.stream_time, self.shared.horizon);
        for (panes, query) in self.panes.iter_mut().zip(&self.shared.local) {
            panes.commit(&query.plan, self.stream_time);
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.long(self.stream_time);
        out.long(i64::try_from(self.told.len()).unwrap_or(0));
        self.told.iter().for_each(|granule| out.long(*granule));
        self.ledger.write(&mut out);
        self.outputs.write(&mut out);
        out.into_bytes()
    }

    /// Applies a block that was read back.
    ///
    /// # Errors
    /// When the block's body is damaged or names a query that is not there.
    pub fn apply(&mut self, block: Block) -> Result<(), AvroError> {
        let mut input = Reader::new(&block.body);
        self.stream_time = input.long()?;
        let told: Result<Vec<i64>, _> = (0..input.length()?).map(|_| input.long()).collect();
        self.told = told?;
        self.ledger = AccountLedger::read(&mut input)?;
        self.outputs.read(&mut input)?;
        input.end()?;
        for entry in block.entries {
            match entry {
                Entry::Seen(seen) => self.dedup.restore(&seen),
                Entry::Pane(i, pane) => {
                    let panes = self.panes.get_mut(i).ok_or(input.error("unknown query"))?;
                    panes.restore(&pane);
                }
                Entry::Total(..) => return Err(input.error("total in a block of stage 1")),
            }
        }
        self.next_offset = block.next_offset;
        self.block_sequence = block.sequence + 1;
        self.evict();
        Ok(())
    }
}

/// Position of a moved record before it was moved.
fn original_position(record: &Record) -> Option<(i32, i64)> {
    let (partition, offset) = record.header(headers::REROUTED)?.split_once('@')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// The headers of an input record that go on with it: ours by name, nobody else's.
fn copied_headers(record: &Record) -> Vec<(&'static str, Vec<u8>)> {
    const KNOWN: [&str; 7] = [
        headers::REASON,
        headers::ERROR_MESSAGE,
        headers::LINE,
        headers::SHA256,
        headers::SIZE,
        headers::REROUTED,
        headers::ORIGINAL_TIMESTAMP,
    ];
    let value = |name: &'static str| {
        let (_, value) = record.headers.iter().rev().find(|(n, _)| n == name)?;
        (value.len() <= KEPT / 8).then(|| (name, value.to_vec()))
    };
    KNOWN.into_iter().filter_map(value).collect()
}

/// Values for `caudal_parciales`: source partition, its stream time, then (query, partial) pairs.
fn partial_values(partition: i32, stream_time: i64, partials: &[(usize, Partial)]) -> Vec<Vec<u8>> {
    let begin = || {
        let mut out = Writer::new();
        out.long(i64::from(partition));
        out.long(stream_time);
        out
    };
    let mut values = Vec::new();
    let mut out = begin();
    for (query, partial) in partials {
        if out.len() >= PARTIALS_BYTES {
            values.push(std::mem::replace(&mut out, begin()).into_bytes());
        }
        out.long(i64::try_from(*query).unwrap_or(0));
        partial.write(&mut out);
    }
    values.push(out.into_bytes());
    values
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
