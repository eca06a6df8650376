//! What a group's records add up to.

use super::distinct::{self, Distinct};
use super::{AggregateCall, Function, MAX_ITEMS};
use crate::decimal;
use crate::expr::EvalError;
use crate::row::RowView;
use crate::types::SqlType;
use crate::value::Value;
use crate::value_bytes;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::money::SumOverflow;
use std::cmp::Ordering;

/// The order of records, whatever the order in which partitions are read: event time in
/// milliseconds, then source partition, then offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Order {
    /// Event time in milliseconds.
    pub rowtime: i64,
    /// Partition of the source.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Count(i64),
    /// Of integers and decimals.
    Sum(i128),
    SumDouble(f64),
    Average(i128, i64),
    AverageDouble(f64, i64),
    Extreme(Value<'static>),
    Distinct(Distinct),
    /// Values with their order, in that order.
    Ordered(Vec<(Order, Value<'static>)>),
    /// Values alone, the largest first.
    Top(Vec<Value<'static>>),
}

/// The accumulators of one group and pane: one for each aggregate of the query, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Accumulators(Box<[State]>);

impl Accumulators {
    /// Those of no record.
    #[must_use]
    pub fn new(calls: &[AggregateCall]) -> Accumulators {
        Accumulators(calls.iter().map(empty).collect())
    }

    /// Takes a record in. An argument without a value counts as NULL, and is reported.
    ///
    /// # Errors
    /// [`SumOverflow`]: the query halts rather than wrap.
    pub fn add<R: RowView + ?Sized>(
        &mut self,
        calls: &[AggregateCall],
        row: &R,
        order: Order,
        errors: &mut Vec<EvalError>,
    ) -> Result<(), SumOverflow> {
        for (state, call) in self.0.iter_mut().zip(calls) {
            let value = match &call.argument {
                None => Value::Null,
                Some(argument) => argument.value_or_null(row, errors),
            };
            add(state, call, value, order)?;
        }
        Ok(())
    }

    /// Takes another group's records in.
    ///
    /// # Errors
    /// [`SumOverflow`]: the query halts rather than wrap.
    pub fn merge(
        &mut self,
        calls: &[AggregateCall],
        other: &Accumulators,
    ) -> Result<(), SumOverflow> {
        for ((state, theirs), call) in self.0.iter_mut().zip(&other.0).zip(calls) {
            merge(state, theirs, call)?;
        }
        Ok(())
    }

    /// The results, in the order of the aggregates.
    #[must_use]
    pub fn values(&self, calls: &[AggregateCall]) -> Vec<Value<'static>> {
        self.0.iter().zip(calls).map(|(state, call)| result(state, call)).collect()
    }

    /// One of the results.
    #[must_use]
    pub fn value(&self, calls: &[AggregateCall], index: usize) -> Value<'static> {
        self.0.get(index).zip(calls.get(index)).map_or(Value::Null, |(s, call)| result(s, call))
    }

    /// Bytes on the heap, about: items of lists and sets are taken as short texts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let items = self.0.iter().map(|state| match state {
            State::Ordered(items) => items.len() * 96,
            State::Top(items) => items.len() * 64,
            State::Distinct(distinct) => distinct.bytes(),
            State::Extreme(Value::Text(text)) => text.len(),
            _ => 0,
        });
        self.0.len() * size_of::<State>() + items.sum::<usize>()
    }

    /// Writes them into a state block or a partial: the same records give the same bytes.
    pub fn write(&self, out: &mut Writer) {
        self.0.iter().for_each(|state| write(state, out));
    }

    /// Reads them back.
    ///
    /// # Errors
    /// When the bytes are not accumulators of these aggregates.
    pub fn read(
        calls: &[AggregateCall],
        input: &mut Reader<'_>,
    ) -> Result<Accumulators, AvroError> {
        let states = calls.iter().map(|call| read(call, input));
        Ok(Accumulators(states.collect::<Result<_, _>>()?))
    }
}

fn is_double(call: &AggregateCall) -> bool {
    *call.argument_kind() == SqlType::Double
}

fn empty(call: &AggregateCall) -> State {
    match call.function {
        Function::CountRows | Function::Count => State::Count(0),
        Function::Sum if is_double(call) => State::SumDouble(0.0),
        Function::Sum => State::Sum(0),
        Function::Avg if is_double(call) => State::AverageDouble(0.0, 0),
        Function::Avg => State::Average(0, 0),
        Function::Min | Function::Max => State::Extreme(Value::Null),
        Function::CountDistinct => State::Distinct(Distinct::default()),
        Function::TopK(_) | Function::TopKDistinct(_) => State::Top(Vec::new()),
        Function::Latest(..)
        | Function::Earliest(..)
        | Function::CollectList
        | Function::CollectSet => State::Ordered(Vec::new()),
    }
}

fn units(value: &Value<'_>) -> i128 {
    match value {
        Value::Long(n) => i128::from(*n),
        Value::Decimal(units) => *units,
        _ => 0,
    }
}

