//! Completes the texts of differences: the records they are about are read once more.

use super::differences::Difference;
use super::identity::{half, read_valid};
use super::place::{DEAD, INPUT, Place, Topics, VALID};
use caudal_core::decode::{Record, decode};
use caudal_core::time::to_rfc3339;
use caudal_core::transaction::Transaction;
use caudal_query::group::{key_of, row_key};
use caudal_query::input::Input;
use caudal_query::plan::Plan;
use std::collections::HashMap;

/// What completing needs.
pub struct Names<'a> {
    pub topics: &'a Topics,
    pub plans: &'a [Plan],
    /// Schema id of `Transaction`.
    pub transaction_schema: u32,
    /// Schema id of `ValidTransaction`.
    pub valid_schema: u32,
    /// The records that were read once more.
    pub records: HashMap<Place, Record>,
}

impl Names<'_> {
    /// The text of a difference.
    pub fn complete(&self, difference: &Difference) -> String {
        match difference {
            Difference::Said(text) => text.clone(),
            Difference::OfRecord(text, place) => text.replacen("{}", &self.of_record(*place), 1),
            Difference::OfWindow(text, place, query, key) => {
                let name = self.of_window(*place, *query, key);
                text.replacen("{}", &name.unwrap_or_else(|| self.topics.at(*place)), 1)
            }
            Difference::Row(row, place) => {
                let at = self.topics.at(*place);
                let value = self.records.get(place).and_then(|record| record.value.as_deref());
                let what = match read_valid(value, self.valid_schema) {
                    Ok((valid, late_for)) => row.compare(&valid.transaction, &late_for).join("; "),
                    Err(_) => "differs from its record".to_owned(),
                };
                format!("transactions {}: {what} ({at})", row.id)
            }
        }
    }

    /// The transaction_id of a record, or the key of an output row.
    fn of_record(&self, place: Place) -> String {
        const UNKNOWN: &str = "a record";
        let Some(record) = self.records.get(&place) else { return UNKNOWN.into() };
        let key = || {
            let key = record.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
            key.unwrap_or_else(|| UNKNOWN.into())
        };
        match place.topic() {
            VALID => read_valid(record.value.as_deref(), self.valid_schema)
                .map_or_else(|_| key(), |(valid, _)| valid.transaction.transaction_id.into_owned()),
            INPUT | DEAD => {
                let mut bare = record.clone();
                bare.headers.clear();
                let id = decode(&bare, self.transaction_schema, ("", 0))
                    .map(Transaction::into_owned)
                    .map(|t| t.transaction_id);
                id.map_or_else(|_| UNKNOWN.into(), std::borrow::Cow::into_owned)
            }
            _ => window_name(&key()),
        }
    }

    fn of_window(&self, place: Place, query: usize, key: &[u8; 16]) -> Option<String> {
        let record = self.records.get(&place)?;
        let (valid, _) = read_valid(record.value.as_deref(), self.valid_schema).ok()?;
        let plan = self.plans.get(query)?;
        let group = key_of(plan, &Input::new(&valid, place.partition(), place.offset()))?;
        let starts = plan.window.starts(valid.transaction.event_time);
        let keys = starts.map(|start| row_key(plan, &group, start));
        let found = keys.into_iter().find(|text| half(text) == *key)?;
        Some(window_name(&String::from_utf8_lossy(&found)))
    }
}

/// The key of an output row for a person: `["85123A","GBP"] 2010-12-01T08:26:00Z`.
pub fn window_name(key: &str) -> String {
    let split = key.strip_suffix(']').and_then(|text| text.rsplit_once(','));
    match split.and_then(|(group, start)| Some((group, start.parse().ok()?))) {
        Some((group, start)) => format!("{group}] {}", to_rfc3339(start)),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_readable_name() {
        let name = window_name(r#"["85123A","GBP",1291191960000000]"#);
        assert_eq!(name, r#"["85123A","GBP"] 2010-12-01T08:26:00Z"#);
        assert_eq!(window_name("t-1"), "t-1");
    }
}
