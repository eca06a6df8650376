//! Sets of queries other than the shipped one, by name: what `caudal-processor-plans` runs.

use caudal_core::time::{HOUR, SECOND};
use caudal_query::plan::{Emit, Plan, alertas_fraude, shipped, ventas_gold};
use caudal_query::window::Window;

const DAY: i64 = 24 * HOUR;
const GRACE: i64 = 10 * SECOND;

/// The set of that name.
#[must_use]
pub fn named(set: &str) -> Option<Vec<Plan>> {
    match set {
        "shipped" => Some(shipped()),
        "gold" => Some(vec![ventas_gold()]),
        "alerts" => Some(vec![alertas_fraude()]),
        "patient" => Some(vec![patient_gold(), alertas_fraude()]),
        "year" => Some(year()),
        _ => None,
    }
}

/// `ventas_gold` with another grace: a changed query.
fn patient_gold() -> Plan {
    let mut plan = ventas_gold();
    plan.window.grace *= 2;
    plan
}

/// Sales per merchant and currency by minute, by day, by seven days, and by day once it is over.
/// No source partition is ever declared idle: what arrives months later still belongs to them.
#[must_use]
pub fn year() -> Vec<Plan> {
    let by = |name: &str, window: Window, emit: Emit| Plan {
        name: name.into(),
        window,
        emit,
        idle_timeout: None,
        ..ventas_gold()
    };
    vec![
        Plan { idle_timeout: None, ..ventas_gold() },
        by("ventas_dia", Window::tumbling(DAY, GRACE), Emit::Changes),
        by("ventas_semana", Window::hopping(7 * DAY, DAY, GRACE), Emit::Changes),
        by("ventas_cierre", Window::tumbling(DAY, GRACE), Emit::Final),
    ]
}
