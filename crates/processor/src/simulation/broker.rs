//! The engine's view of the fake cluster: one process, one run of it.

use super::cluster::{Cluster, name};
use super::group::MemberId;
use super::source::SimLog;
use super::world::World;
use crate::block::Assembler;
use crate::broker::Broker;
use crate::mutant::{Mutant, is};
use crate::shared::Stage;
use caudal_core::decode::Record;
use caudal_core::outbox::{OutRecord, Outbox, Position};
use caudal_core::topics;
use caudal_kafka::consumer::{Batch, Change, Limits};
use caudal_kafka::log_reader::LogReader;
use caudal_kafka::offsets::Committed;
use caudal_kafka::txn::{TxnError, Written};
use caudal_kafka::{Error, Result, TopicPartition};
use std::cell::RefMut;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// An assigned partition as the consumer holds it.
struct Fetch {
    next: i64,
    paused: bool,
    started: bool,
}

/// A process's clients.
pub struct SimBroker {
    world: Rc<World>,
    instance: String,
    epoch: u32,
    member: Option<MemberId>,
    /// As of the last gathering.
    membership: Option<(MemberId, i32)>,
    owned: BTreeMap<TopicPartition, Fetch>,
    /// End of the reference table when a partition was assigned: what the task must know.
    table_floors: BTreeMap<i32, i64>,
    state_log: LogReader<SimLog>,
    table_log: LogReader<SimLog>,
}

/// A failure that passes by itself.
pub fn transient(what: &str) -> Error {
    Error { what: what.into(), cause: "simulated".into(), transient: true }
}

fn permanent(what: &str) -> Error {
    Error { what: what.into(), cause: "simulated".into(), transient: false }
}

impl SimBroker {
    /// Starts the clients of an instance: ends what its predecessor left open.
    pub fn start(world: &Rc<World>, instance: &str) -> SimBroker {
        let epoch = world.cluster().init_transactions(instance);
        let log = |topic| LogReader::new(SimLog::new(world, instance), topic);
        SimBroker {
            world: Rc::clone(world),
            instance: instance.to_owned(),
            epoch,
            member: None,
            membership: None,
            owned: BTreeMap::new(),
            table_floors: BTreeMap::new(),
            state_log: log(topics::ESTADO),
            table_log: log(super::TABLE),
        }
    }

