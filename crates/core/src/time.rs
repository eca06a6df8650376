//! Event time in microseconds since 1970, UTC.

/// One second in microseconds.
pub const SECOND: i64 = 1_000_000;
/// One minute in microseconds.
pub const MINUTE: i64 = 60 * SECOND;
/// One hour in microseconds.
pub const HOUR: i64 = 60 * MINUTE;

/// Earliest accepted event time: 1980-01-01T00:00:00Z. Earlier values are seconds or days taken
/// for microseconds, or an empty column.
pub const EARLIEST: i64 = 315_532_800 * SECOND;
/// How far ahead of the record's own timestamp (the broker's clock) an event may be: one hour.
pub const MAX_AHEAD: i64 = HOUR;

/// Microseconds of an RFC 3339 text with an offset, such as `2026-01-31T12:00:00.5Z`.
/// `None` when it is not one; digits below a microsecond are cut off.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    // jiff also reads other ISO 8601 forms; RFC 3339 wants a full date, time and offset.
    let bytes = text.as_bytes();
    let separator = bytes.get(10)?;
    if bytes.len() < 20 || !matches!(separator, b'T' | b't' | b' ') || text.contains('[') {
        return None;
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

/// RFC 3339 text in UTC with as many digits as are needed.
#[must_use]
pub fn to_rfc3339(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros)
        .map_or_else(|_| format!("{micros}us"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rfc3339_only() {
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01Z"), Some(SECOND));
        assert_eq!(parse_rfc3339("1970-01-01T01:00:00.000001+01:00"), Some(1));
        for bad in
            ["", "2026-01-01", "2026-01-01T10:00:00", "now", "2026-13-01T00:00:00Z", "1700000000"]
        {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for micros in [0, 1, 1_700_000_000_123_456, EARLIEST] {
            assert_eq!(parse_rfc3339(&to_rfc3339(micros)), Some(micros));
        }
    }
}
