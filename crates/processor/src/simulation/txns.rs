//! The transaction coordinator.
//!
//! An EndTxn request names no transaction, only a producer and its epoch: one that arrives late
//! ends whatever is open then, unless the epoch has risen meanwhile. Markers are written partition
//! by partition; positions become visible with a marker of their own.

use super::cluster::Cluster;
use super::group::MemberId;
use super::log::TxnId;
use caudal_core::decode::Record;
use caudal_kafka::TopicPartition;
use caudal_kafka::offsets::Committed;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An open txn is aborted after so long.
pub const TIMEOUT: Duration = Duration::from_secs(45);

/// A newer producer with the same transactional.id, or the time-out, has raised the epoch.
#[derive(Debug)]
pub struct Fenced;

/// What the coordinator knows of a transactional.id.
pub(super) struct Producer {
    epoch: u32,
    state: State,
}

enum State {
    Empty,
    Ongoing { txn: TxnId, partitions: BTreeSet<TopicPartition>, since: Duration },
    Ending { txn: TxnId, commit: bool, pending: Vec<(Duration, Target)> },
}

/// Where a marker goes.
enum Target {
    Log(TopicPartition),
    Positions,
}

/// An EndTxn request that is still on its way.
pub(super) struct Late {
    due: Duration,
    id: String,
    epoch: u32,
    commit: bool,
}

impl Cluster {
    /// InitProducerId: ends what is open, raises the epoch, and returns when all of it is done.
    pub fn init_transactions(&mut self, id: &str) -> u32 {
        self.producers.entry(id.to_owned()).or_insert(Producer { epoch: 0, state: State::Empty });
        let open = matches!(self.producers[id].state, State::Ongoing { .. });
        let producer = self.producers.get_mut(id).expect("made above");
        producer.epoch += 1;
        let epoch = producer.epoch;
        self.note(|| {
            format!(
                "{id} begins epoch {epoch}{}",
                if open { ", its open txn is aborted" } else { "" }
            )
        });
        if open {
            self.begin_ending(id, false);
        }
        self.write_markers(id, true);
        epoch
    }

    /// The open txn of a producer; a new one once the last has ended everywhere.
    fn open_txn(&mut self, id: &str, epoch: u32) -> Result<TxnId, Fenced> {
        self.check_epoch(id, epoch)?;
        self.write_markers(id, true);
        let (now, next) = (self.now, self.next_txn);
        let producer = self.producers.get_mut(id).expect("checked");
        if let State::Ongoing { txn, .. } = &producer.state {
            return Ok(*txn);
        }
        producer.state = State::Ongoing { txn: next, partitions: BTreeSet::new(), since: now };
        self.next_txn += 1;
        Ok(next)
    }

    fn check_epoch(&self, id: &str, epoch: u32) -> Result<(), Fenced> {
        match self.producers.get(id) {
            Some(producer) if producer.epoch == epoch => Ok(()),
            _ => Err(Fenced),
        }
    }

