//! The mapping file as it is written: TOML, every unknown key refused. docs/mapping.md shows each
//! key with an example.

use super::written::{Delimiter, Names};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A mapping file. With `format = "ndjson"` and no field table, objects are named as a
/// Transaction's fields; with field tables, `column` is a path such as `payment.card.id`.
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
    /// How values of NDJSON are read.
    #[serde(default)]
    pub json: Json,
    /// Columns by the name that this file uses for them: other names, and whether they may be
    /// absent.
    #[serde(default)]
    pub columns: BTreeMap<String, ColumnSpec>,
    /// What becomes of columns that nothing names.
    #[serde(default)]
    pub other_columns: OtherColumns,
    /// Records that are left out and counted: the first rule that fits.
    #[serde(default)]
    pub skip: Vec<SkipRule>,
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
    /// Files that differ: the first whose name fits.
    #[serde(default)]
    pub files: Vec<FileSpec>,
}

/// What is different in some files. A table given here takes the place of the whole table of that
/// name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// File name, with `*` for any text and `?` for one character.
    pub name: String,
    /// As above.
    pub csv: Option<Csv>,
    /// As above.
    pub json: Option<Json>,
    /// As above.
    pub skip: Option<Vec<SkipRule>>,
    /// As above.
    pub transaction_id: Option<IdSpec>,
    /// As above.
    pub account_id: Option<TextSpec>,
    /// As above.
    pub merchant_id: Option<TextSpec>,
    /// As above.
    pub amount: Option<AmountSpec>,
    /// As above.
    pub currency: Option<TextSpec>,
    /// As above.
    pub kind: Option<KindSpec>,
    /// As above.
    pub country: Option<CountrySpec>,
    /// As above.
    pub event_time: Option<EventTimeSpec>,
    /// As above.
    pub description: Option<TextSpec>,
    /// As above.
    pub attributes: Option<BTreeMap<String, TextSpec>>,
}

impl MappingFile {
    /// The mapping of the files that a [`FileSpec`] speaks of.
    #[must_use]
    pub fn with(&self, file: &FileSpec) -> MappingFile {
        fn or<T: Clone>(own: &Option<T>, general: &Option<T>) -> Option<T> {
            own.clone().or_else(|| general.clone())
        }
        MappingFile {
            source: self.source.clone(),
            format: self.format,
            csv: file.csv.clone().unwrap_or_else(|| self.csv.clone()),
            json: file.json.clone().unwrap_or_else(|| self.json.clone()),
            columns: self.columns.clone(),
            other_columns: self.other_columns,
            skip: file.skip.clone().unwrap_or_else(|| self.skip.clone()),
            transaction_id: or(&file.transaction_id, &self.transaction_id),
            account_id: or(&file.account_id, &self.account_id),
            merchant_id: or(&file.merchant_id, &self.merchant_id),
            amount: or(&file.amount, &self.amount),
            currency: or(&file.currency, &self.currency),
            kind: or(&file.kind, &self.kind),
            country: or(&file.country, &self.country),
            event_time: or(&file.event_time, &self.event_time),
            description: or(&file.description, &self.description),
            attributes: or(&file.attributes, &self.attributes),
            files: Vec::new(),
        }
    }
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

/// How bytes become text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Encoding {
    /// UTF-8; a record that is not becomes a dead letter.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// Windows-1252, which contains ISO 8859-1.
    #[serde(rename = "windows-1252")]
    Windows1252,
    /// Record by record: UTF-8 where it is that, else Windows-1252.
    #[serde(rename = "auto")]
    Auto,
}

/// How CSV is written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Csv {
    /// Between fields: one ASCII character, or `auto`, which takes the one of comma, semicolon,
    /// tab and bar that the first line has most of.
    pub delimiter: Delimiter,
    /// Around fields that contain delimiters or line ends; one ASCII character.
    pub quote: char,
    /// Whether `quote` means anything; false where it is a character like any other.
    pub quoting: bool,
    /// How bytes become text.
    pub encoding: Encoding,
    /// Lines before the header, or before the first record, that are passed over.
    pub skip_lines: u32,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Names of the columns where there is no header.
    pub columns: Vec<String>,
    /// Whether blanks around a value are cut off.
    pub trim: bool,
    /// Values that mean "no value", beside the empty one.
    pub null: Vec<String>,
    /// Whether a record may end early: what is missing is then empty.
    pub ragged: bool,
}

