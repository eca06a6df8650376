//! PostgreSQL's binary COPY format, by hand for speed.
//! Source: PostgreSQL 18 documentation, "COPY, Binary Format", and the receive functions of the types.

/// Bytes before the first tuple: signature, flags, length of the header's extension.
pub const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Bytes after the last tuple.
pub const TRAILER: [u8; 2] = [0xff, 0xff];

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_2000: i64 = 946_684_800_000_000;
/// First instant of a timestamptz (4714-11-24 BC) in microseconds since 1970. The last one lies
/// beyond what 64 bits of microseconds since 1970 can say.
pub const FIRST_TIMESTAMP: i64 = -210_866_803_200_000_000;
const OID_TEXT: u32 = 25;
/// Days from 1970-01-01 to 2000-01-01.
const DAYS_TO_2000: i32 = 10_957;

/// Quotient and remainder. Almost every amount fits 64 bits, whose division is many times cheaper.
fn divided(number: u128, by: u64) -> (u128, u64) {
    match u64::try_from(number) {
        Ok(number) => ((number / by).into(), number % by),
        Err(_) => {
            let by = u128::from(by);
            // Below `by`, which is of 64 bits.
            (number / by, u64::try_from(number % by).unwrap_or(0))
        }
    }
}

/// The fields of one tuple: `None` is NULL.
pub fn fields(tuple: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    // The tuple's own count of fields is left out.
    let mut rest = tuple.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            return Some(None);
        };
        let (field, after) = after.split_at_checked(length)?;
        rest = after;
        Some(Some(field))
    })
}

/// Appends tuples, field by field, in the order of the columns.
#[derive(Debug, Default, Clone)]
pub struct Tuples {
    bytes: Vec<u8>,
}

impl Tuples {
    /// Begins a tuple of that many fields.
    pub fn tuple(&mut self, fields: usize) {
        self.bytes.extend_from_slice(&i16::try_from(fields).unwrap_or(i16::MAX).to_be_bytes());
    }

