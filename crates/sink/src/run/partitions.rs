//! The partitions of a writer: given and taken by the group, claimed, fenced, and read from where
//! PostgreSQL says.

use super::Sink;
use crate::claims::{Claimed, gap};
use crate::fault::Fault;
use crate::outside::{BACKOFF, MayPass, NotStarted};
use crate::postgres::Position;
use crate::store::Database;
use caudal_kafka::TopicPartition;
use caudal_kafka::consumer::Change;
use caudal_service::exit::Halt;
use rand::Rng as _;
use std::ops::Range;
use std::time::{Duration, Instant};

impl Sink {
    pub(super) fn claim_all_again(&mut self) -> anyhow::Result<()> {
        let owned: Vec<TopicPartition> = self.owned.keys().cloned().collect();
        self.parts.consumer.pause(&owned)?;
        self.parts.claims.forget_ids();
        self.owned.clear();
        self.gaps.clear();
        let now = Instant::now();
        self.waiting.extend(owned.into_iter().map(|at| (at, now)));
        self.show_partitions();
        Ok(())
    }

    pub(super) fn follow(&mut self, changes: &[Change]) {
        self.joined |= !changes.is_empty();
        for change in changes {
            match change {
                Change::Assigned(partitions) => {
                    tracing::info!(count = partitions.len(), "partitions assigned");
                    let now = Instant::now();
                    self.parts.claims.forget_ids();
                    self.waiting.extend(partitions.iter().map(|at| (at.clone(), now)));
                }
                Change::Revoked(partitions) | Change::Lost(partitions) => {
                    tracing::info!(count = partitions.len(), "partitions gone");
                    for at in partitions {
                        self.waiting.remove(at);
                        self.owned.remove(at);
                        self.gaps.remove(at);
                    }
                }
            }
        }
        self.show_partitions();
    }

    pub(super) fn show_partitions(&mut self) {
        if !self.joined {
            return;
        }
        let count = i64::try_from(self.owned.len()).unwrap_or(i64::MAX);
        self.parts.outside.metrics.partitions.add(count - self.shown);
        self.shown = count;
        if let Some(outage) = &self.outage {
            self.parts.outside.readiness.not_ready(outage);
        } else if !self.waiting.is_empty() {
            let count = self.waiting.len();
            self.parts
                .outside
                .readiness
                .not_ready(format!("{count} partitions are not claimed yet"));
        } else {
            self.parts.outside.readiness.ready();
        }
    }

    /// Claims partitions whose time has come, and starts them where PostgreSQL says.
    pub(super) fn claim_waiting(&mut self, database: &mut Database) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<TopicPartition> = self
            .waiting
            .iter()
            .filter(|(_, time)| **time <= now)
            .map(|(at, _)| at.clone())
            .collect();
        for at in due {
            let place = format!("{}-{}", at.0, at.1);
            match self.claim(database, &at) {
                Ok(position) => {
                    tracing::debug!(place, epoch = position.epoch, position.next_offset, "claimed");
                    self.waiting.remove(&at);
                    self.owned.insert(at, position);
                }
                Err(error) if is_transient(&error) => {
                    tracing::warn!(place, "cannot be claimed yet: {error:#}");
                    if let Some(fault) = error.downcast_ref::<Fault>() {
                        self.parts.outside.metrics.failed(fault);
                    }
                    self.waiting.insert(at, now + BACKOFF.0 * 5);
                    // Whatever is missing, it is missing for the others too.
                    break;
                }
                Err(error) => return Err(error.context(place)),
            }
        }
        self.show_partitions();
        Ok(())
    }

    fn claim(&mut self, database: &mut Database, at: &TopicPartition) -> anyhow::Result<Position> {
        let Claimed { position, from, passed_over } = self.parts.claims.claim(database, at)?;
        self.parts.outside.metrics.gap_offsets.inc_by(passed_over);
        self.parts.consumer.start(at, from).map_err(NotStarted)?;
        match from > position.next_offset {
            true => self.gaps.insert(at.clone(), position.next_offset..from),
            false => self.gaps.remove(at),
        };
        Ok(position)
    }

    /// A batch that cannot be built, with what else is known of it: numbers that are missing where
    /// offsets were deleted.
    pub(super) fn explained(&self, Halt(why): Halt) -> Halt {
        let known = self.gaps.iter().find(|((topic, partition), _)| {
            why.strip_prefix(&format!("{topic}-{partition}@")).is_some()
        });
        match known {
            Some((_, Range { start, end })) => {
                Halt(format!("{why}; {}; --accept-gap goes on without them", gap(*start, *end)))
            }
            None => Halt(why),
        }
    }

    /// After an outage: every partition goes on from its position, whatever was on its way.
    pub(super) fn restart_owned(&mut self) {
        let now = Instant::now();
        let failed: Vec<TopicPartition> = self
            .owned
            .iter()
            .filter(|(at, position)| {
                let from = self.gaps.get(at).map_or(position.next_offset, |gap| gap.end);
                self.parts.consumer.start(at, from).is_err()
            })
            .map(|(at, _)| at.clone())
            .collect();
        for at in failed {
            self.owned.remove(&at);
            self.waiting.insert(at, now);
        }
        self.show_partitions();
    }

    pub(super) fn fenced(&mut self, partitions: &[TopicPartition]) -> anyhow::Result<()> {
        let places: Vec<String> = partitions.iter().map(|(t, p)| format!("{t}-{p}")).collect();
        tracing::warn!(?places, "fenced by a newer claim");
        self.parts.outside.metrics.fenced.inc_by(partitions.len() as u64);
        self.parts.consumer.pause(partitions)?;
        for at in partitions {
            self.owned.remove(at);
            // A rebalance that takes the partition away comes first in most cases; the jitter
            // keeps two sinks that both think they own it from fencing each other for ever.
            let jitter = Duration::from_millis(rand::thread_rng().gen_range(200..1500));
            self.waiting.insert(at.clone(), Instant::now() + jitter);
        }
        self.show_partitions();
        Ok(())
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<Fault>().is_some_and(MayPass::passes)
            || cause.downcast_ref::<caudal_kafka::Error>().is_some_and(MayPass::passes)
            || cause.is::<NotStarted>()
    })
}
