//! The shipped files: they compile, and the two queries are what the engine's plans were.

use caudal_core::money::{Amount, Currency};
use caudal_core::transaction::{Kind, Transaction, ValidTransaction};
use caudal_query::plan::{Emit, GroupColumn, Plan, shipped};
use caudal_sql::aggregate::{Accumulators, Order};
use caudal_sql::ast::{Emit as SqlEmit, WindowKind};
use caudal_sql::catalog::{Catalog, Query};
use caudal_sql::fault::render_all;
use caudal_sql::parser::Naming;
use caudal_sql::row::TransactionRow;
use caudal_sql::value::Value;
use std::borrow::Cow;

fn compile(text: &str) -> Catalog {
    Catalog::compile(text, Naming::Lower)
        .unwrap_or_else(|faults| panic!("{}", render_all(&faults, "file", text, false)))
}

fn valid(kind: Kind, units: i64) -> ValidTransaction<'static> {
    let text = Cow::Borrowed;
    ValidTransaction {
        currency: Currency::parse("EUR").expect("EUR"),
        transaction: Transaction {
            transaction_id: text("t"),
            source: text("s"),
            source_seq: 1,
            account_id: text("acc"),
            merchant_id: text("shop"),
            amount: Amount { units, scale: 2 },
            scale_declared: true,
            currency: text("EUR"),
            kind,
            country: None,
            event_time: 61_000_000,
            description: None,
            attributes: vec![(text("canal"), text("web"))],
        },
    }
}

/// Window, emission, locality and row schema of a plan and a query are the same.
fn same(plan: &Plan, query: &Query, catalog: &Catalog) {
    assert_eq!(query.name, plan.name);
    assert_eq!(query.row_schema().expect("schema"), plan.row_schema());
    assert_eq!(query.is_local(catalog), plan.is_local());
    assert_eq!(query.idle_timeout, plan.idle_timeout);
    let aggregation = query.aggregation.as_ref().expect("groups");
    assert_eq!(aggregation.emit == SqlEmit::Changes, plan.emit == Emit::Changes);
    let window = aggregation.window.expect("window");
    let (size, advance) = match window.kind {
        WindowKind::Tumbling { size } => (size, size),
        WindowKind::Hopping { size, advance } => (size, advance),
        WindowKind::Session { .. } => panic!("a session"),
    };
    let micros = [size, advance, window.grace].map(|millis| millis * 1_000);
    assert_eq!(micros, [plan.window.size, plan.window.advance, plan.window.grace]);
    let row = valid(Kind::Purchase, 5);
    let row = TransactionRow::new(&row, 0, 0);
    for (column, key) in plan.group_by.iter().zip(&aggregation.group_by) {
        let wanted = match column {
            GroupColumn::AccountId => "acc",
            GroupColumn::MerchantId => "shop",
            _ => "EUR",
        };
        assert_eq!(key.eval(&row), Ok(Value::text(wanted)));
    }
}

#[test]
fn the_shipped_file_is_the_shipped_plans() {
    let catalog = compile(include_str!("../../../config/queries.sql"));
    let plans = shipped();
    assert_eq!(catalog.queries.len(), plans.len());
    for (plan, query) in plans.iter().zip(&catalog.queries) {
        same(plan, query, &catalog);
    }
}

#[test]
fn filter_and_having_are_the_plans() {
    let catalog = compile(include_str!("../../../config/queries.sql"));
    let plans = shipped();
    for kind in Kind::ALL {
        let valid = valid(kind, -500);
        let row = TransactionRow::new(&valid, 0, 0);
        for (plan, query) in plans.iter().zip(&catalog.queries) {
            let passes = query.filter.as_ref().is_none_or(|f| f.holds(&row).expect("holds"));
            assert_eq!(passes, plan.takes(&valid), "{} {kind:?}", plan.name);
        }
    }
    let (plan, query) = (&plans[1], &catalog.queries[1]);
    let aggregation = query.aggregation.as_ref().expect("groups");
    let having = aggregation.having.as_ref().expect("having");
    for (count, units) in [(10, 1), (11, 1), (1, 1_000_000), (1, 1_000_001), (11, -1), (0, 0)] {
        let one = valid(Kind::Purchase, units);
        let mut all = Accumulators::new(&aggregation.calls);
        let mut old: Option<caudal_query::aggregate::Accumulator> = None;
        for offset in 0..count {
            let row = TransactionRow::new(&one, 0, offset);
            let order = Order { rowtime: 0, partition: 0, offset };
            all.add(&aggregation.calls, &row, order, &mut Vec::new()).expect("no overflow");
            let next = caudal_query::aggregate::Accumulator::of(one.transaction.amount.nano());
            match &mut old {
                Some(old) => old.merge(&next).expect("no overflow"),
                None => old = Some(next),
            }
        }
        let group = [Value::text("acc"), Value::text("EUR")];
        let row = aggregation.group_row(group, Some((0, 60_000)), all.values(&aggregation.calls));
        let wanted = old.is_some_and(|old| plan.having_holds(&old));
        assert_eq!(having.holds(&row[..]).expect("holds"), wanted, "{count} × {units}");
    }
}

