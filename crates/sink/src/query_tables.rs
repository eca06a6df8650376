//! The tables of queries: made from the schema of their rows (`auto.create`), and widened by the
//! columns that a query gains (`auto.evolve`, nullable columns only). Nothing is ever dropped or
//! retyped: what does not fit is said, with what to do.

use crate::columns::{Leading, PLACE_COLUMNS, Shape};
use crate::config::Route;
use crate::fault::Fault;
use caudal_core::row::{Column, ColumnType, RowSchema};
use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};
use std::collections::BTreeMap;

/// PostgreSQL's name of a type in statements, and in its catalogue.
fn type_names(kind: ColumnType) -> (&'static str, &'static str) {
    match kind {
        ColumnType::Text => ("text", "text"),
        ColumnType::Long => ("bigint", "int8"),
        ColumnType::Double => ("double precision", "float8"),
        ColumnType::Boolean => ("boolean", "bool"),
        ColumnType::Decimal { .. } => ("numeric", "numeric"),
        ColumnType::Timestamp => ("timestamptz", "timestamptz"),
        ColumnType::Date => ("date", "date"),
        ColumnType::Json => ("jsonb", "jsonb"),
    }
}

/// A name in a statement.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Types of [`PLACE_COLUMNS`]: in statements, and in the catalogue.
const PLACE_TYPES: [(&str, &str); 2] = [("integer", "int4"), ("bigint", "int8")];

/// The statement that makes a table. Rows of keys are updated in place: room in each page keeps the
/// updates out of the index (HOT). Rows that lie under their place are never updated.
fn create_statement(table: &str, schema: &RowSchema, leading: &Leading, key: &[&str]) -> String {
    let column = |column: &Column| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{null}", quoted(&column.name), type_names(column.kind).0)
    };
    let place = |(name, (kind, _)): (&str, (&str, &str))| format!("{} {kind}", quoted(name));
    let (before, storage) = match leading {
        Leading::Place => (&PLACE_COLUMNS[..], ""),
        _ => (&[][..], " WITH (fillfactor = 70)"),
    };
    let before = before.iter().copied().zip(PLACE_TYPES).map(place);
    let columns: Vec<String> = before.chain(schema.columns.iter().map(column)).collect();
    let key: Vec<String> = key.iter().map(|name| quoted(name)).collect();
    format!(
        "CREATE TABLE {} ({}, PRIMARY KEY ({})){storage}",
        quoted(table),
        columns.join(", "),
        key.join(", ")
    )
}

/// A column that is there.
struct Present {
    kind: String,
    is_required: bool,
}

/// Makes the tables of queries that are not there, and adds the columns that are missing. Gives what
/// was done, in words.
///
/// # Errors
/// A [`Fault`]: the server's, or a table that cannot hold the query's rows.
pub async fn apply<'r>(
    connection: &mut PgConnection,
    routes: impl Iterator<Item = &'r Route>,
) -> Result<Vec<String>, Fault> {
    let mut done = Vec::new();
    for route in routes {
        let Shape::Row { schema, leading, .. } = &route.shape else { continue };
        if matches!(leading, Leading::Constant(_)) {
            continue;
        }
        let table = &route.table.name;
        let key: Vec<&str> =
            route.table.key.iter().map(|at| route.table.columns[*at].as_str()).collect();
        let present = present(connection, table).await?;
        if present.is_empty() {
            connection.execute(create_statement(table, schema, leading, &key).as_str()).await?;
            done.push(format!("table {table} made for query {}", route.topic));
            continue;
        }
        for column in missing(table, schema, leading, &present)? {
            let (name, kind) = (quoted(&column.name), type_names(column.kind).0);
            let statement = format!("ALTER TABLE {} ADD COLUMN {name} {kind}", quoted(table));
            connection.execute(statement.as_str()).await?;
            done.push(format!("table {table}: column {} added", column.name));
        }
    }
    Ok(done)
}

async fn present(
    connection: &mut PgConnection,
    table: &str,
) -> Result<BTreeMap<String, Present>, Fault> {
    let rows = sqlx::query(
        "SELECT column_name::text, udt_name::text, is_nullable = 'NO' AND column_default IS NULL
         FROM information_schema.columns
         WHERE table_schema = current_schema() AND table_name = $1",
    )
    .bind(table)
    .fetch_all(&mut *connection)
    .await?;
    let mut columns = BTreeMap::new();
    for row in rows {
        let present = Present { kind: row.try_get(1)?, is_required: row.try_get(2)? };
        columns.insert(row.try_get(0)?, present);
    }
    Ok(columns)
}

