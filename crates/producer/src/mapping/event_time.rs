//! Event times in a source's own form.

use super::file::EventTimeSpec;
use super::row::{Header, Row};
use super::text::Template;
use super::usage;
use anyhow::Result;
use caudal_core::mask::mask_card_numbers;
use caudal_core::money::Amount;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::time::parse_rfc3339;
use jiff::civil::{DateTime, Time};
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;
use std::borrow::Cow;

/// An event time bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct BoundEventTime {
    origin: Origin,
    /// What a message calls it.
    name: String,
    forms: Forms,
}

#[derive(Debug, Clone)]
enum Origin {
    Column(usize),
    Template(Template),
}

/// The ways a source writes times, of which the first that fits counts.
#[derive(Debug, Clone)]
pub struct Forms {
    forms: Vec<Form>,
    zone: TimeZone,
    time_of_day: Time,
    /// First of the hundred years of two digits.
    century_from: i16,
    /// The source's own names of months in lower case, and the English ones. The longest first:
    /// "mars" before "mar".
    months: Vec<(String, &'static str)>,
}

/// A way to write times.
#[derive(Debug, Clone)]
enum Form {
    /// With an offset, as RFC 3339 wants it.
    Rfc3339,
    /// Since 1970: nanoseconds of one unit.
    Unix(i128),
    /// strptime with an offset of its own.
    WithOffset(String),
    /// strptime, local to the time zone.
    Local(String),
}

/// Characters of a time in another form that are shown.
const SHOWN: usize = 40;
/// What jiff takes `%y` for: 1969 to 2068.
const CENTURY_FROM: i16 = 1969;
/// English, as jiff's `%b` reads them.
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Checks a spec.
///
/// # Errors
/// `Usage` when there is not exactly one of column and template, a format cannot be read, the time
/// zone is unknown, or it is missing where a format has no offset, or there where none needs it.
pub fn check(spec: &EventTimeSpec) -> Result<Forms> {
    if spec.column.is_some() == spec.template.is_some() {
        return Err(usage("[event_time]: exactly one of column and template is needed".into()));
    }
    let names = spec.format.as_ref().map_or_else(|| vec!["rfc3339".into()], |f| f.0.clone());
    let forms: Vec<Form> = names.iter().map(|name| form(name)).collect::<Result<_>>()?;
    let local = forms.iter().zip(&names).find(|(form, _)| matches!(form, Form::Local(_)));
    let zone = match (local, &spec.time_zone) {
        (Some((_, format)), None) => {
            return Err(usage(format!(
                "[event_time] format = {format:?} has no offset (%z): say time_zone = \"UTC\" or \
                 an IANA name such as \"Europe/Madrid\""
            )));
        }
        (None, Some(_)) => {
            return Err(usage(format!(
                "[event_time] format = {:?} says the offset itself: remove time_zone",
                names.join(", ")
            )));
        }
        (Some(_), Some(name)) => TimeZone::get(name)
            .map_err(|e| usage(format!("[event_time] time_zone = {name:?}: {e}")))?,
        (None, None) => TimeZone::UTC,
    };
    let time_of_day = match spec.time_of_day.as_deref() {
        None => Time::midnight(),
        Some(text) => text.parse().map_err(|_| {
            usage(format!("[event_time] time_of_day = {text:?}: such as \"12:00:00\""))
        })?,
    };
    let months = months(spec.months.as_deref().unwrap_or_default())?;
    let century_from = spec.century_from.unwrap_or(CENTURY_FROM);
    if !(1800..=2100).contains(&century_from) {
        return Err(usage(format!("[event_time] century_from = {century_from}: 1800 to 2100")));
    }
    Ok(Forms { forms, zone, time_of_day, century_from, months })
}

fn months(names: &[String]) -> Result<Vec<(String, &'static str)>> {
    if !names.is_empty() && (names.len() != 12 || names.iter().any(String::is_empty)) {
        return Err(usage("[event_time] months: twelve names, January's first".into()));
    }
    let lower = names.iter().map(|name| name.to_lowercase());
    let mut all: Vec<_> = lower.zip(MONTHS).collect();
    all.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    Ok(all)
}

fn form(name: &str) -> Result<Form> {
    Ok(match name {
        "rfc3339" => Form::Rfc3339,
        "unix_seconds" => Form::Unix(1_000_000_000),
        "unix_millis" => Form::Unix(1_000_000),
        "unix_micros" => Form::Unix(1_000),
        "unix_nanos" => Form::Unix(1),
        format if !format.contains('%') => {
            return Err(usage(format!(
                "[event_time] format = {format:?}: rfc3339, unix_seconds, unix_millis, \
                 unix_micros, unix_nanos, or strptime's such as \"%d/%m/%Y %H:%M\""
            )));
        }
        format if ["%z", "%:z", "%::z", "%:::z"].iter().any(|z| format.contains(z)) => {
            Form::WithOffset(format.into())
        }
        format => Form::Local(format.into()),
    })
}

/// The columns that a spec names.
pub fn columns(spec: &EventTimeSpec) -> impl Iterator<Item = &str> {
    let template = spec.template.iter().flat_map(|text| Template::columns(text));
    spec.column.as_deref().into_iter().chain(template)
}

impl BoundEventTime {
    /// Binds checked forms to their columns.
    ///
    /// # Errors
    /// `Usage` when a column does not exist.
    pub fn bind(spec: &EventTimeSpec, forms: Forms, header: &Header) -> Result<BoundEventTime> {
        let (origin, name) = match (&spec.column, &spec.template) {
            (None, Some(text)) => {
                (Origin::Template(Template::bind(text, header)?), format!("{text:?}"))
            }
            (column, _) => {
                let name = column.clone().unwrap_or_default();
                (Origin::Column(header.find(&name)?), format!("column {name}"))
            }
        };
        Ok(BoundEventTime { origin, name, forms })
    }

