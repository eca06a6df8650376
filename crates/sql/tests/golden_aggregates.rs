//! Accumulators merge in any order and any grouping, and are written and read back.

use caudal_core::avro::{Reader, Writer};
use caudal_sql::aggregate::{Accumulators, AggregateCall, Order};
use caudal_sql::catalog::Catalog;
use caudal_sql::parser::Naming;
use caudal_sql::value::Value;
use proptest::prelude::*;

fn catalog() -> Catalog {
    let sql = "CREATE STREAM s (k STRING KEY, v INT, d DECIMAL(12, 2), t STRING)
               WITH (KAFKA_TOPIC='s', VALUE_FORMAT='JSON');
               CREATE TABLE o AS SELECT k, COUNT(*), COUNT(v), SUM(v), SUM(d), MIN(t), MAX(d),
                 AVG(v), AVG(d), COUNT_DISTINCT(t), LATEST_BY_OFFSET(v), LATEST_BY_OFFSET(t, 3, false),
                 EARLIEST_BY_OFFSET(d), TOPK(v, 3), TOPKDISTINCT(t, 2), COLLECT_LIST(v),
                 COLLECT_SET(t)
               FROM s GROUP BY k;";
    Catalog::compile(sql, Naming::Upper).expect("a query")
}

type Row = (Option<i32>, Option<i64>, Option<u8>, i64);

fn all(calls: &[AggregateCall], rows: &[(usize, Row)]) -> Accumulators {
    let mut all = Accumulators::new(calls);
    for (offset, (v, d, t, rowtime)) in rows {
        let text = t.map_or(Value::Null, |t| Value::text(format!("t{}", t % 9)));
        let row = [
            Value::text("k"),
            v.map_or(Value::Null, |v| Value::Long(i64::from(v))),
            d.map_or(Value::Null, |d| Value::Decimal(i128::from(d % 1_000_000_000_000))),
            text,
        ];
        let order = Order { rowtime: *rowtime, partition: 0, offset: *offset as i64 };
        let mut errors = Vec::new();
        all.add(calls, &row[..], order, &mut errors).expect("no overflow");
        assert_eq!(errors, []);
    }
    all
}

proptest! {
    #[test]
    fn order_and_grouping_do_not_matter(
        rows in prop::collection::vec((any::<Option<i32>>(), any::<Option<i64>>(), any::<Option<u8>>(), 0_i64..50), 0..40),
        seed in any::<u64>(), cut in 0_usize..40,
    ) {
        let catalog = catalog();
        let calls = &catalog.queries[0].aggregation.as_ref().expect("groups").calls;
        let rows: Vec<(usize, Row)> = rows.into_iter().enumerate().collect();
        let whole = all(calls, &rows);
        let mut shuffled = rows.clone();
        shuffled.sort_by_key(|(offset, _)| (*offset as u64).wrapping_mul(seed | 1) >> 7);
        let (one, other) = shuffled.split_at(cut.min(shuffled.len()));
        let (one, other) = (all(calls, one), all(calls, other));
        let merged = |a: &Accumulators, b: &Accumulators| {
            let mut merged = a.clone();
            merged.merge(calls, b).expect("no overflow");
            merged
        };
        prop_assert_eq!(&merged(&one, &other), &whole);
        prop_assert_eq!(&merged(&other, &one), &whole);
        let mut out = Writer::new();
        whole.write(&mut out);
        let bytes = out.into_bytes();
        let mut input = Reader::new(&bytes);
        prop_assert_eq!(Accumulators::read(calls, &mut input), Ok(whole));
        prop_assert!(input.is_at_end());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let catalog = catalog();
        let calls = &catalog.queries[0].aggregation.as_ref().expect("groups").calls;
        Accumulators::read(calls, &mut Reader::new(&bytes)).ok();
    }
}
