use super::*;
use crate::block::{Assembler, Head};
use crate::tables::Tables;
use crate::tasks::{Task, Tasks};
use caudal_core::decode::Record;
use caudal_core::outbox::OutRecord;
use caudal_core::partitioner::partition_of;
use caudal_core::time::{HOUR, MINUTE, SECOND, to_rfc3339};
use caudal_kafka::TopicPartition;
use caudal_query::plan::{Plan, SHIPPED};
use std::collections::{BTreeMap, VecDeque};

const BASE: i64 = 1_780_000_000 * SECOND;
const NOW_MS: i64 = 1_790_000_000_000;

/// The shipped ones without HAVING, and the same with EMIT FINAL: another definition, and no
/// time-outs.
fn plans() -> Vec<Plan> {
    let eager = SHIPPED.replace("HAVING COUNT(*) > 10 OR SUM(amount) > 10000", "");
    let last = eager
        .replace("WITH (IDLE_TIMEOUT = '1 HOUR')", "")
        .replace("EMIT CHANGES", "EMIT FINAL")
        .replace("GRACE PERIOD 10", "GRACE PERIOD 11")
        .replace("TABLE ventas_gold", "TABLE oro_final")
        .replace("TABLE alertas_fraude", "TABLE alertas_final");
    let plans = Plan::compile_file("queries", &format!("{last}{eager}"));
    plans.unwrap_or_else(|faults| panic!("{faults}"))
}

/// Both stages in memory, with the logs between them.
struct Pipe {
    shared: Arc<Shared>,
    tasks: BTreeMap<TaskId, Task>,
    /// End of every partition that something was written to.
    ends: BTreeMap<TopicPartition, i64>,
    waiting: Vec<(TopicPartition, Record)>,
    /// Parts of state blocks, by partition.
    log: Vec<(i32, Vec<u8>)>,
    /// All outputs but blocks and partials.
    out: Vec<OutRecord>,
}

impl Pipe {
    fn new(partitions: i32) -> Pipe {
        let shared = Arc::new(Shared::new(plans(), partitions, HOUR));
        let id = |stage| (0..partitions).map(move |partition| TaskId { stage, partition });
        let ids = id(Stage::Account).chain(id(Stage::Group));
        let tasks = ids.map(|id| (id, Task::new(id, &shared))).collect();
        let (ends, waiting) = (BTreeMap::new(), Vec::new());
        Pipe { shared, tasks, ends, waiting, log: Vec::new(), out: Vec::new() }
    }

    fn send(&mut self, topic: &Arc<str>, partition: i32, mut record: Record) {
        let at = (Arc::clone(topic), partition);
        let end = self.ends.entry(at.clone()).or_insert(0);
        (record.partition, record.offset, record.timestamp) = (partition, *end, NOW_MS);
        *end += 1;
        self.waiting.push((at, record));
    }

    fn pay(&mut self, sale: &Sale) {
        let value = serde_json::json!({
            "transaction_id": sale.id, "account_id": sale.account, "merchant_id": sale.merchant,
            "amount": sale.amount.to_string(), "currency": "EUR", "kind": "PURCHASE",
            "event_time": to_rfc3339(sale.time), "source": "s", "source_seq": 1,
        });
        let value = Some(value.to_string().into_bytes().into());
        let home = partition_of(sale.account.as_bytes(), self.shared.partitions);
        let topic = Arc::clone(&self.shared.input_topic);
        self.send(&topic, home, Record { value, ..Record::default() });
    }

    /// Processes all that waits, and what it causes, in two batches a round.
    fn drain(&mut self) {
        while !self.waiting.is_empty() {
            let mut tasks = Tasks::default();
            for (id, task) in std::mem::take(&mut self.tasks) {
                tasks.insert(id, task);
            }
            let mut records: VecDeque<_> = std::mem::take(&mut self.waiting).into();
            let tables = Tables::new(&self.shared);
            let mut outbox = Outbox::default();
            let touched =
                tasks.process(&self.shared, &mut records, &tables, &mut outbox).expect("processed");
            let ended =
                tasks.finish((&touched, &BTreeMap::new()), &self.shared, &tables, &mut outbox);
            ended.expect("finished");
            assert!(records.is_empty());
            for id in touched {
                tasks.get_mut(id).expect("running").commit();
            }
            self.take(outbox);
            self.restart();
        }
    }

    fn take(&mut self, outbox: Outbox) {
        for out in outbox.records {
            if out.topic == self.shared.state_topic {
                self.log.push((out.partition, out.value.expect("block")));
            } else if out.topic == self.shared.partials_topic {
                let mut headers: Vec<(String, Box<[u8]>)> = Vec::new();
                out.for_each_header(|name, value| headers.push((name.to_owned(), value.into())));
                let value = out.value.map(Into::into);
                let topic = Arc::clone(&out.topic);
                self.send(&topic, out.partition, Record { value, headers, ..Record::default() });
            } else {
                self.out.push(out);
            }
        }
    }

