//! Functions of arrays and maps.

use super::texts::shown;
use super::{Argument, Function, Mismatch, Resolution, lenient, strict, text};
use crate::types::SqlType::{self, Array, Boolean, Int, Map, String as Text};
use crate::value::Value;
use std::cmp::Ordering;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "ARRAY_LENGTH", usage: "ARRAY_LENGTH(ARRAY)", resolve: length },
    Function { name: "ARRAY_CONTAINS", usage: "ARRAY_CONTAINS(ARRAY, item)", resolve: contains },
    Function { name: "ARRAY_DISTINCT", usage: "ARRAY_DISTINCT(ARRAY)", resolve: distinct },
    Function { name: "ARRAY_MAX", usage: "ARRAY_MAX(ARRAY)", resolve: max },
    Function { name: "ARRAY_MIN", usage: "ARRAY_MIN(ARRAY)", resolve: min },
    Function { name: "ARRAY_SORT", usage: "ARRAY_SORT(ARRAY[, 'ASC' or 'DESC'])", resolve: sort },
    Function { name: "ARRAY_JOIN", usage: "ARRAY_JOIN(ARRAY[, STRING])", resolve: join },
    Function { name: "MAP_KEYS", usage: "MAP_KEYS(MAP)", resolve: keys },
    Function { name: "MAP_VALUES", usage: "MAP_VALUES(MAP)", resolve: values },
];

fn item_kind(args: &[Argument]) -> Result<SqlType, Mismatch> {
    match args.first().map(|arg| &arg.kind) {
        Some(Array(item)) => Ok((**item).clone()),
        _ => Err(Mismatch::Types),
    }
}

fn only(args: &[Argument]) -> Result<(SqlType, Vec<SqlType>), Mismatch> {
    if args.len() != 1 {
        return Err(Mismatch::Types);
    }
    Ok((item_kind(args)?, vec![args[0].kind.clone()]))
}

fn items<'a>(value: &mut Value<'a>) -> Vec<Value<'a>> {
    match std::mem::take(value) {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn length(args: &[Argument]) -> Resolution {
    let (_, kinds) = only(args)?;
    strict(Int, kinds, |a| Ok(Value::Long(items(&mut a[0]).len() as i64)))
}

fn contains(args: &[Argument]) -> Resolution {
    let item = item_kind(args)?;
    let common = args.get(1).and_then(|arg| arg.kind.common(&item)).ok_or(Mismatch::Types)?;
    let kinds = vec![Array(Box::new(common.clone())), common];
    lenient(Boolean, kinds, |a| {
        if a[0].is_null() {
            return Ok(Value::Boolean(false));
        }
        let wanted = std::mem::take(&mut a[1]);
        Ok(Value::Boolean(items(&mut a[0]).iter().any(|item| item.same_as(&wanted))))
    })
}

fn distinct(args: &[Argument]) -> Resolution {
    let (_, kinds) = only(args)?;
    strict(args[0].kind.clone(), kinds, |a| {
        let mut out: Vec<Value<'_>> = Vec::new();
        for item in items(&mut a[0]) {
            if !out.iter().any(|known| known.same_as(&item)) {
                out.push(item);
            }
        }
        Ok(Value::Array(out))
    })
}

fn max(args: &[Argument]) -> Resolution {
    extreme(args, Ordering::Greater)
}

fn min(args: &[Argument]) -> Resolution {
    extreme(args, Ordering::Less)
}

fn extreme(args: &[Argument], wanted: Ordering) -> Resolution {
    let (item, kinds) = only(args)?;
    strict(item, kinds, move |a| {
        let better = |best: Value<'_>, item: Value<'_>| {
            best.is_null() || item.compare(&best) == Some(wanted)
        };
        let mut best = Value::Null;
        for item in items(&mut a[0]) {
            if better(best.clone(), item.clone()) {
                best = item;
            }
        }
        Ok(best)
    })
}

/// NULLs come last, whatever the order.
fn sort(args: &[Argument]) -> Resolution {
    item_kind(args)?;
    let kinds = match args {
        [array] => vec![array.kind.clone()],
        [array, order] if order.kind == Text => vec![array.kind.clone(), Text],
        _ => return Err(Mismatch::Types),
    };
    strict(args[0].kind.clone(), kinds, |a| {
        let descending = match a.get_mut(1).map(text) {
            None => false,
            Some(order) if order.to_uppercase().starts_with("ASC") => false,
            Some(order) if order.to_uppercase().starts_with("DESC") => true,
            Some(_) => return Ok(Value::Null),
        };
        let mut sorted = items(&mut a[0]);
        sorted.sort_by(|one, other| match (one.is_null(), other.is_null()) {
            (false, false) => {
                let order = one.compare(other).unwrap_or(Ordering::Equal);
                if descending { order.reverse() } else { order }
            }
            (one, other) => one.cmp(&other),
        });
        Ok(Value::Array(sorted))
    })
}

fn join(args: &[Argument]) -> Resolution {
    let item = item_kind(args)?;
    let kinds = match args {
        [array] => vec![array.kind.clone()],
        [array, separator] if matches!(separator.kind, Text | SqlType::Null) => {
            vec![array.kind.clone(), Text]
        }
        _ => return Err(Mismatch::Types),
    };
    lenient(Text, kinds, move |a| {
        if a[0].is_null() {
            return Ok(Value::Null);
        }
        let separator = match a.get_mut(1) {
            None => ",".into(),
            Some(value) => text(value),
        };
        let texts: Vec<String> = items(&mut a[0]).iter().map(|v| shown(v, &item)).collect();
        Ok(Value::text(texts.join(&separator)))
    })
}

fn keys(args: &[Argument]) -> Resolution {
    let [Argument { kind: kind @ Map(_), .. }] = args else { return Err(Mismatch::Types) };
    strict(Array(Box::new(Text)), vec![kind.clone()], |a| match std::mem::take(&mut a[0]) {
        Value::Map(entries) => {
            Ok(Value::Array(entries.into_iter().map(|(key, _)| Value::Text(key)).collect()))
        }
        _ => Ok(Value::Null),
    })
}

fn values(args: &[Argument]) -> Resolution {
    let [Argument { kind: Map(item), .. }] = args else { return Err(Mismatch::Types) };
    strict(Array(item.clone()), vec![Map(item.clone())], |a| match std::mem::take(&mut a[0]) {
        Value::Map(entries) => {
            Ok(Value::Array(entries.into_iter().map(|(_, value)| value).collect()))
        }
        _ => Ok(Value::Null),
    })
}
