//! What a query selects, and which of it is the key.

use super::query::{Context, generated_name};
use crate::aggregate::{self, AggregateCall};
use crate::ast::{Ast, AstKind, Name, SelectItem, Statement};
use crate::bind::{Bound, RowScope, Scope, bind, bind_condition, canonical};
use crate::catalog::{OutputColumn, SourceColumn};
use crate::expr::{Expr, Node};
use crate::fault::Fault;
use crate::functions::Argument;
use crate::text::Span;
use crate::types::SqlType;
use std::cell::RefCell;

/// Grouping expressions, aggregates and HAVING.
pub(super) type Groups = (Vec<Expr>, Vec<AggregateCall>, Option<Expr>);

/// The columns of a query.
#[derive(Default)]
pub(super) struct Selection {
    pub columns: Vec<OutputColumn>,
    pub groups: Option<Groups>,
    /// Whether the key is another than that of the records that are read.
    pub repartitions: bool,
    /// How many names were made up.
    pub generated: usize,
    /// The meaning of each column, and where it stands.
    meanings: Vec<(Option<String>, Span)>,
}

impl Selection {
    fn push(&mut self, name: String, value: Expr, meaning: Option<String>, span: Span) {
        self.columns.push(OutputColumn { name, key: false, value });
        self.meanings.push((meaning, span));
    }

    /// Makes the first column of one of these meanings a key column.
    fn mark(&mut self, meanings: &[String]) -> bool {
        let is = |meaning: &Option<String>| meaning.as_ref().is_some_and(|m| meanings.contains(m));
        match self.meanings.iter().position(|(meaning, _)| is(meaning)) {
            Some(at) => {
                self.columns[at].key = true;
                true
            }
            None => false,
        }
    }

    /// Two columns of one name, and a key that is selected twice.
    fn check(&self, faults: &mut Vec<Fault>) {
        for (at, column) in self.columns.iter().enumerate() {
            let (meaning, span) = &self.meanings[at];
            if self.columns[..at].iter().any(|other| other.name == column.name) {
                let message = format!("two columns are named {}", column.name);
                faults.push(Fault::new(*span, message).help("give one another name with AS"));
            }
            let same = |other: &usize| meaning.is_some() && self.meanings[*other].0 == *meaning;
            if let Some(other) =
                (0..self.columns.len()).find(|o| *o != at && self.columns[*o].key && same(o))
                && other < at
            {
                let message =
                    format!("the key column {} is selected twice", self.columns[other].name);
                faults.push(Fault::new(*span, message).help("copy it with AS_VALUE(…)"));
            }
        }
    }

    /// Puts the key columns first, in the order of the key.
    fn keys_first(&mut self, keys: &[Vec<String>]) {
        let columns = std::mem::take(&mut self.columns);
        let rank = |meaning: &Option<String>| {
            let is = |key: &&Vec<String>| meaning.as_ref().is_some_and(|m| key.contains(m));
            keys.iter().position(|key| is(&key)).unwrap_or(usize::MAX)
        };
        let mut all: Vec<(usize, OutputColumn)> = columns
            .into_iter()
            .zip(&self.meanings)
            .map(|(column, (meaning, _))| {
                (if column.key { rank(meaning) } else { usize::MAX }, column)
            })
            .collect();
        all.sort_by_key(|(rank, column)| (!column.key, *rank));
        self.columns = all.into_iter().map(|(_, column)| column).collect();
    }
}

fn collect<T>(result: Bound<T>, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|fault| faults.push(*fault)).ok()
}

/// The name of a column that has no alias.
fn implied_name(ast: &Ast, selection: &Selection, context: &Context<'_>) -> Option<String> {
    match &ast.kind {
        AstKind::Column { qualifier, name } => {
            let has = |source: &&crate::bind::ScopeSource| {
                source.columns.iter().any(|(column, _)| *column == name.text)
            };
            let ambiguous = context.scope.sources.iter().filter(has).count() > 1;
            match qualifier {
                Some(label) if ambiguous => Some(format!("{}_{}", label.text, name.text)),
                _ => Some(name.text.clone()),
            }
        }
        AstKind::Field { name, .. } => {
            // A field gives way to the columns of the sources and to those before it.
            let taken = |wanted: &String| {
                let sources = &context.scope.sources;
                let in_source = sources.iter().any(|s| s.columns.iter().any(|(n, _)| n == wanted));
                in_source || selection.columns.iter().any(|column| column.name == *wanted)
            };
            let numbered = (1..).map(|number| format!("{}_{number}", name.text));
            std::iter::once(name.text.clone()).chain(numbered).find(|name| !taken(name))
        }
        _ => None,
    }
}

