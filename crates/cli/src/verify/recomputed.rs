//! Which queries are computed again from their records.

use super::cut::Cut;
use caudal_processor::block::Heads;
use caudal_processor::shared::Stage;
use caudal_query::plan::{Emit, Plan};
use std::collections::BTreeSet;

/// Whether the rows of a query are computed again from its records: those of windowed counts, sums,
/// least and greatest amounts, emitted with each change, without a join, there from the beginning. A
/// HAVING is judged where the group's records are in one partition.
pub fn is_recomputed(plan: &Plan, cut: &Cut) -> bool {
    !cut.begun_later.contains(&plan.name)
        && plan.amounts().is_some()
        && plan.join.is_none()
        && plan.emit == Emit::Changes
        && (plan.is_local() || !plan.has_having())
}

/// The queries over the pipeline's own records that add up, and the names of the others: those give
/// a row for each record, or read other streams, and no ledger knows what they took.
pub fn split(plans: Vec<Plan>) -> (Vec<Plan>, Vec<String>) {
    let (own, others): (Vec<Plan>, Vec<Plan>) =
        plans.into_iter().partition(|plan| !plan.is_stream() && plan.stream.is_none());
    (own, others.into_iter().map(|plan| plan.name).collect())
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
pub fn not_recomputed(plans: &[Plan], others: &[String], cut: &Cut) -> Vec<String> {
    let own = plans.iter().filter(|plan| !is_recomputed(plan, cut)).map(|plan| &plan.name);
    let others: Vec<&str> = own.chain(others).map(String::as_str).collect();
    if others.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "rows not computed again (other aggregates, windows or sources, a join, EMIT FINAL, or begun \
         later): {}",
        others.join(", ")
    )]
}
