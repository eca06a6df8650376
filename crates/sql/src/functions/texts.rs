//! Functions of texts. Positions count characters from 1.

use super::{Argument, Function, Mismatch, Resolution, failed, fits, lenient, long, strict, text};
use crate::types::SqlType::{self, Array, Int, String as Text};
use crate::value::{Value, to_text};
use regex::Regex;
use std::borrow::Cow;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "LCASE", usage: "LCASE(STRING)", resolve: lcase },
    Function { name: "UCASE", usage: "UCASE(STRING)", resolve: ucase },
    Function { name: "TRIM", usage: "TRIM(STRING)", resolve: trim },
    Function { name: "LEN", usage: "LEN(STRING)", resolve: len },
    Function { name: "SUBSTRING", usage: "SUBSTRING(STRING, INT[, INT])", resolve: substring },
    Function { name: "CONCAT", usage: "CONCAT(STRING, STRING, …)", resolve: concat },
    Function { name: "CONCAT_WS", usage: "CONCAT_WS(STRING, STRING, …)", resolve: concat_ws },
    Function { name: "REPLACE", usage: "REPLACE(STRING, STRING, STRING)", resolve: replace },
    Function { name: "SPLIT", usage: "SPLIT(STRING, STRING)", resolve: split },
    Function { name: "INITCAP", usage: "INITCAP(STRING)", resolve: initcap },
    Function { name: "INSTR", usage: "INSTR(STRING, STRING[, INT[, INT]])", resolve: instr },
    Function { name: "LPAD", usage: "LPAD(STRING, INT, STRING)", resolve: lpad },
    Function { name: "RPAD", usage: "RPAD(STRING, INT, STRING)", resolve: rpad },
    Function {
        name: "REGEXP_EXTRACT",
        usage: "REGEXP_EXTRACT('pattern', STRING[, INT])",
        resolve: regexp_extract,
    },
    Function {
        name: "REGEXP_EXTRACT_ALL",
        usage: "REGEXP_EXTRACT_ALL('pattern', STRING[, INT])",
        resolve: regexp_extract_all,
    },
    Function {
        name: "REGEXP_REPLACE",
        usage: "REGEXP_REPLACE(STRING, 'pattern', STRING)",
        resolve: regexp_replace,
    },
];

fn lcase(args: &[Argument]) -> Resolution {
    strict(Text, fits(args, &[Text])?, |a| Ok(Value::text(text(&mut a[0]).to_lowercase())))
}

fn ucase(args: &[Argument]) -> Resolution {
    strict(Text, fits(args, &[Text])?, |a| Ok(Value::text(text(&mut a[0]).to_uppercase())))
}

fn trim(args: &[Argument]) -> Resolution {
    // Java's trim: whatever is at or below a blank.
    strict(Text, fits(args, &[Text])?, |a| {
        Ok(Value::Text(match text(&mut a[0]) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim_matches(|c| c <= ' ')),
            Cow::Owned(text) => Cow::Owned(text.trim_matches(|c| c <= ' ').to_owned()),
        }))
    })
}

fn len(args: &[Argument]) -> Resolution {
    strict(Int, fits(args, &[Text])?, |a| Ok(Value::Long(text(&mut a[0]).chars().count() as i64)))
}

/// A piece of a text by character positions; borrowed where the text is.
fn slice(text: Cow<'_, str>, start: usize, end: usize) -> Cow<'_, str> {
    let byte = |text: &str, at: usize| text.char_indices().nth(at).map_or(text.len(), |(i, _)| i);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[byte(text, start)..byte(text, end)]),
        Cow::Owned(text) => Cow::Owned(text[byte(&text, start)..byte(&text, end)].to_owned()),
    }
}

/// A negative position counts from the end; 0 is 1. What lies outside is left out.
fn substring(args: &[Argument]) -> Resolution {
    let kinds = if args.len() == 2 { vec![Text, Int] } else { vec![Text, Int, Int] };
    strict(Text, fits(args, &kinds)?, |a| {
        let (text, position) = (text(&mut a[0]), long(&a[1]));
        let length = text.chars().count() as i64;
        let start =
            if position < 0 { length + position } else { (position - 1).min(length) }.max(0);
        let end = match a.get(2) {
            Some(wanted) => start.saturating_add(long(wanted)).min(length).max(start),
            None => length,
        };
        Ok(Value::Text(slice(text, start as usize, end as usize)))
    })
}

