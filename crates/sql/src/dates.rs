//! Dates and times as texts, by Java's patterns (`DateTimeFormatter`), which ksqlDB uses.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// A letter and how often it is repeated.
    Field(char, usize),
}

/// A compiled pattern, such as `yyyy-MM-dd'T'HH:mm:ss.SSS`.
#[derive(Debug, Clone)]
pub struct Pattern(Vec<Piece>);

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// What letter `z` reads beside whole names. As in Java, the summer name of a zone means the zone:
/// the date decides.
const ABBREVIATIONS: [(&str, &str); 16] = [
    ("PST", "America/Los_Angeles"),
    ("PDT", "America/Los_Angeles"),
    ("MST", "America/Denver"),
    ("MDT", "America/Denver"),
    ("CST", "America/Chicago"),
    ("CDT", "America/Chicago"),
    ("EST", "America/New_York"),
    ("EDT", "America/New_York"),
    ("BST", "Europe/London"),
    ("WET", "Europe/Lisbon"),
    ("WEST", "Europe/Lisbon"),
    ("CET", "Europe/Paris"),
    ("CEST", "Europe/Paris"),
    ("EET", "Europe/Bucharest"),
    ("EEST", "Europe/Bucharest"),
    ("JST", "Asia/Tokyo"),
];

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The letter that means nothing here, or an open quote.
    pub fn compile(pattern: &str) -> Result<Pattern, String> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                let literal = quoted(&mut chars)
                    .ok_or_else(|| format!("a quote in {pattern:?} is not closed"))?;
                pieces.push(Piece::Literal(literal));
            } else if c.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&c).is_some() {
                    count += 1;
                }
                if !"yuMLdDHhkKmsSnaEezxXZVG".contains(c) {
                    return Err(format!(
                        "{c:?} in {pattern:?} is no letter of a date pattern that is supported"
                    ));
                }
                pieces.push(Piece::Field(c, count));
            } else {
                pieces.push(Piece::Literal(c.to_string()));
            }
        }
        Ok(Pattern(pieces))
    }

    /// The text of a moment in a time zone.
    #[must_use]
    pub fn format(&self, micros: i64, zone: &TimeZone) -> Option<String> {
        let zoned = Timestamp::from_microsecond(micros).ok()?.to_zoned_datetime(zone.clone());
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Field(letter, count) => out.push_str(&field(&zoned, *letter, *count)),
            }
        }
        Some(out)
    }

    /// Reads a text. What the pattern does not name is the start of 1970.
    ///
    /// # Errors
    /// Where the text departs from the pattern.
    pub fn parse(&self, text: &str, zone: &TimeZone) -> Result<i64, String> {
        let (micros, rest) = self.parse_start(text, zone)?;
        if rest.is_empty() {
            return Ok(micros);
        }
        Err(format!("{text:?} is longer than the pattern"))
    }

    /// Reads the start of a text, and gives what follows it.
    ///
    /// # Errors
    /// Where the text departs from the pattern.
    pub fn parse_start<'t>(
        &self,
        text: &'t str,
        zone: &TimeZone,
    ) -> Result<(i64, &'t str), String> {
        let mut read = Read { rest: text, ..Read::default() };
        for (at, piece) in self.0.iter().enumerate() {
            let next_is_field = matches!(self.0.get(at + 1), Some(Piece::Field(..)));
            read.piece(piece, next_is_field)
                .ok_or_else(|| format!("{text:?} does not fit the pattern"))?;
        }
        let micros = read.moment(zone).ok_or_else(|| format!("{text:?} is no date"))?;
        Ok((micros, read.rest))
    }
}

/// The rest of a quoted piece; two quotes are one.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    if chars.next_if_eq(&'\'').is_some() {
        return Some("'".into());
    }
    let mut literal = String::new();
    loop {
        match chars.next()? {
            '\'' if chars.next_if_eq(&'\'').is_some() => literal.push('\''),
            '\'' => return Some(literal),
            c => literal.push(c),
        }
    }
}

