//! Tokens into statements. A statement that is wrong is left at its `;`, so that each statement
//! of a file reports its own fault.

mod expression;
mod select;
mod statement;
mod unsupported;

pub(crate) use select::{parse_duration, unit_milliseconds};
pub(crate) use unsupported::FUNCTIONS as UNSUPPORTED_FUNCTIONS;

use crate::ast::{Name, Statement};
use crate::fault::Fault;
use crate::lexer::{Token, TokenKind, tokens};
use crate::text::Span;

/// How a name without quotes is read. Chosen once for a text: ksqlDB reads them in upper case, and
/// so does whoever tests a query against its files; topics and tables of ours are lower-case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `Amount` is `AMOUNT`, as in ksqlDB.
    Upper,
    /// `Amount` is `amount`.
    Lower,
}

impl Naming {
    /// The name that a word without quotes stands for.
    #[must_use]
    pub fn apply(self, word: &str) -> String {
        match self {
            Naming::Upper => word.to_uppercase(),
            Naming::Lower => word.to_lowercase(),
        }
    }
}

/// The statements of a text that are well formed, and what is wrong with the others.
#[must_use]
pub fn parse(text: &str, naming: Naming) -> (Vec<Statement>, Vec<Fault>) {
    let (tokens, mut faults) = tokens(text);
    let mut parser = Parser { tokens, at: 0, naming, depth: 0 };
    let mut statements = Vec::new();
    while !parser.is_at_end() {
        if parser.takes_symbol(";") {
            continue;
        }
        let from = parser.span();
        match parser.statement() {
            Ok(Some(statement)) => statements.push(statement),
            Ok(None) => {}
            Err(fault) => {
                parser.skip_statement();
                // What follows an unclosed quote is noise.
                let to = parser.span().start;
                if !faults.iter().any(|f| f.span.start >= from.start && f.span.start <= to) {
                    faults.push(*fault);
                }
            }
        }
    }
    (statements, faults)
}

/// Faults are rare and large.
pub(crate) type Parsed<T> = Result<T, Box<Fault>>;

/// Expressions within expressions.
const MAX_DEPTH: usize = 64;

pub(crate) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    naming: Naming,
    depth: usize,
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn after(&self, count: usize) -> &TokenKind {
        &self.tokens[(self.at + count).min(self.tokens.len() - 1)].kind
    }

    fn span(&self) -> Span {
        self.token().span
    }

    /// From a start to the last token that was taken.
    fn since(&self, start: Span) -> Span {
        start.to(self.tokens[self.at.saturating_sub(1)].span)
    }

    fn is_at_end(&self) -> bool {
        self.token().kind == TokenKind::End
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        if token.kind != TokenKind::End {
            self.at += 1;
        }
        token
    }

    fn skip_statement(&mut self) {
        while !self.is_at_end() && !self.is_symbol(";") {
            self.at += 1;
        }
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(&self.token().kind, TokenKind::Symbol(found) if *found == symbol)
    }

    fn takes_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn is_word_at(&self, count: usize, word: &str) -> bool {
        matches!(self.after(count), TokenKind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn is_word(&self, word: &str) -> bool {
        self.is_word_at(0, word)
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    /// Several keywords, all or none.
    fn takes_words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(i, word)| self.is_word_at(i, word));
        self.at += if found { words.len() } else { 0 };
        found
    }

    fn expect_symbol(&mut self, symbol: &'static str, what_for: &str) -> Parsed<()> {
        if self.takes_symbol(symbol) {
            return Ok(());
        }
        Err(self.unexpected(&format!("{symbol} {what_for}")))
    }

    fn expect_word(&mut self, word: &'static str) -> Parsed<()> {
        if self.takes_word(word) {
            return Ok(());
        }
        let fault = *self.unexpected(word);
        Err(Box::new(match &self.token().kind {
            TokenKind::Word(found) => fault.nearest(found, [word]),
            _ => fault,
        }))
    }

    /// The fault of a token that fits nowhere.
    fn unexpected(&self, expected: &str) -> Box<Fault> {
        let token = self.token();
        let found = match &token.kind {
            TokenKind::Word(word) | TokenKind::Integer(word) => word.clone(),
            TokenKind::Decimal(word) | TokenKind::Double(word) => word.clone(),
            TokenKind::Quoted(name) => format!("`{name}`"),
            TokenKind::Text(text) => format!("'{text}'"),
            TokenKind::Symbol(symbol) => (*symbol).to_owned(),
            TokenKind::End => "the end of the file".to_owned(),
        };
        Box::new(Fault::new(token.span, format!("expected {expected}, found {found}")))
    }

    fn name(&mut self, what: &str) -> Parsed<Name> {
        let text = match &self.token().kind {
            TokenKind::Word(word) if is_reserved(word) => {
                let help = format!("{word} is a keyword; as a name it is written `{word}`");
                return Err(Box::new(self.unexpected(what).help(help)));
            }
            TokenKind::Word(word) => self.naming.apply(word),
            TokenKind::Quoted(name) => name.clone(),
            _ => return Err(self.unexpected(what)),
        };
        Ok(Name { text, span: self.advance().span })
    }

    fn text(&mut self, what: &str) -> Parsed<(String, Span)> {
        match self.token().kind.clone() {
            TokenKind::Text(text) => Ok((text, self.advance().span)),
            _ => Err(self.unexpected(what)),
        }
    }

    fn integer(&mut self, what: &str) -> Parsed<i64> {
        let TokenKind::Integer(digits) = &self.token().kind else {
            return Err(self.unexpected(what));
        };
        let value = digits
            .parse()
            .map_err(|_| Fault::new(self.span(), format!("{digits} does not fit 64 bits")))?;
        self.at += 1;
        Ok(value)
    }

    /// Items separated by commas.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Parser) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.takes_symbol(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// Words that begin or join clauses: they cannot be a name without quotes.
const RESERVED: [&str; 36] = [
    "SELECT", "FROM", "WHERE", "GROUP", "HAVING", "JOIN", "ON", "LEFT", "RIGHT", "FULL", "INNER",
    "OUTER", "AS", "CREATE", "WITH", "AND", "OR", "NOT", "NULL", "IS", "IN", "BETWEEN", "LIKE",
    "CASE", "WHEN", "THEN", "ELSE", "END", "CAST", "TABLE", "INSERT", "INTO", "LIMIT", "EMIT",
    "DISTINCT", "EXISTS",
];

pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(word))
}
