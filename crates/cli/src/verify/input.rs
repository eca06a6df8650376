//! Stage 1, done again: every record of `transacciones` below the processor's position is decoded
//! and validated once more, and must be exactly one of: valid, dead, a declared duplicate, or moved
//! to its key's partition.

mod passed;

use super::cut::{Cut, position};
use super::differences::Differences;
use super::place::{INPUT, Place};
use super::refused::Dead;
use super::valid::{Entry, Valid, late_bits};
use caudal_core::decode::{Record, decode};
use caudal_core::dedup::Seen;
use caudal_core::headers;
use caudal_core::ledger::AccountLedger;
use caudal_core::money::{SumOverflow, Sums};
use caudal_core::partitioner::partition_of;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::ValidTransaction;
use caudal_core::validate::validate;
use caudal_query::plan::Plan;
pub use passed::Again;
use rustc_hash::FxHashMap;

/// A record above this may have no room for the header that moving it needs, in bytes.
const ALMOST_FULL: usize = 1_000_000;

/// One partition of `transacciones` on its way through stage 1.
#[derive(Debug, Default)]
struct Lane {
    /// How many entries of `transacciones_validas` are matched or passed.
    valid: usize,
    /// The same of `transacciones_dlq`.
    dead: usize,
    stream_time: i64,
    /// Records with a lower offset are not judged: what they caused is cut by retention.
    from: i64,
    ledger: AccountLedger,
}

/// Which records a join takes is not known here, nor what a query was given that began later; the
/// last bit is that of queries which are no longer in the file.
fn unknown(cut: &Cut, plans: &[Plan]) -> u32 {
    let is_unknown = |plan: &Plan| plan.join.is_some() || cut.begun_later.contains(&plan.name);
    let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
    let unknown = plans.iter().filter(|plan| is_unknown(plan)).map(|plan| plan.name.as_str());
    late_bits(&names, unknown) | 1 << 31
}

/// Does stage 1 again.
pub struct Audit<'a> {
    cut: &'a Cut,
    valid: &'a Valid,
    dead: &'a [Vec<Dead>],
    plans: &'a [Plan],
    names: Vec<String>,
    /// The bits of lateness that cannot be judged.
    unknown: u32,
    schema: u32,
    lanes: Vec<Lane>,
    /// Copies that were found, by the original's partition and offset.
    copies: FxHashMap<(i32, i64), Vec<Place>>,
    /// Originals that must have a copy: partition, offset, home, id.
    moved: Vec<(i32, i64, i32, String)>,
    /// Records at or beyond the processor's position.
    pub in_flight: u64,
    /// Records whose outputs retention has cut.
    pub unproven: u64,
    /// Money of every record judged but those moved, where it can be read, whatever became of it.
    pub sums_in: Sums,
    /// Records without a readable amount among those judged.
    pub without_amount: u64,
    /// Records that were late for at least one query.
    pub late: u64,
    /// Second passages beyond the dedup horizon.
    pub again: Again,
}

