//! From the value of a record to the columns of a row.

use crate::copy::{FIRST_TIMESTAMP, Tuples};
use crate::generic::Generic;
use caudal_core::avro::{self, Reader};
use caudal_core::decode::Record;
use caudal_core::money::{Amount, Currency, trim_nano};
use caudal_core::reject::{Reason, Rejection};
use caudal_core::row::{ColumnType, RowSchema, Value};
use std::borrow::Cow;

/// The value of one column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// text.
    Text(Cow<'a, str>),
    /// bytea.
    Bytes(Cow<'a, [u8]>),
    /// smallint.
    Small(i16),
    /// integer.
    Integer(i32),
    /// bigint.
    Long(i64),
    /// numeric `units × 10^-scale`.
    Numeric {
        /// The integer units.
        units: i128,
        /// Decimal places.
        scale: u8,
    },
    /// numeric of more than 128 bits.
    WideNumeric {
        /// The integer units: two's complement, big-endian.
        bytes: &'a [u8],
        /// Decimal places.
        scale: u8,
    },
    /// timestamptz, microseconds since 1970.
    Timestamp(i64),
    /// timestamp, microseconds since 1970.
    LocalTimestamp(i64),
    /// time, microseconds since midnight.
    Time(i64),
    /// date, days since 1970.
    Date(i32),
    /// real, its bits.
    Real(u32),
    /// double precision, its bits.
    Double(u64),
    /// uuid.
    Uuid([u8; 16]),
    /// boolean.
    Boolean(bool),
    /// jsonb.
    Json(String),
    /// text[].
    Texts(Vec<&'a str>),
}

impl Cell<'_> {
    /// Whether PostgreSQL would call the two values not distinct: numerics by value, not by the
    /// number of places.
    #[must_use]
    pub fn same(&self, other: &Cell<'_>) -> bool {
        match (self, other) {
            (Cell::Numeric { units: a, scale: x }, Cell::Numeric { units: b, scale: y }) => {
                trimmed(*a, *x) == trimmed(*b, *y)
            }
            (a, b) => a == b,
        }
    }

    /// Writes the cell as part of a key: equal bytes where PostgreSQL would call two keys equal.
    pub(crate) fn encode_key(&self, out: &mut Tuples) -> Result<(), Rejection> {
        match self {
            Cell::Numeric { units, scale } => {
                let (units, scale) = trimmed(*units, *scale);
                out.numeric(units, scale);
                Ok(())
            }
            Cell::Double(bits) => {
                let value = f64::from_bits(*bits);
                let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
                out.float8(value);
                Ok(())
            }
            Cell::Real(bits) => {
                let value = f32::from_bits(*bits);
                out.float4(if value.is_nan() { f32::NAN } else { value + 0.0 });
                Ok(())
            }
            other => other.encode(out),
        }
    }

    pub(crate) fn encode(&self, out: &mut Tuples) -> Result<(), Rejection> {
        match self {
            Cell::Null => out.null(),
            Cell::Text(text) => out.text(without_nul(text)?),
            Cell::Bytes(bytes) => out.bytes(bytes),
            Cell::Small(value) => out.int2(*value),
            Cell::Integer(value) => out.int4(*value),
            Cell::Long(value) => out.int8(*value),
            Cell::Numeric { units, scale } => out.numeric(*units, *scale),
            Cell::Timestamp(micros) | Cell::LocalTimestamp(micros) if *micros < FIRST_TIMESTAMP => {
                return Err(Rejection::new(
                    Reason::Timestamp,
                    "before what a timestamptz can hold",
                ));
            }
            Cell::WideNumeric { bytes, scale } => out.wide_numeric(bytes, *scale),
            Cell::Timestamp(micros) | Cell::LocalTimestamp(micros) => out.timestamptz(*micros),
            Cell::Time(micros) => out.int8(*micros),
            Cell::Date(days) => out.date(*days),
            Cell::Real(bits) => out.float4(f32::from_bits(*bits)),
            Cell::Uuid(bytes) => out.bytes(bytes),
            Cell::Double(bits) => out.float8(f64::from_bits(*bits)),
            Cell::Boolean(value) => out.boolean(*value),
            Cell::Json(json) => out.jsonb(json),
            Cell::Texts(texts) => {
                texts.iter().try_for_each(|text| without_nul(text).map(|_| ()))?;
                out.text_array(texts);
            }
        }
        Ok(())
    }
}

fn trimmed(mut units: i128, mut scale: u8) -> (i128, u8) {
    while scale > 0 && units % 10 == 0 {
        units /= 10;
        scale -= 1;
    }
    (units, scale)
}

/// PostgreSQL's text cannot hold NUL: told here, where one record is concerned, and not by a
/// refusal of the whole batch (22021).
fn without_nul(text: &str) -> Result<&str, Rejection> {
    if text.as_bytes().contains(&0) {
        return Err(Rejection::new(Reason::Constraint, "a text contains NUL"));
    }
    Ok(text)
}

/// A table, as far as the sink writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Name.
    pub name: String,
    /// Columns in the order of the cells.
    pub columns: Vec<String>,
    /// Which of them are the key.
    pub key: Vec<usize>,
    /// Which of them the client supplied: two rows of one key are duplicates when these are equal.
    pub compared: Vec<usize>,
}

