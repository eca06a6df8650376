//! Statements that a seed draws, each with PostgreSQL's own words for the same question over the
//! table `transactions`.
//!
//! Nothing is late in them (the grace is longer than the data), so that the answer is that of the
//! whole table. NULLs, negative amounts and three currencies are in the data.

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A statement, and the two queries whose rows must be equal.
#[derive(Debug)]
pub struct Drawn {
    /// Name of the query and its table.
    pub name: String,
    /// The statement.
    pub statement: String,
    /// The table's rows, each as one text.
    pub ours: String,
    /// PostgreSQL's answer, written the same way.
    pub theirs: String,
}

/// An expression in both languages.
type Both = (&'static str, &'static str);

/// Grouping expressions. One that is NULL puts its record into no group.
const KEYS: [Both; 9] = [
    ("account_id", "account_id"),
    ("merchant_id", "merchant_id"),
    ("currency", "currency"),
    ("country", "country"),
    ("kind", "kind"),
    ("COALESCE(country, '??')", "coalesce(country, '??')"),
    ("UCASE(SUBSTRING(merchant_id, 1, 3))", "upper(substring(merchant_id for 3))"),
    ("source_seq % 7", "source_seq % 7"),
    (
        "CASE WHEN amount < 0 THEN 'back' WHEN amount < 20 THEN 'small' ELSE 'large' END",
        "CASE WHEN amount < 0 THEN 'back' WHEN amount < 20 THEN 'small' ELSE 'large' END",
    ),
];

/// Conditions, unknown for some records.
const FILTERS: [Both; 8] = [
    ("kind = 'PURCHASE'", "kind = 'PURCHASE'"),
    ("amount < 20.5", "amount < 20.5"),
    ("NOT (country = 'ES')", "NOT (country = 'ES')"),
    ("country IS NULL OR amount BETWEEN -5 AND 50", "country IS NULL OR amount BETWEEN -5 AND 50"),
    ("currency IN ('EUR', 'JPY')", "currency IN ('EUR', 'JPY')"),
    ("merchant_id LIKE '%1_'", "merchant_id LIKE '%1_'"),
    (
        "LEN(account_id) <> 6 AND kind <> 'ADJUSTMENT'",
        "length(account_id) <> 6 AND kind <> 'ADJUSTMENT'",
    ),
    (
        "source_seq % 3 = 1 OR NULLIF(country, 'FR') IS NULL",
        "source_seq % 3 = 1 OR nullif(country, 'FR') IS NULL",
    ),
];

/// Aggregates; numbers without trailing zeros.
const AGGREGATES: [Both; 12] = [
    ("COUNT(*)", "count(*)"),
    ("COUNT(country)", "count(country)"),
    ("SUM(amount)", "trim_scale(sum(amount))"),
    ("MIN(amount)", "trim_scale(min(amount))"),
    ("MAX(amount)", "trim_scale(max(amount))"),
    ("AVG(amount)", "trim_scale(round(avg(amount), 9))"),
    ("COUNT_DISTINCT(currency)", "count(DISTINCT currency)"),
    ("COUNT_DISTINCT(country)", "count(DISTINCT country)"),
    ("MIN(event_time)", "min(event_time)"),
    ("MAX(merchant_id)", "max(merchant_id COLLATE \"C\")"),
    ("SUM(source_seq)", "sum(source_seq)"),
    (
        "SUM(CASE WHEN kind = 'REFUND' THEN -amount ELSE CAST(0 AS DECIMAL(28, 9)) END)",
        "trim_scale(sum(CASE WHEN kind = 'REFUND' THEN -amount ELSE 0 END))",
    ),
];

/// Conditions over groups: some hold and cease to hold while records come.
const HAVINGS: [Both; 5] = [
    ("COUNT(*) > 3", "count(*) > 3"),
    ("COUNT(*) < 4", "count(*) < 4"),
    ("SUM(amount) > 100", "sum(amount) > 100"),
    ("MIN(amount) < 0 AND MAX(amount) > 10", "min(amount) < 0 AND max(amount) > 10"),
    (
        "AVG(amount) < 25 OR COUNT_DISTINCT(country) > 2",
        "avg(amount) < 25 OR count(DISTINCT country) > 2",
    ),
];

/// A window: its clause, and for PostgreSQL the expressions of its start and what FROM adds.
enum Window {
    None,
    Tumbling(&'static str, &'static str),
    Hopping,
    Session(&'static str, &'static str),
}

/// As many statements as asked for.
#[must_use]
pub fn draw(seed: u64, count: usize) -> Vec<Drawn> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|number| draw_one(&mut dice, number)).collect()
}

fn draw_one(dice: &mut ChaCha8Rng, number: usize) -> Drawn {
    let name = format!("azar_{number}");
    let some = |dice: &mut ChaCha8Rng, from: &[Both], most: usize| -> Vec<Both> {
        let count = dice.gen_range(1..=most);
        from.choose_multiple(dice, count).copied().collect()
    };
    let keys = some(dice, &KEYS, 3);
    let aggregates = some(dice, &AGGREGATES, 5);
    let filters = if dice.gen_bool(0.7) { some(dice, &FILTERS, 2) } else { Vec::new() };
    let having = if dice.gen_bool(0.5) { some(dice, &HAVINGS, 1) } else { Vec::new() };
    let window = match dice.gen_range(0..5) {
        0 => Window::None,
        1 => Window::Tumbling("7 MINUTES", "7 minutes"),
        2 => Window::Tumbling("1 DAY", "1 day"),
        3 => Window::Hopping,
        _ => Window::Session("40 SECONDS", "40 seconds"),
    };
    Drawn {
        statement: statement(&name, (&keys, &aggregates), (&filters, &having), &window),
        ours: ours(&name, (&keys, &aggregates), &window),
        theirs: theirs((&keys, &aggregates), (&filters, &having), &window),
        name,
    }
}

