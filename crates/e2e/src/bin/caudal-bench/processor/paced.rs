//! Transactions on a schedule that waits for nobody: an open loop.

use super::load::{PARTITIONS, generator, out_record};
use anyhow::Result;
use caudal_core::outbox::Outbox;
use caudal_core::topics;
use caudal_e2e::pipeline::Pipeline;
use caudal_kafka::Kafka;
use caudal_kafka::txn::TxnProducer;
use caudal_producer::generate::Class;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A rate, for a time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Transactions per second.
    pub rate: u64,
    /// For so long.
    pub seconds: u64,
    /// The producer commits this often, as `caudal-producer` does.
    pub tick: Duration,
}

impl Pace {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rate * self.seconds
    }
}

/// Per partition of `transacciones`, in order: whether the record must become a row.
pub type Sent = Vec<Vec<bool>>;

/// Sends everything that is due, one txn a tick.
///
/// # Errors
/// When Kafka refuses.
pub fn send(kafka: &Kafka, pace: Pace, seed: u64) -> Result<Sent> {
    let topic: Arc<str> = topics::TRANSACCIONES.into();
    let patience = Duration::from_secs(60);
    let mut producer = TxnProducer::connect(kafka, "caudal-bench-paced", None, patience)?;
    let mut records = generator(pace.total(), seed);
    let mut sent = vec![Vec::new(); usize::try_from(PARTITIONS)?];
    let (begun, mut count, mut tick) = (Instant::now(), 0, 0_u32);
    while count < pace.total() {
        tick += 1;
        std::thread::sleep((pace.tick * tick).saturating_sub(begun.elapsed()));
        let elapsed = u64::try_from(begun.elapsed().as_millis())?;
        let due = (elapsed * pace.rate / 1000).min(pace.total());
        let wanted = usize::try_from(due - count)?;
        let mut outbox = Outbox::default();
        for generated in records.by_ref().take(wanted) {
            let valid = matches!(generated.class, Class::Valid(..));
            let out = out_record(&topic, generated);
            sent[usize::try_from(out.partition)?].push(valid);
            outbox.records.push(out);
        }
        count = due;
        if !outbox.records.is_empty() {
            producer.commit(&mut outbox, None)?;
        }
    }
    Ok(sent)
}

/// Per partition of `transacciones`: offset and the broker's LogAppendTime of each record.
///
/// # Errors
/// When the topic cannot be read.
pub fn appended(pipeline: &Pipeline) -> Result<Vec<Vec<(i64, f64)>>> {
    let mut all = vec![Vec::new(); usize::try_from(PARTITIONS)?];
    super::load::read(pipeline, topics::TRANSACCIONES, |record| {
        #[expect(clippy::cast_precision_loss, reason = "below 2^52")]
        let timestamp = record.timestamp as f64;
        if let Some(partition) = usize::try_from(record.partition).ok().and_then(|p| all.get_mut(p))
        {
            partition.push((record.offset, timestamp));
        }
    })?;
    Ok(all)
}