/// NULLs are left out; whatever is no text is cast.
fn concat(args: &[Argument]) -> Resolution {
    if args.len() < 2 {
        return Err(Mismatch::Types);
    }
    let kinds = as_texts(args)?;
    lenient(Text, kinds, |a| {
        let texts: Vec<&str> = a.iter().filter_map(Value::as_text).collect();
        Ok(Value::text(texts.concat()))
    })
}

fn concat_ws(args: &[Argument]) -> Resolution {
    if args.len() < 2 {
        return Err(Mismatch::Types);
    }
    lenient(Text, as_texts(args)?, |a| {
        if a[0].is_null() {
            return Ok(Value::Null);
        }
        let separator = text(&mut a[0]);
        let texts: Vec<&str> = a[1..].iter().filter_map(Value::as_text).collect();
        Ok(Value::text(texts.join(&separator)))
    })
}

fn as_texts(args: &[Argument]) -> Result<Vec<SqlType>, Mismatch> {
    let kind = |arg: &Argument| matches!(arg.kind, Text | SqlType::Null).then_some(Text);
    args.iter().map(kind).collect::<Option<_>>().ok_or(Mismatch::Types)
}

fn replace(args: &[Argument]) -> Resolution {
    strict(Text, fits(args, &[Text, Text, Text])?, |a| {
        let replaced = text(&mut a[0]).replace(&*text(&mut a[1]), &text(&mut a[2]));
        Ok(Value::text(replaced))
    })
}

/// An empty delimiter gives every character.
fn split(args: &[Argument]) -> Resolution {
    strict(Array(Box::new(Text)), fits(args, &[Text, Text])?, |a| {
        let (whole, delimiter) = (text(&mut a[0]), text(&mut a[1]));
        let own = |part: &str| Value::text(part.to_owned());
        let parts: Vec<Value<'_>> = if delimiter.is_empty() {
            whole.chars().map(|c| own(&c.to_string())).collect()
        } else {
            whole.split(&*delimiter).map(own).collect()
        };
        Ok(Value::Array(parts))
    })
}

/// The first letter of each word in upper case, the others in lower case; words are what blanks
/// separate.
fn initcap(args: &[Argument]) -> Resolution {
    strict(Text, fits(args, &[Text])?, |a| {
        let mut out = String::new();
        let mut at_start = true;
        for c in text(&mut a[0]).chars() {
            if at_start {
                out.extend(c.to_uppercase());
            } else {
                out.extend(c.to_lowercase());
            }
            at_start = c.is_whitespace();
        }
        Ok(Value::text(out))
    })
}

/// Position of a text within another, 0 where it is not. A negative start counts from the end and
/// searches backwards; the last argument says which occurrence.
fn instr(args: &[Argument]) -> Resolution {
    if !(2..=4).contains(&args.len()) {
        return Err(Mismatch::Types);
    }
    strict(Int, fits(args, &[Text, Text, Int, Int][..args.len()])?, |a| {
        let (whole, part) = (text(&mut a[0]), text(&mut a[1]));
        let letters: Vec<char> = whole.chars().collect();
        let wanted: Vec<char> = part.chars().collect();
        let position = a.get(2).map_or(1, long);
        let occurrence = a.get(3).map_or(1, long);
        if occurrence < 1 || wanted.len() > letters.len() || position == 0 {
            return Ok(Value::Long(0));
        }
        let is_here = |at: &usize| letters[*at..].starts_with(&wanted);
        let places = 0..=letters.len() - wanted.len();
        let nth = usize::try_from(occurrence - 1).unwrap_or(usize::MAX);
        let found = if position > 0 {
            let from = usize::try_from(position - 1).unwrap_or(usize::MAX);
            places.skip(from).filter(is_here).nth(nth)
        } else {
            let last = letters.len() as i64 + position;
            places.rev().filter(|at| *at as i64 <= last).filter(is_here).nth(nth)
        };
        Ok(Value::Long(found.map_or(0, |at| at as i64 + 1)))
    })
}

fn lpad(args: &[Argument]) -> Resolution {
    strict(Text, fits(args, &[Text, Int, Text])?, |a| Ok(pad(a, true)))
}

fn rpad(args: &[Argument]) -> Resolution {
    strict(Text, fits(args, &[Text, Int, Text])?, |a| Ok(pad(a, false)))
}

/// Most characters of a padded text.
const MAX_PADDED: usize = 1 << 20;

