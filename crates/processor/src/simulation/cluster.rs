//! The fake cluster: partitions, the two coordinators, and a clock of its own. Everything that a
//! schedule does to it comes from one seed.

use super::dice::Dice;
use super::group::Group;
use super::log::{Log, TxnId};
use super::txns::{Late, Producer};
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// When a schedule begins by the brokers' clock: 2026-01-01, in ms since 1970.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// What one call takes.
const CALL: Duration = Duration::from_millis(1);

/// How often things go wrong, in 1000 occasions each.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// A process is killed at a call.
    pub crash: u32,
    /// A call fails and may be tried again.
    pub transient: u32,
    /// A txn is aborted.
    pub abort: u32,
    /// A txn's outcome is not known to its client.
    pub doubt: u32,
    /// A process stalls in a commit, or while it restores, until the others have taken over.
    pub stall: u32,
    /// Markers of a txn come later to some partitions than to others.
    pub lag: u32,
}

/// What the oracle asks of a run beyond what lies in the logs.
#[derive(Default)]
pub struct Observed {
    /// Per partition of the input: its end each time that it was confirmed.
    pub confirmed_ends: BTreeMap<i32, Vec<i64>>,
    /// How often each kind of fault struck.
    pub faults: BTreeMap<&'static str, u64>,
}

/// The cluster.
pub struct Cluster {
    base: Instant,
    /// Time since the beginning.
    pub now: Duration,
    logs: BTreeMap<TopicPartition, Log>,
    /// The group coordinator.
    pub group: Group,
    pub(super) producers: BTreeMap<String, Producer>,
    pub(super) late: Vec<Late>,
    pub(super) cuts: Vec<(Duration, TopicPartition, i64)>,
    pub(super) next_txn: TxnId,
    /// Choices of faults and of the interleaving.
    pub dice: Dice,
    /// How often things go wrong.
    pub rates: Rates,
    /// What happened.
    pub observed: Observed,
    tracing: bool,
}

impl Cluster {
    /// An empty cluster with a group over `inputs`.
    pub fn new(seed: u64, inputs: Vec<TopicPartition>, rates: Rates, tracing: bool) -> Cluster {
        Cluster {
            base: Instant::now(),
            now: Duration::ZERO,
            logs: BTreeMap::new(),
            group: Group::of(inputs),
            producers: BTreeMap::new(),
            late: Vec::new(),
            cuts: Vec::new(),
            next_txn: 1,
            dice: Dice::new(seed, 2),
            rates,
            observed: Observed::default(),
            tracing,
        }
    }

    /// Says what happens, when somebody listens.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>9.3} s  {}", self.now.as_secs_f64(), what());
        }
    }

    /// Whether a fault of this kind strikes now; it is counted.
    pub fn strikes(&mut self, per_mille: u32, kind: &'static str) -> bool {
        let strikes = per_mille > 0 && self.dice.chance(per_mille);
        if strikes {
            *self.observed.faults.entry(kind).or_default() += 1;
        }
        strikes
    }

    /// The clock as the engine sees it.
    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// One call: time passes, and what is due happens.
    pub fn call(&mut self) {
        self.pass(CALL);
    }

    /// Lets time pass, and what becomes due happen.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        for dead in self.group.heartbeat(self.now) {
            self.note(|| format!("the session of {dead} has ended"));
        }
        self.end_what_is_due();
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cuts).into_iter().partition(|(at, ..)| *at <= now);
        self.cuts = later;
        for (_, partition, below) in due {
            self.note(|| format!("{} is cut below {below}", name(&partition)));
            self.log(&partition).cut(below);
        }
    }

    /// Cuts a partition after `delay`.
    pub fn cut_later(&mut self, partition: TopicPartition, below: i64, delay: Duration) {
        self.cuts.push((self.now + delay, partition, below));
    }

    /// A partition; it exists once somebody asks for it.
    pub fn log(&mut self, partition: &TopicPartition) -> &mut Log {
        if !self.logs.contains_key(partition) {
            self.logs.insert(partition.clone(), Log::default());
        }
        self.logs.get_mut(partition).expect("just made")
    }

    /// A partition as it is; an empty one where nobody wrote.
    pub fn existing(&self, topic: &str, partition: i32) -> Option<&Log> {
        self.logs.get(&(topic.into(), partition))
    }

    /// Every partition of a topic that was written to.
    pub fn partitions(&self, topic: &str) -> impl Iterator<Item = (i32, &Log)> {
        self.logs.iter().filter(move |((t, _), _)| t.as_ref() == topic).map(|((_, p), l)| (*p, l))
    }

    /// Every topic that was written to.
    pub fn topics(&self) -> BTreeSet<&str> {
        self.logs.keys().map(|(topic, _)| topic.as_ref()).collect()
    }

    /// The end of every partition.
    pub fn ends(&self) -> BTreeMap<String, i64> {
        self.logs.iter().map(|(p, log)| (name(p), log.high_watermark())).collect()
    }

    /// Appends a record as a broker does: offset and time are its own.
    pub fn append(
        &mut self,
        partition: &TopicPartition,
        mut record: Record,
        txn: Option<TxnId>,
    ) -> i64 {
        record.partition = partition.1;
        record.timestamp = BEGIN_MS + i64::try_from(self.now.as_millis()).expect("a short time");
        self.log(partition).append(record, txn)
    }
}

/// `topic-partition`.
pub fn name(partition: &TopicPartition) -> String {
    format!("{}-{}", partition.0, partition.1)
}
