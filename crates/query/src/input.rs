//! A record as queries read it: a valid transaction, and the row of the joined table.

use caudal_core::transaction::ValidTransaction;
use caudal_sql::row::{GenericRow, Position, RowView, TRANSACTION_ROW, TransactionRow};
use caudal_sql::value::Value;

/// A record with what it is joined with.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    row: TransactionRow<'a>,
    joined: Option<&'a GenericRow>,
}

impl<'a> Input<'a> {
    /// A transaction that was read at an offset of a partition of `transacciones`.
    #[must_use]
    pub fn new(valid: &'a ValidTransaction<'a>, partition: i32, offset: i64) -> Input<'a> {
        Input { row: TransactionRow::new(valid, partition, offset), joined: None }
    }

    /// The same with a row of the joined table.
    #[must_use]
    pub fn joined(self, row: &'a GenericRow) -> Input<'a> {
        Input { joined: Some(row), ..self }
    }

    /// The transaction.
    #[must_use]
    pub fn valid(&self) -> &'a ValidTransaction<'a> {
        self.row.valid
    }

    /// Its event time in microseconds.
    #[must_use]
    pub fn event_time(&self) -> i64 {
        self.row.valid.transaction.event_time
    }

    /// Its amount in units of 10⁻⁹.
    #[must_use]
    pub fn amount(&self) -> i128 {
        self.row.valid.transaction.amount.nano()
    }

    /// Where and when it was read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.row.position
    }
}

impl RowView for Input<'_> {
    fn column(&self, index: usize) -> Value<'_> {
        match (index.checked_sub(TRANSACTION_ROW), self.joined) {
            (None, _) => self.row.column(index),
            (Some(at), Some(row)) => row.column(at),
            (Some(_), None) => Value::Null,
        }
    }

    fn map_entry(&self, index: usize, key: &str) -> Value<'_> {
        match (index.checked_sub(TRANSACTION_ROW), self.joined) {
            (None, _) => self.row.map_entry(index, key),
            (Some(at), Some(row)) => row.map_entry(at, key),
            (Some(_), None) => Value::Null,
        }
    }
}
