//! What a file of statements defines: sources and compiled queries.

use crate::aggregate::AggregateCall;
use crate::analyse;
use crate::ast::{Emit, SourceKind, WindowKind};
use crate::dates::Pattern;
use crate::expr::Expr;
use crate::fault::Fault;
use crate::lexer::{TokenKind, tokens};
use crate::parser::{Naming, parse};
use crate::row::{pseudo_columns, transaction_columns};
use crate::text::Span;
use crate::types::SqlType;
use caudal_core::row::{Column, ColumnType, RowSchema};
use std::collections::BTreeMap;

/// How keys or values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Kafka's own serialisers: one column, no frame. Keys only.
    Kafka,
    /// JSON.
    Json,
    /// Avro in Confluent framing.
    Avro,
    /// Columns separated by a character.
    Delimited(char),
    /// Nothing: the key is not read.
    None,
}

/// A column of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: SqlType,
    /// Whether it is in the record's key.
    pub key: bool,
}

/// The column that gives a source's event time.
#[derive(Debug, Clone)]
pub struct TimestampColumn {
    /// Its number.
    pub index: usize,
    /// How its text is read; none for BIGINT and TIMESTAMP.
    pub pattern: Option<Pattern>,
}

/// The window in the keys of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWindow {
    /// Windows of fixed size, in milliseconds.
    Time(i64),
    /// Sessions.
    Session,
}

/// A stream or a table.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// A stream or a table.
    pub kind: SourceKind,
    /// Its topic.
    pub topic: String,
    /// Its columns.
    pub columns: Vec<SourceColumn>,
    /// How its keys are written.
    pub key_format: Format,
    /// How its values are written.
    pub value_format: Format,
    /// Whether a value of one column is an object with one field.
    pub wrapped: bool,
    /// What its event time is; none: the record's timestamp.
    pub timestamp: Option<TimestampColumn>,
    /// The window in its keys.
    pub window: Option<KeyWindow>,
}

impl Source {
    /// Names and types of everything that can be selected from it, the pseudo columns last.
    #[must_use]
    pub fn row_columns(&self) -> Vec<(String, SqlType)> {
        let own = self.columns.iter().map(|c| (c.name.clone(), c.kind.clone()));
        // Pseudo columns are written in the case of the others: they are all upper or all lower.
        let lower = self.columns.iter().all(|c| c.name == c.name.to_lowercase());
        let named = |name: &str| if lower { name.to_lowercase() } else { name.to_owned() };
        let pseudo = pseudo_columns().map(|(name, kind)| (named(name), kind));
        let window = self.window.is_some();
        let bounds = ["WINDOWSTART", "WINDOWEND"].map(|name| (named(name), SqlType::Bigint));
        own.chain(pseudo).chain(bounds.into_iter().filter(|_| window)).collect()
    }

    /// The columns of the key.
    pub fn key_columns(&self) -> impl Iterator<Item = &SourceColumn> {
        self.columns.iter().filter(|column| column.key)
    }
}

/// The name of the predeclared stream of valid transactions.
pub const TRANSACTIONS: &str = "transacciones_validas";

/// `transacciones_validas`: its key is the account, its event time the transaction's.
#[must_use]
pub fn transactions() -> Source {
    let columns = transaction_columns().map(|(name, kind)| SourceColumn {
        name: name.to_owned(),
        kind,
        key: name == "account_id",
    });
    Source {
        name: TRANSACTIONS.to_owned(),
        kind: SourceKind::Stream,
        topic: TRANSACTIONS.to_owned(),
        timestamp: columns
            .iter()
            .position(|c| c.name == "event_time")
            .map(|index| TimestampColumn { index, pattern: None }),
        columns: columns.to_vec(),
        key_format: Format::Kafka,
        value_format: Format::Avro,
        wrapped: true,
        window: None,
    }
}

/// A column of a query's output.
#[derive(Debug)]
pub struct OutputColumn {
    /// Its name.
    pub name: String,
    /// Whether it is in the record's key.
    pub key: bool,
    /// Its value: over the row of the sources, or over the row of a group.
    pub value: Expr,
}

/// `JOIN table ON …`.
#[derive(Debug)]
pub struct Join {
    /// The table.
    pub table: String,
    /// Whether a record without a row goes on.
    pub left: bool,
    /// What is looked up, over the stream's row.
    pub key: Expr,
}