fn pad<'a>(args: &mut [Value<'a>], left: bool) -> Value<'a> {
    let (whole, length, padding) = (text(&mut args[0]), long(&args[1]), text(&mut args[2]));
    let Ok(length) = usize::try_from(length) else { return Value::Null };
    if padding.is_empty() || length > MAX_PADDED {
        return Value::Null;
    }
    let present = whole.chars().count();
    if present >= length {
        return Value::Text(slice(whole, 0, length));
    }
    let filling: String = padding.chars().cycle().take(length - present).collect();
    Value::text(if left { format!("{filling}{whole}") } else { format!("{whole}{filling}") })
}

/// A pattern that is a literal is compiled once; another per record.
fn pattern(args: &[Argument], at: usize) -> Result<Option<Regex>, Mismatch> {
    let Some(Value::Text(pattern)) = args.get(at).and_then(|arg| arg.constant.as_ref()) else {
        return Ok(None);
    };
    Regex::new(pattern).map(Some).map_err(|e| {
        let why = e.to_string().lines().last().unwrap_or_default().to_owned();
        Mismatch::Constant(at, format!("no regular expression: {why}"))
    })
}

fn compiled<'r>(
    known: Option<&'r Regex>,
    text: &str,
) -> Result<Cow<'r, Regex>, crate::expr::EvalError> {
    match known {
        Some(regex) => Ok(Cow::Borrowed(regex)),
        None => Regex::new(text)
            .map(Cow::Owned)
            .map_err(|_| failed(format!("{text:?} is no regular expression"))),
    }
}

fn regexp_extract(args: &[Argument]) -> Resolution {
    let kinds = if args.len() == 2 { vec![Text, Text] } else { vec![Text, Text, Int] };
    let kinds = fits(args, &kinds)?;
    let known = pattern(args, 0)?;
    strict(Text, kinds, move |a| {
        let (pattern, whole) = (text(&mut a[0]), text(&mut a[1]));
        let regex = compiled(known.as_ref(), &pattern)?;
        let group = usize::try_from(a.get(2).map_or(0, long)).unwrap_or(usize::MAX);
        let found = regex.captures(&whole).and_then(|found| found.get(group));
        Ok(found.map_or(Value::Null, |m| Value::text(m.as_str().to_owned())))
    })
}

fn regexp_extract_all(args: &[Argument]) -> Resolution {
    let kinds = if args.len() == 2 { vec![Text, Text] } else { vec![Text, Text, Int] };
    let kinds = fits(args, &kinds)?;
    let known = pattern(args, 0)?;
    strict(Array(Box::new(Text)), kinds, move |a| {
        let (pattern, whole) = (text(&mut a[0]), text(&mut a[1]));
        let regex = compiled(known.as_ref(), &pattern)?;
        let group = usize::try_from(a.get(2).map_or(0, long)).unwrap_or(usize::MAX);
        if group >= regex.captures_len() {
            return Ok(Value::Null);
        }
        let of = |found: regex::Captures<'_>| {
            found.get(group).map_or(Value::Null, |m| Value::text(m.as_str().to_owned()))
        };
        Ok(Value::Array(regex.captures_iter(&whole).map(of).collect()))
    })
}

fn regexp_replace(args: &[Argument]) -> Resolution {
    let kinds = fits(args, &[Text, Text, Text])?;
    let known = pattern(args, 1)?;
    strict(Text, kinds, move |a| {
        let pattern = text(&mut a[1]);
        let regex = compiled(known.as_ref(), &pattern)?;
        let replaced = regex.replace_all(&text(&mut a[0]), &*text(&mut a[2])).into_owned();
        Ok(Value::text(replaced))
    })
}

/// The regular expression of a LIKE pattern: `%` any text, `_` any character.
///
/// # Errors
/// What is wrong with the pattern, to be put behind its name; nothing of it is in there.
pub(crate) fn like(pattern: &str, escape: Option<char>) -> Result<Regex, String> {
    let mut out = String::from("(?s)^");
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                let literal = chars.next().ok_or_else(|| {
                    format!("ends with its escape character {c:?}, which must stand before another")
                })?;
                out.push_str(&regex::escape(&literal.to_string()));
            }
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out.push('$');
    let too_large = |_| format!("is too large: {} characters", pattern.chars().count());
    Regex::new(&out).map_err(too_large)
}

/// The text of any value, for `ARRAY_JOIN`.
pub(super) fn shown(value: &Value<'_>, kind: &SqlType) -> String {
    if value.is_null() { "null".to_owned() } else { to_text(value, kind) }
}
