//! The counters that the services keep, compared with what was found without them.

use super::cut::Cut;
use super::differences::Differences;
use super::input::Audit;
use super::place::{DEAD, INPUT, VALID};
use super::tables::SinkLedger;
use anyhow::{Result, anyhow};
use caudal_core::decode::Record;
use caudal_core::ledger::{AccountLedger, GroupLedger};
use caudal_core::money::{Sums, nano_text};
use caudal_core::reject::Reason;
use caudal_processor::block::{Assembler, check_compatible, task_of};
use caudal_processor::shared::{Shared, Stage, TaskId};
use caudal_processor::tasks::Task;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The ledgers of the processor's tasks at the positions of the cut.
pub struct Ledgers {
    shared: Arc<Shared>,
    reading: BTreeMap<TaskId, (Assembler, Task)>,
    account: BTreeMap<i32, AccountLedger>,
    group: BTreeMap<i32, GroupLedger>,
}

impl Ledgers {
    pub fn new(shared: Shared) -> Ledgers {
        Ledgers {
            shared: Arc::new(shared),
            reading: BTreeMap::new(),
            account: BTreeMap::new(),
            group: BTreeMap::new(),
        }
    }

    /// Takes the next record of `caudal_estado`.
    ///
    /// # Errors
    /// When a block is damaged or missing, or was made with other queries or another horizon.
    pub fn observe(&mut self, record: &Record, cut: &Cut) -> Result<()> {
        let at = || format!("caudal_estado-{}@{}", record.partition, record.offset);
        let part = record.value.as_deref().unwrap_or_default();
        let id = task_of(part).map_err(|e| anyhow!("{}: {e}", at()))?;
        let (assembler, task) = self
            .reading
            .entry(id)
            .or_insert_with(|| (Assembler::default(), Task::new(id, &self.shared)));
        let Some(block) = assembler.add(part).map_err(|e| anyhow!("{}: {e}", at()))? else {
            return Ok(());
        };
        // Blocks of another number of partitions are of an earlier era: the last ones were checked
        // before.
        if block.head.partitions == self.shared.partitions {
            check_compatible(&block.head, &self.shared).map_err(|e| {
                anyhow!("{}: {e} (verify takes the horizon from --dedup-horizon-s)", at())
            })?;
        }
        let next_offset = block.head.next_offset;
        task.apply(&block).map_err(|e| anyhow!("{}: {e}", at()))?;
        match task {
            Task::Account(task) if next_offset == cut.input_end(id.partition) => {
                self.account.insert(id.partition, task.ledger().clone());
            }
            Task::Group(task) if next_offset == cut.partials_end(id.partition) => {
                self.group.insert(id.partition, task.ledger().clone());
            }
            _ => {}
        }
        Ok(())
    }

    /// That every task's state ends where its group has committed.
    pub fn check_ends(&self, cut: &Cut, differences: &mut Differences) {
        for (id, (_, task)) in &self.reading {
            let (has, position) = match id.stage {
                Stage::Account => {
                    (self.account.contains_key(&id.partition), cut.input_end(id.partition))
                }
                Stage::Group => {
                    (self.group.contains_key(&id.partition), cut.partials_end(id.partition))
                }
                Stage::Source(_) => continue,
            };
            if !has {
                differences.say(format!(
                    "caudal_estado: no block of task {id} ends at {position}, where group \
                     caudal-processor stands (the last one ends at {})",
                    task.next_offset()
                ));
            }
        }
    }

    /// Compares stage 1's with what was counted, where everything is still there.
    pub fn compare_account(&self, cut: &Cut, audit: &Audit<'_>, differences: &mut Differences) {
        for (partition, ledger) in &self.account {
            let is_cut = [INPUT, VALID, DEAD].iter().any(|t| cut.is_cut(*t, *partition));
            let Some(counted) = audit.ledger(*partition).filter(|_| !is_cut) else { continue };
            for text in account_differences(ledger, counted, audit.names()) {
                differences.say(format!("ledger of task 1-{partition}: {text}"));
            }
        }
    }

    /// The ledgers of stage 2, added up.
    pub fn group(&self) -> GroupLedger {
        let mut all = GroupLedger::default();
        self.group.values().for_each(|ledger| all.merge(ledger));
        all
    }
}

/// Collects what a ledger says otherwise than what was found.
#[derive(Default)]
struct Comparison(Vec<String>);

impl Comparison {
    fn count(&mut self, what: &str, says: u64, found: u64) {
        if says != found {
            self.0.push(format!("{what} is {says}, found {found}"));
        }
    }

    fn sums(&mut self, what: &str, says: &Sums, found: &Sums) {
        let currencies = says.iter().chain(found.iter()).map(|(currency, _)| currency);
        for currency in currencies.collect::<BTreeSet<_>>() {
            let (says, found) = (says.nano(currency), found.nano(currency));
            if says != found {
                let text = |nano| nano_text(nano, currency.exponent());
                let (says, found) = (text(says), text(found));
                self.0.push(format!("{what} in {currency} is {says}, found {found}"));
            }
        }
    }
}