fn increment(count: &mut i64, by: i64) -> Result<(), SumOverflow> {
    *count = count.checked_add(by).ok_or(SumOverflow)?;
    Ok(())
}

fn sum_up(sum: &mut i128, by: i128) -> Result<(), SumOverflow> {
    *sum = sum.checked_add(by).ok_or(SumOverflow)?;
    Ok(())
}

fn add(
    state: &mut State,
    call: &AggregateCall,
    value: Value<'_>,
    order: Order,
) -> Result<(), SumOverflow> {
    let keeps_nulls = match call.function {
        Function::CountRows | Function::CollectList | Function::CollectSet => true,
        Function::Latest(_, ignore) | Function::Earliest(_, ignore) => !ignore,
        _ => false,
    };
    if value.is_null() && !keeps_nulls {
        return Ok(());
    }
    match state {
        State::Count(count) => increment(count, 1)?,
        State::Sum(sum) => sum_up(sum, units(&value))?,
        State::SumDouble(sum) => *sum += as_double(&value),
        State::Average(sum, count) => {
            sum_up(sum, units(&value))?;
            increment(count, 1)?;
        }
        State::AverageDouble(sum, count) => {
            *sum += as_double(&value);
            increment(count, 1)?;
        }
        State::Extreme(best) => {
            if best.is_null() || value.compare(best) == Some(wanted(call.function)) {
                *best = value.into_owned();
            }
        }
        State::Distinct(distinct) => {
            let mut bytes = Writer::new();
            value_bytes::write(&value, &mut bytes);
            distinct.add(distinct::hash(&bytes.into_bytes()));
        }
        State::Ordered(items) => keep_ordered(items, call.function, order, &value),
        State::Top(items) if !sort_key(&value).is_null() => keep_top(items, call.function, &value),
        State::Top(_) => {}
    }
    Ok(())
}

fn as_double(value: &Value<'_>) -> f64 {
    match value {
        Value::Double(number) => *number,
        _ => 0.0,
    }
}

fn wanted(function: Function) -> Ordering {
    if function == Function::Min { Ordering::Less } else { Ordering::Greater }
}

/// Puts a value at its place in the order, and drops what exceeds the bound: the oldest of
/// LATEST, the newest of the others.
fn keep_ordered(
    items: &mut Vec<(Order, Value<'static>)>,
    function: Function,
    order: Order,
    value: &Value<'_>,
) {
    let (bound, newest) = match function {
        Function::Latest(n, _) => (n.unwrap_or(1), true),
        Function::Earliest(n, _) => (n.unwrap_or(1), false),
        _ => (MAX_ITEMS, false),
    };
    if function == Function::CollectSet
        && let Some(at) = items.iter().position(|(_, known)| known.same_as(value))
    {
        if items[at].0 <= order {
            return;
        }
        items.remove(at);
    }
    let at = items.partition_point(|(known, _)| *known <= order);
    if items.len() == bound {
        if (newest && at == 0) || (!newest && at == bound) {
            return;
        }
        items.remove(if newest { 0 } else { bound - 1 });
    }
    let at = items.partition_point(|(known, _)| *known <= order);
    items.insert(at, (order, value.clone().into_owned()));
}

/// What TOPK orders by: the value, or the first field of what it keeps together.
fn sort_key<'v, 'a>(value: &'v Value<'a>) -> &'v Value<'a> {
    match value {
        Value::Struct(fields) => fields.first().unwrap_or(value),
        value => value,
    }
}

/// The order of TOPK. Equals differ in what is kept with them, if at all: their bytes decide, so
/// that the same records leave the same items whatever the order in which they merge; NULL is last.
fn rank(one: &Value<'_>, other: &Value<'_>) -> Ordering {
    let bytes = |value: &Value<'_>| {
        let mut out = Writer::new();
        value_bytes::write(value, &mut out);
        out.into_bytes()
    };
    match sort_key(one).compare(sort_key(other)).unwrap_or(Ordering::Equal) {
        Ordering::Equal if matches!(one, Value::Struct(_)) => bytes(one).cmp(&bytes(other)),
        order => order,
    }
}

fn keep_top(items: &mut Vec<Value<'static>>, function: Function, value: &Value<'_>) {
    let (bound, distinct) = match function {
        Function::TopKDistinct(k) => (k, true),
        Function::TopK(k) => (k, false),
        _ => return,
    };
    let at = items.partition_point(|known| rank(known, value).is_ge());
    let known = at > 0 && items[at - 1].same_as(value);
    if at >= bound || (distinct && known) {
        return;
    }
    items.truncate(bound - 1);
    items.insert(at, value.clone().into_owned());
}

