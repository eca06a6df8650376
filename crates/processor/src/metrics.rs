//! Metrics of the processor. Counters move only after the commit of what they count.

use caudal_core::reject::Reason;
use caudal_service::metrics::{counter, counter_vec, gauge, gauge_vec, seconds};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use std::collections::BTreeMap;

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
    dead_letters: IntCounterVec,
    late: IntCounter,
    partials: IntCounter,
    transactions: IntCounterVec,
    /// Seconds from begin to commit returned.
    pub commit_duration: Histogram,
    /// Seconds of pure processing per batch.
    pub process_duration: Histogram,
    /// Seconds from a task's assignment to its start.
    pub restore_duration: Histogram,
    /// Tasks by state.
    tasks: IntGaugeVec,
    /// Entries of state.
    pub state_entries: IntGauge,
    /// Records written per commit, outputs and blocks.
    pub outputs: IntCounter,
    /// Partitions touched by the last commit.
    pub partitions_touched: IntGauge,
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
            state_entries: gauge(
                r,
                "caudal_processor_state_entries",
                "Ids, panes and totals in memory",
            )?,
            outputs: counter(
                r,
                "caudal_processor_outputs_total",
                "Records written by committed transactions, state blocks included",
            )?,
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
    }

    /// Moves the counters by what a committed batch of stage 2 counted.
    pub fn group(&self, counts: &Counts) {
        self.partials.inc_by(counts.records_in);
        self.late.inc_by(counts.late);
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
