//! Functions of dates and times.

use super::{Argument, Function, Mismatch, Resolution, failed, fits, long, strict, text};
use crate::dates::{self, DAY, Pattern};
use crate::expr::EvalError;
use crate::types::SqlType::{self, Bigint, Date, Int, String as Text, Time, Timestamp};
use crate::value::Value;
use jiff::tz::TimeZone;

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "TIMESTAMPTOSTRING",
        usage: "TIMESTAMPTOSTRING(BIGINT milliseconds, 'pattern'[, 'time zone'])",
        resolve: timestamp_to_string,
    },
    Function {
        name: "STRINGTOTIMESTAMP",
        usage: "STRINGTOTIMESTAMP(STRING, 'pattern'[, 'time zone'])",
        resolve: string_to_timestamp,
    },
    Function {
        name: "FORMAT_TIMESTAMP",
        usage: "FORMAT_TIMESTAMP(TIMESTAMP, 'pattern'[, 'time zone'])",
        resolve: format_timestamp,
    },
    Function {
        name: "PARSE_TIMESTAMP",
        usage: "PARSE_TIMESTAMP(STRING, 'pattern'[, 'time zone'])",
        resolve: parse_timestamp,
    },
    Function { name: "FORMAT_DATE", usage: "FORMAT_DATE(DATE, 'pattern')", resolve: format_date },
    Function { name: "PARSE_DATE", usage: "PARSE_DATE(STRING, 'pattern')", resolve: parse_date },
    Function { name: "FORMAT_TIME", usage: "FORMAT_TIME(TIME, 'pattern')", resolve: format_time },
    Function { name: "PARSE_TIME", usage: "PARSE_TIME(STRING, 'pattern')", resolve: parse_time },
    Function {
        name: "DATETOSTRING",
        usage: "DATETOSTRING(INT days, 'pattern')",
        resolve: date_to_string,
    },
    Function {
        name: "STRINGTODATE",
        usage: "STRINGTODATE(STRING, 'pattern')",
        resolve: string_to_date,
    },
    Function {
        name: "TIMESTAMPADD",
        usage: "TIMESTAMPADD(unit, INT, TIMESTAMP)",
        resolve: timestamp_add,
    },
    Function {
        name: "TIMESTAMPSUB",
        usage: "TIMESTAMPSUB(unit, INT, TIMESTAMP)",
        resolve: timestamp_sub,
    },
    Function { name: "DATEADD", usage: "DATEADD(unit, INT, DATE)", resolve: date_add },
    Function { name: "DATESUB", usage: "DATESUB(unit, INT, DATE)", resolve: date_sub },
    Function { name: "TIMEADD", usage: "TIMEADD(unit, INT, TIME)", resolve: time_add },
    Function { name: "TIMESUB", usage: "TIMESUB(unit, INT, TIME)", resolve: time_sub },
    Function {
        name: "FROM_UNIXTIME",
        usage: "FROM_UNIXTIME(BIGINT milliseconds)",
        resolve: from_unixtime,
    },
    Function {
        name: "UNIX_TIMESTAMP",
        usage: "UNIX_TIMESTAMP(TIMESTAMP)",
        resolve: unix_timestamp,
    },
    Function { name: "FROM_DAYS", usage: "FROM_DAYS(INT)", resolve: from_days },
    Function { name: "UNIX_DATE", usage: "UNIX_DATE(DATE)", resolve: unix_date },
    Function {
        name: "CONVERT_TZ",
        usage: "CONVERT_TZ(TIMESTAMP, 'from', 'to')",
        resolve: convert_tz,
    },
];

/// A pattern and a time zone, compiled once where they are literals.
struct Format {
    pattern: Option<Pattern>,
    zone: Option<TimeZone>,
}

impl Format {
    /// The pattern is argument 1, the zone 2.
    fn of(args: &[Argument]) -> Result<Format, Mismatch> {
        let constant = |at: usize| args.get(at).and_then(|arg| arg.constant.as_ref()?.as_text());
        let pattern = constant(1).map(Pattern::compile).transpose();
        let pattern = pattern.map_err(|why| Mismatch::Constant(1, why))?;
        let zone = match constant(2) {
            Some(name) => {
                let unknown = || Mismatch::Constant(2, format!("unknown time zone {name}"));
                Some(dates::zone(name).ok_or_else(unknown)?)
            }
            None if args.len() < 3 => Some(TimeZone::UTC),
            None => None,
        };
        Ok(Format { pattern, zone })
    }

