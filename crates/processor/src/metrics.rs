//! Metrics of the processor. Counters move only after the commit of what they count.

use crate::shared::Shared;
use caudal_core::outbox::Outbox;
use caudal_core::reject::Reason;
use caudal_service::metrics::{counter, counter_vec, gauge, gauge_vec, seconds};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use std::collections::{BTreeMap, BTreeSet};

/// What a batch counted, per task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub records_in: u64,
    /// Records that passed.
    pub valid: u64,
    /// Records seen before.
    pub duplicate: u64,
    /// Records moved to their key's partition.
    pub rerouted: u64,
    /// Records (stage 1) or partials (stage 2) that missed a window.
    pub late: u64,
    /// Records that a join left out, because the reference table has no row for them.
    pub unjoined: u64,
    /// Partials of a query that was dropped or changed since they were sent.
    pub stale: u64,
    /// Records of another stream that are not what it declares.
    pub unreadable: u64,
    /// Records or rows for which an expression of a query has no value.
    pub query_errors: u64,
    /// Dead letters.
    pub dead: BTreeMap<Reason, u64>,
}

impl Counts {
    /// Counts a dead letter.
    pub fn reject(&mut self, reason: Reason) {
        *self.dead.entry(reason).or_default() += 1;
    }
}

/// The registered metrics.
#[derive(Debug)]
pub struct Metrics {
    records: IntCounterVec,
    source_records: IntCounterVec,
    dead_letters: IntCounterVec,
    late: IntCounter,
    partials: IntCounter,
    stale: IntCounter,
    unjoined: IntCounter,
    query_errors: IntCounter,
    restore_records: IntCounter,
    restore_bytes: IntCounter,
    /// Records of the state log still to read.
    pub restore_left: IntGauge,
    state_bytes: IntGaugeVec,
    watermark_lag: IntGaugeVec,
    transactions: IntCounterVec,
    /// Seconds from begin to commit returned.
    pub commit_duration: Histogram,
    /// Seconds of pure processing per batch.
    pub process_duration: Histogram,
    /// Seconds from a task's assignment to its start.
    pub restore_duration: Histogram,
    /// Tasks by state.
    tasks: IntGaugeVec,
    state_entries: IntGaugeVec,
    outputs: IntCounterVec,
    rerouted: IntCounter,
    partitions_touched: IntGauge,
    /// Rebalances that changed the assignment.
    pub rebalances: IntCounter,
}