    /// Every task from its blocks.
    fn restart(&mut self) {
        let mut reading: BTreeMap<TaskId, (Assembler, Task, Option<Head>)> = BTreeMap::new();
        for (partition, part) in &self.log {
            let id = crate::block::task_of(part).expect("part");
            assert_eq!(id.partition, *partition);
            let shared = &self.shared;
            let (assembler, task, last) = reading
                .entry(id)
                .or_insert_with(|| (Assembler::default(), Task::new(id, shared), None));
            let Some(block) = assembler.add(part).expect("in order") else { continue };
            task.apply(&block).expect("block");
            *last = Some(block.head);
        }
        let id =
            |stage| (0..self.shared.partitions).map(move |partition| TaskId { stage, partition });
        for id in id(Stage::Account).chain(id(Stage::Group)) {
            let task = match reading.remove(&id) {
                Some((assembler, mut task, Some(last))) => {
                    assembler.finish(id).expect("whole");
                    crate::block::check_compatible(&last, &self.shared).expect("compatible");
                    task.settle(&last).expect("same queries");
                    task
                }
                _ => Task::new(id, &self.shared),
            };
            self.tasks.insert(id, task);
        }
    }

    fn grow(&mut self, partitions: i32) -> Moved {
        let mut old = Old::default();
        for task in std::mem::take(&mut self.tasks).into_values() {
            match task {
                Task::Account(task) => old.accounts.push(*task),
                Task::Group(task) => old.groups.push(*task),
                Task::Source(_) => {}
            }
        }
        old.sort();
        self.shared = Arc::new(Shared::new(plans(), partitions, HOUR));
        let (outbox, moved) = grow(&self.shared, &old).expect("moved");
        assert_eq!(outbox.positions.len(), 2 * usize::try_from(partitions).unwrap());
        for position in &outbox.positions {
            let end = self.ends.get(&(Arc::clone(&position.topic), position.partition));
            assert_eq!(position.next_offset, end.copied().unwrap_or(0), "{position:?}");
        }
        self.take(outbox);
        self.restart();
        moved
    }

    fn ledger(&self) -> caudal_core::ledger::AccountLedger {
        let mut all = caudal_core::ledger::AccountLedger::default();
        for task in self.tasks.values() {
            if let Task::Account(task) = task {
                all.merge(task.ledger()).expect("sum");
            }
        }
        all
    }

    /// The last value of each key of a query; of a final one each key comes once.
    fn rows(&self, query: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        for out in self.out.iter().filter(|out| &*out.topic == query) {
            let key = out.key.clone().expect("key");
            let before = rows.insert(key.clone(), out.value.clone().expect("row"));
            let key = String::from_utf8_lossy(&key);
            assert!(before.is_none() || !query.ends_with("final"), "{query} gives {key} twice");
        }
        rows
    }
}

#[derive(Debug, Clone)]
struct Sale {
    id: String,
    account: String,
    merchant: String,
    amount: i64,
    time: i64,
}

/// In the order of time, with repeats of what was up to forty before.
fn sales(count: usize) -> Vec<Sale> {
    let mut all: Vec<Sale> = Vec::new();
    for i in 0..count {
        if i % 5 == 4 {
            let mut again = all[i - 1 - (i * 7) % i.min(40)].clone();
            // The first of its id may be a repeat itself.
            again.amount += i64::from(i % 35 == 34);
            all.push(again);
            continue;
        }
        all.push(Sale {
            id: format!("t-{i}"),
            account: format!("acc-{}", (i * i) % 23),
            merchant: format!("m-{}", i % 7),
            amount: 1 + i64::try_from(i % 11).unwrap(),
            time: BASE + i64::try_from(i).unwrap() * 3 * SECOND,
        });
    }
    all
}

/// An hour later, a sale in every partition: every window before is over.
fn flush(pipe: &mut Pipe) {
    for i in 0..60 {
        pipe.pay(&Sale {
            id: format!("flush-{i}"),
            account: format!("acc-{i}"),
            merchant: "flush".into(),
            amount: 1,
            time: BASE + 2 * HOUR,
        });
    }
    pipe.drain();
}

/// Runs the sales in batches; at each of `growths` (place, partitions) the topics grow.
fn run(begin: i32, growths: &[(usize, i32)]) -> (Pipe, Vec<Moved>) {
    let mut pipe = Pipe::new(begin);
    let mut moved = Vec::new();
    for (at, sale) in sales(200).iter().enumerate() {
        if let Some((_, partitions)) = growths.iter().find(|(place, _)| *place == at) {
            pipe.drain();
            moved.push(pipe.grow(*partitions));
        }
        pipe.pay(sale);
        if at % 9 == 8 {
            pipe.drain();
        }
    }
    pipe.drain();
    flush(&mut pipe);
    (pipe, moved)
}

