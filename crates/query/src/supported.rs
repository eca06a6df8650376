//! What of a compiled query the engine runs, and what is said of the rest.

use crate::plan::Plan;
use caudal_core::topics;
use caudal_sql::ast::{SourceKind, WindowKind};
use caudal_sql::catalog::{Aggregation, Format, Query, Source, TRANSACTIONS};
use caudal_sql::fault::Fault;
use std::collections::BTreeMap;

/// Topics and tables of the product's own: a query of that name would write into them.
const RESERVED: [&str; 8] = [
    topics::TRANSACCIONES,
    topics::VALIDAS,
    topics::DLQ,
    "transactions",
    "dead_letters",
    "fraud_alerts",
    "sink_offsets",
    "pg_catalog",
];

/// Topics that stage 1 reads or writes itself.
const OWN: [&str; 3] = [topics::TRANSACCIONES, topics::VALIDAS, topics::DLQ];

/// Longest name of a table in PostgreSQL, in bytes.
const NAME_BYTES: usize = 63;

/// Says what the engine does not run.
///
/// # Errors
/// The first such thing, at the place of the query.
pub fn check(query: &Query, sources: &BTreeMap<String, Source>) -> Result<(), Box<Fault>> {
    let cannot = |what: String, help: &str| {
        let message = format!("query {}: {what}", query.name);
        Err(Box::new(Fault::new(query.span, message).help(help)))
    };
    const OFFLINE: &str = "`caudal queries test` runs it; the engine does not";
    if query.output.kind == SourceKind::Table && query.aggregation.is_none() {
        return cannot("the engine does not make tables of tables".into(), OFFLINE);
    }
    if let Some(from) = sources.get(&query.from) {
        if from.kind == SourceKind::Table || from.window.is_some() {
            let what = format!("the engine reads streams without windows, not {}", query.from);
            return cannot(what, OFFLINE);
        }
        let internal = from.topic.starts_with("caudal_") || OWN.contains(&&*from.topic);
        if query.from != TRANSACTIONS && internal {
            let what = format!("topic {} is the pipeline's own", from.topic);
            return cannot(what, "read transacciones_validas, which is there without a statement");
        }
    }
    if let Some(Aggregation { window: Some(window), .. }) = &query.aggregation
        && let WindowKind::Hopping { size, advance } = window.kind
        && size % advance != 0
    {
        let what = "the engine keeps windows as panes of one ADVANCE";
        return cannot(what.into(), "choose an ADVANCE that divides SIZE");
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let internal = query.name.starts_with("caudal_") || RESERVED.contains(&&*query.name);
    if internal || query.name.len() > NAME_BYTES || !query.name.chars().all(plain) {
        let what = "its name cannot be that of its topic and its table".into();
        return cannot(what, "use letters, digits and _, and none of caudal's own names");
    }
    if query.output.topic != query.name || query.output.value_format != Format::Avro {
        let what = "rows go to the topic of the query's name, in Avro".into();
        return cannot(what, "leave KAFKA_TOPIC and VALUE_FORMAT out");
    }
    if let Some(join) = &query.join {
        let table = sources.get(&join.table).filter(|table| table.kind == SourceKind::Table);
        if table.is_none_or(|table| table.value_format == Format::Avro) {
            let what = format!("{} is no table whose topic the engine reads", join.table);
            return cannot(what, "CREATE TABLE it with VALUE_FORMAT = 'JSON' or 'DELIMITED'");
        }
    }
    Ok(())
}

/// Most queries of a file: lateness is a bit for each in what `caudal verify` remembers of a record.
const MOST: usize = 31;

/// Says what the engine does not run of queries that are right one by one: there are too many, or
/// two declare one topic, whose stream time is one.
///
/// # Errors
/// What that is.
pub fn check_all(plans: &[Plan]) -> Result<(), String> {
    if plans.len() > MOST {
        return Err(format!("{} queries; the engine runs at most {MOST}", plans.len()));
    }
    for (at, plan) in plans.iter().enumerate() {
        let Some(stream) = &plan.stream else { continue };
        let other = plans[..at].iter().filter_map(|other| other.stream.as_ref()).find(|other| {
            other.source.topic == stream.source.topic && other.source.name != stream.source.name
        });
        if let Some(other) = other {
            let (one, two, topic) = (&other.source.name, &stream.source.name, &stream.source.topic);
            return Err(format!(
                "streams {one} and {two} read one topic, {topic}: declare it once"
            ));
        }
    }
    Ok(())
}
