//! A query: its sources, its conditions, its groups, and what it makes.

use super::properties::{Part, Properties};
use super::select::{Selection, groups, projection};
use super::timestamp;
use crate::ast::{Emit, From, Select, SourceKind, Statement, WindowClause, WindowKind};
use crate::bind::{RowScope, ScopeSource, bind, bind_condition, coerce};
use crate::catalog::{
    Aggregation, Catalog, DEFAULT_GRACE, Format, Join, KeyWindow, Query, Source, SourceColumn,
    Window,
};
use crate::fault::Fault;
use crate::parser::{Naming, parse_duration};

/// Everything that the clauses of a query are read against.
pub(super) struct Context<'c> {
    pub select: &'c Select,
    pub naming: Naming,
    pub source: &'c Source,
    /// The joined table.
    pub table: Option<&'c Source>,
    pub scope: RowScope,
}

pub(super) fn compile(
    catalog: &Catalog,
    statement: &Statement,
    select: &Select,
    properties: &Properties<'_>,
    naming: Naming,
    faults: &mut Vec<Fault>,
) -> Option<Query> {
    let source = lookup(catalog, &select.from, faults);
    let table = match &select.join {
        Some(clause) => Some(lookup(catalog, &clause.from, faults)?),
        None => None,
    };
    let source = source?;
    let mut sources = vec![scope_source(source, &select.from)];
    if let (Some(table), Some(clause)) = (table, &select.join) {
        sources.push(scope_source(table, &clause.from));
    }
    let context = Context { select, naming, source, table, scope: RowScope { sources } };
    shape(statement, &context, faults);
    let join = match table {
        Some(table) => Some(join(&context, table, faults)?),
        None => None,
    };
    let filter = select.filter.as_ref().and_then(|condition| {
        bind_condition(condition, "WHERE", &context.scope).map_err(|f| faults.push(*f)).ok()
    });
    let selection = if select.group_by.is_empty() {
        projection(statement, &context, faults)
    } else {
        groups(statement, &context, faults)
    };
    let idle_timeout = idle_timeout(properties, faults);
    let window = select.window.as_ref().and_then(|clause| window(clause, select.emit, faults));
    let mut selection = selection?;
    if select.group_by.is_empty() && select.partition_by.is_empty() {
        key_of_stream(&context, &mut selection);
    }
    let key_is_new = selection.repartitions;
    let columns: Vec<SourceColumn> = selection
        .columns
        .iter()
        .map(|c| SourceColumn { name: c.name.clone(), kind: c.value.kind.clone(), key: c.key })
        .collect();
    let aggregation = selection.groups.map(|(group_by, calls, having)| Aggregation {
        group_by,
        window,
        calls,
        having,
        emit: select.emit,
    });
    let output = output(statement, properties, &context, columns, window, faults)?;
    Some(Query {
        name: statement.name.text.clone(),
        span: statement.span,
        definition: String::new(),
        from: source.name.clone(),
        join,
        filter,
        aggregation,
        columns: selection.columns,
        repartitions: key_is_new,
        output,
        idle_timeout,
    })
}

fn lookup<'c>(catalog: &'c Catalog, from: &From, faults: &mut Vec<Fault>) -> Option<&'c Source> {
    let name = &from.name;
    let found = catalog.sources.get(&name.text);
    if found.is_none() {
        let fault = Fault::new(name.span, format!("unknown stream or table {}", name.text));
        faults.push(fault.nearest(&name.text, catalog.sources.keys().map(String::as_str)));
    }
    found
}

fn scope_source(source: &Source, from: &From) -> ScopeSource {
    ScopeSource { label: from.label().to_owned(), columns: source.row_columns() }
}

