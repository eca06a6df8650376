//! The group coordinator: static members, generations, cooperative assignment, positions.
//!
//! A rebalance collects a rejoin of every member (each comes with its next poll) or its session's
//! end; then the generation rises and partitions are shared anew. A partition that another member
//! still holds is not given away at once: its holder is told to drop it and joins again, and only
//! that second rebalance assigns it (cooperative-sticky).

use super::log::TxnId;
use caudal_kafka::TopicPartition;
use caudal_kafka::offsets::Committed;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A member that was not heard of for so long is dropped.
pub const SESSION: Duration = Duration::from_secs(6);

/// Of one run of a process; another run of the same instance has another one.
pub type MemberId = u64;

struct Member {
    id: MemberId,
    /// Joined the rebalance that is going on.
    joined: bool,
    /// Given to it by the last rebalance.
    assigned: BTreeSet<TopicPartition>,
    /// What it holds as far as it has said.
    held: BTreeSet<TopicPartition>,
    /// The generation that it knows of.
    generation: i32,
    last_seen: Duration,
    alive: bool,
}

/// What a poll tells a member.
#[derive(Default)]
pub struct News {
    /// It was dropped meanwhile: what it held may be another's.
    pub lost: bool,
    /// To be dropped.
    pub revoked: Vec<TopicPartition>,
    /// Newly its own.
    pub assigned: Vec<TopicPartition>,
    /// Who it is now, and in which generation.
    pub membership: (MemberId, i32),
}

/// A newer run of the same instance has joined.
#[derive(Debug)]
pub struct FencedInstance;

/// The coordinator of the one group.
#[derive(Default)]
pub struct Group {
    partitions: Vec<TopicPartition>,
    members: BTreeMap<String, Member>,
    generation: i32,
    rebalancing: bool,
    next_member: MemberId,
    offsets: BTreeMap<TopicPartition, Committed>,
    pending: BTreeMap<TxnId, BTreeMap<TopicPartition, Committed>>,
}

impl Group {
    /// A group that subscribes to these partitions.
    pub fn of(partitions: Vec<TopicPartition>) -> Group {
        Group { partitions, ..Group::default() }
    }

    /// The heartbeats of every process that runs; drops members whose session has ended.
    pub fn heartbeat(&mut self, now: Duration) -> Vec<String> {
        self.members.values_mut().filter(|m| m.alive).for_each(|m| m.last_seen = now);
        let dead: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| now.saturating_sub(m.last_seen) > SESSION)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &dead {
            self.members.remove(name);
            self.rebalance();
        }
        dead
    }

    /// A process runs, or was killed or stalled: then its heartbeats stop.
    pub fn set_alive(&mut self, instance: &str, alive: bool) {
        if let Some(member) = self.members.get_mut(instance) {
            member.alive = alive;
        }
    }

    /// What its members share.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// A poll of a member: `mine` is who it thinks it is, `held` what it holds.
    ///
    /// # Errors
    /// [`FencedInstance`].
    pub fn poll(
        &mut self,
        instance: &str,
        mine: Option<MemberId>,
        held: &BTreeSet<TopicPartition>,
        now: Duration,
    ) -> Result<News, FencedInstance> {
        let mut news = News::default();
        match (mine, self.members.get(instance)) {
            (Some(mine), Some(member)) if member.id == mine => {}
            (Some(_), Some(_)) => return Err(FencedInstance),
            (Some(_), None) => {
                news.lost = true;
                self.join(instance, now);
            }
            (None, _) => self.join(instance, now),
        }
        let held = if news.lost { BTreeSet::new() } else { held.clone() };
        let rebalancing = self.rebalancing;
        let member = self.members.get_mut(instance).expect("joined");
        member.held = held;
        if rebalancing {
            member.joined = true;
            self.complete_if_all_joined();
        }
        self.sync(instance, &mut news);
        Ok(news)
    }

    /// Joins, or takes the place of a former run of the same instance: then nothing is rebalanced.
    fn join(&mut self, instance: &str, now: Duration) {
        self.next_member += 1;
        let id = self.next_member;
        if let Some(member) = self.members.get_mut(instance) {
            (member.id, member.generation, member.last_seen, member.alive) = (id, -1, now, true);
            member.joined = false;
            // It was to drop a partition, and has with all the others: now that one is free.
            let given = |p| self.members.values().any(|m| m.assigned.contains(p));
            if !self.partitions.iter().all(given) {
                self.rebalance();
            }
            return;
        }
        let member = Member {
            id,
            joined: false,
            assigned: BTreeSet::new(),
            held: BTreeSet::new(),
            generation: -1,
            last_seen: now,
            alive: true,
        };
        self.members.insert(instance.to_owned(), member);
        self.rebalance();
    }

    fn rebalance(&mut self) {
        self.rebalancing = true;
        self.members.values_mut().for_each(|m| m.joined = false);
    }

    fn complete_if_all_joined(&mut self) {
        if !self.members.values().all(|m| m.joined) {
            return;
        }
        self.rebalancing = false;
        self.generation += 1;
        let names: Vec<String> = self.members.keys().cloned().collect();
        let mut wanted: BTreeMap<&String, BTreeSet<TopicPartition>> = BTreeMap::new();
        let most = self.partitions.len().div_ceil(names.len());
        // Who holds a partition keeps it while it has no more than its share.
        for name in &names {
            let held = self.members[name].held.iter().take(most).cloned().collect();
            wanted.insert(name, held);
        }
        for partition in &self.partitions {
            if wanted.values().any(|w| w.contains(partition)) {
                continue;
            }
            let least = wanted.values_mut().min_by_key(|w| w.len()).expect("a member");
            least.insert(partition.clone());
        }
        level(&mut wanted);
        let held: BTreeMap<TopicPartition, String> = self
            .members
            .iter()
            .flat_map(|(name, m)| m.held.iter().map(move |p| (p.clone(), name.clone())))
            .collect();
        for (name, wanted) in wanted {
            let free = |p: &TopicPartition| held.get(p).is_none_or(|holder| holder == name);
            let assigned = wanted.into_iter().filter(free).collect();
            self.members.get_mut(name).expect("a member").assigned = assigned;
        }
    }

    /// Tells a member of the last rebalance, once it is over.
    fn sync(&mut self, instance: &str, news: &mut News) {
        let (generation, rebalancing) = (self.generation, self.rebalancing);
        let member = self.members.get_mut(instance).expect("a member");
        if !rebalancing && member.generation != generation {
            news.revoked = member.held.difference(&member.assigned).cloned().collect();
            news.assigned = member.assigned.difference(&member.held).cloned().collect();
            member.held = member.assigned.clone();
            member.generation = generation;
        }
        news.membership = (member.id, member.generation);
        if !news.revoked.is_empty() {
            self.rebalance();
        }
    }

    /// Positions of a transaction; they count once it commits. False when the membership is not
    /// the current one.
    pub fn add_offsets(
        &mut self,
        instance: &str,
        membership: (MemberId, i32),
        txn: TxnId,
        offsets: BTreeMap<TopicPartition, Committed>,
    ) -> bool {
        let current = self.members.get(instance).is_some_and(|m| m.id == membership.0);
        if !current || membership.1 != self.generation {
            return false;
        }
        self.pending.entry(txn).or_default().extend(offsets);
        true
    }

    /// The marker of a transaction in the partition of positions.
    pub fn end(&mut self, txn: TxnId, committed: bool) {
        let offsets = self.pending.remove(&txn).unwrap_or_default();
        if committed {
            self.offsets.extend(offsets);
        }
    }

    /// The stable committed position; `Err` while a transaction over it is open.
    pub fn committed(&self, partition: &TopicPartition) -> Result<Option<Committed>, ()> {
        if self.pending.values().any(|offsets| offsets.contains_key(partition)) {
            return Err(());
        }
        Ok(self.offsets.get(partition).cloned())
    }
}