fn account_differences(
    ledger: &AccountLedger,
    counted: &AccountLedger,
    names: &[String],
) -> Vec<String> {
    let mut all = Comparison::default();
    all.count("records_in", ledger.records_in, counted.records_in);
    all.count("valid", ledger.valid, counted.valid);
    all.count("duplicate", ledger.duplicate, counted.duplicate);
    all.count("rerouted", ledger.rerouted, counted.rerouted);
    all.sums("valid", &ledger.valid_sums, &counted.valid_sums);
    all.sums("duplicate", &ledger.duplicate_sums, &counted.duplicate_sums);
    // What is late for a query that is no longer in the file is not counted here.
    let known = |query: &&String| names.contains(query);
    let queries = ledger.late.keys().chain(counted.late.keys()).filter(known);
    for query in queries.collect::<BTreeSet<_>>() {
        let of = |l: &AccountLedger| l.late.get(query).copied().unwrap_or(0);
        all.count(&format!("late for {query}"), of(ledger), of(counted));
    }
    for reason in Reason::ALL {
        let of = |l: &AccountLedger| l.dead.get(&reason).cloned().unwrap_or_default();
        let (says, found) = (of(ledger), of(counted));
        all.count(&format!("dead ({reason})"), says.count, found.count);
        let what = format!("dead ({reason}) without amount");
        all.count(&what, says.without_amount, found.without_amount);
        all.sums(&format!("dead ({reason})"), &says.sums, &found.sums);
    }
    all.0
}

/// What was found of one topic on its way into PostgreSQL; `None` where retention or compaction
/// leaves nothing to count.
#[derive(Debug, Default)]
pub struct Landed {
    pub rows: Option<u64>,
    pub duplicates: Option<u64>,
    /// Dead letters of the sink's own, conflicts among them.
    pub refused: Option<u64>,
    /// Records below the sink's position.
    pub records: Option<u64>,
    /// Tombstones among them that took a row back.
    pub deleted: Option<u64>,
    /// Money of the rows.
    pub sums: Option<Sums>,
}

/// Compares the sink's ledger of a topic with what was found.
pub fn compare_sink(topic: &str, says: &SinkLedger, found: &Landed, differences: &mut Differences) {
    let mut all = Comparison::default();
    let mut count = |what: &str, says: u64, found: Option<u64>| {
        all.count(what, says, found.unwrap_or(says));
    };
    count("rows", says.rows, found.rows);
    count("duplicates", says.duplicates, found.duplicates);
    count("dead and conflicts", says.dead + says.conflicts, found.refused);
    let records = says.rows + says.duplicates + says.dead + says.conflicts + says.deleted;
    count("deleted", says.deleted, found.deleted);
    count("records", records, found.records);
    if let Some(sums) = &found.sums {
        all.sums("rows", &says.sums.get("rows").cloned().unwrap_or_default(), sums);
    }
    for text in all.0 {
        differences.say(format!("ledger of the sink (sink_offsets, {topic}): {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::place::Topics;
    use caudal_core::money::{Amount, Currency};
    use caudal_core::reject::Rejection;

    fn ledger() -> AccountLedger {
        let eur = Currency::parse("EUR").expect("EUR");
        let mut ledger = AccountLedger { records_in: 3, ..AccountLedger::default() };
        ledger.accept(eur, Amount { units: 1050, scale: 2 }).expect("sum");
        ledger.repeat(eur, Amount { units: 1050, scale: 2 }).expect("sum");
        ledger.reject(&Rejection::new(Reason::Amount, "")).expect("sum");
        ledger
    }

    #[test]
    fn every_count_and_sum_is_compared() {
        let names = ["ventas_gold".to_owned()];
        assert!(account_differences(&ledger(), &ledger(), &names).is_empty());
        let mut counted = ledger();
        counted.valid = 2;
        counted.late.insert("ventas_gold".into(), 1);
        counted.valid_sums = Sums::default();
        counted.dead.clear();
        assert_eq!(
            account_differences(&ledger(), &counted, &names),
            [
                "valid is 1, found 2",
                "valid in EUR is 10.50, found 0.00",
                "late for ventas_gold is 0, found 1",
                "dead (amount) is 1, found 0",
                "dead (amount) without amount is 1, found 0",
            ]
        );
    }

    #[test]
    fn the_sinks_ledger_is_compared_where_something_was_found() {
        let says = SinkLedger { rows: 3, duplicates: 1, deleted: 2, ..SinkLedger::default() };
        let mut differences = Differences::new(Topics::of(&[]));
        compare_sink("t", &says, &Landed::default(), &mut differences);
        assert!(differences.drafts().is_empty());
        let found =
            Landed { rows: Some(2), records: Some(6), deleted: Some(1), ..Landed::default() };
        compare_sink("t", &says, &found, &mut differences);
        assert_eq!(
            differences.drafts(),
            [
                "ledger of the sink (sink_offsets, t): rows is 3, found 2",
                "ledger of the sink (sink_offsets, t): deleted is 2, found 1"
            ]
        );
    }
}
