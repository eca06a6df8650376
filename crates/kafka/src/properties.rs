//! Java's client properties (`--kafka-config client.properties`), translated for librdkafka.
//! Unknown keys are refused: a misspelt security setting must not be ignored.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// Reads a properties file in Java's names.
///
/// # Errors
/// With file and line, for an unknown key, a key store that is no PEM file, or an unreadable
/// JAAS line.
pub fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {} (--kafka-config)", path.display()))?;
    let mut config = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let at = || format!("{}:{}", path.display(), number + 1);
        let Some((key, value)) = line.split_once('=') else {
            bail!("{}: expected key=value", at());
        };
        translate(key.trim(), value.trim(), &mut config).with_context(at)?;
    }
    Ok(config)
}

fn translate(key: &str, value: &str, config: &mut BTreeMap<String, String>) -> Result<()> {
    let mut set = |name: &str| {
        config.insert(name.to_owned(), value.to_owned());
    };
    match key {
        "bootstrap.servers" | "security.protocol" | "client.id" | "client.rack"
        | "ssl.key.password" => set(key),
        "sasl.mechanism" => set("sasl.mechanisms"),
        "ssl.truststore.location" => set("ssl.ca.location"),
        "ssl.keystore.location" => {
            set("ssl.certificate.location");
            set("ssl.key.location");
        }
        "ssl.truststore.type" | "ssl.keystore.type" => {
            if !value.eq_ignore_ascii_case("PEM") {
                bail!("{key}={value}: only PEM is supported; convert the store with openssl");
            }
        }
        "ssl.endpoint.identification.algorithm" => {
            set(key);
            if value.is_empty() {
                config.insert(key.to_owned(), "none".to_owned());
            }
        }
        "sasl.jaas.config" => {
            for name in ["username", "password"] {
                let found = jaas_option(value, name)
                    .with_context(|| format!("sasl.jaas.config has no {name}=\"…\""))?;
                config.insert(format!("sasl.{name}"), found);
            }
        }
        _ => bail!(
            "unknown key {key}; known are bootstrap.servers, security.protocol, sasl.mechanism, \
             sasl.jaas.config, ssl.truststore.*, ssl.keystore.* (PEM), ssl.key.password, \
             ssl.endpoint.identification.algorithm, client.id, client.rack"
        ),
    }
    Ok(())
}

/// The value of `name="…"` in a JAAS line, with `\"` and `\\` unescaped.
fn jaas_option(line: &str, name: &str) -> Option<String> {
    let start = line.find(&format!("{name}=\""))? + name.len() + 2;
    let mut value = String::new();
    let mut chars = line[start..].chars();
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(lines: &str) -> Result<BTreeMap<String, String>> {
        let mut config = BTreeMap::new();
        for line in lines.lines() {
            let (key, value) = line.split_once('=').context("line")?;
            translate(key, value, &mut config)?;
        }
        Ok(config)
    }

    #[test]
    fn javas_names_become_librdkafkas() {
        let config = translated(concat!(
            "security.protocol=SASL_SSL\n",
            "sasl.mechanism=SCRAM-SHA-512\n",
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required ",
            "username=\"sink\" password=\"a\\\"b\";\n",
            "ssl.truststore.type=PEM\nssl.truststore.location=/tls/ca.crt",
        ))
        .unwrap();
        assert_eq!(config["sasl.mechanisms"], "SCRAM-SHA-512");
        assert_eq!(config["sasl.username"], "sink");
        assert_eq!(config["sasl.password"], "a\"b");
        assert_eq!(config["ssl.ca.location"], "/tls/ca.crt");
    }

    #[test]
    fn unknown_keys_and_stores_are_refused() {
        assert!(translated("acks=1").unwrap_err().to_string().contains("unknown key acks"));
        assert!(translated("ssl.keystore.type=JKS").unwrap_err().to_string().contains("PEM"));
    }
}