#[test]
fn what_comes_out_does_not_depend_on_growing() {
    let (fixed, _) = run(1, &[]);
    for (begin, growths) in [
        (1, &[(77, 2)][..]),
        (3, &[(101, 5)]),
        (4, &[(60, 8)]),
        (2, &[(50, 3), (51, 4), (120, 10)]),
    ] {
        let (grown, moved) = run(begin, growths);
        let (is, was) = (grown.ledger(), fixed.ledger());
        assert_eq!(is, was, "{begin} {growths:?}");
        for plan in plans() {
            let (is, was) = (grown.rows(&plan.name), fixed.rows(&plan.name));
            assert_eq!(is, was, "{} of {begin} {growths:?}", plan.name);
            assert!(was.len() > 20, "{} says little", plan.name);
            let late = plan.late_topic();
            assert!(grown.out.iter().all(|out| *out.topic != *late), "too late");
        }
        assert!(moved.iter().all(|m| m.ids > 0 && m.panes > 0 && m.totals > 0), "{moved:?}");
    }
    assert!(fixed.ledger().duplicate > 20 && fixed.ledger().dead_count() > 3);
}

#[test]
fn ids_are_copied_only_where_their_account_may_live() {
    let (_, moved) = run(4, &[(100, 8)]);
    assert_eq!(moved[0].ids, 2 * moved[0].ids_before);
    let (_, moved) = run(4, &[(100, 5)]);
    assert_eq!(moved[0].ids, 5 * moved[0].ids_before);
    assert_eq!(Widening { from: 6, to: 10 }.copies(), 5);
}

#[test]
fn positions_bounds_and_growths_stay_with_their_partition() {
    let mut pipe = Pipe::new(2);
    sales(30).iter().for_each(|sale| pipe.pay(sale));
    pipe.drain();
    pipe.grow(3);
    let before = pipe.ends.clone();
    pipe.grow(4);
    let mut heads = crate::block::Heads::default();
    pipe.log.iter().for_each(|(_, part)| heads.observe(part).expect("part"));
    for (id, head) in heads.last() {
        assert_eq!(head.complete_from, head.sequence, "{id} is whole in one block");
        let counts: Vec<i32> = head.growths.iter().map(|g| g.partitions).collect();
        assert_eq!(counts, [2, 3]);
        let end = before.get(&pipe.shared.input_of(*id)).copied().unwrap_or(0);
        assert!(head.growths.iter().all(|g| g.next_offset == end), "{id}: {head:?}");
    }
    let mut old = Old::default();
    for task in pipe.tasks.into_values() {
        match task {
            Task::Account(task) => old.accounts.push(*task),
            Task::Group(task) => old.groups.push(*task),
            Task::Source(_) => {}
        }
    }
    let id = |partition| TaskId { stage: Stage::Account, partition };
    old.metadata.insert(id(1), "17 3".into());
    old.starts.insert(id(4), 9);
    let (outbox, _) = grow(&Arc::new(Shared::new(plans(), 5, HOUR)), &old).expect("moved");
    let position = |partition: usize| &outbox.positions[partition];
    assert!(position(1).metadata.starts_with("17 "), "{:?}", position(1));
    assert_eq!((position(4).next_offset, position(4).metadata.as_str()), (9, "- 0 0"));
}

#[test]
fn a_faster_partition_sets_the_pace_of_those_that_its_keys_come_to() {
    let widening = Widening { from: 4, to: 6 };
    let times = [MINUTE, 2 * MINUTE, i64::MIN, 4 * MINUTE];
    let of_old = |p: i32| times[usize::try_from(p).unwrap()];
    let new: Vec<i64> = (0..6).map(|q| widening.stream_time(q, of_old)).collect();
    let (even, odd) = (MINUTE, 4 * MINUTE);
    assert_eq!(new, [even, odd, even, odd, even, odd]);
}

#[test]
fn a_key_only_moves_where_it_may() {
    for (from, to) in (1..13).flat_map(|from| (from + 1..25).map(move |to| (from, to))) {
        let widening = Widening { from, to };
        for key in (0..200).map(|i| format!("acc-{i}")) {
            let home = |count| partition_of(key.as_bytes(), count);
            let targets = (0..to).filter(|new| widening.may_move(home(from), *new));
            assert!(widening.may_move(home(from), home(to)), "{key} {widening:?}");
            assert_eq!(i32::try_from(targets.count()).unwrap(), widening.copies());
        }
    }
}
