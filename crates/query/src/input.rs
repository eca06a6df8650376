//! A record as queries read it: a valid transaction or a row of another stream, and the row of the
//! joined table.

use caudal_core::transaction::ValidTransaction;
use caudal_sql::row::{
    GenericRow, PSEUDO_COLUMNS, Position, RowView, TRANSACTION_ROW, TransactionRow,
};
use caudal_sql::value::Value;

#[derive(Debug, Clone, Copy)]
enum Stream<'a> {
    Transaction(TransactionRow<'a>),
    Row(&'a GenericRow),
}

/// A record with what it is joined with.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    stream: Stream<'a>,
    joined: Option<&'a GenericRow>,
}

impl<'a> Input<'a> {
    /// A transaction that was read at an offset of a partition of `transacciones`.
    #[must_use]
    pub fn new(valid: &'a ValidTransaction<'a>, partition: i32, offset: i64) -> Input<'a> {
        let row = TransactionRow::new(valid, partition, offset);
        Input { stream: Stream::Transaction(row), joined: None }
    }

    /// A row of another stream.
    #[must_use]
    pub fn of_row(row: &'a GenericRow) -> Input<'a> {
        Input { stream: Stream::Row(row), joined: None }
    }

    /// The same with a row of the joined table.
    #[must_use]
    pub fn joined(self, row: &'a GenericRow) -> Input<'a> {
        Input { joined: Some(row), ..self }
    }

    /// The transaction; `None` of another stream.
    #[must_use]
    pub fn valid(&self) -> Option<&'a ValidTransaction<'a>> {
        match self.stream {
            Stream::Transaction(row) => Some(row.valid),
            Stream::Row(_) => None,
        }
    }

    /// Its event time in microseconds.
    #[must_use]
    pub fn event_time(&self) -> i64 {
        match self.stream {
            Stream::Transaction(row) => row.valid.transaction.event_time,
            Stream::Row(row) => row.position.rowtime.saturating_mul(1000),
        }
    }

    /// Its amount in units of 10⁻⁹; nothing of another stream.
    #[must_use]
    pub fn amount(&self) -> i128 {
        self.valid().map_or(0, |valid| valid.transaction.amount.nano())
    }

    /// Where and when it was read.
    #[must_use]
    pub fn position(&self) -> Position {
        match self.stream {
            Stream::Transaction(row) => row.position,
            Stream::Row(row) => row.position,
        }
    }

    /// Number of the stream's columns, pseudo columns included: those of the joined table follow.
    fn width(&self) -> usize {
        match self.stream {
            Stream::Transaction(_) => TRANSACTION_ROW,
            Stream::Row(row) => row.values.len() + PSEUDO_COLUMNS,
        }
    }
}

impl RowView for Input<'_> {
    fn column(&self, index: usize) -> Value<'_> {
        match (index.checked_sub(self.width()), self.joined) {
            (None, _) => match &self.stream {
                Stream::Transaction(row) => row.column(index),
                Stream::Row(row) => row.column(index),
            },
            (Some(at), Some(row)) => row.column(at),
            (Some(_), None) => Value::Null,
        }
    }

    fn map_entry(&self, index: usize, key: &str) -> Value<'_> {
        match (index.checked_sub(self.width()), self.joined) {
            (None, _) => match &self.stream {
                Stream::Transaction(row) => row.map_entry(index, key),
                Stream::Row(row) => row.map_entry(index, key),
            },
            (Some(at), Some(row)) => row.map_entry(at, key),
            (Some(_), None) => Value::Null,
        }
    }
}