/// Moves partitions until no member has two more than another.
fn level(wanted: &mut BTreeMap<&String, BTreeSet<TopicPartition>>) {
    loop {
        let most = wanted.iter().max_by_key(|(_, w)| w.len()).map(|(name, w)| (*name, w.len()));
        let least = wanted.iter().min_by_key(|(_, w)| w.len()).map(|(name, w)| (*name, w.len()));
        let (Some((from, many)), Some((to, few))) = (most, least) else { return };
        if many - few < 2 {
            return;
        }
        if let Some(partition) = wanted.get_mut(from).and_then(BTreeSet::pop_last) {
            wanted.entry(to).or_default().insert(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(group: &mut Group, name: &str, id: Option<MemberId>, held: &[i32]) -> News {
        let held = held.iter().map(|p| ("t".into(), *p)).collect();
        group.poll(name, id, &held, Duration::ZERO).expect("not fenced")
    }

    fn numbers(partitions: &[TopicPartition]) -> Vec<i32> {
        partitions.iter().map(|(_, p)| *p).collect()
    }

    #[test]
    fn a_partition_moves_in_two_steps_and_a_stale_generation_is_refused() {
        let mut group = Group::of(vec![("t".into(), 0), ("t".into(), 1)]);
        let a = poll(&mut group, "a", None, &[]);
        assert_eq!(numbers(&a.assigned), [0, 1]);
        let b = poll(&mut group, "b", None, &[]);
        assert!(b.assigned.is_empty());
        let stale = a.membership;
        let a = poll(&mut group, "a", Some(stale.0), &[0, 1]);
        assert_eq!(numbers(&a.revoked), [1]);
        assert!(!group.add_offsets("a", stale, 1, BTreeMap::new()));
        assert!(group.add_offsets("a", a.membership, 1, BTreeMap::new()));
        poll(&mut group, "a", Some(stale.0), &[0]);
        let b = poll(&mut group, "b", Some(b.membership.0), &[]);
        assert_eq!(numbers(&b.assigned), [1]);
    }

    #[test]
    fn a_restart_keeps_its_partitions_and_fences_its_predecessor() {
        let mut group = Group::of(vec![("t".into(), 0)]);
        let old = poll(&mut group, "a", None, &[]).membership;
        let new = poll(&mut group, "a", None, &[]);
        assert_eq!(numbers(&new.assigned), [0]);
        assert!(group.poll("a", Some(old.0), &BTreeSet::new(), Duration::ZERO).is_err());
        assert!(!group.add_offsets("a", old, 1, BTreeMap::new()));
    }
}
