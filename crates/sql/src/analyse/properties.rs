//! `WITH (…)`.

use crate::ast::Property;
use crate::catalog::Format;
use crate::fault::Fault;

/// Known properties. PARTITIONS and REPLICAS of an existing topic are what they are;
/// `caudal topics` reads those of a query's output.
const KNOWN: [&str; 16] = [
    "KAFKA_TOPIC",
    "VALUE_FORMAT",
    "KEY_FORMAT",
    "FORMAT",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "PARTITIONS",
    "REPLICAS",
    "RETENTION_MS",
    "CLEANUP_POLICY",
    "VALUE_DELIMITER",
    "KEY_DELIMITER",
    "WRAP_SINGLE_VALUE",
    "WINDOW_TYPE",
    "WINDOW_SIZE",
    "IDLE_TIMEOUT",
];

/// Properties of ksqlDB's that caudal does not have.
const UNSUPPORTED: [&str; 8] = [
    "VALUE_AVRO_SCHEMA_FULL_NAME",
    "VALUE_SCHEMA_ID",
    "KEY_SCHEMA_ID",
    "VALUE_SCHEMA_FULL_NAME",
    "KEY_SCHEMA_FULL_NAME",
    "VALUE_PROTOBUF_NULLABLE_REPRESENTATION",
    "KEY_PROTOBUF_NULLABLE_REPRESENTATION",
    "SOURCED_BY_CONNECTOR",
];

/// Half of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl Part {
    /// The property that names its format.
    pub fn format(self) -> &'static str {
        match self {
            Part::Key => "KEY_FORMAT",
            Part::Value => "VALUE_FORMAT",
        }
    }

    fn delimiter(self) -> &'static str {
        match self {
            Part::Key => "KEY_DELIMITER",
            Part::Value => "VALUE_DELIMITER",
        }
    }
}

/// The properties of a statement.
pub(super) struct Properties<'s> {
    all: &'s [Property],
    /// Whether a name is unknown: perhaps the one that is missing.
    pub misspelt: bool,
}

impl<'s> Properties<'s> {
    /// Checks the names.
    pub fn read(with: &'s [Property], faults: &mut Vec<Fault>) -> Properties<'s> {
        let mut misspelt = false;
        for (at, property) in with.iter().enumerate() {
            let name = &property.name;
            if with[..at].iter().any(|other| other.name.text == name.text) {
                faults.push(Fault::new(name.span, format!("{} is stated twice", name.text)));
            } else if UNSUPPORTED.contains(&name.text.as_str()) {
                let message = format!("ksqlDB's property {} is not supported", name.text);
                let help = "list the columns; schemas come from them";
                faults.push(Fault::new(name.span, message).help(help));
            } else if !KNOWN.contains(&name.text.as_str()) {
                misspelt = true;
                let fault = Fault::new(name.span, format!("unknown property {}", name.text));
                faults.push(fault.nearest(&name.text, KNOWN));
            }
        }
        Properties { all: with, misspelt }
    }

    /// A property by upper-case name.
    pub fn get(&self, name: &str) -> Option<&'s Property> {
        self.all.iter().find(|property| property.name.text == name)
    }

    /// Its value.
    pub fn text(&self, name: &str) -> Option<&'s str> {
        self.get(name).map(|property| property.value.as_str())
    }

    /// The format that is stated for the key or the value, be it by FORMAT for both.
    pub fn format(&self, part: Part, faults: &mut Vec<Fault>) -> Option<Format> {
        const FORMATS: [&str; 5] = ["AVRO", "JSON", "DELIMITED", "KAFKA", "NONE"];
        let property = self.get(part.format()).or_else(|| self.get("FORMAT"))?;
        let upper = property.value.to_uppercase();
        match upper.as_str() {
            "AVRO" => Some(Format::Avro),
            "JSON" => Some(Format::Json),
            "KAFKA" => Some(Format::Kafka),
            "NONE" => Some(Format::None),
            "DELIMITED" => Some(Format::Delimited(self.delimiter(part.delimiter(), faults))),
            // FORMAT is read twice.
            _ if faults.iter().any(|fault| fault.span == property.span) => None,
            "PROTOBUF" | "PROTOBUF_NOSR" | "JSON_SR" => {
                let message = format!("ksqlDB's format {upper} is not supported");
                faults.push(Fault::new(property.span, message).help("AVRO, JSON or DELIMITED"));
                None
            }
            _ => {
                let fault = Fault::new(property.span, format!("unknown format {}", property.value));
                faults.push(fault.nearest(&upper, FORMATS));
                None
            }
        }
    }

    /// `WRAP_SINGLE_VALUE`: whether a value of one column is an object with one field.
    pub fn wrapped(&self, format: Format, values: usize, faults: &mut Vec<Fault>) -> bool {
        let Some(property) = self.get("WRAP_SINGLE_VALUE") else { return true };
        let wrapped = !property.value.eq_ignore_ascii_case("false");
        let bare = match format {
            Format::Delimited(_) => Some("DELIMITED"),
            Format::Kafka => Some("KAFKA"),
            _ => None,
        };
        let (message, help) = match bare {
            Some(word) if wrapped => {
                (format!("a value in {word} has no fields: nothing wraps it"), "leave it out")
            }
            _ if values != 1 => (
                format!("WRAP_SINGLE_VALUE is about values of one column; here are {values}"),
                "leave it out",
            ),
            _ => return wrapped,
        };
        faults.push(Fault::new(property.span, message).help(help));
        wrapped
    }

    /// An inherited format with the delimiter that is stated.
    pub fn with_delimiter(&self, format: Format, faults: &mut Vec<Fault>) -> Format {
        match format {
            Format::Delimited(_) if self.get("VALUE_DELIMITER").is_some() => {
                Format::Delimited(self.delimiter("VALUE_DELIMITER", faults))
            }
            other => other,
        }
    }

    fn delimiter(&self, name: &str, faults: &mut Vec<Fault>) -> char {
        let Some(property) = self.get(name) else { return ',' };
        let mut chars = property.value.chars();
        match (property.value.as_str(), chars.next(), chars.next()) {
            ("SPACE", ..) => ' ',
            ("TAB", ..) => '\t',
            (_, Some(one), None) => one,
            _ => {
                let message = format!("'{}' is not one character", property.value);
                faults.push(Fault::new(property.span, message).help("one character, SPACE or TAB"));
                ','
            }
        }
    }
}
