//! What stage 1 tells stage 2: partials, stream time, idleness. One record per partition that there
//! is something to tell, whatever the number of groups.

use crate::outputs::{Output, Outputs};
use crate::shared::Shared;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::ledger::write_count;
use caudal_core::outbox::Outbox;
use caudal_core::partitioner::partition_of;
use caudal_query::partials::{Partial, Partials, RawPartial};
use caudal_query::plan::PlanFingerprint;

/// How a source partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Highest event time of a valid record, in microseconds; `i64::MIN` before the first.
    pub stream_time: i64,
    /// For how many microseconds it had been silent, at its confirmed end, when that was declared;
    /// 0 when it is not idle.
    pub idle: i64,
}

/// A record of `caudal_parciales`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The source topic; `None`: `transacciones`.
    pub topic: Option<&'a str>,
    /// The source partition.
    pub partition: i32,
    /// How it stands after these partials. `None` in all records of a commit but the last: the
    /// stream time must not close a window whose partials are still to come.
    pub source: Option<Source>,
    /// Partials by query.
    pub partials: Vec<(PlanFingerprint, Vec<RawPartial<'a>>)>,
}

impl<'a> Message<'a> {
    /// A negative number says that a topic's name follows.
    fn begin(topic: Option<&str>, partition: i32) -> Writer {
        let mut out = Writer::new();
        match topic {
            None => out.long(i64::from(partition)),
            Some(topic) => {
                out.long(-1 - i64::from(partition));
                out.string(topic);
            }
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// When the bytes are not such a record.
    pub fn read(value: &'a [u8]) -> Result<Message<'a>, AvroError> {
        let mut input = Reader::new(value);
        let partition = input.long()?;
        let (partition, topic) = match partition < 0 {
            false => (partition, None),
            true => (-1 - partition, Some(input.string()?)),
        };
        let partition = i32::try_from(partition).map_err(|_| input.error("source partition"))?;
        let mut partials = Vec::new();
        for _ in 0..input.length()? {
            let fingerprint = input.bytes()?.try_into().map_err(|_| input.error("query"))?;
            let count = input.length()?;
            let read: Result<Vec<RawPartial<'_>>, _> =
                (0..count).map(|_| RawPartial::read(&mut input)).collect();
            partials.push((fingerprint, read?));
        }
        let source = match input.boolean()? {
            true => Some(Source { stream_time: input.long()?, idle: input.long()? }),
            false => None,
        };
        input.end()?;
        Ok(Message { topic, partition, source, partials })
    }
}

/// Values of the records to one partition: runs of partials of one query each, split by size.
fn values(
    (topic, partition): (Option<&str>, i32),
    source: Source,
    partials: &[(PlanFingerprint, Vec<Partial>)],
    limit: usize,
) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut runs: Vec<(PlanFingerprint, u64, Writer)> = Vec::new();
    let mut bytes = 0;
    let close = |runs: &mut Vec<(PlanFingerprint, u64, Writer)>, source: Option<Source>| {
        let mut out = Message::begin(topic, partition);
        write_count(&mut out, runs.len() as u64);
        let mut value = out.into_bytes();
        for (fingerprint, count, run) in runs.drain(..) {
            let mut head = Writer::new();
            head.bytes(&fingerprint);
            write_count(&mut head, count);
            value.extend_from_slice(&head.into_bytes());
            value.extend_from_slice(&run.into_bytes());
        }
        let mut tail = Writer::new();
        tail.boolean(source.is_some());
        if let Some(source) = source {
            tail.long(source.stream_time);
            tail.long(source.idle);
        }
        value.extend_from_slice(&tail.into_bytes());
        value
    };
    for (fingerprint, list) in partials {
        for partial in list {
            if bytes >= limit {
                values.push(close(&mut runs, None));
                bytes = 0;
            }
            if runs.last().is_none_or(|(last, ..)| last != fingerprint) {
                runs.push((*fingerprint, 0, Writer::new()));
            }
            if let Some((_, count, run)) = runs.last_mut() {
                let before = run.len();
                partial.write(run);
                *count += 1;
                bytes += run.len() - before;
            }
        }
    }
    values.push(close(&mut runs, Some(source)));
    values
}

/// What a stage-1 task tells stage 2 at the end of a batch.
pub struct Telling<'a> {
    /// What every task shares.
    pub shared: &'a Shared,
    /// The source topic; `None`: `transacciones`.
    pub topic: Option<&'a str>,
    /// The source partition.
    pub partition: i32,
    /// How it stands.
    pub source: Source,
    /// The last offset of the batch.
    pub offset: i64,
    /// Whether every partition must know.
    pub tell_all: bool,
}

impl Telling<'_> {
    /// Sends this commit's partials, and the stream time to every partition that gets some, or
    /// that was last told in another granule.
    pub fn send(
        &self,
        partials: &mut [Partials],
        told: &mut [i64],
        outputs: &mut Outputs,
        outbox: &mut Outbox,
    ) {
        let (shared, stream_time) = (self.shared, self.source.stream_time);
        let granule = stream_time.div_euclid(shared.sizes.granule);
        let packed = pack(shared, partials, told.len());
        for (home, partials) in packed.into_iter().enumerate() {
            let is_old = stream_time != i64::MIN && told[home] != granule;
            if partials.is_empty() && !is_old && !self.tell_all {
                continue;
            }
            told[home] = granule;
            let from = (self.topic, self.partition);
            for value in values(from, self.source, &partials, shared.sizes.partials) {
                outputs.emit(
                    outbox,
                    Output {
                        topic: &shared.partials_topic,
                        partition: i32::try_from(home).unwrap_or(0),
                        key: Some(outputs.task().as_bytes().to_vec()),
                        value: Some(value),
                        source: (self.partition, self.offset),
                        headers: Vec::new(),
                    },
                );
            }
        }
    }
}