/// What the clauses say of each other, before any expression is read.
fn shape(statement: &Statement, context: &Context<'_>, faults: &mut Vec<Fault>) {
    let Context { select, source, table, .. } = context;
    let grouped = !select.group_by.is_empty();
    let mut fault = |span, message: String, help: &str| {
        faults.push(Fault::new(span, message).help(help));
    };
    match (source.kind, grouped, statement.kind) {
        (SourceKind::Stream, true, SourceKind::Stream) => fault(
            statement.name.span,
            "the result of GROUP BY is a table".into(),
            "CREATE TABLE … AS SELECT",
        ),
        (SourceKind::Stream, false, SourceKind::Table) => fault(
            statement.name.span,
            "a query of a stream without GROUP BY gives a stream".into(),
            "CREATE STREAM … AS SELECT, or add GROUP BY",
        ),
        (SourceKind::Table, true, _) => fault(
            select.group_by[0].span,
            "ksqlDB's GROUP BY of a table is not supported".into(),
            "group the stream that the table is made of",
        ),
        (SourceKind::Table, false, SourceKind::Table) if source.window.is_some() => fault(
            select.from.name.span,
            format!("{} has windows in its keys: no query can read it", source.name),
            "read the stream that it is made of",
        ),
        (SourceKind::Table, false, SourceKind::Stream) => fault(
            statement.name.span,
            "a query of a table gives a table".into(),
            "CREATE TABLE … AS SELECT",
        ),
        _ => {}
    }
    if let (Some(table), Some(clause)) = (table, &select.join) {
        if source.kind == SourceKind::Table {
            let message = "ksqlDB's join of two tables is not supported".to_owned();
            fault(clause.from.name.span, message, "join a stream to each table");
        } else if table.kind == SourceKind::Stream {
            let message = format!("{} is a stream: a stream is joined to a table", table.name);
            fault(clause.from.name.span, message, "CREATE TABLE … over its topic, or group it");
        } else if table.window.is_some() {
            let message = format!("{} has windows in its keys: it cannot be joined", table.name);
            fault(clause.from.name.span, message, "group without WINDOW");
        }
        if clause.from.label() == select.from.label() {
            let message = format!("both sources are named {}", clause.from.label());
            fault(clause.from.name.span, message, "give one an alias");
        }
    }
    windows_need_groups(select, faults);
    let mut fault = |span, message: String, help: &str| {
        faults.push(Fault::new(span, message).help(help));
    };
    if let Some(first) = select.partition_by.first() {
        if grouped {
            let message = "PARTITION BY and GROUP BY exclude each other".to_owned();
            fault(first.span, message, "the groups are the partition");
        } else if source.kind == SourceKind::Table {
            let message = "a table cannot be partitioned by another key".to_owned();
            fault(first.span, message, "PARTITION BY is for streams");
        }
    }
}

/// WINDOW, HAVING and EMIT FINAL are about groups.
fn windows_need_groups(select: &Select, faults: &mut Vec<Fault>) {
    let grouped = !select.group_by.is_empty();
    let mut fault = |span, message: String, help: &str| {
        faults.push(Fault::new(span, message).help(help));
    };
    if !grouped {
        if let Some(window) = &select.window {
            fault(window.span, "WINDOW without GROUP BY has no meaning".into(), "add GROUP BY");
        }
        if let Some(having) = &select.having {
            fault(having.span, "HAVING without GROUP BY has no meaning".into(), "use WHERE");
        }
        if select.emit == Emit::Final {
            let message = "EMIT FINAL needs windows".to_owned();
            fault(select.span, message, "add WINDOW … and GROUP BY, or EMIT CHANGES");
        }
    } else if select.emit == Emit::Final && select.window.is_none() {
        let message = "EMIT FINAL needs a window: without one a group is never final".to_owned();
        fault(select.span, message, "add WINDOW TUMBLING, HOPPING or SESSION");
    }
}

/// `ON stream expression = table's key`, either side first.
fn join(context: &Context<'_>, table: &Source, faults: &mut Vec<Fault>) -> Option<Join> {
    let clause = context.select.join.as_ref()?;
    let stream = RowScope { sources: context.scope.sources[..1].to_vec() };
    let right = RowScope { sources: context.scope.sources[1..].to_vec() };
    let (one, other) = (&clause.on.0, &clause.on.1);
    let span = one.span.to(other.span);
    let is_key = |ast| {
        let bound = bind(ast, &right).ok()?;
        let column = table.columns.get(bound.as_column()?)?;
        column.key.then_some(bound.kind)
    };
    let attempt = |key_side, stream_side| {
        let kind = is_key(key_side)?;
        Some((bind(stream_side, &stream), kind, stream_side.span))
    };
    let Some((bound, kind, at)) = attempt(other, one).or_else(|| attempt(one, other)) else {
        for side in [one, other] {
            if let Err(fault) = bind(side, &context.scope) {
                faults.push(*fault);
                return None;
            }
        }
        let key: Vec<&str> = table.key_columns().map(|c| c.name.as_str()).collect();
        let message = format!("a table is joined by its key, which is {}", key.join(", "));
        let help = format!(
            "ON {}.column = {}.{}",
            context.select.from.label(),
            clause.from.label(),
            key.join(", ")
        );
        faults.push(Fault::new(span, message).help(help));
        return None;
    };
    if table.key_columns().count() != 1 {
        let message = format!("{} has more than one key column: it cannot be joined", table.name);
        faults.push(Fault::new(span, message));
        return None;
    }
    match bound.and_then(|expr| coerce(expr, &kind, at)) {
        Ok(key) => Some(Join { table: table.name.clone(), left: clause.left, key }),
        Err(fault) => {
            faults.push(*fault);
            None
        }
    }
}

