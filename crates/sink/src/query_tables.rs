//! The tables of queries: made from the schema of their rows (`auto.create`), and brought up to what
//! a query gains (`auto.evolve`).

use crate::columns::{Leading, PLACE_COLUMNS, Shape};
use crate::config::Route;
use crate::fault::Fault;
use crate::generic::table::{self, Present, Wanted};
use crate::generic::target::Target;
use caudal_core::avro_schema::{Type, Unit};
use caudal_core::row::{Column, ColumnType, RowSchema};
use sqlx::postgres::PgConnection;
use std::collections::BTreeMap;

fn type_of(kind: ColumnType) -> Type {
    match kind {
        ColumnType::Text => Type::Text,
        ColumnType::Long => Type::Long,
        ColumnType::Double => Type::Double,
        ColumnType::Boolean => Type::Boolean,
        ColumnType::Decimal { scale } => Type::Decimal(scale, None),
        ColumnType::Timestamp => Type::Timestamp(Unit::Micros),
        ColumnType::Date => Type::Date,
        ColumnType::Json => Type::JsonText,
    }
}

/// The columns of a query's table.
fn columns(schema: &RowSchema, leading: &Leading) -> Vec<(Wanted, Type)> {
    let column = |name: &str, of: Type, nullable| {
        let wanted = Wanted {
            name: name.to_owned(),
            target: Target::made_for(&of),
            nullable,
            symbols: None,
        };
        (wanted, of)
    };
    let place = match leading {
        Leading::Place => &PLACE_COLUMNS[..],
        _ => &[][..],
    };
    let place = place.iter().zip([Type::Int, Type::Long]).map(|(name, of)| column(name, of, false));
    let given = |c: &Column| column(&c.name, type_of(c.kind), c.nullable);
    place.chain(schema.columns.iter().map(given)).collect()
}

/// Makes the tables of queries that are not there, and brings the others up to them. Gives what was
/// done, in words.
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
        let name = &route.table.name;
        let key: Vec<String> =
            route.table.key.iter().map(|at| route.table.columns[*at].clone()).collect();
        let (columns, there) = (columns(schema, leading), table::present(connection, name).await?);
        if there.is_empty() {
            let wanted: Vec<Wanted> = columns.into_iter().map(|(wanted, _)| wanted).collect();
            table::create(connection, name, &wanted, &key, route.mode.keeps_last()).await?;
            done.push(format!("table {name} made for query {}", route.topic));
            continue;
        }
        check_place(name, leading, &there)?;
        let changes = table::lacks(name, &columns, &key, &there)?;
        done.extend(table::evolve(connection, name, &changes).await?);
    }
    Ok(done)
}

/// A table that was made for a query of another kind cannot be widened to this one's.
fn check_place(
    table: &str,
    leading: &Leading,
    there: &BTreeMap<String, Present>,
) -> Result<(), Fault> {
    let has = |name: &str| there.contains_key(name);
    let (is_stream, was_stream) =
        (*leading == Leading::Place, PLACE_COLUMNS.iter().all(|name| has(name)));
    let words = match (is_stream, was_stream) {
        (true, false) => "it was not made for a stream",
        (false, true) => "it was made for a stream",
        _ => return Ok(()),
    };
    Err(Fault::stop(format!(
        "table {table}: {words}; rename the table and let the sink make another"
    )))
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

    fn statement(leading: &Leading, key: &[&str], is_updated: bool) -> String {
        let columns: Vec<Wanted> =
            columns(&schema(), leading).into_iter().map(|(wanted, _)| wanted).collect();
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        table::create_statement("q", &columns, &key, is_updated)
    }

    #[test]
    fn a_table_is_made_from_the_schema() {
        assert_eq!(
            statement(&Leading::Nothing, &["country"], true),
            "CREATE TABLE \"q\" (\"country\" text NOT NULL, \"n\" bigint NOT NULL, \"list\" jsonb, \
             PRIMARY KEY (\"country\")) WITH (fillfactor = 50)"
        );
        assert_eq!(
            statement(&Leading::Place, &PLACE_COLUMNS, false),
            "CREATE TABLE \"q\" (\"__connect_partition\" integer NOT NULL, \"__connect_offset\" \
             bigint NOT NULL, \"country\" text NOT NULL, \"n\" bigint NOT NULL, \"list\" jsonb, \
             PRIMARY KEY (\"__connect_partition\", \"__connect_offset\"))"
        );
    }

    #[test]
    fn a_table_of_another_kind_is_told() {
        let text = Present {
            kind: "text".into(),
            target: Some(Target::Text),
            is_required: true,
            symbols: None,
        };
        let of = |names: &[&str]| -> BTreeMap<String, Present> {
            names.iter().map(|name| ((*name).to_owned(), text.clone())).collect()
        };
        let (plain, place) = (of(&["country"]), of(&PLACE_COLUMNS));
        let error = check_place("q", &Leading::Place, &plain).unwrap_err();
        assert!(error.text.contains("not made for a stream"), "{error}");
        assert!(check_place("q", &Leading::Nothing, &place).unwrap_err().text.contains("was made"));
        assert!(check_place("q", &Leading::Place, &place).is_ok());
        assert!(check_place("q", &Leading::Nothing, &plain).is_ok());
    }
}
