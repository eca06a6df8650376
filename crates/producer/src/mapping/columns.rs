//! All fields together: from a row to a transaction.

use super::amount::{self, BoundAmount};
use super::event_time::{self, BoundEventTime};
use super::file::{
    AmountSpec, CountrySpec, EventTimeSpec, IdSpec, KindSpec, MappingFile, TextSpec,
};
use super::kind::{self, BoundKind};
use super::row::{Header, Row};
use super::text::{self, BoundText, Template};
use super::usage;
use anyhow::Result;
use caudal_core::money::Currency;
use caudal_core::reject::{Reason, Rejection};
use caudal_core::transaction::Transaction;
use caudal_core::validate::{is_country, validate};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// The checked field tables of a mapping.
#[derive(Debug, Clone)]
pub struct Fields {
    id: IdSpec,
    account_id: TextSpec,
    merchant_id: TextSpec,
    amount: AmountSpec,
    currency: TextSpec,
    kind: KindSpec,
    country: CountrySpec,
    event_time: EventTimeSpec,
    form: event_time::Form,
    description: Option<TextSpec>,
    attributes: BTreeMap<String, TextSpec>,
}

fn need<T: Clone>(field: &str, spec: &Option<T>) -> Result<T> {
    spec.clone().ok_or_else(|| usage(format!("[{field}] is missing: CSV needs to know its column")))
}

impl Fields {
    /// Takes the field tables of a CSV mapping.
    ///
    /// # Errors
    /// `Usage` that names the table that is missing or contradicts itself.
    pub fn check(file: &MappingFile) -> Result<Fields> {
        let event_time = need("event_time", &file.event_time)?;
        let fields = Fields {
            id: need("transaction_id", &file.transaction_id)?,
            account_id: need("account_id", &file.account_id)?,
            merchant_id: need("merchant_id", &file.merchant_id)?,
            amount: need("amount", &file.amount)?,
            currency: need("currency", &file.currency)?,
            kind: need("kind", &file.kind)?,
            country: file.country.clone().unwrap_or_default(),
            form: event_time::check(&event_time)?,
            event_time,
            description: file.description.clone(),
            attributes: file.attributes.clone().unwrap_or_default(),
        };
        check_id(&fields.id)?;
        text::check("account_id", &fields.account_id)?;
        text::check("merchant_id", &fields.merchant_id)?;
        text::check("currency", &fields.currency)?;
        fields.description.iter().try_for_each(|d| text::check("description", d))?;
        let attributes = fields.attributes.iter();
        attributes.into_iter().try_for_each(|(n, t)| text::check(&format!("attributes.{n}"), t))?;
        amount::check(&fields.amount)?;
        kind::check(&fields.kind)?;
        check_country(&fields.country)?;
        Ok(fields)
    }

    /// Refuses field tables in an NDJSON mapping.
    ///
    /// # Errors
    /// `Usage` that names the first one given.
    pub fn refuse(file: &MappingFile) -> Result<()> {
        let given = [
            ("transaction_id", file.transaction_id.is_some()),
            ("account_id", file.account_id.is_some()),
            ("merchant_id", file.merchant_id.is_some()),
            ("amount", file.amount.is_some()),
            ("currency", file.currency.is_some()),
            ("kind", file.kind.is_some()),
            ("country", file.country.is_some()),
            ("event_time", file.event_time.is_some()),
            ("description", file.description.is_some()),
            ("attributes", file.attributes.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((name, _)) => Err(usage(format!(
                "[{name}]: format = \"ndjson\" takes no field tables; its objects name their \
                 fields as a Transaction does"
            ))),
        }
    }
}

fn check_id(spec: &IdSpec) -> Result<()> {
    let texts = [&spec.column, &spec.template, &spec.ordinal_of];
    let given = texts.into_iter().flatten().count() + usize::from(spec.file_and_line);
    if given == 1 {
        return Ok(());
    }
    Err(usage(
        "[transaction_id]: exactly one of column, template, ordinal_of and file_and_line is needed"
            .into(),
    ))
}

fn check_country(spec: &CountrySpec) -> Result<()> {
    if spec.column.is_some() && spec.constant.is_some() {
        return Err(usage("[country]: column or constant, not both".into()));
    }
    match spec.codes.values().chain(&spec.constant).find(|code| !is_country(code)) {
        None => Ok(()),
        Some(code) => Err(usage(format!("[country]: {code:?} is no ISO 3166-1 alpha-2 code"))),
    }
}

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

#[derive(Debug, Clone)]
enum BoundId {
    Column(usize, String),
    Template(Template),
    Ordinal { at: usize, name: String, seen: HashMap<Box<str>, u64> },
    FileAndLine,
}

/// A mapping bound to the columns of one input. It counts ordinals, so it must see every record of
/// the input from the first on, each exactly once: through [`ColumnMapper::map`], or through
/// [`ColumnMapper::pass`] for those that an earlier run has sent.
#[derive(Debug, Clone)]
pub struct ColumnMapper {
    columns: usize,
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
}

impl ColumnMapper {
    /// Finds every column that the mapping names.
    ///
    /// # Errors
    /// `Usage` that lists the columns when one is missing.
    pub fn bind(fields: &Fields, header: &Header) -> Result<ColumnMapper> {
        let text = |spec: &TextSpec| BoundText::bind(spec, header);
        let country = fields.country.column.as_deref();
        let country = country
            .map(|name| Ok::<_, anyhow::Error>((header.find(name)?, fields.country.codes.clone())));
        let attributes = fields.attributes.iter().map(|(n, spec)| Ok((n.clone(), text(spec)?)));
        Ok(ColumnMapper {
            columns: header.len(),
            id: bind_id(&fields.id, header)?,
            account_id: text(&fields.account_id)?,
            merchant_id: text(&fields.merchant_id)?,
            amount: BoundAmount::bind(&fields.amount, header)?,
            currency: text(&fields.currency)?,
            kind: BoundKind::bind(&fields.kind, header)?,
            country: country.transpose()?,
            country_constant: fields.country.constant.clone(),
            event_time: BoundEventTime::bind(&fields.event_time, fields.form.clone(), header)?,
            description: fields.description.as_ref().map(text).transpose()?,
            attributes: attributes.collect::<Result<_>>()?,
        })
    }

