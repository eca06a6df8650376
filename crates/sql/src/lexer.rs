//! SQL text into tokens.

use crate::fault::Fault;
use crate::text::Span;

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKind {
    /// A name or keyword as it was written.
    Word(String),
    /// A name in back or double quotes.
    Quoted(String),
    /// A text in single quotes.
    Text(String),
    /// Digits.
    Integer(String),
    /// Digits with a point.
    Decimal(String),
    /// Digits with an exponent.
    Double(String),
    /// An operator or punctuation.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

/// A token and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it is.
    pub span: Span,
}

/// Longer symbols first: the first that fits is taken.
const SYMBOLS: [&str; 25] = [
    "<>", "!=", "<=", ">=", "||", "->", "=>", ":=", "(", ")", "[", "]", "{", "}", ",", ";", ".",
    "=", "<", ">", "+", "-", "*", "/", "%",
];

/// The tokens of a text, the end last. What is no token is a fault, and is passed over.
#[must_use]
pub fn tokens(text: &str) -> (Vec<Token>, Vec<Fault>) {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), faults: Vec::new() };
    lexer.run();
    (lexer.tokens, lexer.faults)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<Token>,
    faults: Vec<Fault>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(first) = self.rest().chars().next() {
            let start = self.at;
            match first {
                c if c.is_whitespace() => self.at += c.len_utf8(),
                '-' if self.rest().starts_with("--") => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                }
                '/' if self.rest().starts_with("/*") => self.comment(),
                '\'' => self.quoted('\'', TokenKind::Text),
                '`' => self.quoted('`', TokenKind::Quoted),
                '"' => self.quoted('"', TokenKind::Quoted),
                c if c.is_ascii_digit() => self.number(),
                '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
                c if c.is_alphabetic() || c == '_' => {
                    let length = self
                        .rest()
                        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                        .unwrap_or(self.rest().len());
                    self.at += length;
                    self.push(TokenKind::Word(self.text[start..self.at].to_owned()), start);
                }
                c => match SYMBOLS.iter().find(|s| self.rest().starts_with(**s)) {
                    Some(symbol) => {
                        self.at += symbol.len();
                        self.push(TokenKind::Symbol(symbol), start);
                    }
                    None => {
                        self.at += c.len_utf8();
                        self.fault(start, format!("{c:?} is no part of SQL"));
                    }
                },
            }
        }
        self.push(TokenKind::End, self.at);
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: TokenKind, start: usize) {
        self.tokens.push(Token { kind, span: Span { start, end: self.at } });
    }

    fn fault(&mut self, start: usize, message: String) {
        self.faults.push(Fault::new(Span { start, end: self.at }, message));
    }

    fn comment(&mut self) {
        let start = self.at;
        match self.rest().find("*/") {
            Some(length) => self.at += length + 2,
            None => {
                self.at = self.text.len();
                let span = Span { start, end: start + 2 };
                let fault = Fault::new(span, "this comment does not end").help("expected */");
                self.faults.push(fault);
            }
        }
    }

    /// A quote is written twice within its own kind.
    fn quoted(&mut self, quote: char, kind: fn(String) -> TokenKind) {
        let start = self.at;
        self.at += 1;
        let mut content = String::new();
        loop {
            let Some(length) = self.rest().find(quote) else {
                self.at = self.text.len();
                let span = Span { start, end: start + 1 };
                let fault = Fault::new(span, "this quote is not closed")
                    .help(format!("expected another {quote}"));
                self.faults.push(fault);
                return;
            };
            content.push_str(&self.rest()[..length]);
            self.at += length + 1;
            if !self.rest().starts_with(quote) {
                break;
            }
            content.push(quote);
            self.at += 1;
        }
        self.push(kind(content), start);
    }

    fn number(&mut self) {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut kind: fn(String) -> TokenKind = TokenKind::Integer;
        self.at = digits(self.at);
        if bytes.get(self.at) == Some(&b'.')
            && bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit)
        {
            kind = TokenKind::Decimal;
            self.at = digits(self.at + 1);
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(self.at + 1), Some(b'+' | b'-')));
            let end = digits(self.at + 1 + sign);
            if end > self.at + 1 + sign {
                kind = TokenKind::Double;
                self.at = end;
            }
        }
        if self.rest().starts_with(|c: char| c.is_alphabetic() || c == '_') {
            let length = self
                .rest()
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(self.rest().len());
            self.at += length;
            let written = &self.text[start..self.at];
            if written.chars().all(|c| c.is_alphanumeric() || c == '_') {
                // As in ksqlDB, `1st` is a name.
                self.push(TokenKind::Word(written.to_owned()), start);
                return;
            }
            let message = format!("{written} is neither a number nor a name");
            let fault = Fault::new(Span { start, end: self.at }, message)
                .help(format!("a name with a point in it is written `{written}`"));
            self.faults.push(fault);
            return;
        }
        self.push(kind(self.text[start..self.at].to_owned()), start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_numbers_and_symbols() {
        let (tokens, faults) = tokens("a->`b c` >= 1.5e-3, 'it''s' -- rest\n.5 /* x */ 7");
        assert!(faults.is_empty());
        let kinds: Vec<TokenKind> = tokens.into_iter().map(|t| t.kind).collect();
        assert_eq!(
            kinds,
            [
                TokenKind::Word("a".into()),
                TokenKind::Symbol("->"),
                TokenKind::Quoted("b c".into()),
                TokenKind::Symbol(">="),
                TokenKind::Double("1.5e-3".into()),
                TokenKind::Symbol(","),
                TokenKind::Text("it's".into()),
                TokenKind::Decimal(".5".into()),
                TokenKind::Integer("7".into()),
                TokenKind::End,
            ]
        );
    }

    #[test]
    fn what_is_no_token_is_passed_over() {
        let (tokens, faults) = tokens("a ? 1.5b 1b 'x");
        assert_eq!((tokens.len(), faults.len()), (3, 3));
    }
}
