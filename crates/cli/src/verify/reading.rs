//! Reading topics to their proven ends, and single records once more for their names.

use super::eras::Turn;
use super::place::{Place, Topics};
use anyhow::{Context as _, Result, bail};
use caudal_core::decode::Record;
use caudal_kafka::args::{Isolation, Kafka};
use caudal_kafka::log_reader::{Event, LogReader};
use caudal_kafka::offsets::Offsets;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long to wait without an event before giving up: above the txn time-out of 45 s, so that a
/// killed writer's open txn is waited out.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often progress is said, in seconds; nothing is said of what takes less.
const EVERY: Duration = Duration::from_secs(2);

/// Says on standard error how much was read.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    said: Instant,
    /// Records and rows read so far.
    pub count: u64,
}

impl Meter {
    pub fn new() -> Meter {
        let now = Instant::now();
        Meter { started: now, said: now, count: 0 }
    }

    /// One more record or row of `what`.
    pub fn add(&mut self, what: &str) {
        self.count += 1;
        // The clock is asked seldom: it costs more than a record.
        if self.count.is_multiple_of(1024) && self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            eprintln!("verify: {seconds:>4} s  {} records and rows read ({what})", self.count);
        }
    }
}

/// Reads topics.
pub struct Reading<'k> {
    kafka: &'k Kafka,
    ends: Offsets,
    /// Counts what is read.
    pub meter: Meter,
}

impl<'k> Reading<'k> {
    /// # Errors
    /// When a client cannot be made.
    pub fn connect(kafka: &'k Kafka) -> Result<Reading<'k>> {
        let ends = Offsets::connect(kafka, Isolation::ReadCommitted, "caudal-verify")?;
        Ok(Reading { kafka, ends, meter: Meter::new() })
    }

    /// # Errors
    /// When no broker answers, or the topic does not exist.
    pub fn partitions(&self, topic: &str) -> Result<i32> {
        Ok(self.ends.partitions(topic)?)
    }

    /// First offsets of a topic's partitions.
    ///
    /// # Errors
    /// When a leader does not answer.
    pub fn first_offsets(&self, topic: &str, partitions: i32) -> Result<Vec<i64>> {
        (0..partitions).map(|p| Ok(self.ends.watermarks(topic, p)?.0)).collect()
    }

    /// Reads every partition of a topic, from its first record or from `from`, to its proven end.
    ///
    /// # Errors
    /// When the topic cannot be read to its end, or what `each` returns.
    pub fn all(
        &mut self,
        topic: &str,
        partitions: i32,
        from: Option<&[i64]>,
        mut each: impl FnMut(&Record) -> Result<()>,
    ) -> Result<()> {
        let mut reader = LogReader::connect(self.kafka, topic)?;
        for (partition, at) in (0..partitions).zip(0_usize..) {
            reader.add(partition, from.and_then(|from| from.get(at)).copied());
        }
        let meter = &mut self.meter;
        reader.read_all(PATIENCE, |record| {
            meter.add(topic);
            each(&record)
        })
    }

    /// As [`Reading::all`], but no record of an era before every one of the eras before it:
    /// `era_of` says which era a record is of, and it never goes back within a partition.
    ///
    /// # Errors
    /// As [`Reading::all`].
    pub fn in_eras(
        &mut self,
        topic: &str,
        (partitions, eras): (i32, usize),
        era_of: impl Fn(&Record) -> usize,
        mut each: impl FnMut(Turn<'_>) -> Result<()>,
    ) -> Result<()> {
        // Where to go on, of partitions that have records of later eras.
        let mut from: BTreeMap<i32, Option<i64>> = (0..partitions).map(|p| (p, None)).collect();
        for era in 0..eras {
            let mut reader = LogReader::connect(self.kafka, topic)?;
            from.iter().for_each(|(partition, at)| reader.add(*partition, *at));
            let mut later: BTreeMap<i32, Option<i64>> = BTreeMap::new();
            let mut moved = Instant::now();
            while !reader.is_done() {
                let mut over = BTreeSet::new();
                reader.step(Duration::from_millis(500), |event| -> Result<()> {
                    moved = Instant::now();
                    let Event::Record(record) = event else { return Ok(()) };
                    if later.contains_key(&record.partition) {
                        return Ok(());
                    }
                    if era_of(&record) > era {
                        later.insert(record.partition, Some(record.offset));
                        over.insert(record.partition);
                        return Ok(());
                    }
                    self.meter.add(topic);
                    each(Turn::Record(&record))
                })?;
                over.into_iter().try_for_each(|partition| reader.remove(partition))?;
                if moved.elapsed() > PATIENCE {
                    bail!("{topic} cannot be read to its end: no progress for {PATIENCE:?}");
                }
            }
            if era + 1 < eras {
                each(Turn::Over(era))?;
            }
            from = later;
        }
        Ok(())
    }

    /// Reads the records at these places once more. Those that are gone are not in the answer.
    ///
    /// # Errors
    /// When a topic cannot be read.
    pub fn again(&mut self, topics: &Topics, places: &[Place]) -> Result<HashMap<Place, Record>> {
        let mut wanted: BTreeMap<u8, BTreeMap<i32, Vec<i64>>> = BTreeMap::new();
        for place in places {
            let of_topic = wanted.entry(place.topic()).or_default();
            of_topic.entry(place.partition()).or_default().push(place.offset());
        }
        let mut found = HashMap::new();
        for (topic, partitions) in wanted {
            let name = topics.name(topic);
            self.again_of(topic, name, partitions, &mut found)
                .with_context(|| format!("cannot read {name} once more"))?;
        }
        Ok(found)
    }

    fn again_of(
        &mut self,
        topic: u8,
        name: &str,
        mut wanted: BTreeMap<i32, Vec<i64>>,
        found: &mut HashMap<Place, Record>,
    ) -> Result<()> {
        let mut reader = LogReader::connect(self.kafka, name)?;
        for (partition, offsets) in &mut wanted {
            offsets.sort_unstable();
            reader.add(*partition, offsets.first().copied());
        }
        let until = Instant::now() + PATIENCE;
        while !reader.is_done() && Instant::now() < until {
            let mut done = Vec::new();
            reader.step(Duration::from_millis(200), |event| -> Result<()> {
                let Event::Record(record) = event else { return Ok(()) };
                let Some(offsets) = wanted.get(&record.partition) else { return Ok(()) };
                if offsets.last().is_none_or(|last| record.offset >= *last) {
                    done.push(record.partition);
                }
                if offsets.binary_search(&record.offset).is_ok() {
                    found.insert(Place::new(topic, record.partition, record.offset), record);
                }
                Ok(())
            })?;
            for partition in done {
                reader.remove(partition)?;
            }
        }
        Ok(())
    }
}
