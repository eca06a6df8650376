//! The records that the sink is given, as the processor writes them.

use anyhow::Result;
use caudal_core::avro::{self, Writer};
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::money::Amount;
use caudal_core::row::{RowSchema, Value};
use caudal_core::schema::Schemas;
use caudal_core::topics;
use caudal_core::transaction::{Kind, Transaction};
use caudal_kafka::TopicPartition;
use std::sync::Arc;

const START: i64 = 1_700_000_000_000_000;
/// Merchants of the aggregates: each has a row a minute.
const MERCHANTS: i64 = 2_000;

/// A topic of somebody else's, with the columns of a transaction: its table is made from the schema.
pub const FILE: &str = "[topics.copia]\nauto.create = true\npk.mode = \"record_value\"\n\
    pk.fields = [\"transaction_id\"]\n";
/// Id of its schema.
pub const COPIA_ID: u32 = 17;
/// Its schema.
pub const COPIA: &str = r#"{"type": "record", "name": "Copia", "fields": [
    {"name": "transaction_id", "type": "string"},
    {"name": "account_id", "type": "string"},
    {"name": "merchant_id", "type": "string"},
    {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}},
    {"name": "currency", "type": "string"},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["PURCHASE", "REFUND"]}},
    {"name": "country", "type": ["null", "string"]},
    {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;

/// What is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// `transacciones_validas` into `transactions`, by COPY.
    Append,
    /// [`COPIA`] into a table made from its schema, by COPY.
    Generic,
    /// `ventas_gold`, two values of each key in different batches.
    Upsert,
    /// `ventas_gold`, every key once: what the raw COPY of that table loads.
    Distinct,
}

impl Case {
    /// Its topic and its table.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Case::Append => (topics::VALIDAS, "transactions"),
            Case::Generic => ("copia", "copia"),
            Case::Upsert | Case::Distinct => (topics::VENTAS_GOLD, "ventas_gold"),
        }
    }
}

/// Records of one partition, of `count` rows beginning with number `first`.
///
/// # Errors
/// When the product's own schemas cannot be read.
pub fn records(
    case: Case,
    partition: i32,
    first: i64,
    count: i64,
) -> Result<Vec<(TopicPartition, Record)>> {
    let schemas = Schemas::shipped();
    let gold = RowSchema::parse(&schemas.ventas_gold.json)?;
    let at: TopicPartition = (Arc::from(case.names().0), partition);
    let value = |n: i64| match case {
        Case::Append => {
            let id = id(n);
            let mut out = Writer::framed(schemas.valid.id);
            avro::write_transaction(&mut out, &transaction(n, &id));
            avro::write_strings(&mut out, std::iter::empty());
            out.into_bytes()
        }
        Case::Generic => copia(n),
        Case::Upsert => gold.encode(schemas.ventas_gold.id, &gold_row(n % (count / 2) + first, n)),
        Case::Distinct => gold.encode(schemas.ventas_gold.id, &gold_row(n + first, n)),
    };
    let record = |n: i64| {
        let headers = vec![
            (headers::TASK.to_owned(), format!("1-{partition}").into_bytes().into()),
            (headers::SEQUENCE.to_owned(), n.to_string().into_bytes().into()),
        ];
        // Numbers of rows differ between partitions, offsets begin at 0 in each.
        let value = match case {
            Case::Append | Case::Generic => value(n + first),
            Case::Upsert | Case::Distinct => value(n),
        };
        let key = Some(format!("account-{:05}", n % 20_000).into_bytes().into());
        let record = Record {
            partition,
            offset: n,
            key,
            value: Some(value.into()),
            headers,
            timestamp: START / 1000,
        };
        (at.clone(), record)
    };
    Ok((0..count).map(record).collect())
}

/// In no order, as ids from many machines are.
fn id(n: i64) -> String {
    format!("tx-{:016x}", n.wrapping_mul(0x1e37_79b9_7f4a_7c15))
}

fn transaction(n: i64, id: &str) -> Transaction<'_> {
    Transaction {
        transaction_id: id.into(),
        source: "bench".into(),
        source_seq: n,
        account_id: format!("account-{:05}", n % 20_000).into(),
        merchant_id: format!("merchant-{:04}", n % MERCHANTS).into(),
        amount: Amount { units: 100 + n % 100_000, scale: 2 },
        scale_declared: true,
        currency: "EUR".into(),
        kind: Kind::Purchase,
        country: Some("ES".into()),
        event_time: START + n * 1000,
        description: None,
        attributes: vec![("channel".into(), "web".into())],
    }
}

fn copia(n: i64) -> Vec<u8> {
    let mut out = Writer::framed(COPIA_ID);
    out.string(&id(n));
    out.string(&format!("account-{:05}", n % 20_000));
    out.string(&format!("merchant-{:05}", n % MERCHANTS));
    out.decimal(i128::from(100 + n % 100_000));
    out.string("EUR");
    out.long(0);
    out.optional_string(Some("ES"));
    out.long(START + n * 1000);
    out.into_bytes()
}

fn gold_row(key: i64, sales: i64) -> [Value; 8] {
    let window = START / 60_000_000 * 60_000_000 + key / MERCHANTS * 60_000_000;
    let amount = Value::Decimal(i128::from(sales) * 10_000_000);
    [
        Value::Text(format!("merchant-{:04}", key % MERCHANTS)),
        Value::Text("EUR".into()),
        Value::Timestamp(window),
        Value::Timestamp(window + 60_000_000),
        Value::Long(sales),
        amount.clone(),
        amount.clone(),
        amount,
    ]
}
