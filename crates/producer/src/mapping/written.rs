//! Values of a mapping file that may be written in two ways.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// A name, or a list of them; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Names, E> {
                Ok(Names(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                if names.is_empty() {
                    return Err(A::Error::custom("the list is empty"));
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_any(NamesVisitor)
    }
}

/// What stands between fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimiter {
    /// This ASCII character.
    Is(u8),
    /// The one of [`Delimiter::KNOWN`] that the first line has most of.
    Auto,
}

impl Delimiter {
    /// What `auto` chooses from.
    pub const KNOWN: [u8; 4] = [b',', b';', b'\t', b'|'];

    /// The delimiter of a file whose first line is `line`: where several come equally often, the
    /// first of [`Delimiter::KNOWN`]; what stands in quotes does not count.
    #[must_use]
    pub fn of(self, line: &[u8], quote: u8) -> u8 {
        if let Delimiter::Is(byte) = self {
            return byte;
        }
        let mut counts = [0_usize; Delimiter::KNOWN.len()];
        let mut quoted = false;
        for byte in line {
            quoted ^= *byte == quote;
            let known = Delimiter::KNOWN.iter().position(|k| k == byte).filter(|_| !quoted);
            if let Some(at) = known {
                counts[at] += 1;
            }
        }
        let most = counts.iter().max().copied().unwrap_or(0);
        let at = counts.iter().position(|count| *count == most).unwrap_or(0);
        Delimiter::KNOWN[at]
    }
}

impl<'de> Deserialize<'de> for Delimiter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Delimiter, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_bytes() {
            b"auto" => Ok(Delimiter::Auto),
            [byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n') => Ok(Delimiter::Is(*byte)),
            _ => Err(D::Error::custom(format_args!(
                "delimiter {text:?}: one ASCII character such as \";\" or \"\\t\", or \"auto\""
            ))),
        }
    }
}
