//! Which queries a task's state belongs to, across changes of the query file.

use crate::block::{Head, PlanState};
use crate::shared::{Query, Shared, Stage};

/// The queries of a task as they are written into its blocks, in the order of
/// [`Shared::queries`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plans {
    states: Vec<PlanState>,
}

/// What becomes of the entries of the queries of a block that is read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapping {
    /// For each query of the block, its place among ours; `None`: dropped or changed meanwhile.
    pub places: Vec<Option<usize>>,
    /// Our queries whose entries from earlier blocks are void: they were not there in this block,
    /// or as another incarnation.
    pub emptied: Vec<usize>,
}

impl Plans {
    /// Of a task without state.
    #[must_use]
    pub fn new(shared: &Shared, stage: Stage) -> Plans {
        Plans { states: shared.queries(stage).map(|query| begun(query, 0, 1)).collect() }
    }

    /// For a task that takes over state of tasks of other partitions: their versions go on. Its own
    /// blocks begin with number 0, so that is where each query begins.
    #[must_use]
    pub fn of_newcomer(&self) -> Plans {
        let begun = |state: &PlanState| PlanState { incarnation: 0, ..state.clone() };
        Plans { states: self.states.iter().map(begun).collect() }
    }

    /// As a block carries them.
    #[must_use]
    pub fn states(&self) -> &[PlanState] {
        &self.states
    }

    /// Version of a query's output, by its place.
    #[must_use]
    pub fn version(&self, place: usize) -> u32 {
        self.states.get(place).map_or(1, |state| state.version)
    }

    /// Relates the queries of the next block to ours.
    pub fn follow(&mut self, head: &Head) -> Mapping {
        let mut mapping = Mapping { places: vec![None; head.plans.len()], emptied: Vec::new() };
        for (place, ours) in self.states.iter_mut().enumerate() {
            let same = |theirs: &PlanState| {
                theirs.name == ours.name && theirs.fingerprint == ours.fingerprint
            };
            let Some(at) = head.plans.iter().position(same) else {
                mapping.emptied.push(place);
                continue;
            };
            if head.plans[at].incarnation != ours.incarnation {
                mapping.emptied.push(place);
            }
            *ours = head.plans[at].clone();
            mapping.places[at] = Some(place);
        }
        mapping
    }

    /// Compares with the last block: queries that were added begin now, with block `next`; dropped
    /// ones end; a changed one begins again if it is among `reset`.
    ///
    /// # Errors
    /// What was changed, and what to do.
    pub fn settle(&mut self, last: &Head, shared: &Shared, stage: Stage) -> Result<(), String> {
        let next = last.sequence + 1;
        for (ours, query) in self.states.iter_mut().zip(shared.queries(stage)) {
            let Some(theirs) = last.plans.iter().find(|p| p.name == ours.name) else {
                tracing::info!(query = ours.name, "a new query begins, empty");
                *ours = begun(query, next, 1);
                continue;
            };
            if theirs.fingerprint == ours.fingerprint {
                continue;
            }
            if !shared.reset_queries.contains(&ours.name) {
                return Err(changed(&ours.name));
            }
            tracing::info!(
                query = ours.name,
                version = theirs.version + 1,
                "a changed query begins again, empty"
            );
            *ours = begun(query, next, theirs.version + 1);
        }
        let gone = |p: &&PlanState| !self.states.iter().any(|ours| ours.name == p.name);
        for plan in last.plans.iter().filter(gone) {
            tracing::info!(query = plan.name, "a query was dropped, and its state with it");
        }
        Ok(())
    }
}

fn begun(query: &Query, incarnation: u64, version: u32) -> PlanState {
    PlanState {
        name: query.plan.name.clone(),
        fingerprint: query.fingerprint,
        incarnation,
        version,
    }
}

fn changed(name: &str) -> String {
    format!(
        "query {name} was changed, and its state belongs to the old definition. Run once with \
         --reset-query {name}: it then begins again, empty, as the next version (header \
         caudal.version; rows of windows that are open now start from zero, older rows stay as \
         they are). Or put the old definition back"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::TaskId;
    use caudal_query::plan::{Plan, SHIPPED, shipped_one};

    fn ventas_gold() -> Plan {
        shipped_one("ventas_gold")
    }

    fn alertas_fraude() -> Plan {
        shipped_one("alertas_fraude")
    }

    fn shared(plans: Vec<Plan>) -> Shared {
        Shared::new(plans, 2, 0)
    }

    fn head(sequence: u64, plans: &Plans) -> Head {
        Head {
            task: TaskId { stage: Stage::Account, partition: 0 },
            sequence,
            complete_from: 0,
            rules: [0; 16],
            partitions: 2,
            plans: plans.states().to_vec(),
            next_offset: 0,
            table_offset: 0,
            body: Vec::new(),
            growths: Vec::new(),
        }
    }

    fn slower() -> Plan {
        let plans = Plan::compile(&SHIPPED.replace("GRACE PERIOD 10", "GRACE PERIOD 11"));
        plans.unwrap().into_iter().find(|plan| plan.name == "ventas_gold").unwrap()
    }

    #[test]
    fn a_changed_query_needs_a_word_and_gets_a_new_version() {
        let old = Plans::new(&shared(vec![ventas_gold(), alertas_fraude()]), Stage::Account);
        let mut new = shared(vec![slower(), alertas_fraude()]);
        let mut plans = Plans::new(&new, Stage::Account);
        let last = head(7, &old);
        let mapping = plans.follow(&last);
        assert_eq!(mapping.places.iter().flatten().count(), 1, "only the unchanged one is read");
        let error = plans.settle(&last, &new, Stage::Account).unwrap_err();
        assert!(error.contains("--reset-query ventas_gold"), "{error}");
        new.reset_queries.push("ventas_gold".into());
        plans.settle(&last, &new, Stage::Account).unwrap();
        let state = plans.states().iter().find(|p| p.name == "ventas_gold").unwrap();
        assert_eq!((state.incarnation, state.version), (8, 2));
    }

    #[test]
    fn a_query_that_was_dropped_and_added_again_starts_empty() {
        let both = shared(vec![ventas_gold(), alertas_fraude()]);
        let first = Plans::new(&both, Stage::Account);
        let one = Plans::new(&shared(vec![ventas_gold()]), Stage::Account);
        let mut plans = Plans::new(&both, Stage::Account);
        plans.follow(&head(0, &first));
        let place = both.queries(Stage::Account).position(|q| q.plan.name == "alertas_fraude");
        let emptied = plans.follow(&head(1, &one)).emptied;
        assert_eq!(emptied, [place.unwrap()], "its entries of block 0 are void");
        plans.settle(&head(1, &one), &both, Stage::Account).unwrap();
        assert_eq!(plans.states()[place.unwrap()].incarnation, 2);
    }
}
