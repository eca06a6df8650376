//! What every task shares: plans, schemas, horizon, limits, and the errors that halt.

use caudal_core::money::SumOverflow;
use caudal_core::row::RowSchema;
use caudal_core::schema::Schemas;
use caudal_core::topics;
use caudal_kafka::TopicPartition;
use caudal_query::plan::{Plan, PlanFingerprint};
use caudal_query::stream::Stream;
use caudal_sql::catalog::Source;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Which stage a task belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Stage 1: `transacciones`, by account.
    Account,
    /// Stage 1 of another stream: its place in [`Shared::sources`].
    Source(u8),
    /// Stage 2: `caudal_parciales`, by group.
    Group,
}

/// One stage's work for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Stage.
    pub stage: Stage,
    /// Partition.
    pub partition: i32,
}

impl TaskId {
    /// Whether its state is in the state log; that of the others is beside their position.
    #[must_use]
    pub fn has_log(self) -> bool {
        !matches!(self.stage, Stage::Source(_))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Account => write!(f, "1-{}", self.partition),
            Stage::Group => write!(f, "2-{}", self.partition),
            Stage::Source(place) => write!(f, "1.{place}-{}", self.partition),
        }
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
    /// Topic of records for which an expression has no value, where that can be.
    pub errors_topic: Option<Arc<str>>,
    /// Schema of the rows.
    pub row_schema: RowSchema,
    /// Its id.
    pub schema_id: u32,
    /// Identity of the definition: state and partials made under another one are not its own.
    pub fingerprint: PlanFingerprint,
    /// Place of the stream that it reads in [`Shared::sources`]; `None`: `transacciones_validas`.
    pub source: Option<u8>,
    /// Place of the table that it joins in [`Shared::tables`].
    pub table: Option<usize>,
}

/// A table that queries join.
#[derive(Debug)]
pub struct Reference {
    /// Its declaration.
    pub source: Arc<Source>,
    /// Number of its topic's partitions.
    pub partitions: i32,
}

/// A topic that queries read beside `transacciones`.
#[derive(Debug)]
pub struct SourceTopic {
    /// Its name.
    pub topic: Arc<str>,
    /// How its records are read: all queries over a topic read the same stream.
    pub stream: Stream,
    /// Number of its partitions.
    pub partitions: i32,
}

impl Query {
    fn new(plan: Plan, source: Option<u8>, table: Option<usize>) -> Query {
        Query {
            topic: plan.name.as_str().into(),
            late_topic: plan.late_topic().into(),
            errors_topic: plan.errors_topic().map(Into::into),
            row_schema: plan.row_schema().clone(),
            schema_id: plan.schema_id(),
            fingerprint: plan.fingerprint(),
            source,
            table,
            plan,
        }
    }
}

/// Sizes at which things are split or stopped, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Entries of one part of a state block (exceeded by one entry): parts stay below 1 MiB.
    pub block_part: usize,
    /// Partials in one record of `caudal_parciales` (exceeded by one partial).
    pub partials: usize,
    /// Outputs of one commit: what is processed after that waits for the next. A quarter of the
    /// producer's queue, because partials and state blocks come on top.
    pub outbox: usize,
    /// Output records of one commit.
    pub outbox_records: usize,
    /// Bytes of state blocks in a partition between two cuts of the log. A cut takes a moment, and
    /// waits for the other stage's sweep: until then as many again may come.
    pub cut_after: u64,
    /// Stage 2 is told the stream time whenever it enters another slice of this many microseconds.
    pub granule: i64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            block_part: 768 * 1024,
            partials: 256 * 1024,
            outbox: 16 * 1024 * 1024,
            outbox_records: 200_000,
            cut_after: 2 * 1024 * 1024,
            granule: 10 * caudal_core::time::SECOND,
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
    /// Queries that give a row for each record.
    pub streams: Vec<Query>,
    /// Topics that are read beside `transacciones`.
    pub sources: Vec<SourceTopic>,
    /// Tables that queries join.
    pub tables: Vec<Reference>,
    /// Schema id of `Transaction`.
    pub transaction_schema: u32,
    /// Schema id of `ValidTransaction`.
    pub valid_schema: u32,
    /// Hash of validation rules, block format and horizon.
    pub rules: [u8; 16],
    /// Queries that may start again empty although their definition changed.
    pub reset_queries: Vec<String>,
    /// Whether changed rules are accepted from here on.
    pub adopt_rules: bool,
    /// Sizes.
    pub sizes: Sizes,
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
const RULES_VERSION: u32 = 3;

