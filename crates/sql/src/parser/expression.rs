//! Expressions, by precedence climbing: OR, AND, NOT, comparisons, + -, * / %, sign, access.

use super::{MAX_DEPTH, Parsed, Parser, is_reserved};
use crate::ast::{Ast, AstKind, Name, Operator};
use crate::fault::Fault;
use crate::lexer::TokenKind;
use crate::text::Span;

fn binary(operator: Operator, left: Ast, right: Ast) -> Ast {
    let span = left.span.to(right.span);
    Ast { kind: AstKind::Binary { operator, left: Box::new(left), right: Box::new(right) }, span }
}

impl Parser {
    /// An expression.
    pub(super) fn expression(&mut self) -> Parsed<Ast> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.depth -= 1;
            let message = format!("more than {MAX_DEPTH} expressions within each other");
            return Err(Box::new(Fault::new(self.span(), message)));
        }
        let parsed = self.disjunction();
        self.depth -= 1;
        parsed
    }

    fn disjunction(&mut self) -> Parsed<Ast> {
        let mut left = self.conjunction()?;
        while self.takes_word("OR") {
            left = binary(Operator::Or, left, self.conjunction()?);
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Parsed<Ast> {
        let mut left = self.negation()?;
        while self.takes_word("AND") {
            left = binary(Operator::And, left, self.negation()?);
        }
        Ok(left)
    }

    fn negation(&mut self) -> Parsed<Ast> {
        let mut starts = Vec::new();
        while self.is_word("NOT") {
            starts.push(self.advance().span);
        }
        let mut value = self.comparison()?;
        for start in starts.into_iter().rev() {
            let span = start.to(value.span);
            value = Ast { kind: AstKind::Not(Box::new(value)), span };
        }
        Ok(value)
    }

    fn comparison(&mut self) -> Parsed<Ast> {
        let mut left = self.sum()?;
        loop {
            let start = left.span;
            let operator = match &self.token().kind {
                TokenKind::Symbol("=") => Operator::Equal,
                TokenKind::Symbol("<>" | "!=") => Operator::NotEqual,
                TokenKind::Symbol("<") => Operator::Less,
                TokenKind::Symbol("<=") => Operator::LessOrEqual,
                TokenKind::Symbol(">") => Operator::Greater,
                TokenKind::Symbol(">=") => Operator::GreaterOrEqual,
                _ => match self.predicate(left)? {
                    Ok(next) => {
                        left = next;
                        continue;
                    }
                    Err(same) => return Ok(same),
                },
            };
            self.advance();
            left = binary(operator, left, self.sum()?);
            left.span = start.to(left.span);
        }
    }

    /// IS NULL, BETWEEN, IN, LIKE after a value; the value itself when none follows.
    fn predicate(&mut self, value: Ast) -> Parsed<Result<Ast, Ast>> {
        let start = value.span;
        if self.takes_word("IS") {
            let negated = self.takes_word("NOT");
            if self.takes_word("NULL") {
                let kind = AstKind::IsNull { value: Box::new(value), negated };
                return Ok(Ok(Ast { kind, span: self.since(start) }));
            }
            if self.takes_words(&["DISTINCT", "FROM"]) {
                let operator =
                    if negated { Operator::NotDistinctFrom } else { Operator::DistinctFrom };
                let right = self.sum()?;
                return Ok(Ok(binary(operator, value, right)));
            }
            return Err(self.unexpected("NULL, NOT NULL or DISTINCT FROM"));
        }
        let negated = self.is_word("NOT")
            && ["BETWEEN", "IN", "LIKE"].iter().any(|word| self.is_word_at(1, word));
        if negated {
            self.advance();
        }
        let kind = if self.takes_word("BETWEEN") {
            let low = Box::new(self.sum()?);
            self.expect_word("AND")?;
            AstKind::Between { value: Box::new(value), low, high: Box::new(self.sum()?), negated }
        } else if self.takes_word("IN") {
            self.expect_symbol("(", "after IN")?;
            if self.is_word("SELECT") {
                let message = "a query within a query is not supported";
                return Err(Box::new(Fault::new(self.span(), message).help("join a table")));
            }
            let list = self.list(Parser::expression)?;
            self.expect_symbol(")", "after the list")?;
            AstKind::In { value: Box::new(value), list, negated }
        } else if self.takes_word("LIKE") {
            let pattern = Box::new(self.sum()?);
            let escape = if self.takes_word("ESCAPE") { Some(self.escape()?) } else { None };
            AstKind::Like { value: Box::new(value), pattern, escape, negated }
        } else {
            return Ok(Err(value));
        };
        Ok(Ok(Ast { kind, span: self.since(start) }))
    }

    fn escape(&mut self) -> Parsed<char> {
        let (text, span) = self.text("the escape character in single quotes")?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => Err(Box::new(Fault::new(span, "the escape is exactly one character"))),
        }
    }

    fn sum(&mut self) -> Parsed<Ast> {
        let mut left = self.product()?;
        loop {
            let operator = match &self.token().kind {
                TokenKind::Symbol("+") => Operator::Add,
                TokenKind::Symbol("-") => Operator::Subtract,
                TokenKind::Symbol("||") => {
                    let span = self.advance().span;
                    let right = self.product()?;
                    let all = left.span.to(right.span);
                    let name = Name { text: "CONCAT".into(), span };
                    let args = vec![left, right];
                    left = Ast { kind: AstKind::Call { name, args, star: false }, span: all };
                    continue;
                }
                _ => return Ok(left),
            };
            self.advance();
            left = binary(operator, left, self.product()?);
        }
    }

    fn product(&mut self) -> Parsed<Ast> {
        let mut left = self.signed()?;
        loop {
            let operator = match &self.token().kind {
                TokenKind::Symbol("*") => Operator::Multiply,
                TokenKind::Symbol("/") => Operator::Divide,
                TokenKind::Symbol("%") => Operator::Modulo,
                _ => return Ok(left),
            };
            self.advance();
            left = binary(operator, left, self.signed()?);
        }
    }

    fn signed(&mut self) -> Parsed<Ast> {
        let start = self.span();
        if self.takes_symbol("+") {
            return self.signed();
        }
        if !self.takes_symbol("-") {
            return self.access();
        }
        if let TokenKind::Integer(digits) = self.token().kind.clone() {
            let span = start.to(self.advance().span);
            let value = format!("-{digits}").parse();
            let value =
                value.map_err(|_| Fault::new(span, format!("-{digits} does not fit 64 bits")))?;
            return self.accesses(Ast { kind: AstKind::Integer(value), span });
        }
        let value = self.signed()?;
        let span = start.to(value.span);
        let kind = match value.kind {
            AstKind::Decimal(text) if !text.starts_with('-') => {
                AstKind::Decimal(format!("-{text}"))
            }
            AstKind::Double(number) => AstKind::Double(-number),
            kind => AstKind::Negate(Box::new(Ast { kind, span: value.span })),
        };
        Ok(Ast { kind, span })
    }

    fn access(&mut self) -> Parsed<Ast> {
        let value = self.primary()?;
        self.accesses(value)
    }

    fn accesses(&mut self, mut value: Ast) -> Parsed<Ast> {
        let start = value.span;
        loop {
            let kind = if self.takes_symbol("[") {
                let index = self.expression()?;
                self.expect_symbol("]", "after the index")?;
                AstKind::Index { base: Box::new(value), index: Box::new(index) }
            } else if self.is_symbol("->") && *self.after(1) != TokenKind::Symbol("*") {
                self.advance();
                let name = self.name("a field's name after ->")?;
                AstKind::Field { base: Box::new(value), name }
            } else {
                return Ok(value);
            };
            value = Ast { kind, span: self.since(start) };
        }
    }

    fn primary(&mut self) -> Parsed<Ast> {
        let start = self.span();
        let kind = match self.token().kind.clone() {
            TokenKind::Integer(digits) => {
                self.advance();
                let too_large = || Fault::new(start, format!("{digits} does not fit 64 bits"));
                AstKind::Integer(digits.parse().map_err(|_| too_large())?)
            }
            TokenKind::Decimal(text) => {
                self.advance();
                AstKind::Decimal(text)
            }
            TokenKind::Double(text) => {
                self.advance();
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
                let too_large = || Fault::new(start, format!("{text} does not fit a DOUBLE"));
                AstKind::Double(number.ok_or_else(too_large)?)
            }
            TokenKind::Text(text) => {
                self.advance();
                AstKind::Text(text)
            }
            TokenKind::Symbol("(") => {
                self.advance();
                let inner = self.expression()?;
                if self.is_symbol(",") && self.is_lambda() {
                    let message = "ksqlDB's lambda functions are not supported";
                    return Err(Box::new(Fault::new(start, message)));
                }
                self.expect_symbol(")", "to close the bracket")?;
                return Ok(Ast { span: self.since(start), ..inner });
            }
            TokenKind::Word(word) => return self.word(&word, start),
            TokenKind::Quoted(_) => return self.column_or_call(start),
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Ast { kind, span: start })
    }

    /// Whether the bracket that is open closes before an arrow.
    fn is_lambda(&self) -> bool {
        let mut rest = self.tokens[self.at..].iter().map(|token| &token.kind);
        rest.find(|kind| matches!(kind, TokenKind::Symbol(")") | TokenKind::End));
        matches!(rest.next(), Some(TokenKind::Symbol("=>")))
    }

    fn word(&mut self, word: &str, start: Span) -> Parsed<Ast> {
        let upper = word.to_uppercase();
        let followed = |symbol: &str| matches!(self.after(1), TokenKind::Symbol(s) if *s == symbol);
        let kind = match upper.as_str() {
            "NULL" => AstKind::Null,
            "TRUE" => AstKind::Boolean(true),
            "FALSE" => AstKind::Boolean(false),
            "CASE" => return self.case(start),
            "CAST" if followed("(") => return self.cast(start),
            "ARRAY" if followed("[") => {
                self.at += 2;
                let items =
                    if self.is_symbol("]") { Vec::new() } else { self.list(Parser::expression)? };
                self.expect_symbol("]", "after the items")?;
                return Ok(Ast { kind: AstKind::Array(items), span: self.since(start) });
            }
            "MAP" if followed("(") => {
                self.at += 2;
                let entry = |p: &mut Parser| {
                    let key = p.expression()?;
                    p.expect_symbol(":=", "between key and value")?;
                    Ok((key, p.expression()?))
                };
                let entries = if self.is_symbol(")") { Vec::new() } else { self.list(entry)? };
                self.expect_symbol(")", "after the entries")?;
                return Ok(Ast { kind: AstKind::Map(entries), span: self.since(start) });
            }
            "STRUCT" if followed("(") => {
                self.at += 2;
                let field = |p: &mut Parser| {
                    let name = p.name("a field's name")?;
                    p.expect_symbol(":=", "between name and value")?;
                    Ok((p.expression()?, name))
                };
                let fields = if self.is_symbol(")") { Vec::new() } else { self.list(field)? };
                self.expect_symbol(")", "after the fields")?;
                return Ok(Ast { kind: AstKind::Struct(fields), span: self.since(start) });
            }
            _ if is_reserved(word) => return Err(self.unexpected("a value")),
            _ => return self.column_or_call(start),
        };
        self.advance();
        Ok(Ast { kind, span: start })
    }

    fn column_or_call(&mut self, start: Span) -> Parsed<Ast> {
        let first = self.name("a column")?;
        if self.takes_symbol("(") {
            return self.call(first, start);
        }
        let (qualifier, name) = if self.takes_symbol(".") {
            (Some(first), self.name("a column's name after the point")?)
        } else {
            (None, first)
        };
        if self.is_symbol("=>") {
            let message = "ksqlDB's lambda functions are not supported";
            return Err(Box::new(Fault::new(self.span(), message)));
        }
        Ok(Ast { kind: AstKind::Column { qualifier, name }, span: self.since(start) })
    }

    fn call(&mut self, mut name: Name, start: Span) -> Parsed<Ast> {
        name.text = name.text.to_uppercase();
        let star = self.takes_symbol("*");
        if self.is_word("DISTINCT") {
            let message = format!("{}(DISTINCT …) is not supported", name.text);
            let help = "use COUNT_DISTINCT, TOPKDISTINCT or COLLECT_SET";
            return Err(Box::new(Fault::new(self.span(), message).help(help)));
        }
        let args =
            if star || self.is_symbol(")") { Vec::new() } else { self.list(Parser::expression)? };
        if self.is_symbol("=>") {
            let message = "ksqlDB's lambda functions are not supported";
            return Err(Box::new(Fault::new(self.span(), message)));
        }
        self.expect_symbol(")", &format!("after the arguments of {}", name.text))?;
        if self.is_word("OVER") {
            let message = "OVER is not supported";
            let help = "WINDOW TUMBLING, HOPPING or SESSION after FROM";
            return Err(Box::new(Fault::new(self.span(), message).help(help)));
        }
        Ok(Ast { kind: AstKind::Call { name, args, star }, span: self.since(start) })
    }

    fn case(&mut self, start: Span) -> Parsed<Ast> {
        self.advance();
        let operand = if self.is_word("WHEN") { None } else { Some(Box::new(self.expression()?)) };
        let mut whens = Vec::new();
        while self.takes_word("WHEN") {
            let condition = self.expression()?;
            self.expect_word("THEN")?;
            whens.push((condition, self.expression()?));
        }
        if whens.is_empty() {
            return Err(self.unexpected("WHEN"));
        }
        let otherwise =
            if self.takes_word("ELSE") { Some(Box::new(self.expression()?)) } else { None };
        self.expect_word("END")?;
        Ok(Ast { kind: AstKind::Case { operand, whens, otherwise }, span: self.since(start) })
    }

    fn cast(&mut self, start: Span) -> Parsed<Ast> {
        self.at += 2;
        let value = Box::new(self.expression()?);
        self.expect_word("AS")?;
        let target = self.sql_type()?;
        self.expect_symbol(")", "after the type")?;
        Ok(Ast { kind: AstKind::Cast { value, target }, span: self.since(start) })
    }
}
