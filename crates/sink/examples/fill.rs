//! Fills topics with what the sink reads, for trials and measurements:
//! `fill BOOTSTRAP PREFIX TRANSACTIONS`. Topics are created as needed; every tenth transaction
//! has a row of ventas_gold, every hundredth an alert, every thousandth a dead letter.

use anyhow::Context as _;
use caudal_core::avro::{self, Writer};
use caudal_core::headers;
use caudal_core::money::Amount;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::row::{RowSchema, Value};
use caudal_core::schema::Schemas;
use caudal_core::transaction::{Kind, Transaction};
use caudal_kafka::Kafka;
use caudal_kafka::admin::{Admin, Topic};
use caudal_kafka::txn::TxnProducer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const PARTITIONS: i32 = 6;
const TOPICS: [&str; 4] =
    ["transacciones_validas", "ventas_gold", "alertas_fraude", "transacciones_dlq"];
const START: i64 = 1_700_000_000_000_000;

struct Filler {
    topics: [Arc<str>; 4],
    schemas: Schemas,
    gold: RowSchema,
    alerts: RowSchema,
    sequences: BTreeMap<(usize, i32), u64>,
    outbox: Outbox,
}

impl Filler {
    fn push(
        &mut self,
        topic: usize,
        n: i64,
        key: String,
        value: Vec<u8>,
        more: &[(&'static str, &str)],
    ) {
        let partition = i32::try_from(n % i64::from(PARTITIONS)).unwrap_or(0);
        let sequence = self.sequences.entry((topic, partition)).or_default();
        let mut headers = vec![
            (headers::TASK, format!("1-{partition}").into_bytes()),
            (headers::SEQUENCE, sequence.to_string().into_bytes()),
            (headers::SOURCE, format!("{partition}@{n}").into_bytes()),
        ];
        headers.extend(more.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())));
        *sequence += 1;
        self.outbox.records.push(OutRecord {
            origin: None,
            topic: Arc::clone(&self.topics[topic]),
            partition,
            key: Some(key.into_bytes()),
            value: Some(value),
            headers,
        });
    }

    fn transaction(&mut self, n: i64, id: &str) {
        let account = format!("account-{:05}", n % 20_000);
        let merchant = format!("merchant-{:04}", n % 1000);
        let t = Transaction {
            transaction_id: id.into(),
            source: "fill".into(),
            source_seq: n,
            account_id: account.as_str().into(),
            merchant_id: merchant.as_str().into(),
            amount: Amount { units: 100 + n % 100_000, scale: 2 },
            scale_declared: true,
            currency: "EUR".into(),
            kind: Kind::Purchase,
            country: Some("ES".into()),
            event_time: START + n * 1000,
            description: None,
            attributes: vec![("channel".into(), "web".into())],
        };
        let mut out = Writer::framed(self.schemas.valid.id);
        avro::write_transaction(&mut out, &t);
        avro::write_strings(&mut out, std::iter::empty());
        self.push(0, n, account.clone(), out.into_bytes(), &[]);
        let window = START + n * 1000 / 60_000_000 * 60_000_000;
        if n % 10 == 0 {
            let total = i128::from(t.amount.units) * 10_000_000;
            let row = [
                Value::Text(merchant.clone()),
                Value::Text("EUR".into()),
                Value::Timestamp(window),
                Value::Timestamp(window + 60_000_000),
                Value::Long(1),
                Value::Decimal(total),
                Value::Decimal(total),
                Value::Decimal(total),
            ];
            let value = self.gold.encode(self.schemas.ventas_gold.id, &row);
            self.push(1, n / 10, format!("{merchant}|{window}"), value, &[]);
        }
        if n % 100 == 0 {
            let row = [
                Value::Text(account.clone()),
                Value::Text("EUR".into()),
                Value::Timestamp(window),
                Value::Timestamp(window + 60_000_000),
                Value::Long(11),
                Value::Decimal(5_000_000_000),
            ];
            let value = self.alerts.encode(self.schemas.alertas_fraude.id, &row);
            self.push(2, n / 100, account.clone(), value, &[]);
        }
        if n % 1000 == 0 {
            let why = [(headers::REASON, "amount"), (headers::ERROR_MESSAGE, "not a number")];
            self.push(3, n / 1000, account, b"{\"amount\":\"x\"}".to_vec(), &why);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, bootstrap, prefix, count] = args.as_slice() else {
        anyhow::bail!("usage: fill BOOTSTRAP PREFIX TRANSACTIONS");
    };
    let count: i64 = count.parse().context("TRANSACTIONS")?;
    let kafka = Kafka::plain(bootstrap);
    let admin = Admin::connect(&kafka)?;
    for topic in TOPICS {
        let (name, config) = (format!("{prefix}{topic}"), BTreeMap::new());
        admin.create(&Topic { name, partitions: PARTITIONS, replication: 3, config })?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let schemas = Schemas::shipped();
    let mut filler = Filler {
        topics: TOPICS.map(|topic| Arc::from(format!("{prefix}{topic}"))),
        gold: RowSchema::parse(&schemas.ventas_gold.json)?,
        alerts: RowSchema::parse(&schemas.alertas_fraude.json)?,
        schemas,
        sequences: BTreeMap::new(),
        outbox: Outbox::default(),
    };
    let mut producer =
        TxnProducer::connect(&kafka, &format!("{prefix}fill"), None, Duration::from_secs(30))?;
    for n in 0..count {
        filler.transaction(n, &format!("{prefix}{:016x}", n.wrapping_mul(0x1e37_79b9_7f4a_7c15)));
        if filler.outbox.records.len() >= 10_000 || n + 1 == count {
            producer.commit(&mut std::mem::take(&mut filler.outbox), None)?;
        }
    }
    Ok(())
}
