//! Exact money: integer units with a decimal scale. Never a float; a sum that overflows is an
//! error, never a wrap.

use std::collections::BTreeMap;
use std::fmt;

/// The largest scale of an [`Amount`] and the fixed scale of every [`Sums`] entry.
pub const MAX_SCALE: u8 = 9;

/// `units × 10^-scale`, scale 0 to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amount {
    /// The integer units; may be negative.
    pub units: i64,
    /// Decimal places, 0 to [`MAX_SCALE`].
    pub scale: u8,
}

/// Why a text is not an [`Amount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a decimal number.
    #[error("not a decimal number")]
    Syntax,
    /// More than nine decimal places that are not zero.
    #[error("more than 9 decimal places")]
    TooFine,
    /// Does not fit 64-bit units at its scale.
    #[error("out of range")]
    Range,
}

impl Amount {
    /// Reads the literal text of a decimal number (`-12.50`, `1e3`), never through a double.
    /// Trailing zeros of the fraction are kept as scale up to 9.
    ///
    /// # Errors
    /// [`AmountError`] when the text is no decimal number, too fine or out of range.
    pub fn parse(text: &str) -> Result<Amount, AmountError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], parse_exponent(&rest[at + 1..])?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits_only = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        let dangling_point = mantissa.ends_with('.');
        if whole.is_empty() || dangling_point || !digits_only(whole) || !digits_only(fraction) {
            return Err(AmountError::Syntax);
        }
        let digits: String = format!("{whole}{fraction}");
        let scale = i64::try_from(fraction.len()).map_err(|_| AmountError::Range)? - exponent;
        from_digits(&digits, scale, negative)
    }

    /// The same value at `scale`, if it is exactly representable there.
    #[must_use]
    pub fn rescale(self, scale: u8) -> Option<Amount> {
        let mut units = self.units;
        for _ in self.scale..scale {
            units = units.checked_mul(10)?;
        }
        for _ in scale..self.scale {
            if units % 10 != 0 {
                return None;
            }
            units /= 10;
        }
        Some(Amount { units, scale })
    }

    /// The value without trailing zeros beyond `floor` places, and with at least `floor` places:
    /// the form that is hashed, stored and compared. `None` when it does not fit at `floor`.
    #[must_use]
    pub fn normalise(self, floor: u8) -> Option<Amount> {
        if self.scale < floor {
            return self.rescale(floor);
        }
        let mut amount = self;
        while amount.scale > floor && amount.units % 10 == 0 {
            amount.units /= 10;
            amount.scale -= 1;
        }
        Some(amount)
    }

    /// The value in units of 10⁻⁹, as [`Sums`] add it. Cannot overflow: |i64| × 10⁹ < 2⁹⁴.
    #[must_use]
    pub fn nano(self) -> i128 {
        i128::from(self.units) * 10_i128.pow(u32::from(MAX_SCALE.saturating_sub(self.scale)))
    }
}

fn parse_exponent(text: &str) -> Result<i64, AmountError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AmountError::Syntax);
    }
    // Longer exponents are decimal numbers too, only far outside the range.
    let magnitude: i64 = if digits.len() > 6 { 999_999 } else { digits.parse().unwrap_or(999_999) };
    Ok(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// `digits × 10^-scale` brought to a scale of 0 to 9.
fn from_digits(digits: &str, scale: i64, negative: bool) -> Result<Amount, AmountError> {
    let mut digits = digits.trim_start_matches('0').to_owned();
    if digits.is_empty() {
        let scale = u8::try_from(scale.clamp(0, i64::from(MAX_SCALE))).unwrap_or(0);
        return Ok(Amount { units: 0, scale });
    }
    let mut scale = scale;
    while scale > i64::from(MAX_SCALE) && digits.ends_with('0') {
        digits.pop();
        scale -= 1;
    }
    if scale > i64::from(MAX_SCALE) {
        return Err(AmountError::TooFine);
    }
    while scale < 0 {
        if digits.len() > 20 {
            return Err(AmountError::Range);
        }
        digits.push('0');
        scale += 1;
    }
    let magnitude: i128 = digits.parse().map_err(|_| AmountError::Range)?;
    let units = i64::try_from(if negative { -magnitude } else { magnitude })
        .map_err(|_| AmountError::Range)?;
    Ok(Amount { units, scale: u8::try_from(scale).map_err(|_| AmountError::Range)? })
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal_text(i128::from(self.units), self.scale))
    }
}

