//! Sessions: records of a group with no more than a gap between them. Where one begins and ends is
//! decided by its records, and a record may join two into one.
//!
//! What joins does not depend on the order: the sessions of a set of records are the same whoever
//! merges them first (property test below). So stage 1 makes sessions of what one commit brings,
//! and stage 2 of those. State is kept per group, all its open sessions in one entry: joining two
//! replaces the entry, and nothing has to be taken back in the log.

use crate::group::{Change, GroupKey, Row};
use crate::partials::{Partial, RawPartial};
use crate::plan::Plan;
use crate::table::Cursor;
use crate::values::Values;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::ledger::write_count;
use caudal_core::money::SumOverflow;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// One session of a group; times in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Event time of its first record.
    pub start: i64,
    /// Event time of its last record.
    pub end: i64,
    /// What its records add up to.
    pub values: Values,
}

#[derive(Debug, Clone)]
struct Slot {
    /// `None`: free.
    group: Option<GroupKey>,
    /// By start; more than a gap lies between them.
    sessions: Vec<Session>,
    touched: bool,
}

/// A group as it was before the batch.
#[derive(Debug, Clone)]
struct Before {
    number: u32,
    sessions: Vec<Session>,
    /// Whether the batch made the group, and whether it made the slot for it.
    is_new: bool,
    is_new_slot: bool,
}

/// The sessions of one query. A batch changes them in place, with a log of what was there before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    numbers: FxHashMap<GroupKey, u32>,
    slots: Vec<Slot>,
    /// Last freed, first used: taking back an insertion restores the order of numbers to come.
    free: Vec<u32>,
    undo: Vec<Before>,
    /// End and group of every session.
    ends: BTreeSet<(i64, u32)>,
    /// Heap bytes of groups and values, as last counted.
    held_bytes: usize,
}

/// The open sessions of a group, as a state block holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSessions {
    /// The group.
    pub group: GroupKey,
    /// By start.
    pub sessions: Vec<Session>,
    /// Whether they follow those of the entry before, of the same group.
    pub goes_on: bool,
}

/// Bytes of the sessions of one entry, about: a block's part holds it, however many there are.
const ENTRY_BYTES: usize = 64 * 1024;

impl GroupSessions {
    /// Writes it in the frame of a partial: whoever does not know the query passes it over.
    pub fn write(&self, out: &mut Writer) {
        out.string(&self.group);
        out.long(i64::from(self.goes_on));
        out.long(0);
        out.sized(|out| {
            write_count(out, self.sessions.len() as u64);
            for session in &self.sessions {
                out.long(session.start);
                out.long(session.end.saturating_sub(session.start));
                session.values.write(out);
            }
        });
    }

    /// It in entries that are not too large, to be written one after the other.
    #[must_use]
    pub fn split(self) -> Vec<GroupSessions> {
        let (mut entries, mut bytes) = (Vec::new(), usize::MAX);
        for session in self.sessions {
            if bytes > ENTRY_BYTES {
                let goes_on = self.goes_on || !entries.is_empty();
                let (group, sessions) = (self.group.clone(), Vec::new());
                entries.push(GroupSessions { group, sessions, goes_on });
                bytes = 0;
            }
            bytes += size_of::<Session>() + session.values.bytes();
            if let Some(entry) = entries.last_mut() {
                entry.sessions.push(session);
            }
        }
        entries
    }

    /// Reads it from that frame.
    ///
    /// # Errors
    /// When the values are not sessions of this query.
    pub fn read(plan: &Plan, entry: RawPartial<'_>) -> Result<GroupSessions, AvroError> {
        let (mut input, goes_on) = (Reader::new(entry.bytes()), entry.pane != 0);
        let mut sessions = Vec::new();
        for _ in 0..input.length()? {
            let (start, length) = (input.long()?, input.long()?);
            let values = Values::read(plan, &mut input)?;
            sessions.push(Session { start, end: start.saturating_add(length), values });
        }
        input.end()?;
        Ok(GroupSessions { group: entry.group, sessions, goes_on })
    }
}

