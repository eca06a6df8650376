//! CREATE statements.

use super::{Parsed, Parser, unsupported};
use crate::ast::{Body, ColumnDefinition, KeyWord, Property, SourceKind, Statement};
use crate::fault::{Fault, nearest};
use crate::lexer::TokenKind;
use crate::types::{MAX_PRECISION, SqlType};

impl Parser {
    /// One statement up to its `;`. None for a statement that means nothing here.
    pub(super) fn statement(&mut self) -> Parsed<Option<Statement>> {
        let start = self.span();
        if !self.takes_word("CREATE") {
            return Err(self.no_create());
        }
        // The file is the definition: a changed statement replaces what was there.
        let replaces = self.takes_words(&["OR", "REPLACE"]);
        if self.is_word("SOURCE") {
            let span = self.advance().span;
            if replaces {
                let message = "CREATE OR REPLACE SOURCE has no meaning";
                let help = "what is made of a topic that others write is not replaced";
                return Err(Box::new(Fault::new(span, message).help(help)));
            }
        }
        for (word, instead) in [
            ("TYPE", "write the type where it is used"),
            ("CONNECTOR", "config/sink.toml describes the sink"),
            ("SINK", "config/sink.toml describes the sink"),
        ] {
            if self.is_word(word) {
                let message = format!("ksqlDB's CREATE {word} is not supported");
                return Err(Box::new(Fault::new(self.span(), message).help(instead)));
            }
        }
        let kind = match (self.takes_word("STREAM"), self.is_word("TABLE")) {
            (true, _) => SourceKind::Stream,
            (false, true) => {
                self.advance();
                SourceKind::Table
            }
            _ => {
                let fault = *self.unexpected("STREAM or TABLE");
                let found = match &self.token().kind {
                    TokenKind::Word(word) => word.clone(),
                    _ => String::new(),
                };
                return Err(Box::new(fault.nearest(&found, ["STREAM", "TABLE"])));
            }
        };
        self.takes_words(&["IF", "NOT", "EXISTS"]);
        let name = self.name(&format!("the {}'s name", kind.word().to_lowercase()))?;
        let columns = if self.takes_symbol("(") {
            let columns = self.list(Parser::column)?;
            self.expect_symbol(")", "after the columns")?;
            Some(columns)
        } else {
            None
        };
        let with = if self.takes_word("WITH") { self.properties()? } else { Vec::new() };
        let body = match (columns, self.takes_word("AS")) {
            (None, true) => Body::Query(Box::new(self.select()?)),
            (Some(columns), false) => Body::Columns(columns),
            (Some(_), true) => {
                let span = self.since(start);
                let message = "a query's columns come from its SELECT";
                return Err(Box::new(Fault::new(span, message).help("leave the column list out")));
            }
            (None, false) if !with.is_empty() => {
                let message = "ksqlDB's schema inference is not supported";
                let help = format!("list the columns: {} (name type, …)", name.text);
                return Err(Box::new(Fault::new(name.span, message).help(help)));
            }
            (None, false) => return Err(self.unexpected("columns in ( ), or AS SELECT")),
        };
        let span = self.since(start);
        if !self.is_symbol(";") && !self.is_at_end() {
            return Err(self.after_statement());
        }
        Ok(Some(Statement { kind, name, body, with, span }))
    }

    fn no_create(&self) -> Box<Fault> {
        let fault = *self.unexpected("CREATE STREAM or CREATE TABLE");
        let TokenKind::Word(found) = &self.token().kind else { return Box::new(fault) };
        Box::new(match unsupported::statement(found) {
            Some((word, instead)) => {
                Fault::new(fault.span, format!("ksqlDB's {word} is not supported")).help(instead)
            }
            None => fault.nearest(found, ["CREATE"]),
        })
    }

    /// What stands after a statement that seemed complete: a clause at the wrong place, or a
    /// keyword with a slip.
    fn after_statement(&self) -> Box<Fault> {
        const ORDER: &str = "the order is SELECT … FROM … JOIN … WINDOW … WHERE … GROUP BY … \
                             PARTITION BY … HAVING … EMIT …";
        const CLAUSES: [&str; 9] =
            ["JOIN", "LEFT", "WINDOW", "WHERE", "GROUP", "PARTITION", "HAVING", "EMIT", "WITH"];
        let fault = *self.unexpected("; or the next clause");
        let TokenKind::Word(found) = &self.token().kind else { return Box::new(fault) };
        for word in ["LIMIT", "UNION", "ORDER", "QUALIFY", "OFFSET"] {
            if found.eq_ignore_ascii_case(word) {
                let message = format!("{word} has no meaning in a query that never ends");
                return Box::new(Fault::new(fault.span, message));
            }
        }
        if CLAUSES.iter().any(|clause| clause.eq_ignore_ascii_case(found)) {
            return Box::new(
                Fault { message: format!("{found} stands too late"), ..fault }.help(ORDER),
            );
        }
        Box::new(match nearest(found, CLAUSES) {
            Some(clause) => fault.help(format!("did you mean {clause}?")),
            None => fault,
        })
    }

    fn column(&mut self) -> Parsed<ColumnDefinition> {
        let name = self.name("a column's name")?;
        let kind = self.sql_type()?;
        let key = if self.takes_words(&["PRIMARY", "KEY"]) {
            Some(KeyWord::PrimaryKey)
        } else if self.takes_word("KEY") {
            Some(KeyWord::Key)
        } else if self.is_word("HEADERS") || self.is_word("HEADER") {
            let message = "ksqlDB's HEADERS columns are not supported";
            return Err(Box::new(Fault::new(self.span(), message)));
        } else {
            None
        };
        Ok(ColumnDefinition { name, kind, key })
    }

