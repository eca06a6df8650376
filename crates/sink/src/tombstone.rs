//! Tombstones on the topics of queries: the row of a key is gone, because HAVING no longer holds or
//! because its session begins earlier now.

use crate::columns::{Cell, Leading, Row, Table, cell_of};
use caudal_core::decode::Record;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::row::{ColumnType, RowSchema};
use caudal_query::plan::Plan;
use std::borrow::Cow;
use std::sync::Arc;

/// What a column of the table is to a tombstone.
#[derive(Debug, Clone)]
enum Source {
    /// The same in every row.
    Constant(String),
    /// A value of the query's key, and its type.
    Key(usize, ColumnType),
    /// Not part of the key.
    Nothing,
}

/// Reads the tombstones of one query's topic.
#[derive(Debug, Clone)]
pub struct Tombstones {
    plan: Arc<Plan>,
    /// In the order of the table's columns.
    sources: Vec<Source>,
}

impl Tombstones {
    /// Of a query whose rows are in that table. `None` where the table's key is not the query's (and
    /// the constant column): a tombstone would not name one row.
    #[must_use]
    pub fn of(plan: &Plan, leading: &Leading, table: &Table) -> Option<Tombstones> {
        let keys: Vec<&str> = plan.key_columns().collect();
        let schema = plan.row_schema();
        let source = |(at, name): (usize, &String)| match leading {
            Leading::Constant(value) if at == 0 => Source::Constant(value.clone()),
            _ => match (keys.iter().position(|key| key == name), kind_of(schema, name)) {
                (Some(place), Some(kind)) => Source::Key(place, kind),
                _ => Source::Nothing,
            },
        };
        let sources: Vec<Source> = table.columns.iter().enumerate().map(source).collect();
        let found = sources.iter().filter(|s| matches!(s, Source::Key(..))).count();
        let of_key =
            |(at, s): (usize, &Source)| matches!(s, Source::Nothing) != table.key.contains(&at);
        let fits = !keys.is_empty() && found == keys.len();
        (fits && sources.iter().enumerate().all(of_key))
            .then(|| Tombstones { plan: Arc::new(plan.clone()), sources })
    }

    /// The row to take back: every column that is not its key is NULL.
    ///
    /// # Errors
    /// A [`Rejection`] when the record's key is none of the query's.
    pub fn row(&self, record: &Record) -> Result<Row<'static>, Rejection> {
        let key = record.key.as_deref().and_then(|key| self.plan.key_cells(key));
        let Some(mut values) = key else {
            let message = format!("a tombstone whose key is none of query {}", self.plan.name);
            return Err(Rejection::new(Reason::NullValue, message));
        };
        let cells = self.sources.iter().map(|source| match source {
            Source::Constant(text) => Cell::Text(Cow::Owned(text.clone())),
            Source::Key(place, kind) => values
                .get_mut(*place)
                .map_or(Cell::Null, |value| cell_of(std::mem::replace(value, NULL), *kind, 0)),
            Source::Nothing => Cell::Null,
        });
        Ok(Row { cells: cells.collect(), money: None, is_gone: true })
    }
}

const NULL: caudal_core::row::Value = caudal_core::row::Value::Null;

fn kind_of(schema: &RowSchema, name: &str) -> Option<ColumnType> {
    schema.columns.iter().find(|column| column.name == name).map(|column| column.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn row(query: &str, key: Option<&str>) -> Result<Vec<Cell<'static>>, Rejection> {
        let mut config = Config::read(None).unwrap();
        config.add_queries(&caudal_query::plan::shipped()).unwrap();
        let key = key.map(|text| text.as_bytes().into());
        let record = Record { key, ..Record::default() };
        let tombstones = config.routes[query].tombstones.as_ref().unwrap();
        tombstones.row(&record).map(|row| row.cells)
    }

    #[test]
    fn the_key_is_all_that_a_tombstone_knows() {
        let cells = row("alertas_fraude", Some("[\"a\",\"EUR\",60000000]")).unwrap();
        let text = |text: &str| Cell::Text(text.to_owned().into());
        let key = [text("alertas_fraude"), text("a"), text("EUR"), Cell::Timestamp(60_000_000)];
        assert_eq!(cells[..4], key);
        assert_eq!(cells[4..], [Cell::Null, Cell::Null, Cell::Null]);
    }

    #[test]
    fn a_key_of_somebody_else_is_refused() {
        for key in [None, Some("key"), Some("[\"a\",60000000]"), Some("[\"a\",\"EUR\",\"x\"]")] {
            let rejection = row("ventas_gold", key).unwrap_err();
            assert_eq!(rejection.reason, Reason::NullValue, "{key:?}");
        }
    }
}