fn field(at: &ZonedDateTime, letter: char, count: usize) -> String {
    let padded = |number: i64| format!("{number:0>count$}");
    let named = |names: &[&str], index: i8| {
        let name = names.get((index - 1) as usize).copied().unwrap_or_default();
        if count == 3 { name[..3].to_owned() } else { name.to_owned() }
    };
    let hour = i64::from(at.hour());
    match letter {
        'y' | 'u' if count == 2 => format!("{:02}", at.year().rem_euclid(100)),
        'y' | 'u' => padded(i64::from(at.year())),
        'M' | 'L' if count >= 3 => named(&MONTHS, at.month()),
        'M' | 'L' => padded(i64::from(at.month())),
        'd' => padded(i64::from(at.day())),
        'D' => padded(i64::from(at.day_of_year())),
        'H' => padded(hour),
        'k' => padded(if hour == 0 { 24 } else { hour }),
        'K' => padded(hour % 12),
        'h' => padded((hour + 11) % 12 + 1),
        'm' => padded(i64::from(at.minute())),
        's' => padded(i64::from(at.second())),
        'S' => format!("{:09}", at.subsec_nanosecond())[..count.min(9)].to_owned(),
        'n' => padded(i64::from(at.subsec_nanosecond())),
        'a' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'E' if count <= 3 => {
            DAYS[(at.weekday().to_monday_one_offset() - 1) as usize][..3].to_owned()
        }
        'E' => named(&DAYS, at.weekday().to_monday_one_offset()),
        'e' => padded(i64::from(at.weekday().to_sunday_one_offset())),
        'G' => if at.year() > 0 { "AD" } else { "BC" }.to_owned(),
        'z' => at.time_zone().to_offset_info(at.timestamp()).abbreviation().to_owned(),
        'V' => at.time_zone().iana_name().unwrap_or("UTC").to_owned(),
        _ => offset_text(at.offset().seconds(), letter, count),
    }
}

/// `X` writes Z for zero; `x` and `Z` do not. One letter: hours; two and four: no colon.
fn offset_text(seconds: i32, letter: char, count: usize) -> String {
    if letter == 'X' && seconds == 0 {
        return "Z".to_owned();
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let (hours, minutes) = (seconds.abs() / 3_600, seconds.abs() / 60 % 60);
    match (letter, count) {
        ('X' | 'x', 1) if minutes == 0 => format!("{sign}{hours:02}"),
        ('X' | 'x', 1 | 2 | 4) | ('Z', 1..=3) => format!("{sign}{hours:02}{minutes:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}"),
    }
}

/// What a parse has found so far.
#[derive(Debug, Default)]
struct Read<'t> {
    rest: &'t str,
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    hour: i64,
    afternoon: Option<bool>,
    minute: i64,
    second: i64,
    nanos: i64,
    offset_seconds: Option<i64>,
    zone: Option<TimeZone>,
}

