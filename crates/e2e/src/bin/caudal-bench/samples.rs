//! What was measured, by the name of what it was measured of. A sample whose `problem` is set is
//! kept, and counts in no figure.

use crate::results::quantile;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The samples of a benchmark.
#[derive(Default)]
pub struct Samples(BTreeMap<String, Vec<Json>>);

impl Samples {
    /// One more.
    pub fn add(&mut self, name: &str, sample: Json) {
        self.0.entry(name.to_owned()).or_default().push(sample);
    }

    /// What was measured.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn good(&self, name: &str) -> impl Iterator<Item = &Json> {
        self.0.get(name).into_iter().flatten().filter(|sample| sample["problem"].is_null())
    }

    fn sorted(&self, name: &str, figure: &str) -> Vec<f64> {
        let mut values: Vec<f64> = self.good(name).filter_map(|s| s[figure].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// Smallest, median and largest of a figure; NaN where it was not measured.
    #[must_use]
    pub fn spread(&self, name: &str, figure: &str) -> [f64; 3] {
        let values = self.sorted(name, figure);
        [0.0, 0.5, 1.0].map(|q| quantile(&values, q))
    }

    /// Median of a figure; NaN where it was not measured.
    #[must_use]
    pub fn median(&self, name: &str, figure: &str) -> f64 {
        self.spread(name, figure)[1]
    }

    /// All of them, and the spread of these figures, for the results file.
    #[must_use]
    pub fn described(&self, figures: &[&str]) -> Json {
        let of = |(name, samples): (&String, &Vec<Json>)| {
            let spread = |figure: &&str| {
                let [min, median, max] = self.spread(name, figure);
                ((*figure).to_owned(), json!({ "min": min, "median": median, "max": max }))
            };
            let spreads: serde_json::Map<String, Json> = figures.iter().map(spread).collect();
            let good = self.good(name).count();
            (name.clone(), json!({ "good": good, "spread": spreads, "samples": samples }))
        };
        Json::Object(self.0.iter().map(of).collect())
    }
}