/// A window; all times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Kind and sizes.
    pub kind: WindowKind,
    /// How long after its end a window takes records.
    pub grace: i64,
    /// How long its results can be looked up in ksqlDB; results here are rows of a table, which
    /// the table's owner deletes. Read, checked and not used.
    pub retention: Option<i64>,
}

/// ksqlDB's grace where none is stated: 24 hours; none at all with EMIT FINAL.
pub const DEFAULT_GRACE: i64 = 86_400_000;

/// Groups and what is computed of them.
#[derive(Debug)]
pub struct Aggregation {
    /// The grouping expressions, over the row of the sources.
    pub group_by: Vec<Expr>,
    /// Windows, where groups have some.
    pub window: Option<Window>,
    /// The aggregates of SELECT and HAVING, each once.
    pub calls: Vec<AggregateCall>,
    /// `HAVING`, over the row of a group.
    pub having: Option<Expr>,
    /// When results are given.
    pub emit: Emit,
}

impl Aggregation {
    /// The row of a group, as SELECT and HAVING read it: the group's values, the bounds of its
    /// window in milliseconds, the results of the aggregates.
    #[must_use]
    pub fn group_row<'a>(
        &self,
        group: impl IntoIterator<Item = crate::value::Value<'a>>,
        window: Option<(i64, i64)>,
        results: impl IntoIterator<Item = crate::value::Value<'a>>,
    ) -> Vec<crate::value::Value<'a>> {
        use crate::value::Value;
        let bound = |bound: Option<i64>| bound.map_or(Value::Null, Value::Long);
        let bounds = [bound(window.map(|w| w.0)), bound(window.map(|w| w.1))];
        group.into_iter().chain(bounds).chain(results).collect()
    }
}

/// A compiled query.
#[derive(Debug)]
pub struct Query {
    /// Its name.
    pub name: String,
    /// Where its statement stands.
    pub span: Span,
    /// What it computes, whatever its name, its layout and its WITH: the words of its query, and
    /// the columns of what it reads. State made under another definition is another query's.
    pub definition: String,
    /// The source that it reads.
    pub from: String,
    /// The table that its records are joined with.
    pub join: Option<Join>,
    /// `WHERE`, over the row of the sources.
    pub filter: Option<Expr>,
    /// Groups; none for a query that maps records one by one.
    pub aggregation: Option<Aggregation>,
    /// What it gives, the key first.
    pub columns: Vec<OutputColumn>,
    /// Whether its records have another key than those it reads.
    pub repartitions: bool,
    /// The source that it makes.
    pub output: Source,
    /// `IDLE_TIMEOUT` in microseconds: after so long without a record, at a confirmed end, a
    /// source partition no longer holds the query's windows open.
    pub idle_timeout: Option<i64>,
}

/// Everything that a file defines.
#[derive(Debug)]
pub struct Catalog {
    /// Sources by name, those of queries included.
    pub sources: BTreeMap<String, Source>,
    /// Queries in the order of the file.
    pub queries: Vec<Query>,
}

impl Catalog {
    /// Compiles a text.
    ///
    /// # Errors
    /// Every fault of the text, in its order.
    pub fn compile(text: &str, naming: Naming) -> Result<Catalog, Vec<Fault>> {
        let (statements, mut faults) = parse(text, naming);
        let mut catalog = Catalog { sources: BTreeMap::new(), queries: Vec::new() };
        if naming == Naming::Lower {
            catalog.sources.insert(TRANSACTIONS.to_owned(), transactions());
        }
        let mut broken = Vec::new();
        for statement in &statements {
            let before = faults.len();
            analyse::statement(&mut catalog, statement, naming, &mut faults);
            if faults.len() > before {
                broken.push(statement.name.text.clone());
            }
        }
        for at in 0..catalog.queries.len() {
            catalog.queries[at].definition = definition(text, &catalog, &catalog.queries[at]);
        }
        // What reads a source whose own statement is wrong is not wrong for that.
        let missing = |name: &String| format!("unknown stream or table {name}");
        faults.retain(|fault| !broken.iter().any(|name| fault.message == missing(name)));
        faults.sort_by_key(|fault| fault.span.start);
        if faults.is_empty() { Ok(catalog) } else { Err(faults) }
    }

    /// A query by name, whatever the case.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&Query> {
        self.queries.iter().find(|query| query.name.eq_ignore_ascii_case(name))
    }
}