/// The key of joined records is what the stream looked up, whichever side is selected: a LEFT JOIN
/// that found nothing has a key too.
fn key_of_stream(context: &Context<'_>, selection: &mut Selection) {
    let Some(clause) = &context.select.join else { return };
    let stream = RowScope { sources: context.scope.sources[..1].to_vec() };
    let Some(key) = selection.columns.iter_mut().find(|column| column.key) else { return };
    let sides = [&clause.on.0, &clause.on.1];
    let bound = sides.into_iter().find_map(|side| Some((bind(side, &stream).ok()?, side.span)));
    if let Some((expr, span)) = bound
        && let Ok(expr) = coerce(expr, &key.value.kind, span)
    {
        key.value = expr;
    }
}

fn window(clause: &WindowClause, emit: Emit, faults: &mut Vec<Fault>) -> Option<Window> {
    let mut fault = |message: &str, help: &str| {
        faults.push(Fault::new(clause.span, message).help(help));
        None
    };
    let size = match clause.kind {
        WindowKind::Tumbling { size } => size,
        WindowKind::Hopping { size, advance } => {
            if advance <= 0 || advance > size {
                return fault(
                    "ADVANCE BY is more than 0 and at most SIZE",
                    "as in SIZE 1 MINUTE, ADVANCE BY 10 SECONDS",
                );
            }
            size
        }
        WindowKind::Session { gap } => gap,
    };
    if size <= 0 {
        return fault("a window has a length", "as in 1 MINUTE");
    }
    // As in ksqlDB: what is final at once where nothing is stated needs no grace.
    let default = if emit == Emit::Final { 0 } else { DEFAULT_GRACE };
    let grace = clause.grace.unwrap_or(default);
    if clause
        .retention
        .is_some_and(|retention| retention < size.saturating_add(clause.grace.unwrap_or(0)))
    {
        return fault(
            "RETENTION is shorter than the window and its grace",
            "make it longer, or leave it out",
        );
    }
    Some(Window { kind: clause.kind, grace, retention: clause.retention })
}

fn idle_timeout(properties: &Properties<'_>, faults: &mut Vec<Fault>) -> Option<i64> {
    let property = properties.get("IDLE_TIMEOUT")?;
    let length = parse_duration(&property.value).filter(|micros| *micros > 0);
    if length.is_none() {
        let message = format!("'{}' is no duration", property.value);
        faults.push(Fault::new(property.span, message).help("as in IDLE_TIMEOUT = '1 HOUR'"));
    }
    length
}

/// The source that the query makes. Formats are inherited, but in files of the engine's, whose rows
/// are Avro.
fn output(
    statement: &Statement,
    properties: &Properties<'_>,
    context: &Context<'_>,
    columns: Vec<SourceColumn>,
    window: Option<Window>,
    faults: &mut Vec<Fault>,
) -> Option<Source> {
    let inherited = context.source;
    let has_key = columns.iter().any(|c| c.key);
    let key_format = match (properties.format(Part::Key, faults), inherited.key_format) {
        (Some(stated), _) => stated,
        (None, Format::None) if has_key => Format::Kafka,
        (None, inherited) => inherited,
    };
    let keyless = !has_key && !context.select.partition_by.is_empty();
    if let Some(property) = properties.get("KEY_FORMAT").filter(|_| keyless)
        && key_format != Format::None
    {
        let message = "KEY_FORMAT of records without a key";
        faults.push(Fault::new(property.span, message).help("leave it out"));
    }
    let default = match context.naming {
        Naming::Lower => Format::Avro,
        Naming::Upper => inherited.value_format,
    };
    let value_format = properties.format(Part::Value, faults).unwrap_or(default);
    let value_format = properties.with_delimiter(value_format, faults);
    let window = match window.map(|w| w.kind) {
        Some(WindowKind::Tumbling { size } | WindowKind::Hopping { size, .. }) => {
            Some(KeyWindow::Time(size))
        }
        Some(WindowKind::Session { .. }) => Some(KeyWindow::Session),
        None => inherited.window.filter(|_| context.select.group_by.is_empty()),
    };
    let values = columns.iter().filter(|column| !column.key).count();
    Some(Source {
        name: statement.name.text.clone(),
        kind: statement.kind,
        topic: properties.text("KAFKA_TOPIC").unwrap_or(&statement.name.text).to_owned(),
        key_format,
        value_format,
        wrapped: properties.wrapped(value_format, values, faults),
        timestamp: timestamp(&columns, properties, context.naming, faults),
        window,
        columns,
    })
}

/// The name of a column that has none, free among those taken: ksqlDB's `KSQL_COL_n`.
pub(super) fn generated_name(naming: Naming, taken: &Selection, context: &Context<'_>) -> String {
    let mut number = taken.generated;
    loop {
        let name = naming.apply(&format!("KSQL_COL_{number}"));
        let in_source =
            context.scope.sources.iter().any(|s| s.columns.iter().any(|(n, _)| *n == name));
        if !in_source && taken.columns.iter().all(|c| c.name != name) {
            return name;
        }
        number += 1;
    }
}
