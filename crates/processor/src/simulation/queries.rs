//! The queries of the simulation, said twice: as the reference reads them, and as plans.

use super::dice::Dice;
use super::reference::Row;
use caudal_core::row::Value;
use caudal_core::time::{MINUTE, SECOND};
use caudal_query::plan::Plan;
use std::cell::RefCell;
use std::collections::HashMap;

/// The reference table ([`super::TABLE`]).
const TABLE_SQL: &str = "CREATE TABLE comercios (id STRING PRIMARY KEY, rubro STRING) \
    WITH (KAFKA_TOPIC='comercios', KEY_FORMAT='KAFKA', VALUE_FORMAT='JSON');\n";

/// A column that a query groups by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Account,
    Merchant,
    Currency,
    /// A column of the joined table.
    Joined,
}

/// A query, as plainly as it can be said; times in microseconds.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: &'static str,
    pub purchases_only: bool,
    pub group: &'static [Column],
    pub size: i64,
    pub advance: i64,
    pub grace: i64,
    /// COUNT above, or SUM above.
    pub having: Option<(i64, i128)>,
    pub emit_final: bool,
    /// IDLE_TIMEOUT.
    pub idle: Option<i64>,
    /// SESSION (size): `advance` is not looked at.
    pub session: bool,
}

impl Spec {
    /// Whether all records of a group are in one input partition.
    pub fn is_local(&self) -> bool {
        self.group.contains(&Column::Account)
    }

    /// Whether it joins the reference table.
    pub fn joins(&self) -> bool {
        self.group.contains(&Column::Joined)
    }

    /// The same as a statement.
    pub fn sql(&self) -> String {
        let column = |column: &Column| match column {
            Column::Account => "account_id",
            Column::Merchant => "merchant_id",
            Column::Currency => "currency",
            Column::Joined => "rubro",
        };
        let group: Vec<&str> = self.group.iter().map(column).collect();
        let group = group.join(", ");
        let seconds = |micros: i64| micros / SECOND;
        let window = match self.size == self.advance {
            _ if self.session => format!("SESSION ({} SECONDS", seconds(self.size)),
            true => format!("TUMBLING (SIZE {} SECONDS", seconds(self.size)),
            false => format!(
                "HOPPING (SIZE {} SECONDS, ADVANCE BY {} SECONDS",
                seconds(self.size),
                seconds(self.advance)
            ),
        };
        let idle = self.idle.map(|idle| format!("WITH (IDLE_TIMEOUT='{} SECONDS')", seconds(idle)));
        let join = if self.joins() { "JOIN comercios c ON s.merchant_id = c.id" } else { "" };
        let filter = if self.purchases_only { "WHERE kind = 'PURCHASE'" } else { "" };
        let having = self.having.map(|(count, sum)| {
            format!("HAVING COUNT(*) > {count} OR SUM(amount) > {}", sum / 1_000_000_000)
        });
        let emit = if self.emit_final { "FINAL" } else { "CHANGES" };
        format!(
            "CREATE TABLE {} {} AS SELECT {group}, COUNT(*) AS ventas, SUM(amount) AS total, \
             MIN(amount) AS minimo, MAX(amount) AS maximo FROM transacciones_validas s {join} \
             WINDOW {window}, GRACE PERIOD {} SECONDS) {filter} GROUP BY {group} {} EMIT {emit};",
            self.name,
            idle.unwrap_or_default(),
            seconds(self.grace),
            having.unwrap_or_default()
        )
    }

    /// The same as a plan.
    ///
    /// # Panics
    /// When the statement is wrong.
    pub fn plan(&self) -> Plan {
        thread_local! {
            static COMPILED: RefCell<HashMap<String, Plan>> = RefCell::default();
        }
        let text = format!("{TABLE_SQL}{}", self.sql());
        COMPILED.with_borrow_mut(|compiled| {
            let plan = compiled.entry(text).or_insert_with_key(|text| {
                let plans = Plan::compile_file(self.name, text);
                plans.unwrap_or_else(|faults| panic!("{faults}")).remove(0)
            });
            plan.clone()
        })
    }

    /// The aggregates of an output row of this query.
    ///
    /// # Panics
    /// When the row is none of this query's.
    pub fn row(&self, value: &[u8]) -> Row {
        let values = self.plan().row_schema().decode(&value[5..]).expect("a row of the query");
        match values[self.group.len() + 2..] {
            [Value::Long(count), Value::Decimal(sum), Value::Decimal(min), Value::Decimal(max)] => {
                (count, sum, min, max)
            }
            _ => panic!("{}: row {values:?}", self.name),
        }
    }

    /// Whether all that a record may belong to is over at a stream time, by the record's own time.
    pub fn is_over_for(&self, time: i64, now: i64) -> bool {
        time < now.saturating_sub(self.grace + self.size)
    }

    /// HAVING.
    pub fn holds(&self, row: &Row) -> bool {
        self.having.is_none_or(|(count, sum)| row.0 > count || row.1 > sum)
    }

    /// The bounds of an output row's window.
    ///
    /// # Panics
    /// When the row is none of this query's.
    pub fn bounds(&self, value: &[u8]) -> (i64, i64) {
        let values = self.plan().row_schema().decode(&value[5..]).expect("a row of the query");
        match values[self.group.len()..][..2] {
            [Value::Timestamp(start), Value::Timestamp(end)] => (start, end),
            _ => panic!("{}: row {values:?}", self.name),
        }
    }

