//! Sets of queries other than the shipped one, by name: what `caudal-processor-plans` runs.

use caudal_query::plan::{Plan, shipped, shipped_one};

/// The set of that name.
#[must_use]
pub fn named(set: &str) -> Option<Vec<Plan>> {
    match set {
        "shipped" => Some(shipped()),
        "gold" => Some(vec![shipped_one("ventas_gold")]),
        "alerts" => Some(vec![shipped_one("alertas_fraude")]),
        "patient" => Some(vec![patient_gold(), shipped_one("alertas_fraude")]),
        "year" => Some(year()),
        _ => None,
    }
}

/// A query like `ventas_gold`.
fn gold(name: &str, window: &str, emit: &str) -> Plan {
    let text = format!(
        "CREATE TABLE {name} AS SELECT merchant_id, currency, COUNT(*) AS ventas, \
         SUM(amount) AS total, MIN(amount) AS minimo, MAX(amount) AS maximo \
         FROM transacciones_validas WINDOW {window} WHERE kind = 'PURCHASE' \
         GROUP BY merchant_id, currency EMIT {emit};"
    );
    match Plan::compile(&text) {
        Ok(mut plans) => plans.remove(0),
        Err(faults) => panic!("{}", caudal_sql::fault::render_all(&faults, name, &text, false)),
    }
}

/// `ventas_gold` with another grace: a changed query.
fn patient_gold() -> Plan {
    gold("ventas_gold", "TUMBLING (SIZE 1 MINUTE, GRACE PERIOD 20 SECONDS)", "CHANGES")
}

/// Sales per merchant and currency by minute, by day, by seven days, and by day once it is over.
/// No source partition is ever declared idle: what arrives months later still belongs to them.
#[must_use]
pub fn year() -> Vec<Plan> {
    let day = "TUMBLING (SIZE 1 DAY, GRACE PERIOD 10 SECONDS)";
    let week = "HOPPING (SIZE 7 DAYS, ADVANCE BY 1 DAY, GRACE PERIOD 10 SECONDS)";
    vec![
        gold("ventas_gold", "TUMBLING (SIZE 1 MINUTE, GRACE PERIOD 10 SECONDS)", "CHANGES"),
        gold("ventas_dia", day, "CHANGES"),
        gold("ventas_semana", week, "CHANGES"),
        gold("ventas_cierre", day, "FINAL"),
    ]
}
