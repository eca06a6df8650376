//! Statements as they were written.

use crate::text::Span;
use crate::types::SqlType;

/// A name after normalisation, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// An expression and where it stands.
#[derive(Debug, Clone)]
pub struct Ast {
    /// What it is.
    pub kind: AstKind,
    /// Where it stands.
    pub span: Span,
}

/// An operator between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    DistinctFrom,
    NotDistinctFrom,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Operator {
    /// As it is written.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Operator::Or => "OR",
            Operator::And => "AND",
            Operator::Equal => "=",
            Operator::NotEqual => "<>",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
            Operator::DistinctFrom => "IS DISTINCT FROM",
            Operator::NotDistinctFrom => "IS NOT DISTINCT FROM",
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Modulo => "%",
        }
    }

    /// Whether it computes a number.
    #[must_use]
    pub fn is_arithmetic(self) -> bool {
        use Operator::{Add, Divide, Modulo, Multiply, Subtract};
        matches!(self, Add | Subtract | Multiply | Divide | Modulo)
    }
}

/// The kinds of expression.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum AstKind {
    Null,
    Boolean(bool),
    Integer(i64),
    /// A literal with a point, as written.
    Decimal(String),
    Double(f64),
    Text(String),
    Column {
        qualifier: Option<Name>,
        name: Name,
    },
    Call {
        name: Name,
        args: Vec<Ast>,
        star: bool,
    },
    Binary {
        operator: Operator,
        left: Box<Ast>,
        right: Box<Ast>,
    },
    Not(Box<Ast>),
    Negate(Box<Ast>),
    IsNull {
        value: Box<Ast>,
        negated: bool,
    },
    Between {
        value: Box<Ast>,
        low: Box<Ast>,
        high: Box<Ast>,
        negated: bool,
    },
    In {
        value: Box<Ast>,
        list: Vec<Ast>,
        negated: bool,
    },
    Like {
        value: Box<Ast>,
        pattern: Box<Ast>,
        escape: Option<char>,
        negated: bool,
    },
    Case {
        operand: Option<Box<Ast>>,
        whens: Vec<(Ast, Ast)>,
        otherwise: Option<Box<Ast>>,
    },
    Cast {
        value: Box<Ast>,
        target: SqlType,
    },
    Index {
        base: Box<Ast>,
        index: Box<Ast>,
    },
    Field {
        base: Box<Ast>,
        name: Name,
    },
    Array(Vec<Ast>),
    Map(Vec<(Ast, Ast)>),
    Struct(Vec<(Ast, Name)>),
}

/// A stream or a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Events.
    Stream,
    /// The last value of each key.
    Table,
}

impl SourceKind {
    /// `STREAM` or `TABLE`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            SourceKind::Stream => "STREAM",
            SourceKind::Table => "TABLE",
        }
    }
}

/// A value in WITH (…).
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Upper-case name.
    pub name: Name,
    /// The value as text.
    pub value: String,
    /// Where the value stands.
    pub span: Span,
}

/// A column of a CREATE statement.
#[derive(Debug, Clone)]
pub struct ColumnDefinition {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub kind: SqlType,
    /// `KEY` or `PRIMARY KEY`: whether it is in the record's key.
    pub key: Option<KeyWord>,
}

/// How a key column was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWord {
    /// `KEY`.
    Key,
    /// `PRIMARY KEY`.
    PrimaryKey,
}

/// `FROM name [alias]`.
#[derive(Debug, Clone)]
pub struct From {
    /// The source's name.
    pub name: Name,
    /// How its columns are qualified.
    pub alias: Option<Name>,
}

impl From {
    /// The alias, or the name.
    #[must_use]
    pub fn label(&self) -> &str {
        self.alias.as_ref().map_or(&self.name.text, |alias| &alias.text)
    }
}

/// `[LEFT] JOIN table ON left = right`.
#[derive(Debug, Clone)]
pub struct JoinClause {
    /// The table.
    pub from: From,
    /// Whether records without a row go on with nulls.
    pub left: bool,
    /// The two sides of `=`.
    pub on: (Ast, Ast),
}

/// What is selected.
#[derive(Debug, Clone)]
pub enum SelectItem {
    /// `*` or `alias.*`.
    All {
        /// The alias.
        qualifier: Option<Name>,
        /// Where it stands.
        span: Span,
    },
    /// `struct->*`.
    Fields {
        /// The STRUCT.
        base: Ast,
    },
    /// An expression.
    Value {
        /// The expression.
        value: Ast,
        /// `AS alias`.
        alias: Option<Name>,
    },
}

/// The kinds of window; times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// Windows side by side.
    Tumbling {
        /// Length.
        size: i64,
    },
    /// Windows that overlap.
    Hopping {
        /// Length.
        size: i64,
        /// Distance between starts.
        advance: i64,
    },
    /// As long as records follow each other.
    Session {
        /// Longest silence within a session.
        gap: i64,
    },
}

/// `WINDOW …`; times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowClause {
    /// Kind and sizes.
    pub kind: WindowKind,
    /// `GRACE PERIOD`, where it is stated.
    pub grace: Option<i64>,
    /// `RETENTION`, where it is stated.
    pub retention: Option<i64>,
    /// Where it stands.
    pub span: Span,
}

/// When results are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// Each change of a result.
    Changes,
    /// One result per group and window, when the window is closed.
    Final,
}

/// A query.
#[derive(Debug, Clone)]
pub struct Select {
    /// What is selected.
    pub items: Vec<SelectItem>,
    /// `FROM`.
    pub from: From,
    /// `JOIN`.
    pub join: Option<JoinClause>,
    /// `WINDOW`.
    pub window: Option<WindowClause>,
    /// `WHERE`.
    pub filter: Option<Ast>,
    /// `GROUP BY`.
    pub group_by: Vec<Ast>,
    /// `PARTITION BY`.
    pub partition_by: Vec<Ast>,
    /// `HAVING`.
    pub having: Option<Ast>,
    /// `EMIT`; changes where nothing is stated.
    pub emit: Emit,
    /// From SELECT to the end.
    pub span: Span,
}

/// What a CREATE statement gives.
#[derive(Debug, Clone)]
pub enum Body {
    /// Columns of a topic that exists.
    Columns(Vec<ColumnDefinition>),
    /// `AS SELECT …`.
    Query(Box<Select>),
}

/// `CREATE STREAM|TABLE name …`.
#[derive(Debug, Clone)]
pub struct Statement {
    /// A stream or a table.
    pub kind: SourceKind,
    /// Its name.
    pub name: Name,
    /// Columns or query.
    pub body: Body,
    /// `WITH (…)`.
    pub with: Vec<Property>,
    /// All of it.
    pub span: Span,
}
