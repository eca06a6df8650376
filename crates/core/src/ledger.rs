//! The counts and money that each hop keeps, in the same txn or db_tx as the data they count.

use crate::avro::{AvroError, Reader, Writer};
use crate::money::{Amount, Currency, SumOverflow, Sums};
use crate::reject::{Reason, Rejection};
use std::collections::BTreeMap;

/// Dead letters of one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dead {
    /// How many.
    pub count: u64,
    /// How many of them had an amount that could not be read.
    pub without_amount: u64,
    /// Sums of the amounts that could.
    pub sums: Sums,
}

/// Ledger of one stage-1 task, since the beginning of its partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountLedger {
    /// Records read.
    pub records_in: u64,
    /// Records that passed.
    pub valid: u64,
    /// Records whose id and fields were seen before.
    pub duplicate: u64,
    /// Records moved to their key's partition (each is read again there).
    pub rerouted: u64,
    /// Records left out of a closed window, by query.
    pub late: BTreeMap<String, u64>,
    /// Rejected records by reason.
    pub dead: BTreeMap<Reason, Dead>,
    /// Money of valid records.
    pub valid_sums: Sums,
    /// Money of duplicates.
    pub duplicate_sums: Sums,
}

impl AccountLedger {
    /// Counts a rejection.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn reject(&mut self, rejection: &Rejection) -> Result<(), SumOverflow> {
        let dead = self.dead.entry(rejection.reason).or_default();
        dead.count += 1;
        match rejection.money {
            Some((currency, amount)) => dead.sums.add(currency, amount),
            None => {
                dead.without_amount += 1;
                Ok(())
            }
        }
    }

    /// Counts a valid record.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn accept(&mut self, currency: Currency, amount: Amount) -> Result<(), SumOverflow> {
        self.valid += 1;
        self.valid_sums.add(currency, amount)
    }

    /// Counts a duplicate.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn repeat(&mut self, currency: Currency, amount: Amount) -> Result<(), SumOverflow> {
        self.duplicate += 1;
        self.duplicate_sums.add(currency, amount)
    }

    /// Adds another task's ledger.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn merge(&mut self, other: &AccountLedger) -> Result<(), SumOverflow> {
        self.records_in += other.records_in;
        self.valid += other.valid;
        self.duplicate += other.duplicate;
        self.rerouted += other.rerouted;
        for (query, count) in &other.late {
            *self.late.entry(query.clone()).or_default() += count;
        }
        for (reason, dead) in &other.dead {
            let mine = self.dead.entry(*reason).or_default();
            mine.count += dead.count;
            mine.without_amount += dead.without_amount;
            mine.sums.merge(&dead.sums)?;
        }
        self.valid_sums.merge(&other.valid_sums)?;
        self.duplicate_sums.merge(&other.duplicate_sums)
    }

    /// Dead letters of all reasons.
    #[must_use]
    pub fn dead_count(&self) -> u64 {
        self.dead.values().map(|d| d.count).sum()
    }

    /// Writes the ledger into a state block.
    pub fn write(&self, out: &mut Writer) {
        for count in [self.records_in, self.valid, self.duplicate, self.rerouted] {
            write_count(out, count);
        }
        write_count(out, self.late.len() as u64);
        for (query, count) in &self.late {
            out.string(query);
            write_count(out, *count);
        }
        write_count(out, self.dead.len() as u64);
        for (reason, dead) in &self.dead {
            out.string(reason.as_str());
            write_count(out, dead.count);
            write_count(out, dead.without_amount);
            write_sums(out, &dead.sums);
        }
        write_sums(out, &self.valid_sums);
        write_sums(out, &self.duplicate_sums);
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not a ledger.
    pub fn read(input: &mut Reader<'_>) -> Result<AccountLedger, AvroError> {
        let mut ledger = AccountLedger {
            records_in: read_count(input)?,
            valid: read_count(input)?,
            duplicate: read_count(input)?,
            rerouted: read_count(input)?,
            ..AccountLedger::default()
        };
        for _ in 0..input.length()? {
            let query = input.string()?.to_owned();
            ledger.late.insert(query, read_count(input)?);
        }
        for _ in 0..input.length()? {
            let reason = Reason::parse(input.string()?).ok_or(input.error("unknown reason"))?;
            let dead = Dead {
                count: read_count(input)?,
                without_amount: read_count(input)?,
                sums: read_sums(input)?,
            };
            ledger.dead.insert(reason, dead);
        }
        ledger.valid_sums = read_sums(input)?;
        ledger.duplicate_sums = read_sums(input)?;
        Ok(ledger)
    }
}

