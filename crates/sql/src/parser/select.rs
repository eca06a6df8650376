//! Queries.

use super::{Parsed, Parser, is_reserved};
use crate::ast::{AstKind, Operator};
use crate::ast::{Emit, From, JoinClause, Select, SelectItem, WindowClause, WindowKind};
use crate::fault::Fault;
use crate::lexer::TokenKind;

impl Parser {
    pub(super) fn select(&mut self) -> Parsed<Select> {
        let start = self.span();
        self.expect_word("SELECT")?;
        if self.is_word("DISTINCT") {
            let message = "SELECT DISTINCT is not supported";
            return Err(Box::new(Fault::new(self.span(), message).help("use GROUP BY")));
        }
        let items = self.list(Parser::item)?;
        self.expect_word("FROM")?;
        let from = self.from()?;
        let join = self.join()?;
        let window = if self.takes_word("WINDOW") { Some(self.window()?) } else { None };
        let filter = if self.takes_word("WHERE") { Some(self.expression()?) } else { None };
        let mut group_by = Vec::new();
        if self.takes_word("GROUP") {
            self.expect_word("BY")?;
            group_by = self.grouping()?;
        }
        let mut partition_by = Vec::new();
        if self.takes_word("PARTITION") {
            self.expect_word("BY")?;
            partition_by = self.grouping()?;
        }
        let having = if self.takes_word("HAVING") { Some(self.expression()?) } else { None };
        let emit = self.emit()?;
        let span = self.since(start);
        Ok(Select { items, from, join, window, filter, group_by, partition_by, having, emit, span })
    }

    /// Expressions, the whole list perhaps in brackets.
    fn grouping(&mut self) -> Parsed<Vec<crate::ast::Ast>> {
        if self.is_symbol("(") {
            let begin = self.at;
            self.advance();
            if let Ok(list) = self.list(Parser::expression)
                && list.len() > 1
                && self.takes_symbol(")")
            {
                return Ok(list);
            }
            self.at = begin;
        }
        self.list(Parser::expression)
    }

    fn item(&mut self) -> Parsed<SelectItem> {
        let start = self.span();
        if self.takes_symbol("*") {
            return Ok(SelectItem::All { qualifier: None, span: start });
        }
        let qualified = matches!(self.after(1), TokenKind::Symbol("."))
            && matches!(self.after(2), TokenKind::Symbol("*"));
        if qualified {
            let qualifier = Some(self.name("a source's name")?);
            self.at += 2;
            return Ok(SelectItem::All { qualifier, span: self.since(start) });
        }
        let value = self.expression()?;
        if self.takes_symbol("->") {
            self.expect_symbol("*", "or a field's name after ->")?;
            return Ok(SelectItem::Fields { base: value });
        }
        let alias = self.alias()?;
        Ok(SelectItem::Value { value, alias })
    }

    /// `AS name`, or a name that is no keyword.
    fn alias(&mut self) -> Parsed<Option<crate::ast::Name>> {
        if self.takes_word("AS") {
            return self.name("an alias after AS").map(Some);
        }
        let implied = match &self.token().kind {
            TokenKind::Word(word) => {
                !is_reserved(word)
                    && !["WINDOW", "PARTITION", "WITHIN", "ORDER", "UNION", "QUALIFY", "OFFSET"]
                        .iter()
                        .any(|w| w.eq_ignore_ascii_case(word))
            }
            TokenKind::Quoted(_) => true,
            _ => false,
        };
        if implied { self.name("an alias").map(Some) } else { Ok(None) }
    }

    fn from(&mut self) -> Parsed<From> {
        if self.is_symbol("(") {
            let message = "a query within a query is not supported";
            let help = "give the inner query a name: CREATE STREAM name AS SELECT …";
            return Err(Box::new(Fault::new(self.span(), message).help(help)));
        }
        let name = self.name("a stream's or table's name")?;
        Ok(From { name, alias: self.alias()? })
    }

    fn join(&mut self) -> Parsed<Option<JoinClause>> {
        let start = self.span();
        for word in ["RIGHT", "FULL"] {
            if self.is_word(word) {
                let message = format!("ksqlDB's {word} JOIN is not supported");
                let help = "a stream is joined to a table with JOIN or LEFT JOIN";
                return Err(Box::new(Fault::new(start, message).help(help)));
            }
        }
        let left = self.takes_word("LEFT");
        if left {
            self.takes_word("OUTER");
        } else {
            self.takes_word("INNER");
        }
        if !self.takes_word("JOIN") {
            return if left { Err(self.unexpected("JOIN")) } else { Ok(None) };
        }
        let from = self.from()?;
        if self.is_word("WITHIN") {
            let message = "ksqlDB's join of two streams (WITHIN) is not supported";
            let help = "join the stream to a table, or group both in one stream";
            return Err(Box::new(Fault::new(self.span(), message).help(help)));
        }
        self.expect_word("ON")?;
        let condition = self.expression()?;
        let span = condition.span;
        let AstKind::Binary { operator: Operator::Equal, left: one, right: other } = condition.kind
        else {
            let message = "a join's ON is one equality";
            return Err(Box::new(Fault::new(span, message).help("ON stream.column = table.key")));
        };
        if ["JOIN", "LEFT", "INNER", "RIGHT", "FULL"].iter().any(|word| self.is_word(word)) {
            let message = "ksqlDB's joins of more than two sources are not supported";
            let help = "give the first join a name: CREATE STREAM name AS SELECT … JOIN …";
            return Err(Box::new(Fault::new(self.span(), message).help(help)));
        }
        Ok(Some(JoinClause { from, left, on: (*one, *other) }))
    }

