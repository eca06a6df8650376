//! Generated records as CSV, so that any other tool can be given the same data.
//!
//! A line for each record, in the same order. What breaks a record's framing cannot be written in a
//! cell; such a record becomes a line of one cell. So numbers, ids and money are those of the
//! ledger, only the reasons of dead letters may differ.

use super::{Generator, Recipe};
use caudal_core::decode::{Record, decode};
use caudal_core::schema::Schemas;
use caudal_core::time::to_rfc3339;
use caudal_core::transaction::Transaction;
use serde_json::{Map, Value as Json};
use std::io::{self, Write};

/// The columns.
pub const COLUMNS: [&str; 10] = [
    "transaction_id",
    "account_id",
    "merchant_id",
    "amount",
    "currency",
    "kind",
    "country",
    "event_time",
    "description",
    "channel",
];

/// Writes the records of a recipe, under a header.
///
/// # Errors
/// When `out` refuses.
pub fn write(recipe: Recipe, out: impl Write) -> io::Result<()> {
    let schema = Schemas::shipped().transaction.id;
    let mut out = csv::WriterBuilder::new().flexible(true).from_writer(out);
    out.write_record(COLUMNS)?;
    for generated in Generator::new(recipe, "csv", schema) {
        let record = Record { value: generated.value.map(Into::into), ..Record::default() };
        match decode(&record, schema, ("", 0)) {
            Ok(transaction) => out.write_record(cells(&transaction))?,
            Err(_) => match object(&record) {
                Some(object) => out.write_record(cells_of(&object))?,
                None => out.write_record(["broken"])?,
            },
        }
    }
    out.flush()
}

fn cells(t: &Transaction<'_>) -> [String; COLUMNS.len()] {
    let channel = t.attributes.iter().find(|(name, _)| name == "channel");
    [
        t.transaction_id.to_string(),
        t.account_id.to_string(),
        t.merchant_id.to_string(),
        t.amount.to_string(),
        t.currency.to_string(),
        t.kind.as_str().to_owned(),
        t.country.as_deref().unwrap_or_default().to_owned(),
        to_rfc3339(t.event_time),
        t.description.as_deref().unwrap_or_default().to_owned(),
        channel.map_or(String::new(), |(_, value)| value.to_string()),
    ]
}

/// A JSON object that is whole, but no transaction.
fn object(record: &Record) -> Option<Map<String, Json>> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

fn cells_of(object: &Map<String, Json>) -> [String; COLUMNS.len()] {
    COLUMNS.map(|column| {
        let value = object.get(column).or_else(|| object.get("attributes")?.get(column));
        value.and_then(Json::as_str).unwrap_or_default().to_owned()
    })
}
