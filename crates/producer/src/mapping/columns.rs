//! All fields together: from a row to a transaction.

use super::amount::BoundAmount;
use super::condition::{Condition, Question};
use super::event_time::BoundEventTime;
use super::fields::Fields;
use super::file::{OtherColumns, TextSpec};
use super::identity::BoundId;
use super::kind::BoundKind;
use super::row::{Header, Row};
use super::text::BoundText;
use anyhow::Result;
use caudal_core::money::Currency;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::{MAX_ATTRIBUTES, is_country, validate};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Where a record stands: what becomes of its identity and coordinates.
#[derive(Debug, Clone, Copy)]
pub struct LineAt<'a> {
    /// `<source>/<file>`.
    pub source: &'a str,
    /// The file's name.
    pub file: &'a str,
    /// Line at which the record begins, from 1.
    pub line: u64,
}

/// What a mapping makes of a record.
#[derive(Debug)]
pub enum Mapped<'r> {
    /// A transaction; validated, except against a clock.
    Transaction(Box<Transaction<'r>>),
    /// It is left out, by a rule of the mapping.
    Skipped,
}

/// A mapping bound to the columns of one input. It counts ordinals, so it must see every record of
/// the input from the first on, each exactly once: through [`ColumnMapper::map`], or through
/// [`ColumnMapper::pass`] for those that an earlier run has sent.
#[derive(Debug, Clone)]
pub struct ColumnMapper {
    columns: usize,
    ragged: bool,
    skip: Vec<Option<Condition>>,
    id: BoundId,
    account_id: BoundText,
    merchant_id: BoundText,
    amount: BoundAmount,
    currency: BoundText,
    kind: BoundKind,
    country: Option<(usize, BTreeMap<String, String>)>,
    country_constant: Option<String>,
    event_time: BoundEventTime,
    description: Option<BoundText>,
    attributes: Vec<(String, BoundText)>,
    /// Columns that nothing names, where they become attributes.
    others: Columns,
    /// The same, where they become nothing.
    dropped: Vec<String>,
}

impl ColumnMapper {
    /// Finds every column that the mapping names. `ragged` says that a record may end early.
    ///
    /// # Errors
    /// `Usage` that lists the columns when one is missing.
    pub fn bind(fields: &Fields, header: &Header, ragged: bool) -> Result<ColumnMapper> {
        let header = header.clone().with(&fields.columns);
        let text = |spec: &TextSpec| BoundText::bind(spec, &header);
        let country = fields.country.column.as_deref();
        let country = country
            .map(|name| Ok::<_, anyhow::Error>((header.find(name)?, fields.country.codes.clone())));
        let attributes = fields.attributes.iter().map(|(n, spec)| Ok((n.clone(), text(spec)?)));
        // Of a rule without a column nothing is asked but whether the record is blank.
        let skip = fields.skip.iter().map(|rule| Question::from(rule).bind(&header));
        let (others, dropped) = unnamed(fields, &header)?;
        Ok(ColumnMapper {
            columns: header.len(),
            ragged,
            skip: skip.collect::<Result<_>>()?,
            id: BoundId::bind(&fields.id, &header)?,
            account_id: text(&fields.account_id)?,
            merchant_id: text(&fields.merchant_id)?,
            amount: BoundAmount::bind(&fields.amount, &header)?,
            currency: text(&fields.currency)?,
            kind: BoundKind::bind(&fields.kind, &header)?,
            country: country.transpose()?,
            country_constant: fields.country.constant.clone(),
            event_time: BoundEventTime::bind(&fields.event_time, fields.times.clone(), &header)?,
            description: fields.description.as_ref().map(text).transpose()?,
            attributes: attributes.collect::<Result<_>>()?,
            others,
            dropped,
        })
    }

    /// Names of the columns that become nothing.
    #[must_use]
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// Counts a record that was sent before.
    pub fn pass(&mut self, row: Option<&Row<'_>>) {
        if let Some(row) = row
            && self.has_right_length(row)
            && !self.is_skipped(row)
        {
            self.id.count(row);
        }
    }

    /// What a record has beyond the columns may only be empty: a delimiter at the end of each line.
    fn has_right_length(&self, row: &Row<'_>) -> bool {
        (row.len() >= self.columns || self.ragged)
            && (self.columns..row.len()).all(|at| row.text(at).is_empty())
    }

    fn is_skipped(&self, row: &Row<'_>) -> bool {
        self.skip.iter().any(|rule| match rule {
            Some(condition) => condition.fits(row),
            None => row.is_blank(),
        })
    }