    /// One call to the cluster: the process may be killed before it.
    fn call(&self, what: &'static str) -> RefMut<'_, Cluster> {
        self.world.call(&self.instance, what)
    }

    fn fails(&self, cluster: &mut Cluster, what: &'static str) -> Result<()> {
        let rate = cluster.rates.transient;
        match cluster.strikes(rate, "calls that failed") {
            true => {
                cluster.note(|| format!("{}: {what} fails", self.instance));
                Err(transient(what))
            }
            false => Ok(()),
        }
    }

    /// Takes part in the group; what changed.
    fn poll_group(&mut self) -> Result<Vec<Change>> {
        let held: BTreeSet<TopicPartition> = self.owned.keys().cloned().collect();
        let mut cluster = self.world.cluster();
        let now = cluster.now;
        let news = cluster.group.poll(&self.instance, self.member, &held, now);
        let news = news.map_err(|_| permanent("fenced by a newer run of this instance"))?;
        self.member = Some(news.membership.0);
        self.membership = Some(news.membership);
        let mut changes = Vec::new();
        if news.lost && !held.is_empty() {
            self.owned.clear();
            changes.push(Change::Lost(held.into_iter().collect()));
        }
        if !news.revoked.is_empty() {
            self.owned.retain(|partition, _| !news.revoked.contains(partition));
            changes.push(Change::Revoked(news.revoked));
        }
        if !news.assigned.is_empty() {
            let fetch = || Fetch { next: 0, paused: true, started: false };
            self.owned.extend(news.assigned.iter().map(|p| (p.clone(), fetch())));
            let floor = cluster.log(&(super::TABLE.into(), 0)).high_watermark();
            let inputs = news.assigned.iter().filter(|p| p.0.as_ref() == topics::TRANSACCIONES);
            self.table_floors.extend(inputs.map(|p| (p.1, floor)));
            changes.push(Change::Assigned(news.assigned));
        }
        for change in &changes {
            cluster.note(|| format!("{}: {}", self.instance, say(change)));
        }
        Ok(changes)
    }

    /// Records of the assigned partitions, in any interleaving.
    fn fetch(&mut self, most: usize) -> Result<Vec<(TopicPartition, Record)>> {
        let mut cluster = self.world.cluster();
        let mut records = Vec::new();
        let mut ready: Vec<TopicPartition> = self
            .owned
            .iter()
            .filter(|(_, fetch)| !fetch.paused)
            .map(|(partition, _)| partition.clone())
            .collect();
        while !ready.is_empty() && records.len() < most {
            let at = cluster.dice.index(ready.len());
            let run = 1 + cluster.dice.index(8);
            let partition = ready[at].clone();
            let fetch = self.owned.get_mut(&partition).expect("assigned");
            let log = cluster.log(&partition);
            if fetch.next < log.start() {
                return Err(permanent("an input offset is no longer in its partition"));
            }
            let found: Vec<Record> =
                log.committed(fetch.next).take(run).map(|visible| visible.record.clone()).collect();
            match found.last() {
                Some(last) => fetch.next = last.offset + 1,
                None => drop(ready.swap_remove(at)),
            }
            records.extend(found.into_iter().map(|record| (partition.clone(), record)));
        }
        drop(cluster);
        records.truncate(most);
        self.rewind_what_was_cut_off(&records);
        Ok(records)
    }

    /// The positions follow what is handed over, not what was looked at.
    fn rewind_what_was_cut_off(&mut self, records: &[(TopicPartition, Record)]) {
        let mut last: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
        for (partition, record) in records {
            last.insert(partition, record.offset + 1);
        }
        for (partition, next) in last {
            self.owned.get_mut(partition).expect("assigned").next = next;
        }
    }

    /// A batch is joined with a table that is at least as new as the assignment of its partition.
    fn check_table(&self, outbox: &Outbox) {
        let blocks = outbox.records.iter().filter(|out| out.topic.as_ref() == topics::ESTADO);
        let mut assemblers: BTreeMap<&Option<Vec<u8>>, Assembler> = BTreeMap::new();
        for out in blocks {
            let part = out.value.as_deref().expect("a block");
            let block = assemblers.entry(&out.key).or_default().add(part).expect("a part");
            let Some(head) = block.map(|block| block.head) else { continue };
            let floor = self.table_floors.get(&head.task.partition).copied().unwrap_or(0);
            if head.task.stage == Stage::Account && head.table_offset < floor {
                self.world.fail(format!(
                    "task {} joins with the table at {}, which ended at {floor} when it was assigned",
                    head.task, head.table_offset
                ));
            }
        }
    }

    fn send(&self, cluster: &mut Cluster, out: &OutRecord) -> std::result::Result<i64, TxnError> {
        let mut headers = Vec::with_capacity(out.header_count());
        out.for_each_header(|name, value| headers.push((name.to_owned(), value.into())));
        let record = Record {
            key: out.key.as_deref().map(Into::into),
            value: out.value.as_deref().map(Into::into),
            headers,
            ..Record::default()
        };
        let to = (out.topic.clone(), out.partition);
        if is(Mutant::BlockLeftOutOfTxn) && out.topic.as_ref() == topics::ESTADO {
            return Ok(cluster.append(&to, record, None));
        }
        cluster.produce(&self.instance, self.epoch, &to, record).map_err(|_| self.fenced())
    }

    fn fenced(&self) -> TxnError {
        TxnError::Fenced(self.instance.clone())
    }

    /// Aborts in good order.
    fn abort(&self, cause: &str) -> TxnError {
        let mut cluster = self.world.cluster();
        cluster.note(|| format!("{}: txn aborted: {cause}", self.instance));
        match cluster.end_txn(&self.instance, self.epoch, false) {
            Ok(()) => TxnError::Aborted(cause.into()),
            Err(_) => self.fenced(),
        }
    }

    fn fill(&self, outbox: &Outbox) -> std::result::Result<Written, TxnError> {
        let mut written = Written::new();
        let cut = {
            let mut cluster = self.call("begin");
            cluster.dice.index(outbox.records.len() + 1)
        };
        for (at, out) in outbox.records.iter().enumerate() {
            if at == cut {
                self.trouble("while it produces")?;
            }
            let mut cluster = self.world.cluster();
            let offset = self.send(&mut cluster, out)?;
            if out.topic.as_ref() == topics::ESTADO {
                let lowest = written.entry(out.partition).or_insert(offset);
                *lowest = offset.min(*lowest);
            }
        }
        Ok(written)
    }

    /// What may go wrong in the middle of a txn.
    fn trouble(&self, at: &'static str) -> std::result::Result<(), TxnError> {
        self.world.stall(&self.instance, at);
        let (aborts, doubts) = {
            let mut cluster = self.call(at);
            let rates = cluster.rates;
            (cluster.strikes(rates.abort, "aborts"), cluster.strikes(rates.doubt / 3, "time-outs"))
        };
        match (aborts, doubts) {
            (true, _) => Err(self.abort("a record was refused")),
            (_, true) => Err(TxnError::Doubt(format!("time-out {at}"))),
            _ => Ok(()),
        }
    }

    fn send_positions(&self, outbox: &Outbox) -> std::result::Result<(), TxnError> {
        let mut positions: &[Position] = &outbox.positions;
        if is(Mutant::OffsetsOfOneTaskLeftOut) && positions.len() > 1 {
            positions = &positions[1..];
        }
        let offsets = positions
            .iter()
            .map(|p| {
                let committed =
                    Committed { next_offset: p.next_offset, metadata: p.metadata.clone() };
                ((p.topic.clone(), p.partition), committed)
            })
            .collect();
        let Some(membership) = self.membership else {
            return Err(self.abort("the assignment was lost"));
        };
        let added = {
            let mut cluster = self.call("positions");
            let member = (self.instance.as_str(), membership);
            cluster.add_offsets(&self.instance, self.epoch, member, offsets)
        };
        match added {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.abort("the membership is no longer the current one")),
            Err(_) => Err(self.fenced()),
        }
    }