/// What stage 1 must do with a record.
enum Wanted<'r> {
    Dead(Rejection),
    Move(i32, ValidTransaction<'r>),
    Valid(ValidTransaction<'r>),
}

impl<'a> Audit<'a> {
    /// Names of the queries whose lateness is counted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn new(
        cut: &'a Cut,
        valid: &'a Valid,
        dead: &'a [Vec<Dead>],
        plans: &'a [Plan],
        schema: u32,
    ) -> Audit<'a> {
        let lanes = (0..cut.partitions).map(|partition| Lane {
            stream_time: i64::MIN,
            from: proven_from(cut, valid, dead, partition),
            ..Lane::default()
        });
        Audit {
            cut,
            valid,
            dead,
            plans,
            names: plans.iter().map(|plan| plan.name.clone()).collect(),
            unknown: unknown(cut, plans),
            schema,
            lanes: lanes.collect(),
            copies: FxHashMap::default(),
            moved: Vec::new(),
            in_flight: 0,
            unproven: 0,
            sums_in: Sums::default(),
            without_amount: 0,
            late: 0,
            again: Again { by_query: vec![0; plans.len()], ..Again::default() },
        }
    }

    /// The counts of a partition, as its task should have kept them.
    pub fn ledger(&self, partition: i32) -> Option<&AccountLedger> {
        usize::try_from(partition).ok().and_then(|p| self.lanes.get(p)).map(|lane| &lane.ledger)
    }

    /// An era is over: what each partition has come to goes over to those that its keys come to.
    pub fn end_era(&mut self, era: usize) {
        let times: Vec<i64> = self.lanes.iter().map(|lane| lane.stream_time).collect();
        let of_old = |p: i32| {
            usize::try_from(p).ok().and_then(|p| times.get(p)).copied().unwrap_or(i64::MIN)
        };
        let widening = self.cut.eras.widening(era);
        for (lane, partition) in self.lanes.iter_mut().zip(0..widening.to) {
            lane.stream_time = widening.stream_time(partition, of_old);
        }
    }

    /// Judges the next record of its partition.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn observe(
        &mut self,
        record: &Record,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let original = record.header(headers::REROUTED).and_then(position);
        let place = Place::new(INPUT, record.partition, record.offset);
        if let Some(original) = original {
            self.copies.entry(original).or_default().push(place);
        }
        let Some(at) = usize::try_from(record.partition).ok().filter(|p| *p < self.lanes.len())
        else {
            return Ok(());
        };
        if record.offset >= self.cut.input_end(record.partition) {
            self.in_flight += 1;
            return Ok(());
        }
        if record.offset < self.lanes[at].from {
            self.unproven += 1;
            return Ok(());
        }
        self.lanes[at].ledger.records_in += 1;
        let valid = self.take_valid(at, record.offset, differences);
        let dead = self.take_dead(at, record.offset, differences);
        let arrived = original.map_or(record.partition, |(partition, _)| partition);
        let arrival = format!("{}-{arrived}", differences.topics.name(INPUT));
        let offset = original.map_or(record.offset, |(_, offset)| offset);
        let wanted = self.wanted(record, (&arrival, offset), dead.as_ref());
        if let (Some(valid), Some(dead)) = (&valid, &dead) {
            differences.of_record(
                format!(
                    "{} {{}} is both valid ({}) and dead ({})",
                    differences.at(place),
                    differences.at(valid.place),
                    differences.at(dead.place)
                ),
                valid.place,
            );
        }
        match wanted {
            Wanted::Dead(rejection) => {
                self.judge_dead(at, place, record, &rejection, (valid, dead), differences)
            }
            Wanted::Move(home, transaction) => {
                if valid.is_some() || dead.is_some() {
                    let id = &transaction.transaction.transaction_id;
                    let where_ = differences.at(place);
                    differences.say(format!(
                        "{where_} {id} has a foreign key, but was not moved to partition {home}"
                    ));
                    return Ok(());
                }
                self.lanes[at].ledger.rerouted += 1;
                let id = transaction.transaction.transaction_id.to_string();
                self.moved.push((record.partition, record.offset, home, id));
                Ok(())
            }
            Wanted::Valid(transaction) => {
                self.judge_valid(at, place, record, &transaction, (valid, dead), differences)
            }
        }
    }

    fn wanted<'r>(
        &self,
        record: &'r Record,
        arrival: (&'r str, i64),
        dead: Option<&Dead>,
    ) -> Wanted<'r> {
        let valid = decode(record, self.schema, arrival)
            .and_then(|transaction| validate(transaction, record.timestamp));
        let valid = match valid {
            Ok(valid) => valid,
            Err(rejection) => return Wanted::Dead(rejection),
        };
        let era = self.cut.eras.of_input(record.partition, record.offset);
        let count = self.cut.eras.partitions(era);
        let home = partition_of(valid.transaction.account_id.as_bytes(), count);
        if home == record.partition {
            return Wanted::Valid(valid);
        }
        let money = (valid.currency, valid.transaction.amount);
        let refuse = |reason| Rejection::new(reason, "").with_money(money.0, money.1);
        let too_large = dead.is_some_and(|dead| dead.reason == Reason::TooLarge);
        if record.header(headers::REROUTED).is_some() {
            Wanted::Dead(refuse(Reason::Mapping))
        } else if too_large && record.size() > ALMOST_FULL {
            Wanted::Dead(refuse(Reason::TooLarge))
        } else {
            Wanted::Move(home, valid)
        }
    }

    /// The valid record that this one caused. Says those in between that nothing caused.
    fn take_valid(
        &mut self,
        lane: usize,
        offset: i64,
        differences: &mut Differences,
    ) -> Option<Entry> {
        let partition = i32::try_from(lane).unwrap_or(-1);
        let entries = self.valid.of_partition(partition);
        let lane = &mut self.lanes[lane];
        while let Some(entry) = entries.get(lane.valid).filter(|entry| entry.source <= offset) {
            lane.valid += 1;
            if entry.source == offset {
                return Some(*entry);
            }
            if entry.source >= lane.from {
                let text = format!("{} {{}}", differences.at(entry.place));
                let cause = Place::new(INPUT, partition, entry.source);
                let text = format!("{text}: its cause {} is not there", differences.at(cause));
                differences.of_record(text, entry.place);
            }
        }
        None
    }

    fn take_dead(
        &mut self,
        lane: usize,
        offset: i64,
        differences: &mut Differences,
    ) -> Option<Dead> {
        let dead = self.dead.get(lane).map_or(&[][..], Vec::as_slice);
        let partition = i32::try_from(lane).unwrap_or(-1);
        let lane = &mut self.lanes[lane];
        while let Some(letter) = dead.get(lane.dead).filter(|letter| letter.source <= offset) {
            lane.dead += 1;
            if letter.source == offset {
                return Some(*letter);
            }
            if letter.source >= lane.from {
                let cause = differences.at(Place::new(INPUT, partition, letter.source));
                let at = differences.at(letter.place);
                differences.say(format!("{at}: its cause {cause} is not there"));
            }
        }
        None
    }

    fn judge_dead(
        &mut self,
        lane: usize,
        place: Place,
        record: &Record,
        rejection: &Rejection,
        (valid, dead): (Option<Entry>, Option<Dead>),
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let (reason, at) = (rejection.reason, differences.at(place));
        match rejection.money {
            Some((currency, amount)) => self.sums_in.add(currency, amount)?,
            None => self.without_amount += 1,
        }
        if let Some(valid) = valid {
            let text = format!(
                "{} {{}} must be a dead letter: {at} is {rejection}",
                differences.at(valid.place)
            );
            differences.of_record(text, valid.place);
            return Ok(());
        }
        let Some(dead) = dead else {
            differences.of_record(format!("transacciones_dlq lacks {{}} ({at}, {reason})"), place);
            return Ok(());
        };
        check_dead(&dead, record, reason, &at, differences);
        self.lanes[lane].ledger.reject(rejection)
    }

    fn judge_valid(
        &mut self,
        lane: usize,
        place: Place,
        record: &Record,
        valid: &ValidTransaction<'_>,
        (entry, dead): (Option<Entry>, Option<Dead>),
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let (currency, amount) = (valid.currency, valid.transaction.amount);
        self.sums_in.add(currency, amount)?;
        let seen = Seen::of(valid);
        let (id, at) = (&valid.transaction.transaction_id, differences.at(place));
        if let Some(entry) = entry {
            if dead.is_none() {
                self.check_valid(lane, valid, &entry, differences);
                self.lanes[lane].ledger.accept(currency, amount)?;
                self.check_horizon(lane, valid, &entry, differences)?;
            }
            return Ok(());
        }
        let all_before =
            || self.valid.before(&seen.id, (record.partition, record.offset), &self.cut.eras);
        if let Some(dead) = dead {
            check_dead(&dead, record, Reason::Conflict, &at, differences);
            let conflicts = all_before().any(|before| before.payload != seen.payload);
            if dead.reason == Reason::Conflict && !conflicts && !self.before_is_cut(record) {
                let dead = differences.at(dead.place);
                differences.say(format!("{dead} {id} is called a conflict, but nothing before {at} has that id and other contents"));
            }
            let rejection = Rejection::new(dead.reason, "").with_money(currency, amount);
            return self.lanes[lane].ledger.reject(&rejection);
        }
        let first = all_before().find(|before| before.payload == seen.payload);
        match (first, all_before().next()) {
            (Some(_), _) => return self.lanes[lane].ledger.repeat(currency, amount),
            (None, Some(other)) => {
                let other = differences.at(other.place);
                differences
                    .say(format!("transacciones_dlq lacks {id} ({at}, conflict with {other})"));
            }
            (None, None) if self.before_is_cut(record) => self.unproven += 1,
            (None, None) => differences.say(format!("transacciones_validas lacks {id} ({at})")),
        }
        Ok(())
    }

    fn before_is_cut(&self, record: &Record) -> bool {
        !self.cut.is_whole(record.partition)
    }

    /// Says what is left over: outputs that nothing caused, and records that were moved nowhere or
    /// twice.
    pub fn finish(&mut self, differences: &mut Differences) {
        for lane in 0..self.lanes.len() {
            self.take_valid(lane, i64::MAX, differences);
            self.take_dead(lane, i64::MAX, differences);
        }
        let moved = std::mem::take(&mut self.moved);
        let mut copies = std::mem::take(&mut self.copies);
        for (partition, offset, home, id) in moved {
            let at = differences.at(Place::new(INPUT, partition, offset));
            match copies.remove(&(partition, offset)).as_deref() {
                Some([copy]) if copy.partition() == home => {}
                Some([copy]) => {
                    let copy = differences.at(*copy);
                    differences
                        .say(format!("{at} {id} was moved to {copy}, not to partition {home}"));
                }
                Some([first, second, ..]) => {
                    let (first, second) = (first.short(), second.short());
                    differences.say(format!("{at} {id} was moved twice: {first} and {second}"));
                }
                _ if self.cut.is_cut(INPUT, home) => self.unproven += 1,
                _ => differences
                    .say(format!("{at} {id} was moved to partition {home}, where it is not")),
            }
        }
        let mut left: Vec<_> = copies.into_iter().collect();
        left.sort_unstable();
        for ((partition, offset), places) in left {
            let original = Place::new(INPUT, partition, offset);
            let judged = offset < self.cut.input_end(partition)
                && self
                    .lanes
                    .get(usize::try_from(partition).unwrap_or(usize::MAX))
                    .is_some_and(|l| offset >= l.from);
            if let (true, Some(copy)) = (judged, places.first()) {
                let text = format!(
                    "{} {{}} says it was moved from {}, which was not",
                    differences.at(*copy),
                    differences.at(original)
                );
                differences.of_record(text, *copy);
            }
        }
    }
}

fn check_dead(
    dead: &Dead,
    record: &Record,
    reason: Reason,
    at: &str,
    differences: &mut Differences,
) {
    let place = differences.at(dead.place);
    if dead.reason != reason {
        differences.of_record(
            format!("{place} {{}} says {}, but {at} is {reason}", dead.reason),
            dead.place,
        );
    }
    if !dead.holds(record) {
        differences.of_record(format!("{place} {{}}: its bytes are not those of {at}"), dead.place);
    }
}

/// The first offset of `transacciones` whose outputs are all still there.
fn proven_from(cut: &Cut, valid: &Valid, dead: &[Vec<Dead>], partition: i32) -> i64 {
    let end = cut.input_end(partition);
    let mut from = cut.first(INPUT, partition);
    if cut.is_cut(super::place::VALID, partition) {
        from = from.max(valid.of_partition(partition).first().map_or(end, |entry| entry.source));
    }
    if cut.is_cut(super::place::DEAD, partition) {
        let first = usize::try_from(partition).ok().and_then(|p| dead.get(p)?.first());
        from = from.max(first.map_or(end, |dead| dead.source));
    }
    from
}

#[cfg(test)]
pub mod tests;