impl Default for Csv {
    fn default() -> Self {
        Csv {
            delimiter: Delimiter::Is(b','),
            quote: '"',
            quoting: true,
            encoding: Encoding::Utf8,
            skip_lines: 0,
            header: true,
            columns: Vec::new(),
            trim: true,
            null: Vec::new(),
            ragged: false,
        }
    }
}

/// How values of NDJSON are read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Json {
    /// Whether blanks around a value are cut off.
    pub trim: bool,
    /// Values that mean "no value", beside the empty text and null.
    pub null: Vec<String>,
}

impl Default for Json {
    fn default() -> Self {
        Json { trim: true, null: Vec::new() }
    }
}

/// A column that is named differently, or absent, in some files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnSpec {
    /// Its other names.
    pub aliases: Vec<String>,
    /// Whether a file may lack it: every value is then empty.
    pub optional: bool,
}

/// What becomes of columns that nothing names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherColumns {
    /// Nothing; their names are logged once a file.
    #[default]
    Drop,
    /// They become attributes by their own names. CSV only.
    Attributes,
}

/// Where a text comes from, exactly one of the first four, and what is done with it, in the order
/// of the keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// A column.
    pub column: Option<String>,
    /// The first of these columns that has a value.
    pub first_of: Option<Vec<String>>,
    /// The same text for every line.
    pub constant: Option<String>,
    /// A text with columns in braces: `{Branch}-{Account}`.
    pub template: Option<String>,
    /// Cut off at the beginning, where it is there.
    pub strip_prefix: Option<String>,
    /// Cut off at the end, where it is there.
    pub strip_suffix: Option<String>,
    /// The source's own words → what is sent; other values stay.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// `upper` or `lower`.
    pub case: Option<Case>,
    /// Template to use where the value is empty: `anon-{InvoiceNo}`, or plainly `GBP`.
    pub if_empty: Option<String>,
    /// Show only so many characters of its end, and a star for each before them.
    pub mask_but: Option<usize>,
    /// Longest value in characters; the rest is cut off.
    pub max_length: Option<usize>,
}

/// Letters that a text is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// Upper case.
    Upper,
    /// Lower case.
    Lower,
}

/// Identity of a line: exactly one of the first four.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdSpec {
    /// A column.
    pub column: Option<String>,
    /// A text with columns in braces.
    pub template: Option<String>,
    /// `<value>-<ordinal>`: the ordinal of the line among those of the file with the same value in
    /// this column (or these columns), from 1. For data without an identity of its own.
    pub ordinal_of: Option<Names>,
    /// `<file>:<line>`, when true.
    #[serde(default)]
    pub file_and_line: bool,
    /// Whether the first 32 hex digits of the SHA-256 of the value stand for it: for values that
    /// are longer than an id may be, or that nobody should read.
    #[serde(default)]
    pub digest: bool,
    /// Before it, so that two sources never share an id.
    #[serde(default)]
    pub prefix: String,
}