    /// EndTxn, and what may become of it and of its answer.
    fn end(&self) -> std::result::Result<(), TxnError> {
        let mut cluster = self.call("EndTxn");
        let rates = cluster.rates;
        if cluster.strikes(rates.doubt, "doubtful commits") {
            let fate = cluster.dice.index(3);
            cluster.note(|| {
                let fate = ["is lost", "arrives, its answer is lost", "arrives late"][fate];
                format!("{}: EndTxn {fate}", self.instance)
            });
            match fate {
                0 => {}
                1 => drop(cluster.end_txn(&self.instance, self.epoch, true)),
                _ => {
                    let delay = Duration::from_millis(cluster.dice.within(1..9000).unsigned_abs());
                    cluster.end_txn_late(&self.instance, self.epoch, true, delay);
                }
            }
            let wait = cluster.dice.within(1..4000).unsigned_abs();
            cluster.pass(Duration::from_millis(wait));
            drop(cluster);
            // Killed before it can ask: its successor has to find out.
            drop(self.call("a doubt"));
            return Err(TxnError::Doubt("EndTxn has timed out".into()));
        }
        let ended = cluster.end_txn(&self.instance, self.epoch, true);
        drop(cluster);
        ended.map_err(|_| self.fenced())?;
        drop(self.call("the answer to EndTxn"));
        Ok(())
    }
}

impl Broker for SimBroker {
    type Log = SimLog;

    fn now(&self) -> Instant {
        self.world.cluster().instant()
    }

    fn wait(&mut self, time: Duration) {
        self.world.cluster().pass(time);
    }

    fn gather(&mut self, limits: &Limits, not_before: Instant) -> Result<Batch> {
        drop(self.call("gather"));
        let changes = self.poll_group()?;
        let most = {
            let mut cluster = self.world.cluster();
            limits.records.min(1 + cluster.dice.index(40))
        };
        let records = self.fetch(most)?;
        let mut cluster = self.world.cluster();
        if records.is_empty() {
            if changes.is_empty() {
                cluster.pass(limits.idle);
            }
        } else {
            let wait = not_before.saturating_duration_since(cluster.instant());
            cluster.pass(wait);
            cluster.note(|| format!("{}: gathers {}", self.instance, say_records(&records)));
        }
        Ok(Batch { records, changes })
    }

    fn commit(&mut self, outbox: &mut Outbox) -> std::result::Result<Written, TxnError> {
        self.check_table(outbox);
        let written = self.fill(outbox)?;
        self.trouble("before its positions")?;
        self.send_positions(outbox)?;
        self.trouble("before EndTxn")?;
        self.end()?;
        self.world.cluster().note(|| format!("{}: {}", self.instance, say_commit(outbox)));
        Ok(written)
    }

