//! Output records with their headers: who wrote them, as the how-manieth, because of what.

use crate::shared::Query;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::headers;
use caudal_core::ledger::{read_count, write_count};
use caudal_core::outbox::{Origin, OutRecord, Outbox};
use caudal_query::group::{Change, row_key};
use std::sync::Arc;

/// Numbers a task's outputs, contiguously per topic-partition.
#[derive(Debug, Clone)]
pub struct Outputs {
    task: Arc<str>,
    /// Topic, partition and next number, in order. A dozen: a scan is faster than a tree, and most
    /// outputs go where the last one went.
    next: Vec<(Arc<str>, i32, u64)>,
    last: usize,
}

/// An output before it is numbered.
#[derive(Debug)]
pub struct Output<'a> {
    /// Topic.
    pub topic: &'a Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// The input record that caused it: partition and offset.
    pub source: (i32, i64),
    /// Further headers.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl Outputs {
    /// Of a task that has written nothing yet.
    #[must_use]
    pub fn new(task: &str) -> Outputs {
        Outputs { task: task.into(), next: Vec::new(), last: 0 }
    }

    /// The task's name, as in its records' headers.
    #[must_use]
    pub fn task(&self) -> &Arc<str> {
        &self.task
    }

    /// The next number for a topic-partition, which is then taken.
    fn number(&mut self, topic: &Arc<str>, partition: i32) -> u64 {
        let is_it = |(t, p, _): &(Arc<str>, i32, u64)| {
            *p == partition && (Arc::ptr_eq(t, topic) || **t == **topic)
        };
        if !self.next.get(self.last).is_some_and(is_it) {
            self.last = self.next.iter().position(is_it).unwrap_or_else(|| {
                let at = self.next.partition_point(|(t, p, _)| (&**t, *p) < (&**topic, partition));
                self.next.insert(at, (Arc::clone(topic), partition, 0));
                at
            });
        }
        let next = &mut self.next[self.last].2;
        *next += 1;
        *next - 1
    }

    /// Numbers an output and puts it into the outbox.
    pub fn emit(&mut self, outbox: &mut Outbox, output: Output<'_>) {
        let sequence = self.number(output.topic, output.partition);
        let (partition, offset) = output.source;
        let origin = Origin { task: Arc::clone(&self.task), sequence, partition, offset };
        outbox.records.push(OutRecord {
            topic: Arc::clone(output.topic),
            partition: output.partition,
            key: output.key,
            value: output.value,
            origin: Some(origin),
            headers: output.headers,
        });
    }

    /// Numbers a query's row, or the tombstone of one, and puts it into the outbox. Gives how many
    /// of its columns have no value and are NULL.
    pub fn emit_change(
        &mut self,
        outbox: &mut Outbox,
        query: &Query,
        version: u32,
        (topic, partition, source): (&Arc<str>, i32, (i32, i64)),
        change: &Change,
    ) -> u64 {
        let mut errors = Vec::new();
        let (group, start) = change.key();
        let value = match change {
            Change::Gone(..) => None,
            Change::Row(row) => {
                let values = query.plan.row(row, &mut errors);
                Some(query.row_schema.encode(query.schema_id, &values))
            }
        };
        for error in &errors {
            let query = &query.plan.name;
            tracing::debug!(query, %group, %error, "a column of this group's row is NULL");
        }
        let headers = match version {
            1 => Vec::new(),
            version => vec![(headers::VERSION, version.to_string().into_bytes())],
        };
        let key = Some(row_key(&query.plan, group, start));
        self.emit(outbox, Output { topic, partition, key, value, source, headers });
        errors.len() as u64
    }

    /// The next number of each topic-partition, in order.
    pub fn numbers(&self) -> impl Iterator<Item = (&Arc<str>, i32, u64)> {
        self.next.iter().map(|(topic, partition, next)| (topic, *partition, *next))
    }

    /// Puts the number of a topic-partition back; they come in order.
    pub fn restore(&mut self, topic: Arc<str>, partition: i32, next: u64) {
        self.next.push((topic, partition, next));
    }

    /// Writes the numbers into a state block.
    pub fn write(&self, out: &mut Writer) {
        write_count(out, self.next.len() as u64);
        for (topic, partition, next) in &self.next {
            out.string(topic);
            out.long(i64::from(*partition));
            write_count(out, *next);
        }
    }

    /// Reads them back.
    ///
    /// # Errors
    /// When the bytes are not such numbers.
    pub fn read(&mut self, input: &mut Reader<'_>) -> Result<(), AvroError> {
        self.next.clear();
        for _ in 0..input.length()? {
            let topic: Arc<str> = input.string()?.into();
            let partition = input.long()?;
            let partition = i32::try_from(partition).map_err(|_| input.error("partition"))?;
            self.next.push((topic, partition, read_count(input)?));
        }
        Ok(())
    }
}
