//! Eras: the times between two growths of the topics (`caudal topics migrate`). Records are judged
//! by the number of partitions that was in force when stage 1 read them, and what a task remembered
//! goes over to the tasks that its keys came to. Every state block names the growths, so nothing
//! has to be deleted or believed.

use anyhow::{Result, bail};
use caudal_core::decode::Record;
use caudal_processor::block::Head;
use caudal_processor::migrate::{Widening, gcd, share_keys};
use caudal_processor::shared::{Stage, TaskId};
use std::collections::BTreeMap;

/// An era that is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Era {
    /// How many partitions there were.
    pub partitions: i32,
    /// Where `transacciones` ended, by partition; 0 of those that came later.
    pub input: Vec<i64>,
    /// Where `caudal_parciales` ended, by partition.
    pub partials: Vec<i64>,
}

/// The eras of a pipeline with so many partitions now; the last one is not over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Eras {
    over: Vec<Era>,
    partitions: i32,
}

impl Eras {
    /// From the last block of each task.
    ///
    /// # Errors
    /// When the tasks do not tell the same story.
    pub fn of(heads: &BTreeMap<TaskId, Head>, partitions: i32) -> Result<Eras> {
        let counts = |head: &Head| -> Vec<i32> {
            head.growths.iter().map(|growth| growth.partitions).collect()
        };
        let story = heads.values().next().map(counts).unwrap_or_default();
        if let Some((id, head)) = heads.iter().find(|(_, head)| counts(head) != story) {
            bail!(
                "caudal_estado: the topics had {story:?} partitions before, but by task {id} they \
                 had {:?}",
                counts(head)
            );
        }
        let ends = |stage, era: usize| {
            let end = |partition| {
                let head = heads.get(&TaskId { stage, partition });
                head.and_then(|head| head.growths.get(era)).map_or(0, |growth| growth.next_offset)
            };
            (0..partitions).map(end).collect()
        };
        let over = story.iter().enumerate().map(|(era, count)| Era {
            partitions: *count,
            input: ends(Stage::Account, era),
            partials: ends(Stage::Group, era),
        });
        Ok(Eras { over: over.collect(), partitions })
    }

    /// The one era of a pipeline that has never grown.
    #[cfg(test)]
    pub fn only(partitions: i32) -> Eras {
        Eras { over: Vec::new(), partitions }
    }

    /// With one more era before.
    #[cfg(test)]
    pub fn after(mut self, era: Era) -> Eras {
        self.over.push(era);
        self
    }

    /// How many eras there are: at least one.
    pub fn count(&self) -> usize {
        self.over.len() + 1
    }

    /// How many partitions there were in an era.
    pub fn partitions(&self, era: usize) -> i32 {
        self.over.get(era).map_or(self.partitions, |over| over.partitions)
    }

    /// The growth that ended an era.
    pub fn widening(&self, era: usize) -> Widening {
        Widening { from: self.partitions(era), to: self.partitions(era + 1) }
    }

    /// The era of an offset of `transacciones`.
    pub fn of_input(&self, partition: i32, offset: i64) -> usize {
        self.era(|era| &era.input, partition, offset)
    }

    /// The era of an offset of `caudal_parciales`.
    pub fn of_partials(&self, partition: i32, offset: i64) -> usize {
        self.era(|era| &era.partials, partition, offset)
    }

    fn era(&self, ends: impl Fn(&Era) -> &Vec<i64>, partition: i32, offset: i64) -> usize {
        let is_over = |era: &&Era| {
            let partition = usize::try_from(partition).unwrap_or(usize::MAX);
            ends(era).get(partition).is_some_and(|end| offset >= *end)
        };
        self.over.iter().take_while(is_over).count()
    }

    /// Whether what partition `a` remembered in an era has come to `b` in a later one.
    pub fn comes_to(&self, (era, a): (usize, i32), (later, b): (usize, i32)) -> bool {
        let counts = (era..=later).map(|era| self.partitions(era));
        era < later && share_keys(counts.fold(0, gcd), a, b)
    }

    /// Whether anything that partition `a` ever remembered can have come to `b`.
    pub fn may_share(&self, a: i32, b: i32) -> bool {
        a == b || self.comes_to((0, a), (self.over.len(), b))
    }

    /// The growths in words, for the sheet; `None` where there were none.
    pub fn note(&self) -> Option<String> {
        let counts: Vec<String> = self.over.iter().map(|era| era.partitions.to_string()).collect();
        (!counts.is_empty()).then(|| {
            format!(
                "the topics have {} partitions, before that {}: each record is judged by the number \
                 of its time",
                self.partitions,
                counts.join(", then ")
            )
        })
    }
}

/// What reading in eras brings.
pub enum Turn<'r> {
    /// The next record of its partition.
    Record(&'r Record),
    /// Every record of this era has been given, and another one begins.
    Over(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_processor::block::Growth;

    fn head(stage: Stage, partition: i32, growths: &[(i32, i64)]) -> (TaskId, Head) {
        let task = TaskId { stage, partition };
        let growth = |(partitions, next_offset): &(i32, i64)| Growth {
            partitions: *partitions,
            next_offset: *next_offset,
        };
        let head = Head {
            task,
            sequence: 0,
            complete_from: 0,
            rules: [0; 16],
            partitions: 4,
            plans: Vec::new(),
            next_offset: 0,
            table_offset: 0,
            body: Vec::new(),
            growths: growths.iter().map(growth).collect(),
        };
        (task, head)
    }

    #[test]
    fn an_offset_belongs_to_the_era_in_which_it_was_read() {
        let heads = BTreeMap::from([
            head(Stage::Account, 0, &[(2, 10), (3, 30)]),
            head(Stage::Account, 3, &[(2, 0), (3, 0)]),
            head(Stage::Group, 0, &[(2, 5), (3, 6)]),
        ]);
        let eras = Eras::of(&heads, 4).expect("eras");
        assert_eq!(eras.count(), 3);
        let of = |offset| eras.of_input(0, offset);
        assert_eq!([of(0), of(9), of(10), of(29), of(30)], [0, 0, 1, 1, 2]);
        assert_eq!((eras.of_input(3, 0), eras.of_partials(0, 5)), (2, 1));
        assert_eq!([eras.partitions(0), eras.partitions(1), eras.partitions(2)], [2, 3, 4]);
        assert_eq!(eras.widening(1), Widening { from: 3, to: 4 });
        assert_eq!(Eras::only(6).of_input(2, 1 << 40), 0);
        assert_eq!(Eras::only(6).note(), None);
    }

    #[test]
    fn what_a_partition_remembered_comes_only_where_its_keys_may_live() {
        let heads = BTreeMap::from([head(Stage::Account, 0, &[(2, 10)])]);
        let eras = Eras::of(&heads, 4).expect("eras");
        assert!(eras.comes_to((0, 1), (1, 3)) && !eras.comes_to((0, 1), (1, 2)));
        assert!(!eras.comes_to((1, 1), (1, 1)), "the same era");
        assert!(eras.may_share(0, 2) && !eras.may_share(1, 2) && eras.may_share(2, 2));
        assert!(!Eras::only(6).may_share(0, 2));
    }

    #[test]
    fn tasks_that_disagree_are_refused() {
        let heads = BTreeMap::from([
            head(Stage::Account, 0, &[(2, 10)]),
            head(Stage::Account, 1, &[(2, 10), (3, 30)]),
        ]);
        assert!(Eras::of(&heads, 4).is_err());
    }
}
