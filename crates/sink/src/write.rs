//! The statements that put rows into tables, inside the db_tx of the caller.

use crate::batch::{Batch, TableRows, dead_letter_of};
use crate::columns::Table;
use crate::config::InsertMode;
use crate::copy::{HEADER, TRAILER, Tuples};
use crate::dead_letter;
use crate::fault::{Action, Fault};
use crate::ledger::Fate;
use crate::unnest::{self, Arrays};
use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

/// Column of a staging table that says which row it is; [`GONE`] where the row of the key is to go.
const ORDINAL: &str = "caudal_ordinal";
/// The ordinal of tombstones.
const GONE: i32 = -1;

/// A name in a statement.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list<'a>(names: impl Iterator<Item = &'a String>, prefix: &str) -> String {
    names.map(|name| format!("{prefix}{}", quoted(name))).collect::<Vec<_>>().join(", ")
}

/// The columns of a table, as in a statement.
pub(crate) fn columns(table: &Table) -> String {
    list(table.columns.iter(), "")
}

fn staging(table: &Table) -> String {
    quoted(&format!("caudal_staging_{}", table.name))
}

fn key_names(table: &Table) -> impl Iterator<Item = &String> {
    table.key.iter().map(|at| &table.columns[*at])
}

/// Makes the staging table of a table, for this session. It has the columns that the sink writes
/// and their types, but no constraint: those are the target's to check. One of before goes: it has
/// the types of its time, and a column that was widened since would still refuse rows.
///
/// # Errors
/// A [`Fault`].
pub async fn create_staging(connection: &mut PgConnection, table: &Table) -> Result<(), Fault> {
    let statement = format!(
        "DROP TABLE IF EXISTS pg_temp.{0};
         CREATE TEMPORARY TABLE {0} ON COMMIT DELETE ROWS AS
         SELECT {1}, 0::integer AS {ORDINAL} FROM {2} WITH NO DATA",
        staging(table),
        columns(table),
        quoted(&table.name),
    );
    connection.execute(sqlx::raw_sql(&statement)).await?;
    Ok(())
}

/// The statement that drops it, so that it is made anew with other columns.
#[must_use]
pub fn drop_staging(table: &Table) -> String {
    format!("DROP TABLE IF EXISTS {}", staging(table))
}

async fn copy_in(connection: &mut PgConnection, into: &str, data: &[u8]) -> Result<u64, Fault> {
    let statement = format!("COPY {into} FROM STDIN (FORMAT binary)");
    let mut copy = connection.copy_in_raw(&statement).await?;
    copy.send(data).await?;
    Ok(copy.finish().await?)
}

/// Appends the chosen rows by COPY straight into the table.
///
/// # Errors
/// A [`Fault`]; a key that is there already is [`Action::RedoThroughStaging`].
pub async fn append(connection: &mut PgConnection, rows: &TableRows) -> Result<(), Fault> {
    let mut data = Vec::with_capacity(rows.tuples.len() + HEADER.len() + TRAILER.len());
    data.extend_from_slice(HEADER);
    if rows.rows.iter().all(|row| row.chosen) {
        data.extend_from_slice(rows.tuples.as_slice());
    } else {
        for row in rows.rows.iter().filter(|row| row.chosen) {
            data.extend_from_slice(rows.tuples.slice(row.span.clone()));
        }
    }
    data.extend_from_slice(&TRAILER);
    let columns = columns(&rows.table);
    copy_in(connection, &format!("{} ({columns})", quoted(&rows.table.name)), &data).await?;
    Ok(())
}

/// Stores the chosen rows through the staging table, and corrects the fates of those that the
/// table refused.
///
/// # Errors
/// A [`Fault`].
pub async fn through_staging(
    connection: &mut PgConnection,
    rows: &TableRows,
    arrays: Option<&Arrays>,
    fates: &mut [Fate],
) -> Result<(), Fault> {
    let mut groups = vec![chosen(rows)];
    while let Some(group) = groups.pop() {
        let corrections = stage(connection, rows, arrays, &group).await?;
        groups.extend(correct(rows, corrections, fates));
    }
    Ok(())
}

/// Notes what the table said. Returns the groups to be tried next: rows of the batch that were
/// compared with one that is in conflict with the table, and so is not there.
fn correct(
    rows: &TableRows,
    corrections: Vec<(usize, Fate)>,
    fates: &mut [Fate],
) -> Vec<Vec<usize>> {
    let mut groups = Vec::new();
    for (row, fate) in corrections {
        let conflict = fate == Fate::Conflict;
        fates[rows.rows[row].record] = fate;
        if conflict {
            groups.extend(successors(rows, row, fates));
        }
    }
    groups
}

fn chosen(rows: &TableRows) -> Vec<usize> {
    rows.rows.iter().enumerate().filter(|(_, row)| row.chosen).map(|(at, _)| at).collect()
}

