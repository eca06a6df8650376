//! Small upserts in one statement, their values as one array a column: a COPY into a staging table,
//! and emptying that at COMMIT, cost more than they save (ARCHITECTURE.md has the figures).

use crate::batch::TableRows;
use crate::columns::Table;
use crate::config::InsertMode;
use crate::copy::{self, Tuples};
use crate::fault::Fault;
use crate::write::{columns, upsert_statement};
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

/// Whether that many rows are upserted without a staging table, given arrays. `deletes`: whether one
/// of them takes a row back.
pub fn suits(mode: InsertMode, count: usize, deletes: bool) -> bool {
    mode == InsertMode::Upsert && count <= MOST && !deletes
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
        let fields = copy::fields(rows.tuples.slice(rows.rows[*at].span.clone()));
        for (array, field) in arrays.iter_mut().zip(fields) {
            match field {
                Some(field) => array.elements.bytes(field),
                None => array.elements.null(),
            }
        }
    }
    let values = (1..).zip(types).map(|(number, of)| format!("${number}::{}", of.name));
    let (values, columns) = (values.collect::<Vec<_>>().join(", "), columns(&rows.table));
    let statement = upsert_statement(&rows.table, &format!("unnest({values}) AS u({columns})"));
    let query = arrays.into_iter().fold(sqlx::query(&statement), |query, array| query.bind(array));
    query.execute(connection).await?;
    Ok(())
}

/// An array of one dimension in PostgreSQL's binary format: the elements are as the fields of COPY.
struct Array {
    elements: Tuples,
    of: u32,
}

impl Array {
    fn begin(of: &ArrayType, length: usize) -> Array {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        let mut elements = Tuples::default();
        // Dimensions, whether there are NULLs, type of the elements, length, lowest index.
        for word in [1, 1, of.element.cast_signed(), length, 1] {
            elements.append(&word.to_be_bytes());
        }
        Array { elements, of: of.array }
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
        buffer.extend_from_slice(self.elements.as_slice());
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.of)))
    }
}
