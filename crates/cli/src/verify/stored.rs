//! The table `transactions` against `transacciones_validas`: every record that the sink has stored
//! leads to exactly one row, is a duplicate of one, or is a dead letter.

use super::cut::Cut;
use super::differences::{Difference, Differences};
use super::identity::{Stored, columns, half, parse_nano};
use super::place::VALID;
use super::retired::Missing;
use super::valid::{Entry, Valid, late_bits};
use caudal_core::money::{Currency, SumOverflow, Sums};
use caudal_core::reject::Reason;
use caudal_core::time::MINUTE;

/// Matches rows with records.
pub struct Rows<'a> {
    cut: &'a Cut,
    valid: &'a Valid,
    names: Vec<String>,
    /// Entries whose fate is known.
    done: Vec<bool>,
    /// Rows read.
    pub count: u64,
    /// Money of the rows.
    pub sums: Sums,
    /// Rows with a query in late_for.
    pub late: u64,
    /// Records that say the same as a row that was there, and their money.
    pub duplicates: (u64, Sums),
    /// Rows whose record retention has cut.
    pub unproven: u64,
    /// Records without a row, so old that `caudal retention` may have deleted it.
    pub missing: Missing,
    /// Records that say the same as an older one of those: a duplicate of its row, or one that came
    /// when the row was deleted and made another.
    pub again: u64,
}

impl<'a> Rows<'a> {
    /// `names` are the queries'.
    pub fn new(cut: &'a Cut, valid: &'a Valid, names: Vec<String>) -> Rows<'a> {
        Rows {
            cut,
            valid,
            names,
            done: vec![false; valid.entries().len()],
            count: 0,
            sums: Sums::default(),
            late: 0,
            duplicates: (0, Sums::default()),
            unproven: 0,
            missing: Missing::default(),
            again: 0,
        }
    }

    /// Whether the row of a record may have been deleted on purpose.
    fn is_old(&self, entry: &Entry) -> bool {
        // The boundary is a whole minute.
        i64::from(entry.minute).saturating_mul(MINUTE) < self.cut.retired_before(VALID)
    }

    /// Takes a row, in any order.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn observe(
        &mut self,
        row: Stored,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        self.count += 1;
        self.late += u64::from(!row.late_for.is_empty());
        let money = Currency::parse(&row.currency).zip(parse_nano(&row.amount));
        if let Some((currency, nano)) = money {
            self.sums.add_nano(currency, nano)?;
        }
        let id = half(row.id.as_bytes());
        let all: Vec<usize> = self.valid.of_id(&id).collect();
        let (stored, later): (Vec<usize>, Vec<usize>) =
            all.into_iter().partition(|at| self.cut.is_stored(self.valid.entries()[*at].place));
        if stored.is_empty() {
            self.without_record(&row, &id, later.first().copied(), differences);
            return Ok(());
        }
        let entry = |at: usize| &self.valid.entries()[at];
        let late = late_bits(&self.names, row.late_for.iter().map(String::as_str));
        let fingerprint = row.transaction().map(|t| columns(&t));
        let is_origin = |at: &usize| {
            Some(entry(*at).columns) == fingerprint
                && entry(*at).late == late
                && self.valid.refusal(entry(*at).place).is_none()
        };
        let origin = stored.iter().copied().find(is_origin);
        let accepted = |at: &usize| self.valid.refusal(entry(*at).place).is_none();
        let Some(stands_for) = origin.or_else(|| stored.iter().copied().find(accepted)) else {
            let at = differences.at(entry(stored[0]).place);
            differences
                .say(format!("transactions has {}, but its record {at} is a dead letter", row.id));
            stored.iter().for_each(|at| self.done[*at] = true);
            return Ok(());
        };
        if origin.is_none() {
            differences.add(Difference::Row(Box::new(row.clone()), entry(stands_for).place));
        }
        for at in stored {
            self.done[at] = true;
            if at != stands_for {
                self.check_other(at, stands_for, &row.id, money, differences)?;
            }
        }
        Ok(())
    }

    fn without_record(
        &mut self,
        row: &Stored,
        id: &caudal_core::dedup::Hash16,
        later: Option<usize>,
        differences: &mut Differences,
    ) {
        if let Some(at) = later {
            let at = differences.at(self.valid.entries()[at].place);
            differences
                .say(format!("transactions has {}, but the sink has not come to {at}", row.id));
        } else if self.valid.foreign(id).is_some() {
            // Said where the record is: stage 1 did not write it.
        } else if self.cut.any_cut(VALID) {
            self.unproven += 1;
        } else {
            let (id, source, seq) = (&row.id, &row.source, row.source_seq);
            differences.say(format!(
                "transactions has {id} (source {source}, {seq}), but transacciones_validas has not"
            ));
        }
    }

    /// Another record with the id of a row.
    fn check_other(
        &mut self,
        at: usize,
        stands_for: usize,
        id: &str,
        money: Option<(Currency, i128)>,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let (entry, origin) = (self.valid.entries()[at], self.valid.entries()[stands_for]);
        let same = entry.payload == origin.payload;
        let (place, first) = (differences.at(entry.place), differences.at(origin.place));
        match self.valid.refusal(entry.place) {
            Some(Reason::Conflict) if same => differences.say(format!(
                "dead_letters calls {place} {id} a conflict, but it says the same as {first}"
            )),
            Some(_) => {}
            None if same && self.is_old(&entry) => self.again += 1,
            // No duplicate of this row, so it had one of its own, which is gone: see `finish`.
            None if self.is_old(&entry) => self.done[at] = false,
            None if same => {
                self.duplicates.0 += 1;
                if let Some((currency, nano)) = money {
                    self.duplicates.1.add_nano(currency, nano)?;
                }
            }
            None => {
                differences.say(format!("dead_letters lacks {id} ({place}, conflict with {first})"))
            }
        }
        Ok(())
    }

    /// Says the records that have no row, and collects those that may have been retired.
    pub fn finish(&mut self, differences: &mut Differences) {
        for at in 0..self.done.len() {
            let entry = self.valid.entries()[at];
            if !self.is_without_row(at) {
                continue;
            }
            if !self.is_old(&entry) {
                let text = format!("transactions lacks {{}} ({})", differences.at(entry.place));
                differences.of_record(text, entry.place);
            } else if self.says_the_same(at) {
                self.again += 1;
            } else {
                self.missing.add(entry.id, entry.place);
            }
        }
    }

    fn is_without_row(&self, at: usize) -> bool {
        let place = self.valid.entries()[at].place;
        !self.done[at] && self.cut.is_stored(place) && self.valid.refusal(place).is_none()
    }

    /// Whether the last record of the id before this one that has no row either says the same.
    fn says_the_same(&self, at: usize) -> bool {
        let entries = self.valid.entries();
        let before = self.valid.of_id(&entries[at].id).take_while(|other| *other != at);
        let last = before.filter(|other| self.is_without_row(*other)).last();
        last.is_some_and(|last| entries[last].payload == entries[at].payload)
    }
}

#[cfg(test)]
mod tests;