/// Stores what can be stored of a table's rows and makes dead letters of the rest: halves are
/// tried under savepoints until each culprit stands alone. With `orphans`, rows without their parent
/// row are culprits too.
///
/// # Errors
/// A [`Fault`] that is about no row.
pub async fn isolating(
    connection: &mut PgConnection,
    rows: &TableRows,
    arrays: Option<&Arrays>,
    fates: &mut [Fate],
    orphans: bool,
) -> Result<(), Fault> {
    let mut groups = vec![chosen(rows)];
    while let Some(group) = groups.pop() {
        connection.execute("SAVEPOINT caudal_group").await?;
        let fault = match stage(connection, rows, arrays, &group).await {
            Ok(corrections) => {
                connection.execute("RELEASE SAVEPOINT caudal_group").await?;
                groups.extend(correct(rows, corrections, fates));
                continue;
            }
            // In this path a unique violation is of another index than the key's: poison too.
            Err(f) if matches!(f.action, Action::PoisonRow | Action::RedoThroughStaging) => f,
            Err(f) if orphans && f.action == Action::AwaitParent => f,
            Err(fault) => return Err(fault),
        };
        connection
            .execute("ROLLBACK TO SAVEPOINT caudal_group; RELEASE SAVEPOINT caudal_group")
            .await?;
        match group.as_slice() {
            [] => return Err(fault),
            [culprit] => {
                let row = &rows.rows[*culprit];
                fates[row.record] = Fate::Dead(fault.reason(), fault.text.clone());
                groups.extend(successors(rows, *culprit, fates));
            }
            more => {
                let (first, second) = more.split_at(more.len() / 2);
                groups.push(second.to_vec());
                groups.push(first.to_vec());
            }
        }
    }
    Ok(())
}

/// The rows that were passed over in favour of a row that turned out not to be stored, in the order
/// in which they are to be pushed (the last is popped first). To upsert: the value before, which
/// leads on by itself. To append: all later ones, one by one, because each is to be compared with
/// what the table has by then; they lead no further, or each would be tried again and again.
fn successors(rows: &TableRows, culprit: usize, fates: &mut [Fate]) -> Vec<Vec<usize>> {
    let mut line = Vec::new();
    let leads_on = rows.mode.keeps_last();
    let mut next = match rows.rows[culprit].chosen || leads_on {
        true => rows.rows[culprit].next_in_line,
        false => None,
    };
    while let Some(at) = next {
        fates[rows.rows[at].record] = rows.rows[at].fate();
        line.push(vec![at]);
        next = if leads_on { None } else { rows.rows[at].next_in_line };
    }
    line.reverse();
    line
}

/// COPY into the staging table, then INSERT … ON CONFLICT, or few rows by [`unnest`]; returns the rows
/// whose fate is another than their being stored.
async fn stage(
    connection: &mut PgConnection,
    rows: &TableRows,
    arrays: Option<&Arrays>,
    group: &[usize],
) -> Result<Vec<(usize, Fate)>, Fault> {
    let deletes = group.iter().any(|at| rows.rows[*at].is_gone);
    if let Some(arrays) = arrays.filter(|_| unnest::suits(rows.mode, group.len(), deletes)) {
        return unnest::upsert(connection, rows, group, arrays).await.map(|()| Vec::new());
    }
    let table = &rows.table;
    let (stage, columns) = (staging(table), columns(table));
    // ON COMMIT DELETE ROWS empties it after a db_tx, this between two groups of one.
    connection.execute(&*format!("DELETE FROM {stage}")).await?;
    let mut data = Tuples::default();
    data.append(HEADER);
    for at in group {
        let row = &rows.rows[*at];
        data.tuple(table.columns.len() + 1);
        // The tuple's own count of fields is left out.
        data.append(rows.tuples.slice(row.span.start + 2..row.span.end));
        data.int4(if row.is_gone { GONE } else { i32::try_from(*at).unwrap_or(i32::MAX) });
    }
    data.append(&TRAILER);
    copy_in(connection, &format!("{stage} ({columns}, {ORDINAL})"), data.as_slice()).await?;
    // Before the others: a row that goes may hold what another index keeps from being there twice.
    if deletes {
        delete(connection, table).await?;
    }
    match rows.mode {
        InsertMode::Upsert => upsert(connection, table).await.map(|()| Vec::new()),
        InsertMode::Update => update(connection, table).await.map(|()| Vec::new()),
        InsertMode::Insert | InsertMode::Ignore => insert(connection, table).await,
    }
}

async fn delete(connection: &mut PgConnection, table: &Table) -> Result<(), Fault> {
    let (target, stage) = (quoted(&table.name), staging(table));
    let statement = format!(
        "DELETE FROM {target} t USING {stage} s WHERE s.{ORDINAL} = {GONE} AND {}",
        same_key(table, "t", "s")
    );
    // Not prepared: a plan of the time when the table was small would read all of it for ever.
    connection.execute(&*statement).await?;
    Ok(())
}

fn same_key(table: &Table, a: &str, b: &str) -> String {
    let pairs = key_names(table).map(|k| format!("{a}.{0} = {b}.{0}", quoted(k)));
    pairs.collect::<Vec<_>>().join(" AND ")
}

