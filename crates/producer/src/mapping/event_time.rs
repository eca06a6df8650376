//! Event times in a source's own form.

use super::file::EventTimeSpec;
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::time::parse_rfc3339;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// An event time bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundEventTime {
    at: usize,
    column: String,
    form: Form,
}

/// How a time is written.
#[derive(Debug, Clone)]
pub enum Form {
    /// With an offset, as RFC 3339 wants it.
    Rfc3339,
    /// Seconds or milliseconds since 1970: microseconds of one unit.
    Unix(i64),
    /// strptime with an offset of its own.
    WithOffset(String),
    /// strptime, local to a time zone.
    Local(String, TimeZone),
}

/// Checks a spec.
///
/// # Errors
/// `Usage` when the time zone is unknown, or is missing where the format has no offset.
pub fn check(spec: &EventTimeSpec) -> Result<Form> {
    let form = match spec.format.as_str() {
        "rfc3339" => Form::Rfc3339,
        "unix_seconds" => Form::Unix(1_000_000),
        "unix_millis" => Form::Unix(1_000),
        format if format.contains("%z") || format.contains("%:z") => {
            Form::WithOffset(format.into())
        }
        format => {
            let name = spec.time_zone.as_deref().ok_or_else(|| {
                usage(format!(
                    "[event_time] format = {format:?} has no offset (%z): say time_zone = \"UTC\" \
                     or an IANA name such as \"Europe/Madrid\""
                ))
            })?;
            let zone = TimeZone::get(name)
                .map_err(|e| usage(format!("[event_time] time_zone = {name:?}: {e}")))?;
            return Ok(Form::Local(format.into(), zone));
        }
    };
    match &spec.time_zone {
        None => Ok(form),
        Some(_) => Err(usage(format!(
            "[event_time] format = {:?} says the offset itself: remove time_zone",
            spec.format
        ))),
    }
}

impl BoundEventTime {
    /// Binds a checked form to its column.
    ///
    /// # Errors
    /// `Usage` when the column does not exist.
    pub fn bind(spec: &EventTimeSpec, form: Form, header: &Header) -> Result<BoundEventTime> {
        let column = spec.column.clone();
        Ok(BoundEventTime { at: header.find(&column)?, column, form })
    }

    /// Microseconds since 1970, UTC.
    ///
    /// # Errors
    /// A rejection when the column is empty or has another form.
    pub fn read(&self, row: &Row<'_>) -> Result<i64, Rejection> {
        let text = row.text(self.at);
        if text.is_empty() {
            let message = format!("column {} is empty", self.column);
            return Err(Rejection::new(Reason::MissingField, message));
        }
        self.form.parse(text).ok_or_else(|| {
            let message = format!("column {} has a time in another format", self.column);
            Rejection::new(Reason::Timestamp, message)
        })
    }
}

impl Form {
    /// Microseconds since 1970, `None` when the text has another form.
    #[must_use]
    pub fn parse(&self, text: &str) -> Option<i64> {
        match self {
            Form::Rfc3339 => parse_rfc3339(text),
            Form::Unix(unit) => text.parse::<i64>().ok()?.checked_mul(*unit),
            Form::WithOffset(format) => {
                Some(strtime::parse(format, text).ok()?.to_timestamp().ok()?.as_microsecond())
            }
            Form::Local(format, zone) => {
                let local = DateTime::strptime(format, text).ok()?;
                // A gap or a fold: the offset before the change, as the mapping documents.
                let instant = zone.to_ambiguous_timestamp(local).compatible().ok()?;
                Some(instant.as_microsecond())
            }
        }
    }
}
