//! What does not balance: short texts that name the id and where. A text whose name is not at hand
//! waits for the record to be read once more.

use super::identity::Stored;
use super::place::{Place, Topics};
use caudal_core::dedup::Hash16;
use caudal_core::mask::mask_card_numbers;

/// Most differences that are kept; the rest is counted.
pub const KEPT: usize = 1_000;

/// One difference.
#[derive(Debug)]
pub enum Difference {
    /// Complete.
    Said(String),
    /// `{}` stands for the name of the record at this place.
    OfRecord(String, Place),
    /// `{}` stands for the window of this query with this key hash, to which the record at this
    /// place belongs.
    OfWindow(String, Place, usize, Hash16),
    /// A row of `transactions` that differs from its record.
    Row(Box<Stored>, Place),
}

/// Differences in the order in which they were found.
#[derive(Debug)]
pub struct Differences {
    /// Names of topics, for texts.
    pub topics: Topics,
    kept: Vec<Difference>,
    count: u64,
}

impl Differences {
    pub fn new(topics: Topics) -> Differences {
        Differences { topics, kept: Vec::new(), count: 0 }
    }

    pub fn add(&mut self, difference: Difference) {
        self.count += 1;
        if self.kept.len() < KEPT {
            self.kept.push(difference);
        }
    }

    pub fn say(&mut self, text: impl Into<String>) {
        self.add(Difference::Said(text.into()));
    }

    /// Says `text` with `{}` replaced by the name of the record at `place`, once it is known.
    pub fn of_record(&mut self, text: impl Into<String>, place: Place) {
        self.add(Difference::OfRecord(text.into(), place));
    }

    pub fn at(&self, place: Place) -> String {
        self.topics.at(place)
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The places whose records must be read to complete the texts.
    pub fn wanted(&self) -> Vec<Place> {
        let place = |difference: &Difference| match difference {
            Difference::Said(_) => None,
            Difference::OfRecord(_, place)
            | Difference::OfWindow(_, place, ..)
            | Difference::Row(_, place) => Some(*place),
        };
        let mut all: Vec<Place> = self.kept.iter().filter_map(place).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The texts, completed by `complete`, with card numbers masked.
    pub fn texts(&self, mut complete: impl FnMut(&Difference) -> String) -> Vec<String> {
        let mask = |text: String| mask_card_numbers(&text).into_owned();
        self.kept.iter().map(|difference| mask(complete(difference))).collect()
    }

    /// The texts as far as they are known without reading anything again.
    #[cfg(test)]
    pub fn drafts(&self) -> Vec<String> {
        self.texts(|difference| match difference {
            Difference::Said(text)
            | Difference::OfRecord(text, _)
            | Difference::OfWindow(text, ..) => text.clone(),
            Difference::Row(stored, place) => format!("row {} {}", stored.id, place.short()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_thousand_and_counts_the_rest() {
        let mut all = Differences::new(Topics::of(&[]));
        for i in 0..1_500 {
            all.say(format!("difference {i}"));
        }
        assert_eq!((all.count(), all.drafts().len()), (1_500, KEPT));
    }

    #[test]
    fn shows_no_card_number() {
        let mut all = Differences::new(Topics::of(&[]));
        all.say("description is 4111111111111111");
        assert_eq!(all.drafts(), ["description is ************1111"]);
    }
}
