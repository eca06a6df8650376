//! The mapping file as it is written: TOML, every unknown key refused.

use serde::Deserialize;
use std::collections::BTreeMap;

/// A mapping file. `format = "ndjson"` takes no field tables: its objects are named as
/// Transaction's fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappingFile {
    /// Name of the source: part of the progress key and of the `transactional.id`.
    pub source: String,
    /// Form of the input.
    pub format: Format,
    /// How CSV is written; the defaults are a comma, double quotes and a header line.
    #[serde(default)]
    pub csv: Csv,
    /// Identity of the line.
    pub transaction_id: Option<IdSpec>,
    /// The account.
    pub account_id: Option<TextSpec>,
    /// The merchant.
    pub merchant_id: Option<TextSpec>,
    /// The amount.
    pub amount: Option<AmountSpec>,
    /// ISO 4217 code.
    pub currency: Option<TextSpec>,
    /// Kind of movement.
    pub kind: Option<KindSpec>,
    /// Country.
    pub country: Option<CountrySpec>,
    /// When it happened.
    pub event_time: Option<EventTimeSpec>,
    /// Free text.
    pub description: Option<TextSpec>,
    /// Further texts by name.
    pub attributes: Option<BTreeMap<String, TextSpec>>,
}

/// Form of the input, before or after gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Records of fields between delimiters (RFC 4180).
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// How CSV is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Csv {
    /// Between fields; one ASCII character.
    pub delimiter: char,
    /// Around fields that contain delimiters or line ends; one ASCII character.
    pub quote: char,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Names of the columns where there is no header.
    pub columns: Vec<String>,
    /// Whether blanks around a value are cut off.
    pub trim: bool,
    /// Values that mean "no value", beside the empty one.
    pub null: Vec<String>,
}

impl Default for Csv {
    fn default() -> Self {
        Csv {
            delimiter: ',',
            quote: '"',
            header: true,
            columns: Vec::new(),
            trim: true,
            null: Vec::new(),
        }
    }
}

/// Where a text comes from: exactly one of `column`, `constant` and `template`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// A column.
    pub column: Option<String>,
    /// The same text for every line.
    pub constant: Option<String>,
    /// A text with columns in braces: `{Branch}-{Account}`.
    pub template: Option<String>,
    /// Cut off at the end, where it is there.
    pub strip_suffix: Option<String>,
    /// Template to use where the value is empty: `anon-{InvoiceNo}`.
    pub if_empty: Option<String>,
}

/// Identity of a line: exactly one of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdSpec {
    /// A column.
    pub column: Option<String>,
    /// A text with columns in braces.
    pub template: Option<String>,
    /// `<value>-<ordinal>`: the ordinal of the line among those of the file with the same value in
    /// this column, from 1. For data without an identity of its own.
    pub ordinal_of: Option<String>,
    /// `<file>:<line>`, when true.
    #[serde(default)]
    pub file_and_line: bool,
}

/// An exact amount: a column, or the product of two.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmountSpec {
    /// A column with a decimal number.
    pub column: Option<String>,
    /// Two columns whose exact product is the amount.
    pub product: Option<[String; 2]>,
    /// Most decimal places (0 to 9). It may exceed ISO 4217's for the currency; a line that needs
    /// more is a dead letter: nothing is rounded. Without it ISO 4217 decides.
    pub scale: Option<u8>,
}

/// Kind: a column, or rules of which the first that fits counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindSpec {
    /// A column with PURCHASE, REFUND or ADJUSTMENT, or what `values` translates.
    pub column: Option<String>,
    /// The column's own words → PURCHASE, REFUND or ADJUSTMENT.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Ordered rules.
    #[serde(default)]
    pub rules: Vec<KindRule>,
}

/// Fits when each of its conditions does; without conditions, always.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindRule {
    /// PURCHASE, REFUND or ADJUSTMENT.
    pub is: String,
    /// The column that `prefix` or `equals` looks at.
    pub column: Option<String>,
    /// The column begins with this.
    pub prefix: Option<String>,
    /// The column is this.
    pub equals: Option<String>,
    /// Sign of the amount.
    pub sign: Option<Sign>,
}

/// Sign of an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// Above zero.
    Positive,
    /// Zero.
    Zero,
    /// Below zero.
    Negative,
}

/// Country: codes pass, names are translated, anything else goes to `attributes.country`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountrySpec {
    /// A column.
    pub column: Option<String>,
    /// The same code for every line.
    pub constant: Option<String>,
    /// The source's own names → ISO 3166-1 alpha-2.
    #[serde(default)]
    pub codes: BTreeMap<String, String>,
}

/// When it happened.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTimeSpec {
    /// A column.
    pub column: String,
    /// strptime format such as `%Y-%m-%d %H:%M:%S`, or `rfc3339`, `unix_seconds`, `unix_millis`.
    #[serde(default = "rfc3339")]
    pub format: String,
    /// IANA time zone of formats without an offset, such as `Europe/London`. Where clocks change,
    /// the offset before the change counts: of an hour that comes twice, its first coming; an hour
    /// that does not exist is read as if the clocks had not changed yet (RFC 5545).
    pub time_zone: Option<String>,
}

fn rfc3339() -> String {
    "rfc3339".into()
}