    fn window(&mut self) -> Parsed<WindowClause> {
        const KINDS: [&str; 3] = ["TUMBLING", "HOPPING", "SESSION"];
        let start = self.span();
        let is_kind = |word: &str| KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(word));
        if matches!(self.after(1), TokenKind::Word(next) if is_kind(next)) {
            // ksqlDB reads a name of the window, and does not use it.
            self.name("the window's name")?;
        }
        let word = match &self.token().kind {
            TokenKind::Word(word) => word.to_uppercase(),
            _ => String::new(),
        };
        if !KINDS.contains(&word.as_str()) {
            let fault = *self.unexpected("TUMBLING, HOPPING or SESSION");
            return Err(Box::new(fault.nearest(&word, KINDS)));
        }
        self.advance();
        self.expect_symbol("(", &format!("after {word}"))?;
        let kind = match word.as_str() {
            "TUMBLING" => {
                self.expect_word("SIZE")?;
                WindowKind::Tumbling { size: self.duration()? }
            }
            "HOPPING" => {
                self.expect_word("SIZE")?;
                let size = self.duration()?;
                self.expect_symbol(",", "and ADVANCE BY")?;
                self.expect_word("ADVANCE")?;
                self.expect_word("BY")?;
                WindowKind::Hopping { size, advance: self.duration()? }
            }
            _ => WindowKind::Session { gap: self.duration()? },
        };
        let (mut grace, mut retention) = (None, None);
        while self.takes_symbol(",") {
            if self.takes_word("RETENTION") {
                retention = Some(self.duration()?);
            } else if self.takes_word("GRACE") {
                self.expect_word("PERIOD")?;
                grace = Some(self.duration()?);
            } else {
                return Err(self.unexpected("GRACE PERIOD or RETENTION"));
            }
        }
        self.expect_symbol(")", "after the window")?;
        Ok(WindowClause { kind, grace, retention, span: self.since(start) })
    }

    /// A number and a unit, in milliseconds.
    fn duration(&mut self) -> Parsed<i64> {
        let start = self.span();
        let count = self.integer("a number of time units, as in 10 SECONDS")?;
        let unit = match &self.token().kind {
            TokenKind::Word(word) => word.to_uppercase(),
            _ => return Err(self.unexpected("a unit of time")),
        };
        let Some(length) = unit_milliseconds(&unit) else {
            let fault = Fault::new(self.span(), format!("unknown unit of time {unit}"));
            return Err(Box::new(fault.nearest(&unit, UNITS.map(|(name, _)| name))));
        };
        self.advance();
        let too_long = || Fault::new(self.since(start), "longer than 292 million years");
        Ok(count.checked_mul(length).ok_or_else(too_long)?)
    }

    fn emit(&mut self) -> Parsed<Emit> {
        if !self.takes_word("EMIT") {
            return Ok(Emit::Changes);
        }
        if self.takes_word("CHANGES") {
            return Ok(Emit::Changes);
        }
        if self.takes_word("FINAL") {
            return Ok(Emit::Final);
        }
        let fault = *self.unexpected("CHANGES or FINAL");
        let found = match &self.token().kind {
            TokenKind::Word(word) => word.clone(),
            _ => String::new(),
        };
        Err(Box::new(fault.nearest(&found, ["CHANGES", "FINAL"])))
    }
}

const UNITS: [(&str, i64); 5] = [
    ("DAYS", 86_400_000),
    ("HOURS", 3_600_000),
    ("MINUTES", 60_000),
    ("SECONDS", 1_000),
    ("MILLISECONDS", 1),
];

/// Milliseconds of a unit, singular or plural, in upper case.
pub(crate) fn unit_milliseconds(unit: &str) -> Option<i64> {
    let is = |name: &str| name == unit || name.strip_suffix('S') == Some(unit);
    UNITS.iter().find(|(name, _)| is(name)).map(|(_, length)| *length)
}

/// Microseconds of a text such as `1 HOUR`. None when it is no duration.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (count, unit) = text.trim().split_once(' ')?;
    let count: i64 = count.parse().ok()?;
    count.checked_mul(unit_milliseconds(&unit.trim().to_uppercase())?)?.checked_mul(1_000)
}