fn merge(state: &mut State, theirs: &State, call: &AggregateCall) -> Result<(), SumOverflow> {
    match (state, theirs) {
        (State::Count(count), State::Count(by)) => increment(count, *by)?,
        (State::Sum(sum), State::Sum(by)) => sum_up(sum, *by)?,
        (State::SumDouble(sum), State::SumDouble(by)) => *sum += by,
        (State::Average(sum, count), State::Average(by, more)) => {
            sum_up(sum, *by)?;
            increment(count, *more)?;
        }
        (State::AverageDouble(sum, count), State::AverageDouble(by, more)) => {
            *sum += by;
            increment(count, *more)?;
        }
        (State::Extreme(best), State::Extreme(other)) => {
            let better = other.compare(best) == Some(wanted(call.function));
            if best.is_null() || better {
                *best = other.clone();
            }
        }
        (State::Distinct(distinct), State::Distinct(other)) => distinct.merge(other),
        (State::Ordered(items), State::Ordered(other)) => {
            for (order, value) in other {
                keep_ordered(items, call.function, *order, value);
            }
        }
        (State::Top(items), State::Top(other)) => {
            other.iter().for_each(|value| keep_top(items, call.function, value));
        }
        // Both are states of the same aggregate.
        _ => {}
    }
    Ok(())
}

fn result(state: &State, call: &AggregateCall) -> Value<'static> {
    match state {
        State::Count(count) => Value::Long(*count),
        State::Sum(sum) => match call.kind {
            SqlType::Decimal { .. } => Value::Decimal(*sum),
            // Beyond 64 bits there is no BIGINT.
            _ => i64::try_from(*sum).map_or(Value::Null, Value::Long),
        },
        State::SumDouble(sum) => Value::Double(*sum),
        State::Average(sum, count) => average(*sum, *count, call),
        State::AverageDouble(sum, count) => {
            Value::Double(if *count == 0 { 0.0 } else { sum / *count as f64 })
        }
        State::Extreme(best) => best.clone(),
        State::Distinct(distinct) => Value::Long(distinct.count()),
        State::Ordered(items) => match call.function {
            Function::Latest(None, _) | Function::Earliest(None, _) => {
                items.first().map(|(_, value)| value.clone()).unwrap_or_default()
            }
            _ => Value::Array(items.iter().map(|(_, value)| value.clone()).collect()),
        },
        State::Top(items) => Value::Array(items.clone()),
    }
}

fn average(sum: i128, count: i64, call: &AggregateCall) -> Value<'static> {
    match (&call.kind, call.argument_kind()) {
        (SqlType::Decimal { scale, .. }, SqlType::Decimal { scale: from, .. }) => {
            let factor = decimal::power_of_ten(u32::from(scale - from));
            let factor = factor.and_then(|f| i128::try_from(f).ok()).unwrap_or(1);
            let exact = decimal::multiply_divide(sum, factor, i128::from(count));
            exact.map_or(Value::Null, Value::Decimal)
        }
        _ if count == 0 => Value::Double(0.0),
        _ => Value::Double(sum as f64 / count as f64),
    }
}

fn write(state: &State, out: &mut Writer) {
    match state {
        State::Count(count) => out.long(*count),
        State::Sum(sum) => out.decimal(*sum),
        State::SumDouble(sum) => out.fixed8(sum.to_be_bytes()),
        State::Average(sum, count) => {
            out.decimal(*sum);
            out.long(*count);
        }
        State::AverageDouble(sum, count) => {
            out.fixed8(sum.to_be_bytes());
            out.long(*count);
        }
        State::Extreme(best) => value_bytes::write(best, out),
        State::Distinct(distinct) => distinct.write(out),
        State::Ordered(items) => {
            out.long(items.len() as i64);
            for (order, value) in items {
                out.long(order.rowtime);
                out.long(i64::from(order.partition));
                out.long(order.offset);
                value_bytes::write(value, out);
            }
        }
        State::Top(items) => {
            out.long(items.len() as i64);
            items.iter().for_each(|value| value_bytes::write(value, out));
        }
    }
}

fn read(call: &AggregateCall, input: &mut Reader<'_>) -> Result<State, AvroError> {
    let kind = call.argument_kind();
    Ok(match empty(call) {
        State::Count(_) => State::Count(input.long()?),
        State::Sum(_) => State::Sum(input.decimal()?),
        State::SumDouble(_) => State::SumDouble(f64::from_be_bytes(input.fixed8()?)),
        State::Average(..) => State::Average(input.decimal()?, input.long()?),
        State::AverageDouble(..) => {
            State::AverageDouble(f64::from_be_bytes(input.fixed8()?), input.long()?)
        }
        State::Extreme(_) => State::Extreme(value_bytes::read(kind, input)?),
        State::Distinct(_) => State::Distinct(Distinct::read(input)?),
        State::Ordered(_) => {
            let count = input.length()?;
            let mut items = Vec::with_capacity(count.min(MAX_ITEMS));
            for _ in 0..count {
                let (rowtime, partition) = (input.long()?, input.long()?);
                let error = input.error("partition beyond 32 bits");
                let partition = i32::try_from(partition).map_err(|_| error)?;
                let order = Order { rowtime, partition, offset: input.long()? };
                items.push((order, value_bytes::read(kind, input)?));
            }
            State::Ordered(items)
        }
        State::Top(_) => {
            let count = input.length()?;
            let items = (0..count).map(|_| value_bytes::read(kind, input));
            State::Top(items.collect::<Result<_, _>>()?)
        }
    })
}
