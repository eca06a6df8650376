//! The field tables of a mapping, checked.

use super::condition::Question;
use super::file::{
    AmountSpec, ColumnSpec, CountrySpec, EventTimeSpec, Format, IdSpec, KindSpec, MappingFile,
    OtherColumns, SkipRule, TextSpec,
};
use super::{amount, event_time, identity, kind, text, usage};
use anyhow::Result;
use caudal_core::validate::is_country;
use std::collections::{BTreeMap, BTreeSet};

/// The checked field tables of a mapping.
#[derive(Debug, Clone)]
pub struct Fields {
    pub(super) id: IdSpec,
    pub(super) account_id: TextSpec,
    pub(super) merchant_id: TextSpec,
    pub(super) amount: AmountSpec,
    pub(super) currency: TextSpec,
    pub(super) kind: KindSpec,
    pub(super) country: CountrySpec,
    pub(super) event_time: EventTimeSpec,
    pub(super) times: event_time::Forms,
    pub(super) description: Option<TextSpec>,
    pub(super) attributes: BTreeMap<String, TextSpec>,
    pub(super) skip: Vec<SkipRule>,
    pub(super) columns: BTreeMap<String, ColumnSpec>,
    pub(super) other_columns: OtherColumns,
}

fn need<T: Clone>(field: &str, spec: &Option<T>) -> Result<T> {
    spec.clone().ok_or_else(|| usage(format!("[{field}] is missing: where does it come from?")))
}

impl Fields {
    /// Takes the field tables of a mapping; `None` for NDJSON without any, whose objects are named
    /// as a Transaction's fields.
    ///
    /// # Errors
    /// `Usage` that names the table that is missing or contradicts itself.
    pub fn check(file: &MappingFile) -> Result<Option<Fields>> {
        if file.format == Format::Ndjson && !has_tables(file) {
            return Ok(None);
        }
        let event_time = need("event_time", &file.event_time)?;
        let fields = Fields {
            id: need("transaction_id", &file.transaction_id)?,
            account_id: need("account_id", &file.account_id)?,
            merchant_id: need("merchant_id", &file.merchant_id)?,
            amount: need("amount", &file.amount)?,
            currency: need("currency", &file.currency)?,
            kind: need("kind", &file.kind)?,
            country: file.country.clone().unwrap_or_default(),
            times: event_time::check(&event_time)?,
            event_time,
            description: file.description.clone(),
            attributes: file.attributes.clone().unwrap_or_default(),
            skip: file.skip.clone(),
            columns: file.columns.clone(),
            other_columns: file.other_columns,
        };
        fields.check_each()?;
        if file.format == Format::Ndjson && file.other_columns == OtherColumns::Attributes {
            return Err(usage("other_columns = \"attributes\" is for CSV: name the paths".into()));
        }
        Ok(Some(fields))
    }

    fn check_each(&self) -> Result<()> {
        identity::check(&self.id)?;
        text::check("account_id", &self.account_id)?;
        text::check("merchant_id", &self.merchant_id)?;
        text::check("currency", &self.currency)?;
        self.description.iter().try_for_each(|d| text::check("description", d))?;
        self.attributes.iter().try_for_each(|(n, t)| text::check(&format!("attributes.{n}"), t))?;
        amount::check(&self.amount)?;
        kind::check(&self.kind)?;
        check_country(&self.country)?;
        for rule in &self.skip {
            if rule.blank == rule.column.is_some() {
                return Err(usage("[[skip]]: blank = true, or a column and one condition".into()));
            }
            Question::from(rule).check("[[skip]]")?;
        }
        let named: BTreeSet<&str> = self.named().into_iter().collect();
        match self.columns.keys().find(|name| !named.contains(name.as_str())) {
            Some(name) => Err(usage(format!("[columns.{name:?}]: no field takes this column"))),
            None => Ok(()),
        }
    }

    /// What else the columns are called.
    #[must_use]
    pub fn aliases(&self) -> &BTreeMap<String, ColumnSpec> {
        &self.columns
    }

    /// Every column that a field takes, each once, in alphabetical order.
    #[must_use]
    pub fn named(&self) -> Vec<&str> {
        let amount = &self.amount;
        let plain = [&amount.column, &amount.positive, &amount.negative, &self.country.column];
        let mut all: Vec<&str> = plain.into_iter().flatten().map(String::as_str).collect();
        all.extend(amount.product.iter().flatten().map(String::as_str));
        all.extend(amount.sign.iter().map(|sign| sign.column.as_str()));
        all.extend(identity::columns(&self.id));
        let texts = [&self.account_id, &self.merchant_id, &self.currency];
        let texts = texts.into_iter().chain(&self.description).chain(self.attributes.values());
        all.extend(texts.flat_map(text::columns));
        all.extend(kind::columns(&self.kind));
        all.extend(event_time::columns(&self.event_time));
        all.extend(self.skip.iter().filter_map(|rule| rule.column.as_deref()));
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Whether any field table is given.
fn has_tables(file: &MappingFile) -> bool {
    file.transaction_id.is_some()
        || file.account_id.is_some()
        || file.merchant_id.is_some()
        || file.amount.is_some()
        || file.currency.is_some()
        || file.kind.is_some()
        || file.country.is_some()
        || file.event_time.is_some()
        || file.description.is_some()
        || file.attributes.is_some()
        || !file.skip.is_empty()
        || !file.columns.is_empty()
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