/// A row before it is encoded.
#[derive(Debug)]
pub struct Row<'a> {
    /// In the order of [`Table::columns`].
    pub cells: Vec<Cell<'a>>,
    /// What the row means to the ledger.
    pub money: Option<(Currency, Amount)>,
    /// Whether the row of its key is to go: all that is known of it is the key.
    pub is_gone: bool,
}

impl Row<'_> {
    /// Appends the row as one tuple. On an error `out` is as before.
    ///
    /// # Errors
    /// A [`Rejection`] when PostgreSQL's types cannot hold a value.
    pub fn encode(&self, out: &mut Tuples) -> Result<(), Rejection> {
        let start = out.len();
        out.tuple(self.cells.len());
        for cell in &self.cells {
            if let Err(rejection) = cell.encode(out) {
                out.truncate(start);
                return Err(Rejection { money: self.money, ..rejection });
            }
        }
        Ok(())
    }
}

/// Columns before those of a record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leading {
    /// None.
    Nothing,
    /// One that is the same in every row: its value.
    Constant(String),
    /// [`PLACE_COLUMNS`]: where the record was read.
    Place,
}

/// Partition and offset of a record, as Kafka Connect's sinks name them (`pk.mode=kafka`).
pub const PLACE_COLUMNS: [&str; 2] = ["__connect_partition", "__connect_offset"];

/// How the values of a topic are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// `transaccion_valida.avsc` under this id.
    Transaction {
        /// Schema id in the framing.
        schema_id: u32,
    },
    /// A flat record of a query's output.
    Row {
        /// Its columns.
        schema: RowSchema,
        /// Schema id in the framing.
        schema_id: u32,
        /// What stands before its columns.
        leading: Leading,
    },
    /// A dead letter of the processor: any bytes, and headers that say why.
    DeadLetter,
    /// A topic of somebody else's.
    Generic(Box<Generic>),
}

/// Columns of `transactions`, in the order in which [`Shape::Transaction`] gives them. The first
/// ten are the client's; source, source_seq and late_for depend on the arrival.
pub const TRANSACTION_COLUMNS: [&str; 13] = [
    "transaction_id",
    "account_id",
    "merchant_id",
    "amount",
    "currency",
    "kind",
    "country",
    "event_time",
    "description",
    "attributes",
    "source",
    "source_seq",
    "late_for",
];
/// How many of [`TRANSACTION_COLUMNS`] the client supplied.
pub const SUPPLIED: usize = 10;

impl Shape {
    /// Reads a record as a row.
    ///
    /// # Errors
    /// A [`Rejection`]: the record becomes a dead letter of the sink.
    pub fn row<'a>(&self, record: &'a Record, topic: &str) -> Result<Row<'a>, Rejection> {
        if let Shape::Generic(generic) = self {
            return generic.row(record, topic);
        }
        let Some(value) = record.value.as_deref() else {
            let message = "a tombstone; deleting by key is not enabled for this table";
            return Err(Rejection::new(Reason::NullValue, message));
        };
        match self {
            Shape::Transaction { schema_id } => transaction(body(value, *schema_id)?),
            Shape::Row { schema, schema_id, leading } => {
                let before = match leading {
                    Leading::Nothing => Vec::new(),
                    Leading::Constant(text) => vec![Cell::Text(Cow::Owned(text.clone()))],
                    Leading::Place => {
                        vec![Cell::Integer(record.partition), Cell::Long(record.offset)]
                    }
                };
                query_row(schema, body(value, *schema_id)?, before)
            }
            Shape::DeadLetter | Shape::Generic(_) => {
                Err(Rejection::new(Reason::Malformed, "a dead letter has no row"))
            }
        }
    }
}

