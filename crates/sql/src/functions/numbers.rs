//! Functions of numbers.

use super::{
    Argument, Function, Mismatch, Resolution, common, double, failed, fits, lenient, long, strict,
};
use crate::decimal::{fits as digits_fit, rescale};
use crate::expr::EvalError;
use crate::types::SqlType::{self, Bigint, Decimal, Double, Int};
use crate::value::Value;
use std::cmp::Ordering;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "ABS", usage: "ABS(number)", resolve: abs },
    Function { name: "CEIL", usage: "CEIL(number)", resolve: ceil },
    Function { name: "FLOOR", usage: "FLOOR(number)", resolve: floor },
    Function { name: "ROUND", usage: "ROUND(number[, INT])", resolve: round },
    Function { name: "TRUNC", usage: "TRUNC(number[, INT])", resolve: trunc },
    Function { name: "SIGN", usage: "SIGN(number)", resolve: sign },
    Function { name: "SQRT", usage: "SQRT(number)", resolve: sqrt },
    Function { name: "EXP", usage: "EXP(number)", resolve: exp },
    Function { name: "LN", usage: "LN(number)", resolve: ln },
    Function { name: "LOG", usage: "LOG([number,] number)", resolve: log },
    Function { name: "POWER", usage: "POWER(number, number)", resolve: power },
    Function { name: "GREATEST", usage: "GREATEST(value, value, …)", resolve: greatest },
    Function { name: "LEAST", usage: "LEAST(value, value, …)", resolve: least },
    Function { name: "NULLIF", usage: "NULLIF(value, value)", resolve: nullif },
    Function { name: "AS_VALUE", usage: "AS_VALUE(value)", resolve: as_value },
];

fn one_number(args: &[Argument]) -> Result<SqlType, Mismatch> {
    match args {
        [arg] if arg.kind == SqlType::Null => Ok(Int),
        [arg] if arg.kind.is_numeric() => Ok(arg.kind.clone()),
        _ => Err(Mismatch::Types),
    }
}

fn overflow() -> EvalError {
    failed("the result does not fit its type")
}

fn abs(args: &[Argument]) -> Resolution {
    let kind = one_number(args)?;
    let narrow = kind == Int;
    strict(kind.clone(), vec![kind], move |a| match &a[0] {
        Value::Long(n) => {
            let fits = |n: &i64| !narrow || i32::try_from(*n).is_ok();
            n.checked_abs().filter(fits).map(Value::Long).ok_or_else(overflow)
        }
        Value::Decimal(units) => units.checked_abs().map(Value::Decimal).ok_or_else(overflow),
        other => Ok(Value::Double(double(other).abs())),
    })
}

fn ceil(args: &[Argument]) -> Resolution {
    whole(args, f64::ceil, |quotient, rest| quotient + i128::from(rest > 0))
}

fn floor(args: &[Argument]) -> Resolution {
    whole(args, f64::floor, |quotient, rest| quotient - i128::from(rest < 0))
}

/// A number brought to a whole one of the same type; of a decimal, from its quotient and rest.
fn whole(
    args: &[Argument],
    of_double: fn(f64) -> f64,
    of_decimal: fn(i128, i128) -> i128,
) -> Resolution {
    let kind = one_number(args)?;
    let scale = if let Decimal { scale, .. } = kind { scale } else { 0 };
    let unit = 10_i128.pow(u32::from(scale));
    strict(kind.clone(), vec![kind], move |a| match &a[0] {
        Value::Double(d) => Ok(Value::Double(of_double(*d))),
        Value::Decimal(units) => {
            let whole = of_decimal(units / unit, units % unit);
            whole.checked_mul(unit).map(Value::Decimal).ok_or_else(overflow)
        }
        other => Ok(other.clone()),
    })
}

/// Types of ROUND and TRUNC: a double alone gives BIGINT, a decimal alone its whole digits, and
/// with places each keeps its type. A decimal gets one digit more: 9.5 becomes 10.
fn places(args: &[Argument]) -> Result<(SqlType, SqlType, Vec<SqlType>), Mismatch> {
    let number = one_number(&args[..1.min(args.len())])?;
    match args.len() {
        1 => {
            let result = match &number {
                Double => Bigint,
                Decimal { precision, scale } => {
                    Decimal { precision: (precision - scale + 1).min(38), scale: 0 }
                }
                other => other.clone(),
            };
            Ok((number.clone(), result, vec![number]))
        }
        2 if args[1].kind.coerces_to(&Int) => {
            let result = match number {
                Decimal { precision, scale } => {
                    Decimal { precision: (precision + 1).min(38), scale }
                }
                ref other => other.clone(),
            };
            Ok((number.clone(), result, vec![number, Int]))
        }
        _ => Err(Mismatch::Types),
    }
}

/// Halves are rounded towards positive infinity, as in ksqlDB.
fn round(args: &[Argument]) -> Resolution {
    let rounds = |quotient: i128, rest: i128, unit: i128| {
        let half = rest.unsigned_abs() * 2;
        match half.cmp(&unit.unsigned_abs()) {
            Ordering::Greater => quotient + rest.signum(),
            Ordering::Equal if rest > 0 => quotient + 1,
            _ => quotient,
        }
    };
    to_places(args, rounds, |d| (d + 0.5).floor())
}

fn trunc(args: &[Argument]) -> Resolution {
    to_places(args, |quotient, _, _| quotient, f64::trunc)
}