    /// Microseconds since 1970, UTC.
    ///
    /// # Errors
    /// A rejection when the columns are empty or have another form.
    pub fn read(&self, row: &Row<'_>) -> Result<i64, Rejection> {
        let text = match &self.origin {
            Origin::Column(at) => Cow::Borrowed(row.text(*at)),
            Origin::Template(template) => Cow::Owned(template.fill(row)),
        };
        let text = text.trim();
        if text.is_empty() {
            let message = format!("{} is empty", self.name);
            return Err(Rejection::new(Reason::MissingField, message));
        }
        self.forms.parse(text).ok_or_else(|| {
            // Enough to see the form. Masked before it is cut: half of a card number would not be
            // known for one.
            let shown: String = mask_card_numbers(text).chars().take(SHOWN).collect();
            let message = format!("{} has a time in another format: {shown:?}", self.name);
            Rejection::new(Reason::Timestamp, message)
        })
    }
}

impl Forms {
    /// Microseconds since 1970, `None` when the text has none of the forms.
    #[must_use]
    pub fn parse(&self, text: &str) -> Option<i64> {
        self.forms.iter().find_map(|form| self.parse_as(form, text))
    }

    fn parse_as(&self, form: &Form, text: &str) -> Option<i64> {
        match form {
            Form::Rfc3339 => parse_rfc3339(text),
            Form::Unix(unit) => {
                // A fraction too, and exactly; digits below a microsecond are cut off.
                let count = Amount::parse(text).ok()?;
                let nanos = i128::from(count.units).checked_mul(*unit)?;
                let nanos = nanos.div_euclid(10_i128.pow(u32::from(count.scale)));
                i64::try_from(nanos.div_euclid(1_000)).ok()
            }
            Form::WithOffset(format) => {
                let mut parsed = strtime::parse(format, self.english(text).as_ref()).ok()?;
                self.complete(&mut parsed, format)?;
                Some(parsed.to_timestamp().ok()?.as_microsecond())
            }
            Form::Local(format) => {
                let mut parsed = strtime::parse(format, self.english(text).as_ref()).ok()?;
                self.complete(&mut parsed, format)?;
                let local: DateTime = parsed.to_datetime().ok()?;
                // A gap or a fold: the offset before the change, as the mapping documents.
                let instant = self.zone.to_ambiguous_timestamp(local).compatible().ok()?;
                Some(instant.as_microsecond())
            }
        }
    }

    /// Puts in the time of day where the format has none, and the century where it has two digits.
    fn complete(&self, parsed: &mut BrokenDownTime, format: &str) -> Option<()> {
        if parsed.hour().is_none() && parsed.timestamp().is_none() {
            parsed.set_hour(Some(self.time_of_day.hour())).ok()?;
            parsed.set_minute(Some(self.time_of_day.minute())).ok()?;
            parsed.set_second(Some(self.time_of_day.second())).ok()?;
        }
        let two_digits = format.contains("%y") || format.contains("%D");
        if let Some(year) = parsed.year().filter(|_| two_digits) {
            let year = self.century_from + (year - self.century_from).rem_euclid(100);
            parsed.set_year(Some(year)).ok()?;
        }
        Some(())
    }

