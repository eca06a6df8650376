//! The schema of the database: the numbered files under `sql/`, each applied once.

use crate::fault::Fault;
use crate::postgres;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _, Row as _};

/// Number, name and text of every migration, in order. A file that was released is never edited:
/// a later one corrects it.
const FILES: [(i32, &str, &str); 6] = [
    (1, "0001_tables", include_str!("../../../sql/0001_tables.sql")),
    (2, "0002_deleted", include_str!("../../../sql/0002_deleted.sql")),
    (3, "0003_redrive", include_str!("../../../sql/0003_redrive.sql")),
    (4, "0004_retention", include_str!("../../../sql/0004_retention.sql")),
    (5, "0005_topic_id", include_str!("../../../sql/0005_topic_id.sql")),
    (6, "0006_room", include_str!("../../../sql/0006_room.sql")),
];

/// Any number that no other program is likely to use: one migration at a time.
const LOCK: i64 = 0x6361_7564_616c;

/// Brings the database up to date and returns the names of what was applied; nothing when it was.
/// Safe to call at any time, from several processes at once. Not from within a tokio runtime.
///
/// # Errors
/// A [`Fault`] when the server refuses; and when a file differs from what was applied under its
/// number, or the database is newer than this program.
pub fn migrate(database_url: &str) -> Result<Vec<&'static str>, Fault> {
    let options = postgres::options(database_url)?;
    let runtime = postgres::runtime()?;
    runtime.block_on(async {
        let mut connection = postgres::connect(&options).await?;
        let applied = apply(&mut connection).await;
        // Closed either way; a failed db_tx ends with its session.
        connection.close().await.ok();
        applied
    })
}

/// As [`migrate`], on a connection that is there already.
///
/// # Errors
/// As [`migrate`]; the db_tx is then still open.
pub async fn apply(connection: &mut PgConnection) -> Result<Vec<&'static str>, Fault> {
    begin_locked(connection).await?;
    // Asked first: IF NOT EXISTS would need the right to create even where there is nothing to do.
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('caudal_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        connection
            .execute(
                "CREATE TABLE caudal_migrations (
                     number integer PRIMARY KEY,
                     name text NOT NULL,
                     sha256 text NOT NULL,
                     applied_at timestamptz NOT NULL DEFAULT now()
                 )",
            )
            .await?;
    }
    let rows = sqlx::query("SELECT number, name, sha256 FROM caudal_migrations ORDER BY number")
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        check(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?;
    }
    let done: Vec<i32> = sqlx::query_scalar("SELECT number FROM caudal_migrations")
        .fetch_all(&mut *connection)
        .await?;
    let mut applied = Vec::new();
    for (number, name, text) in FILES.into_iter().filter(|(number, ..)| !done.contains(number)) {
        connection.execute(sqlx::raw_sql(text)).await?;
        sqlx::query("INSERT INTO caudal_migrations (number, name, sha256) VALUES ($1, $2, $3)")
            .bind(number)
            .bind(name)
            .bind(checksum(text))
            .execute(&mut *connection)
            .await?;
        applied.push(name);
    }
    connection.execute("COMMIT").await?;
    Ok(applied)
}

/// Begins a db_tx that changes the schema: one at a time in the whole database.
///
/// # Errors
/// A [`Fault`]; the db_tx is then still open.
pub async fn begin_locked(connection: &mut PgConnection) -> Result<(), Fault> {
    connection.execute("BEGIN").await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    Ok(())
}

fn check(number: i32, name: &str, sha256: &str) -> Result<(), Fault> {
    match FILES.iter().find(|(n, ..)| *n == number) {
        None => Err(Fault::stop(format!(
            "the database has migration {name}, which this program does not know; \
             run the newer program"
        ))),
        Some((_, name, text)) if checksum(text) != sha256 => Err(Fault::stop(format!(
            "sql/{name}.sql differs from what was applied to this database; \
             restore the file, and put the change into a new one"
        ))),
        Some(_) => Ok(()),
    }
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_in_order() {
        for (at, (number, name, _)) in (1..).zip(FILES) {
            assert_eq!(number, at);
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }

    #[test]
    fn edits_and_the_future_are_refused() {
        let (number, name, text) = FILES[0];
        check(number, name, &checksum(text)).unwrap();
        assert!(check(number, name, "x").unwrap_err().text.contains("differs"));
        assert!(check(9999, "9999_x", "x").unwrap_err().text.contains("newer"));
    }
}
