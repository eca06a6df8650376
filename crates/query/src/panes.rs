//! Stage 1 aggregation of groups that contain the account. Hopping windows are kept as panes of
//! one advance: a record changes one pane, not every window that holds it.

use crate::aggregate::Accumulator;
use crate::group::{GroupKey, key_of};
use crate::partials::Partial;
use crate::plan::Plan;
use caudal_core::money::SumOverflow;
use caudal_core::transaction::ValidTransaction;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// Panes of one plan.
#[derive(Debug, Clone, Default)]
pub struct PaneState {
    /// Pane start → group → values: whole panes are dropped when their last window closes.
    panes: BTreeMap<i64, FxHashMap<GroupKey, Accumulator>>,
    changed: BTreeSet<(i64, GroupKey)>,
    /// The last row of each group and window for which HAVING held in this commit, unless it is
    /// the first, which was emitted at once.
    last_rows: BTreeMap<(GroupKey, i64), Option<Accumulator>>,
}

/// What a record did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Whether it missed a window that was already closed.
    pub late: bool,
    /// Rows for which HAVING held for the first time in this commit.
    pub first_rows: Vec<Partial>,
}

impl PaneState {
    /// Adds a record, and evaluates HAVING for every open window that holds it.
    ///
    /// The first true row of a group and window in a commit is returned at once, the last one by
    /// [`PaneState::take_last_rows`]: whether something is seen, and the last value of each key,
    /// do not depend on when commits fall.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn add(
        &mut self,
        plan: &Plan,
        valid: &ValidTransaction<'_>,
        stream_time: i64,
    ) -> Result<Added, SumOverflow> {
        let event_time = valid.transaction.event_time;
        let mut added = Added::default();
        let open: Vec<i64> = plan
            .window
            .starts(event_time)
            .filter(|s| !plan.window.is_closed(*s, stream_time))
            .collect();
        added.late =
            i64::try_from(open.len()).unwrap_or(0) < plan.window.size / plan.window.advance;
        if open.is_empty() {
            return Ok(added);
        }
        let group = key_of(plan, valid);
        let pane = plan.window.pane(event_time);
        let one = Accumulator::of(valid.transaction.amount.nano());
        let groups = self.panes.entry(pane).or_default();
        match groups.get_mut(&group) {
            Some(values) => values.merge(&one)?,
            None => {
                groups.insert(group.clone(), one);
            }
        }
        self.changed.insert((pane, group.clone()));
        for start in open {
            self.evaluate(plan, &group, start, &mut added.first_rows)?;
        }
        Ok(added)
    }

    fn evaluate(
        &mut self,
        plan: &Plan,
        group: &GroupKey,
        start: i64,
        first_rows: &mut Vec<Partial>,
    ) -> Result<(), SumOverflow> {
        let Some(values) = self.window(plan, group, start)? else { return Ok(()) };
        if plan.having.is_some_and(|having| !having.holds(&values)) {
            return Ok(());
        }
        match self.last_rows.entry((group.clone(), start)) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(None);
                first_rows.push(Partial { group: group.clone(), start, values });
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                slot.insert(Some(values));
            }
        }
        Ok(())
    }

    fn window(
        &self,
        plan: &Plan,
        group: &GroupKey,
        start: i64,
    ) -> Result<Option<Accumulator>, SumOverflow> {
        let mut whole: Option<Accumulator> = None;
        for (_, groups) in self.panes.range(start..start + plan.window.size) {
            let Some(values) = groups.get(group) else { continue };
            match &mut whole {
                Some(whole) => whole.merge(values)?,
                None => whole = Some(*values),
            }
        }
        Ok(whole)
    }

    /// Takes the last true rows of this commit, in a stable order, and forgets the first ones.
    pub fn take_last_rows(&mut self) -> Vec<Partial> {
        std::mem::take(&mut self.last_rows)
            .into_iter()
            .filter_map(|((group, start), values)| Some(Partial { group, start, values: values? }))
            .collect()
    }

    /// Takes the panes that changed in this commit, in a stable order.
    pub fn take_changed(&mut self) -> Vec<Partial> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|(start, group)| {
                let values = *self.panes.get(&start)?.get(&group)?;
                Some(Partial { group, start, values })
            })
            .collect()
    }

    /// Puts a pane back (when a state block is read).
    pub fn restore(&mut self, start: i64, group: GroupKey, values: Accumulator) {
        self.panes.entry(start).or_default().insert(group, values);
    }

    /// Drops the panes whose last window is closed at `stream_time`.
    pub fn evict(&mut self, plan: &Plan, stream_time: i64) {
        while let Some(pane) = self.panes.first_entry() {
            // The last window that holds a pane starts with it.
            if !plan.window.is_closed(*pane.key(), stream_time) {
                break;
            }
            pane.remove();
        }
    }

    /// Number of groups in panes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.panes.values().map(FxHashMap::len).sum()
    }

    /// Whether no pane is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.panes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::alertas_fraude;
    use caudal_core::money::{Amount, Currency};
    use caudal_core::time::SECOND;
    use caudal_core::transaction::{Kind, Transaction};
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn valid(event_time: i64, euros: i64) -> ValidTransaction<'static> {
        ValidTransaction {
            currency: Currency::parse("EUR").expect("EUR"),
            transaction: Transaction {
                transaction_id: Cow::Borrowed("t"),
                source: Cow::Borrowed("s"),
                source_seq: 0,
                account_id: Cow::Borrowed("a"),
                merchant_id: Cow::Borrowed("m"),
                amount: Amount { units: euros * 100, scale: 2 },
                scale_declared: true,
                currency: Cow::Borrowed("EUR"),
                kind: Kind::Purchase,
                country: None,
                event_time,
                description: None,
                attributes: vec![],
            },
        }
    }

    #[test]
    fn the_eleventh_attempt_in_a_minute_is_seen() {
        let plan = alertas_fraude();
        let mut state = PaneState::default();
        for i in 0..11 {
            let added = state.add(&plan, &valid(i * SECOND, 1), i * SECOND).expect("sum");
            assert_eq!(added.first_rows.is_empty(), i < 10, "{i}");
        }
    }

    /// Last true row per group and window, over all commits: what the table ends up with.
    fn table(events: &[(i64, i64)], commit_every: usize) -> BTreeMap<i64, Accumulator> {
        let plan = alertas_fraude();
        let (mut state, mut stream_time, mut table) =
            (PaneState::default(), i64::MIN, BTreeMap::new());
        for (i, (time, euros)) in events.iter().enumerate() {
            stream_time = stream_time.max(*time);
            let added = state.add(&plan, &valid(*time, *euros), stream_time).expect("sum");
            table.extend(added.first_rows.into_iter().map(|e| (e.start, e.values)));
            if (i + 1) % commit_every == 0 {
                table.extend(state.take_last_rows().into_iter().map(|e| (e.start, e.values)));
                state.evict(&plan, stream_time);
            }
        }
        table.extend(state.take_last_rows().into_iter().map(|e| (e.start, e.values)));
        table
    }

    proptest! {
        #[test]
        fn alerts_do_not_depend_on_when_commits_fall(
            events in prop::collection::vec((0_i64..200, -3_000_i64..6_000), 1..80), a in 1_usize..20, b in 1_usize..20
        ) {
            let events: Vec<_> = events.into_iter().map(|(s, e)| (s * SECOND, e)).collect();
            prop_assert_eq!(table(&events, a), table(&events, b));
        }
    }
}
