//! Schemas and their ids.
//!
//! Without a registry a schema's id is the first 31 bits of the SHA-256 of its full sorted JSON.
//! Avro's own canonical form is not used: it drops logicalType, precision, scale and defaults, so
//! that two schemas whose money differs by a factor of ten would share an id.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// A schema that the product ships, with its id.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The file's name without ending, for messages.
    pub name: &'static str,
    /// Id in the Confluent framing.
    pub id: u32,
    /// Full sorted JSON: what is hashed and published to `caudal_esquemas`.
    pub json: String,
}

/// The schemas under `crates/core/schemas/`.
#[derive(Debug, Clone)]
pub struct Schemas {
    /// [`crate::transaction::Transaction`].
    pub transaction: Schema,
    /// The same with `late_for`: values of `transacciones_validas`.
    pub valid: Schema,
    /// Rows of the query `ventas_gold`.
    pub ventas_gold: Schema,
    /// Rows of the query `alertas_fraude`.
    pub alertas_fraude: Schema,
}

impl Schemas {
    /// The shipped schemas. Hashes four short texts: do it once.
    ///
    /// # Panics
    /// Never: a test reads every shipped file.
    #[must_use]
    pub fn shipped() -> Schemas {
        let schema = |name, text| {
            parse(name, text).unwrap_or_else(|e| panic!("shipped schema {name} is not JSON: {e}"))
        };
        Schemas {
            transaction: schema("transaction", include_str!("../schemas/transaction.avsc")),
            valid: schema("transaccion_valida", include_str!("../schemas/transaccion_valida.avsc")),
            ventas_gold: schema("ventas_gold", include_str!("../schemas/ventas_gold.avsc")),
            alertas_fraude: schema(
                "alertas_fraude",
                include_str!("../schemas/alertas_fraude.avsc"),
            ),
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> [&Schema; 4] {
        [&self.transaction, &self.valid, &self.ventas_gold, &self.alertas_fraude]
    }
}

fn parse(name: &'static str, text: &str) -> Result<Schema, serde_json::Error> {
    let json = sorted_json(&serde_json::from_str(text)?);
    Ok(Schema { name, id: id_of(&json), json })
}

/// First 31 bits of the SHA-256 of the sorted JSON.
#[must_use]
pub fn id_of(sorted_json: &str) -> u32 {
    let digest = Sha256::digest(sorted_json.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) >> 1
}

/// JSON without blanks, keys of every object in byte order: one text per schema.
#[must_use]
pub fn sorted_json(value: &Value) -> String {
    let mut out = String::new();
    write_sorted(value, &mut out);
    out
}

fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(k, _)| k.as_str());
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_display(out, &Value::from(key.as_str()));
                out.push(':');
                write_sorted(item, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_sorted(item, out);
            }
            out.push(']');
        }
        scalar => push_display(out, scalar),
    }
}

fn push_display(out: &mut String, value: &Value) {
    // Writing to a String cannot fail.
    write!(out, "{value}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_fit_31_bits() {
        let schemas = Schemas::shipped();
        let mut ids: Vec<u32> = schemas.all().iter().map(|s| s.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);
        assert!(ids.iter().all(|id| *id < 1 << 31));
    }

    #[test]
    fn a_changed_scale_changes_the_id() {
        let schemas = Schemas::shipped();
        let changed = schemas.ventas_gold.json.replace("\"scale\":9", "\"scale\":8");
        assert_ne!(id_of(&changed), schemas.ventas_gold.id);
    }

    #[test]
    fn order_of_keys_does_not_matter() {
        let a: Value = serde_json::from_str(r#"{"b":1,"a":[{"d":null,"c":"x"}]}"#).unwrap();
        assert_eq!(sorted_json(&a), r#"{"a":[{"c":"x","d":null}],"b":1}"#);
    }
}
