//! What a line becomes on its way: an Avro record, or its own bytes with the reason.

use crate::cards::{Cards, WholeDigest};
use crate::source::records::hex;
use caudal_core::avro::{self, Writer};
use caudal_core::headers;
use caudal_core::mask::mask_card_numbers;
use caudal_core::outbox::OutRecord;
use caudal_core::partitioner::partition_of;
use caudal_core::reject::Rejection;
use caudal_core::transaction::Transaction;
use std::sync::Arc;

/// Of a line that is too large, this many bytes go on.
pub const LARGE_HEAD: usize = 64 << 10;
/// Most bytes of a message in a header.
const MESSAGE: usize = 1_000;

/// Makes records for one topic.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The topic.
    pub topic: Arc<str>,
    /// Its number of partitions.
    pub partitions: i32,
    /// Id of `transaction.avsc`.
    pub schema_id: u32,
    /// What is done with card numbers.
    pub cards: Cards,
}

impl Envelope {
    /// A transaction without card numbers, keyed by its account.
    #[must_use]
    pub fn transaction(&self, t: &Transaction<'_>) -> OutRecord {
        match self.cards.without(t) {
            Some(without) => self.encode(&without),
            None => self.encode(t),
        }
    }

    fn encode(&self, t: &Transaction<'_>) -> OutRecord {
        let mut out = Writer::framed(self.schema_id);
        avro::write_transaction(&mut out, t);
        self.record(t.account_id.as_bytes().to_vec(), Some(out.into_bytes()), Vec::new())
    }

    /// A line that cannot be mapped: its bytes with card numbers masked, keyed by `place`
    /// (`<file>:<line>`), with the reason in headers; where something was masked, its keyed hash
    /// too.
    #[must_use]
    pub fn unmappable(&self, raw: &[u8], place: &str, rejection: &Rejection) -> OutRecord {
        let mut all = reasons(place, rejection);
        let masked = mask_bytes(raw);
        if masked != raw {
            all.push((headers::KEYED_SHA256, self.cards.keyed_sha256(raw).into_bytes()));
        }
        self.record(place.into(), Some(masked), all)
    }

    /// A line that is too large: the first [`LARGE_HEAD`] bytes of `raw`, which is as much of it as
    /// was kept, with hash and size of the whole in headers; where something was masked in what goes
    /// on, the keyed hash of the whole too.
    #[must_use]
    pub fn too_large(
        &self,
        raw: &[u8],
        place: &str,
        rejection: &Rejection,
        (whole, size): (&WholeDigest, u64),
    ) -> OutRecord {
        // Masked before it is cut: half of a card number would not be known for one.
        let mut masked = mask_bytes(raw);
        masked.truncate(LARGE_HEAD);
        let mut all = reasons(place, rejection);
        if !raw.starts_with(&masked) {
            all.push((headers::KEYED_SHA256, hex(&whole.keyed).into_bytes()));
        }
        all.push((headers::SHA256, hex(&whole.plain).into_bytes()));
        all.push((headers::SIZE, size.to_string().into_bytes()));
        self.record(place.into(), Some(masked), all)
    }

    /// A record of those bytes, in the partition of its key.
    #[must_use]
    pub fn record(
        &self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        headers: Vec<(&'static str, Vec<u8>)>,
    ) -> OutRecord {
        let partition = partition_of(&key, self.partitions);
        OutRecord {
            topic: Arc::clone(&self.topic),
            partition,
            key: Some(key),
            value,
            origin: None,
            headers,
        }
    }
}

fn reasons(place: &str, rejection: &Rejection) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (headers::REASON, rejection.reason.as_str().into()),
        (headers::ERROR_MESSAGE, clear_message(rejection).into_bytes()),
        (headers::LINE, place.into()),
    ]
}

/// What a rejection says, with card numbers masked and at most [`MESSAGE`] bytes long: it may
/// quote the line.
#[must_use]
pub fn clear_message(rejection: &Rejection) -> String {
    let mut message = mask_card_numbers(&rejection.message).into_owned();
    if message.len() > MESSAGE {
        message.truncate(message.floor_char_boundary(MESSAGE));
        message.push('…');
    }
    message
}

/// Card numbers masked, every other byte as it was, UTF-8 or not.
fn mask_bytes(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        out.extend_from_slice(mask_card_numbers(chunk.valid()).as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
    out
}
