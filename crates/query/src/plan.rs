//! What a query computes. SQL text will produce these values; two are shipped as they are.

use crate::aggregate::Accumulator;
use crate::window::Window;
use caudal_core::row::{Column, ColumnType, RowSchema};
use caudal_core::time::{HOUR, MINUTE, SECOND};
use caudal_core::transaction::{Kind, ValidTransaction};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A column that a query groups by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupColumn {
    /// `account_id`: the key of the input topic.
    AccountId,
    /// `merchant_id`.
    MerchantId,
    /// `currency`.
    Currency,
    /// The column of the joined table ([`Join::column`]).
    Joined,
}

impl GroupColumn {
    /// Its value in a record; `joined` is that of the joined table.
    #[must_use]
    pub fn value<'a>(self, valid: &'a ValidTransaction<'_>, joined: &'a str) -> &'a str {
        match self {
            GroupColumn::AccountId => &valid.transaction.account_id,
            GroupColumn::MerchantId => &valid.transaction.merchant_id,
            GroupColumn::Currency => valid.currency.as_str(),
            GroupColumn::Joined => joined,
        }
    }
}

/// An aggregate over the amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `COUNT(*)`.
    Count,
    /// `SUM(amount)`.
    Sum,
    /// `MIN(amount)`.
    Min,
    /// `MAX(amount)`.
    Max,
}

/// `HAVING COUNT(*) > count OR SUM(amount) > sum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Having {
    /// True above this count.
    pub count_above: i64,
    /// True above this sum, in units of 10⁻⁹.
    pub sum_above: i128,
}

impl Having {
    /// Whether a group satisfies it.
    #[must_use]
    pub fn holds(&self, group: &Accumulator) -> bool {
        group.count > self.count_above || group.sum > self.sum_above
    }
}

/// When a query emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// `EMIT CHANGES`: a row whenever a group's window has changed.
    Changes,
    /// `EMIT FINAL`: one row per group and window, once the window is closed.
    Final,
}

/// `JOIN table ON key = table's key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The table's topic.
    pub table: String,
    /// The stream's column that is looked up.
    pub key: GroupColumn,
    /// `LEFT JOIN`: a record without a row goes on with an empty text. Otherwise it is left out.
    pub left: bool,
    /// The table's column that is read.
    pub column: String,
}

/// Identity of a query's definition.
pub type PlanFingerprint = [u8; 8];

/// A windowed aggregate query over `transacciones_validas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Name of the query and of its output topic.
    pub name: String,
    /// `WHERE kind = …`.
    pub kind: Option<Kind>,
    /// `GROUP BY …`.
    pub group_by: Vec<GroupColumn>,
    /// `WINDOW …`.
    pub window: Window,
    /// `SELECT …` after the group's columns: alias and aggregate.
    pub aggregates: Vec<(String, Function)>,
    /// `HAVING …`. A row for which it does not hold is not emitted; one emitted before stays.
    pub having: Option<Having>,
    /// `EMIT …`.
    pub emit: Emit,
    /// After this many microseconds without a record, at a confirmed end, a source partition no
    /// longer holds the query's windows open. `None`: it holds them for ever.
    pub idle_timeout: Option<i64>,
    /// The table that its records are joined with.
    pub join: Option<Join>,
}

impl Plan {
    /// Whether the group contains the partition key, so that all its records are in one partition.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.group_by.contains(&GroupColumn::AccountId)
    }

    /// Whether the query looks at this record.
    #[must_use]
    pub fn takes(&self, valid: &ValidTransaction<'_>) -> bool {
        self.kind.is_none_or(|kind| kind == valid.transaction.kind)
    }

    /// What a record is looked up by in the joined table. `None` where nothing is joined.
    #[must_use]
    pub fn join_key<'a>(&self, valid: &'a ValidTransaction<'_>) -> Option<&'a str> {
        self.join.as_ref().map(|join| join.key.value(valid, ""))
    }

    /// Whether a group's row is to be emitted.
    #[must_use]
    pub fn having_holds(&self, values: &Accumulator) -> bool {
        self.having.is_none_or(|having| having.holds(values))
    }

    /// Name of a grouping column in the output rows.
    #[must_use]
    pub fn column_name(&self, column: GroupColumn) -> &str {
        match column {
            GroupColumn::AccountId => "account_id",
            GroupColumn::MerchantId => "merchant_id",
            GroupColumn::Currency => "currency",
            GroupColumn::Joined => self.join.as_ref().map_or("joined", |join| &join.column),
        }
    }

    /// Identity of the definition: state made under another one is another query's. Without the
    /// name (the state of each query is kept by name), and without the idle time-out, which may
    /// be set to free a query that waits: whatever it is, the state fits.
    #[must_use]
    pub fn fingerprint(&self) -> PlanFingerprint {
        let function = |function: &Function| match function {
            Function::Count => "count",
            Function::Sum => "sum",
            Function::Min => "min",
            Function::Max => "max",
        };
        let join = |join: &Join| {
            let key = self.column_name(join.key);
            json!([join.table, key, join.left, join.column])
        };
        let described = json!([
            "caudal query 1",
            self.kind.map(Kind::as_str),
            self.group_by.iter().map(|c| format!("{c:?}")).collect::<Vec<_>>(),
            [self.window.size, self.window.advance, self.window.grace],
            self.aggregates.iter().map(|(alias, f)| [alias, function(f)]).collect::<Vec<_>>(),
            self.having.map(|h| [h.count_above.to_string(), h.sum_above.to_string()]),
            match self.emit {
                Emit::Changes => "changes",
                Emit::Final => "final",
            },
            self.join.as_ref().map(join),
        ]);
        let mut out = [0; 8];
        out.copy_from_slice(&Sha256::digest(described.to_string().as_bytes())[..8]);
        out
    }

    /// The topic that keeps partials whose window was already evicted.
    #[must_use]
    pub fn late_topic(&self) -> String {
        format!("{}_tardias", self.name)
    }

    /// The schema of its output rows.
    #[must_use]
    pub fn row_schema(&self) -> RowSchema {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind };
        let mut columns: Vec<Column> =
            self.group_by.iter().map(|g| column(self.column_name(*g), ColumnType::Text)).collect();
        columns.push(column("window_start", ColumnType::Timestamp));
        columns.push(column("window_end", ColumnType::Timestamp));
        columns.extend(self.aggregates.iter().map(|(alias, function)| match function {
            Function::Count => column(alias, ColumnType::Long),
            _ => column(alias, ColumnType::Decimal { scale: caudal_core::money::MAX_SCALE }),
        }));
        RowSchema { name: self.name.clone(), columns }
    }
}