    /// SQL NULL.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    fn length(&mut self, length: usize) {
        // A field holds at most a record's value, far below 2 GiB.
        self.bytes.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    }

    /// text; must not contain NUL.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// bytea.
    pub fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.extend_from_slice(value);
    }

    /// bigint.
    pub fn int8(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    /// integer.
    pub fn int4(&mut self, value: i32) {
        self.bytes(&value.to_be_bytes());
    }

    /// smallint.
    pub fn int2(&mut self, value: i16) {
        self.bytes(&value.to_be_bytes());
    }

    /// timestamptz (and timestamp, whose bytes are the same) from microseconds since 1970; not before [`FIRST_TIMESTAMP`].
    pub fn timestamptz(&mut self, micros: i64) {
        self.int8(micros.saturating_sub(EPOCH_2000));
    }

    /// date from days since 1970.
    pub fn date(&mut self, days: i32) {
        self.int4(days.saturating_sub(DAYS_TO_2000));
    }

    /// double precision.
    pub fn float8(&mut self, value: f64) {
        self.bytes(&value.to_be_bytes());
    }

    /// real.
    pub fn float4(&mut self, value: f32) {
        self.bytes(&value.to_be_bytes());
    }

    /// boolean.
    pub fn boolean(&mut self, value: bool) {
        self.bytes(&[u8::from(value)]);
    }

    /// jsonb from its text (version 1 of the binary form).
    pub fn jsonb(&mut self, json: &str) {
        self.length(json.len() + 1);
        self.bytes.push(1);
        self.bytes.extend_from_slice(json.as_bytes());
    }

    /// text[] of one dimension, without NULLs.
    pub fn text_array(&mut self, values: &[&str]) {
        let start = self.bytes.len();
        self.length(0);
        let dimensions = i32::from(!values.is_empty());
        self.bytes.extend_from_slice(&dimensions.to_be_bytes());
        self.bytes.extend_from_slice(&0_i32.to_be_bytes());
        self.bytes.extend_from_slice(&OID_TEXT.to_be_bytes());
        if !values.is_empty() {
            self.length(values.len());
            self.bytes.extend_from_slice(&1_i32.to_be_bytes());
            values.iter().for_each(|value| self.text(value));
        }
        let length = i32::try_from(self.bytes.len() - start - 4).unwrap_or(i32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// numeric `units × 10^-scale`, exactly, displayed with `scale` places.
    ///
    /// The format is base 10000 with the decimal point on a digit's edge: `weight` is the power of
    /// 10000 of the first digit; zero digits at both ends are left out.
    pub fn numeric(&mut self, units: i128, scale: u8) {
        let mut digits = [0_u16; 16];
        let mut count = 0;
        let mut push = |digit: u64| {
            digits[count] = u16::try_from(digit).unwrap_or(0);
            count += 1;
        };
        let mut rest = units.unsigned_abs();
        // The places beyond the last whole digit of base 10000, filled up with zeros.
        let partial = u32::from(scale % 4);
        if partial > 0 && rest > 0 {
            let (whole, places) = divided(rest, 10_u64.pow(partial));
            push(places * 10_u64.pow(4 - partial));
            rest = whole;
        }
        while rest > 0 {
            let (higher, digit) = divided(rest, 10_000);
            push(digit);
            rest = higher;
        }
        self.numeric_digits(&digits[..count], units < 0, scale);
    }

    /// numeric of any size: `bytes` are its units in two's complement, big-endian.
    pub fn wide_numeric(&mut self, bytes: &[u8], scale: u8) {
        let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
        let mut rest = bytes.to_vec();
        if is_negative {
            negate(&mut rest);
        }
        let mut digits = Vec::new();
        let partial = u32::from(scale % 4);
        if partial > 0 {
            let unit = 10_u16.pow(partial);
            digits.push(divide(&mut rest, unit) * 10_u16.pow(4 - partial));
        }
        while rest.iter().any(|byte| *byte != 0) {
            digits.push(divide(&mut rest, 10_000));
        }
        self.numeric_digits(&digits, is_negative, scale);
    }

    /// Digits of base 10000, the lowest first.
    fn numeric_digits(&mut self, digits: &[u16], is_negative: bool, scale: u8) {
        let trailing = digits.iter().take_while(|d| **d == 0).count();
        let fraction_digits = i16::from(scale.div_ceil(4));
        let significant = &digits[trailing..];
        let places = i16::try_from(digits.len()).unwrap_or(i16::MAX);
        let weight = if significant.is_empty() { 0 } else { places - 1 - fraction_digits };

        self.length(8 + 2 * significant.len());
        self.bytes
            .extend_from_slice(&(places - i16::try_from(trailing).unwrap_or(0)).to_be_bytes());
        self.bytes.extend_from_slice(&weight.to_be_bytes());
        self.bytes.extend_from_slice(&(if is_negative { 0x4000_u16 } else { 0 }).to_be_bytes());
        self.bytes.extend_from_slice(&u16::from(scale).to_be_bytes());
        for digit in significant.iter().rev() {
            self.bytes.extend_from_slice(&digit.to_be_bytes());
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The tuples from one position to another.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Everything written.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends bytes of another buffer as they are.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what was written after `length`: a tuple that turned out not to be one.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }
}

/// The two's complement of a big-endian number.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
}

/// Divides a big-endian number, and returns what is left over.
fn divide(bytes: &mut [u8], by: u16) -> u16 {
    let mut left = 0_u32;
    for byte in bytes.iter_mut() {
        let value = left << 8 | u32::from(*byte);
        *byte = u8::try_from(value / u32::from(by)).unwrap_or(u8::MAX);
        left = value % u32::from(by);
    }
    u16::try_from(left).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_numerics_are_as_the_others() {
        for (units, scale) in
            [(0, 0), (0, 3), (1, 9), (-1250, 2), (10_i128.pow(38) - 1, 5), (i128::MIN, 9), (-1, 0)]
        {
            let (mut wide, mut narrow) = (Tuples::default(), Tuples::default());
            wide.wide_numeric(&units.to_be_bytes(), scale);
            narrow.numeric(units, scale);
            assert_eq!(wide.as_slice(), narrow.as_slice(), "{units} {scale}");
        }
    }

    fn numeric(units: i128, scale: u8) -> Vec<i32> {
        let mut out = Tuples::default();
        out.numeric(units, scale);
        let words: Vec<i32> = out.as_slice()[4..]
            .chunks(2)
            .map(|pair| i32::from(u16::from_be_bytes([pair[0], pair[1]]).cast_signed()))
            .collect();
        assert_eq!(out.as_slice()[..4], u32::try_from(words.len() * 2).unwrap().to_be_bytes());
        words
    }

    /// Golden: what `SELECT numeric_send(x)` gives on PostgreSQL 18.
    #[test]
    fn numerics_are_what_the_server_sends() {
        assert_eq!(numeric(0, 0), [0, 0, 0, 0]);
        assert_eq!(numeric(0, 2), [0, 0, 0, 2]);
        assert_eq!(numeric(1, 0), [1, 0, 0, 0, 1]);
        assert_eq!(numeric(-1250, 2), [2, 0, 0x4000, 2, 12, 5000]);
        assert_eq!(numeric(100, 2), [1, 0, 0, 2, 1]);
        assert_eq!(numeric(5, 2), [1, -1, 0, 2, 500]);
        assert_eq!(numeric(1, 8), [1, -2, 0, 8, 1]);
        assert_eq!(numeric(1, 9), [1, -3, 0, 9, 1000]);
        assert_eq!(numeric(10_000, 0), [1, 1, 0, 0, 1]);
        assert_eq!(numeric(9_747_747_934, 3), [3, 1, 0, 3, 974, 7747, 9340]);
        assert_eq!(numeric(10_000_001, 3), [3, 1, 0, 3, 1, 0, 10]);
        assert_eq!(
            numeric(i128::from(i64::MIN), 9),
            [6, 2, 0x4000, 9, 92, 2337, 2036, 8547, 7580, 8000]
        );
        assert_eq!(numeric(10_i128.pow(38) - 1, 0).len(), 4 + 10);
        assert_eq!(numeric(i128::MIN, 9)[..4], [11, 7, 0x4000, 9]);
    }

    #[test]
    fn fields_have_their_lengths() {
        let mut out = Tuples::default();
        out.tuple(3);
        out.null();
        out.text("é");
        out.timestamptz(EPOCH_2000 + 1);
        let expected =
            [&[0, 3][..], &[0xff; 4], &[0, 0, 0, 2, 0xc3, 0xa9], &[0, 0, 0, 8], &[0; 7], &[1]];
        assert_eq!(out.as_slice(), expected.concat());
    }

    #[test]
    fn arrays_and_json_are_what_the_server_sends() {
        let mut out = Tuples::default();
        out.text_array(&[]);
        assert_eq!(out.as_slice(), [&[0, 0, 0, 12][..], &[0; 8], &[0, 0, 0, 25]].concat());
        let mut out = Tuples::default();
        out.text_array(&["a"]);
        let expected = [
            &[0, 0, 0, 25][..],
            &[0, 0, 0, 1],
            &[0; 4],
            &[0, 0, 0, 25],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1, b'a'],
        ];
        assert_eq!(out.as_slice(), expected.concat());
        let mut out = Tuples::default();
        out.jsonb("{}");
        assert_eq!(out.as_slice(), [0, 0, 0, 3, 1, b'{', b'}']);
    }
}
