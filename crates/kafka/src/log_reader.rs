//! Reads partitions of one topic from a given offset to a *proven* end.
//!
//! The proof, in this order, is what taking over somebody's work needs:
//! 1. the target is the high watermark, seen by a read_uncommitted client: whatever a predecessor
//!    wrote, committed or not, lies below it;
//! 2. wait until the last stable offset has reached the target: every txn below it has ended.
//!    (Reading to the last stable offset at once would stop short of a predecessor's open txn,
//!    which may yet commit: a lost update);
//! 3. only then read; the end-of-partition event of this reading comes at or after the target.

use crate::args::Kafka;
use crate::error::{Error, Result};
use crate::kafka_log::KafkaLog;
use caudal_core::decode::Record;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a [`LogReader`] needs of a log: Kafka's, or a simulated one with a clock of its own.
pub trait LogSource {
    /// The time now.
    fn now(&self) -> Instant;
    /// Lets `time` pass.
    fn wait(&mut self, time: Duration);
    /// The end of a partition with everything in it, of open and aborted txns too.
    ///
    /// # Errors
    /// When no leader answers in time.
    fn high_watermark(&mut self, topic: &str, partition: i32) -> Result<i64>;
    /// The first offset of a partition and its last stable offset: every txn below has ended.
    ///
    /// # Errors
    /// When no leader answers in time.
    fn stable_range(&mut self, topic: &str, partition: i32) -> Result<(i64, i64)>;
    /// Begins to read committed records of a partition at `from`.
    ///
    /// # Errors
    /// When the client refuses.
    fn assign(&mut self, topic: &str, partition: i32, from: i64) -> Result<()>;
    /// Reads a partition no further.
    ///
    /// # Errors
    /// When the client refuses.
    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()>;
    /// The next event of the assigned partitions, for which it waits up to `wait`.
    fn poll(&mut self, wait: Duration) -> Polled;
}

/// What a [`LogSource`] had to say.
#[derive(Debug)]
pub enum Polled {
    /// Nothing within the time given.
    Nothing,
    /// A committed record.
    Record(Record),
    /// Everything in that partition was read, up to the last stable offset at the time of asking.
    End(i32),
    /// Some partition no longer has the offset that is to be read next.
    OutOfRange(Error),
    /// A failure; a transient one is waited out.
    Failed(Error),
}

/// What a step of reading brought.
#[derive(Debug)]
pub enum Event {
    /// A committed record.
    Record(Record),
    /// The end of that partition is proven; it is read no further.
    End(i32),
    /// That partition, read from its first record on, was cut while it was read: what was read of
    /// it counts for nothing. It is read no further; whoever needs it adds it again.
    Cut(i32),
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    NeedsTarget { from: Option<i64> },
    NeedsStable { from: Option<i64>, target: i64 },
    Reading { from_first: bool, next: i64, target: i64 },
}

/// Reads partitions of one topic to their proven ends.
pub struct LogReader<S: LogSource = KafkaLog> {
    topic: String,
    source: S,
    stages: BTreeMap<i32, Stage>,
    records_read: u64,
    bytes_read: u64,
    /// What the client said of an offset; which partition it meant is not known yet.
    out_of_range: Option<Error>,
}

impl LogReader {
    /// A reader of `topic` with no partition yet.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn connect(kafka: &Kafka, topic: &str) -> Result<LogReader> {
        Ok(LogReader::new(KafkaLog::connect(kafka)?, topic))
    }

    /// Which of `positions` (partition → next offset) have no committed record between there and
    /// their proven end. Offsets alone cannot tell: transaction markers take offsets too.
    ///
    /// # Errors
    /// A permanent error of the client. What could not be looked at within `slice` is not drained.
    pub fn drained(
        kafka: &Kafka,
        topic: &str,
        positions: &BTreeMap<i32, i64>,
        slice: Duration,
    ) -> Result<Vec<i32>> {
        let mut reader = LogReader::connect(kafka, topic)?;
        positions.iter().for_each(|(partition, next)| reader.add(*partition, Some(*next)));
        let (mut found, mut drained) = (Vec::new(), Vec::new());
        let until = Instant::now() + slice;
        while !reader.is_done() && found.is_empty() && Instant::now() < until {
            reader.step(Duration::from_millis(100), |event| -> Result<()> {
                match event {
                    Event::Record(record) => found.push(record.partition),
                    Event::End(partition) => drained.push(partition),
                    Event::Cut(_) => {}
                }
                Ok(())
            })?;
        }
        drained.retain(|partition| !found.contains(partition));
        Ok(drained)
    }
}

impl<S: LogSource> LogReader<S> {
    /// A reader of `topic` with no partition yet.
    #[must_use]
    pub fn new(source: S, topic: &str) -> LogReader<S> {
        LogReader {
            topic: topic.to_owned(),
            source,
            stages: BTreeMap::new(),
            records_read: 0,
            bytes_read: 0,
            out_of_range: None,
        }
    }

    /// Records that were read since the reader was made.
    #[must_use]
    pub fn records_read(&self) -> u64 {
        self.records_read
    }

