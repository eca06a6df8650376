//! The queries of the simulation, said twice: as the reference reads them, and as plans.

use super::TABLE;
use super::reference::Row;
use caudal_core::row::Value;
use caudal_core::time::{MINUTE, SECOND};
use caudal_core::transaction::Kind;
use caudal_query::plan::{Emit, Function, GroupColumn, Having, Join, Plan};
use caudal_query::window::Window;

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

    /// The same as a plan.
    pub fn plan(&self) -> Plan {
        let column = |column: &Column| match column {
            Column::Account => GroupColumn::AccountId,
            Column::Merchant => GroupColumn::MerchantId,
            Column::Currency => GroupColumn::Currency,
            Column::Joined => GroupColumn::Joined,
        };
        let names = ["ventas", "total", "minimo", "maximo"];
        let functions = [Function::Count, Function::Sum, Function::Min, Function::Max];
        Plan {
            name: self.name.to_owned(),
            kind: self.purchases_only.then_some(Kind::Purchase),
            group_by: self.group.iter().map(column).collect(),
            window: Window { size: self.size, advance: self.advance, grace: self.grace },
            aggregates: names.map(str::to_owned).into_iter().zip(functions).collect(),
            having: self.having.map(|(count_above, sum_above)| Having { count_above, sum_above }),
            emit: if self.emit_final { Emit::Final } else { Emit::Changes },
            idle_timeout: self.idle,
            join: self.joins().then(|| Join {
                table: TABLE.to_owned(),
                key: GroupColumn::MerchantId,
                left: false,
                column: "rubro".to_owned(),
            }),
        }
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

    /// Starts of the windows that hold `time`.
    pub fn starts(&self, time: i64) -> impl Iterator<Item = i64> + use<> {
        let (size, advance) = (self.size, self.advance);
        let first = (time - size).div_euclid(advance) + 1;
        (first..).map(move |n| n * advance).take_while(move |start| *start <= time)
    }

    /// Whether a window takes no more records at a stream time.
    pub fn is_closed(&self, start: i64, now: i64) -> bool {
        start + self.size + self.grace <= now
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
        Spec { name: "por_rubro", group: &[Joined], ..base },
    ]
}
