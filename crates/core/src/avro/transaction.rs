//! The fields of a [`Transaction`], in the order of `transaction.avsc`.

use super::{AvroError, Reader, Writer};
use crate::money::Amount;
use crate::transaction::{Kind, Transaction};
use std::borrow::Cow;

/// Writes the fields of a [`Transaction`] (schema `transaction.avsc`).
pub fn write_transaction(out: &mut Writer, t: &Transaction<'_>) {
    out.string(&t.transaction_id);
    out.string(&t.source);
    out.long(t.source_seq);
    out.string(&t.account_id);
    out.string(&t.merchant_id);
    out.long(t.amount.units);
    out.long(i64::from(t.amount.scale));
    out.string(&t.currency);
    out.long(match t.kind {
        Kind::Purchase => 0,
        Kind::Refund => 1,
        Kind::Adjustment => 2,
    });
    out.optional_string(t.country.as_deref());
    out.long(t.event_time);
    out.optional_string(t.description.as_deref());
    if t.attributes.is_empty() {
        out.long(0);
        return;
    }
    out.long(1);
    out.long(i64::try_from(t.attributes.len()).unwrap_or(i64::MAX));
    for (name, value) in &t.attributes {
        out.string(name);
        out.string(value);
    }
    out.long(0);
}

/// Reads the fields of a [`Transaction`] (schema `transaction.avsc`); the caller checks the end.
///
/// # Errors
/// [`AvroError`] when the bytes are not such a record.
pub fn read_transaction<'a>(input: &mut Reader<'a>) -> Result<Transaction<'a>, AvroError> {
    let transaction_id = Cow::Borrowed(input.string()?);
    let source = Cow::Borrowed(input.string()?);
    let source_seq = input.long()?;
    let account_id = Cow::Borrowed(input.string()?);
    let merchant_id = Cow::Borrowed(input.string()?);
    let units = input.long()?;
    let scale = input.long()?;
    let scale = u8::try_from(scale).map_err(|_| input.error("scale that is not 0 to 255"))?;
    let currency = Cow::Borrowed(input.string()?);
    let kind = Kind::ALL[input.place(Kind::ALL.len(), "unknown symbol of enum Kind")?];
    let country = input.optional_string()?.map(Cow::Borrowed);
    let event_time = input.long()?;
    let description = input.optional_string()?.map(Cow::Borrowed);
    let attributes = read_attributes(input)?;
    Ok(Transaction {
        transaction_id,
        source,
        source_seq,
        account_id,
        merchant_id,
        amount: Amount { units, scale },
        scale_declared: true,
        currency,
        kind,
        country,
        event_time,
        description,
        attributes,
    })
}

type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

fn read_attributes<'a>(input: &mut Reader<'a>) -> Result<Attributes<'a>, AvroError> {
    let mut attributes = Attributes::new();
    match input.long()? {
        0 => return Ok(attributes),
        1 => {}
        _ => return Err(input.error("unknown union branch")),
    }
    input.blocks::<AvroError>(|input| {
        let name = input.string()?;
        attributes.push((Cow::Borrowed(name), Cow::Borrowed(input.string()?)));
        Ok(())
    })?;
    attributes.sort();
    Ok(attributes)
}
