//! Exact decimals: units of 10^-scale in 128 bits, checked, rounded half away from zero.
//!
//! Precision and scale of results are ksqlDB's (`SqlDecimal`); where they exceed 38 digits the
//! scale gives way, down to 6 places, as in Spark: ksqlDB has no bound, 128 bits have one.

use crate::ast::Operator;
use crate::types::{MAX_PRECISION, SqlType};

/// 10^exponent, for 0 to 38.
#[must_use]
pub fn power_of_ten(exponent: u32) -> Option<u128> {
    10_u128.checked_pow(exponent)
}

/// The type of `left operator right`.
#[must_use]
pub fn result_type(operator: Operator, left: (u8, u8), right: (u8, u8)) -> SqlType {
    let [(p1, s1), (p2, s2)] = [left, right].map(|(p, s)| (i32::from(p), i32::from(s)));
    let (precision, scale) = match operator {
        Operator::Multiply => (p1 + p2 + 1, s1 + s2),
        Operator::Divide => {
            let scale = 6.max(s1 + p2 + 1);
            (p1 - s1 + s2 + scale, scale)
        }
        Operator::Modulo => ((p1 - s1).min(p2 - s2) + s1.max(s2), s1.max(s2)),
        _ => (s1.max(s2) + (p1 - s1).max(p2 - s2) + 1, s1.max(s2)),
    };
    let most = i32::from(MAX_PRECISION);
    if precision <= most {
        return SqlType::Decimal { precision: precision.max(1) as u8, scale: scale as u8 };
    }
    let whole = precision - scale;
    let scale = (most - whole).max(scale.min(6)).max(0);
    SqlType::Decimal { precision: MAX_PRECISION, scale: scale as u8 }
}

/// Whether the units have at most `precision` digits.
#[must_use]
pub fn fits(units: i128, precision: u8) -> bool {
    power_of_ten(u32::from(precision)).is_none_or(|bound| units.unsigned_abs() < bound)
}

/// The same value at another scale, rounded half away from zero. `None` beyond 128 bits.
#[must_use]
pub fn rescale(units: i128, from: u8, to: u8) -> Option<i128> {
    if to >= from {
        let factor = power_of_ten(u32::from(to - from))?;
        return units.checked_mul(i128::try_from(factor).ok()?);
    }
    Some(divide_rounded(units, i128::try_from(power_of_ten(u32::from(from - to))?).ok()?))
}

fn divide_rounded(units: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (units / divisor, units % divisor);
    let up = rest.unsigned_abs() >= divisor.unsigned_abs() - rest.unsigned_abs();
    let sign = if (units < 0) == (divisor < 0) { 1 } else { -1 };
    if up && rest != 0 { quotient + sign } else { quotient }
}

/// `a × b ÷ divisor`, rounded half away from zero, through 256 bits. `None` beyond 128 bits.
#[must_use]
pub fn multiply_divide(a: i128, b: i128, divisor: i128) -> Option<i128> {
    if divisor == 0 {
        return None;
    }
    let negative = (a < 0) ^ (b < 0) ^ (divisor < 0);
    let (high, low) = wide_product(a.unsigned_abs(), b.unsigned_abs());
    let divisor = divisor.unsigned_abs();
    let (mut quotient, rest) = wide_divide(high, low, divisor)?;
    if rest >= divisor - rest {
        quotient = quotient.checked_add(1)?;
    }
    if negative { 0_i128.checked_sub_unsigned(quotient) } else { i128::try_from(quotient).ok() }
}

fn wide_product(a: u128, b: u128) -> (u128, u128) {
    if let Some(low) = a.checked_mul(b) {
        return (0, low);
    }
    const HALF: u128 = u64::MAX as u128;
    let [(a1, a0), (b1, b0)] = [a, b].map(|x| (x >> 64, x & HALF));
    let low = a0 * b0;
    let (middle, carried) = (a1 * b0).overflowing_add(a0 * b1);
    let (low, carry) = low.overflowing_add(middle << 64);
    let high = a1 * b1 + (middle >> 64) + (u128::from(carried) << 64) + u128::from(carry);
    (high, low)
}