impl Shared {
    /// For these plans.
    #[must_use]
    pub fn new(plans: Vec<Plan>, partitions: i32, horizon: i64) -> Shared {
        let schemas = Schemas::shipped();
        let mut rules = [0; 16];
        let described = format!("{RULES_VERSION} {horizon}");
        rules.copy_from_slice(&Sha256::digest(described.as_bytes())[..16]);
        let mut sources: Vec<SourceTopic> = Vec::new();
        let mut tables: Vec<Reference> = Vec::new();
        let of = |plan: Plan| {
            let source = plan.stream.as_ref().map(|stream| {
                let topic = stream.source.topic.as_str();
                let known = sources.iter().position(|source| *source.topic == *topic);
                let place = known.unwrap_or(sources.len());
                if known.is_none() {
                    let (topic, stream) = (topic.into(), stream.clone());
                    sources.push(SourceTopic { topic, stream, partitions: 1 });
                }
                // There are at most 31 queries.
                u8::try_from(place).unwrap_or(u8::MAX)
            });
            let joined = plan.join.as_ref().map(|join| &join.table);
            let table = joined.map(|joined| {
                let known = tables.iter().position(|table| table.source.name == joined.name);
                known.unwrap_or_else(|| {
                    tables.push(Reference { source: Arc::clone(joined), partitions: 1 });
                    tables.len() - 1
                })
            });
            Query::new(plan, source, table)
        };
        let all: Vec<Query> = plans.into_iter().map(of).collect();
        let (streams, groups): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|query| query.plan.is_stream());
        let (local, global) = groups.into_iter().partition(|query| query.plan.is_local());
        Shared {
            partitions,
            horizon,
            local,
            global,
            streams,
            sources,
            tables,
            transaction_schema: schemas.transaction.id,
            valid_schema: schemas.valid.id,
            rules,
            reset_queries: Vec::new(),
            adopt_rules: false,
            sizes: Sizes::default(),
            state_topic: topics::ESTADO.into(),
            partials_topic: topics::PARCIALES.into(),
            valid_topic: topics::VALIDAS.into(),
            dead_letter_topic: topics::DLQ.into(),
            input_topic: topics::TRANSACCIONES.into(),
        }
    }

    /// The queries that a stage keeps a place for in its blocks: all that have state in stage 1,
    /// which decides lateness for each; those that go through partials in stage 2.
    pub fn queries(&self, stage: Stage) -> impl Iterator<Item = &Query> {
        let local = if stage == Stage::Account { &self.local[..] } else { &[] };
        local.iter().chain(&self.global)
    }

    /// All queries.
    pub fn all(&self) -> impl Iterator<Item = &Query> {
        self.queries(Stage::Account).chain(&self.streams)
    }

    /// The topic that a stage reads.
    #[must_use]
    pub fn topic_of(&self, stage: Stage) -> &Arc<str> {
        match stage {
            Stage::Account => &self.input_topic,
            Stage::Group => &self.partials_topic,
            Stage::Source(place) => &self.sources[usize::from(place)].topic,
        }
    }

    /// The topic that a query reads.
    #[must_use]
    pub fn source_of(&self, query: &Query) -> &Arc<str> {
        self.topic_of(query.source.map_or(Stage::Account, Stage::Source))
    }

    /// The partition that a task reads.
    #[must_use]
    pub fn input_of(&self, id: TaskId) -> TopicPartition {
        (Arc::clone(self.topic_of(id.stage)), id.partition)
    }

    /// The task that reads a partition.
    #[must_use]
    pub fn reading(&self, topic: &str, partition: i32) -> TaskId {
        let source = || self.sources.iter().position(|source| *source.topic == *topic);
        let stage = match topic {
            _ if *topic == *self.input_topic => Stage::Account,
            _ if *topic == *self.partials_topic => Stage::Group,
            _ => source().and_then(|at| u8::try_from(at).ok()).map_or(Stage::Group, Stage::Source),
        };
        TaskId { stage, partition }
    }

    /// The task's name in headers and in the log.
    #[must_use]
    pub fn name_of(&self, id: TaskId) -> String {
        match id.stage {
            Stage::Source(_) => format!("{}-{}", self.topic_of(id.stage), id.partition),
            _ => id.to_string(),
        }
    }

    /// The idle time-outs of the queries, ascending, each once, in microseconds.
    #[must_use]
    pub fn idle_timeouts(&self) -> Vec<i64> {
        let set: BTreeSet<i64> = self.global.iter().filter_map(|q| q.plan.idle_timeout).collect();
        set.into_iter().collect()
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
