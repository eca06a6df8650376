//! The files of ksqlDB's test runner: `{"inputs": […]}` and `{"outputs": […]}`.

use super::Record;
use crate::json::Json;

/// A test file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

/// A record of an input file.
pub type Input = Record;

/// The records of an input file.
///
/// # Errors
/// [`FileError`] that names the record and the field.
pub fn read_inputs(text: &str) -> Result<Vec<Input>, FileError> {
    records(text, "inputs")
}

/// The records of an output file.
///
/// # Errors
/// [`FileError`] that names the record and the field.
pub fn read_outputs(text: &str) -> Result<Vec<Record>, FileError> {
    records(text, "outputs")
}

fn records(text: &str, list: &str) -> Result<Vec<Record>, FileError> {
    let json = Json::parse(text).map_err(|e| FileError(format!("no JSON: {e}")))?;
    let Some(Json::Array(items)) = json.field(list) else {
        let message = format!("expected an object with the list {list:?}: {{\"{list}\": [ … ]}}");
        return Err(FileError(message));
    };
    items.iter().enumerate().map(|(at, item)| Record::read(item, list, at)).collect()
}

impl Record {
    fn read(item: &Json, list: &str, at: usize) -> Result<Record, FileError> {
        let error = |what: &str| FileError(format!("{list}[{at}]: {what}"));
        let Json::Object(fields) = item else { return Err(error("is no object")) };
        const KNOWN: [&str; 7] =
            ["topic", "key", "value", "timestamp", "window", "headers", "comment"];
        for (name, _) in fields {
            if !KNOWN.contains(&name.as_str()) {
                let known = KNOWN.join(", ");
                return Err(error(&format!("unknown field {name:?}; known are {known}")));
            }
        }
        let topic = item.field("topic").and_then(Json::as_text);
        let topic = topic.ok_or_else(|| error("\"topic\" is missing"))?;
        let field = |name| item.field(name).cloned().unwrap_or_default();
        let timestamp = match field("timestamp") {
            Json::Null => 0,
            other => other
                .as_long()
                .ok_or_else(|| error("\"timestamp\" is no number of milliseconds"))?,
        };
        let window = match field("window") {
            Json::Null => None,
            window => {
                let bound = |name| window.field(name).and_then(Json::as_long);
                let session = window
                    .field("type")
                    .and_then(Json::as_text)
                    .is_some_and(|kind| kind.eq_ignore_ascii_case("session"));
                let bounds = bound("start").zip(bound("end"));
                let (start, end) =
                    bounds.ok_or_else(|| error("\"window\" has no start and end"))?;
                Some((start, end, session))
            }
        };
        let (key, value) = (field("key"), field("value"));
        Ok(Record { topic: topic.to_owned(), key, value, timestamp, window })
    }

    /// As an output file writes it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let number = |n: i64| Json::Number(n.to_string());
        let mut fields = vec![
            ("topic".to_owned(), Json::Text(self.topic.clone())),
            ("key".to_owned(), self.key.clone()),
            ("value".to_owned(), self.value.clone()),
            ("timestamp".to_owned(), number(self.timestamp)),
        ];
        if let Some((start, end, session)) = self.window {
            let kind = if session { "session" } else { "time" };
            let window = vec![
                ("start".to_owned(), number(start)),
                ("end".to_owned(), number(end)),
                ("type".to_owned(), Json::Text(kind.to_owned())),
            ];
            fields.push(("window".to_owned(), Json::Object(window)));
        }
        Json::Object(fields)
    }

    /// Whether it is what an output file expects: numbers by value.
    #[must_use]
    pub fn means(&self, expected: &Record) -> bool {
        self.to_json().means(&expected.to_json())
    }
}