/// `units × 10^-scale` as decimal text with exactly `scale` places.
#[must_use]
pub fn decimal_text(units: i128, scale: u8) -> String {
    let digits = units.unsigned_abs().to_string();
    let places = usize::from(scale);
    let sign = if units < 0 { "-" } else { "" };
    if places == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    format!("{sign}{whole}.{fraction}")
}

/// `nano × 10⁻⁹` as text with trailing zeros removed down to `floor` places.
#[must_use]
pub fn nano_text(nano: i128, floor: u8) -> String {
    let (units, scale) = trim_nano(nano, floor);
    decimal_text(units, scale)
}

/// `nano × 10⁻⁹` with trailing zeros removed down to `floor` places: (units, scale).
#[must_use]
pub fn trim_nano(nano: i128, floor: u8) -> (i128, u8) {
    let (mut units, mut scale) = (nano, MAX_SCALE);
    while scale > floor && units % 10 == 0 {
        units /= 10;
        scale -= 1;
    }
    (units, scale)
}

/// An active ISO 4217 currency code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The currency of an upper-case ISO 4217 code, `None` when it is not an active one.
    #[must_use]
    pub fn parse(code: &str) -> Option<Currency> {
        let bytes: [u8; 3] = code.as_bytes().try_into().ok()?;
        let currency = Currency(bytes);
        exponent_of(bytes).map(|_| currency)
    }

    /// Decimal places of the minor unit by ISO 4217 (EUR 2, JPY 0, KWD 3).
    #[must_use]
    pub fn exponent(self) -> u8 {
        exponent_of(self.0).unwrap_or(2)
    }

    /// The three letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// ISO 4217 list one (active codes), by exponent.
const EXPONENT_0: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF";
const EXPONENT_3: &str = "BHD IQD JOD KWD LYD OMR TND";
const EXPONENT_4: &str = "CLF UYW";
const EXPONENT_2: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD \
    BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR \
    FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD \
    KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN \
    NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS \
    SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD \
    XCD XCG YER ZAR ZMW ZWG";

fn exponent_of(code: [u8; 3]) -> Option<u8> {
    // The few codes that most records carry first; the rest by search of a short text.
    match &code {
        b"EUR" | b"USD" | b"GBP" => return Some(2),
        b"JPY" => return Some(0),
        b"KWD" => return Some(3),
        _ => {}
    }
    let listed = |list: &str| list.split_ascii_whitespace().any(|c| c.as_bytes() == code);
    [(EXPONENT_2, 2), (EXPONENT_0, 0), (EXPONENT_3, 3), (EXPONENT_4, 4)]
        .into_iter()
        .find(|(list, _)| listed(list))
        .map(|(_, exponent)| exponent)
}

/// A sum left the range of 128 bits: the pipeline halts rather than wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sum of money left the range of 128 bits; stop and look at the amounts of this currency")]
pub struct SumOverflow;

/// Sums per currency in units of 10⁻⁹.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<Currency, i128>);

impl Sums {
    /// Adds an amount.
    ///
    /// # Errors
    /// [`SumOverflow`] beyond 128 bits.
    pub fn add(&mut self, currency: Currency, amount: Amount) -> Result<(), SumOverflow> {
        self.add_nano(currency, amount.nano())
    }

    /// Adds a value given in units of 10⁻⁹.
    ///
    /// # Errors
    /// [`SumOverflow`] beyond 128 bits.
    pub fn add_nano(&mut self, currency: Currency, nano: i128) -> Result<(), SumOverflow> {
        let sum = self.0.entry(currency).or_insert(0);
        *sum = sum.checked_add(nano).ok_or(SumOverflow)?;
        Ok(())
    }