    fn with<T>(
        &self,
        args: &mut [Value<'_>],
        f: impl FnOnce(&Pattern, &TimeZone) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let (pattern, zone);
        let pattern = match &self.pattern {
            Some(known) => known,
            None => {
                pattern = Pattern::compile(&text(&mut args[1])).map_err(failed)?;
                &pattern
            }
        };
        let zone = match &self.zone {
            Some(known) => known,
            None => {
                let name = text(&mut args[2]);
                zone = dates::zone(&name)
                    .ok_or_else(|| failed(format!("unknown time zone {name}")))?;
                &zone
            }
        };
        f(pattern, zone)
    }

    fn text<'a>(
        &self,
        args: &mut [Value<'a>],
        micros: Option<i64>,
    ) -> Result<Value<'a>, EvalError> {
        self.with(args, |pattern, zone| {
            let text = micros.and_then(|micros| pattern.format(micros, zone));
            text.map(Value::text).ok_or_else(|| failed("a moment outside the calendar"))
        })
    }

    /// The day that a text begins with. ksqlDB reads dates alone so: what follows is passed over.
    fn day_at_start(&self, args: &mut [Value<'_>]) -> Result<i64, EvalError> {
        let whole = text(&mut args[0]);
        let start = |pattern: &Pattern, zone: &TimeZone| pattern.parse_start(&whole, zone);
        let micros =
            self.with(args, |pattern, zone| Ok(start(pattern, zone).map_err(failed)?.0))?;
        if micros.rem_euclid(DAY) != 0 {
            return Err(failed(format!("{whole:?} has a time of day beside its date")));
        }
        Ok(micros.div_euclid(DAY))
    }

    fn micros(&self, args: &mut [Value<'_>]) -> Result<i64, EvalError> {
        let whole = text(&mut args[0]);
        self.with(args, |pattern, zone| pattern.parse(&whole, zone).map_err(failed))
    }
}

fn with_zone(args: &[Argument], first: SqlType) -> Result<Vec<SqlType>, Mismatch> {
    let kinds = [first, Text, Text];
    fits(args, &kinds[..args.len().clamp(2, 3)])
}

fn timestamp_to_string(args: &[Argument]) -> Resolution {
    let (kinds, format) = (with_zone(args, Bigint)?, Format::of(args)?);
    strict(Text, kinds, move |a| {
        let micros = long(&a[0]).checked_mul(1_000);
        format.text(a, micros)
    })
}

fn string_to_timestamp(args: &[Argument]) -> Resolution {
    let (kinds, format) = (with_zone(args, Text)?, Format::of(args)?);
    strict(Bigint, kinds, move |a| Ok(Value::Long(format.micros(a)?.div_euclid(1_000))))
}

fn format_timestamp(args: &[Argument]) -> Resolution {
    let (kinds, format) = (with_zone(args, Timestamp)?, Format::of(args)?);
    strict(Text, kinds, move |a| {
        let micros = Some(long(&a[0]));
        format.text(a, micros)
    })
}

fn parse_timestamp(args: &[Argument]) -> Resolution {
    let (kinds, format) = (with_zone(args, Text)?, Format::of(args)?);
    strict(Timestamp, kinds, move |a| Ok(Value::Timestamp(format.micros(a)?)))
}

fn format_days(args: &[Argument], kind: SqlType) -> Resolution {
    let (kinds, format) = (fits(args, &[kind, Text])?, Format::of(args)?);
    strict(Text, kinds, move |a| {
        let micros = long(&a[0]).checked_mul(DAY);
        format.text(a, micros)
    })
}

fn format_date(args: &[Argument]) -> Resolution {
    format_days(args, Date)
}

fn date_to_string(args: &[Argument]) -> Resolution {
    format_days(args, Int)
}

fn parse_date(args: &[Argument]) -> Resolution {
    let (kinds, format) = (fits(args, &[Text, Text])?, Format::of(args)?);
    strict(Date, kinds, move |a| Ok(Value::Date(format.day_at_start(a)?)))
}

fn string_to_date(args: &[Argument]) -> Resolution {
    let (kinds, format) = (fits(args, &[Text, Text])?, Format::of(args)?);
    strict(Int, kinds, move |a| Ok(Value::Long(format.micros(a)?.div_euclid(DAY))))
}

fn format_time(args: &[Argument]) -> Resolution {
    let (kinds, format) = (fits(args, &[Time, Text])?, Format::of(args)?);
    strict(Text, kinds, move |a| {
        let micros = long(&a[0]).checked_mul(1_000);
        format.text(a, micros)
    })
}

fn parse_time(args: &[Argument]) -> Resolution {
    let (kinds, format) = (fits(args, &[Text, Text])?, Format::of(args)?);
    strict(Time, kinds, move |a| Ok(Value::Time(format.micros(a)?.rem_euclid(DAY) / 1_000)))
}

/// A unit of time: microseconds, or months.
#[derive(Clone, Copy)]
enum Unit {
    Micros(i64),
    Months(i64),
}

/// The units that ksqlDB's arithmetic takes; the binder hands the word over as a text.
fn unit(args: &[Argument]) -> Result<Unit, Mismatch> {
    let constant = args.first().and_then(|arg| arg.constant.as_ref()?.as_text());
    let Some(word) = constant else {
        return Err(Mismatch::Constant(0, "the unit is a word such as DAYS".into()));
    };
    let upper = word.to_uppercase();
    if let Some(millis) = crate::parser::unit_milliseconds(&upper) {
        return Ok(Unit::Micros(millis * 1_000));
    }
    match upper.strip_suffix('S').unwrap_or(&upper) {
        "WEEK" => Ok(Unit::Micros(7 * DAY)),
        "MONTH" => Ok(Unit::Months(1)),
        "QUARTER" => Ok(Unit::Months(3)),
        "YEAR" => Ok(Unit::Months(12)),
        "MICROSECOND" => Ok(Unit::Micros(1)),
        _ => Err(Mismatch::Constant(0, format!("unknown unit of time {word}"))),
    }
}

fn moved(micros: i64, unit: Unit, count: i64) -> Result<i64, EvalError> {
    let moved = match unit {
        Unit::Micros(length) => count.checked_mul(length).and_then(|by| micros.checked_add(by)),
        Unit::Months(months) => {
            count.checked_mul(months).and_then(|by| dates::add_months(micros, by))
        }
    };
    moved.ok_or_else(|| failed("a moment outside the calendar"))
}

fn timestamp_by(args: &[Argument], sign: i64) -> Resolution {
    let (kinds, unit) = (fits(args, &[Text, Int, Timestamp])?, unit(args)?);
    strict(Timestamp, kinds, move |a| {
        Ok(Value::Timestamp(moved(long(&a[2]), unit, sign * long(&a[1]))?))
    })
}

fn timestamp_add(args: &[Argument]) -> Resolution {
    timestamp_by(args, 1)
}

fn timestamp_sub(args: &[Argument]) -> Resolution {
    timestamp_by(args, -1)
}

fn date_by(args: &[Argument], sign: i64) -> Resolution {
    let (kinds, unit) = (fits(args, &[Text, Int, Date])?, unit(args)?);
    strict(Date, kinds, move |a| {
        let micros = long(&a[2]).checked_mul(DAY).ok_or_else(|| failed("no date"))?;
        Ok(Value::Date(moved(micros, unit, sign * long(&a[1]))?.div_euclid(DAY)))
    })
}

fn date_add(args: &[Argument]) -> Resolution {
    date_by(args, 1)
}

fn date_sub(args: &[Argument]) -> Resolution {
    date_by(args, -1)
}

/// A time goes round at midnight.
fn time_by(args: &[Argument], sign: i64) -> Resolution {
    let (kinds, unit) = (fits(args, &[Text, Int, Time])?, unit(args)?);
    strict(Time, kinds, move |a| {
        let micros = moved(long(&a[2]) * 1_000, unit, sign * long(&a[1]))?;
        Ok(Value::Time(micros.rem_euclid(DAY) / 1_000))
    })
}

fn time_add(args: &[Argument]) -> Resolution {
    time_by(args, 1)
}

fn time_sub(args: &[Argument]) -> Resolution {
    time_by(args, -1)
}

fn from_unixtime(args: &[Argument]) -> Resolution {
    strict(Timestamp, fits(args, &[Bigint])?, |a| {
        let micros = long(&a[0]).checked_mul(1_000);
        micros.map(Value::Timestamp).ok_or_else(|| failed("a moment outside the calendar"))
    })
}

fn unix_timestamp(args: &[Argument]) -> Resolution {
    strict(Bigint, fits(args, &[Timestamp])?, |a| Ok(Value::Long(long(&a[0]).div_euclid(1_000))))
}

fn from_days(args: &[Argument]) -> Resolution {
    strict(Date, fits(args, &[Int])?, |a| Ok(Value::Date(long(&a[0]))))
}

fn unix_date(args: &[Argument]) -> Resolution {
    strict(Int, fits(args, &[Date])?, |a| Ok(Value::Long(long(&a[0]))))
}

/// The clock of one zone at what was read as another's.
fn convert_tz(args: &[Argument]) -> Resolution {
    let kinds = fits(args, &[Timestamp, Text, Text])?;
    strict(Timestamp, kinds, |a| {
        let zone = |name: &str| {
            dates::zone(name).ok_or_else(|| failed(format!("unknown time zone {name}")))
        };
        let (from, to) = (zone(&text(&mut a[1]))?, zone(&text(&mut a[2]))?);
        let at = jiff::Timestamp::from_microsecond(long(&a[0]));
        let at = at.map_err(|_| failed("a moment outside the calendar"))?;
        let seconds = |zone: &TimeZone| i64::from(zone.to_offset(at).seconds());
        Ok(Value::Timestamp(long(&a[0]) + (seconds(&to) - seconds(&from)) * 1_000_000))
    })
}
