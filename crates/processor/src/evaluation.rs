//! Runs queries on a record: what tasks of `transacciones` and of other streams have in common.

use crate::metrics::Counts;
use crate::outputs::{Output, Outputs};
use crate::shared::{Query, Shared};
use crate::tables::Tables;
use caudal_core::headers;
use caudal_core::outbox::Outbox;
use caudal_core::partitioner::partition_of;
use caudal_query::group::Change;
use caudal_query::input::Input;
use caudal_sql::expr::EvalError;

/// What running a query needs of its task.
pub struct Evaluation<'a> {
    /// Numbers the outputs.
    pub outputs: &'a mut Outputs,
    /// What the batch counts.
    pub counts: &'a mut Counts,
    /// Where the outputs go.
    pub outbox: &'a mut Outbox,
    /// The task's partition.
    pub partition: i32,
    /// Key of the input record.
    pub key: Option<&'a [u8]>,
}

impl Evaluation<'_> {
    /// The record as a query reads it, with what it joins. `None`: the query does not take it.
    pub fn taken<'r>(
        &mut self,
        query: &Query,
        row: Input<'r>,
        tables: &'r Tables,
    ) -> Option<Input<'r>> {
        let joined = match self.joined(query, row, tables) {
            Ok(joined) => joined?,
            Err(error) => {
                self.errors(query, &row, &[error]);
                return None;
            }
        };
        match query.plan.takes(&joined) {
            Ok(takes) => takes.then_some(joined),
            Err(error) => {
                self.errors(query, &joined, &[error]);
                None
            }
        }
    }

    fn joined<'r>(
        &mut self,
        query: &Query,
        row: Input<'r>,
        tables: &'r Tables,
    ) -> Result<Option<Input<'r>>, EvalError> {
        let Some(join) = &query.plan.join else { return Ok(Some(row)) };
        let (key, place) = (query.plan.join_key(&row)?, query.table.unwrap_or(0));
        if let Some(found) = key.and_then(|key| tables.get(place, &key)) {
            return Ok(Some(row.joined(found)));
        }
        if join.left {
            return Ok(Some(row));
        }
        self.counts.unjoined += 1;
        Ok(None)
    }

    /// Expressions without a value: said in the query's own topic, once per record. The record
    /// itself is good, and goes on.
    pub fn errors(&mut self, query: &Query, row: &Input<'_>, errors: &[EvalError]) {
        if errors.is_empty() {
            return;
        }
        let what: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let transaction = row.valid().map(|valid| &*valid.transaction.transaction_id);
        self.error(query, row.position().offset, transaction, &what.join("; "));
    }

    /// What is wrong with a record, for a query's own topic of errors.
    pub fn error(&mut self, query: &Query, offset: i64, transaction: Option<&str>, what: &str) {
        let Some(topic) = query.errors_topic.as_ref() else { return };
        self.counts.query_errors += 1;
        let mut value = serde_json::json!({
            "query": query.plan.name,
            "error": what,
            "partition": self.partition,
            "offset": offset,
        });
        if let (Some(id), Some(value)) = (transaction, value.as_object_mut()) {
            value.insert("transaction_id".into(), id.into());
        }
        self.outputs.emit(
            self.outbox,
            Output {
                topic,
                partition: self.partition,
                key: self.key.map(<[u8]>::to_vec),
                value: Some(value.to_string().into_bytes()),
                source: (self.partition, offset),
                headers: Vec::new(),
            },
        );
    }

    /// What became of a group's row.
    pub fn change(&mut self, query: &Query, version: u32, offset: i64, change: &Change) {
        let to = (&query.topic, self.partition, (self.partition, offset));
        self.counts.query_errors +=
            self.outputs.emit_change(self.outbox, query, version, to, change);
    }

    /// The output of a record that a `CREATE STREAM … AS SELECT` takes. It stays in its partition
    /// unless its key is another one, or it comes from a topic that is partitioned otherwise.
    pub fn stream_row(&mut self, shared: &Shared, query: &Query, row: &Input<'_>) {
        let mut errors = Vec::new();
        let output = query.plan.stream_row(row, &mut errors);
        self.errors(query, row, &errors);
        let stays = query.source.is_none() && !query.plan.repartitions();
        let partition = match output.key.as_deref().filter(|_| !stays) {
            Some(key) => partition_of(key, shared.partitions),
            None => self.partition.rem_euclid(shared.partitions),
        };
        let rowtime = row.event_time().to_string().into_bytes();
        self.outputs.emit(
            self.outbox,
            Output {
                topic: &query.topic,
                partition,
                key: output.key,
                value: Some(query.row_schema.encode(query.schema_id, &output.cells)),
                source: (self.partition, row.position().offset),
                headers: vec![(headers::ROWTIME, rowtime)],
            },
        );
    }
}
