//! One question about one column: of kind rules and of records that are left out.

use super::file::{KindRule, SkipRule};
use super::row::{Header, Row};
use super::usage;
use anyhow::Result;

/// A question as a mapping writes it.
#[derive(Debug, Clone, Default)]
pub struct Question {
    column: Option<String>,
    tests: Vec<Test>,
    not: bool,
}

#[derive(Debug, Clone)]
enum Test {
    Prefix(String),
    Suffix(String),
    Contains(String),
    AnyOf(Vec<String>),
    Empty(bool),
}

macro_rules! question_of {
    ($rule:expr) => {{
        let rule = $rule;
        let tests = [
            rule.prefix.clone().map(Test::Prefix),
            rule.suffix.clone().map(Test::Suffix),
            rule.contains.clone().map(Test::Contains),
            rule.equals.clone().map(|text| Test::AnyOf(vec![text])),
            rule.any_of.clone().map(Test::AnyOf),
            rule.empty.map(Test::Empty),
        ];
        Question {
            column: rule.column.clone(),
            tests: tests.into_iter().flatten().collect(),
            not: rule.not,
        }
    }};
}

impl From<&KindRule> for Question {
    fn from(rule: &KindRule) -> Question {
        question_of!(rule)
    }
}

impl From<&SkipRule> for Question {
    fn from(rule: &SkipRule) -> Question {
        question_of!(rule)
    }
}

impl Question {
    /// Checks that a column goes with exactly one test.
    ///
    /// # Errors
    /// `Usage` that begins with `place`, such as `[[skip]]`.
    pub fn check(&self, place: &str) -> Result<()> {
        if self.tests.len() != usize::from(self.column.is_some()) {
            return Err(usage(format!(
                "{place}: column goes with exactly one of prefix, suffix, contains, equals, any_of \
                 and empty"
            )));
        }
        if self.not && self.column.is_none() {
            return Err(usage(format!("{place}: not = true needs a column")));
        }
        Ok(())
    }

    /// The column it is about.
    #[must_use]
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// Binds a checked question; `None` where nothing is asked.
    ///
    /// # Errors
    /// `Usage` when the column does not exist.
    pub fn bind(mut self, header: &Header) -> Result<Option<Condition>> {
        let at = self.column.as_deref().map(|name| header.find(name)).transpose()?;
        let test = self.tests.pop();
        Ok(at.zip(test).map(|(at, test)| Condition { at, test, not: self.not }))
    }
}

/// A question bound to the columns of an input.
#[derive(Debug, Clone)]
pub struct Condition {
    at: usize,
    test: Test,
    not: bool,
}

impl Condition {
    /// The answer for a row.
    #[must_use]
    pub fn fits(&self, row: &Row<'_>) -> bool {
        let text = row.text(self.at);
        let fits = match &self.test {
            Test::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Test::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Test::Contains(part) => text.contains(part.as_str()),
            Test::AnyOf(words) => words.iter().any(|word| word == text),
            Test::Empty(empty) => text.is_empty() == *empty,
        };
        fits != self.not
    }
}