/// Ledger of one stage-2 task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupLedger {
    /// Partials merged.
    pub partials: u64,
    /// Transactions that those partials stand for.
    pub records: u64,
    /// Partials whose window was already evicted.
    pub too_late: u64,
    /// The same of each query, by its name; those of queries that were dropped stay.
    pub by_query: BTreeMap<String, QueryLedger>,
}

/// What stage 2 did for one query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueryLedger {
    /// Records that its merged partials stand for.
    pub records: u64,
    /// Partials whose window was already evicted.
    pub too_late: u64,
}

impl GroupLedger {
    /// Counts for a query, by its name.
    pub fn count(&mut self, query: &str, QueryLedger { records, too_late }: QueryLedger) {
        if let Some(known) = self.by_query.get_mut(query) {
            known.records += records;
            known.too_late += too_late;
        } else {
            self.by_query.insert(query.to_owned(), QueryLedger { records, too_late });
        }
    }

    /// Adds another task's ledger.
    pub fn merge(&mut self, other: &GroupLedger) {
        self.partials += other.partials;
        self.records += other.records;
        self.too_late += other.too_late;
        other.by_query.iter().for_each(|(name, query)| self.count(name, *query));
    }

    /// Writes the ledger into a state block.
    pub fn write(&self, out: &mut Writer) {
        for count in [self.partials, self.records, self.too_late] {
            write_count(out, count);
        }
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not a ledger.
    pub fn read(input: &mut Reader<'_>) -> Result<GroupLedger, AvroError> {
        Ok(GroupLedger {
            partials: read_count(input)?,
            records: read_count(input)?,
            too_late: read_count(input)?,
            by_query: BTreeMap::new(),
        })
    }

    /// Writes the part by query.
    pub fn write_queries(&self, out: &mut Writer) {
        write_count(out, self.by_query.len() as u64);
        for (name, query) in &self.by_query {
            out.string(name);
            write_count(out, query.records);
            write_count(out, query.too_late);
        }
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the bytes are not one.
    pub fn read_queries(&mut self, input: &mut Reader<'_>) -> Result<(), AvroError> {
        for _ in 0..input.length()? {
            let name = input.string()?.to_owned();
            let query = QueryLedger { records: read_count(input)?, too_late: read_count(input)? };
            self.by_query.insert(name, query);
        }
        Ok(())
    }
}

/// Writes a count.
pub fn write_count(out: &mut Writer, count: u64) {
    out.long(i64::try_from(count).unwrap_or(i64::MAX));
}

/// Reads a count.
///
/// # Errors
/// When it is negative or the buffer ends.
pub fn read_count(input: &mut Reader<'_>) -> Result<u64, AvroError> {
    let value = input.long()?;
    u64::try_from(value).map_err(|_| input.error("negative count"))
}

/// Writes sums per currency.
pub fn write_sums(out: &mut Writer, sums: &Sums) {
    write_count(out, sums.iter().count() as u64);
    for (currency, nano) in sums.iter() {
        out.string(currency.as_str());
        out.decimal(nano);
    }
}

/// Reads sums per currency.
///
/// # Errors
/// When the bytes are not sums.
pub fn read_sums(input: &mut Reader<'_>) -> Result<Sums, AvroError> {
    let mut sums = Sums::default();
    for _ in 0..input.length()? {
        let currency = Currency::parse(input.string()?).ok_or(input.error("unknown currency"))?;
        let nano = input.decimal()?;
        sums.add_nano(currency, nano).map_err(|_| input.error("sum out of range"))?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_reads_back() {
        let eur = Currency::parse("EUR").unwrap();
        let amount = Amount { units: -1250, scale: 2 };
        let mut ledger = AccountLedger { records_in: 4, ..AccountLedger::default() };
        ledger.accept(eur, amount).unwrap();
        ledger.repeat(eur, amount).unwrap();
        ledger.reject(&Rejection::new(Reason::Amount, "x").with_money(eur, amount)).unwrap();
        ledger.reject(&Rejection::new(Reason::Malformed, "x")).unwrap();
        ledger.late.insert("ventas_gold".into(), 3);
        let mut out = Writer::new();
        ledger.write(&mut out);
        let bytes = out.into_bytes();
        let mut input = Reader::new(&bytes);
        assert_eq!(AccountLedger::read(&mut input).unwrap(), ledger);
        input.end().unwrap();
        assert_eq!(ledger.dead_count(), 2);
    }
}