fn body(value: &[u8], expected: u32) -> Result<&[u8], Rejection> {
    let (id, body) = avro::unframe(value).ok_or_else(|| {
        Rejection::new(Reason::Malformed, "the value does not begin with Confluent framing")
    })?;
    if id != expected {
        let message = format!("schema id {id} is unknown here (expected {expected})");
        return Err(Rejection::new(Reason::Schema, message));
    }
    Ok(body)
}

fn malformed(error: avro::AvroError) -> Rejection {
    Rejection::new(Reason::Malformed, format!("Avro: {error}"))
}

fn transaction(body: &[u8]) -> Result<Row<'_>, Rejection> {
    let mut input = Reader::new(body);
    let t = avro::read_transaction(&mut input).map_err(malformed)?;
    let late_for = avro::read_strings(&mut input).map_err(malformed)?;
    input.end().map_err(malformed)?;
    if t.amount.scale > caudal_core::money::MAX_SCALE {
        return Err(Rejection::new(Reason::Amount, "more than 9 decimal places"));
    }
    let money = t.money();
    let attributes = match t.attributes.as_slice() {
        [] => Cell::Null,
        attributes => Cell::Json(json_object(attributes)?),
    };
    let cells = vec![
        Cell::Text(t.transaction_id),
        Cell::Text(t.account_id),
        Cell::Text(t.merchant_id),
        Cell::Numeric { units: i128::from(t.amount.units), scale: t.amount.scale },
        Cell::Text(t.currency),
        Cell::Text(Cow::Borrowed(t.kind.as_str())),
        t.country.map_or(Cell::Null, Cell::Text),
        Cell::Timestamp(t.event_time),
        t.description.map_or(Cell::Null, Cell::Text),
        attributes,
        Cell::Text(t.source),
        Cell::Long(t.source_seq),
        Cell::Texts(late_for),
    ];
    Ok(Row { cells, money, is_gone: false })
}

