//! The tables of query outputs against the last value of each key that the sink has stored.

use super::cut::Cut;
use super::differences::Differences;
use super::identity::half;
use super::names::window_name;
use super::place::Topics;
use super::retired::{Missing, Retired, Spare};
use super::tables::table_of;
use super::windows::Query;
use caudal_core::dedup::Hash16;
use caudal_core::money::{Currency, SumOverflow, Sums};
use caudal_core::row::Value;
use rustc_hash::FxHashSet;

/// Matches the rows of one table.
pub struct WindowRows<'q> {
    query: &'q Query,
    topic: u8,
    retired: Option<&'q Retired>,
    left: FxHashSet<Hash16>,
    /// Whether retention has cut the topic.
    is_cut: bool,
    /// Rows read.
    pub count: u64,
    /// Sum of the rows' SUM column by currency.
    pub sums: Sums,
    /// Rows whose record retention has cut.
    pub unproven: u64,
}

impl<'q> WindowRows<'q> {
    pub fn new(cut: &'q Cut, at: usize, query: &'q Query) -> WindowRows<'q> {
        let topic = Topics::rows_of(at);
        WindowRows {
            query,
            topic,
            retired: cut.retired.get(&topic),
            left: query.found.stored_keys(),
            is_cut: cut.any_cut(topic),
            count: 0,
            sums: Sums::default(),
            unproven: 0,
        }
    }

    /// Takes a row: its values in the order of the query's columns.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn observe(
        &mut self,
        row: Vec<Option<Value>>,
        differences: &mut Differences,
    ) -> Result<(), SumOverflow> {
        self.count += 1;
        let (table, _) = table_of(&self.query.plan);
        let shown = format!("{row:?}");
        let row: Option<Vec<Value>> = row.into_iter().collect();
        let read = row.as_deref().and_then(|row| self.query.of_row(row));
        let Some((key, values)) = read else {
            differences.say(format!("{table}: no row of the query is {shown}"));
            return Ok(());
        };
        if let Some(currency) = row.iter().flatten().find_map(|value| match value {
            Value::Text(code) => Currency::parse(code),
            _ => None,
        }) {
            self.sums.add_nano(currency, values.sum)?;
        }
        let (text, key) = (window_name(&String::from_utf8_lossy(&key)), half(&key));
        self.left.remove(&key);
        match self.query.found.stored(&key) {
            Some(found) if found.values == values => {}
            Some(found) => differences.say(format!(
                "{table} {text}: the row says {}; {} says {}",
                self.query.words(&values),
                differences.at(found.place),
                self.query.words(&found.values)
            )),
            None if self.is_cut => self.unproven += 1,
            None => {
                let topic = differences.topics.name(self.topic);
                differences.say(format!("{table} has {text}, but topic {topic} has not"));
            }
        }
        Ok(())
    }

    /// Says the keys that have no row, and gives the number of those whose rows were retired.
    pub fn finish(self, differences: &mut Differences) -> u64 {
        let (table, _) = table_of(&self.query.plan);
        let found = &self.query.found;
        let (mut places, mut missing) = (Vec::new(), Missing::default());
        for (key, figures) in self.left.iter().filter_map(|k| Some((k, found.stored(k)?))) {
            if found.old.contains(key) {
                missing.add(*key, figures.place);
            } else {
                places.push(figures.place);
            }
        }
        places.sort_unstable();
        for place in places {
            let text = format!("{table} lacks {{}} ({})", differences.at(place));
            differences.of_record(text, place);
        }
        // A later value of its key brings a row back, a tombstone leaves nothing to compare.
        let spare = if self.is_cut { Spare::Unknown } else { Spare::Any };
        missing.judge(table, self.retired, spare, differences);
        missing.count()
    }
}
