//! What to do when PostgreSQL refuses: one table from SQLSTATE to action.
//!
//! The two mistakes that matter: taking an outage for bad data (a day ends in the dead letters),
//! and taking bad data for an outage (one row stops everything). So only what is certainly about
//! a row's value is called poison, only what passes by itself is tried again, and the rest stops
//! the sink and says why.

use std::fmt;
use std::io::ErrorKind;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A value of some row: find the row, make it a dead letter, store the rest.
    PoisonRow,
    /// The row that this one refers to is not there. Another session may be about to commit it: try
    /// again a few times, then take the row for poison.
    AwaitParent,
    /// It passes by itself: keep the batch and try again, for ever.
    RetryBatch,
    /// The server was changed, or something is not understood: stop and say so.
    Stop,
    /// A key is there already: write the batch again through a staging table.
    RedoThroughStaging,
    /// A prepared statement is out of date: prepare again, once.
    PrepareAgain,
}

/// What to do about that SQLSTATE.
#[must_use]
pub fn action(sqlstate: &str) -> Action {
    match sqlstate {
        "23505" => Action::RedoThroughStaging,
        "23503" => Action::AwaitParent,
        // feature_not_supported: "cached plan must not change result type".
        "0A000" => Action::PrepareAgain,
        // Our own binary format is wrong: the table's types were changed. No row is at fault.
        "22P03" | "22P04" => Action::Stop,
        // Serialization, deadlock, lock not available; a standby that accepts no writes; a session
        // that was ended because it idled in a db_tx (a process that was stopped), or took too long.
        "40001" | "40P01" | "55P03" | "25006" | "25P03" | "25P04" => Action::RetryBatch,
        "54000" => Action::PoisonRow,
        _ => match sqlstate.get(..2) {
            Some("22" | "23") => Action::PoisonRow,
            // Connection, resources (disk, memory, connections), operator, system.
            Some("08" | "53" | "57" | "58") => Action::RetryBatch,
            // 42 (a changed table), 28 (a changed password) and everything unknown.
            _ => Action::Stop,
        },
    }
}

/// An error of the database without any value of a row: the server's own text may quote values,
/// so none of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What to do.
    pub action: Action,
    /// The server's code; `None` when the connection failed.
    pub sqlstate: Option<String>,
    /// What is wrong, redacted.
    pub text: String,
    /// Whether the connection can be used no more.
    pub disconnected: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// An error that stops the sink.
    pub fn stop(text: impl Into<String>) -> Fault {
        Fault { action: Action::Stop, sqlstate: None, text: text.into(), disconnected: false }
    }

    /// First two characters of the code, or `connection`: a label with few values.
    #[must_use]
    pub fn class(&self) -> &str {
        self.sqlstate.as_deref().and_then(|code| code.get(..2)).unwrap_or("connection")
    }

    /// The reason of the dead letter that a poison row becomes.
    #[must_use]
    pub fn reason(&self) -> caudal_core::reject::Reason {
        use caudal_core::reject::Reason;
        match self.sqlstate.as_deref() {
            // numeric_value_out_of_range.
            Some("22003") => Reason::Amount,
            // invalid_datetime_format, datetime_field_overflow.
            Some("22007" | "22008") => Reason::Timestamp,
            _ => Reason::Constraint,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        match &error {
            sqlx::Error::Database(refused) => of_server(refused.as_ref()),
            // What rustls makes of a handshake: a certificate that is not trusted, another name.
            sqlx::Error::Io(cause) if cause.kind() == ErrorKind::InvalidData => {
                Fault::stop(format!("TLS to PostgreSQL: {cause}"))
            }
            sqlx::Error::Io(cause) => lost(format!("connection to PostgreSQL: {}", cause.kind())),
            sqlx::Error::Protocol(_) => lost("PostgreSQL's answer was not understood".into()),
            sqlx::Error::Tls(cause) => Fault::stop(format!("TLS to PostgreSQL: {cause}")),
            sqlx::Error::Configuration(_) => {
                Fault::stop("--database-url cannot be used; expected postgres://user@host:port/db")
            }
            // Decoding what the server answered: the tables are not as the migrations made them.
            other => Fault::stop(format!("PostgreSQL: {}", kind(other))),
        }
    }
}

fn lost(text: String) -> Fault {
    Fault { action: Action::RetryBatch, sqlstate: None, text, disconnected: true }
}

fn kind(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => "a column has another type",
        sqlx::Error::ColumnNotFound(_) => "a column is missing",
        sqlx::Error::RowNotFound => "a row is missing",
        sqlx::Error::Encode(_) => "a value cannot be sent",
        _ => "unexpected error of the client",
    }
}

fn of_server(error: &dyn sqlx::error::DatabaseError) -> Fault {
    let code = error.code().map_or_else(|| "?????".to_owned(), |code| code.into_owned());
    let action = action(&code);
    let mut text = format!("<redacted> [SQLSTATE={code}");
    // Names of tables and constraints are the schema's, not a row's.
    for (what, name) in [("table", error.table()), ("constraint", error.constraint())] {
        if let Some(name) = name {
            text.push_str(&format!("; {what}={name}"));
        }
    }
    if action == Action::Stop {
        // These speak of objects and permissions, never of values: an operator needs the words.
        let wordy = matches!(code.get(..2), Some("42" | "28" | "3D" | "3F"));
        if wordy {
            text.push_str(&format!("; {}", error.message()));
        }
    }
    text.push(']');
    // Errors after which the session is gone, or must go: a standby stays read-only until the
    // client finds the new primary.
    let disconnected = matches!(code.get(..2), Some("08" | "57" | "53" | "58")) && code != "57014"
        || matches!(code.as_str(), "25006" | "25P03" | "25P04");
    Fault { action, sqlstate: Some(code), text, disconnected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_code_has_its_action() {
        let table = [
            ("PoisonRow", "22003 22001 22008 22021 22P05 23502 23514 23P01 54000"),
            (
                "RetryBatch",
                "40001 40P01 53100 53200 53300 55P03 57014 57P01 57P03 58030 25006 25P03 08006",
            ),
            ("Stop", "22P03 22P04 42703 42P01 42501 42804 28P01 3D000 25P02 XX000 54001 P0001"),
            ("RedoThroughStaging", "23505"),
            ("AwaitParent", "23503"),
            ("PrepareAgain", "0A000"),
        ];
        for (expected, codes) in table {
            for code in codes.split(' ') {
                assert_eq!(format!("{:?}", action(code)), expected, "{code}");
            }
        }
    }

    #[test]
    fn anything_odd_stops() {
        for code in ["", "2", "é0000", "99999"] {
            assert_eq!(action(code), Action::Stop);
        }
    }
}
