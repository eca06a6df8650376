//! Stage 1 of another stream: read → queries, for one partition of a topic that a query reads.
//!
//! It keeps no keys: what its queries add up goes to stage 2 with each commit. What it does keep
//! (stream time, numbers of its outputs) is small, and travels as metadata of its committed
//! position, in the same txn as what it caused. So it has no blocks, and a successor begins at
//! once.

use crate::evaluation::Evaluation;
use crate::metrics::Counts;
use crate::mutant::{self, Mutant};
use crate::outputs::Outputs;
use crate::partials::{Source, Telling};
use crate::shared::{Query, Shared, Stage, TaskError, TaskId};
use crate::tables::{ReadTo, Tables};
use caudal_core::decode::Record;
use caudal_core::outbox::Outbox;
use caudal_query::input::Input;
use caudal_query::partials::Partials;
use caudal_sql::row::GenericRow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `offset.metadata.max.bytes` of the brokers where nobody set it.
const METADATA: usize = 4096;

/// All of a task that a batch changes.
#[derive(Debug, Clone)]
struct Progress {
    next_offset: i64,
    /// Number of the next commit.
    sequence: u64,
    outputs: Outputs,
    /// Highest event time of a record; `i64::MIN` before the first.
    stream_time: i64,
    /// Granule of the stream time last told to each partition of stage 2.
    told: Vec<i64>,
    /// The idle time-out that was last declared, in microseconds; 0 since a record came.
    idle: i64,
    /// How far the reference tables had been read when the last batch was joined with them.
    read_to: ReadTo,
}

/// The task.
#[derive(Debug)]
pub struct SourceTask {
    shared: Arc<Shared>,
    id: TaskId,
    place: u8,
    at: Progress,
    /// As it was before the batch; `None` between batches.
    before: Option<Box<Progress>>,
    /// Whether every partition of stage 2 must be told how this one stands: it is idle, or not any
    /// more, or the task has just begun and does not know what it told them.
    tell_all: bool,
    partials: Vec<Partials>,
    /// Input offsets whose outputs cannot be written, with the reason.
    unwritable: BTreeMap<i64, String>,
    /// What this batch counted, for metrics after its commit.
    pub counts: Counts,
}

impl SourceTask {
    /// A task that has read nothing yet, of the source at `place` of [`Shared::sources`].
    #[must_use]
    pub fn new(shared: Arc<Shared>, place: u8, partition: i32) -> SourceTask {
        let id = TaskId { stage: Stage::Source(place), partition };
        let at = Progress {
            next_offset: 0,
            sequence: 0,
            outputs: Outputs::new(&shared.name_of(id)),
            stream_time: i64::MIN,
            told: vec![i64::MIN; usize::try_from(shared.partitions).unwrap_or(0)],
            idle: 0,
            read_to: ReadTo::default(),
        };
        SourceTask {
            id,
            place,
            at,
            before: None,
            tell_all: true,
            partials: shared.global.iter().map(|_| Partials::default()).collect(),
            unwritable: BTreeMap::new(),
            counts: Counts::default(),
            shared,
        }
    }

