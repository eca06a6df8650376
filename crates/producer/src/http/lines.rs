//! From a body to records: all of it, or what is wrong with each line.

use crate::progress::Tally;
use crate::source::envelope::{Envelope, clear_message};
use crate::source::records::MAX_RECORD;
use caudal_core::json;
use caudal_core::outbox::OutRecord;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::validate;
use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};

/// Of so many rejected lines the answer tells the reason; all of them are counted.
pub const TOLD: usize = 100;
/// A transaction must not be this close to what the processor refuses as the future: the brokers'
/// clock decides there, and it may be behind this machine's. In milliseconds.
const CLOCKS_DIFFER: i64 = 60_000;

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON object, over as many lines as it likes.
    Object,
    /// One JSON object a line.
    Lines,
}

/// What turns lines into records, the same for every request.
#[derive(Debug)]
pub struct Mapper {
    envelope: Envelope,
    /// The `source` of transactions that name none.
    coordinates: String,
    /// The next `source_seq`.
    next: AtomicI64,
    /// Most records of one request.
    max_records: usize,
}

/// A body whose every line became a record.
#[derive(Debug, Default)]
pub struct Mapped {
    /// The records, in the order of the lines.
    pub records: Vec<OutRecord>,
    /// Their counts and sums, those that name another source left out.
    pub tally: Tally,
    /// Records that name another source.
    pub elsewhere: u64,
    /// The highest `source_seq` given.
    pub last: i64,
    /// Bytes of keys, values and headers.
    pub bytes: usize,
}

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is nothing in it.
    Empty,
    /// More lines than one request may have, which is this many.
    TooMany(usize),
    /// Lines that are no transactions.
    Lines {
        /// The first [`TOLD`] of them.
        told: Vec<Rejected>,
        /// How many there are.
        count: u64,
    },
}

/// A line that is no transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its number, from 1; 1 for a single object.
    pub line: u64,
    /// Which of the closed set.
    pub reason: Reason,
    /// What is wrong, card numbers masked.
    pub message: String,
}

impl Mapper {
    /// A mapper for one source; `next` is the first `source_seq` to give.
    #[must_use]
    pub fn new(envelope: Envelope, coordinates: String, next: i64, max_records: usize) -> Mapper {
        Mapper { envelope, coordinates, next: AtomicI64::new(next), max_records }
    }

    /// Maps and validates a whole body; `now` in milliseconds since 1970.
    ///
    /// # Errors
    /// A [`Problem`], when any line is no transaction.
    pub fn map(&self, body: &[u8], form: Form, now: i64) -> Result<Mapped, Problem> {
        let (mut mapped, mut told, mut count) = (Mapped::default(), Vec::new(), 0);
        for (line, text) in (1..).zip(split(body, form)) {
            let text = text.trim_ascii();
            if text.is_empty() {
                continue;
            }
            if mapped.records.len() >= self.max_records {
                return Err(Problem::TooMany(self.max_records));
            }
            let Err(rejection) = self.map_line(text, now, &mut mapped) else { continue };
            count += 1;
            if told.len() < TOLD {
                let message = clear_message(&rejection);
                told.push(Rejected { line, reason: rejection.reason, message });
            }
        }
        match (count, mapped.records.is_empty()) {
            (0, true) => Err(Problem::Empty),
            (0, false) => Ok(mapped),
            (count, _) => Err(Problem::Lines { told, count }),
        }
    }

    fn map_line(&self, text: &[u8], now: i64, mapped: &mut Mapped) -> Result<(), Rejection> {
        if text.len() > MAX_RECORD {
            let message = format!("the line has {} bytes; {MAX_RECORD} are allowed", text.len());
            return Err(Rejection::new(Reason::TooLarge, message));
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let transaction = json::read_transaction(text, &self.coordinates, sequence)?;
        let valid = validate(transaction, now - CLOCKS_DIFFER)?;
        self.envelope.cards.check_account(&valid.transaction)?;
        let record = self.envelope.transaction(&valid.transaction);
        self.count(&valid.transaction, mapped)?;
        mapped.last = mapped.last.max(sequence);
        mapped.bytes += record.size();
        mapped.records.push(record);
        Ok(())
    }

    fn count(&self, t: &Transaction<'_>, mapped: &mut Mapped) -> Result<(), Rejection> {
        if t.source != self.coordinates {
            mapped.elsewhere += 1;
            return Ok(());
        }
        mapped.tally.records += 1;
        let Some((currency, amount)) = t.money() else { return Ok(()) };
        mapped
            .tally
            .sums
            .add(currency, amount)
            .map_err(|e| Rejection::new(Reason::Amount, e.to_string()))
    }
}

fn split(body: &[u8], form: Form) -> impl Iterator<Item = &[u8]> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    body.split(move |byte| form == Form::Lines && *byte == b'\n')
}

impl Problem {
    /// What is wrong, in a sentence.
    #[must_use]
    pub fn text(&self) -> Cow<'static, str> {
        match self {
            Problem::Empty => "the body has no transaction".into(),
            Problem::TooMany(most) => format!("more than {most} transactions: send less").into(),
            Problem::Lines { count, .. } => {
                format!("{count} of the lines are no transactions; nothing was stored").into()
            }
        }
    }
}