    /// Produces a record within the producer's txn; gives its offset.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn produce(
        &mut self,
        id: &str,
        epoch: u32,
        to: &TopicPartition,
        record: Record,
    ) -> Result<i64, Fenced> {
        let txn = self.open_txn(id, epoch)?;
        if let Some(Producer { state: State::Ongoing { partitions, .. }, .. }) =
            self.producers.get_mut(id)
            && !partitions.contains(to)
        {
            partitions.insert(to.clone());
        }
        Ok(self.append(to, record, Some(txn)))
    }

    /// Adds positions to the producer's txn. `Ok(false)`: the membership is not the current one.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn add_offsets(
        &mut self,
        id: &str,
        epoch: u32,
        member: (&str, (MemberId, i32)),
        offsets: BTreeMap<TopicPartition, Committed>,
    ) -> Result<bool, Fenced> {
        let txn = self.open_txn(id, epoch)?;
        Ok(self.group.add_offsets(member.0, member.1, txn, offsets))
    }

    /// Ends the producer's txn: the outcome is decided, markers follow.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn end_txn(&mut self, id: &str, epoch: u32, commit: bool) -> Result<(), Fenced> {
        self.check_epoch(id, epoch)?;
        if matches!(self.producers[id].state, State::Ongoing { .. }) {
            self.begin_ending(id, commit);
            self.write_markers(id, false);
        }
        Ok(())
    }

    /// Sends an EndTxn that arrives after `delay`, whatever happens to its sender meanwhile.
    pub fn end_txn_late(&mut self, id: &str, epoch: u32, commit: bool, delay: Duration) {
        self.late.push(Late { due: self.now + delay, id: id.to_owned(), epoch, commit });
    }

    fn begin_ending(&mut self, id: &str, commit: bool) {
        let lags = self.strikes(self.rates.lag, "markers that lag");
        let producer = self.producers.get_mut(id).expect("known");
        let State::Ongoing { txn, partitions, .. } = &producer.state else { return };
        let txn = *txn;
        let targets = partitions.iter().cloned().map(Target::Log).chain([Target::Positions]);
        let (dice, now) = (&mut self.dice, self.now);
        let mut due = || match lags {
            true if dice.chance(600) => {
                now + Duration::from_millis(dice.within(1..3000).unsigned_abs())
            }
            _ => now,
        };
        let pending = targets.map(|target| (due(), target)).collect();
        producer.state = State::Ending { txn, commit, pending };
        let outcome = if commit { "commits" } else { "aborts" };
        self.note(|| {
            format!("{id} {outcome} txn {txn}{}", if lags { ", its markers lag" } else { "" })
        });
    }

    /// Writes the markers of a producer's last txn that are due; with `wait`, all of them.
    fn write_markers(&mut self, id: &str, wait: bool) {
        let Some(producer) = self.producers.get_mut(id) else { return };
        let State::Ending { txn, commit, pending } = &mut producer.state else { return };
        let last = pending.iter().map(|(at, _)| *at).max().unwrap_or_default();
        if wait {
            self.now = self.now.max(last);
        }
        let (txn, commit, now) = (*txn, *commit, self.now);
        let (due, later) = std::mem::take(pending).into_iter().partition(|(at, _)| *at <= now);
        *pending = later;
        if pending.is_empty() {
            producer.state = State::Empty;
        }
        let due: Vec<(Duration, Target)> = due;
        for (_, target) in due {
            match target {
                Target::Log(partition) => self.log(&partition).end(txn, commit),
                Target::Positions => self.group.end(txn, commit),
            }
        }
    }

    /// Markers and late requests that are due, and txns that have been open too long.
    pub(super) fn end_what_is_due(&mut self) {
        let now = self.now;
        let ids: Vec<String> = self.producers.keys().cloned().collect();
        for id in ids {
            self.write_markers(&id, false);
            let producer = self.producers.get_mut(&id).expect("known");
            if let State::Ongoing { txn, since, .. } = &producer.state
                && now.saturating_sub(*since) > TIMEOUT
            {
                let txn = *txn;
                producer.epoch += 1;
                self.note(|| format!("txn {txn} of {id} has timed out"));
                self.begin_ending(&id, false);
            }
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|request| request.due <= now);
        self.late = later;
        for Late { id, epoch, commit, .. } in due {
            let outcome = self.end_txn(&id, epoch, commit);
            self.note(|| match outcome {
                Ok(()) => format!("a late EndTxn of {id} arrives"),
                Err(Fenced) => format!("a late EndTxn of {id} is fenced"),
            });
        }
    }

    /// Whether nothing is open or on its way any more.
    pub fn is_settled(&self) -> bool {
        self.late.is_empty()
            && self.cuts.is_empty()
            && self.producers.values().all(|p| matches!(p.state, State::Empty))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Rates;
    use super::*;

    fn cluster() -> Cluster {
        Cluster::new(1, vec![("t".into(), 0)], Rates::default(), false)
    }

    fn visible(cluster: &mut Cluster) -> usize {
        cluster.log(&("out".into(), 0)).committed(0).count()
    }

    #[test]
    fn a_late_end_txn_ends_a_later_txn_unless_the_epoch_has_risen() {
        for replaced in [false, true] {
            let mut cluster = cluster();
            let mut epoch = cluster.init_transactions("p");
            let to = ("out".into(), 0);
            cluster.produce("p", epoch, &to, Record::default()).expect("not fenced");
            cluster.end_txn_late("p", epoch, true, Duration::from_secs(1));
            cluster.end_txn("p", epoch, false).expect("not fenced");
            if replaced {
                epoch = cluster.init_transactions("p");
            }
            cluster.produce("p", epoch, &to, Record::default()).expect("not fenced");
            cluster.pass(Duration::from_secs(2));
            assert_eq!(visible(&mut cluster), usize::from(!replaced));
        }
    }

    #[test]
    fn a_txn_that_times_out_is_aborted_and_its_producer_fenced() {
        let mut cluster = cluster();
        let epoch = cluster.init_transactions("p");
        let to = ("out".into(), 0);
        cluster.produce("p", epoch, &to, Record::default()).expect("not fenced");
        cluster.pass(TIMEOUT + Duration::from_secs(1));
        cluster.pass(Duration::from_secs(5));
        assert_eq!(visible(&mut cluster), 0);
        assert!(cluster.end_txn("p", epoch, true).is_err());
        assert!(cluster.is_settled());
    }
}