    /// The next offset to read.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.at.next_offset
    }

    /// Sets where to read next.
    pub fn set_next_offset(&mut self, next_offset: i64) {
        self.at.next_offset = next_offset;
    }

    /// Number of its last commit.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.at.sequence.saturating_sub(1)
    }

    /// How far the reference tables had been read when its last batch was joined with them.
    #[must_use]
    pub fn read_to(&self) -> ReadTo {
        self.at.read_to
    }

    /// Makes the input record at `offset` one that cannot be computed when it is read again. False
    /// when it was one already.
    pub fn refuse_at(&mut self, offset: i64, why: &str) -> bool {
        self.unwritable.insert(offset, why.to_owned()).is_none()
    }

    fn begin(&mut self) {
        if self.before.is_none() {
            self.before = Some(Box::new(self.at.clone()));
        }
    }

    /// Processes one record.
    ///
    /// # Errors
    /// [`TaskError::Overflow`]; a bad record is no error, but named in the topic of errors of each
    /// query that reads it.
    pub fn process(
        &mut self,
        record: &Record,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        if record.offset < self.at.next_offset {
            return Ok(());
        }
        self.begin();
        self.at.next_offset = record.offset + 1;
        if self.at.idle != 0 {
            self.at.idle = 0;
            self.tell_all = true;
        }
        self.counts.records_in += 1;
        let shared = Arc::clone(&self.shared);
        match self.read(&shared, record, tables) {
            Ok(None) => Ok(()),
            Ok(Some(row)) => self.run(&shared, record, &row, tables, outbox),
            Err(what) => {
                self.counts.unreadable += 1;
                let place = self.place;
                let mut evaluation = self.evaluation(record, outbox);
                for query in shared.all().filter(|query| query.source == Some(place)) {
                    evaluation.error(query, record.offset, None, &what);
                }
                Ok(())
            }
        }
    }

    /// The record as a row; `None` of one that has none.
    fn read(
        &self,
        shared: &Shared,
        record: &Record,
        tables: &Tables,
    ) -> Result<Option<GenericRow>, String> {
        if let Some(why) = self.unwritable.get(&record.offset) {
            return Err(why.clone());
        }
        shared.sources[usize::from(self.place)].stream.read(record, &tables.schemas)
    }

    fn evaluation<'a>(&'a mut self, record: &'a Record, outbox: &'a mut Outbox) -> Evaluation<'a> {
        let (outputs, counts) = (&mut self.at.outputs, &mut self.counts);
        let key = record.key.as_deref();
        Evaluation { outputs, counts, outbox, partition: self.id.partition, key }
    }

    fn run(
        &mut self,
        shared: &Shared,
        record: &Record,
        row: &GenericRow,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), TaskError> {
        let row = Input::of_row(row);
        self.at.stream_time = self.at.stream_time.max(row.event_time());
        let stream_time = match mutant::is(Mutant::OthersAreNeverLate) {
            true => row.event_time(),
            false => self.at.stream_time,
        };
        let mut evaluation = Evaluation {
            outputs: &mut self.at.outputs,
            counts: &mut self.counts,
            outbox,
            partition: self.id.partition,
            key: record.key.as_deref(),
        };
        let is_mine = |query: &Query| query.source == Some(self.place);
        for (query, partials) in shared.global.iter().zip(&mut self.partials) {
            if !is_mine(query) {
                continue;
            }
            let Some(row) = evaluation.taken(query, row, tables) else { continue };
            let taken = partials.add(&query.plan, &row, stream_time).map_err(|cause| {
                let topic = shared.topic_of(self.id.stage);
                let at = format!("{topic}-{}@{}", self.id.partition, record.offset);
                TaskError::Overflow { at, cause }
            })?;
            if taken.late {
                evaluation.counts.late += 1;
            }
            evaluation.errors(query, &row, &taken.errors);
        }
        for query in shared.streams.iter().filter(|query| is_mine(query)) {
            if let Some(row) = evaluation.taken(query, row, tables) {
                evaluation.stream_row(shared, query, &row);
            }
        }
        Ok(())
    }

    /// Says that the partition has been silent for `idle` microseconds at its confirmed end.
    pub fn declare_idle(&mut self, idle: i64) {
        self.begin();
        self.at.idle = idle;
        self.tell_all = true;
    }

    /// Closes the batch: partials and stream time.
    ///
    /// # Errors
    /// [`TaskError::Broken`] when what it must remember is too long for a committed position.
    pub fn finish(&mut self, read_to: ReadTo, outbox: &mut Outbox) -> Result<(), TaskError> {
        self.begin();
        let shared = Arc::clone(&self.shared);
        let topic = shared.topic_of(self.id.stage);
        if shared.global.iter().any(|query| query.source == Some(self.place)) {
            let telling = Telling {
                shared: &shared,
                topic: Some(topic),
                partition: self.id.partition,
                source: Source { stream_time: self.at.stream_time, idle: self.at.idle },
                offset: self.at.next_offset - 1,
                tell_all: self.tell_all,
            };
            telling.send(&mut self.partials, &mut self.at.told, &mut self.at.outputs, outbox);
        }
        self.at.read_to = read_to;
        self.at.sequence += 1;
        let length = self.metadata().len();
        if length > METADATA {
            let at = format!("{topic}-{}", self.id.partition);
            let what = format!(
                "its position would carry {length} bytes, a broker takes {METADATA}: too many \
                 queries read this topic, or the topics have too many partitions"
            );
            return Err(TaskError::Broken { at, what });
        }
        Ok(())
    }

    /// What is committed beside its position: in the first three words what other tasks have there
    /// ([`crate::cut`]), then what [`SourceTask::resume`] reads. A person can read it too.
    #[must_use]
    pub fn metadata(&self) -> String {
        let Progress { read_to: ReadTo { offset, tables }, stream_time, idle, .. } = self.at;
        let tables = if tables == 0 { String::new() } else { format!("@{tables:x}") };
        let mut out = format!("- {} 0 {offset}{tables} {stream_time} {idle}", self.sequence());
        let mut last = None;
        for (topic, partition, next) in self.at.outputs.numbers() {
            out.push_str(&match last == Some(topic) {
                true => format!(",{partition}={next}"),
                false => format!(" {topic}:{partition}={next}"),
            });
            last = Some(topic);
        }
        out
    }

    /// Goes on after the commit that wrote this metadata. An empty one was committed by somebody
    /// else, who only said where to read on: if the task has run before, stage 2 would see the
    /// numbers of then once more.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn resume(&mut self, metadata: &str) -> Result<(), String> {
        let misfit = || {
            let carries = match metadata {
                "" => "carries nothing".to_owned(),
                other => format!("carries {other:?}, which is none of ours"),
            };
            format!(
                "its committed position in group caudal-processor {carries}: somebody else has \
                 set it (kafka-consumer-groups.sh --reset-offsets, say). If no query has ever run \
                 over this partition, run once with --adopt group: it begins where the position \
                 says. Otherwise the numbers of what it has written are lost: start over (`caudal \
                 reset --yes`), then send the sources again"
            )
        };
        let mut words = metadata.split(' ');
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<i64>().ok());
        let sequence = number(words.nth(1));
        let read_to = words.nth(1).and_then(read_to);
        let (time, idle) = (number(words.next()), number(words.next()));
        let (Some(sequence), Some(read_to), Some(time), Some(idle)) =
            (sequence, read_to, time, idle)
        else {
            return Err(misfit());
        };
        self.at.sequence = u64::try_from(sequence + 1).map_err(|_| misfit())?;
        (self.at.read_to, self.at.stream_time, self.at.idle) = (read_to, time, idle);
        for word in words {
            let (topic, numbers) = word.split_once(':').ok_or_else(misfit)?;
            for pair in numbers.split(',') {
                let (partition, next) = pair.split_once('=').ok_or_else(misfit)?;
                let partition = partition.parse().map_err(|_| misfit())?;
                let next = next.parse().map_err(|_| misfit())?;
                if !mutant::is(Mutant::SourceNumbersForgotten) {
                    self.at.outputs.restore(topic.into(), partition, next);
                }
            }
        }
        Ok(())
    }

    /// The batch is committed.
    pub fn commit(&mut self) {
        self.before = None;
        self.tell_all = false;
        self.unwritable.clear();
    }

    /// The batch is not committed: as if it had never been.
    pub fn rollback(&mut self) {
        if let Some(before) = self.before.take() {
            self.at = *before;
        }
        // What was told is not known any more; telling once too often does no harm.
        self.tell_all = true;
        self.partials.iter_mut().for_each(Partials::rollback);
        self.counts = Counts::default();
    }
}