/// The queries that the product ships.
#[must_use]
pub fn shipped() -> Vec<Plan> {
    vec![ventas_gold(), alertas_fraude()]
}

/// Sales per merchant, currency and minute:
/// `SELECT merchant_id, currency, COUNT(*) AS ventas, SUM(amount) AS total, MIN(amount) AS minimo,
/// MAX(amount) AS maximo … WINDOW TUMBLING (SIZE 1 MINUTE, GRACE PERIOD 10 SECONDS)
/// WHERE kind = 'PURCHASE' GROUP BY merchant_id, currency EMIT CHANGES`.
#[must_use]
pub fn ventas_gold() -> Plan {
    Plan {
        name: "ventas_gold".into(),
        kind: Some(Kind::Purchase),
        group_by: vec![GroupColumn::MerchantId, GroupColumn::Currency],
        window: Window::tumbling(MINUTE, 10 * SECOND),
        aggregates: vec![
            ("ventas".into(), Function::Count),
            ("total".into(), Function::Sum),
            ("minimo".into(), Function::Min),
            ("maximo".into(), Function::Max),
        ],
        having: None,
        emit: Emit::Changes,
        idle_timeout: Some(HOUR),
        join: None,
    }
}

/// Velocity per account and currency:
/// `SELECT account_id, currency, COUNT(*) AS intentos, SUM(amount) AS total …
/// WINDOW HOPPING (SIZE 60 SECONDS, ADVANCE BY 10 SECONDS, GRACE PERIOD 10 SECONDS)
/// GROUP BY account_id, currency HAVING COUNT(*) > 10 OR SUM(amount) > 10000 EMIT CHANGES`.
///
/// The grace is stated, because ksqlDB's default of 24 hours would keep a day of panes per account.
#[must_use]
pub fn alertas_fraude() -> Plan {
    Plan {
        name: "alertas_fraude".into(),
        kind: None,
        group_by: vec![GroupColumn::AccountId, GroupColumn::Currency],
        window: Window::hopping(60 * SECOND, 10 * SECOND, 10 * SECOND),
        aggregates: vec![("intentos".into(), Function::Count), ("total".into(), Function::Sum)],
        having: Some(Having { count_above: 10, sum_above: 10_000 * 1_000_000_000 }),
        emit: Emit::Changes,
        idle_timeout: None,
        join: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::schema::{Schemas, sorted_json};

    /// The sink reads rows by the schema files; the plans must produce exactly those.
    #[test]
    fn shipped_plans_have_the_shipped_schemas() {
        let schemas = Schemas::shipped();
        let json = |plan: Plan| sorted_json(&plan.row_schema().to_json());
        assert_eq!(json(ventas_gold()), schemas.ventas_gold.json);
        assert_eq!(json(alertas_fraude()), schemas.alertas_fraude.json);
    }

    /// State outlives versions: the same definition must keep its fingerprint.
    #[test]
    fn the_fingerprint_is_that_of_the_definition() {
        let plan = ventas_gold();
        assert_eq!(plan.fingerprint(), GOLDEN);
        let other_name = Plan { name: "x".into(), idle_timeout: None, ..plan.clone() };
        assert_eq!(other_name.fingerprint(), plan.fingerprint());
        let join = Some(Join {
            table: "t".into(),
            key: GroupColumn::MerchantId,
            left: true,
            column: "c".into(),
        });
        let changed = [
            Plan { kind: None, ..plan.clone() },
            Plan { group_by: vec![GroupColumn::MerchantId], ..plan.clone() },
            Plan { window: Window::tumbling(MINUTE, 0), ..plan.clone() },
            Plan { aggregates: plan.aggregates[1..].to_vec(), ..plan.clone() },
            Plan { having: alertas_fraude().having, ..plan.clone() },
            Plan { emit: Emit::Final, ..plan.clone() },
            Plan { join, ..plan.clone() },
        ];
        for (i, other) in changed.iter().enumerate() {
            assert_ne!(other.fingerprint(), plan.fingerprint(), "change {i}");
        }
    }

    const GOLDEN: [u8; 8] = [119, 151, 9, 2, 58, 10, 114, 55];

    #[test]
    fn only_groups_with_the_account_are_local() {
        assert!(alertas_fraude().is_local());
        assert!(!ventas_gold().is_local());
    }
}
