//! Rows as evaluators read them.

use crate::types::SqlType;
use crate::value::Value;
use caudal_core::transaction::ValidTransaction;
use std::borrow::Cow;

/// What an evaluator reads columns from.
pub trait RowView {
    /// The value of a column.
    fn column(&self, index: usize) -> Value<'_>;

    /// The value behind a key of a MAP column, without making the map.
    fn map_entry(&self, index: usize, key: &str) -> Value<'_> {
        match self.column(index) {
            Value::Map(entries) => entries
                .into_iter()
                .find_map(|(name, value)| (name == key).then_some(value))
                .unwrap_or_default(),
            _ => Value::Null,
        }
    }
}

/// A row whose values are at hand.
impl RowView for [Value<'_>] {
    fn column(&self, index: usize) -> Value<'_> {
        self.get(index).map_or(Value::Null, Value::borrowed)
    }
}

/// Where and when a record was read: what `ROWTIME`, `ROWPARTITION` and `ROWOFFSET` give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Event time in milliseconds since 1970.
    pub rowtime: i64,
    /// Partition of the input topic.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
    /// The window in its key: start and end in milliseconds.
    pub window: Option<(i64, i64)>,
}

/// Number of [`pseudo_columns`].
pub const PSEUDO_COLUMNS: usize = 3;

/// The pseudo columns, which follow the columns of every source.
#[must_use]
pub fn pseudo_columns() -> [(&'static str, SqlType); PSEUDO_COLUMNS] {
    [("ROWTIME", SqlType::Bigint), ("ROWPARTITION", SqlType::Int), ("ROWOFFSET", SqlType::Bigint)]
}

impl Position {
    /// The pseudo column of that number.
    #[must_use]
    pub fn column(&self, index: usize) -> Value<'static> {
        match index {
            0 => Value::Long(self.rowtime),
            1 => Value::Long(i64::from(self.partition)),
            2 => Value::Long(self.offset),
            3 => self.window.map_or(Value::Null, |window| Value::Long(window.0)),
            4 => self.window.map_or(Value::Null, |window| Value::Long(window.1)),
            _ => Value::Null,
        }
    }
}

/// Number of [`transaction_columns`].
const TRANSACTION_COLUMNS: usize = 12;
/// Number of columns of [`TransactionRow`], the pseudo columns included: those of a joined table
/// follow.
pub const TRANSACTION_ROW: usize = TRANSACTION_COLUMNS + PSEUDO_COLUMNS;

/// The columns of `transacciones_validas`, in the order of the Avro schema. An amount has at most
/// 28 digits (64 bits of units, nine places).
#[must_use]
pub fn transaction_columns() -> [(&'static str, SqlType); TRANSACTION_COLUMNS] {
    [
        ("transaction_id", SqlType::String),
        ("source", SqlType::String),
        ("source_seq", SqlType::Bigint),
        ("account_id", SqlType::String),
        ("merchant_id", SqlType::String),
        ("amount", SqlType::Decimal { precision: 28, scale: caudal_core::money::MAX_SCALE }),
        ("currency", SqlType::String),
        ("kind", SqlType::String),
        ("country", SqlType::String),
        ("event_time", SqlType::Timestamp),
        ("description", SqlType::String),
        ("attributes", SqlType::Map(Box::new(SqlType::String))),
    ]
}

const ATTRIBUTES: usize = 11;

/// A valid transaction as a row: nothing is copied but for the whole map of attributes.
#[derive(Debug, Clone, Copy)]
pub struct TransactionRow<'a> {
    /// The transaction.
    pub valid: &'a ValidTransaction<'a>,
    /// Where it was read; its `rowtime` is the transaction's event time.
    pub position: Position,
}

impl<'a> TransactionRow<'a> {
    /// The row of a transaction that was read at an offset of a partition.
    #[must_use]
    pub fn new(valid: &'a ValidTransaction<'a>, partition: i32, offset: i64) -> TransactionRow<'a> {
        let rowtime = valid.transaction.event_time.div_euclid(1_000);
        TransactionRow { valid, position: Position { rowtime, partition, offset, window: None } }
    }
}

fn optional<'a>(text: Option<&'a Cow<'_, str>>) -> Value<'a> {
    text.map_or(Value::Null, |text| Value::Text(Cow::Borrowed(text)))
}

impl RowView for TransactionRow<'_> {
    fn column(&self, index: usize) -> Value<'_> {
        let t = &self.valid.transaction;
        match index {
            0 => Value::text(&*t.transaction_id),
            1 => Value::text(&*t.source),
            2 => Value::Long(t.source_seq),
            3 => Value::text(&*t.account_id),
            4 => Value::text(&*t.merchant_id),
            5 => Value::Decimal(t.amount.nano()),
            6 => Value::text(self.valid.currency.as_str()),
            7 => Value::text(t.kind.as_str()),
            8 => optional(t.country.as_ref()),
            9 => Value::Timestamp(t.event_time),
            10 => optional(t.description.as_ref()),
            ATTRIBUTES => Value::Map(
                t.attributes
                    .iter()
                    .map(|(k, v)| (Cow::Borrowed(&**k), Value::text(&**v)))
                    .collect(),
            ),
            pseudo => self.position.column(pseudo - ATTRIBUTES - 1),
        }
    }

    fn map_entry(&self, index: usize, key: &str) -> Value<'_> {
        if index != ATTRIBUTES {
            return Value::Null;
        }
        let attributes = &self.valid.transaction.attributes;
        match attributes.binary_search_by(|(name, _)| (**name).cmp(key)) {
            Ok(at) => Value::text(&*attributes[at].1),
            Err(_) => Value::Null,
        }
    }
}

/// A record of any topic, decoded by its source's columns.
#[derive(Debug, Clone, PartialEq)]
pub struct GenericRow {
    /// The columns of the source.
    pub values: Vec<Value<'static>>,
    /// Where it was read.
    pub position: Position,
}

impl RowView for GenericRow {
    fn column(&self, index: usize) -> Value<'_> {
        match self.values.get(index) {
            Some(value) => value.borrowed(),
            None => self.position.column(index - self.values.len()),
        }
    }
}

/// A row and the row of the table that it was joined with.
#[derive(Debug)]
pub struct JoinedRow<'a, R: ?Sized> {
    /// The stream's row.
    pub left: &'a R,
    /// Columns of the stream, pseudo columns included.
    pub left_columns: usize,
    /// The table's row; none for a `LEFT JOIN` that found nothing.
    pub right: Option<&'a GenericRow>,
}

impl<R: RowView + ?Sized> RowView for JoinedRow<'_, R> {
    fn column(&self, index: usize) -> Value<'_> {
        if index < self.left_columns {
            return self.left.column(index);
        }
        self.right.map_or(Value::Null, |right| right.column(index - self.left_columns))
    }

    fn map_entry(&self, index: usize, key: &str) -> Value<'_> {
        if index < self.left_columns {
            return self.left.map_entry(index, key);
        }
        self.right.map_or(Value::Null, |right| right.map_entry(index - self.left_columns, key))
    }
}