fn json_object(entries: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<String, Rejection> {
    let mut object = String::from("{");
    for (at, (name, value)) in entries.iter().enumerate() {
        object.push_str(if at > 0 { "," } else { "" });
        push_string(&mut object, without_nul(name)?);
        object.push(':');
        push_string(&mut object, without_nul(value)?);
    }
    object.push('}');
    Ok(object)
}

/// A JSON string. Most texts need no escape, and are copied.
fn push_string(out: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.push_str(&serde_json::Value::from(text).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

fn query_row<'a>(
    schema: &RowSchema,
    body: &'a [u8],
    before: Vec<Cell<'a>>,
) -> Result<Row<'a>, Rejection> {
    let values = schema.decode(body).map_err(malformed)?;
    // Decimals travel at one scale; at rest they have the places of their currency.
    let exponent = schema
        .columns
        .iter()
        .zip(&values)
        .find_map(|(column, value)| match value {
            Value::Text(code) if column.name == "currency" => Currency::parse(code),
            _ => None,
        })
        .map_or(0, Currency::exponent);
    let mut cells = before;
    cells.reserve(values.len());
    let values = schema.columns.iter().zip(values);
    cells.extend(values.map(|(column, value)| cell_of(value, column.kind, exponent)));
    Ok(Row { cells, money: None, is_gone: false })
}

/// A value of a query's row; decimals keep at least `exponent` places.
pub(crate) fn cell_of(value: Value, kind: ColumnType, exponent: u8) -> Cell<'static> {
    match (value, kind) {
        (Value::Null, _) => Cell::Null,
        (Value::Text(text), _) => Cell::Text(Cow::Owned(text)),
        (Value::Long(number), _) => Cell::Long(number),
        (Value::Double(number), _) => Cell::Double(number.to_bits()),
        (Value::Boolean(value), _) => Cell::Boolean(value),
        (Value::Date(days), _) => Cell::Date(days),
        (Value::Json(json), _) => Cell::Json(json),
        (Value::Timestamp(micros), _) => Cell::Timestamp(micros),
        (Value::Decimal(nano), ColumnType::Decimal { scale: 9 }) => {
            let (units, scale) = trim_nano(nano, exponent);
            Cell::Numeric { units, scale }
        }
        (Value::Decimal(units), ColumnType::Decimal { scale }) => Cell::Numeric { units, scale },
        (Value::Decimal(units), _) => Cell::Numeric { units, scale: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::avro::Writer;

    #[test]
    fn numerics_compare_by_value() {
        let cell = |units, scale| Cell::Numeric { units, scale };
        assert!(cell(10, 1).same(&cell(100, 2)));
        assert!(cell(0, 0).same(&cell(0, 9)));
        assert!(!cell(10, 1).same(&cell(10, 2)));
        assert!(!Cell::Null.same(&cell(0, 0)));
    }

    #[test]
    fn attributes_are_json_whatever_they_hold() {
        let pairs = [("a", "b"), ("q\"", "\\ \n \u{1} é")];
        let entries = pairs.map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value)));
        let text = json_object(&entries).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, serde_json::json!({"a": "b", "q\"": "\\ \n \u{1} é"}));
        assert!(json_object(&[("a".into(), "\0".into())]).is_err());
    }

    #[test]
    fn keys_that_postgresql_calls_equal_have_equal_bytes() {
        let key = |cell: &Cell<'_>| {
            let mut out = Tuples::default();
            cell.encode_key(&mut out).unwrap();
            out.as_slice().to_vec()
        };
        let numeric = |units, scale| key(&Cell::Numeric { units, scale });
        assert_eq!(numeric(150, 2), numeric(15, 1));
        assert_ne!(numeric(150, 2), numeric(150, 1));
        let double = |value: f64| key(&Cell::Double(value.to_bits()));
        assert_eq!(double(-0.0), double(0.0));
        assert_eq!(double(-f64::NAN), double(f64::NAN));
    }

    #[test]
    fn decimals_rest_at_the_places_of_their_currency() {
        let shipped = caudal_core::schema::Schemas::shipped();
        let schema = RowSchema::parse(&shipped.alertas_fraude.json).unwrap();
        let row = |currency: &str, nano| {
            let values = [
                Value::Text("a".into()),
                Value::Text(currency.into()),
                Value::Timestamp(0),
                Value::Timestamp(1),
                Value::Long(11),
                Value::Decimal(nano),
            ];
            let value = schema.encode(7, &values);
            let record = Record { value: Some(value.into()), ..Record::default() };
            let shape = Shape::Row {
                schema: schema.clone(),
                schema_id: 7,
                leading: Leading::Constant("r".into()),
            };
            let cells = shape.row(&record, "t").unwrap().cells;
            assert_eq!(cells[0], Cell::Text("r".into()));
            match cells[6] {
                Cell::Numeric { units, scale } => (units, scale),
                _ => panic!("no numeric"),
            }
        };
        assert_eq!(row("EUR", 1_500_000_000), (150, 2));
        assert_eq!(row("JPY", 1_500_000_000_000), (1500, 0));
        assert_eq!(row("KWD", 1_234_500_000), (12345, 4));
    }

    #[test]
    fn what_cannot_be_read_is_rejected() {
        let shape = Shape::Transaction { schema_id: 7 };
        let reason = |value: Option<&[u8]>| {
            let record = Record { value: value.map(Into::into), ..Record::default() };
            shape.row(&record, "t").map(|_| ()).unwrap_err().reason
        };
        assert_eq!(reason(None), Reason::NullValue);
        assert_eq!(reason(Some(b"{}")), Reason::Malformed);
        assert_eq!(reason(Some(&Writer::framed(8).into_bytes())), Reason::Schema);
        assert_eq!(reason(Some(&Writer::framed(7).into_bytes())), Reason::Malformed);
    }
}
