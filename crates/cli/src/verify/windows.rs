//! Query outputs: each query run again over `transacciones_validas` by one thread with one stream
//! time per partition, and compared with the last value of each key in its topic and its table.

use super::cut::{Cut, source_of};
use super::differences::{Difference, Differences};
use super::found::{ByKey, Figures, Found};
use super::identity::half;
use super::numbering::Numbering;
use super::place::{Place, Topics};
use super::recomputed::is_recomputed;
use super::refused::Refused;
use caudal_core::avro::unframe;
use caudal_core::decode::Record;
use caudal_core::dedup::Hash16;
use caudal_core::money::{SumOverflow, Sums, nano_text};
use caudal_core::partitioner::partition_of;
use caudal_core::row::{RowSchema, Value};
use caudal_core::schema::{id_of, sorted_json};
use caudal_core::transaction::ValidTransaction;
use caudal_processor::migrate::Widening;
use caudal_query::aggregate::Accumulator;
use caudal_query::group::{Change, Row, account_of, key_of, row_key};
use caudal_query::input::Input;
use caudal_query::panes::PaneState;
use caudal_query::plan::{Amount, Plan};
use caudal_query::values::Values;
use rustc_hash::FxHashSet;

/// One query, with what was found of it.
pub struct Query {
    /// The plan.
    pub plan: Plan,
    schema: RowSchema,
    schema_id: u32,
    /// What its rows must be.
    pub expected: ByKey,
    panes: Vec<PaneState>,
    /// Records that it took.
    pub taken: u64,
    /// Records that it left out because their window had closed.
    pub late: u64,
    /// Money that it took.
    pub sums: Sums,
    /// What its topic says.
    pub found: Found,
    /// Keys with partials that stage 2 has not merged yet.
    pub in_flight: FxHashSet<Hash16>,
}

/// All queries.
pub struct Windows {
    /// In the order of the plans.
    pub queries: Vec<Query>,
    stream_times: Vec<i64>,
    /// Which queries are computed again.
    recomputed: Vec<bool>,
    /// Partitions whose whole history is there.
    whole: Vec<bool>,
}

impl Query {
    fn new(plan: Plan, partitions: usize) -> Query {
        let schema = plan.row_schema().clone();
        Query {
            schema_id: id_of(&sorted_json(&schema.to_json())),
            schema,
            plan,
            expected: ByKey::default(),
            panes: vec![PaneState::default(); partitions],
            taken: 0,
            late: 0,
            sums: Sums::default(),
            found: Found::default(),
            in_flight: FxHashSet::default(),
        }
    }

    fn selects(&self, amount: Amount) -> bool {
        self.plan.amounts().unwrap_or_default().iter().any(|(_, selected)| *selected == amount)
    }

    /// The aggregates that the query selects; the others are 0.
    fn selected(&self, mut values: Accumulator) -> Accumulator {
        values.count = if self.selects(Amount::Count) { values.count } else { 0 };
        values.sum = if self.selects(Amount::Sum) { values.sum } else { 0 };
        values.min = if self.selects(Amount::Min) { values.min } else { 0 };
        values.max = if self.selects(Amount::Max) { values.max } else { 0 };
        values
    }

    fn add_global(
        &mut self,
        (valid, row): (&ValidTransaction<'_>, &Input<'_>),
        stream_time: i64,
        is_late: bool,
        place: Place,
    ) -> Result<(), SumOverflow> {
        let window = self.plan.window;
        let one = Accumulator::of(valid.transaction.amount.nano());
        let Some(group) = key_of(&self.plan, row) else { return Ok(()) };
        let mut any = false;
        for start in window.starts(valid.transaction.event_time) {
            // Where the beginning is cut, the stream time is not known, but the record says whether
            // its only window had closed.
            let cut_off = is_late && window.size == window.advance;
            if cut_off || window.is_closed(start, stream_time) {
                continue;
            }
            any = true;
            match self.expected.entry(half(&row_key(&self.plan, &group, start))) {
                std::collections::hash_map::Entry::Occupied(mut slot) => {
                    slot.get_mut().values.merge(&one)?;
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(Figures { values: one, place, era: 0, gone: false });
                }
            }
        }
        if any {
            self.taken += 1;
            self.sums.add(valid.currency, valid.transaction.amount)?;
        }
        Ok(())
    }

