//! What a transaction must satisfy before it counts.

use crate::money::{Amount, Currency};
use crate::reject::{Reason, Rejection};
use crate::time;
use crate::transaction::{Kind, Transaction, ValidTransaction};

/// Longest transaction_id in characters.
pub const MAX_ID: usize = 64;
/// Longest source, account_id, merchant_id or attribute name in characters.
pub const MAX_NAME: usize = 128;
/// Longest description or attribute value in characters.
pub const MAX_TEXT: usize = 1024;
/// Most attributes of one transaction.
pub const MAX_ATTRIBUTES: usize = 64;

/// ISO 3166-1 alpha-2, officially assigned.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI \
    BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY \
    CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN \
    GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH \
    KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO \
    MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL \
    PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV \
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN \
    VU WF WS YE YT ZA ZM ZW";

/// By first letter, a bit for each second one.
const SECOND_LETTERS: [u32; 26] = {
    let (codes, mut letters, mut at) = (COUNTRIES.as_bytes(), [0; 26], 0);
    while at < codes.len() {
        letters[(codes[at] - b'A') as usize] |= 1 << (codes[at + 1] - b'A');
        at += 3;
    }
    letters
};

/// Whether `code` is an officially assigned ISO 3166-1 alpha-2 code in upper case.
#[must_use]
pub fn is_country(code: &str) -> bool {
    match code.as_bytes() {
        [first @ b'A'..=b'Z', second @ b'A'..=b'Z'] => {
            SECOND_LETTERS[usize::from(first - b'A')] >> (second - b'A') & 1 == 1
        }
        _ => false,
    }
}

/// Checks a decoded transaction against the record's own timestamp (ms since 1970: the broker's
/// clock, so that the answer is the same whenever it is asked).
///
/// # Errors
/// A [`Rejection`] with the first thing that is wrong, carrying the money where it is known.
pub fn validate(
    t: Transaction<'_>,
    record_timestamp: i64,
) -> Result<ValidTransaction<'_>, Rejection> {
    let money = t.money();
    check(t, record_timestamp).map_err(|rejection| Rejection { money, ..rejection })
}