    /// Starts of the windows that hold `time`.
    pub fn starts(&self, time: i64) -> impl Iterator<Item = i64> + use<> {
        let (size, advance) = (self.size, self.advance);
        let first = (time - size).div_euclid(advance) + 1;
        (first..).map(move |n| n * advance).take_while(move |start| *start <= time)
    }

    /// Whether a window takes no more records at a stream time; of a session, whether no record
    /// that is still taken can join it.
    pub fn is_closed(&self, (start, end): (i64, i64), now: i64) -> bool {
        match self.session {
            true => self.is_over_for(end + self.size + 1, now),
            false => start + self.size + self.grace <= now,
        }
    }
}

/// All of them: the two shipped ones (with all four aggregates), and what those do not show.
/// Windows and graces are multiples of ten seconds: stage 2 is told the stream time
/// in steps of that.
pub fn all() -> Vec<Spec> {
    use Column::{Account, Currency, Joined, Merchant};
    let base = Spec {
        name: "",
        purchases_only: false,
        group: &[],
        size: MINUTE,
        advance: MINUTE,
        grace: 10 * SECOND,
        having: None,
        emit_final: false,
        idle: None,
        session: false,
    };
    vec![
        Spec {
            name: "ventas_gold",
            purchases_only: true,
            group: &[Merchant, Currency],
            idle: Some(60 * MINUTE),
            ..base.clone()
        },
        Spec {
            name: "alertas_fraude",
            group: &[Account, Currency],
            advance: 10 * SECOND,
            having: Some((10, 10_000 * 1_000_000_000)),
            ..base.clone()
        },
        Spec {
            name: "deslizante",
            group: &[Merchant],
            size: 70 * SECOND,
            advance: 10 * SECOND,
            grace: 0,
            ..base.clone()
        },
        Spec { name: "cierre", group: &[Merchant, Currency], emit_final: true, ..base.clone() },
        Spec {
            name: "cierre_cuenta",
            group: &[Account],
            size: 30 * SECOND,
            advance: 30 * SECOND,
            emit_final: true,
            ..base.clone()
        },
        Spec {
            name: "cierre_ocioso",
            group: &[Merchant],
            emit_final: true,
            idle: Some(30 * SECOND),
            ..base.clone()
        },
        Spec {
            name: "visitas",
            group: &[Account],
            size: 40 * SECOND,
            session: true,
            ..base.clone()
        },
        Spec { name: "por_rubro", group: &[Joined], ..base },
    ]
}

/// How many sets of drawn queries there are: compiled ones are kept.
const VARIANTS: u64 = 400;

/// Three queries that a seed draws, beside the fixed ones.
pub fn drawn(seed: u64) -> Vec<Spec> {
    use Column::{Account, Currency, Joined, Merchant};
    const LOCAL: [&[Column]; 4] =
        [&[Account], &[Merchant, Account], &[Account, Currency], &[Currency, Merchant, Account]];
    const GLOBAL: [&[Column]; 5] =
        [&[Merchant], &[Currency], &[Currency, Merchant], &[Joined], &[Joined, Currency]];
    let mut dice = Dice::new(seed % VARIANTS, 3);
    let mut tens = |from: i64, to: i64| dice.within(from..to) * 10 * SECOND;
    let spec = |name, advance: i64, grace| Spec {
        name,
        purchases_only: false,
        group: &[],
        size: advance,
        advance,
        grace,
        having: None,
        emit_final: false,
        idle: None,
        session: false,
    };
    // Graces that the fixed queries do not have: no two queries are the same.
    let (grace, more) = (tens(3, 6), tens(6, 9));
    let (local, global) = (spec("azar_cuenta", tens(1, 7), grace), spec("azar", tens(1, 7), more));
    let panes = [dice.within(1..5), dice.within(1..4)];
    let limits = (dice.within(1..6), i128::from(dice.within(10..9000)) * 1_000_000_000);
    let emit_final = dice.chance(300);
    let local = Spec {
        group: LOCAL[dice.index(LOCAL.len())],
        size: panes[0] * local.advance,
        purchases_only: dice.chance(500),
        having: dice.chance(600).then_some(limits),
        emit_final,
        ..local
    };
    let global = Spec {
        group: GLOBAL[dice.index(GLOBAL.len())],
        size: panes[1] * global.advance,
        purchases_only: dice.chance(500),
        emit_final: dice.chance(400),
        idle: dice.chance(500).then(|| dice.within(2..60) * MINUTE),
        ..global
    };
    // What is taken apart again where an idle partition comes back has no HAVING.
    let limits = (dice.within(1..6), i128::from(dice.within(10..9000)) * 1_000_000_000);
    let having = (global.idle.is_none() && dice.chance(500)).then_some(limits);
    let global = Spec { having, ..global };
    let session = Spec {
        name: "azar_sesion",
        group: GLOBAL[dice.index(GLOBAL.len())],
        size: dice.within(1..90) * SECOND,
        // No other query has this one.
        grace: dice.within(90..100) * SECOND,
        purchases_only: dice.chance(500),
        having: dice.chance(500).then_some(limits),
        emit_final: dice.chance(500),
        session: true,
        ..global.clone()
    };
    vec![local, Spec { idle: None, ..session }, global]
}
