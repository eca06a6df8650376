//! What a group's records of one pane add up to.

use crate::aggregate::Accumulator;
use crate::group::group_of;
use crate::plan::Plan;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::money::SumOverflow;
use caudal_sql::aggregate::{Accumulators, Function, Order};
use caudal_sql::expr::EvalError;
use caudal_sql::row::RowView;
use caudal_sql::value::Value;
use std::cell::OnceCell;

/// The accumulators of a query. Merging is commutative and associative, so that partials may
/// arrive in any order.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Of a query whose aggregates are COUNT(*), and SUM, MIN and MAX of the amount: four numbers,
    /// nothing on the heap.
    Amount(Accumulator),
    /// Of any other query: the number of records, and what its aggregates keep.
    General(i64, Accumulators),
}

impl Values {
    /// Those of one record. An argument without a value counts as NULL, and is reported.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn of(
        plan: &Plan,
        row: &crate::input::Input<'_>,
        errors: &mut Vec<EvalError>,
    ) -> Result<Values, SumOverflow> {
        if plan.adds_amounts() {
            return Ok(Values::Amount(Accumulator::of(row.amount())));
        }
        let calls = plan.calls();
        let mut all = Accumulators::new(calls);
        let position = row.position();
        let order = Order {
            rowtime: position.rowtime,
            partition: position.partition,
            offset: position.offset,
        };
        all.add(calls, row, order, errors)?;
        Ok(Values::General(1, all))
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> i64 {
        match self {
            Values::Amount(sums) => sums.count,
            Values::General(count, _) => *count,
        }
    }

    /// Takes another group's records in.
    ///
    /// # Errors
    /// [`SumOverflow`]: the query halts rather than wrap.
    pub fn merge(&mut self, plan: &Plan, other: &Values) -> Result<(), SumOverflow> {
        match (self, other) {
            (Values::Amount(mine), Values::Amount(theirs)) => mine.merge(theirs),
            (Values::General(count, mine), Values::General(more, theirs)) => {
                *count = count.checked_add(*more).ok_or(SumOverflow)?;
                mine.merge(plan.calls(), theirs)
            }
            // Both are of the same plan.
            _ => Ok(()),
        }
    }

    /// The result of one of the plan's aggregates.
    #[must_use]
    pub fn result(&self, plan: &Plan, index: usize) -> Value<'static> {
        match (self, plan.calls().get(index)) {
            (_, None) => Value::Null,
            (Values::Amount(sums), Some(call)) => match call.function {
                Function::Sum => Value::Decimal(sums.sum),
                Function::Min => Value::Decimal(sums.min),
                Function::Max => Value::Decimal(sums.max),
                _ => Value::Long(sums.count),
            },
            (Values::General(_, all), Some(_)) => all.value(plan.calls(), index),
        }
    }

    /// Writes them into a state block or a partial.
    pub fn write(&self, out: &mut Writer) {
        match self {
            Values::Amount(sums) => sums.write(out),
            Values::General(count, all) => {
                out.long(*count);
                all.write(out);
            }
        }
    }

    /// Reads them back.
    ///
    /// # Errors
    /// When the bytes are not those of this plan.
    pub fn read(plan: &Plan, input: &mut Reader<'_>) -> Result<Values, AvroError> {
        if plan.adds_amounts() {
            return Ok(Values::Amount(Accumulator::read(input)?));
        }
        Ok(Values::General(input.long()?, Accumulators::read(plan.calls(), input)?))
    }

    /// Bytes on the heap, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Values::Amount(_) => 0,
            Values::General(_, all) => all.bytes(),
        }
    }
}

/// A group's row before SELECT and HAVING: the values of the group, the bounds of its window in
/// milliseconds, the results of the aggregates. HAVING is asked for each record: the key is read
/// when a grouping column is first asked for, and once.
pub struct GroupRow<'a> {
    plan: &'a Plan,
    key: &'a str,
    window: (i64, i64),
    values: &'a Values,
    group: OnceCell<Vec<Value<'static>>>,
}

impl<'a> GroupRow<'a> {
    /// Of a group's key, the bounds of a window in microseconds, and what its records add up to.
    #[must_use]
    pub fn new(
        plan: &'a Plan,
        key: &'a str,
        window: (i64, i64),
        values: &'a Values,
    ) -> GroupRow<'a> {
        GroupRow { plan, key, window, values, group: OnceCell::new() }
    }
}

impl RowView for GroupRow<'_> {
    fn column(&self, index: usize) -> Value<'_> {
        let groups = self.plan.group_by().len();
        let bound = |micros: i64| match self.plan.is_windowed() {
            true => Value::Long(micros.div_euclid(1000)),
            false => Value::Null,
        };
        match index.checked_sub(groups) {
            None => {
                let group = self.group.get_or_init(|| group_of(self.plan, self.key));
                group.get(index).map_or(Value::Null, Value::borrowed)
            }
            Some(0) => bound(self.window.0),
            Some(1) => bound(self.window.1),
            Some(result) => self.values.result(self.plan, result - 2),
        }
    }
}