    /// The properties after WITH.
    fn properties(&mut self) -> Parsed<Vec<Property>> {
        self.expect_symbol("(", "after WITH")?;
        let properties = self.list(|parser| {
            let mut name = parser.name("a property's name")?;
            name.text = name.text.to_uppercase();
            parser.expect_symbol("=", "after a property's name")?;
            let token = parser.advance();
            let value = match token.kind {
                TokenKind::Text(text) | TokenKind::Integer(text) => text,
                TokenKind::Word(word)
                    if ["TRUE", "FALSE"].iter().any(|b| b.eq_ignore_ascii_case(&word)) =>
                {
                    word.to_lowercase()
                }
                _ => {
                    parser.at -= usize::from(token.kind != TokenKind::End);
                    return Err(parser.unexpected("a text in single quotes or a number"));
                }
            };
            Ok(Property { name, value, span: token.span })
        })?;
        self.expect_symbol(")", "after the properties")?;
        Ok(properties)
    }

    /// A type's name with its parameters.
    pub(super) fn sql_type(&mut self) -> Parsed<SqlType> {
        const TYPES: [&str; 15] = [
            "BOOLEAN",
            "INT",
            "INTEGER",
            "BIGINT",
            "DOUBLE",
            "DECIMAL",
            "STRING",
            "VARCHAR",
            "TIMESTAMP",
            "DATE",
            "TIME",
            "ARRAY",
            "MAP",
            "STRUCT",
            "BYTES",
        ];
        let start = self.span();
        let TokenKind::Word(word) = &self.token().kind else {
            return Err(self.unexpected("a type"));
        };
        let word = word.to_uppercase();
        self.advance();
        match word.as_str() {
            "BOOLEAN" => Ok(SqlType::Boolean),
            "INT" | "INTEGER" => Ok(SqlType::Int),
            "BIGINT" => Ok(SqlType::Bigint),
            "DOUBLE" => Ok(SqlType::Double),
            "STRING" => Ok(SqlType::String),
            "VARCHAR" => {
                // ksqlDB reads a length, or STRING, and does not use it.
                if self.takes_symbol("(") {
                    if !self.takes_word("STRING") {
                        self.integer("a length")?;
                    }
                    self.expect_symbol(")", "after the length")?;
                }
                Ok(SqlType::String)
            }
            "TIMESTAMP" => Ok(SqlType::Timestamp),
            "DATE" => Ok(SqlType::Date),
            "TIME" => Ok(SqlType::Time),
            "DECIMAL" | "DEC" => self.decimal_type(),
            "ARRAY" | "MAP" | "STRUCT" => self.nested_type(&word),
            "BYTES" => {
                let message = "ksqlDB's type BYTES is not supported";
                Err(Box::new(
                    Fault::new(start, message).help("send the bytes as base64 in a STRING"),
                ))
            }
            other => Err(Box::new(
                Fault::new(start, format!("unknown type {other}")).nearest(other, TYPES),
            )),
        }
    }

    /// ARRAY, MAP or STRUCT, from its `<` on.
    fn nested_type(&mut self, word: &str) -> Parsed<SqlType> {
        match word {
            "ARRAY" => {
                self.expect_symbol("<", "after ARRAY")?;
                let item = self.sql_type()?;
                self.expect_close()?;
                Ok(SqlType::Array(Box::new(item)))
            }
            "MAP" => {
                self.expect_symbol("<", "after MAP")?;
                let at = self.span();
                if self.sql_type()? != SqlType::String {
                    let message = "the keys of a MAP are STRING";
                    return Err(Box::new(Fault::new(at, message).help("MAP<STRING, …>")));
                }
                self.expect_symbol(",", "after the type of the keys")?;
                let item = self.sql_type()?;
                self.expect_close()?;
                Ok(SqlType::Map(Box::new(item)))
            }
            _ => {
                self.expect_symbol("<", "after STRUCT")?;
                let fields = self.list(|p| Ok((p.name("a field's name")?.text, p.sql_type()?)))?;
                self.expect_close()?;
                Ok(SqlType::Struct(fields))
            }
        }
    }

    /// `>` of a type: `>=` cannot follow, `>>` is two tokens.
    fn expect_close(&mut self) -> Parsed<()> {
        self.expect_symbol(">", "after the type")
    }

    fn decimal_type(&mut self) -> Parsed<SqlType> {
        self.expect_symbol("(", "after DECIMAL, as in DECIMAL(18, 2)")?;
        let at = self.span();
        let precision = self.integer("the number of digits")?;
        let scale =
            if self.takes_symbol(",") { self.integer("digits after the point")? } else { 0 };
        let span = self.since(at);
        self.expect_symbol(")", "after the digits")?;
        let fits =
            (1..=i64::from(MAX_PRECISION)).contains(&precision) && (0..=precision).contains(&scale);
        if !fits {
            let message = format!("DECIMAL({precision}, {scale}) is no type");
            let help = "1 to 38 digits, and no more after the point than in all";
            return Err(Box::new(Fault::new(span, message).help(help)));
        }
        Ok(SqlType::Decimal { precision: precision as u8, scale: scale as u8 })
    }
}