type Lists<'a> = (&'a [Both], &'a [Both]);

fn joined(list: &[Both], ours: bool, with: &str) -> String {
    let texts: Vec<&str> = list.iter().map(|(a, b)| if ours { *a } else { *b }).collect();
    texts.join(with)
}

fn statement(
    name: &str,
    (keys, aggregates): Lists<'_>,
    (filters, having): Lists<'_>,
    window: &Window,
) -> String {
    let grace = "GRACE PERIOD 400 DAYS";
    let window = match window {
        Window::None => String::new(),
        Window::Tumbling(size, _) => format!("WINDOW TUMBLING (SIZE {size}, {grace})"),
        Window::Hopping => {
            format!("WINDOW HOPPING (SIZE 6 MINUTES, ADVANCE BY 2 MINUTES, {grace})")
        }
        Window::Session(gap, _) => format!("WINDOW SESSION ({gap}, {grace})"),
    };
    let selected: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(at, (key, _))| format!("{key} AS k{at}"))
        .chain(aggregates.iter().enumerate().map(|(at, (call, _))| format!("{call} AS a{at}")))
        .collect();
    let filter = match filters {
        [] => String::new(),
        filters => format!("WHERE ({})", joined(filters, true, ") AND (")),
    };
    let having = match having {
        [] => String::new(),
        having => format!("HAVING {}", joined(having, true, " AND ")),
    };
    format!(
        "CREATE TABLE {name} AS SELECT {} FROM transacciones_validas {window} {filter} \
         GROUP BY {} {having} EMIT CHANGES;",
        selected.join(", "),
        joined(keys, true, ", ")
    )
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("SELECT format('{}', {})", vec!["%s"; cells.len()].join("|"), cells.join(", "))
}

fn ours(name: &str, (keys, aggregates): Lists<'_>, window: &Window) -> String {
    let bound = |column: &str| match window {
        Window::None => None,
        _ => Some(column.to_owned()),
    };
    let keys = (0..keys.len()).map(|at| format!("k{at}"));
    let aggregates = aggregates.iter().enumerate().map(|(at, (_, theirs))| {
        match theirs.starts_with("trim_scale") {
            true => format!("trim_scale(a{at})"),
            false => format!("a{at}"),
        }
    });
    let cells = keys.chain(bound("window_start")).chain(bound("window_end")).chain(aggregates);
    format!("{} FROM {name}", row(cells))
}

fn theirs((keys, aggregates): Lists<'_>, (filters, having): Lists<'_>, window: &Window) -> String {
    let mut condition: Vec<String> =
        keys.iter().map(|(_, key)| format!("({key}) IS NOT NULL")).collect();
    condition.extend(filters.iter().map(|(_, filter)| format!("({filter})")));
    let condition = condition.join(" AND ");
    let (from, start, end) = match window {
        Window::None => (format!("transactions WHERE {condition}"), None, None),
        Window::Tumbling(_, size) => (
            format!("transactions WHERE {condition}"),
            Some(format!("date_bin('{size}', event_time, 'epoch')")),
            Some(format!("date_bin('{size}', event_time, 'epoch') + interval '{size}'")),
        ),
        Window::Hopping => (
            format!(
                "transactions, date_bin('2 minutes', event_time, 'epoch') AS pane, \
                 generate_series(pane - interval '4 minutes', pane, '2 minutes') AS start \
                 WHERE {condition}"
            ),
            Some("start".to_owned()),
            Some("start + interval '6 minutes'".to_owned()),
        ),
        Window::Session(_, gap) => {
            let by = joined(keys, false, ", ");
            (
                format!(
                    "(SELECT *, sum(begins) OVER (PARTITION BY {by} ORDER BY event_time) AS session \
                     FROM (SELECT *, CASE WHEN event_time - lag(event_time) OVER (PARTITION BY {by} \
                     ORDER BY event_time) <= interval '{gap}' THEN 0 ELSE 1 END AS begins \
                     FROM transactions WHERE {condition}) AS gaps) AS sessions"
                ),
                Some("min(event_time)".to_owned()),
                Some("max(event_time)".to_owned()),
            )
        }
    };
    let cells = keys.iter().map(|(_, key)| (*key).to_owned());
    let cells = cells.chain(start.clone()).chain(end);
    let cells = cells.chain(aggregates.iter().map(|(_, call)| (*call).to_owned()));
    let group = match window {
        Window::Session(..) => Some("session".to_owned()),
        _ => start,
    };
    let groups: Vec<String> = keys.iter().map(|(_, key)| (*key).to_owned()).chain(group).collect();
    let having = match having {
        [] => String::new(),
        having => format!("HAVING {}", joined(having, false, " AND ")),
    };
    format!("{} FROM {from} GROUP BY {} {having}", row(cells), groups.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_query::plan::Plan;

    /// Every drawn statement is one that the engine runs.
    #[test]
    fn drawn_statements_compile() {
        for seed in 0..200 {
            let statements: Vec<String> =
                draw(seed, 20).into_iter().map(|drawn| drawn.statement).collect();
            Plan::compile_file("drawn", &statements.join("\n"))
                .unwrap_or_else(|faults| panic!("seed {seed}: {faults}"));
        }
    }
}
