//! Tables made from schemas (`auto.create`), and brought up to the schemas that come later
//! (`auto.evolve`). Nothing is ever dropped or retyped: what does not fit is said, with what to do.

use super::layout::Given;
use super::target::Target;
use crate::fault::Fault;
use crate::write::quoted;
use caudal_core::avro_schema::Type;
use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A column that a table is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its type, where it is made.
    pub target: Target,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// The only texts that it may hold.
    pub symbols: Option<Arc<[String]>>,
}

impl Wanted {
    /// For a column of a schema.
    #[must_use]
    pub fn of(given: &Given) -> Wanted {
        Wanted {
            name: given.name.clone(),
            target: Target::made_for(&given.of),
            nullable: given.nullable,
            symbols: given.symbols().cloned(),
        }
    }

    fn definition(&self, table: &str, nullable: bool) -> String {
        let (name, null) = (quoted(&self.name), if nullable { "" } else { " NOT NULL" });
        let check = self.symbols.as_ref().map_or_else(String::new, |symbols| {
            format!(" CONSTRAINT {} {}", check_name(table, &self.name), check(&self.name, symbols))
        });
        format!("{name} {}{null}{check}", self.target.sql())
    }
}

/// A column that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its type in words, as `format_type` gives it.
    pub kind: String,
    /// Its type as the sink writes it; `None`: it does not.
    pub target: Option<Target>,
    /// Whether it is NOT NULL without a default.
    pub is_required: bool,
    /// The texts that the constraint which the sink made lets in.
    pub symbols: Option<BTreeSet<String>>,
}