fn to_places(
    args: &[Argument],
    of_units: fn(i128, i128, i128) -> i128,
    of_double: fn(f64) -> f64,
) -> Resolution {
    let (number, result, kinds) = places(args)?;
    let scale = if let Decimal { scale, .. } = number { i64::from(scale) } else { 0 };
    let (result_scale, precision) = match result {
        Decimal { scale, precision } => (scale, precision),
        _ => (0, 19),
    };
    strict(result, kinds, move |a| {
        let places = a.get(1).map_or(0, long);
        let cut = |units: i128| -> Option<i128> {
            let dropped = scale - places;
            if dropped <= 0 {
                return Some(units);
            }
            let Some(unit) = u32::try_from(dropped).ok().and_then(|n| 10_i128.checked_pow(n))
            else {
                return Some(0);
            };
            of_units(units / unit, units % unit, unit).checked_mul(unit)
        };
        match &a[0] {
            Value::Decimal(units) => cut(*units)
                .and_then(|units| rescale(units, scale as u8, result_scale))
                .filter(|units| digits_fit(*units, precision))
                .map(Value::Decimal)
                .ok_or_else(overflow),
            Value::Double(d) if a.len() == 1 => {
                let whole = of_double(*d);
                let fits = whole.abs() < 9.2e18;
                if fits { Ok(Value::Long(whole as i64)) } else { Err(overflow()) }
            }
            Value::Double(d) => Ok(Value::Double(double_places(*d, places, of_units))),
            Value::Long(n) => {
                let whole = cut(i128::from(*n)).and_then(|n| i64::try_from(n).ok());
                whole.map(Value::Long).ok_or_else(overflow)
            }
            other => Ok(other.clone()),
        }
    })
}

/// Through the shortest decimal text of the double, so that 1.005 is what it seems to be.
fn double_places(number: f64, places: i64, of_units: fn(i128, i128, i128) -> i128) -> f64 {
    let Some((units, scale)) = crate::decimal::parse(&format!("{number:e}")) else { return number };
    let dropped = i64::from(scale) - places;
    let Some(unit) = u32::try_from(dropped).ok().and_then(|n| 10_i128.checked_pow(n)) else {
        return if dropped > 0 { 0.0 } else { number };
    };
    let kept = of_units(units / unit, units % unit, unit);
    let text = format!("{kept}e{}", -places);
    text.parse().unwrap_or(number)
}

fn sign(args: &[Argument]) -> Resolution {
    let kind = one_number(args)?;
    strict(Int, vec![kind], |a| {
        Ok(Value::Long(match &a[0] {
            Value::Long(n) => n.signum(),
            Value::Decimal(units) => units.signum() as i64,
            other => {
                let number = double(other);
                i64::from(number > 0.0) - i64::from(number < 0.0)
            }
        }))
    })
}

fn of_double(args: &[Argument], f: fn(f64) -> f64) -> Resolution {
    strict(Double, fits(args, &[Double])?, move |a| Ok(Value::Double(f(double(&a[0])))))
}

fn sqrt(args: &[Argument]) -> Resolution {
    of_double(args, f64::sqrt)
}

fn exp(args: &[Argument]) -> Resolution {
    of_double(args, f64::exp)
}

fn ln(args: &[Argument]) -> Resolution {
    of_double(args, f64::ln)
}

fn log(args: &[Argument]) -> Resolution {
    if args.len() == 1 {
        // ksqlDB documents base 10 and computes the natural logarithm.
        return of_double(args, f64::ln);
    }
    strict(Double, fits(args, &[Double, Double])?, |a| {
        let (base, number) = (double(&a[0]), double(&a[1]));
        let undefined = base <= 0.0 || base == 1.0;
        Ok(Value::Double(if undefined { f64::NAN } else { number.ln() / base.ln() }))
    })
}

fn power(args: &[Argument]) -> Resolution {
    strict(Double, fits(args, &[Double, Double])?, |a| {
        Ok(Value::Double(double(&a[0]).powf(double(&a[1]))))
    })
}

fn greatest(args: &[Argument]) -> Resolution {
    extreme(args, Ordering::Greater)
}

fn least(args: &[Argument]) -> Resolution {
    extreme(args, Ordering::Less)
}

/// The largest or smallest of what is not NULL.
fn extreme(args: &[Argument], wanted: Ordering) -> Resolution {
    let kind = common(args)?;
    if matches!(kind, SqlType::Array(_) | SqlType::Map(_) | SqlType::Struct(_) | SqlType::Null) {
        return Err(Mismatch::Types);
    }
    lenient(kind.clone(), vec![kind; args.len()], move |a| {
        let mut best = Value::Null;
        for value in a {
            if best.is_null() || value.compare(&best) == Some(wanted) {
                best = std::mem::take(value);
            }
        }
        Ok(best)
    })
}

fn nullif(args: &[Argument]) -> Resolution {
    if args.len() != 2 {
        return Err(Mismatch::Types);
    }
    let kind = common(args)?;
    lenient(kind.clone(), vec![kind.clone(), kind], |a| {
        let equal = a[0].equals(&a[1]) == Some(true);
        Ok(if equal { Value::Null } else { std::mem::take(&mut a[0]) })
    })
}

/// The value of a key column, as a column of the value.
fn as_value(args: &[Argument]) -> Resolution {
    let [arg] = args else { return Err(Mismatch::Types) };
    lenient(arg.kind.clone(), vec![arg.kind.clone()], |a| Ok(std::mem::take(&mut a[0])))
}
