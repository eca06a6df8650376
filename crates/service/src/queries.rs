//! Where the text of the continuous queries comes from.

use crate::exit::Usage;
use std::path::Path;

/// Read where it exists and nobody names another file.
const STANDARD: &str = "config/queries.sql";

/// A SQL text and what it is called in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its file.
    pub name: String,
    /// The statements.
    pub sql: String,
}

/// The file at `path`; else `config/queries.sql` below the working folder, where it exists; else
/// what is built in.
///
/// # Errors
/// [`Usage`] when the file cannot be read.
pub fn text(path: Option<&Path>, built_in: &str) -> Result<Text, Usage> {
    let standard = Path::new(STANDARD);
    let Some(path) = path.or(standard.exists().then_some(standard)) else {
        return Ok(Text { name: format!("the built-in {STANDARD}"), sql: built_in.to_owned() });
    };
    let name = path.display().to_string();
    let sql = std::fs::read_to_string(path).map_err(|e| Usage(format!("{name}: {e}")))?;
    Ok(Text { name, sql })
}