    fn replace_producer(&mut self) -> Result<()> {
        let epoch = self.call("replace").init_transactions(&self.instance);
        self.epoch = epoch;
        Ok(())
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Option<Committed>>> {
        let mut cluster = self.call("committed");
        self.fails(&mut cluster, "committed")?;
        let mut found = BTreeMap::new();
        for partition in partitions {
            let Ok(committed) = cluster.group.committed(partition) else {
                cluster.note(|| format!("{}: {} is not stable", self.instance, name(partition)));
                return Err(transient("an offset is not stable"));
            };
            found.insert(partition.clone(), committed);
        }
        Ok(found)
    }

    fn first_offset(&mut self, partition: &TopicPartition) -> Result<i64> {
        Ok(self.call("first offset").log(partition).start())
    }

    fn is_at_end(&mut self, partition: &TopicPartition, next_offset: i64) -> Result<bool> {
        let mut cluster = self.call("is at end");
        self.fails(&mut cluster, "is at end")?;
        let log = cluster.log(partition);
        let end = log.high_watermark();
        let at_end = log.last_stable() == end && log.next(next_offset).is_none();
        if at_end && partition.0.as_ref() == topics::TRANSACCIONES {
            cluster.observed.confirmed_ends.entry(partition.1).or_default().push(end);
        }
        Ok(at_end)
    }

    fn start(&mut self, partition: &TopicPartition, offset: i64) -> Result<()> {
        let world = Rc::clone(&self.world);
        let mut cluster = world.call(&self.instance, "start");
        self.fails(&mut cluster, "seek")?;
        let Some(fetch) = self.owned.get_mut(partition) else {
            return Err(transient("not assigned"));
        };
        fetch.paused = false;
        if !(is(Mutant::NoRewindAfterAbort) && fetch.started) {
            fetch.next = offset;
        }
        fetch.started = true;
        cluster.note(|| format!("{}: starts {} at {offset}", self.instance, name(partition)));
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for partition in partitions {
            if let Some(fetch) = self.owned.get_mut(partition) {
                fetch.paused = true;
            }
        }
        Ok(())
    }

    fn state_log(&mut self) -> &mut LogReader<SimLog> {
        &mut self.state_log
    }

    fn schemas(&mut self) -> Result<Vec<(u32, String)>> {
        Ok(Vec::new())
    }

    fn table_log(&mut self, _: usize) -> &mut LogReader<SimLog> {
        &mut self.table_log
    }

    fn delete_records(&mut self, partition: i32, below: i64) {
        let mut cluster = self.call("delete records");
        let delay = Duration::from_millis(cluster.dice.within(0..3000).unsigned_abs());
        let rate = cluster.rates.transient;
        let lost = cluster.strikes(rate, "cuts that were lost");
        let partition = (topics::ESTADO.into(), partition);
        cluster
            .note(|| format!("{}: asks to cut {} below {below}", self.instance, name(&partition)));
        if !lost {
            cluster.cut_later(partition, below, delay);
        }
    }
}

fn say(change: &Change) -> String {
    let (what, partitions) = match change {
        Change::Assigned(partitions) => ("assigned", partitions),
        Change::Revoked(partitions) => ("revoked", partitions),
        Change::Lost(partitions) => ("lost", partitions),
    };
    let names: Vec<String> = partitions.iter().map(name).collect();
    format!("{what} {}", names.join(" "))
}

fn say_records(records: &[(TopicPartition, Record)]) -> String {
    let mut all: BTreeMap<&TopicPartition, Vec<i64>> = BTreeMap::new();
    for (partition, record) in records {
        all.entry(partition).or_default().push(record.offset);
    }
    let texts: Vec<String> =
        all.into_iter().map(|(p, offsets)| format!("{}@{offsets:?}", name(p))).collect();
    texts.join(" ")
}

fn say_commit(outbox: &Outbox) -> String {
    let positions: Vec<String> = outbox
        .positions
        .iter()
        .map(|p| format!("{}-{}@{}", p.topic, p.partition, p.next_offset))
        .collect();
    format!("commits {} records, {}", outbox.records.len(), positions.join(" "))
}