    /// The text with the source's own name of a month in English.
    fn english<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.months.is_empty() {
            return Cow::Borrowed(text);
        }
        let lower = text.to_lowercase();
        let found = self.months.iter().find(|(name, _)| lower.contains(name.as_str()));
        found.map_or(Cow::Borrowed(text), |(name, english)| {
            Cow::Owned(lower.replacen(name.as_str(), english, 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::written::Names;
    use caudal_core::time::to_rfc3339;

    fn times(formats: &[&str], change: impl FnOnce(&mut EventTimeSpec)) -> Forms {
        let format = Names(formats.iter().map(|f| (*f).to_owned()).collect());
        let mut spec = EventTimeSpec {
            column: Some("Date".into()),
            format: Some(format),
            time_zone: Some("Europe/Madrid".into()),
            ..EventTimeSpec::default()
        };
        change(&mut spec);
        check(&spec).unwrap()
    }

    fn read(forms: &Forms, text: &str) -> Option<String> {
        forms.parse(text).map(to_rfc3339)
    }

    #[test]
    fn the_first_form_that_fits_counts() {
        let forms = times(&["%d/%m/%Y %H:%M", "%d/%m/%Y", "%d-%b-%y"], |_| {});
        assert_eq!(read(&forms, "05/01/2026 09:30").as_deref(), Some("2026-01-05T08:30:00Z"));
        assert_eq!(read(&forms, "5/7/2026").as_deref(), Some("2026-07-04T22:00:00Z"));
        assert_eq!(read(&forms, "05-Jan-26").as_deref(), Some("2026-01-04T23:00:00Z"));
        assert_eq!(read(&forms, "2026-01-05"), None);
    }

    #[test]
    fn noon_a_century_and_spanish_months() {
        let forms = times(&["%d-%b-%y"], |spec| {
            spec.time_of_day = Some("12:00:00".into());
            spec.century_from = Some(1950);
            let names = "ene feb mar abr may jun jul ago sept oct nov dic";
            spec.months = Some(names.split(' ').map(str::to_owned).collect());
        });
        assert_eq!(read(&forms, "05-ENE-49").as_deref(), Some("2049-01-05T11:00:00Z"));
        assert_eq!(read(&forms, "05-ago-50").as_deref(), Some("1950-08-05T11:00:00Z"));
        assert_eq!(read(&forms, "05-sept-99").as_deref(), Some("1999-09-05T10:00:00Z"));
    }

    #[test]
    fn counts_since_1970_are_exact() {
        let forms = |format| times(&[format], |spec| spec.time_zone = None);
        let read = |format, text: &str| forms(format).parse(text);
        assert_eq!(read("unix_seconds", "1700000000.1234567"), Some(1_700_000_000_123_456));
        assert_eq!(read("unix_millis", "1700000000123"), Some(1_700_000_000_123_000));
        assert_eq!(read("unix_nanos", "1700000000123456789"), Some(1_700_000_000_123_456));
        assert_eq!(read("unix_seconds", "1e300"), None);
        assert_eq!(read("unix_seconds", "9223372036854775807"), None);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let refused = |formats: &[&str], change: &dyn Fn(&mut EventTimeSpec)| {
            let format = Names(formats.iter().map(|f| (*f).to_owned()).collect());
            let mut spec = EventTimeSpec {
                column: Some("Date".into()),
                format: Some(format),
                ..EventTimeSpec::default()
            };
            change(&mut spec);
            check(&spec).unwrap_err().to_string()
        };
        assert!(refused(&["iso"], &|_| {}).contains("strptime"));
        assert!(refused(&["%Y"], &|_| {}).contains("time_zone"));
        assert!(refused(&["rfc3339"], &|s| s.time_zone = Some("UTC".into())).contains("remove"));
        assert!(refused(&["rfc3339"], &|s| s.time_of_day = Some("noon".into())).contains("noon"));
        assert!(refused(&["rfc3339"], &|s| s.months = Some(vec!["a".into()])).contains("twelve"));
        assert!(refused(&["rfc3339"], &|s| s.template = Some("{a}".into())).contains("one of"));
    }
}
