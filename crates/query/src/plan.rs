//! What a query computes. SQL text will produce these values; two are shipped as they are.

use crate::aggregate::Accumulator;
use crate::window::Window;
use caudal_core::row::{Column, ColumnType, RowSchema};
use caudal_core::time::{MINUTE, SECOND};
use caudal_core::transaction::{Kind, ValidTransaction};

/// A column that a query groups by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupColumn {
    /// `account_id`: the key of the input topic.
    AccountId,
    /// `merchant_id`.
    MerchantId,
    /// `currency`.
    Currency,
}

impl GroupColumn {
    /// The column's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            GroupColumn::AccountId => "account_id",
            GroupColumn::MerchantId => "merchant_id",
            GroupColumn::Currency => "currency",
        }
    }

    /// Its value in a record.
    #[must_use]
    pub fn value<'a>(self, valid: &'a ValidTransaction<'_>) -> &'a str {
        match self {
            GroupColumn::AccountId => &valid.transaction.account_id,
            GroupColumn::MerchantId => &valid.transaction.merchant_id,
            GroupColumn::Currency => valid.currency.as_str(),
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
    /// `HAVING …`.
    pub having: Option<Having>,
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
            self.group_by.iter().map(|g| column(g.name(), ColumnType::Text)).collect();
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

    #[test]
    fn only_groups_with_the_account_are_local() {
        assert!(alertas_fraude().is_local());
        assert!(!ventas_gold().is_local());
    }
}