/// The columns of a table by name; none where it is not there.
///
/// # Errors
/// A [`Fault`].
pub async fn present(
    connection: &mut PgConnection,
    table: &str,
) -> Result<BTreeMap<String, Present>, Fault> {
    let rows = sqlx::query(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
             coalesce(base.typname, t.typname)::text, coalesce(base.typtype, t.typtype) = 'e',
             (greatest(a.atttypmod, t.typtypmod, -1) - 4) & 2047,
             greatest(a.atttypmod, t.typtypmod) > 3,
             a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
             (SELECT obj_description(c.oid, 'pg_constraint') FROM pg_constraint c
              WHERE c.conrelid = a.attrelid AND c.contype = 'c' AND c.conkey = ARRAY[a.attnum]
                  AND obj_description(c.oid, 'pg_constraint') LIKE 'symbols [%' LIMIT 1)
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_type base ON base.oid = t.typbasetype AND t.typtype = 'd'
         WHERE a.attrelid = to_regclass(quote_ident($1)) AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attgenerated = ''",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    let mut columns = BTreeMap::new();
    for row in rows {
        let (name, is_enum): (String, bool) = (row.try_get(2)?, row.try_get(3)?);
        let places: Option<i32> = row.try_get(4)?;
        let says_places: bool = row.try_get(5)?;
        let places =
            places.filter(|_| says_places && name == "numeric").and_then(|p| u16::try_from(p).ok());
        let comment: Option<String> = row.try_get(7)?;
        let symbols = comment.as_deref().and_then(|text| text.strip_prefix("symbols "));
        let present = Present {
            kind: row.try_get(1)?,
            target: Target::of_catalogue(&name, is_enum, places),
            is_required: row.try_get(6)?,
            symbols: symbols.and_then(|json| serde_json::from_str(json).ok()),
        };
        columns.insert(row.try_get(0)?, present);
    }
    Ok(columns)
}

/// Makes a table. Rows that are updated in place get room in each page, which keeps the updates out
/// of the index (HOT).
///
/// # Errors
/// A [`Fault`].
pub async fn create(
    connection: &mut PgConnection,
    table: &str,
    columns: &[Wanted],
    key: &[String],
    is_updated: bool,
) -> Result<(), Fault> {
    connection.execute(&*create_statement(table, columns, key, is_updated)).await?;
    for (column, symbols) in columns.iter().filter_map(|c| Some((c, c.symbols.as_ref()?))) {
        connection.execute(&*comment(table, &column.name, symbols.iter())).await?;
    }
    Ok(())
}

/// The statement that makes a table.
#[must_use]
pub fn create_statement(
    table: &str,
    columns: &[Wanted],
    key: &[String],
    is_updated: bool,
) -> String {
    let definitions = columns.iter().map(|c| c.definition(table, c.nullable));
    let mut parts: Vec<String> = definitions.collect();
    if !key.is_empty() {
        let key: Vec<String> = key.iter().map(|name| quoted(name)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    let storage = if is_updated { " WITH (fillfactor = 50)" } else { "" };
    format!("CREATE TABLE {} ({}){storage}", quoted(table), parts.join(", "))
}

fn check_name(table: &str, column: &str) -> String {
    let name: String = format!("{table}_{column}_symbols").chars().take(60).collect();
    quoted(&name)
}

fn check(column: &str, symbols: &[String]) -> String {
    let quoted_texts: Vec<String> =
        symbols.iter().map(|symbol| format!("'{}'", symbol.replace('\'', "''"))).collect();
    format!("CHECK ({} IN ({}))", quoted(column), quoted_texts.join(", "))
}

/// What the constraint lets in, for those who come later: the catalogue has it only as an expression.
fn comment<'s>(table: &str, column: &str, symbols: impl Iterator<Item = &'s String>) -> String {
    let symbols: Vec<&String> = symbols.collect();
    let json = serde_json::Value::from_iter(symbols.into_iter().map(String::as_str)).to_string();
    format!(
        "COMMENT ON CONSTRAINT {} ON {} IS 'symbols {}'",
        check_name(table, column),
        quoted(table),
        json.replace('\'', "''")
    )
}

/// What a table lacks to hold rows of a schema.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// A column.
    Add(Wanted),
    /// It may have to hold NULL in that column.
    DropNotNull(String),
    /// The constraint on that column must let all of these in.
    Widen(String, Vec<String>),
}

impl Change {
    /// In words.
    fn text(&self) -> String {
        match self {
            Change::Add(column) => format!("column {} added", column.name),
            Change::DropNotNull(name) => format!("column {name} may be NULL now"),
            Change::Widen(name, _) => format!("column {name} takes more symbols now"),
        }
    }

    fn statements(&self, table: &str) -> Vec<String> {
        let alter = format!("ALTER TABLE {}", quoted(table));
        match self {
            Change::Add(column) => {
                let add = format!("{alter} ADD COLUMN {}", column.definition(table, true));
                let symbols = column.symbols.as_ref();
                let comment = symbols.map(|s| comment(table, &column.name, s.iter()));
                std::iter::once(add).chain(comment).collect()
            }
            Change::DropNotNull(name) => {
                vec![format!("{alter} ALTER COLUMN {} DROP NOT NULL", quoted(name))]
            }
            Change::Widen(name, symbols) => {
                let constraint = check_name(table, name);
                // Every row that is there met the narrower one: nothing is to be read again.
                let widened = format!(
                    "{alter} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} {} NOT VALID",
                    check(name, symbols)
                );
                vec![widened, comment(table, name, symbols.iter())]
            }
        }
    }
}

/// What a table lacks to hold rows of these columns, whose values have those types.
///
/// # Errors
/// A [`Fault`] that says which column cannot hold what, and what to do.
pub fn lacks(
    table: &str,
    columns: &[(Wanted, Type)],
    key: &[String],
    present: &BTreeMap<String, Present>,
) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    for (column, of) in columns {
        let Some(found) = present.get(&column.name) else {
            changes.push(Change::Add(column.clone()));
            continue;
        };
        if !found.target.is_some_and(|target| target.holds(of)) {
            return Err(Fault::stop(format!(
                "table {table}: column {} is {}, the schema gives {}; ALTER its type, or rename \
                 the table and let the sink make another",
                column.name,
                found.kind,
                column.target.sql()
            )));
        }
        if column.nullable && found.is_required && !key.contains(&column.name) {
            changes.push(Change::DropNotNull(column.name.clone()));
        }
        if let (Some(there), Some(symbols)) = (&found.symbols, &column.symbols)
            && symbols.iter().any(|symbol| !there.contains(symbol))
        {
            let more = symbols.iter().filter(|symbol| !there.contains(*symbol));
            changes.push(Change::Widen(
                column.name.clone(),
                there.iter().chain(more).cloned().collect(),
            ));
        }
    }
    for (name, _) in present.iter().filter(|(_, column)| column.is_required) {
        if !key.contains(name) && !columns.iter().any(|(column, _)| column.name == *name) {
            changes.push(Change::DropNotNull(name.clone()));
        }
    }
    Ok(changes)
}