/// An exact amount: exactly one of `column`, `product` and `positive` with `negative`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmountSpec {
    /// A column with a decimal number.
    pub column: Option<String>,
    /// Two columns whose exact product is the amount.
    pub product: Option<[String; 2]>,
    /// A column of amounts that count as they are, empty where `negative` has one.
    pub positive: Option<String>,
    /// A column of amounts that count with the other sign.
    pub negative: Option<String>,
    /// Decimal separator; `.` unless said.
    pub decimal: Option<char>,
    /// Characters that may stand between groups of digits; none unless said.
    #[serde(default)]
    pub thousands: String,
    /// Texts around the number that mean nothing, such as `€` or `CR`.
    #[serde(default)]
    pub symbols: Vec<String>,
    /// Texts around the number that make it negative, such as `DR`.
    #[serde(default)]
    pub negative_marks: Vec<String>,
    /// The number counts units of 10 to the power of minus this: 2 for cents.
    pub implied_decimals: Option<u8>,
    /// When true, the number counts the currency's minor unit by ISO 4217: cents, but whole yen.
    #[serde(default)]
    pub minor_units: bool,
    /// A column whose words say the sign.
    pub sign: Option<SignSpec>,
    /// Whether the sign is turned round at the end.
    #[serde(default)]
    pub negate: bool,
    /// Most decimal places (0 to 9). It may exceed ISO 4217's for the currency; a line that needs
    /// more is a dead letter: nothing is rounded. Without it ISO 4217 decides.
    pub scale: Option<u8>,
}

/// A column whose words say the sign. A word that is in neither list is a dead letter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignSpec {
    /// The column.
    pub column: String,
    /// Words that leave the number as it is; `""` for no word.
    #[serde(default)]
    pub positive: Vec<String>,
    /// Words that turn its sign round.
    #[serde(default)]
    pub negative: Vec<String>,
}

/// Kind: exactly one of a column, the sign, and rules of which the first that fits counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindSpec {
    /// A column with PURCHASE, REFUND or ADJUSTMENT, or what `values` translates.
    pub column: Option<String>,
    /// The column's own words → PURCHASE, REFUND or ADJUSTMENT.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// When true: above zero PURCHASE, below REFUND, zero ADJUSTMENT.
    #[serde(default)]
    pub by_sign: bool,
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
    /// The column that one of the next six looks at.
    pub column: Option<String>,
    /// The column begins with this.
    pub prefix: Option<String>,
    /// The column ends with this.
    pub suffix: Option<String>,
    /// The column contains this.
    pub contains: Option<String>,
    /// The column is this.
    pub equals: Option<String>,
    /// The column is one of these.
    pub any_of: Option<Vec<String>>,
    /// The column has no value (true), or has one (false).
    pub empty: Option<bool>,
    /// Whether the column must not be so.
    #[serde(default)]
    pub not: bool,
    /// Sign of the amount.
    pub sign: Option<Sign>,
}

/// A record that is left out: `blank = true`, or a column and one condition.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipRule {
    /// When true: no column has a value.
    #[serde(default)]
    pub blank: bool,
    /// The column that one of the next six looks at.
    pub column: Option<String>,
    /// The column begins with this.
    pub prefix: Option<String>,
    /// The column ends with this.
    pub suffix: Option<String>,
    /// The column contains this.
    pub contains: Option<String>,
    /// The column is this.
    pub equals: Option<String>,
    /// The column is one of these.
    pub any_of: Option<Vec<String>>,
    /// The column has no value (true), or has one (false).
    pub empty: Option<bool>,
    /// Whether the column must not be so.
    #[serde(default)]
    pub not: bool,
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

/// When it happened: a column, or several in a template.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTimeSpec {
    /// A column.
    pub column: Option<String>,
    /// Columns in braces: `{Date} {Time}`.
    pub template: Option<String>,
    /// strptime format such as `%Y-%m-%d %H:%M:%S`, or `rfc3339` (the default), `unix_seconds`,
    /// `unix_millis`, `unix_micros`, `unix_nanos`; of several, the first that fits counts.
    pub format: Option<Names>,
    /// IANA time zone of formats without an offset, such as `Europe/London`. Where clocks change,
    /// the offset before the change counts: of an hour that comes twice, its first coming; an hour
    /// that does not exist is read as if the clocks had not changed yet (RFC 5545).
    pub time_zone: Option<String>,
    /// Time of day of formats without one, `12:00:00`; midnight unless said.
    pub time_of_day: Option<String>,
    /// First of the hundred years that `%y` stands for; 1969 unless said.
    pub century_from: Option<i16>,
    /// The source's own names of the twelve months, where `%b` reads them.
    pub months: Option<Vec<String>>,
}
