//! Runs the queries on a valid record.

use super::AccountTask;
use crate::outputs::Output;
use crate::shared::Query;
use crate::tables::Tables;
use caudal_core::avro::{self, Writer};
use caudal_core::decode::Record;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::Outbox;
use caudal_core::transaction::ValidTransaction;
use caudal_query::group::Row;
use caudal_query::input::Input;
use caudal_sql::expr::EvalError;
use std::sync::Arc;

impl AccountTask {
    /// Runs the queries on a new valid record and emits it.
    pub(super) fn accept(
        &mut self,
        record: &Record,
        valid: &ValidTransaction<'_>,
        tables: &Tables,
        outbox: &mut Outbox,
    ) -> Result<(), SumOverflow> {
        let shared = Arc::clone(&self.shared);
        self.at.stream_time = self.at.stream_time.max(valid.transaction.event_time);
        let mut late_for: Vec<&str> = Vec::new();
        let row = Input::new(valid, record.partition, record.offset);
        for (place, query) in shared.local.iter().enumerate() {
            let Some(row) = self.taken(query, row, tables, outbox) else { continue };
            let panes = &mut self.panes[place];
            let added = panes.add(&query.plan, &row, self.at.stream_time)?;
            if added.late {
                late_for.push(&query.plan.name);
            }
            for row in added.first_rows {
                self.emit_row(place, query, &row, record.offset, outbox);
            }
            self.emit_errors(query, &row, &added.errors, outbox);
        }
        for (place, query) in shared.global.iter().enumerate() {
            let Some(row) = self.taken(query, row, tables, outbox) else { continue };
            let taken = self.partials[place].add(&query.plan, &row, self.at.stream_time)?;
            if taken.late {
                late_for.push(&query.plan.name);
            }
            self.emit_errors(query, &row, &taken.errors, outbox);
        }
        for query in &late_for {
            *self.at.ledger.late.entry((*query).to_owned()).or_default() += 1;
            self.counts.late += 1;
        }
        let mut value = Writer::framed(shared.valid_schema);
        avro::write_transaction(&mut value, &valid.transaction);
        avro::write_strings(&mut value, late_for.iter().copied());
        self.at.outputs.emit(
            outbox,
            Output {
                topic: &shared.valid_topic,
                partition: self.id.partition,
                key: Some(valid.transaction.account_id.as_bytes().to_vec()),
                value: Some(value.into_bytes()),
                source: (record.partition, record.offset),
                headers: Vec::new(),
            },
        );
        Ok(())
    }

    /// The record as a query reads it, with what it joins. `None`: the query does not take it.
    fn taken<'r>(
        &mut self,
        query: &Query,
        row: Input<'r>,
        tables: &'r Tables,
        outbox: &mut Outbox,
    ) -> Option<Input<'r>> {
        let joined = match self.joined(query, row, tables) {
            Ok(joined) => joined?,
            Err(error) => {
                self.emit_errors(query, &row, &[error], outbox);
                return None;
            }
        };
        match query.plan.takes(&joined) {
            Ok(takes) => takes.then_some(joined),
            Err(error) => {
                self.emit_errors(query, &joined, &[error], outbox);
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
        let key = query.plan.join_key(&row)?;
        if let Some(found) = key.and_then(|key| tables.get(&key)) {
            return Ok(Some(row.joined(found)));
        }
        if join.left {
            return Ok(Some(row));
        }
        self.counts.unjoined += 1;
        Ok(None)
    }

    /// An expression without a value: said in the query's own topic, once per record. The record
    /// itself is valid, and goes on.
    fn emit_errors(
        &mut self,
        query: &Query,
        row: &Input<'_>,
        errors: &[EvalError],
        outbox: &mut Outbox,
    ) {
        let Some(topic) = query.errors_topic.as_ref().filter(|_| !errors.is_empty()) else {
            return;
        };
        self.counts.query_errors += 1;
        let what: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let (transaction, position) = (&row.valid().transaction, row.position());
        let value = serde_json::json!({
            "query": query.plan.name,
            "error": what.join("; "),
            "transaction_id": transaction.transaction_id,
            "partition": position.partition,
            "offset": position.offset,
        });
        self.at.outputs.emit(
            outbox,
            Output {
                topic,
                partition: self.id.partition,
                key: Some(transaction.account_id.as_bytes().to_vec()),
                value: Some(value.to_string().into_bytes()),
                source: (position.partition, position.offset),
                headers: Vec::new(),
            },
        );
    }

    pub(super) fn emit_row(
        &mut self,
        place: usize,
        query: &Query,
        row: &Row,
        offset: i64,
        outbox: &mut Outbox,
    ) {
        let to = (&query.topic, self.id.partition, (self.id.partition, offset));
        let version = self.plans.version(place);
        self.counts.query_errors += self.at.outputs.emit_row(outbox, query, version, to, row);
    }
}
