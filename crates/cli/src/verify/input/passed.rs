//! What is judged of a record that passed: its columns, the queries it is late for, and whether its
//! id passed before.

use super::{Audit, INPUT};
use crate::verify::differences::Differences;
use crate::verify::identity::columns;
use crate::verify::place::Place;
use crate::verify::valid::{Entry, late_bits};
use caudal_core::money::{SumOverflow, Sums};
use caudal_core::time::MINUTE;
use caudal_core::transaction::ValidTransaction;
use caudal_query::group::key_of;
use caudal_query::input::Input;
use caudal_query::plan::Plan;

/// Records that passed dedup a second time, because their id was forgotten after the horizon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Again {
    /// How many.
    pub count: u64,
    /// Their money.
    pub sums: Sums,
    /// By query: how many of them its aggregates count twice.
    pub by_query: Vec<u64>,
}

impl Audit<'_> {
    pub(super) fn check_valid(
        &mut self,
        lane: usize,
        valid: &ValidTransaction<'_>,
        entry: &Entry,
        differences: &mut Differences,
    ) {
        let lane = &mut self.lanes[lane];
        lane.stream_time = lane.stream_time.max(valid.transaction.event_time);
        let (t, plans) = (&valid.transaction, self.plans);
        if columns(t) != entry.columns {
            let id = &t.transaction_id;
            let (at, source) = (
                differences.at(entry.place),
                Place::new(INPUT, entry.place.partition(), entry.source),
            );
            let source = differences.at(source);
            differences.say(format!("{at} {id}: differs from its cause {source}"));
        }
        let row = Input::new(valid, entry.place.partition(), entry.source);
        let is_late = |plan: &&Plan| {
            plan.takes(&row).unwrap_or(false)
                && key_of(plan, &row).is_some()
                && plan.window.is_missed(t.event_time, lane.stream_time)
        };
        let late_for = plans.iter().filter(is_late).map(|plan| plan.name.as_str());
        let expected = late_bits(&self.names, late_for);
        if expected & !self.unknown != entry.late & !self.unknown
            && self.cut.is_whole(entry.place.partition())
        {
            let queries = |bits: u32| {
                let of =
                    |(at, name): (usize, &String)| (bits & (1 << at) != 0).then(|| name.clone());
                let names: Vec<String> = self.names.iter().enumerate().filter_map(of).collect();
                if names.is_empty() { "no query".to_owned() } else { names.join(", ") }
            };
            differences.say(format!(
                "{} {}: late for {}, but by its partition's stream time for {}",
                differences.at(entry.place),
                t.transaction_id,
                queries(entry.late),
                queries(expected)
            ));
        }
        self.late += u64::from(entry.late != 0);
        for (at, name) in self.names.iter().enumerate() {
            if entry.late & (1 << at) != 0 {
                *lane.ledger.late.entry(name.clone()).or_default() += 1;
            }
        }
    }

    /// An id that passed before may pass again only after the horizon.
    pub(super) fn check_horizon(
        &mut self,
        lane: usize,
        valid: &ValidTransaction<'_>,
        entry: &Entry,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let Some(before) = self.valid.predecessor(entry, &self.cut.eras) else { return Ok(()) };
        let forgotten = (self.lanes[lane].stream_time - self.cut.horizon).div_euclid(MINUTE) + 1;
        let id = &valid.transaction.transaction_id;
        if i64::from(before.minute) > forgotten && self.cut.is_whole(entry.place.partition()) {
            differences.say(format!(
                "transacciones_validas has {id} twice within the dedup horizon: {} and {}",
                before.place.short(),
                entry.place.short()
            ));
            return Ok(());
        }
        self.again.count += 1;
        let row = Input::new(valid, entry.place.partition(), entry.source);
        for (at, plan) in self.plans.iter().enumerate() {
            let counted = plan.takes(&row).unwrap_or(false) && entry.late & (1 << at) == 0;
            self.again.by_query[at] += u64::from(counted);
        }
        self.again.sums.add(valid.currency, valid.transaction.amount)
    }
}
