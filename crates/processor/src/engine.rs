//! What every task shares: plans, schemas, horizon, and the errors that halt.

use caudal_core::money::SumOverflow;
use caudal_core::row::RowSchema;
use caudal_core::schema::{self, Schemas};
use caudal_core::topics;
use caudal_query::plan::Plan;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// Which stage a task belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Stage 1: `transacciones`, by account.
    Account,
    /// Stage 2: `caudal_parciales`, by group.
    Group,
}

impl Stage {
    /// 1 or 2, as headers and blocks carry it.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Stage::Account => 1,
            Stage::Group => 2,
        }
    }

    /// The topic it reads.
    #[must_use]
    pub fn input(self) -> &'static str {
        match self {
            Stage::Account => topics::TRANSACCIONES,
            Stage::Group => topics::PARCIALES,
        }
    }
}

/// One stage's work for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Stage.
    pub stage: Stage,
    /// Partition.
    pub partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stage.number(), self.partition)
    }
}

/// A plan with what running it needs.
#[derive(Debug, Clone)]
pub struct Query {
    /// The plan.
    pub plan: Plan,
    /// Output topic.
    pub topic: Arc<str>,
    /// Topic of partials that came too late.
    pub late_topic: Arc<str>,
    /// Schema of the rows.
    pub row_schema: RowSchema,
    /// Its id.
    pub schema_id: u32,
}

impl Query {
    fn new(plan: Plan) -> Query {
        let row_schema = plan.row_schema();
        let schema_id = schema::id_of(&schema::sorted_json(&row_schema.to_json()));
        Query {
            topic: plan.name.as_str().into(),
            late_topic: plan.late_topic().into(),
            row_schema,
            schema_id,
            plan,
        }
    }
}

/// What every task shares.
#[derive(Debug)]
pub struct Shared {
    /// Number of partitions of every partitioned topic.
    pub partitions: i32,
    /// How long ids are remembered, in microseconds of event time.
    pub horizon: i64,
    /// Queries whose group contains the account.
    pub local: Vec<Query>,
    /// Queries that go through partials.
    pub global: Vec<Query>,
    /// Schema id of `Transaction`.
    pub transaction_schema: u32,
    /// Schema id of `ValidTransaction`.
    pub valid_schema: u32,
    /// Hash of queries, validation and horizon: state made under another one is not ours.
    pub fingerprint: [u8; 16],
    /// `caudal_estado`.
    pub state_topic: Arc<str>,
    /// `caudal_parciales`.
    pub partials_topic: Arc<str>,
    /// `transacciones_validas`.
    pub valid_topic: Arc<str>,
    /// `transacciones_dlq`.
    pub dead_letter_topic: Arc<str>,
    /// `transacciones`.
    pub input_topic: Arc<str>,
}

/// Raised when the meaning of validation or of a block's format changes.
const RULES_VERSION: u32 = 1;

impl Shared {
    /// For these plans.
    #[must_use]
    pub fn new(plans: Vec<Plan>, partitions: i32, horizon: i64) -> Shared {
        let schemas = Schemas::shipped();
        let described = format!("{RULES_VERSION} {partitions} {horizon} {plans:?}");
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&Sha256::digest(described.as_bytes())[..16]);
        let (local, global) = plans.into_iter().map(Query::new).partition(|q| q.plan.is_local());
        Shared {
            partitions,
            horizon,
            local,
            global,
            transaction_schema: schemas.transaction.id,
            valid_schema: schemas.valid.id,
            fingerprint,
            state_topic: topics::ESTADO.into(),
            partials_topic: topics::PARCIALES.into(),
            valid_topic: topics::VALIDAS.into(),
            dead_letter_topic: topics::DLQ.into(),
            input_topic: topics::TRANSACCIONES.into(),
        }
    }
}

/// Why a task cannot go on: never a single bad record, always something that must be looked at.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Money left the range of 128 bits.
    #[error("{at}: {cause}")]
    Overflow {
        /// topic-partition@offset.
        at: String,
        /// What happened.
        cause: SumOverflow,
    },
    /// Records of an internal topic are missing, doubled or not ours.
    #[error("{at}: {what}")]
    Broken {
        /// topic-partition@offset.
        at: String,
        /// What is wrong.
        what: String,
    },
}