    /// Adds every entry of `other`.
    ///
    /// # Errors
    /// [`SumOverflow`] beyond 128 bits.
    pub fn merge(&mut self, other: &Sums) -> Result<(), SumOverflow> {
        other.iter().try_for_each(|(currency, nano)| self.add_nano(currency, nano))
    }

    /// The entries in alphabetical order, in units of 10⁻⁹.
    pub fn iter(&self) -> impl Iterator<Item = (Currency, i128)> + '_ {
        self.0.iter().map(|(c, n)| (*c, *n))
    }

    /// The sum of one currency in units of 10⁻⁹ (0 when absent).
    #[must_use]
    pub fn nano(&self, currency: Currency) -> i128 {
        self.0.get(&currency).copied().unwrap_or(0)
    }

    /// Currency → decimal text, as reports and JSON show it.
    #[must_use]
    pub fn texts(&self) -> BTreeMap<String, String> {
        self.iter().map(|(c, n)| (c.to_string(), nano_text(n, c.exponent()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_literal_text() {
        let ok = |t: &str| Amount::parse(t).map(|a| (a.units, a.scale));
        assert_eq!(ok("12.50"), Ok((1250, 2)));
        assert_eq!(ok("-0.001"), Ok((-1, 3)));
        assert_eq!(ok("-0"), Ok((0, 0)));
        assert_eq!(ok("1e3"), Ok((1000, 0)));
        assert_eq!(ok("1.5E-2"), Ok((15, 3)));
        assert_eq!(ok("9223372036854775807"), Ok((i64::MAX, 0)));
        assert_eq!(ok("-9223372036854775808"), Ok((i64::MIN, 0)));
        assert_eq!(ok("1.0000000000000"), Ok((1_000_000_000, 9)));
    }

    #[test]
    fn refuses_what_is_no_amount() {
        let err = |t: &str| Amount::parse(t).unwrap_err();
        for text in ["", "-", ".5", "5.", "1,5", "NaN", "Infinity", "0x10", "1e", "--1", "1 "] {
            assert_eq!(err(text), AmountError::Syntax, "{text}");
        }
        assert_eq!(err("1e400"), AmountError::Range);
        assert_eq!(err("1e99999999999"), AmountError::Range);
        assert_eq!(err("9223372036854775808"), AmountError::Range);
        assert_eq!(err("0.0000000001"), AmountError::TooFine);
    }

    #[test]
    fn knows_exponents() {
        let exponent = |c| Currency::parse(c).map(Currency::exponent);
        assert_eq!(exponent("EUR"), Some(2));
        assert_eq!(exponent("JPY"), Some(0));
        assert_eq!(exponent("KWD"), Some(3));
        assert_eq!(exponent("CLF"), Some(4));
        for bad in ["eur", "XXX", "EURO", "", "A U"] {
            assert_eq!(exponent(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_sum_that_overflows_is_an_error() {
        let eur = Currency::parse("EUR").unwrap();
        let mut sums = Sums::default();
        sums.add_nano(eur, i128::MAX).unwrap();
        assert_eq!(sums.add_nano(eur, 1), Err(SumOverflow));
    }

    proptest! {
        #[test]
        fn text_reads_back(units in any::<i64>(), scale in 0_u8..=9) {
            let amount = Amount { units, scale };
            prop_assert_eq!(Amount::parse(&amount.to_string()), Ok(amount));
        }

        #[test]
        fn normalising_keeps_the_value(units in -1_000_000_000_i64..1_000_000_000, scale in 0_u8..=9, floor in 0_u8..=4) {
            let amount = Amount { units, scale };
            let normal = amount.normalise(floor).unwrap();
            prop_assert_eq!(normal.nano(), amount.nano());
            prop_assert!(normal.scale >= floor);
            prop_assert_eq!(normal.normalise(floor), Some(normal));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            if let Ok(amount) = Amount::parse(&text) {
                prop_assert!(amount.scale <= MAX_SCALE);
            }
        }
    }
}