/// Adds what SELECT lists; `scope` gives the expressions their meaning.
fn select_items(
    selection: &mut Selection,
    context: &Context<'_>,
    scope: &dyn Scope,
    faults: &mut Vec<Fault>,
) {
    for item in &context.select.items {
        match item {
            SelectItem::All { qualifier, span } => {
                select_all(selection, context, scope, (qualifier.as_ref(), *span), faults);
            }
            SelectItem::Fields { base } => {
                let Some(bound) = collect(bind(base, scope), faults) else { continue };
                let SqlType::Struct(fields) = bound.kind else {
                    let message = format!("->* lists the fields of a STRUCT, not {}", bound.kind);
                    faults.push(Fault::new(base.span, message));
                    continue;
                };
                for (text, _) in fields {
                    let name = Name { text, span: base.span };
                    let kind = AstKind::Field { base: Box::new(base.clone()), name };
                    let field = Ast { kind, span: base.span };
                    select_value(selection, context, scope, (&field, None), faults);
                }
            }
            SelectItem::Value { value, alias } => {
                select_value(selection, context, scope, (value, alias.as_ref()), faults);
            }
        }
    }
}

fn select_value(
    selection: &mut Selection,
    context: &Context<'_>,
    scope: &dyn Scope,
    (value, alias): (&Ast, Option<&Name>),
    faults: &mut Vec<Fault>,
) {
    let Some(bound) = collect(bind(value, scope), faults) else { return };
    if bound.kind == SqlType::Null {
        let message = "a column that is always NULL has no type";
        faults.push(Fault::new(value.span, message).help("CAST(NULL AS STRING)"));
        return;
    }
    let name = alias.map(|alias| alias.text.clone());
    let name = name.or_else(|| implied_name(value, selection, context));
    let name = name.unwrap_or_else(|| {
        let name = generated_name(context.naming, selection, context);
        selection.generated += 1;
        name
    });
    selection.push(name, bound, canonical(value, &context.scope), value.span);
}

fn select_all(
    selection: &mut Selection,
    context: &Context<'_>,
    scope: &dyn Scope,
    (qualifier, span): (Option<&Name>, Span),
    faults: &mut Vec<Fault>,
) {
    let labels = || context.scope.sources.iter().map(|source| source.label.as_str());
    if let Some(qualifier) = qualifier
        && !labels().any(|label| label == qualifier.text)
    {
        let fault =
            Fault::new(qualifier.span, format!("{} is no source of this query", qualifier.text));
        faults.push(fault.nearest(&qualifier.text, labels()));
        return;
    }
    for (label, index, column) in starred(context, qualifier) {
        let name = match context.table {
            Some(_) => format!("{label}_{}", column.name),
            None => column.name.clone(),
        };
        let written = |text: &str| Name { text: text.to_owned(), span };
        let kind = AstKind::Column { qualifier: Some(written(label)), name: written(&column.name) };
        if let Some(value) = collect(bind(&Ast { kind, span }, scope), faults) {
            selection.push(name, value, Some(format!("#{index}")), span);
        }
    }
}

/// The columns that `*` stands for: the label of their source, their number, and what they are.
fn starred<'c>(
    context: &'c Context<'_>,
    qualifier: Option<&Name>,
) -> Vec<(&'c str, usize, &'c SourceColumn)> {
    let sources = [Some(context.source), context.table];
    let mut all = Vec::new();
    let mut offset = 0;
    for (source, scope) in sources.into_iter().flatten().zip(&context.scope.sources) {
        if qualifier.is_none_or(|wanted| wanted.text == scope.label) {
            let mut columns: Vec<_> = source.columns.iter().enumerate().collect();
            if !context.select.partition_by.is_empty() {
                // The old key becomes the last column of the value.
                columns.sort_by_key(|(_, column)| column.key);
            }
            let label = scope.label.as_str();
            all.extend(columns.into_iter().map(|(at, column)| (label, offset + at, column)));
        }
        offset += scope.columns.len();
    }
    all
}