impl Read<'_> {
    fn piece(&mut self, piece: &Piece, next_is_field: bool) -> Option<()> {
        let (letter, count) = match piece {
            Piece::Literal(text) => {
                self.rest = self.rest.strip_prefix(text.as_str())?;
                return Some(());
            }
            Piece::Field(letter, count) => (*letter, *count),
        };
        // Digits that stand directly before others have exactly their letters' number.
        let most = if next_is_field || count == 2 { count } else { 19 };
        match letter {
            'y' | 'u' => {
                let year = self.digits(count.min(4), most)?;
                self.year = Some(if count == 2 { 2_000 + year } else { year });
            }
            'M' | 'L' if count >= 3 => self.month = Some(self.name(&MONTHS, count)?),
            'M' | 'L' => self.month = Some(self.digits(count, most.max(2))?),
            'd' => self.day = Some(self.digits(count, most.max(2))?),
            'D' => self.day_of_year = Some(self.digits(count, most.max(3))?),
            'H' | 'K' => self.hour = self.digits(count, most.max(2))?,
            'h' => self.hour = self.digits(count, most.max(2))? % 12,
            'k' => self.hour = self.digits(count, most.max(2))? % 24,
            'm' => self.minute = self.digits(count, most.max(2))?,
            's' => self.second = self.digits(count, most.max(2))?,
            'S' => {
                let number = self.digits(count, count)?;
                self.nanos = number * 10_i64.checked_pow(9_u32.checked_sub(count as u32)?)?;
            }
            'n' => self.nanos = self.digits(1, most)?,
            'a' => {
                let (word, rest) = self.rest.split_at_checked(2)?;
                self.afternoon = Some(match word.to_ascii_uppercase().as_str() {
                    "AM" => false,
                    "PM" => true,
                    _ => return None,
                });
                self.rest = rest;
            }
            'E' => {
                self.name(&DAYS, count.max(3))?;
            }
            'V' | 'z' => self.zone_name(letter == 'z')?,
            'X' | 'x' | 'Z' => self.offset()?,
            _ => return None,
        }
        Some(())
    }

    fn digits(&mut self, least: usize, most: usize) -> Option<i64> {
        let found = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if found < least {
            return None;
        }
        let (digits, rest) = self.rest.split_at(found);
        self.rest = rest;
        digits.parse().ok()
    }

    fn name(&mut self, names: &[&str], count: usize) -> Option<i64> {
        for (number, name) in (1..).zip(names) {
            let name = if count == 3 { &name[..3] } else { name };
            let head = self.rest.get(..name.len());
            if head.is_some_and(|head| head.eq_ignore_ascii_case(name)) {
                self.rest = &self.rest[name.len()..];
                return Some(number);
            }
        }
        None
    }

    /// With `abbreviated`, `PST` and the like name a zone too.
    fn zone_name(&mut self, abbreviated: bool) -> Option<()> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "/_+-".contains(c)))
            .unwrap_or(self.rest.len());
        let written = &self.rest[..end];
        let known = ABBREVIATIONS.iter().find(|(short, _)| short.eq_ignore_ascii_case(written));
        let name = known.filter(|_| abbreviated).map_or(written, |(_, name)| name);
        self.zone = Some(zone(name)?);
        self.rest = &self.rest[end..];
        Some(())
    }

    fn offset(&mut self) -> Option<()> {
        if let Some(rest) = self.rest.strip_prefix(['Z', 'z']) {
            self.rest = rest;
            self.offset_seconds = Some(0);
            return Some(());
        }
        let sign = if self.rest.starts_with('-') { -1 } else { 1 };
        self.rest = self.rest.strip_prefix(['+', '-'])?;
        let hours = self.digits(2, 2)?;
        self.rest = self.rest.strip_prefix(':').unwrap_or(self.rest);
        let minutes = self.digits(2, 2).unwrap_or(0);
        self.offset_seconds = Some(sign * (hours * 3_600 + minutes * 60));
        Some(())
    }

    fn moment(&self, zone: &TimeZone) -> Option<i64> {
        let year = i16::try_from(self.year.unwrap_or(1970)).ok()?;
        let small = |value: Option<i64>| i8::try_from(value.unwrap_or(1)).ok();
        let date = match self.day_of_year {
            Some(day) => {
                let first = Date::new(year, 1, 1).ok()?;
                let date = first.checked_add(SignedDuration::from_hours(24 * (day - 1))).ok()?;
                (day >= 1 && date.year() == year).then_some(date)?
            }
            None => Date::new(year, small(self.month)?, small(self.day)?).ok()?,
        };
        let hour = match self.afternoon {
            Some(afternoon) => self.hour % 12 + if afternoon { 12 } else { 0 },
            None => self.hour,
        };
        let part = |number: i64| i8::try_from(number).ok();
        let nanos = i32::try_from(self.nanos).ok()?;
        let time = Time::new(part(hour)?, part(self.minute)?, part(self.second)?, nanos).ok()?;
        let at = DateTime::from_parts(date, time);
        let zone = self.zone.as_ref().unwrap_or(zone);
        match self.offset_seconds {
            Some(seconds) => {
                let utc = TimeZone::UTC.to_timestamp(at).ok()?.as_microsecond();
                utc.checked_sub(seconds * 1_000_000)
            }
            None => Some(zone.to_timestamp(at).ok()?.as_microsecond()),
        }
    }
}

/// A time zone by name (`Europe/Madrid`, `UTC`) or offset (`+02:00`). `None` when there is none.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    if name.starts_with(['+', '-']) {
        let mut read = Read { rest: name, ..Read::default() };
        read.offset()?;
        let seconds = i32::try_from(read.offset_seconds?).ok()?;
        return Some(TimeZone::fixed(jiff::tz::Offset::from_seconds(seconds).ok()?));
    }
    TimeZoneDatabase::bundled().get(name).ok()
}

/// Microseconds in a day.
pub const DAY: i64 = 86_400_000_000;

/// `2026-01-31T12:00:00.000`: how ksqlDB casts a TIMESTAMP to a text.
#[must_use]
pub fn timestamp_text(micros: i64) -> String {
    let millis = micros.rem_euclid(DAY) / 1_000;
    let (time, rest) = (millis / 1_000, millis % 1_000);
    let date = date_text(micros.div_euclid(DAY));
    format!("{date}T{:02}:{:02}:{:02}.{rest:03}", time / 3_600, time / 60 % 60, time % 60)
}

/// `2026-01-31`.
#[must_use]
pub fn date_text(days: i64) -> String {
    let moment = days.checked_mul(DAY).and_then(|us| Timestamp::from_microsecond(us).ok());
    moment
        .map_or_else(|| days.to_string(), |t| t.to_zoned_datetime(TimeZone::UTC).date().to_string())
}

