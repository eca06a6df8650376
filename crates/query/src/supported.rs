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

/// Longest name of a table in PostgreSQL, in bytes.
const NAME_BYTES: usize = 63;

/// Says what the engine does not run.
///
/// # Errors
/// The first such thing, at the place of the query.
pub fn check<'q>(
    query: &'q Query,
    sources: &BTreeMap<String, Source>,
) -> Result<&'q Aggregation, Box<Fault>> {
    let cannot = |what: String, help: &str| {
        let message = format!("query {}: {what}", query.name);
        Err(Box::new(Fault::new(query.span, message).help(help)))
    };
    const OFFLINE: &str = "`caudal queries test` runs it; the engine does not yet";
    if query.from != TRANSACTIONS {
        let what = format!("the engine reads {TRANSACTIONS} only, not {}", query.from);
        return cannot(what, OFFLINE);
    }
    let Some(aggregation) = &query.aggregation else {
        let what = "the engine runs aggregates only, not CREATE STREAM … AS SELECT";
        return cannot(what.into(), OFFLINE);
    };
    match aggregation.window.map(|window| window.kind) {
        Some(WindowKind::Session { .. }) => {
            let what = "the engine does not run SESSION windows yet";
            return cannot(what.into(), "use TUMBLING or HOPPING");
        }
        Some(WindowKind::Hopping { size, advance }) if size % advance != 0 => {
            let what = "the engine keeps windows as panes of one ADVANCE";
            return cannot(what.into(), "choose an ADVANCE that divides SIZE");
        }
        _ => {}
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
    Ok(aggregation)
}

/// Most queries of a file: lateness is a bit for each in what `caudal verify` remembers of a record.
const MOST: usize = 31;

/// Says what the engine does not run of queries that are right one by one: there are too many, or
/// two join different tables (one is kept in memory).
///
/// # Errors
/// What that is.
pub fn check_all(plans: &[Plan]) -> Result<(), String> {
    if plans.len() > MOST {
        return Err(format!("{} queries; the engine runs at most {MOST}", plans.len()));
    }
    let mut joins = plans.iter().filter_map(|plan| Some((plan, &plan.join.as_ref()?.table.name)));
    let Some((_, table)) = joins.next() else { return Ok(()) };
    match joins.find(|(_, other)| *other != table) {
        None => Ok(()),
        Some((plan, other)) => Err(format!(
            "query {} joins {other}, another query joins {table}: the engine keeps one table",
            plan.name
        )),
    }
}
