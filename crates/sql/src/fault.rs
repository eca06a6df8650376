//! What is wrong with a statement, and how it is shown.

use crate::text::{Span, line_of, place_of};
use std::fmt::Write as _;

/// One thing that is wrong in a SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The piece of text that is wrong.
    pub span: Span,
    /// What is wrong with it.
    pub message: String,
    /// What to do: what was expected, or the nearest known name.
    pub help: Option<String>,
}

impl Fault {
    /// A fault without help.
    #[must_use]
    pub fn new(span: Span, message: impl Into<String>) -> Fault {
        Fault { span, message: message.into(), help: None }
    }

    /// The same fault with help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    /// The same fault, naming the known name that is nearest to `given`, if one is near.
    #[must_use]
    pub fn nearest<'n>(self, given: &str, known: impl IntoIterator<Item = &'n str>) -> Fault {
        match nearest(given, known) {
            Some(name) => self.help(format!("did you mean {name}?")),
            None => self,
        }
    }

    /// Line, column, message, the line with the piece underlined, and the help.
    #[must_use]
    pub fn render(&self, file: &str, text: &str, colour: bool) -> String {
        let (red, blue, bold, plain) = match colour {
            true => ("\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"),
            false => ("", "", "", ""),
        };
        let place = place_of(text, self.span.start);
        let line = line_of(text, self.span.start);
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        // A tab stays a tab above the marks, so that they stand below what they mark.
        let indent: String = line
            .chars()
            .take(place.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let end = self.span.end.clamp(self.span.start, text.len());
        let marked = text.get(self.span.start..end).unwrap_or_default();
        let width = marked.lines().next().map_or(1, |first| first.chars().count().max(1));
        let marks = "^".repeat(width);
        let mut out = format!(
            "{bold}{file}:{}:{}: {red}error{plain}{bold}: {}{plain}\n",
            place.line, place.column, self.message
        );
        write!(
            out,
            "{blue}{number} |{plain} {line}\n{blue}{margin} |{plain} {indent}{red}{marks}{plain}\n"
        )
        .ok();
        if let Some(help) = &self.help {
            writeln!(out, "{blue}{margin} ={plain} {help}").ok();
        }
        out
    }
}

/// All faults of a text, one after the other, in the order of the text.
#[must_use]
pub fn render_all(faults: &[Fault], file: &str, text: &str, colour: bool) -> String {
    let mut sorted: Vec<&Fault> = faults.iter().collect();
    sorted.sort_by_key(|fault| fault.span.start);
    sorted.iter().map(|fault| fault.render(file, text, colour)).collect::<Vec<_>>().join("\n")
}

/// The known name that takes the fewest changes of a letter to be `given`: at most a third of its
/// letters, rounded up. Upper and lower case are the same letter.
#[must_use]
pub fn nearest<'n>(given: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let given: Vec<char> = given.to_lowercase().chars().collect();
    let bound = given.len().div_ceil(3);
    let scored = known.into_iter().map(|name| {
        let letters: Vec<char> = name.to_lowercase().chars().collect();
        (distance(&given, &letters), name)
    });
    scored.filter(|(score, _)| *score <= bound).min().map(|(_, name)| name)
}

/// Levenshtein's distance, a swap of neighbours counting as one change.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut rows = vec![(0..width).collect::<Vec<usize>>()];
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, to) in b.iter().enumerate() {
            let changed = rows[i][j] + usize::from(from != to);
            row[j + 1] = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                row[j + 1] = row[j + 1].min(rows[i - 1][j - 1] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("amuont", ["amount", "account_id"]), Some("amount"));
        assert_eq!(nearest("COUNTT", ["count", "concat"]), Some("count"));
        assert_eq!(nearest("zzzz", ["amount"]), None);
    }

    #[test]
    fn the_piece_is_underlined_whatever_stands_before_it() {
        let text = "SELECT\n\tañb + x;";
        let at = text.find('x').expect("x");
        let shown = Fault::new(Span { start: at, end: at + 1 }, "no x").render("q", text, false);
        assert_eq!(shown, "q:2:8: error: no x\n2 | \tañb + x;\n  | \t      ^\n");
    }
}