/// `12:00:00`, with milliseconds where there are some.
#[must_use]
pub fn time_text(millis: i64) -> String {
    let (seconds, rest) = (millis / 1_000, millis % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (second, rest) {
        (0, 0) => format!("{hour:02}:{minute:02}"),
        (_, 0) => format!("{hour:02}:{minute:02}:{second:02}"),
        _ => format!("{hour:02}:{minute:02}:{second:02}.{rest:03}"),
    }
}

/// Microseconds of an ISO 8601 text: date, perhaps time, perhaps offset; UTC where none is named.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment.as_microsecond());
    }
    if let Ok(at) = text.parse::<DateTime>() {
        return Some(TimeZone::UTC.to_timestamp(at).ok()?.as_microsecond());
    }
    // ksqlDB also reads prefixes: a year, a month, an hour without minutes.
    let filled = match text.len() {
        4 => format!("{text}-01-01"),
        7 => format!("{text}-01"),
        13 => format!("{text}:00"),
        _ => return None,
    };
    let at = filled.parse::<DateTime>().ok()?;
    Some(TimeZone::UTC.to_timestamp(at).ok()?.as_microsecond())
}

/// Days since 1970 of `2026-01-31`; a year or a month is its first day.
#[must_use]
pub fn parse_date(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = match text.len() {
        4 => format!("{text}-01-01"),
        7 => format!("{text}-01"),
        _ => text.to_owned(),
    };
    let date: Date = whole.parse().ok()?;
    let at = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
    Some(at.as_microsecond().div_euclid(DAY))
}

/// Milliseconds since midnight of `12:30`, `12:30:15` or `12:30:15.5`.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let time: Time = text.trim().parse().ok()?;
    let seconds = i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60;
    Some(
        (seconds + i64::from(time.second())) * 1_000
            + i64::from(time.subsec_nanosecond()) / 1_000_000,
    )
}

/// Adds months to a moment; the day is the last of a shorter month.
#[must_use]
pub fn add_months(micros: i64, months: i64) -> Option<i64> {
    let at = Timestamp::from_microsecond(micros).ok()?.to_zoned_datetime(TimeZone::UTC).datetime();
    let span = jiff::Span::new().try_months(months).ok()?;
    Some(TimeZone::UTC.to_timestamp(at.checked_add(span).ok()?).ok()?.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_write_and_read_back() {
        let madrid = zone("Europe/Madrid").expect("zone");
        for (pattern, text) in [
            ("yyyy-MM-dd HH:mm:ss.SSS", "2026-07-31 14:05:09.120"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2026-07-31T14:05:09.120+02:00"),
            ("d MMM yyyy h:mm:ss.SSS a", "31 Jul 2026 2:05:09.120 PM"),
            ("yyyyMMddHHmmssSSS", "20260731140509120"),
            ("EEEE, dd MMMM yy HH:mm:ss.SSS Z", "Friday, 31 July 26 14:05:09.120 +0200"),
        ] {
            let compiled = Pattern::compile(pattern).expect(pattern);
            let micros = compiled.parse(text, &madrid).expect(text);
            assert_eq!(micros, 1_785_499_509_120_000, "{pattern}");
            assert_eq!(compiled.format(micros, &madrid).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_text_that_departs_from_the_pattern_is_an_error() {
        let pattern = Pattern::compile("yyyy-MM-dd").expect("pattern");
        for text in ["2026-02-30", "2026-1-01", "2026-01-01x", "", "20260101"] {
            assert!(pattern.parse(text, &TimeZone::UTC).is_err(), "{text}");
        }
        assert!(Pattern::compile("yyyy-QQ").is_err());
        assert!(Pattern::compile("yyyy'T").is_err());
    }

    #[test]
    fn iso_texts() {
        assert_eq!(parse_timestamp("1970-01-01T00:00:01Z"), Some(1_000_000));
        assert_eq!(parse_timestamp("1970-01-01T00:00:01.5"), Some(1_500_000));
        assert_eq!(parse_timestamp("1970-01-02"), Some(DAY));
        assert_eq!(parse_timestamp("1971"), Some(365 * DAY));
        assert_eq!(timestamp_text(-1_000), "1969-12-31T23:59:59.999");
        assert_eq!((parse_date("1970-01-03"), date_text(2)), (Some(2), "1970-01-03".into()));
        assert_eq!((parse_date("1970-02"), parse_date("1971")), (Some(31), Some(365)));
        assert_eq!((parse_time("00:01:01"), time_text(61_000)), (Some(61_000), "00:01:01".into()));
        assert_eq!(add_months(30 * DAY, 1), Some(58 * DAY));
    }
}
