//! How long rows are kept, in words.

use std::fmt;
use std::str::FromStr;

const UNITS: [&str; 4] = ["day", "week", "month", "year"];

/// A number of days, weeks, months or years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    count: u32,
    unit: &'static str,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        let wrong =
            || format!("{text:?}: expected for instance \"12 months\", \"90 days\", \"1 year\"");
        let mut words = text.split_whitespace();
        let (Some(count), Some(unit), None) = (words.next(), words.next(), words.next()) else {
            return Err(wrong());
        };
        let count = count.parse().ok().filter(|count| (1..=10_000).contains(count));
        let unit = unit.to_ascii_lowercase();
        let unit = UNITS.into_iter().find(|u| unit == *u || unit.strip_suffix('s') == Some(u));
        match (count, unit) {
            (Some(count), Some(unit)) => Ok(Keep { count, unit }),
            _ => Err(wrong()),
        }
    }
}

/// As PostgreSQL reads an interval.
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.count, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        for (text, read) in
            [("12 months", "12 months"), (" 1  YEAR ", "1 year"), ("2 day", "2 days")]
        {
            assert_eq!(text.parse::<Keep>().map(|keep| keep.to_string()), Ok(read.to_owned()));
        }
        for bad in
            ["", "12", "months", "0 days", "-1 days", "1.5 years", "12 months 1 day", "6 hours"]
        {
            assert!(bad.parse::<Keep>().unwrap_err().contains("12 months"), "{bad}");
        }
    }
}