/// A query without groups.
pub(super) fn projection(
    statement: &Statement,
    context: &Context<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Selection> {
    let mut selection = Selection::default();
    let before = faults.len();
    select_items(&mut selection, context, &context.scope, faults);
    let keys = key_meanings(&mut selection, context, faults);
    if faults.len() > before {
        return None;
    }
    for key in &keys {
        if !selection.mark(key) {
            missing_key(statement, context, key, faults);
        }
    }
    selection.check(faults);
    selection.keys_first(&keys);
    Some(selection)
}

/// The meanings that each key column may have. With `SELECT *` a new key is selected too.
fn key_meanings(
    selection: &mut Selection,
    context: &Context<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Vec<String>> {
    let own = context.source.columns.iter().enumerate().filter(|(_, column)| column.key);
    let own: Vec<Vec<String>> = own.map(|(index, _)| vec![format!("#{index}")]).collect();
    if context.select.partition_by.is_empty() {
        return match &context.select.join {
            None => own,
            Some(clause) => {
                let sides = [&clause.on.0, &clause.on.1];
                let both: Vec<String> =
                    sides.iter().filter_map(|side| canonical(side, &context.scope)).collect();
                selection.repartitions = own.len() != 1 || !both.contains(&own[0][0]);
                vec![both]
            }
        };
    }
    let star = context.select.items.iter().any(|item| matches!(item, SelectItem::All { .. }));
    let mut keys = Vec::new();
    for ast in &context.select.partition_by {
        let Some(bound) = collect(bind(ast, &context.scope), faults) else { continue };
        if bound.kind == SqlType::Null {
            if context.select.partition_by.len() > 1 {
                let message = "NULL cannot be one of several key columns";
                faults.push(Fault::new(ast.span, message));
            }
            continue;
        }
        let Some(meaning) = canonical(ast, &context.scope) else { continue };
        let selected = selection.meanings.iter().any(|(m, _)| m.as_ref() == Some(&meaning));
        if star && !selected {
            let name = implied_name(ast, selection, context).unwrap_or_else(|| {
                let name = generated_name(context.naming, selection, context);
                selection.generated += 1;
                name
            });
            selection.push(name, bound, Some(meaning.clone()), ast.span);
        }
        keys.push(vec![meaning]);
    }
    selection.repartitions = keys != own;
    keys
}

fn missing_key(
    statement: &Statement,
    context: &Context<'_>,
    key: &[String],
    faults: &mut Vec<Fault>,
) {
    let number = key.iter().find_map(|m| m.strip_prefix('#')?.parse::<usize>().ok());
    let name = number.and_then(|number| Some(context.source.columns.get(number)?.name.as_str()));
    let (message, help) = match name {
        Some(name) => (
            format!("the key column {name} of {} is not selected", statement.name.text),
            format!("add {name} to SELECT, or PARTITION BY another column"),
        ),
        None => (
            format!("the key of {} is not selected", statement.name.text),
            "add the expression of PARTITION BY or ON to SELECT".to_owned(),
        ),
    };
    let first = match &context.select.items[0] {
        SelectItem::All { span, .. } => *span,
        SelectItem::Value { value, .. } | SelectItem::Fields { base: value } => value.span,
    };
    faults.push(Fault::new(first, message).help(help));
}

/// The row of a group: its values, its window's bounds, the results of the aggregates.
struct GroupScope<'s> {
    row: &'s RowScope,
    /// Meaning and type of each grouping expression.
    keys: Vec<(Option<String>, SqlType)>,
    windowed: bool,
    calls: RefCell<Vec<(String, AggregateCall)>>,
}

impl GroupScope<'_> {
    fn aggregate(&self, ast: &Ast, name: &Name, args: &[Ast], star: bool) -> Bound<Expr> {
        let meaning = canonical(ast, self.row).unwrap_or_default();
        let column = |at: usize| self.keys.len() + 2 + at;
        if let Some(at) = self.calls.borrow().iter().position(|(known, _)| *known == meaning) {
            let kind = self.calls.borrow()[at].1.kind.clone();
            return Ok(Expr { node: Node::Column(column(at)), kind });
        }
        let bound = args.iter().map(|arg| bind(arg, self.row)).collect::<Bound<Vec<_>>>()?;
        let known: Vec<Argument> = bound
            .iter()
            .map(|b| Argument { kind: b.kind.clone(), constant: b.as_literal().cloned() })
            .collect();
        let Some((function, kind)) = aggregate::resolve(&name.text, star, &known) else {
            let kinds: Vec<String> = known.iter().map(|arg| arg.kind.to_string()).collect();
            let given = if star { "*".to_owned() } else { kinds.join(", ") };
            let fault = Fault::new(ast.span, format!("{} does not take ({given})", name.text));
            return Err(Box::new(fault.help(aggregate::find(&name.text).unwrap_or_default())));
        };
        let argument = aggregate::argument(function, bound);
        let mut calls = self.calls.borrow_mut();
        calls.push((meaning, AggregateCall { function, argument, kind: kind.clone() }));
        Ok(Expr { node: Node::Column(column(calls.len() - 1)), kind })
    }
}

