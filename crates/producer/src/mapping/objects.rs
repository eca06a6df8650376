//! JSON objects as rows: the values at the paths that a mapping names.

use super::file::ColumnSpec;
use caudal_core::reject::{Reason, Rejection};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// Paths such as `payment.card.id` or `items.0.sku`. A field whose name is the whole path counts
/// before one that only begins it.
#[derive(Debug, Clone)]
pub struct Paths {
    names: Vec<String>,
    /// Every path with the position of its value in the row; of several, the first that has one.
    all: Vec<(String, usize)>,
}

/// A path that is looked for below some field, and where its value goes.
#[derive(Debug, Clone, Copy)]
struct Wanted<'p> {
    path: &'p str,
    found: usize,
}

impl Paths {
    /// The paths of those names, in the order of the row's values, and what `known` calls them too.
    #[must_use]
    pub fn new<'n>(
        names: impl IntoIterator<Item = &'n str>,
        known: &BTreeMap<String, ColumnSpec>,
    ) -> Paths {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let aliases =
            |name: &String| known.get(name).map(|k| k.aliases.clone()).unwrap_or_default();
        let paths = names.iter().enumerate().flat_map(|(slot, name)| {
            let own = std::iter::once(name.clone());
            own.chain(aliases(name)).map(move |path| (path, slot))
        });
        let all = paths.collect();
        Paths { names, all }
    }

    /// They are the names of the row's columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Writes the values of one object one after another to `fields`, each ending at its entry of
    /// `ends`: texts without quotes and escapes, numbers with the digits that they have, objects
    /// and lists as JSON; nothing for null and for what is not there.
    ///
    /// # Errors
    /// A rejection when the text is no JSON object, or has a field twice.
    pub fn read(
        &self,
        text: &[u8],
        fields: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> Result<(), Rejection> {
        let malformed = |what: &dyn fmt::Display| {
            Rejection::new(Reason::Malformed, format!("not a JSON object: {what}"))
        };
        let text = std::str::from_utf8(text).map_err(|e| malformed(&e))?;
        if !text.trim_start().starts_with('{') {
            return Err(malformed(&"it does not begin with a brace"));
        }
        let wanted: Vec<Wanted<'_>> = self
            .all
            .iter()
            .enumerate()
            .map(|(found, (path, _))| Wanted { path: path.as_str(), found })
            .collect();
        let mut values: Vec<Option<&RawValue>> = vec![None; self.all.len()];
        find(text, &wanted, &mut values).map_err(|e| malformed(&e))?;
        fields.clear();
        ends.clear();
        let mut row: Vec<Option<&RawValue>> = vec![None; self.names.len()];
        for ((_, slot), value) in self.all.iter().zip(values) {
            row[*slot] = row[*slot].or(value.filter(|value| value.get() != "null"));
        }
        for value in row {
            if let Some(value) = value {
                write(value.get(), fields);
            }
            ends.push(fields.len());
        }
        Ok(())
    }
}

fn find<'t>(
    text: &'t str,
    wanted: &[Wanted<'_>],
    values: &mut [Option<&'t RawValue>],
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Finder { wanted, values }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Looks through one object or list.
struct Finder<'w, 'p, 't> {
    wanted: &'w [Wanted<'p>],
    values: &'w mut [Option<&'t RawValue>],
}

impl<'t> Finder<'_, '_, 't> {
    /// Takes what a field of that name has; whether anything is wanted of it.
    fn take<E: Error>(&mut self, name: &str, value: &'t RawValue) -> Result<(), E> {
        let mut below = Vec::new();
        for wanted in self.wanted {
            if wanted.path == name {
                self.values[wanted.found] = Some(value);
            } else if let Some(path) =
                wanted.path.strip_prefix(name).and_then(|p| p.strip_prefix('.'))
                && self.values[wanted.found].is_none()
            {
                below.push(Wanted { path, found: wanted.found });
            }
        }
        if !below.is_empty() && value.get().starts_with(['{', '[']) {
            find(value.get(), &below, self.values).map_err(E::custom)?;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Finder<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Vec<String> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let begins = |w: &Wanted<'_>| {
                w.path
                    .strip_prefix(name.as_str())
                    .is_some_and(|p| p.is_empty() || p.starts_with('.'))
            };
            if !self.wanted.iter().any(begins) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if seen.contains(&name) {
                return Err(A::Error::custom(format_args!("field {name:?} appears twice")));
            }
            let value: &'de RawValue = map.next_value()?;
            self.take(&name, value)?;
            seen.push(name);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(value) = list.next_element::<&'de RawValue>()? {
            self.take(&index.to_string(), value)?;
            index += 1;
        }
        Ok(())
    }
}

fn write(json: &str, out: &mut Vec<u8>) {
    match serde_json::from_str::<String>(json) {
        Ok(text) if json.starts_with('"') => out.extend_from_slice(text.as_bytes()),
        _ => out.extend_from_slice(json.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(paths: &[&str], text: &str) -> Result<Vec<String>, String> {
        let aliases = vec!["uid".to_owned(), "user.id".to_owned()];
        let known = BTreeMap::from([("id".into(), ColumnSpec { aliases, optional: false })]);
        let paths = Paths::new(paths.iter().copied(), &known);
        let (mut fields, mut ends) = (Vec::new(), Vec::new());
        paths.read(text.as_bytes(), &mut fields, &mut ends).map_err(|r| r.message)?;
        let text = String::from_utf8(fields).unwrap();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        Ok(starts.zip(&ends).map(|(start, end)| text[start..*end].to_owned()).collect())
    }

    #[test]
    fn values_are_found_at_their_paths() {
        let text = r#"{"id":1234567890123456789,"a":{"b":"x\ny","c":[10.50,{"d":true}]},"e":null,
            "a.b":"whole","big":[1,2]}"#;
        let found = read(&["id", "a.b", "a.c.0", "a.c.1.d", "e", "f.g", "big"], text).unwrap();
        assert_eq!(found, ["1234567890123456789", "whole", "10.50", "true", "", "", "[1,2]"]);
        assert_eq!(read(&["a.b"], r#"{"a":{"b":"x\ny"}}"#).unwrap(), ["x\ny"]);
        assert_eq!(read(&["id"], r#"{"user":{"id":7},"uid":null}"#).unwrap(), ["7"]);
        assert_eq!(read(&["a", "a.b"], r#"{"a":{"b":1}}"#).unwrap(), [r#"{"b":1}"#, "1"]);
    }

    #[test]
    fn what_is_no_object_is_malformed() {
        for text in [
            "",
            "[1]",
            "7",
            "{\"a\":}",
            "{\"a\":1} x",
            "{\"a\":1,\"a\":2}",
            "{\"a\":{\"b\":1,\"b\":2}}",
        ] {
            assert!(read(&["a.b", "a"], text).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(read(&["a.0.0"], &deep).is_err());
    }
}
