//! Runs the queries on a valid record.

use super::AccountTask;
use crate::evaluation::Evaluation;
use crate::outputs::Output;
use crate::tables::Tables;
use caudal_core::avro::{self, Writer};
use caudal_core::decode::Record;
use caudal_core::money::SumOverflow;
use caudal_core::outbox::Outbox;
use caudal_core::transaction::ValidTransaction;
use caudal_query::group::Change;
use caudal_query::input::Input;
use std::sync::Arc;

impl AccountTask {
    pub(super) fn evaluation<'a>(
        &'a mut self,
        key: Option<&'a [u8]>,
        outbox: &'a mut Outbox,
    ) -> Evaluation<'a> {
        let (outputs, counts) = (&mut self.at.outputs, &mut self.counts);
        Evaluation { outputs, counts, outbox, partition: self.id.partition, key }
    }

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
        let account = valid.transaction.account_id.as_bytes();
        let mut evaluation = Evaluation {
            outputs: &mut self.at.outputs,
            counts: &mut self.counts,
            outbox,
            partition: self.id.partition,
            key: Some(account),
        };
        for (place, query) in shared.local.iter().enumerate() {
            let Some(row) = evaluation.taken(query, row, tables) else { continue };
            let added = self.panes[place].add(&query.plan, &row, self.at.stream_time)?;
            if added.late {
                late_for.push(&query.plan.name);
            }
            let version = self.plans.version(place);
            for row in added.first_rows {
                evaluation.change(query, version, record.offset, &Change::Row(row));
            }
            evaluation.errors(query, &row, &added.errors);
        }
        for (place, query) in shared.global.iter().enumerate() {
            if query.source.is_some() {
                continue;
            }
            let Some(row) = evaluation.taken(query, row, tables) else { continue };
            let taken = self.partials[place].add(&query.plan, &row, self.at.stream_time)?;
            if taken.late {
                late_for.push(&query.plan.name);
            }
            evaluation.errors(query, &row, &taken.errors);
        }
        for query in shared.streams.iter().filter(|query| query.source.is_none()) {
            if let Some(row) = evaluation.taken(query, row, tables) {
                evaluation.stream_row(&shared, query, &row);
            }
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
                key: Some(account.to_vec()),
                value: Some(value.into_bytes()),
                source: (record.partition, record.offset),
                headers: Vec::new(),
            },
        );
        Ok(())
    }
}