impl Scope for GroupScope<'_> {
    fn substitute(&self, ast: &Ast) -> Option<Bound<Expr>> {
        let meaning = canonical(ast, self.row);
        if let Some(at) = self.keys.iter().position(|(key, _)| key.is_some() && *key == meaning) {
            let kind = self.keys[at].1.clone();
            return Some(Ok(Expr { node: Node::Column(at), kind }));
        }
        match &ast.kind {
            AstKind::Call { name, args, star } if aggregate::find(&name.text).is_some() => {
                Some(self.aggregate(ast, name, args, *star))
            }
            _ => None,
        }
    }

    fn column(&self, qualifier: Option<&Name>, name: &Name) -> Bound<Expr> {
        let bound =
            ["WINDOWSTART", "WINDOWEND"].iter().position(|w| w.eq_ignore_ascii_case(&name.text));
        if let (Some(bound), true) = (bound, self.windowed) {
            let node = Node::Column(self.keys.len() + bound);
            return Ok(Expr { node, kind: SqlType::Bigint });
        }
        // An unknown name is the larger fault.
        self.row.column(qualifier, name)?;
        let message = format!("{} is neither grouped nor in an aggregate", name.text);
        let help = format!("add it to GROUP BY, or select LATEST_BY_OFFSET({})", name.text);
        Err(Box::new(Fault::new(name.span, message).help(help)))
    }
}

/// A query with GROUP BY.
pub(super) fn groups(
    statement: &Statement,
    context: &Context<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Selection> {
    let before = faults.len();
    let mut group_by = Vec::new();
    let mut keys = Vec::new();
    for ast in &context.select.group_by {
        let Some(bound) = collect(bind(ast, &context.scope), faults) else { continue };
        if matches!(bound.kind, SqlType::Map(_) | SqlType::Null) {
            let message = format!("{} cannot be a key", bound.kind);
            faults.push(Fault::new(ast.span, message));
        }
        keys.push((canonical(ast, &context.scope), bound.kind.clone()));
        group_by.push(bound);
    }
    let windowed = context.select.window.is_some();
    let scope = GroupScope { row: &context.scope, keys, windowed, calls: RefCell::new(Vec::new()) };
    let mut selection = Selection::default();
    let is_grouped = |index: usize| {
        let meaning = Some(format!("#{index}"));
        scope.keys.iter().any(|(key, _)| *key == meaning)
    };
    for item in &context.select.items {
        let SelectItem::All { qualifier, span } = item else { continue };
        let columns = starred(context, qualifier.as_ref());
        if !columns.iter().all(|(_, index, _)| is_grouped(*index)) {
            let message = "SELECT * of groups names columns that are not grouped";
            let help = "list the grouping columns and the aggregates";
            faults.push(Fault::new(*span, message).help(help));
            return None;
        }
    }
    select_items(&mut selection, context, &scope, faults);
    let having = context.select.having.as_ref();
    let having = having.and_then(|ast| collect(bind_condition(ast, "HAVING", &scope), faults));
    let meanings: Vec<Vec<String>> =
        scope.keys.iter().map(|(meaning, _)| meaning.iter().cloned().collect()).collect();
    for (key, ast) in meanings.iter().zip(&context.select.group_by) {
        if faults.len() == before && !selection.mark(key) {
            let message =
                format!("a grouping expression of {} is not selected", statement.name.text);
            faults.push(Fault::new(ast.span, message).help("it is the key: add it to SELECT"));
        }
    }
    let calls: Vec<AggregateCall> = scope.calls.into_inner().into_iter().map(|(_, c)| c).collect();
    if calls.is_empty() && faults.len() == before {
        let message = "GROUP BY needs an aggregate in SELECT or HAVING";
        faults.push(Fault::new(context.select.group_by[0].span, message).help("as in COUNT(*)"));
    }
    if faults.len() > before {
        return None;
    }
    selection.check(faults);
    selection.keys_first(&meanings);
    selection.groups = Some((group_by, calls, having));
    selection.repartitions = true;
    Some(selection)
}