/// The columns that a table lacks.
fn missing<'s>(
    table: &str,
    schema: &'s RowSchema,
    leading: &Leading,
    present: &BTreeMap<String, Present>,
) -> Result<Vec<&'s Column>, Fault> {
    let mut missing = Vec::new();
    let is_stream = *leading == Leading::Place;
    for (name, (_, kind)) in PLACE_COLUMNS.into_iter().zip(PLACE_TYPES).filter(|_| is_stream) {
        if present.get(name).is_none_or(|found| found.kind != kind) {
            return Err(Fault::stop(format!(
                "table {table}: column {name} is missing or no {kind}: it was not made for a \
                 stream; rename the table and let the sink make another"
            )));
        }
    }
    for column in &schema.columns {
        let wanted = type_names(column.kind).1;
        match present.get(&column.name) {
            None => missing.push(column),
            Some(found) if found.kind == wanted => {}
            Some(found) => {
                return Err(Fault::stop(format!(
                    "table {table}: column {} is {}, the query gives {wanted}; CAST it in the \
                     query, or rename the table and let the sink make another",
                    column.name, found.kind
                )));
            }
        }
    }
    let given = |name: &String| {
        let is_place = is_stream && PLACE_COLUMNS.contains(&name.as_str());
        is_place || schema.columns.iter().any(|column| column.name == *name)
    };
    match present.iter().find(|(name, column)| column.is_required && !given(name)) {
        None => Ok(missing),
        Some((name, _)) => Err(Fault::stop(format!(
            "table {table}: column {name} is NOT NULL, and the query does not give it; select it, \
             or ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> RowSchema {
        let column = |name: &str, kind, nullable| Column { name: name.into(), kind, nullable };
        RowSchema {
            name: "q".into(),
            columns: vec![
                column("country", ColumnType::Text, false),
                column("n", ColumnType::Long, false),
                column("list", ColumnType::Json, true),
            ],
        }
    }

    fn table(columns: &[(&str, &str, bool)]) -> BTreeMap<String, Present> {
        let present = columns.iter().map(|(name, kind, is_required)| {
            ((*name).into(), Present { kind: (*kind).into(), is_required: *is_required })
        });
        present.collect()
    }

    #[test]
    fn a_table_is_made_from_the_schema() {
        assert_eq!(
            create_statement("q", &schema(), &Leading::Nothing, &["country"]),
            "CREATE TABLE \"q\" (\"country\" text NOT NULL, \"n\" bigint NOT NULL, \"list\" jsonb, \
             PRIMARY KEY (\"country\")) WITH (fillfactor = 70)"
        );
        assert_eq!(
            create_statement("s", &schema(), &Leading::Place, &PLACE_COLUMNS),
            "CREATE TABLE \"s\" (\"__connect_partition\" integer, \"__connect_offset\" bigint, \
             \"country\" text NOT NULL, \"n\" bigint NOT NULL, \"list\" jsonb, \
             PRIMARY KEY (\"__connect_partition\", \"__connect_offset\"))"
        );
    }

    #[test]
    fn what_is_missing_is_added_and_what_does_not_fit_is_said() {
        let both = [("country", "text", true), ("n", "int8", true)];
        let schema = schema();
        let names = |leading, columns: &[(&str, &str, bool)]| {
            let missing = missing("q", &schema, &leading, &table(columns)).unwrap();
            missing.iter().map(|c| c.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(Leading::Nothing, &both), ["list"]);
        let place =
            [("__connect_partition", "int4", true), ("__connect_offset", "int8", true), both[0]];
        assert_eq!(names(Leading::Place, &place), ["n", "list"]);
        let refused = |leading, columns: &[(&str, &str, bool)]| {
            missing("q", &schema, &leading, &table(columns)).map(|_| ()).unwrap_err().text
        };
        assert!(refused(Leading::Place, &both).contains("not made for a stream"));
        let error = |columns: &[(&str, &str, bool)]| refused(Leading::Nothing, columns);
        assert!(error(&[place[0], both[0], both[1]]).contains("__connect_partition is NOT NULL"));
        assert!(
            error(&[("country", "text", true), ("n", "text", true)]).contains("column n is text")
        );
        let required = [both[0], both[1], ("old", "int8", true)];
        assert!(error(&required).contains("ALTER COLUMN old DROP NOT NULL"));
    }
}
