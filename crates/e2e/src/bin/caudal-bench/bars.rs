//! Figures, and what they should be.

use serde_json::{Value as Json, json};

/// A figure and what it should be.
pub struct Bar {
    name: &'static str,
    value: f64,
    limit: f64,
    at_least: bool,
}

impl Bar {
    /// It should be at least that.
    #[must_use]
    pub fn at_least(name: &'static str, value: f64, limit: f64) -> Bar {
        Bar { name, value, limit, at_least: true }
    }

    /// It should be at most that.
    #[must_use]
    pub fn at_most(name: &'static str, value: f64, limit: f64) -> Bar {
        Bar { name, value, limit, at_least: false }
    }

    fn is_met(&self) -> bool {
        if self.at_least { self.value >= self.limit } else { self.value <= self.limit }
    }

    fn verdict(&self) -> &'static str {
        match self.value.is_nan() {
            true => "not measured",
            false if self.is_met() => "met",
            false => "MISSED",
        }
    }

    /// For the results file.
    #[must_use]
    pub fn json(&self) -> Json {
        json!({
            "bar": self.name, "value": self.value, "limit": self.limit,
            "sense": if self.at_least { "at least" } else { "at most" }, "verdict": self.verdict(),
        })
    }
}

/// Prints them.
pub fn print(bars: &[Bar]) {
    println!("bars:");
    for bar in bars {
        let sense = if bar.at_least { ">=" } else { "<=" };
        println!(
            "  {:<12} {:<66} {:>9.2}  {sense} {}",
            bar.verdict(),
            bar.name,
            bar.value,
            bar.limit
        );
    }
}