impl Metrics {
    /// Registers them all, every label set at zero.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(r: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            records: counter_vec(
                r,
                "caudal_processor_records_total",
                "Input records of stage 1 by outcome, counted after commit",
                &["outcome"],
            )?,
            source_records: counter_vec(
                r,
                "caudal_processor_source_records_total",
                "Records of streams beside transacciones by topic and outcome, counted after commit",
                &["topic", "outcome"],
            )?,
            dead_letters: counter_vec(
                r,
                "caudal_dlq_records_total",
                "Dead letters by reason, counted after commit",
                &["reason"],
            )?,
            late: counter(
                r,
                "caudal_processor_late_records_total",
                "Records or partials left out of a closed window; they are kept",
            )?,
            partials: counter(
                r,
                "caudal_processor_partials_total",
                "Records of partials merged by stage 2",
            )?,
            transactions: counter_vec(
                r,
                "caudal_processor_transactions_total",
                "Kafka transactions by result",
                &["result"],
            )?,
            commit_duration: seconds(
                r,
                "caudal_processor_commit_duration_seconds",
                "From begin_transaction to commit returned",
            )?,
            process_duration: seconds(
                r,
                "caudal_processor_process_duration_seconds",
                "Pure processing of one batch",
            )?,
            restore_duration: seconds(
                r,
                "caudal_processor_restore_duration_seconds",
                "From a task's assignment until it reads input",
            )?,
            tasks: gauge_vec(
                r,
                "caudal_processor_tasks",
                "Tasks of this instance by state",
                &["state"],
            )?,
            restore_records: counter(
                r,
                "caudal_processor_restore_records_total",
                "Records of the state log read to restore tasks",
            )?,
            restore_bytes: counter(
                r,
                "caudal_processor_restore_bytes_total",
                "Bytes of the state log read to restore tasks",
            )?,
            restore_left: gauge(
                r,
                "caudal_processor_restore_remaining_records",
                "Offsets of the state log still to read before every task runs",
            )?,
            state_entries: gauge_vec(
                r,
                "caudal_processor_state_entries",
                "Ids, panes and totals in memory by query (dedup: the ids)",
                &["query"],
            )?,
            state_bytes: gauge_vec(
                r,
                "caudal_processor_state_bytes",
                "Bytes of state in memory by query (dedup: the ids), as estimated",
                &["query"],
            )?,
            watermark_lag: gauge_vec(
                r,
                "caudal_processor_watermark_lag_seconds",
                "Event time from a query's watermark to the newest source partition, while windows \
                 wait for an older one; 0 when none waits",
                &["query"],
            )?,
            stale: counter(
                r,
                "caudal_processor_stale_partials_total",
                "Partials of a query that was dropped or changed since they were sent",
            )?,
            unjoined: counter(
                r,
                "caudal_processor_unjoined_records_total",
                "Records that a join left out for want of a row in the reference table",
            )?,
            query_errors: counter(
                r,
                "caudal_processor_query_errors_total",
                "Records and rows for which an expression of a query has no value",
            )?,
            outputs: counter_vec(
                r,
                "caudal_processor_outputs_total",
                "Records written by committed transactions by topic, state blocks included",
                &["topic"],
            )?,
            rerouted: IntCounter::new("rerouted", "records moved to their key's partition")?,
            partitions_touched: gauge(
                r,
                "caudal_processor_partitions_touched",
                "Partitions written by the last commit",
            )?,
            rebalances: counter(
                r,
                "caudal_processor_rebalances_total",
                "Changes of this instance's assignment",
            )?,
        };
        metrics.state("dedup", 0, 0);
        for outcome in ["ok", "duplicate", "rerouted", "dlq"] {
            metrics.records.with_label_values(&[outcome]).inc_by(0);
        }
        for result in ["committed", "aborted", "doubtful"] {
            metrics.transactions.with_label_values(&[result]).inc_by(0);
        }
        for reason in Reason::ALL {
            metrics.dead_letters.with_label_values(&[reason.as_str()]).inc_by(0);
        }
        metrics.tasks(0, 0);
        Ok(metrics)
    }

    /// Moves the counters by what a committed batch of stage 1 counted.
    pub fn account(&self, counts: &Counts) {
        let add = |outcome: &str, n: u64| self.records.with_label_values(&[outcome]).inc_by(n);
        add("ok", counts.valid);
        add("duplicate", counts.duplicate);
        add("rerouted", counts.rerouted);
        for (reason, n) in &counts.dead {
            add("dlq", *n);
            self.dead_letters.with_label_values(&[reason.as_str()]).inc_by(*n);
        }
        self.late.inc_by(counts.late);
        self.unjoined.inc_by(counts.unjoined);
        self.query_errors.inc_by(counts.query_errors);
    }

    /// Counts what a task of another stream did.
    pub fn source(&self, topic: &str, counts: &Counts) {
        let add = |outcome: &str, n: u64| {
            self.source_records.with_label_values(&[topic, outcome]).inc_by(n);
        };
        add("ok", counts.records_in - counts.unreadable);
        add("unreadable", counts.unreadable);
        self.late.inc_by(counts.late);
        self.unjoined.inc_by(counts.unjoined);
        self.query_errors.inc_by(counts.query_errors);
    }

    /// Moves the counters by what a committed batch of stage 2 counted.
    pub fn group(&self, counts: &Counts) {
        self.query_errors.inc_by(counts.query_errors);
        self.partials.inc_by(counts.records_in);
        self.late.inc_by(counts.late);
        self.stale.inc_by(counts.stale);
    }

    /// Counts a committed txn and what it wrote.
    pub fn committed(&self, outbox: &Outbox, shared: &Shared) {
        self.transaction("committed");
        let mut written: BTreeMap<&str, u64> = BTreeMap::new();
        let mut partitions = BTreeSet::new();
        for record in &outbox.records {
            *written.entry(&record.topic).or_default() += 1;
            partitions.insert((&*record.topic, record.partition));
        }
        for (topic, count) in &written {
            self.outputs.with_label_values(&[topic]).inc_by(*count);
        }
        self.rerouted.inc_by(written.get(&*shared.input_topic).copied().unwrap_or(0));
        self.partitions_touched.set(i64::try_from(partitions.len()).unwrap_or(0));
    }

    /// Records moved to their key's partition so far.
    #[must_use]
    pub fn rerouted(&self) -> u64 {
        self.rerouted.get()
    }

    /// Counts what was read of the state log.
    pub fn restored(&self, records: u64, bytes: u64) {
        self.restore_records.inc_by(records);
        self.restore_bytes.inc_by(bytes);
    }

    /// Sets the size of a query's state.
    pub fn state(&self, query: &str, keys: usize, bytes: usize) {
        let set = |gauge: &IntGaugeVec, value: usize| {
            gauge.with_label_values(&[query]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.state_entries, keys);
        set(&self.state_bytes, bytes);
    }

    /// Sets how far a query's watermark is behind, in microseconds of event time.
    pub fn watermark_lag(&self, query: &str, lag: i64) {
        self.watermark_lag.with_label_values(&[query]).set(lag / 1_000_000);
    }

    /// Counts a txn by its result: committed, aborted or doubtful.
    pub fn transaction(&self, result: &str) {
        self.transactions.with_label_values(&[result]).inc();
    }

    /// Sets the number of tasks by state.
    pub fn tasks(&self, running: usize, restoring: usize) {
        let set = |state: &str, n: usize| {
            self.tasks.with_label_values(&[state]).set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        set("running", running);
        set("restoring", restoring);
    }
}
