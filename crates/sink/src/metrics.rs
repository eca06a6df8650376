//! Metrics. They move only after a commit (ARCHITECTURE.md, invariant 6), except those that count
//! what went wrong.

use crate::batch::Batch;
use crate::config::Config;
use crate::dead_letter;
use crate::fault::Fault;
use crate::store::Stored;
use caudal_core::reject::Reason;
use caudal_service::metrics::{counter, counter_vec, gauge, seconds};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BATCH_ROWS: [f64; 12] =
    [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 50_000.0];
/// Classes of SQLSTATE that are shown before they first occur.
const CLASSES: [&str; 10] = ["connection", "08", "22", "23", "25", "40", "42", "53", "55", "57"];

/// What the sink exports, all its writers together.
#[derive(Clone)]
pub struct Metrics {
    rows: IntCounterVec,
    deleted: IntCounterVec,
    batches: IntCounterVec,
    batch_rows: Histogram,
    commit_seconds: Histogram,
    duplicates: IntCounter,
    conflicts: IntCounter,
    dead_letters: IntCounterVec,
    errors: IntCounterVec,
    /// Partitions lost to a newer epoch.
    pub fenced: IntCounter,
    /// Batches tried again after an outage.
    pub retries: IntCounter,
    /// Offsets that `--accept-gap` passed over.
    pub gap_offsets: IntCounter,
    /// Partitions that this sink has claimed and reads.
    pub partitions: IntGauge,
    latency: Histogram,
}

impl Metrics {
    /// Registers every series, at zero.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(registry: &Registry, config: &Config) -> prometheus::Result<Metrics> {
        let rows = counter_vec(
            registry,
            "caudal_sink_rows_committed_total",
            "Records stored, by table",
            &["table"],
        )?;
        let deleted = counter_vec(
            registry,
            "caudal_sink_rows_deleted_total",
            "Tombstones stored: records that took a row back, by table",
            &["table"],
        )?;
        for route in config.routes.values() {
            rows.with_label_values(&[&route.table.name]).reset();
            if route.deletes() {
                deleted.with_label_values(&[&route.table.name]).reset();
            }
        }
        rows.with_label_values(&[dead_letter::TABLE]).reset();
        let batches = counter_vec(
            registry,
            "caudal_sink_batches_total",
            "Database transactions committed; appended by COPY or through a staging table",
            &["path"],
        )?;
        for path in ["copy", "staging"] {
            batches.with_label_values(&[path]).reset();
        }
        let dead_letters = counter_vec(
            registry,
            "caudal_sink_dead_letters_total",
            "Records that the sink itself rejected, by reason",
            &["reason"],
        )?;
        for reason in Reason::ALL {
            dead_letters.with_label_values(&[reason.as_str()]).reset();
        }
        let errors = counter_vec(
            registry,
            "caudal_sink_errors_total",
            "Errors of the database by class of SQLSTATE (its first two characters)",
            &["sqlstate_class"],
        )?;
        for class in CLASSES {
            errors.with_label_values(&[class]).reset();
        }
        let batch_rows = Histogram::with_opts(
            HistogramOpts::new("caudal_sink_batch_rows", "Records in a committed batch")
                .buckets(BATCH_ROWS.to_vec()),
        )?;
        registry.register(Box::new(batch_rows.clone()))?;
        let count = |name, help| counter(registry, name, help);
        Ok(Metrics {
            rows,
            deleted,
            batches,
            batch_rows,
            commit_seconds: seconds(
                registry,
                "caudal_sink_commit_duration_seconds",
                "Duration of a database transaction from BEGIN to after COMMIT",
            )?,
            duplicates: count(
                "caudal_sink_duplicates_total",
                "Records whose key was stored before with equal contents",
            )?,
            conflicts: count(
                "caudal_sink_conflicts_total",
                "Records whose key was stored before with other contents",
            )?,
            dead_letters,
            errors,
            fenced: count(
                "caudal_sink_fenced_total",
                "Partitions of a batch that belonged to a newer epoch",
            )?,
            retries: count(
                "caudal_sink_retries_total",
                "Attempts to store a batch again after an outage",
            )?,
            gap_offsets: count(
                "caudal_sink_gap_offsets_total",
                "Offsets deleted from a topic before they were stored, and passed over (--accept-gap)",
            )?,
            partitions: gauge(
                registry,
                "caudal_sink_partitions",
                "Partitions that this sink has claimed and reads",
            )?,
            latency: seconds(
                registry,
                "caudal_end_to_end_latency_seconds",
                "From a record's append to its topic to its commit in PostgreSQL",
            )?,
        })
    }

    /// Counts an error of the database.
    pub fn failed(&self, fault: &Fault) {
        self.errors.with_label_values(&[fault.class()]).inc();
    }

    /// Counts a batch that was committed.
    pub fn committed(&self, batch: &Batch, stored: &Stored, took: Duration) {
        for (table, rows) in &stored.rows {
            self.rows.with_label_values(&[table]).inc_by(*rows);
        }
        for (table, rows) in &stored.deleted {
            self.deleted.with_label_values(&[table]).inc_by(*rows);
        }
        let path = if stored.staged { "staging" } else { "copy" };
        self.batches.with_label_values(&[path]).inc();
        stored.met.iter().for_each(|fault| self.failed(fault));
        self.batch_rows.observe(batch.records.len() as f64);
        self.commit_seconds.observe(took.as_secs_f64());
        self.duplicates.inc_by(stored.duplicates);
        self.conflicts.inc_by(stored.conflicts);
        for (reason, count) in &stored.dead {
            self.dead_letters.with_label_values(&[reason]).inc_by(*count);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for (_, record) in &batch.records {
            let appended = Duration::from_millis(u64::try_from(record.timestamp).unwrap_or(0));
            self.latency.observe(now.saturating_sub(appended).as_secs_f64());
        }
    }
}