/// Makes the changes, and says in words what was done.
///
/// # Errors
/// A [`Fault`].
pub async fn evolve(
    connection: &mut PgConnection,
    table: &str,
    changes: &[Change],
) -> Result<Vec<String>, Fault> {
    for statement in changes.iter().flat_map(|change| change.statements(table)) {
        connection.execute(&*statement).await?;
    }
    Ok(changes.iter().map(|change| format!("table {table}: {}", change.text())).collect())
}

/// The statements that make the changes, for a person to run.
#[must_use]
pub fn statements(table: &str, changes: &[Change]) -> String {
    let all: Vec<String> = changes.iter().flat_map(|change| change.statements(table)).collect();
    all.join("; ")
}

/// Whether the table has a unique index on exactly the key, as `ON CONFLICT` needs.
///
/// # Errors
/// A [`Fault`].
pub async fn is_unique(
    connection: &mut PgConnection,
    table: &str,
    key: &[String],
) -> Result<bool, Fault> {
    let found: bool = sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM pg_index i
             WHERE i.indrelid = to_regclass(quote_ident($1)) AND i.indisunique AND i.indisvalid
                 AND i.indpred IS NULL AND i.indexprs IS NULL
                 AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
                      FROM pg_attribute a
                      WHERE a.attrelid = i.indrelid
                          AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]))
                     = (SELECT array_agg(name ORDER BY name) FROM unnest($2::text[]) AS name)
         )",
    )
    .bind(table)
    .bind(key)
    .fetch_one(connection)
    .await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, target: Target, nullable: bool) -> Wanted {
        Wanted { name: name.into(), target, nullable, symbols: None }
    }

    fn there(target: Target, is_required: bool) -> Present {
        Present { kind: "x".into(), target: Some(target), is_required, symbols: None }
    }

    #[test]
    fn a_table_is_made_from_the_columns() {
        let symbols: Arc<[String]> = ["A".to_owned(), "B's".to_owned()].into();
        let kind = Wanted { symbols: Some(symbols), ..wanted("kind", Target::Text, true) };
        let columns = [wanted("id", Target::BigInt, false), kind.clone()];
        assert_eq!(
            create_statement("t", &columns, &["id".into()], true),
            "CREATE TABLE \"t\" (\"id\" bigint NOT NULL, \"kind\" text CONSTRAINT \
             \"t_kind_symbols\" CHECK (\"kind\" IN ('A', 'B''s')), PRIMARY KEY (\"id\")) \
             WITH (fillfactor = 50)"
        );
        let statements = Change::Add(kind).statements("t");
        assert!(statements[0].starts_with("ALTER TABLE \"t\" ADD COLUMN \"kind\" text CON"));
        assert!(statements[1].ends_with("IS 'symbols [\"A\",\"B''s\"]'"), "{statements:?}");
    }

    #[test]
    fn what_is_lacking_is_found() {
        let key = ["id".to_owned()];
        let symbols = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut present = BTreeMap::from([
            ("id".to_owned(), there(Target::BigInt, true)),
            ("old".to_owned(), there(Target::Text, true)),
            ("n".to_owned(), there(Target::BigInt, true)),
        ]);
        let kind = Present { symbols: Some(["A".into()].into()), ..there(Target::Text, false) };
        present.insert("kind".to_owned(), kind);
        let of_symbols =
            Wanted { symbols: Some(symbols(&["B"]).into()), ..wanted("kind", Target::Text, true) };
        let columns = [
            (wanted("id", Target::BigInt, false), Type::Long),
            (wanted("n", Target::BigInt, true), Type::Long),
            (wanted("new", Target::Text, false), Type::Text),
            (of_symbols, Type::Enum(symbols(&["B"]).into())),
        ];
        assert_eq!(
            lacks("t", &columns, &key, &present).unwrap(),
            [
                Change::DropNotNull("n".into()),
                Change::Add(columns[2].0.clone()),
                Change::Widen("kind".into(), symbols(&["A", "B"])),
                Change::DropNotNull("old".into()),
            ]
        );
        let wrong = [(wanted("id", Target::Text, false), Type::Text)];
        let error = lacks("t", &wrong, &key, &present).unwrap_err();
        assert!(error.text.contains("column id is x, the schema gives text"), "{error}");
    }
}