    /// Maps a record; `None` stands for one whose values are not UTF-8.
    ///
    /// # Errors
    /// A rejection that names the column and carries the money where it is known.
    pub fn map<'r>(
        &mut self,
        row: Option<&Row<'r>>,
        at: LineAt<'r>,
    ) -> Result<Mapped<'r>, Rejection> {
        let row = row.ok_or_else(|| {
            let message = "the line is not UTF-8; csv.encoding = \"windows-1252\" or \"auto\"?";
            Rejection::new(Reason::Malformed, message)
        })?;
        if !self.has_right_length(row) {
            let message = format!("{} fields where {} are expected", row.len(), self.columns);
            return Err(Rejection::new(Reason::Mapping, message));
        }
        if self.is_skipped(row) {
            return Ok(Mapped::Skipped);
        }
        let ordinal = self.id.count(row);
        let code = self.currency.read(row);
        let known = Currency::parse(&code);
        let amount = self.amount.read(row, known)?;
        let currency = required("currency", code)?;
        let money = known.map(|known| (known, amount));
        let finish = || {
            let (country, foreign) = self.country(row);
            let transaction = Transaction {
                transaction_id: self.id.read(row, at, ordinal)?,
                source: Cow::Borrowed(at.source),
                source_seq: i64::try_from(at.line).unwrap_or(i64::MAX),
                account_id: required("account_id", self.account_id.read(row))?,
                merchant_id: required("merchant_id", self.merchant_id.read(row))?,
                amount,
                scale_declared: self.amount.declares_scale(),
                currency,
                kind: self.kind.read(row, amount)?,
                country,
                event_time: self.event_time.read(row)?,
                description: self
                    .description
                    .as_ref()
                    .map(|d| d.read(row))
                    .filter(|d| !d.is_empty()),
                attributes: self.attributes(row, foreign),
            };
            // The clock has no say here: the same file gives the same records on any day.
            Ok(Mapped::Transaction(Box::new(validate(transaction, i64::MAX)?.transaction)))
        };
        finish().map_err(|rejection: Rejection| Rejection { money, ..rejection })
    }

    /// The code, and the source's own text where there is none.
    fn country<'r>(&self, row: &Row<'r>) -> (Option<Cow<'r, str>>, Option<&'r str>) {
        if let Some(constant) = &self.country_constant {
            return (Some(Cow::Owned(constant.clone())), None);
        }
        let Some((at, codes)) = &self.country else { return (None, None) };
        match row.text(*at) {
            "" => (None, None),
            text => match codes.get(text) {
                Some(code) => (Some(Cow::Owned(code.clone())), None),
                None if is_country(text) => (Some(Cow::Borrowed(text)), None),
                None => (None, Some(text)),
            },
        }
    }

    fn attributes<'r>(
        &self,
        row: &Row<'r>,
        foreign_country: Option<&'r str>,
    ) -> Vec<(Cow<'r, str>, Cow<'r, str>)> {
        let declared =
            self.attributes.iter().map(|(n, text)| (Cow::Owned(n.clone()), text.read(row)));
        let others = self
            .others
            .iter()
            .map(|(at, name)| (Cow::Owned(name.clone()), Cow::Borrowed(row.text(*at))));
        let mut all: Vec<_> = declared.chain(others).filter(|(_, text)| !text.is_empty()).collect();
        all.extend(foreign_country.map(|text| (Cow::Borrowed("country"), Cow::Borrowed(text))));
        all.sort();
        all
    }
}

/// Positions and names of columns.
type Columns = Vec<(usize, String)>;

/// Columns that nothing names: those that become attributes, or the names of those that do not.
fn unnamed(fields: &Fields, header: &Header) -> Result<(Columns, Vec<String>)> {
    let taken = fields.named().into_iter().map(|name| header.find(name));
    let taken: Vec<usize> = taken.collect::<Result<_>>()?;
    let all = header.names().iter().cloned().enumerate();
    let left = all.filter(|(at, name)| !taken.contains(at) && !name.is_empty());
    if fields.other_columns == OtherColumns::Drop {
        return Ok((Vec::new(), left.map(|(_, name)| name).collect()));
    }
    // A name that an attribute has already, or that came before, would come twice.
    let mut names: Vec<&str> = fields.attributes.keys().map(String::as_str).collect();
    names.push("country");
    let mut kept = Columns::new();
    for (at, name) in left {
        let is_new = !names.contains(&name.as_str()) && kept.iter().all(|(_, n)| *n != name);
        let name = if is_new { name } else { format!("{name} ({})", at + 1) };
        kept.push((at, name));
    }
    let room = MAX_ATTRIBUTES.saturating_sub(names.len());
    if kept.len() > room {
        return Err(super::usage(format!(
            "other_columns = \"attributes\": {} columns that no field takes, and room for {room} \
             attributes; name those that matter in [attributes]",
            kept.len()
        )));
    }
    Ok((kept, Vec::new()))
}

fn required<'r>(field: &str, text: Cow<'r, str>) -> Result<Cow<'r, str>, Rejection> {
    if text.is_empty() {
        return Err(Rejection::new(Reason::MissingField, format!("{field} is empty")));
    }
    Ok(text)
}
