//! What a statement says, whatever its layout.

use crate::lexer::{TokenKind, tokens};
use crate::text::Span;

/// The statement from its SELECT on, without comments and layout: words that are not quoted in
/// lower case, one space between tokens. Name and `WITH` are no part of it.
#[must_use]
pub fn canonical(text: &str, statement: Span) -> String {
    let text = text.get(statement.start..statement.end).unwrap_or_default();
    let mut words: Vec<String> = Vec::new();
    for token in tokens(text).0 {
        match token.kind {
            TokenKind::Word(word) => words.push(word.to_lowercase()),
            TokenKind::Quoted(name) => words.push(format!("`{}`", name.replace('`', "``"))),
            TokenKind::Text(value) => words.push(format!("'{}'", value.replace('\'', "''"))),
            TokenKind::Integer(n) | TokenKind::Decimal(n) | TokenKind::Double(n) => words.push(n),
            TokenKind::Symbol(";") | TokenKind::End => break,
            TokenKind::Symbol(symbol) => words.push(symbol.to_owned()),
        }
    }
    let select = words.iter().position(|word| word == "select").unwrap_or(0);
    words[select..].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_comments_and_with_do_not_count() {
        let all = |text: &str| canonical(text, Span { start: 0, end: text.len() });
        let plain = all("create table a as select x, count(*) from s where y = 'A' group by x;");
        assert_eq!(plain, "select x , count ( * ) from s where y = 'A' group by x");
        let other = "CREATE TABLE b WITH (idle_timeout='1 HOUR') AS -- why\n SELECT X, COUNT(*)\nFROM s WHERE y = 'A' GROUP BY x EMIT CHANGES;";
        assert_eq!(all(other), format!("{plain} emit changes"));
    }
}
