//! What the producer measures. Counters move only after a commit.

use crate::progress::Progress;
use caudal_service::metrics::{counter, counter_vec, gauge, registry, seconds};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

/// Port of /metrics unless another is chosen.
pub const PORT: u16 = 9401;

/// The producer's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What is served.
    pub registry: Registry,
    records: IntCounterVec,
    lines: IntCounter,
    bytes: IntCounter,
    transactions: IntCounterVec,
    /// How long a Kafka transaction took, from begin to commit.
    pub commit_seconds: Histogram,
    position: IntGauge,
    skipped: IntCounter,
    set_aside: IntGauge,
}

/// How a Kafka transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It counts.
    Committed,
    /// Nothing of it exists.
    Aborted,
    /// In doubt: the Kafka producer was replaced.
    Replaced,
}

impl Ending {
    const ALL: [Ending; 3] = [Ending::Committed, Ending::Aborted, Ending::Replaced];

    fn label(self) -> &'static str {
        match self {
            Ending::Committed => "committed",
            Ending::Aborted => "aborted",
            Ending::Replaced => "replaced",
        }
    }
}

impl Metrics {
    /// Registers them all, at zero.
    ///
    /// # Errors
    /// When a name is taken twice.
    pub fn new() -> prometheus::Result<Metrics> {
        let registry = registry("caudal-producer")?;
        let metrics = Metrics {
            records: counter_vec(
                &registry,
                "caudal_producer_records_total",
                "Records committed to Kafka: transactions sent, and lines that could not be mapped",
                &["result"],
            )?,
            lines: counter(
                &registry,
                "caudal_producer_lines_total",
                "Input lines whose record is committed; headers, blank lines and, over HTTP, transactions \
                 of another source are not counted",
            )?,
            bytes: counter(
                &registry,
                "caudal_producer_bytes_total",
                "Bytes of decompressed input whose records are committed; records, for the generator",
            )?,
            transactions: counter_vec(
                &registry,
                "caudal_producer_transactions_total",
                "Kafka transactions by how they ended",
                &["result"],
            )?,
            commit_seconds: seconds(
                &registry,
                "caudal_producer_commit_duration_seconds",
                "From the begin of a Kafka transaction to its end",
            )?,
            position: gauge(
                &registry,
                "caudal_producer_position_lines",
                "Lines of the current input that are committed, by this run or an earlier one",
            )?,
            skipped: counter(
                &registry,
                "caudal_producer_skipped_lines_total",
                "Input lines that the mapping leaves out, passed over by committed positions",
            )?,
            set_aside: gauge(
                &registry,
                "caudal_producer_files_set_aside",
                "Files that --follow cannot read and has set aside until they change",
            )?,
            registry,
        };
        for result in ["sent", "unmappable"] {
            metrics.records.with_label_values(&[result]).inc_by(0);
        }
        for ending in Ending::ALL {
            metrics.transactions.with_label_values(&[ending.label()]).inc_by(0);
        }
        Ok(metrics)
    }

    /// A Kafka transaction ended.
    pub fn ended(&self, ending: Ending) {
        self.transactions.with_label_values(&[ending.label()]).inc();
    }

    /// So many files are set aside.
    pub fn set_aside(&self, files: usize) {
        self.set_aside.set(i64::try_from(files).unwrap_or(i64::MAX));
    }

    /// The input moved from one committed position to the next.
    pub fn advanced(&self, before: &Progress, after: &Progress) {
        let sent = |count: u64, result| self.records.with_label_values(&[result]).inc_by(count);
        let all = |p: &Progress| p.records + p.elsewhere;
        sent(all(after).saturating_sub(all(before)), "sent");
        sent(after.unmappable.saturating_sub(before.unmappable), "unmappable");
        self.skipped.inc_by(after.skipped.saturating_sub(before.skipped));
        self.lines.inc_by(after.lines.saturating_sub(before.lines));
        self.bytes.inc_by(after.byte.saturating_sub(before.byte));
        self.position.set(i64::try_from(after.lines).unwrap_or(i64::MAX));
    }
}