    /// Counts a record that was sent before.
    pub fn pass(&mut self, row: Option<&Row<'_>>) {
        if let Some(row) = row
            && row.len() == self.columns
        {
            self.count(row);
        }
    }

    /// The ordinal of the row, where the identity needs one.
    fn count(&mut self, row: &Row<'_>) -> u64 {
        let BoundId::Ordinal { at, seen, .. } = &mut self.id else { return 0 };
        let value = row.text(*at);
        if let Some(count) = seen.get_mut(value) {
            *count += 1;
            return *count;
        }
        seen.insert(value.into(), 1);
        1
    }

    /// Maps a record; `None` stands for one whose values are not UTF-8. The result is validated,
    /// except against a clock.
    ///
    /// # Errors
    /// A rejection that names the column and carries the money where it is known.
    pub fn map<'r>(
        &mut self,
        row: Option<&Row<'r>>,
        at: LineAt<'r>,
    ) -> Result<Transaction<'r>, Rejection> {
        let row = row.ok_or_else(|| Rejection::new(Reason::Malformed, "the line is not UTF-8"))?;
        if row.len() != self.columns {
            let message = format!("{} fields where {} are expected", row.len(), self.columns);
            return Err(Rejection::new(Reason::Mapping, message));
        }
        let ordinal = self.count(row);
        let amount = self.amount.read(row)?;
        let currency = required("currency", self.currency.read(row))?;
        let money = Currency::parse(&currency).map(|known| (known, amount));
        let finish = || {
            let (country, foreign) = self.country(row);
            let transaction = Transaction {
                transaction_id: self.id(row, at, ordinal)?,
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
            Ok(validate(transaction, i64::MAX)?.transaction)
        };
        finish().map_err(|rejection: Rejection| Rejection { money, ..rejection })
    }

    fn id<'r>(
        &self,
        row: &Row<'r>,
        at: LineAt<'_>,
        ordinal: u64,
    ) -> Result<Cow<'r, str>, Rejection> {
        let empty =
            |name: &str| Rejection::new(Reason::MissingField, format!("column {name} is empty"));
        match &self.id {
            BoundId::Column(at, name) => match row.text(*at) {
                "" => Err(empty(name)),
                text => Ok(Cow::Borrowed(text)),
            },
            BoundId::Template(template) => Ok(Cow::Owned(template.fill(row))),
            BoundId::Ordinal { at, name, .. } => match row.text(*at) {
                "" => Err(empty(name)),
                text => Ok(Cow::Owned(format!("{text}-{ordinal}"))),
            },
            BoundId::FileAndLine => Ok(Cow::Owned(format!("{}:{}", at.file, at.line))),
        }
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
        let mut all: Vec<_> = declared.filter(|(_, text)| !text.is_empty()).collect();
        all.extend(foreign_country.map(|text| (Cow::Borrowed("country"), Cow::Borrowed(text))));
        all.sort();
        all
    }
}

fn bind_id(spec: &IdSpec, header: &Header) -> Result<BoundId> {
    let column = |name: &String| Ok::<_, anyhow::Error>((header.find(name)?, name.clone()));
    Ok(match spec {
        IdSpec { column: Some(name), .. } => {
            let (at, name) = column(name)?;
            BoundId::Column(at, name)
        }
        IdSpec { template: Some(text), .. } => BoundId::Template(Template::bind(text, header)?),
        IdSpec { ordinal_of: Some(name), .. } => {
            let (at, name) = column(name)?;
            BoundId::Ordinal { at, name, seen: HashMap::new() }
        }
        _ => BoundId::FileAndLine,
    })
}

fn required<'r>(field: &str, text: Cow<'r, str>) -> Result<Cow<'r, str>, Rejection> {
    if text.is_empty() {
        return Err(Rejection::new(Reason::MissingField, format!("{field} is empty")));
    }
    Ok(text)
}
