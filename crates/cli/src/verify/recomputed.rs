//! Which queries are computed again from their records.

use super::cut::Cut;
use caudal_processor::block::Heads;
use caudal_processor::shared::Stage;
use caudal_query::plan::{Emit, Plan};
use std::collections::BTreeSet;

/// Whether the rows of a query are computed again from its records: those of windowed counts, sums,
/// least and greatest amounts, emitted with each change, without a join, there from the beginning.
pub fn is_recomputed(plan: &Plan, cut: &Cut) -> bool {
    !cut.begun_later.contains(&plan.name)
        && plan.amounts().is_some()
        && plan.join.is_none()
        && plan.emit == Emit::Changes
}

/// The queries that some task of stage 1 had not had from its first block on.
pub fn begun_later(heads: &Heads, plans: &[Plan]) -> BTreeSet<String> {
    let of_stage_1 = || heads.last().iter().filter(|(id, _)| id.stage == Stage::Account);
    let is_whole = |plan: &&Plan| {
        of_stage_1().all(|(_, head)| {
            let state = head.plans.iter().find(|state| state.name == plan.name);
            state.is_some_and(|state| state.incarnation == 0 && state.version == 1)
        })
    };
    plans.iter().filter(|plan| !is_whole(plan)).map(|plan| plan.name.clone()).collect()
}

/// What the sheet says of the queries that are not.
pub fn not_recomputed(plans: &[Plan], cut: &Cut) -> Vec<String> {
    let others: Vec<&str> = plans
        .iter()
        .filter(|plan| !is_recomputed(plan, cut))
        .map(|plan| plan.name.as_str())
        .collect();
    if others.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "rows not computed again (other aggregates, a join, EMIT FINAL, or begun later): {}",
        others.join(", ")
    )]
}
