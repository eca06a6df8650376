//! What stage 1 does with records that do not pass: dead letters, and records in a foreign
//! partition.

use super::AccountTask;
use crate::outputs::Output;
use caudal_core::decode::Record;
use caudal_core::headers;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::{OutRecord, Outbox};
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::ValidTransaction;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Largest record that `transacciones` takes, in bytes, less room for the batch around it.
const INPUT_LIMIT: usize = 1024 * 1024 - 1024;
/// A dead letter above this is cut: 64 KiB more than an input, less room for the batch around it.
const DEAD_LETTER_LIMIT: usize = 1024 * 1024 + 60 * 1024;
/// How much of a value that is too large a dead letter keeps.
const KEPT: usize = 64 * 1024;
/// Longest error text in a header, in characters.
const MESSAGE: usize = 500;

impl AccountTask {
    /// Moves a record to its key's partition. It is no dead letter, and it does not move the
    /// stream time of the partition it leaves; where it arrives it is a record like any other.
    pub(super) fn reroute(
        &mut self,
        record: &Record,
        valid: &ValidTransaction<'_>,
        home: i32,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        let money = (valid.currency, valid.transaction.amount);
        let refuse =
            |reason, message: &str| Rejection::new(reason, message).with_money(money.0, money.1);
        if record.header(headers::REROUTED).is_some() {
            let message = "moved to its key's partition once and still in a foreign one: the \
                           topic's partition count differs from the processor's";
            return self.reject(record, &refuse(Reason::Mapping, message), outbox);
        }
        let mut all = copied_headers(record);
        let position = format!("{}@{}", record.partition, record.offset);
        all.push((headers::REROUTED, position.into_bytes()));
        all.push((headers::ORIGINAL_TIMESTAMP, record.timestamp.to_string().into_bytes()));
        let out = OutRecord {
            topic: Arc::clone(&self.shared.input_topic),
            partition: home,
            key: Some(valid.transaction.account_id.as_bytes().to_vec()),
            value: record.value.as_deref().map(<[u8]>::to_vec),
            origin: None,
            headers: all,
        };
        if out.size() > INPUT_LIMIT {
            let message = "has a foreign key and no room for the header that moving it needs";
            return self.reject(record, &refuse(Reason::TooLarge, message), outbox);
        }
        self.at.ledger.rerouted += 1;
        self.counts.rerouted += 1;
        outbox.records.push(out);
        Ok(())
    }

    pub(super) fn reject(
        &mut self,
        record: &Record,
        rejection: &Rejection,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        self.counts.reject(rejection.reason);
        let mut all = copied_headers(record);
        // What the producer said of an unmappable line is said again below, once.
        all.retain(|(name, _)| *name != headers::REASON && *name != headers::ERROR_MESSAGE);
        let mut value = record.value.as_deref().map(<[u8]>::to_vec);
        let mut key = record.key.as_deref().map(<[u8]>::to_vec);
        if record.size() > DEAD_LETTER_LIMIT {
            let whole = value.unwrap_or_default();
            all.push((headers::SHA256, hex(&Sha256::digest(&whole)).into_bytes()));
            all.push((headers::SIZE, whole.len().to_string().into_bytes()));
            value = Some(whole[..whole.len().min(KEPT)].to_vec());
            key = key.map(|key| key[..key.len().min(KEPT)].to_vec());
        }
        let message: String = rejection.message.chars().take(MESSAGE).collect();
        all.extend([
            (headers::REASON, rejection.reason.as_str().into()),
            (headers::ERROR_EXCEPTION, format!("caudal.{}", rejection.reason).into_bytes()),
            (headers::ERROR_MESSAGE, message.into_bytes()),
            (headers::ERROR_TOPIC, self.shared.input_topic.as_bytes().to_vec()),
            (headers::ERROR_PARTITION, record.partition.to_string().into_bytes()),
            (headers::ERROR_OFFSET, record.offset.to_string().into_bytes()),
            (headers::ORIGINAL_TIMESTAMP, record.timestamp.to_string().into_bytes()),
        ]);
        let shared = Arc::clone(&self.shared);
        self.at.outputs.emit(
            outbox,
            Output {
                topic: &shared.dead_letter_topic,
                partition: self.id.partition,
                key,
                value,
                source: (record.partition, record.offset),
                headers: all,
            },
        );
        self.at.ledger.reject(rejection)
    }
}

/// Position of a moved record before it was moved.
pub(super) fn original_position(record: &Record) -> Option<(i32, i64)> {
    let (partition, offset) = record.header(headers::REROUTED)?.split_once('@')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// The headers of an input record that go on with it: ours by name, nobody else's.
fn copied_headers(record: &Record) -> Vec<(&'static str, Vec<u8>)> {
    const KNOWN: [&str; 9] = [
        headers::REASON,
        headers::ERROR_MESSAGE,
        headers::LINE,
        headers::SHA256,
        headers::KEYED_SHA256,
        headers::SIZE,
        headers::REROUTED,
        headers::ORIGINAL_TIMESTAMP,
        headers::REPLAYS,
    ];
    let value = |name: &'static str| {
        let (_, value) = record.headers.iter().rev().find(|(n, _)| n == name)?;
        (value.len() <= KEPT / 8).then(|| (name, value.to_vec()))
    };
    KNOWN.into_iter().filter_map(value).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