/// The partials by the partition of their group.
fn pack(
    shared: &Shared,
    partials: &mut [Partials],
    count: usize,
) -> Vec<Vec<(PlanFingerprint, Vec<Partial>)>> {
    let mut packed: Vec<Vec<(PlanFingerprint, Vec<Partial>)>> = vec![Vec::new(); count];
    for (query, partials) in shared.global.iter().zip(partials) {
        for partial in partials.take() {
            let home = partition_of(partial.group.as_bytes(), shared.partitions);
            let Some(runs) = packed.get_mut(usize::try_from(home).unwrap_or(0)) else { continue };
            if runs.last().is_none_or(|(last, _)| *last != query.fingerprint) {
                runs.push((query.fingerprint, Vec::new()));
            }
            if let Some((_, run)) = runs.last_mut() {
                run.push(partial);
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::aggregate::Accumulator;
    use caudal_query::plan::shipped_one;
    use caudal_query::values::Values;

    #[test]
    fn only_the_last_record_of_a_commit_moves_the_stream_time() {
        let partial = |pane: i64| Partial {
            group: "[\"m\",\"EUR\"]".into(),
            pane,
            from: pane,
            values: Values::Amount(Accumulator::of(pane.into())),
        };
        let partials = vec![([1; 8], (0..5).map(partial).collect()), ([2; 8], vec![partial(9)])];
        let source = Source { stream_time: 7, idle: 0 };
        for topic in [None, Some("otro")] {
            check(topic, source, &partials);
        }
    }

    fn check(topic: Option<&str>, source: Source, partials: &[(PlanFingerprint, Vec<Partial>)]) {
        let values = values((topic, 3), source, partials, 30);
        assert!(values.len() > 1);
        let plan = shipped_one("ventas_gold");
        let read: Vec<Message> =
            values.iter().map(|v| Message::read(v).expect("message")).collect();
        let all: Vec<(PlanFingerprint, Partial)> = read
            .iter()
            .flat_map(|m| &m.partials)
            .flat_map(|(f, list)| list.iter().map(|p| (*f, p.clone().of(&plan).expect("values"))))
            .collect();
        let sent: Vec<(PlanFingerprint, Partial)> =
            partials.iter().flat_map(|(f, list)| list.iter().map(|p| (*f, p.clone()))).collect();
        assert_eq!(all, sent);
        let (last, others) = read.split_last().expect("some");
        assert_eq!(last.source, Some(source));
        assert!(others.iter().all(|m| m.source.is_none()));
        assert!(read.iter().all(|m| (m.topic, m.partition) == (topic, 3)));
    }
}