    /// Bytes of keys, values and headers that were read since the reader was made.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Offsets left to read: over the partitions that are being read, the distance from the next
    /// offset to the target.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        let distance = |stage: &Stage| match stage {
            Stage::Reading { next, target, .. } => u64::try_from(target - next).unwrap_or(0),
            _ => 0,
        };
        self.stages.values().map(distance).sum()
    }

    /// The last stable offset of a partition: every txn below has ended.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn stable_end(&mut self, partition: i32) -> Result<i64> {
        Ok(self.source.stable_range(&self.topic, partition)?.1)
    }

    /// Adds a partition, to be read from `from`, or from its first record.
    pub fn add(&mut self, partition: i32, from: Option<i64>) {
        self.stages.insert(partition, Stage::NeedsTarget { from });
    }

    /// Forgets a partition.
    ///
    /// # Errors
    /// When the client refuses to drop it.
    pub fn remove(&mut self, partition: i32) -> Result<()> {
        match self.stages.remove(&partition) {
            Some(Stage::Reading { .. }) => self.source.unassign(&self.topic, partition),
            _ => Ok(()),
        }
    }

    /// Whether every partition that was added has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stages.is_empty()
    }

    /// Goes on for up to `slice`, giving each event to `sink`. Broker outages are waited out.
    ///
    /// # Errors
    /// A permanent error of the client, or what `sink` returns.
    pub fn step<E: From<Error>>(
        &mut self,
        slice: Duration,
        mut sink: impl FnMut(Event) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let until = self.source.now() + slice;
        self.advance_stages()?;
        while self.source.now() < until && !self.stages.is_empty() {
            for partition in self.drop_what_was_cut()? {
                sink(Event::Cut(partition))?;
            }
            let reading = self.stages.values().any(|s| matches!(s, Stage::Reading { .. }));
            if !reading {
                self.source.wait(Duration::from_millis(20).min(slice));
                self.advance_stages()?;
                continue;
            }
            match self.source.poll(Duration::from_millis(50)) {
                Polled::Nothing => self.advance_stages()?,
                Polled::Record(record) => {
                    if self.count(&record) {
                        sink(Event::Record(record))?;
                    }
                }
                Polled::End(partition) => {
                    self.remove(partition)?;
                    sink(Event::End(partition))?;
                }
                Polled::OutOfRange(error) => self.out_of_range = Some(error),
                Polled::Failed(error) if error.transient => {}
                Polled::Failed(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// After an offset was out of range: the partitions that are read from their first record on
    /// and whose first record is now beyond the next one to read. They are read no further. The
    /// client does not say which partition it meant, and says it for each: when the first word
    /// comes, several may have been cut, and the others' words come after they were dropped.
    fn drop_what_was_cut(&mut self) -> Result<Vec<i32>> {
        let Some(error) = self.out_of_range.take() else { return Ok(Vec::new()) };
        let mut cut = Vec::new();
        for (partition, stage) in &self.stages {
            let Stage::Reading { from_first, next, .. } = stage else { continue };
            match self.source.stable_range(&self.topic, *partition) {
                Ok((first, _)) if first > *next && *from_first => cut.push(*partition),
                Ok((first, end)) if *next < first || *next > end => return Err(error),
                Ok(_) => {}
                Err(failure) if failure.transient => {
                    self.out_of_range = Some(error);
                    return Ok(Vec::new());
                }
                Err(failure) => return Err(failure),
            }
        }
        cut.iter().try_for_each(|partition| self.remove(*partition))?;
        Ok(cut)
    }

    /// Whether the record is of a partition that is being read; then it counts as read.
    fn count(&mut self, record: &Record) -> bool {
        let Some(Stage::Reading { next, .. }) = self.stages.get_mut(&record.partition) else {
            return false;
        };
        *next = record.offset + 1;
        self.records_read += 1;
        self.bytes_read += record.size() as u64;
        true
    }

    /// Reads every added partition to its proven end.
    ///
    /// # Errors
    /// A permanent error, what `sink` returns, a partition that was cut meanwhile, or no progress for `patience` (waiting for an open
    /// txn, or for a partition without a leader).
    pub fn read_all<E: From<Error>>(
        &mut self,
        patience: Duration,
        mut sink: impl FnMut(Record) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut last_event = self.source.now();
        while !self.is_done() {
            let mut progress = false;
            self.step(Duration::from_millis(500), |event| {
                progress = true;
                match event {
                    Event::Record(record) => sink(record),
                    Event::End(_) => Ok(()),
                    Event::Cut(partition) => {
                        let what = format!("partition {partition} was cut while it was read");
                        Err(Error::permanent(what, "its first records were deleted").into())
                    }
                }
            })?;
            let now = self.source.now();
            if progress {
                last_event = now;
            }
            if now - last_event > patience {
                let waiting: Vec<i32> = self.stages.keys().copied().collect();
                return Err(Error::permanent(
                    format!("{} partitions {waiting:?} cannot be read to their end", self.topic),
                    format!(
                        "no progress for {} s: a partition has no leader, or a transaction \
                             is still open",
                        patience.as_secs()
                    ),
                )
                .into());
            }
        }
        Ok(())
    }

    fn advance_stages(&mut self) -> Result<()> {
        let waiting: Vec<i32> = self
            .stages
            .iter()
            .filter(|(_, stage)| !matches!(stage, Stage::Reading { .. }))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in waiting {
            if let Err(error) = self.advance(partition)
                && !error.transient
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn advance(&mut self, partition: i32) -> Result<()> {
        let Some(stage) = self.stages.get(&partition).copied() else { return Ok(()) };
        let stage = match stage {
            Stage::NeedsTarget { from } => {
                let target = self.source.high_watermark(&self.topic, partition)?;
                Stage::NeedsStable { from, target }
            }
            other => other,
        };
        self.stages.insert(partition, stage);
        let Stage::NeedsStable { from, target } = stage else { return Ok(()) };
        let (first, stable) = self.source.stable_range(&self.topic, partition)?;
        if stable < target {
            return Ok(());
        }
        let next = from.map_or(first, |from| from.max(first));
        self.source.assign(&self.topic, partition, next)?;
        let from_first = from.is_none();
        self.stages.insert(partition, Stage::Reading { from_first, next, target });
        Ok(())
    }
}