/// An offset, and which tables it is of: `12@9a3c`. Without the latter it is from before that was
/// written down.
fn read_to(word: &str) -> Option<ReadTo> {
    let (offset, tables) = word.split_once('@').unwrap_or((word, "0"));
    Some(ReadTo { offset: offset.parse().ok()?, tables: u32::from_str_radix(tables, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::Plan;

    const FILE: &str = "CREATE STREAM pedidos (id STRING KEY, tienda STRING, n BIGINT) \
        WITH (KAFKA_TOPIC='pedidos', VALUE_FORMAT='JSON');
        CREATE TABLE por_tienda AS SELECT tienda, SUM(n) AS n FROM pedidos \
        WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY tienda;
        CREATE STREAM grandes AS SELECT id, tienda, n FROM pedidos WHERE n > 10;";

    fn task() -> SourceTask {
        let plans = Plan::compile_file("f", FILE).unwrap_or_else(|faults| panic!("{faults}"));
        SourceTask::new(Arc::new(Shared::new(plans, 2, 0)), 0, 1)
    }

    fn record(offset: i64, value: &str) -> Record {
        Record {
            partition: 1,
            offset,
            timestamp: 1_000 * offset,
            key: Some(b"p".as_slice().into()),
            value: Some(value.as_bytes().into()),
            ..Record::default()
        }
    }

    fn batch(task: &mut SourceTask, records: &[Record]) -> Outbox {
        let (mut outbox, tables) = (Outbox::default(), Tables::new(&task.shared));
        for record in records {
            task.process(record, &tables, &mut outbox).unwrap();
        }
        task.finish(ReadTo { offset: 7, tables: 0x9a3c }, &mut outbox).unwrap();
        outbox
    }

    #[test]
    fn a_successor_goes_on_where_the_metadata_says() {
        let first = [record(0, r#"{"tienda":"a","n":20}"#), record(1, "no json")];
        let next = [record(2, r#"{"tienda":"a","n":30}"#)];
        let mut task = task();
        let outbox = batch(&mut task, &first);
        let topics: Vec<&str> = outbox.records.iter().map(|r| &*r.topic).collect();
        let both = ["por_tienda_errores", "grandes_errores"];
        assert_eq!(topics[..3], ["grandes", both[0], both[1]]);
        assert!(topics[3..].iter().all(|topic| *topic == "caudal_parciales"));
        task.commit();
        let mut successor = self::task();
        successor.resume(&task.metadata()).unwrap();
        successor.set_next_offset(task.next_offset());
        assert_eq!(successor.metadata(), task.metadata());
        assert_eq!(successor.read_to(), ReadTo { offset: 7, tables: 0x9a3c });
        let before = task.metadata().replace("@9a3c", "");
        successor.resume(&before).unwrap();
        assert_eq!(successor.read_to(), ReadTo { offset: 7, tables: 0 });
        successor = self::task();
        successor.resume(&task.metadata()).unwrap();
        successor.set_next_offset(task.next_offset());
        task.tell_all = true;
        assert_eq!(batch(&mut successor, &next).records, batch(&mut task, &next).records);
        assert!(self::task().resume("x").unwrap_err().contains("none of ours"));
        let error = self::task().resume("").unwrap_err();
        assert!(error.contains("carries nothing") && error.contains("caudal reset"), "{error}");
    }

    #[test]
    fn an_aborted_batch_leaves_nothing() {
        let records = [record(0, r#"{"tienda":"a","n":20}"#)];
        let mut task = task();
        let before = batch(&mut task, &records);
        task.rollback();
        assert_eq!(batch(&mut task, &records).records, before.records);
    }
}
