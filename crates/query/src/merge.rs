//! Stage 2: merges partials per group and window, until the watermark closes the window.

use crate::aggregate::Accumulator;
use crate::group::GroupKey;
use crate::partials::Partial;
use crate::plan::Plan;
use caudal_core::money::SumOverflow;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// Open windows of one plan. Windows are buckets, dropped whole when they close.
#[derive(Debug, Clone, Default)]
pub struct MergeState {
    windows: BTreeMap<i64, FxHashMap<GroupKey, Accumulator>>,
    changed: BTreeSet<(i64, GroupKey)>,
}

/// What became of a partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is in its window's total.
    Merged,
    /// Its window was already closed: it must be kept elsewhere, never merged.
    TooLate,
}

impl MergeState {
    /// Merges a partial, given the watermark: the lowest stream time of all source partitions.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn merge(
        &mut self,
        plan: &Plan,
        partial: &Partial,
        watermark: i64,
    ) -> Result<Merged, SumOverflow> {
        if plan.window.is_closed(partial.start, watermark) {
            return Ok(Merged::TooLate);
        }
        let window = self.windows.entry(partial.start).or_default();
        match window.get_mut(&partial.group) {
            Some(total) => total.merge(&partial.values)?,
            None => {
                window.insert(partial.group.clone(), partial.values);
            }
        }
        self.changed.insert((partial.start, partial.group.clone()));
        Ok(Merged::Merged)
    }

    /// Puts a total back (when a state block is read).
    pub fn restore(&mut self, start: i64, group: GroupKey, total: Accumulator) {
        self.windows.entry(start).or_default().insert(group, total);
    }

    /// Takes what changed in this commit, with the totals, in a stable order.
    pub fn take_changed(&mut self) -> Vec<Partial> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|(start, group)| {
                let values = *self.windows.get(&start)?.get(&group)?;
                Some(Partial { group, start, values })
            })
            .collect()
    }

    /// Drops the windows that the watermark closes.
    pub fn evict(&mut self, plan: &Plan, watermark: i64) {
        while let Some(window) = self.windows.first_entry() {
            if !plan.window.is_closed(*window.key(), watermark) {
                break;
            }
            window.remove();
        }
    }

    /// Number of groups in open windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.values().map(FxHashMap::len).sum()
    }

    /// Whether no window is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ventas_gold;
    use caudal_core::time::MINUTE;

    fn partial(start: i64, nano: i128) -> Partial {
        Partial { group: "[\"m\",\"EUR\"]".into(), start, values: Accumulator::of(nano) }
    }

    #[test]
    fn merges_until_the_watermark_closes_the_window() {
        let plan = ventas_gold();
        let mut state = MergeState::default();
        assert_eq!(state.merge(&plan, &partial(0, 1), i64::MIN), Ok(Merged::Merged));
        assert_eq!(state.merge(&plan, &partial(0, 2), MINUTE), Ok(Merged::Merged));
        assert_eq!(state.take_changed()[0].values.sum, 3);
        assert!(state.take_changed().is_empty());
        let closing = MINUTE + plan.window.grace;
        state.evict(&plan, closing - 1);
        assert_eq!(state.len(), 1);
        state.evict(&plan, closing);
        assert!(state.is_empty());
        assert_eq!(state.merge(&plan, &partial(0, 4), closing), Ok(Merged::TooLate));
        assert!(state.is_empty());
    }
}
