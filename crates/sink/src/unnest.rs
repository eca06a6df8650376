//! Small upserts in one statement, their values as one array a column: a COPY into a staging table,
//! and emptying that at COMMIT, cost more than they save (ARCHITECTURE.md has the figures).

use crate::batch::TableRows;
use crate::columns::Table;
use crate::config::InsertMode;
use crate::fault::Fault;
use crate::write::{quoted, upsert_statement};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgTypeInfo, types::Oid};
use sqlx::{Encode, Postgres, Row as _, Type};

/// Most rows: with more of them the staging table is as fast.
const MOST: usize = 1_000;

/// The array types of a table's columns, in the order in which the sink writes them.
#[derive(Debug, Clone)]
pub struct Arrays(Vec<ArrayType>);

#[derive(Debug, Clone)]
struct ArrayType {
    element: u32,
    array: u32,
    /// As in a statement.
    name: String,
}

/// The array types of a table's columns. `None` where a column has none: it is an array itself.
///
/// # Errors
/// A [`Fault`].
pub async fn array_types(
    connection: &mut PgConnection,
    table: &Table,
) -> Result<Option<Arrays>, Fault> {
    let rows = sqlx::query(
        "SELECT a.attname::text, t.oid, t.typarray, format_type(t.oid, NULL) || '[]', t.typcategory = 'A'
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = to_regclass(quote_ident($1)) AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(&table.name)
    .fetch_all(connection)
    .await?;
    let mut all = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        for row in &rows {
            let (element, array): (Oid, Oid) = (row.try_get(1)?, row.try_get(2)?);
            let is_array: bool = row.try_get(4)?;
            if row.try_get::<String, _>(0)? == *column && array.0 != 0 && !is_array {
                all.push(ArrayType { element: element.0, array: array.0, name: row.try_get(3)? });
            }
        }
    }
    Ok((all.len() == table.columns.len()).then_some(Arrays(all)))
}

/// Whether these rows of a table are upserted without a staging table, given arrays.
pub fn suits(rows: &TableRows, mut group: impl ExactSizeIterator<Item = usize>) -> bool {
    rows.mode == InsertMode::Upsert && group.len() <= MOST && !group.any(|at| rows.rows[at].is_gone)
}

/// Upserts rows of a table.
///
/// # Errors
/// A [`Fault`].
pub async fn upsert(
    connection: &mut PgConnection,
    rows: &TableRows,
    group: &[usize],
    Arrays(types): &Arrays,
) -> Result<(), Fault> {
    let mut arrays: Vec<Array> = types.iter().map(|of| Array::begin(of, group.len())).collect();
    for at in group {
        // The tuple's own count of fields is left out.
        let span = &rows.rows[*at].span;
        let mut rest = rows.tuples.slice(span.start + 2..span.end);
        for array in &mut arrays {
            let length = rest.first_chunk::<4>().map_or(-1, |bytes| i32::from_be_bytes(*bytes));
            let (field, after) = rest.split_at(4 + usize::try_from(length).unwrap_or(0));
            array.bytes.extend_from_slice(field);
            rest = after;
        }
    }
    let names = (1..).zip(types).map(|(number, of)| format!("${number}::{}", of.name));
    let columns: Vec<String> = rows.table.columns.iter().map(|name| quoted(name)).collect();
    let values = names.collect::<Vec<_>>().join(", ");
    let from = format!("unnest({values}) AS u({})", columns.join(", "));
    let statement = upsert_statement(&rows.table, &from);
    let query = arrays.into_iter().fold(sqlx::query(&statement), |query, array| query.bind(array));
    query.execute(connection).await?;
    Ok(())
}

/// An array of one dimension in PostgreSQL's binary format: the elements are as the fields of COPY.
struct Array {
    bytes: Vec<u8>,
    of: u32,
}

impl Array {
    fn begin(of: &ArrayType, length: usize) -> Array {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        let mut bytes = Vec::new();
        // Dimensions, whether there are NULLs, type of the elements, length, lowest index.
        for word in [1, 1, of.element.cast_signed(), length, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        Array { bytes, of: of.array }
    }
}

impl Type<Postgres> for Array {
    fn type_info() -> PgTypeInfo {
        // Each value names its own.
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.of)))
    }
}
