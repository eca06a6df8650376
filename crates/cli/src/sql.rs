//! `caudal sql "SELECT …"`: a table on the screen where psql is missing.

use anyhow::{Context as _, Result};
use caudal_sink::postgres::endpoint;
use clap::Args;
use sqlx::{Column as _, ConnectOptions as _, Row as _, ValueRef as _};

/// Arguments of `caudal sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// A statement, or several separated by semicolons
    statement: String,
    /// PostgreSQL, postgres://user:password@host:port/database [default: the native stack's]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

/// Runs the statement and prints its rows.
///
/// # Errors
/// What PostgreSQL says.
pub async fn run(args: &SqlArgs) -> Result<()> {
    let url = match &args.database_url {
        Some(url) => url.clone(),
        None => caudal_stack::Stack::open()?.database_url(),
    };
    let mut connection = endpoint(&url)?.connect().await.context(
        "cannot connect to PostgreSQL (--database-url); is the stack up? `caudal stack status`",
    )?;
    let rows = sqlx::raw_sql(&args.statement).fetch_all(&mut connection).await?;
    let Some(first) = rows.first() else {
        println!("(no rows)");
        return Ok(());
    };
    let names: Vec<String> = first.columns().iter().map(|c| c.name().to_owned()).collect();
    let mut table = vec![names.clone()];
    for row in &rows {
        let cell = |i: usize| -> Result<String> {
            let value = row.try_get_raw(i)?;
            // The simple protocol answers in text, whatever the type.
            Ok(if value.is_null() {
                String::new()
            } else {
                value.as_str().map_err(anyhow::Error::from_boxed)?.to_owned()
            })
        };
        table.push((0..names.len()).map(cell).collect::<Result<_>>()?);
    }
    print!("{}", aligned(&table));
    println!("({} row{})", rows.len(), if rows.len() == 1 { "" } else { "s" });
    Ok(())
}

/// Columns as wide as their widest cell, a rule below the names; numbers to the right.
#[must_use]
pub fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |c: usize| table.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric = |c: usize| {
        table.iter().skip(1).all(|row| row[c].is_empty() || row[c].parse::<f64>().is_ok())
    };
    let right: Vec<bool> = (0..columns).map(numeric).collect();
    let mut out = String::new();
    for (i, row) in table.iter().enumerate() {
        let cells: Vec<String> = (0..columns)
            .map(|c| match right[c] {
                true => format!("{:>1$}", row[c], widths[c]),
                false => format!("{:<1$}", row[c], widths[c]),
            })
            .collect();
        out.push_str(format!(" {}", cells.join(" | ")).trim_end());
        out.push('\n');
        if i == 0 {
            let rules: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
            out.push_str(&rules.join("+"));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let table =
            [["name", "n"], ["añb", "1"], ["c", "100"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(aligned(&table), " name |   n\n------+-----\n añb  |   1\n c    | 100\n");
    }
}