/// See [`Query::definition`].
fn definition(text: &str, catalog: &Catalog, query: &Query) -> String {
    let (tokens, _) = tokens(text.get(query.span.start..query.span.end).unwrap_or_default());
    let is_select = |kind: &TokenKind| matches!(kind, TokenKind::Word(word) if word.eq_ignore_ascii_case("SELECT"));
    let words = tokens.iter().map(|token| &token.kind).skip_while(|kind| !is_select(kind));
    let mut out = String::new();
    for kind in words {
        match kind {
            TokenKind::Word(word) => out.push_str(&word.to_lowercase()),
            TokenKind::Quoted(name) => out.push_str(&format!("{name:?}")),
            TokenKind::Text(text) => out.push_str(&format!("'{text:?}'")),
            TokenKind::Integer(t) | TokenKind::Decimal(t) | TokenKind::Double(t) => out.push_str(t),
            TokenKind::Symbol(symbol) => out.push_str(symbol),
            TokenKind::End => {}
        }
        out.push(' ');
    }
    let joined = query.join.as_ref().map(|join| &join.table);
    for name in [Some(&query.from), joined].into_iter().flatten() {
        let Some(source) = catalog.sources.get(name) else { continue };
        out.push_str(&format!("\n{name}"));
        for column in &source.columns {
            out.push_str(&format!(" {:?} {} {}", column.name, column.kind, column.key));
        }
    }
    out
}

/// A query whose rows the engine's row format cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query {query}: column {column} is {kind}, which rows of tables cannot hold yet")]
pub struct RowSchemaError {
    /// The query.
    pub query: String,
    /// Its column.
    pub column: String,
    /// The column's type.
    pub kind: String,
}

impl Query {
    /// The schema of its rows as the engine writes them: the key's columns, the bounds of the
    /// window, the other columns.
    ///
    /// # Errors
    /// When a column's type has no place in [`ColumnType`].
    pub fn row_schema(&self) -> Result<RowSchema, RowSchemaError> {
        let column = |output: &OutputColumn| {
            let kind = match &output.value.kind {
                SqlType::String => ColumnType::Text,
                SqlType::Int | SqlType::Bigint => ColumnType::Long,
                SqlType::Decimal { scale, .. } => ColumnType::Decimal { scale: *scale },
                SqlType::Timestamp => ColumnType::Timestamp,
                SqlType::Double => ColumnType::Double,
                SqlType::Boolean => ColumnType::Boolean,
                SqlType::Date => ColumnType::Date,
                SqlType::Array(_) | SqlType::Map(_) | SqlType::Struct(_) => ColumnType::Json,
                other => {
                    return Err(RowSchemaError {
                        query: self.name.clone(),
                        column: output.name.clone(),
                        kind: other.to_string(),
                    });
                }
            };
            Ok(Column { name: output.name.clone(), kind, nullable: !output.key })
        };
        let of = |key: bool| self.columns.iter().filter(move |c| c.key == key).map(column);
        let mut columns = of(true).collect::<Result<Vec<_>, _>>()?;
        if self.aggregation.as_ref().is_some_and(|a| a.window.is_some()) {
            for name in ["window_start", "window_end"] {
                let (name, kind) = (name.to_owned(), ColumnType::Timestamp);
                columns.push(Column { name, kind, nullable: false });
            }
        }
        columns.extend(of(false).collect::<Result<Vec<_>, _>>()?);
        Ok(RowSchema { name: self.name.clone(), columns })
    }

    /// Whether all of it is computed where the record is read: it gives a row for each record, or
    /// its groups are complete there, because the grouping columns contain the key of
    /// `transacciones_validas`. Sessions are put together where partials meet.
    #[must_use]
    pub fn is_local(&self, catalog: &Catalog) -> bool {
        let Some(aggregation) = &self.aggregation else { return !self.repartitions };
        let is_session = |window: &Window| matches!(window.kind, WindowKind::Session { .. });
        if self.from != TRANSACTIONS || aggregation.window.as_ref().is_some_and(is_session) {
            return false;
        }
        let Some(source) = catalog.sources.get(&self.from) else { return false };
        let grouped: Vec<usize> = aggregation.group_by.iter().filter_map(Expr::as_column).collect();
        let mut keys = source.columns.iter().enumerate().filter(|(_, c)| c.key).peekable();
        keys.peek().is_some() && keys.all(|(at, _)| grouped.contains(&at))
    }
}