fn check(mut t: Transaction<'_>, record_timestamp: i64) -> Result<ValidTransaction<'_>, Rejection> {
    check_texts(&t)?;
    let currency = Currency::parse(&t.currency).ok_or_else(|| {
        Rejection::new(Reason::Currency, "currency is not an active ISO 4217 code in upper case")
    })?;
    t.amount = normal_amount(&t, currency)?;
    check_sign(&t)?;
    check_time(t.event_time, record_timestamp)?;
    Ok(ValidTransaction { transaction: t, currency })
}

fn check_texts(t: &Transaction<'_>) -> Result<(), Rejection> {
    let required = [
        ("transaction_id", t.transaction_id.as_ref(), MAX_ID),
        ("account_id", t.account_id.as_ref(), MAX_NAME),
        ("merchant_id", t.merchant_id.as_ref(), MAX_NAME),
    ];
    for (name, text, limit) in required {
        if text.is_empty() {
            return Err(Rejection::new(Reason::MissingField, format!("field {name} is empty")));
        }
        check_text(name, text, limit)?;
    }
    check_text("source", &t.source, MAX_NAME)?;
    check_text("description", t.description.as_deref().unwrap_or_default(), MAX_TEXT)?;
    if t.country.as_deref().is_some_and(|code| !is_country(code)) {
        let message =
            "country is not an ISO 3166 alpha-2 code; other texts go to attributes.country";
        return Err(Rejection::new(Reason::Malformed, message));
    }
    if t.attributes.len() > MAX_ATTRIBUTES {
        let message = format!("{} attributes, {MAX_ATTRIBUTES} allowed", t.attributes.len());
        return Err(Rejection::new(Reason::TooLarge, message));
    }
    t.attributes.iter().try_for_each(|(name, value)| {
        check_text("attribute name", name, MAX_NAME)?;
        check_text("attribute", value, MAX_TEXT)
    })
}

fn check_text(name: &str, text: &str, limit: usize) -> Result<(), Rejection> {
    // PostgreSQL's text and jsonb refuse U+0000: say so here, with a reason.
    if text.as_bytes().contains(&0) {
        return Err(Rejection::new(Reason::Malformed, format!("field {name} contains U+0000")));
    }
    if text.len() > limit && text.chars().count() > limit {
        let message = format!("field {name} has more than {limit} characters");
        return Err(Rejection::new(Reason::TooLarge, message));
    }
    Ok(())
}

/// The amount at the currency's exponent, or at the finer scale that its writer declared.
///
/// An Avro record carries its scale explicitly: its source declared it (thousandths of a pound in
/// Online Retail). JSON has no place to declare one, so there ISO 4217 decides; nothing is rounded.
fn normal_amount(t: &Transaction<'_>, currency: Currency) -> Result<Amount, Rejection> {
    let out_of_range = || Rejection::new(Reason::Amount, "amount does not fit 64 bits");
    if t.amount.scale > crate::money::MAX_SCALE {
        return Err(Rejection::new(Reason::Amount, "amount has more than 9 decimal places"));
    }
    let amount = t.amount.normalise(currency.exponent()).ok_or_else(out_of_range)?;
    if amount.scale <= currency.exponent() || t.scale_declared {
        return Ok(amount);
    }
    let reason = if currency.exponent() == 0 { Reason::Currency } else { Reason::Amount };
    let message = format!(
        "{currency} has {} decimal places by ISO 4217, the amount has {}",
        currency.exponent(),
        amount.scale
    );
    Err(Rejection::new(reason, message))
}

fn check_sign(t: &Transaction<'_>) -> Result<(), Rejection> {
    let fits = match t.kind {
        Kind::Purchase => t.amount.units > 0,
        Kind::Refund => t.amount.units < 0,
        Kind::Adjustment => true,
    };
    let wanted = if t.kind == Kind::Purchase { "above" } else { "below" };
    let message = || format!("the amount of a {} must be {wanted} zero", t.kind.as_str());
    if fits { Ok(()) } else { Err(Rejection::new(Reason::Amount, message())) }
}

fn check_time(event_time: i64, record_timestamp: i64) -> Result<(), Rejection> {
    if event_time < time::EARLIEST {
        let message = format!("event_time {} is before 1980", time::to_rfc3339(event_time));
        return Err(Rejection::new(Reason::Timestamp, message));
    }
    let latest = record_timestamp.saturating_mul(1000).saturating_add(time::MAX_AHEAD);
    if event_time > latest {
        let message = format!(
            "event_time {} is more than an hour after the record's own time",
            time::to_rfc3339(event_time)
        );
        return Err(Rejection::new(Reason::Timestamp, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::read_transaction;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn outcome(change: (&str, &str)) -> Result<(i64, u8), Reason> {
        let text = r#"{"transaction_id":"t1","account_id":"a","merchant_id":"m","amount":"12.50",
            "currency":"EUR","kind":"PURCHASE","event_time":"2026-01-31T12:00:00Z","country":"ES"}"#
            .replace(change.0, change.1);
        let t = read_transaction(text.as_bytes(), "s", 0).map_err(|r| r.reason)?;
        validate(t, NOW_MS)
            .map(|v| (v.transaction.amount.units, v.transaction.amount.scale))
            .map_err(|r| r.reason)
    }

    #[test]
    fn accepts_and_normalises() {
        assert_eq!(outcome(("", "")), Ok((1250, 2)));
        assert_eq!(outcome(("12.50", "12.5000")), Ok((1250, 2)));
        assert_eq!(outcome(("12.50", "12")), Ok((1200, 2)));
        assert_eq!(outcome(("PURCHASE", "ADJUSTMENT")), Ok((1250, 2)));
    }

    #[test]
    fn refuses_with_the_reason() {
        assert_eq!(outcome(("12.50", "12.505")), Err(Reason::Amount));
        assert_eq!(outcome(("EUR", "JPY")), Err(Reason::Currency));
        assert_eq!(outcome(("EUR", "eur")), Err(Reason::Currency));
        assert_eq!(outcome(("12.50", "0")), Err(Reason::Amount));
        assert_eq!(outcome(("PURCHASE", "REFUND")), Err(Reason::Amount));
        assert_eq!(outcome(("2026-01-31", "1969-01-31")), Err(Reason::Timestamp));
        assert_eq!(outcome(("2026-01-31", "2036-01-31")), Err(Reason::Timestamp));
        assert_eq!(outcome(("\"ES\"", "\"España\"")), Err(Reason::Malformed));
        assert_eq!(outcome(("\"t1\"", "\"\"")), Err(Reason::MissingField));
        assert_eq!(outcome(("t1", &"x".repeat(65))), Err(Reason::TooLarge));
        assert_eq!(outcome(("t1", "a\\u0000b")), Err(Reason::Malformed));
    }

    #[test]
    fn exactly_the_codes_of_the_list_are_countries() {
        let letters = || (b'@'..=b'[').map(char::from);
        let found = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
        let found: Vec<String> = found.filter(|code| is_country(code)).collect();
        assert_eq!(found.join(" "), COUNTRIES);
        assert!(!is_country("E") && !is_country("ESP") && !is_country("es"));
    }

    #[test]
    fn a_declared_scale_may_exceed_the_currencys() {
        let json = br#"{"transaction_id":"t","account_id":"a","merchant_id":"m","amount":"0.001",
            "currency":"GBP","kind":"PURCHASE","event_time":"2010-12-01T08:26:00Z"}"#;
        let mut t = read_transaction(json, "s", 0).unwrap();
        t.scale_declared = true;
        assert_eq!(validate(t, NOW_MS).unwrap().transaction.amount, Amount { units: 1, scale: 3 });
    }
}