#[test]
fn the_examples_compile() {
    let text = include_str!("../../../config/examples.sql");
    let catalog = compile(text);
    assert_eq!(catalog.queries.len(), 5);
    for query in &catalog.queries {
        query.row_schema().expect("rows of tables hold every column");
        let shown = caudal_sql::explain::explain(&catalog, query);
        assert!(shown.contains("window_start") && shown.contains(&query.name), "{shown}");
    }
}

/// Keys and rows are, byte for byte, those that the engine's state and its consumers have.
#[test]
fn keys_and_rows_are_the_plans() {
    let catalog = compile(include_str!("../../../config/queries.sql"));
    let one = valid(Kind::Purchase, 1_250);
    for (plan, query) in shipped().iter().zip(&catalog.queries) {
        let aggregation = query.aggregation.as_ref().expect("groups");
        let row = TransactionRow::new(&one, 3, 7);
        let mut key = String::new();
        assert_eq!(aggregation.write_key(&row, &mut key), Ok(true));
        assert_eq!(*key, *caudal_query::group::key_of(plan, &one, ""));
        let order = Order { rowtime: row.position.rowtime, partition: 3, offset: 7 };
        let mut all = Accumulators::new(&aggregation.calls);
        let mut errors = Vec::new();
        all.add(&aggregation.calls, &row, order, &mut errors).expect("no overflow");
        let old = caudal_query::aggregate::Accumulator::of(one.transaction.amount.nano());
        let (start, end) = (60_000_000, 60_000_000 + plan.window.size);
        let group = query.group_row(&key, Some((start, end)), &all).expect("a row");
        let found = query.output_row(&group, &mut errors);
        let wanted = caudal_query::group::row(plan, &key, start, &old).expect("a row");
        assert_eq!(found, wanted.into_iter().map(Some).collect::<Vec<_>>());
        let holds = query.having_holds(&key, Some((start, end)), &all);
        assert_eq!(holds, Ok(plan.having_holds(&old)));
        assert_eq!(errors, []);
    }
}

#[test]
fn a_definition_is_what_is_computed() {
    let of = |text: &str| compile(text).queries[0].definition.clone();
    let text = "CREATE TABLE a AS SELECT account_id, COUNT(*) AS n FROM transacciones_validas \
                GROUP BY account_id;";
    let same = "create table b with (IDLE_TIMEOUT = '1 HOUR') as select ACCOUNT_ID, -- x\n \
                count(*) as N from transacciones_validas group by account_id";
    assert_eq!(of(text), of(same));
    assert_ne!(of(text), of(&text.replace("COUNT(*)", "SUM(amount)")));
    assert_ne!(of(text), of(&text.replace("GROUP", "WHERE kind = 'REFUND' GROUP")));
}

#[test]
fn having_may_name_the_group_and_the_window() {
    let catalog = compile(
        "CREATE TABLE o AS SELECT account_id, COUNT(*) AS n FROM transacciones_validas
         WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY account_id
         HAVING account_id = 'acc' AND WINDOWEND - WINDOWSTART = 60000 AND COUNT(*) = 1;",
    );
    let query = &catalog.queries[0];
    let calls = &query.aggregation.as_ref().expect("groups").calls;
    let one = valid(Kind::Refund, -5);
    let mut all = Accumulators::new(calls);
    let row = TransactionRow::new(&one, 0, 0);
    all.add(calls, &row, Order::default(), &mut Vec::new()).expect("no overflow");
    let window = Some((0, 60_000_000));
    assert_eq!(query.having_holds("[\"acc\"]", window, &all), Ok(true));
    assert_eq!(query.having_holds("[\"other\"]", window, &all), Ok(false));
}

#[test]
fn rowtime_answers_in_any_case() {
    let catalog = compile(
        "CREATE STREAM s (k STRING KEY, `camelCase` INT) WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');
         CREATE STREAM o AS SELECT k, ROWTIME AS at, `camelCase` FROM s WHERE RowTime > 5;",
    );
    assert_eq!(catalog.queries[0].columns[1].name, "at");
}