/// Quotient and rest; `None` when the quotient exceeds 128 bits.
fn wide_divide(high: u128, low: u128, divisor: u128) -> Option<(u128, u128)> {
    if high == 0 {
        return Some((low / divisor, low % divisor));
    }
    if high >= divisor {
        return None;
    }
    let (mut rest, mut quotient) = (high, 0_u128);
    for bit in (0..128).rev() {
        let overflow = rest >> 127 == 1;
        rest = rest << 1 | (low >> bit & 1);
        quotient <<= 1;
        if overflow || rest >= divisor {
            rest = rest.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    Some((quotient, rest))
}

/// `left operator right` at the result's scale. `None`: beyond 128 bits, or a division by zero.
#[must_use]
pub fn compute(
    operator: Operator,
    (left, s1): (i128, u8),
    (right, s2): (i128, u8),
    scale: u8,
) -> Option<i128> {
    match operator {
        Operator::Add => rescale(left, s1, scale)?.checked_add(rescale(right, s2, scale)?),
        Operator::Subtract => rescale(left, s1, scale)?.checked_sub(rescale(right, s2, scale)?),
        Operator::Multiply => {
            let excess = u32::from((s1 + s2).saturating_sub(scale));
            multiply_divide(left, right, i128::try_from(power_of_ten(excess)?).ok()?)
        }
        Operator::Divide => {
            let shift = i32::from(scale) + i32::from(s2) - i32::from(s1);
            let factor = i128::try_from(power_of_ten(shift.unsigned_abs())?).ok()?;
            if shift >= 0 {
                multiply_divide(left, factor, right)
            } else {
                multiply_divide(left, 1, right.checked_mul(factor)?)
            }
        }
        Operator::Modulo => rescale(left, s1, scale)?.checked_rem(rescale(right, s2, scale)?),
        _ => None,
    }
}

/// Units and scale of a decimal text such as `-12.50` or `1e-3`. `None` when it is no number, or
/// has more than 38 digits.
#[must_use]
pub fn parse(text: &str) -> Option<(i128, u8)> {
    let text = text.trim();
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let negative = mantissa.starts_with('-');
    let unsigned = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let mut units: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let mut scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    while scale < 0 {
        units = units.checked_mul(10)?;
        scale += 1;
    }
    if scale > i32::from(MAX_PRECISION) {
        return None;
    }
    Some((if negative { -units } else { units }, scale as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_are_ksqldbs() {
        let decimal = |precision, scale| SqlType::Decimal { precision, scale };
        assert_eq!(result_type(Operator::Add, (10, 2), (5, 4)), decimal(13, 4));
        assert_eq!(result_type(Operator::Multiply, (4, 2), (3, 1)), decimal(8, 3));
        assert_eq!(result_type(Operator::Divide, (4, 2), (3, 1)), decimal(9, 6));
        assert_eq!(result_type(Operator::Modulo, (4, 2), (3, 1)), decimal(4, 2));
        assert_eq!(result_type(Operator::Divide, (28, 9), (28, 9)), decimal(38, 10));
    }

    #[test]
    fn halves_are_rounded_away_from_zero() {
        assert_eq!(rescale(125, 2, 1), Some(13));
        assert_eq!(rescale(-125, 2, 1), Some(-13));
        assert_eq!(rescale(124, 2, 1), Some(12));
        assert_eq!(compute(Operator::Divide, (2, 0), (3, 0), 6), Some(666_667));
        assert_eq!(compute(Operator::Divide, (1, 0), (0, 0), 6), None);
        assert_eq!(parse("-1.5e-2"), Some((-15, 3)));
        assert_eq!(parse("1."), Some((1, 0)));
        assert_eq!(parse("x"), None);
    }

    proptest! {
        #[test]
        fn a_wide_product_divides_back(a in any::<i128>(), b in 1_i128..i128::MAX) {
            let a = a.max(-i128::MAX);
            prop_assert_eq!(multiply_divide(a, b, b), Some(a));
        }

        #[test]
        fn narrow_numbers_agree_with_the_machine(a in any::<i32>(), b in any::<i32>(), d in 1_i32..) {
            let (a, b, d) = (i128::from(a), i128::from(b), i128::from(d));
            prop_assert_eq!(multiply_divide(a, b, d), Some(divide_rounded(a * b, d)));
        }
    }
}