impl Sessions {
    /// Takes the records of `session` in: it joins every session that lies within the gap.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn absorb(
        &mut self,
        plan: &Plan,
        group: &str,
        mut session: Session,
    ) -> Result<(), SumOverflow> {
        let number = self.touch(group);
        let gap = plan.window.size;
        let slot = &mut self.slots[number as usize];
        let from = session.start.saturating_sub(gap);
        let until = session.end.saturating_add(gap);
        let first = slot.sessions.partition_point(|other| other.end < from);
        let near = slot.sessions[first..].partition_point(|other| other.start <= until);
        for other in slot.sessions.drain(first..first + near) {
            session.start = session.start.min(other.start);
            session.end = session.end.max(other.end);
            self.held_bytes -= other.values.bytes();
            session.values.merge(plan, &other.values)?;
            self.ends.remove(&(other.end, number));
        }
        self.held_bytes += session.values.bytes();
        self.ends.insert((session.end, number));
        slot.sessions.insert(first, session);
        Ok(())
    }

    /// The number of a group, whose sessions are about to change.
    fn touch(&mut self, group: &str) -> u32 {
        if let Some(number) = self.numbers.get(group).copied() {
            let slot = &mut self.slots[number as usize];
            if !slot.touched {
                slot.touched = true;
                let sessions = slot.sessions.clone();
                self.undo.push(Before { number, sessions, is_new: false, is_new_slot: false });
            }
            return number;
        }
        let (number, is_new_slot) = self.intern(group);
        self.slots[number as usize].touched = true;
        self.undo.push(Before { number, sessions: Vec::new(), is_new: true, is_new_slot });
        number
    }

    fn intern(&mut self, group: &str) -> (u32, bool) {
        let group: GroupKey = group.into();
        self.held_bytes += group.len();
        let slot = Slot { group: Some(group.clone()), sessions: Vec::new(), touched: false };
        let (number, is_new_slot) = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                (number, false)
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() as u32 - 1, true)
            }
        };
        self.numbers.insert(group, number);
        (number, is_new_slot)
    }

    /// Replaces the sessions of a group, and what is known of their ends.
    fn replace(&mut self, number: u32, sessions: Vec<Session>) {
        let slot = &mut self.slots[number as usize];
        for old in std::mem::replace(&mut slot.sessions, sessions) {
            self.held_bytes -= old.values.bytes();
            self.ends.remove(&(old.end, number));
        }
        for new in &slot.sessions {
            self.held_bytes += new.values.bytes();
            self.ends.insert((new.end, number));
        }
    }

    /// Forgets a group without sessions; its number may be given again.
    fn release(&mut self, number: u32) {
        if let Some(group) = self.slots[number as usize].group.take() {
            self.held_bytes -= group.len();
            self.numbers.remove(&group);
        }
        self.free.push(number);
    }

    /// Puts a group back as it was written.
    pub fn restore(&mut self, entry: GroupSessions) {
        let known = self.numbers.get(&entry.group).copied();
        let number = known.unwrap_or_else(|| self.intern(&entry.group).0);
        let mut sessions = match entry.goes_on {
            true => self.slots[number as usize].sessions.clone(),
            false => Vec::new(),
        };
        sessions.extend(entry.sessions);
        self.replace(number, sessions);
    }

    /// `EMIT CHANGES`: what this batch changed, by start and group. A session whose start moved is
    /// gone under its old one; one that only grew at its end has a new row.
    pub fn changes(&self, plan: &Plan) -> Vec<Change> {
        let mut changes = Vec::new();
        for before in &self.undo {
            let slot = &self.slots[before.number as usize];
            let Some(group) = &slot.group else { continue };
            let holds = |s: &Session| plan.having_holds(group, (s.start, s.end), &s.values);
            let old = |start: i64| begun_at(&before.sessions, start).map(|at| &before.sessions[at]);
            for session in &slot.sessions {
                let old = old(session.start);
                if old == Some(session) {
                    continue;
                }
                if holds(session) {
                    changes.push(Change::Row(row(group, session)));
                } else if old.is_some_and(holds) {
                    changes.push(Change::Gone(group.clone(), session.start));
                }
            }
            let is_there = |start: i64| begun_at(&slot.sessions, start).is_some();
            for old in before.sessions.iter().filter(|s| !is_there(s.start) && holds(s)) {
                changes.push(Change::Gone(group.clone(), old.start));
            }
        }
        changes.sort_unstable_by(|a, b| {
            let ((a, start), (b, begin)) = (a.key(), b.key());
            (start, a).cmp(&(begin, b))
        });
        changes
    }

    /// `EMIT FINAL`: the rows of the sessions that can grow no more at `time`, by end and group, as
    /// far as HAVING holds.
    pub fn over_rows(&self, plan: &Plan, time: i64) -> Vec<Row> {
        let over = self.ends.iter().take_while(|(end, _)| plan.window.is_session_over(*end, time));
        let mut rows: Vec<Row> = over
            .filter_map(|(end, number)| {
                let slot = &self.slots[*number as usize];
                let group = slot.group.as_ref()?;
                let at = slot.sessions.binary_search_by_key(end, |session| session.end).ok()?;
                let session = &slot.sessions[at];
                let window = (session.start, session.end);
                plan.having_holds(group, window, &session.values).then(|| row(group, session))
            })
            .collect();
        rows.sort_unstable_by(|a, b| (a.end, &a.group).cmp(&(b.end, &b.group)));
        rows
    }

    /// The groups that this batch changed, in the order of their first change.
    pub fn changed(&self) -> impl Iterator<Item = GroupSessions> {
        self.undo.iter().filter_map(|before| self.entry(before.number))
    }

    fn entry(&self, number: u32) -> Option<GroupSessions> {
        let slot = self.slots.get(number as usize)?;
        let (group, sessions) = (slot.group.clone()?, slot.sessions.clone());
        Some(GroupSessions { group, sessions, goes_on: false })
    }

    /// The group after `cursor`, or the first one.
    pub fn next_after(&self, cursor: Option<Cursor>) -> Option<(Cursor, GroupSessions)> {
        let first = cursor.map_or(0, |Cursor(number)| number + 1);
        (first..self.slots.len() as u32)
            .find_map(|number| Some((Cursor(number), self.entry(number)?)))
    }

    /// Makes the batch final, and drops the sessions that can grow no more at `time`.
    pub fn commit(&mut self, plan: &Plan, time: i64) {
        for before in self.undo.drain(..) {
            self.slots[before.number as usize].touched = false;
        }
        let is_over = |end: i64| plan.window.is_session_over(end, time);
        let mut groups = BTreeSet::new();
        while let Some((end, number)) = self.ends.first().copied().filter(|(end, _)| is_over(*end))
        {
            self.ends.remove(&(end, number));
            groups.insert(number);
        }
        for number in groups {
            let sessions = &mut self.slots[number as usize].sessions;
            let over = sessions.partition_point(|session| is_over(session.end));
            let bytes = sessions.drain(..over).map(|session| session.values.bytes());
            self.held_bytes -= bytes.sum::<usize>();
            if sessions.is_empty() {
                self.release(number);
            }
        }
    }

    /// Everything is as it was before the batch, down to the numbers that later groups will get.
    pub fn rollback(&mut self) {
        while let Some(before) = self.undo.pop() {
            self.slots[before.number as usize].touched = false;
            self.replace(before.number, before.sessions);
            if before.is_new {
                self.release(before.number);
            }
            if before.is_new_slot {
                self.free.pop();
                self.slots.pop();
            }
        }
    }

    /// Takes all sessions as partials, by group and end.
    pub fn take(&mut self) -> Vec<Partial> {
        let mut all = Vec::with_capacity(self.ends.len());
        for slot in std::mem::take(self).slots {
            let Some(group) = slot.group else { continue };
            let partial = |session: Session| Partial {
                group: group.clone(),
                pane: session.end,
                from: session.start,
                values: session.values,
            };
            all.extend(slot.sessions.into_iter().map(partial));
        }
        all.sort_unstable_by(|a, b| (&a.group, a.pane).cmp(&(&b.group, b.pane)));
        all
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        self.held_bytes
            + self.slots.capacity() * size_of::<Slot>()
            + self.numbers.capacity() * 32
            + self.ends.len() * (size_of::<Session>() + 32)
    }
}

/// The place of the session that begins at `start`.
fn begun_at(sessions: &[Session], start: i64) -> Option<usize> {
    sessions.binary_search_by_key(&start, |session| session.start).ok()
}

fn row(group: &GroupKey, session: &Session) -> Row {
    Row {
        group: group.clone(),
        start: session.start,
        end: session.end,
        values: session.values.clone(),
    }
}

#[cfg(test)]
mod tests;