async fn upsert(connection: &mut PgConnection, table: &Table) -> Result<(), Fault> {
    let from = format!("{} WHERE {ORDINAL} <> {GONE}", staging(table));
    sqlx::query(&upsert_statement(table, &from)).execute(connection).await?;
    Ok(())
}

/// The statement that upserts what comes `from` somewhere under the names of the columns. In the
/// order of the key, so that two sinks lock rows in one order.
pub(crate) fn upsert_statement(table: &Table, from: &str) -> String {
    let columns = columns(table);
    let key = list(key_names(table), "");
    let values: Vec<String> = (0..table.columns.len())
        .filter(|at| !table.key.contains(at))
        .map(|at| format!("{0} = EXCLUDED.{0}", quoted(&table.columns[at])))
        .collect();
    let action = if values.is_empty() {
        "NOTHING".to_owned()
    } else {
        format!("UPDATE SET {}", values.join(", "))
    };
    format!(
        "INSERT INTO {} ({columns}) SELECT {columns} FROM {from}
         ORDER BY {key} ON CONFLICT ({key}) DO {action}",
        quoted(&table.name)
    )
}

async fn update(connection: &mut PgConnection, table: &Table) -> Result<(), Fault> {
    let others = (0..table.columns.len()).filter(|at| !table.key.contains(at));
    let values = others.map(|at| format!("{0} = s.{0}", quoted(&table.columns[at])));
    let values = values.collect::<Vec<_>>().join(", ");
    if values.is_empty() {
        return Ok(());
    }
    let (target, stage) = (quoted(&table.name), staging(table));
    let statement = format!(
        "UPDATE {target} t SET {values} FROM {stage} s WHERE s.{ORDINAL} <> {GONE} AND {}",
        same_key(table, "t", "s")
    );
    // Not prepared, as in `delete`.
    connection.execute(&*statement).await?;
    Ok(())
}

async fn insert(connection: &mut PgConnection, table: &Table) -> Result<Vec<(usize, Fate)>, Fault> {
    let (target, stage) = (quoted(&table.name), staging(table));
    let columns = columns(table);
    let key = list(key_names(table), "");
    if key.is_empty() {
        let statement = format!("INSERT INTO {target} ({columns}) SELECT {columns} FROM {stage}");
        connection.execute(&*statement).await?;
        return Ok(Vec::new());
    }
    let statement = format!(
        "WITH stored AS (
             INSERT INTO {target} ({columns}) SELECT {columns} FROM {stage} ORDER BY {key}
             ON CONFLICT ({key}) DO NOTHING RETURNING {key}
         )
         SELECT s.{ORDINAL} FROM {stage} s
         WHERE NOT EXISTS (SELECT FROM stored WHERE {})",
        same_key(table, "stored", "s"),
    );
    let refused: Vec<i32> = sqlx::query_scalar(&statement).fetch_all(&mut *connection).await?;
    if refused.is_empty() {
        return Ok(Vec::new());
    }
    // A second statement, so that it sees the rows that refused ours even where another session
    // committed them while the first one waited.
    let equal: Vec<String> = table
        .compared
        .iter()
        .map(|at| format!("t.{0} IS NOT DISTINCT FROM s.{0}", quoted(&table.columns[*at])))
        .collect();
    let equal = if equal.is_empty() { "true".to_owned() } else { equal.join(" AND ") };
    let statement = format!(
        "SELECT s.{ORDINAL}, {equal} FROM {stage} s JOIN {target} t ON {}
         WHERE s.{ORDINAL} = ANY($1)",
        same_key(table, "t", "s"),
    );
    let compared = sqlx::query(&statement).bind(&refused).fetch_all(connection).await?;
    if compared.len() != refused.len() {
        // Somebody deleted the row in between: the next attempt stores ours.
        return Err(Fault {
            action: Action::RetryBatch,
            sqlstate: None,
            text: format!("a row of {} vanished while it was compared", table.name),
            disconnected: false,
        });
    }
    let mut fates = Vec::with_capacity(compared.len());
    for row in compared {
        let at = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or(usize::MAX);
        let equal: bool = row.try_get(1)?;
        fates.push((at, if equal { Fate::Duplicate } else { Fate::Conflict }));
    }
    Ok(fates)
}

/// Stores every dead letter of the batch: those received, and those that the fates make. Returns
/// how many.
///
/// # Errors
/// A [`Fault`].
pub async fn dead_letters(
    connection: &mut PgConnection,
    batch: &Batch,
    fates: &[Fate],
) -> Result<u64, Fault> {
    let mut data = Tuples::default();
    data.append(HEADER);
    for (at, (partition, record)) in batch.records.iter().enumerate() {
        if let Some((reason, error)) = dead_letter_of(&fates[at]) {
            dead_letter::write_own(&mut data, partition, record, reason, error);
        } else if batch.received_dead[at] {
            dead_letter::write_received(&mut data, partition, record);
        }
    }
    if data.len() == HEADER.len() {
        return Ok(0);
    }
    data.append(&TRAILER);
    let names = dead_letter::COLUMNS.map(str::to_owned);
    let into = format!("{} ({})", dead_letter::TABLE, list(names.iter(), ""));
    copy_in(connection, &into, data.as_slice()).await
}