    fn add_local(
        &mut self,
        partition: usize,
        row: &Input<'_>,
        stream_time: i64,
        place: Place,
    ) -> Result<(), SumOverflow> {
        let Some(panes) = self.panes.get_mut(partition) else { return Ok(()) };
        let added = panes.add(&self.plan, row, stream_time)?;
        // All that this record changed: the last rows are taken after each.
        let mut changes: Vec<Change> = added.first_rows.into_iter().map(Change::Row).collect();
        changes.extend(panes.take_changes(&self.plan));
        panes.commit(&self.plan, stream_time);
        self.taken += 1;
        for change in changes {
            let (group, start) = change.key();
            let key = half(&row_key(&self.plan, group, start));
            match change {
                Change::Row(Row { values: Values::Amount(values), .. }) => {
                    self.expected.insert(key, Figures { values, place, era: 0, gone: false });
                }
                Change::Row(_) | Change::Gone(..) => {
                    self.expected.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// The panes go where their accounts live now.
    fn move_panes(&mut self, widening: Widening, stream_times: &[i64]) {
        let mut new = vec![PaneState::default(); self.panes.len()];
        for old in &self.panes {
            let mut cursor = None;
            while let Some((after, pane)) = old.next_after(cursor) {
                cursor = Some(after);
                let account = account_of(&self.plan, &pane.group).unwrap_or_default();
                let home = usize::try_from(partition_of(account.as_bytes(), widening.to));
                if let Some(panes) = home.ok().and_then(|home| new.get_mut(home)) {
                    panes.restore(pane);
                }
            }
        }
        for (panes, stream_time) in new.iter_mut().zip(stream_times) {
            panes.commit(&self.plan, *stream_time);
        }
        self.panes = new;
    }

    /// Reads an output row: fingerprint of its key, and its aggregates; none of a tombstone.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(&self, record: &Record) -> Result<(Hash16, Option<Accumulator>), String> {
        let Some(value) = record.value.as_deref() else {
            let key = record.key.as_deref().ok_or("has neither key nor value")?;
            return Ok((half(key), None));
        };
        let (id, body) = unframe(value).ok_or("has no Confluent framing")?;
        if id != self.schema_id {
            return Err(format!("has schema id {id}, not {}", self.schema_id));
        }
        let row = self.schema.decode(body).map_err(|e| format!("cannot be read: {e}"))?;
        let (key, values) = self.of_row(&row).ok_or("has a window that is none of the query's")?;
        if record.key.as_deref() != Some(&*key) {
            return Err("has another key than its columns say".into());
        }
        Ok((half(&key), Some(values)))
    }

    /// End of the window of an output row, in microseconds, by its key.
    fn end_of(&self, record: &Record) -> Option<i64> {
        let key = std::str::from_utf8(record.key.as_deref()?).ok()?;
        let (_, start) = key.strip_suffix(']')?.rsplit_once(',')?;
        Some(self.plan.window.end(start.parse().ok()?))
    }

    /// Key and aggregates of a row in the order of the query's columns. `None` when its window is
    /// none of the query's.
    pub fn of_row(&self, row: &[Value]) -> Option<(Vec<u8>, Accumulator)> {
        let groups = self.plan.group_by().len();
        let texts: Vec<&str> = row.iter().take(groups).filter_map(text_of).collect();
        let (Some(Value::Timestamp(start)), Some(Value::Timestamp(end))) =
            (row.get(groups), row.get(groups + 1))
        else {
            return None;
        };
        let window = self.plan.window;
        if window.pane(*start) != *start || *end != start.saturating_add(window.size) {
            return None;
        }
        let mut values = Accumulator { count: 0, sum: 0, min: 0, max: 0 };
        let amounts = self.plan.amounts().unwrap_or_default();
        for ((_, amount), value) in amounts.iter().zip(row.iter().skip(groups + 2)) {
            match (amount, value) {
                (Amount::Count, Value::Long(count)) => values.count = *count,
                (Amount::Sum, Value::Decimal(nano)) => values.sum = *nano,
                (Amount::Min, Value::Decimal(nano)) => values.min = *nano,
                (Amount::Max, Value::Decimal(nano)) => values.max = *nano,
                _ => return None,
            }
        }
        let group = serde_json::to_string(&texts).ok()?;
        Some((row_key(&self.plan, &group, *start), values))
    }

    /// The aggregates in words: `ventas 3, total 12.50`.
    pub fn words(&self, values: &Accumulator) -> String {
        let figure = |(alias, amount): &(String, Amount)| match amount {
            Amount::Count => format!("{alias} {}", values.count),
            Amount::Sum => format!("{alias} {}", nano_text(values.sum, 2)),
            Amount::Min => format!("{alias} {}", nano_text(values.min, 2)),
            Amount::Max => format!("{alias} {}", nano_text(values.max, 2)),
        };
        self.plan.amounts().unwrap_or_default().iter().map(figure).collect::<Vec<_>>().join(", ")
    }

    /// Compares the topic with what the records of `transacciones_validas` add up to. Where
    /// retention has cut them, figures may be higher than what is left of their records.
    pub fn compare_topic(&self, query: usize, from_cut: bool, differences: &mut Differences) {
        let mut wrong: Vec<(Place, String)> = Vec::new();
        for key in self.found.written_keys() {
            let Some(found) = self.found.total(&key) else { continue };
            if self.in_flight.contains(&key) {
                continue;
            }
            let expected = self.expected.get(&key).map(|f| self.selected(f.values));
            let higher = from_cut && expected.is_none_or(|e| found.values.count > e.count);
            if expected != Some(found.values) && !higher {
                let says = self.words(&found.values);
                let records = match expected {
                    Some(expected) => format!("add up to {}", self.words(&expected)),
                    None => "add up to no such row".to_owned(),
                };
                let at = differences.at(found.place);
                let text = format!("{at} {{}} says {says}; transacciones_validas {records}");
                wrong.push((found.place, text));
            }
        }
        wrong.sort_unstable_by_key(|(place, _)| *place);
        wrong.into_iter().for_each(|(place, text)| differences.of_record(text, place));
        let is_lacking =
            |key: &Hash16| !self.in_flight.contains(key) && self.found.total(key).is_none();
        let lacking = self.expected.iter().filter(|(key, _)| is_lacking(key));
        let mut lacking: Vec<_> = lacking.map(|(key, figures)| (figures.place, *key)).collect();
        lacking.sort_unstable();
        for (place, key) in lacking {
            let figures = self.expected.get(&key).map(|f| self.words(&self.selected(f.values)));
            let text = format!("{} lacks {{}} ({})", self.plan.name, figures.unwrap_or_default());
            differences.add(Difference::OfWindow(text, place, query, key));
        }
    }
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

impl Windows {
    pub fn new(plans: Vec<Plan>, cut: &Cut) -> Windows {
        let whole: Vec<bool> = (0..cut.partitions).map(|p| cut.is_whole(p)).collect();
        Windows {
            recomputed: plans.iter().map(|plan| is_recomputed(plan, cut)).collect(),
            queries: plans.into_iter().map(|plan| Query::new(plan, whole.len())).collect(),
            stream_times: vec![i64::MIN; whole.len()],
            whole,
        }
    }

    /// An era is over: stream times and panes go over to the partitions of the next one.
    pub fn end_era(&mut self, widening: Widening) {
        let of_old = |p: i32| {
            let at = usize::try_from(p).ok().and_then(|p| self.stream_times.get(p));
            at.copied().unwrap_or(i64::MIN)
        };
        let new = (0..widening.to).map(|partition| widening.stream_time(partition, of_old));
        self.stream_times = new.chain(std::iter::repeat(i64::MIN)).take(self.whole.len()).collect();
        for query in self.queries.iter_mut().filter(|query| query.plan.is_local()) {
            query.move_panes(widening, &self.stream_times);
        }
    }

    /// Runs every query on the next record of its partition.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn add(
        &mut self,
        valid: &ValidTransaction<'_>,
        late: u32,
        place: Place,
    ) -> Result<(), SumOverflow> {
        let partition = usize::try_from(place.partition()).unwrap_or(usize::MAX);
        let Some(stream_time) = self.stream_times.get_mut(partition) else { return Ok(()) };
        *stream_time = (*stream_time).max(valid.transaction.event_time);
        let stream_time = *stream_time;
        let row = Input::new(valid, place.partition(), place.offset());
        for (at, query) in self.queries.iter_mut().enumerate() {
            let takes = self.recomputed[at] && query.plan.takes(&row).unwrap_or(false);
            if !takes {
                continue;
            }
            let is_late = late & (1 << at) != 0;
            query.late += u64::from(is_late);
            if query.plan.is_local() {
                query.add_local(partition, &row, stream_time, place)?;
            } else {
                let believed = is_late && !self.whole.get(partition).is_some_and(|whole| *whole);
                query.add_global((valid, &row), stream_time, believed, place)?;
            }
        }
        Ok(())
    }
}

/// The era of an output record of a query, by what caused it.
pub fn era_of(plan: &Plan, partition: i32, source: i64, cut: &Cut) -> usize {
    match plan.is_local() {
        true => cut.eras.of_input(partition, source),
        false => cut.eras.of_partials(partition, source),
    }
}

/// Reads the topic of a query, or that of its late partials, record by record.
pub struct RowReader<'a> {
    cut: &'a Cut,
    query: usize,
    late: bool,
    numbering: Numbering,
}

impl<'a> RowReader<'a> {
    /// Of the topic of rows, or of late partials.
    pub fn new(cut: &'a Cut, query: usize, late: bool, is_local: bool) -> RowReader<'a> {
        let topic = if late { Topics::late_of(query) } else { Topics::rows_of(query) };
        // Rows of global queries are compacted (config/topics.toml): gaps are there on purpose.
        let contiguous = late || is_local;
        RowReader { cut, query, late, numbering: Numbering::new(cut, topic, contiguous) }
    }

    /// Takes the next record of its partition.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn observe(
        &mut self,
        record: &Record,
        windows: &mut Windows,
        refused: &mut Refused,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        let Some(query) = windows.queries.get_mut(self.query) else { return Ok(()) };
        let topic =
            if self.late { Topics::late_of(self.query) } else { Topics::rows_of(self.query) };
        let place = Place::new(topic, record.partition, record.offset);
        let is_stored = !self.late && self.cut.is_stored(place);
        query.found.stored_records += u64::from(is_stored);
        let dead = is_stored.then(|| refused.take(place, record, differences)).flatten();
        let took_back = is_stored && dead.is_none() && record.value.is_none();
        query.found.stored_tombstones += u64::from(took_back);
        let Some((partition, source)) = source_of(record) else {
            let text = "was not written by the processor (no caudal.source)";
            differences.of_record(format!("{} {{}} {text}", differences.at(place)), place);
            return Ok(());
        };
        if self.numbering.observe(place, record) {
            return Ok(());
        }
        let (key, values) = match query.read(record) {
            Ok(read) => read,
            Err(what) => {
                differences.say(format!("{} {what}", differences.at(place)));
                return Ok(());
            }
        };
        let end = if query.plan.is_local() {
            self.cut.input_end(partition)
        } else {
            self.cut.partials_end(partition)
        };
        let is_written = source < end;
        if query.end_of(record).is_some_and(|end| end < self.cut.retired_before(topic)) {
            query.found.old.insert(key);
        }
        let era = era_of(&query.plan, partition, source, self.cut);
        let gone = values.is_none();
        let values = values.unwrap_or(Accumulator { count: 0, sum: 0, min: 0, max: 0 });
        let figures = Figures { values, place, era, gone };
        let found = &mut query.found;
        if self.late {
            found.late_records += 1;
            return match found.late.get_mut(&key) {
                _ if !is_written => Ok(()),
                Some(total) => total.values.merge(&values),
                None => {
                    found.late.insert(key, figures);
                    Ok(())
                }
            };
        }
        match (is_written, is_stored && dead.is_none()) {
            (true, true) => found.both.insert(key, figures),
            (true, false) => found.written.insert(key, figures),
            (false, true) => found.stored.insert(key, figures),
            (false, false) => {
                found.in_flight += 1;
                None
            }
        };
        Ok(())
    }

    /// Says gaps and repeats.
    pub fn finish(self, differences: &mut Differences) {
        self.numbering.say(differences);
    }
}

#[cfg(test)]
mod tests;
