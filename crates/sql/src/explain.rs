//! What a query will do, in words: stages, repartitioning, state, schema, topics, restore.

use crate::ast::{Emit, WindowKind};
use crate::catalog::{Catalog, Format, Query, Source, Window};
use std::fmt::Write as _;

fn duration(millis: i64) -> String {
    for (length, unit) in
        [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second")]
    {
        if millis > 0 && millis % length == 0 {
            let count = millis / length;
            return format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
        }
    }
    format!("{millis} milliseconds")
}

fn format_name(format: Format) -> String {
    match format {
        Format::Kafka => "KAFKA".into(),
        Format::Json => "JSON".into(),
        Format::Avro => "AVRO".into(),
        Format::Delimited(delimiter) => format!("DELIMITED by {delimiter:?}"),
        Format::None => "NONE".into(),
    }
}

fn window_text(window: &Window) -> String {
    let kind = match window.kind {
        WindowKind::Tumbling { size } => format!("tumbling, {}", duration(size)),
        WindowKind::Hopping { size, advance } => {
            format!("hopping, {} every {}", duration(size), duration(advance))
        }
        WindowKind::Session { gap } => format!("sessions with gaps up to {}", duration(gap)),
    };
    format!("{kind}; open for {} after its end", duration(window.grace))
}

/// Panes of a group that are kept at one time, at most.
fn panes(window: &Window) -> i64 {
    match window.kind {
        WindowKind::Tumbling { size } => 1 + (window.grace + size - 1) / size.max(1),
        WindowKind::Hopping { size, advance } => {
            (size + window.grace + advance - 1) / advance.max(1) + 1
        }
        WindowKind::Session { .. } => 1,
    }
}

/// One line a query: name, what it reads, what it makes, and where it runs.
#[must_use]
pub fn list(catalog: &Catalog) -> Vec<[String; 5]> {
    let row = |query: &Query| {
        let kind = query.output.kind.word().to_lowercase();
        let window = query.aggregation.as_ref().and_then(|a| a.window.as_ref()).map(window_text);
        let place = if query.is_local(catalog) { "local" } else { "global" };
        [
            query.name.clone(),
            kind,
            query.from.clone(),
            place.to_owned(),
            window.unwrap_or_else(|| "no window".into()),
        ]
    };
    catalog.queries.iter().map(row).collect()
}

/// Everything about one query.
#[must_use]
pub fn explain(catalog: &Catalog, query: &Query) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        writeln!(out, "{label:<12}{text}").ok();
    };
    let local = query.is_local(catalog);
    line("query", format!("{} ({})", query.name, query.output.kind.word().to_lowercase()));
    if let Some(source) = catalog.sources.get(&query.from) {
        line("reads", source_text(source));
    }
    if let Some(join) = &query.join {
        let how = if join.left {
            "records without a row go on with NULL"
        } else {
            "records without a row are left out"
        };
        if let Some(table) = catalog.sources.get(&join.table) {
            line("joins", format!("{}; {how}", source_text(table)));
        }
    }
    line("stage 1", stage_one(query, local));
    if !local && query.aggregation.is_some() {
        line("stage 2", "per group: partials are merged until the watermark of all source partitions closes the window".into());
        line("sends", "one partial per group and pane and commit to caudal_parciales, by murmur2 of the group".into());
    }
    if query.aggregation.is_none() && query.repartitions {
        line("sends", "every record to the partition of its new key".into());
    }
    if let Some(aggregation) = &query.aggregation {
        if let Some(window) = &aggregation.window {
            line("window", window_text(window));
        }
        let emit = match aggregation.emit {
            Emit::Changes => "a row for each change, the first and the last true one of a commit",
            Emit::Final => "one row per group and window, when the window is closed",
        };
        line("emits", emit.into());
        let bytes: usize =
            aggregation.calls.iter().map(crate::aggregate::AggregateCall::state_bytes).sum();
        let session = |w: &Window| matches!(w.kind, WindowKind::Session { .. });
        let what = match &aggregation.window {
            Some(window) if session(window) => "each open session, of".to_owned(),
            window => format!("up to {} panes of", window.as_ref().map_or(1, panes)),
        };
        let state = format!("per group {what} about {bytes} bytes, and the group's key once");
        line("state", state);
        if aggregation.window.is_none() {
            line(
                "",
                "without a window nothing is ever dropped: the state grows with the groups".into(),
            );
        }
    }
    if let Some(idle) = query.idle_timeout {
        line(
            "idle",
            format!("a partition silent for {} holds no window open", duration(idle / 1_000)),
        );
    }
    line("writes", source_text(&query.output));
    for topic in topics(query) {
        line("topic", topic);
    }
    line("restore", restore(query));
    columns(query, &mut out);
    if let Err(error) = query.row_schema() {
        writeln!(out, "note        {error}").ok();
    }
    out
}

fn columns(query: &Query, out: &mut String) {
    writeln!(out, "columns").ok();
    let windowed = query.output.window.is_some();
    let mut bounds_written = !windowed;
    for column in &query.columns {
        if !column.key && !bounds_written {
            bounds_written = true;
            out.push_str("  window_start  TIMESTAMP  key\n  window_end  TIMESTAMP\n");
        }
        let key = if column.key { "  key" } else { "" };
        writeln!(out, "  {}  {}{key}", column.name, column.value.kind).ok();
    }
}

fn stage_one(query: &Query, local: bool) -> String {
    let mut steps = vec!["per record"];
    if query.join.is_some() {
        steps.push("look up the joined row");
    }
    if query.filter.is_some() {
        steps.push("WHERE");
    }
    match (&query.aggregation, local) {
        (None, _) => steps.push("compute the columns"),
        (Some(_), true) => steps.push("add to the group, which is whole in this partition"),
        (Some(_), false) => steps.push("add to the group's partial of this commit"),
    }
    let having = query.aggregation.as_ref().is_some_and(|a| a.having.is_some());
    if having && local {
        steps.push("HAVING");
    }
    steps.join(" → ")
}

fn source_text(source: &Source) -> String {
    let key = format_name(source.key_format);
    let value = format_name(source.value_format);
    format!(
        "{} {}, topic {}, keys {key}, values {value}",
        source.kind.word().to_lowercase(),
        source.name,
        source.topic
    )
}

/// The topics that a query writes.
fn topics(query: &Query) -> Vec<String> {
    let name = &query.output.topic;
    let mut all = vec![format!("{name}: its rows")];
    if query.aggregation.as_ref().is_some_and(|a| a.window.is_some()) {
        all.push(format!("{name}_tardias: partials that came after their window was dropped"));
    }
    all.push(format!("{name}_errores: records that cannot be read, or an expression not computed"));
    all
}

fn restore(query: &Query) -> String {
    match &query.aggregation {
        None if query.join.is_none() => "nothing is kept".into(),
        None => "the joined table's topic from its start".into(),
        Some(_) => {
            "the blocks of caudal_estado since the lower bound: about four times the live state"
                .into()
        }
    }
}
