//! Avro binary encoding, by hand for speed: the primitives, and the codec of a transaction.
//! Source: Apache Avro 1.12 specification, "Binary Encoding". Golden tests hold it to apache-avro.
//!
//! The internal formats (state blocks, partials) use the same primitives.

mod transaction;

pub use transaction::{read_transaction, write_transaction};

/// Appends Avro primitives to a buffer.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Writer::default()
    }

    /// A writer that starts with Confluent framing: 0x00 and the big-endian schema id.
    #[must_use]
    pub fn framed(schema_id: u32) -> Self {
        let mut out = Vec::with_capacity(160);
        out.push(0);
        out.extend_from_slice(&schema_id.to_be_bytes());
        Writer(out)
    }

    /// `int` and `long`: zigzag, then little-endian groups of seven bits.
    pub fn long(&mut self, value: i64) {
        self.varint(zigzag(value));
    }

    fn varint(&mut self, mut bits: u64) {
        while bits >= 0x80 {
            self.0.push(low_byte(bits) | 0x80);
            bits >>= 7;
        }
        self.0.push(low_byte(bits));
    }

    /// `boolean`.
    pub fn boolean(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// `bytes`: length, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.long(i64::try_from(value.len()).unwrap_or(i64::MAX));
        self.0.extend_from_slice(value);
    }

    /// As [`Writer::bytes`] of what `write` appends, without a buffer in between: short contents, as
    /// nearly all are, have their length in the byte that is kept for it.
    pub fn sized(&mut self, write: impl FnOnce(&mut Writer)) {
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = i64::try_from(self.0.len() - at - 1).unwrap_or(i64::MAX);
        let bits = zigzag(length);
        if bits < 0x80 {
            self.0[at] = low_byte(bits);
        } else {
            let mut head = Writer::new();
            head.varint(bits);
            self.0.splice(at..=at, head.0);
        }
    }

    /// `string`: length in bytes, then UTF-8.
    pub fn string(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// `["null", "string"]`.
    pub fn optional_string(&mut self, value: Option<&str>) {
        match value {
            None => self.long(0),
            Some(text) => {
                self.long(1);
                self.string(text);
            }
        }
    }

    /// `bytes` with logicalType decimal: the shortest big-endian two's complement.
    pub fn decimal(&mut self, value: i128) {
        let all = value.to_be_bytes();
        let sign = if value < 0 { 0xff } else { 0 };
        let redundant = all
            .windows(2)
            .take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0)
            .count();
        self.bytes(&all[redundant..]);
    }

    /// Bytes as they are (fixed).
    pub fn fixed(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// Sixteen bytes as they are (fixed).
    pub fn fixed16(&mut self, value: &[u8; 16]) {
        self.0.extend_from_slice(value);
    }

    /// Eight bytes as they are (fixed).
    pub fn fixed8(&mut self, value: [u8; 8]) {
        self.0.extend_from_slice(&value);
    }

    /// A 128-bit integer as sixteen big-endian bytes (fixed).
    pub fn int128(&mut self, value: i128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The buffer.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn low_byte(bits: u64) -> u8 {
    bits.to_le_bytes()[0]
}

/// Bytes that are not valid Avro under the expected schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct AvroError {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Position in the body.
    pub at: usize,
}

/// Reads Avro primitives from a buffer. Never allocates more than the buffer justifies.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// An error at the current position.
    #[must_use]
    pub fn error(&self, what: &'static str) -> AvroError {
        AvroError { what, at: self.at }
    }

    /// `long` (and `int`).
    ///
    /// # Errors
    /// When the buffer ends or more than 64 bits are encoded.
    pub fn long(&mut self) -> Result<i64, AvroError> {
        let mut bits = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(self.error("truncated number"))?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(self.error("number longer than 64 bits"));
            }
            bits |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(self.error("number longer than 64 bits"))
    }

    /// `int`: a `long` of at most 32 bits.
    ///
    /// # Errors
    /// When the buffer ends or more than 32 bits are encoded.
    pub fn int(&mut self) -> Result<i32, AvroError> {
        let error = self.error("int beyond 32 bits");
        i32::try_from(self.long()?).map_err(|_| error)
    }

    /// `float`.
    ///
    /// # Errors
    /// When the buffer ends.
    pub fn float(&mut self) -> Result<f32, AvroError> {
        let error = self.error("truncated 4 bytes");
        self.take(4)?.try_into().map(f32::from_le_bytes).map_err(|_| error)
    }

    /// The number of a union's branch or an enum's symbol, of so many.
    ///
    /// # Errors
    /// When there is no such one.
    pub fn place(&mut self, of: usize, what: &'static str) -> Result<usize, AvroError> {
        let error = self.error(what);
        usize::try_from(self.long()?).ok().filter(|place| *place < of).ok_or(error)
    }

    /// A `long` that is a count or length no larger than what is left.
    ///
    /// # Errors
    /// When it is negative or larger than the rest of the buffer.
    pub fn length(&mut self) -> Result<usize, AvroError> {
        let value = self.long()?;
        usize::try_from(value)
            .ok()
            .filter(|n| *n <= self.bytes.len() - self.at)
            .ok_or(self.error("length beyond the end"))
    }

    /// `boolean`.
    ///
    /// # Errors
    /// When the byte is neither 0 nor 1.
    pub fn boolean(&mut self) -> Result<bool, AvroError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.error("boolean that is neither 0 nor 1")),
        }
    }

    /// `bytes`.
    ///
    /// # Errors
    /// When the length runs beyond the end.
    pub fn bytes(&mut self) -> Result<&'a [u8], AvroError> {
        let length = self.length()?;
        self.take(length)
    }

    /// `string`.
    ///
    /// # Errors
    /// When the length runs beyond the end or the bytes are not UTF-8.
    pub fn string(&mut self) -> Result<&'a str, AvroError> {
        let error = self.error("text that is not UTF-8");
        std::str::from_utf8(self.bytes()?).map_err(|_| error)
    }

    /// `["null", "string"]`.
    ///
    /// # Errors
    /// When the branch is unknown or the text invalid.
    pub fn optional_string(&mut self) -> Result<Option<&'a str>, AvroError> {
        match self.long()? {
            0 => Ok(None),
            1 => self.string().map(Some),
            _ => Err(self.error("unknown union branch")),
        }
    }

    /// `bytes` with logicalType decimal of at most 128 bits.
    ///
    /// # Errors
    /// When it is longer than 128 bits or empty.
    pub fn decimal(&mut self) -> Result<i128, AvroError> {
        let error = self.error("decimal that is not 1 to 16 bytes");
        units(self.bytes()?).ok_or(error)
    }

    /// That many bytes as they are (fixed).
    ///
    /// # Errors
    /// When the buffer ends.
    pub fn fixed(&mut self, length: usize) -> Result<&'a [u8], AvroError> {
        self.take(length)
    }

    /// Sixteen bytes as they are.
    ///
    /// # Errors
    /// When the buffer ends.
    pub fn fixed16(&mut self) -> Result<[u8; 16], AvroError> {
        let error = self.error("truncated 16 bytes");
        self.take(16)?.try_into().map_err(|_| error)
    }

    /// Eight bytes as they are.
    ///
    /// # Errors
    /// When the buffer ends.
    pub fn fixed8(&mut self) -> Result<[u8; 8], AvroError> {
        let error = self.error("truncated 8 bytes");
        self.take(8)?.try_into().map_err(|_| error)
    }

    /// A 128-bit integer as sixteen big-endian bytes.
    ///
    /// # Errors
    /// When the buffer ends.
    pub fn int128(&mut self) -> Result<i128, AvroError> {
        self.fixed16().map(i128::from_be_bytes)
    }

    /// Items of an array or map: calls `item` for each, whatever the blocks.
    ///
    /// # Errors
    /// What `item` returns, or a count beyond what the buffer can hold.
    pub fn blocks<E: From<AvroError>>(
        &mut self,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // A negative count is followed by the block's size in bytes.
                self.length()?;
                count = count.checked_neg().ok_or(self.error("block count out of range"))?;
            }
            for _ in 0..count {
                let before = self.at;
                item(self)?;
                if self.at == before {
                    return Err(self.error("block of items without bytes").into());
                }
            }
        }
    }

    /// That every byte was read.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn end(&self) -> Result<(), AvroError> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.error("trailing bytes")) }
    }

    /// The bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Whether every byte was read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], AvroError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(self.error("truncated"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

/// The number that two's complement in big-endian order says; `None` of no bytes, and beyond 128 bits.
/// More bytes than the number needs are well: a fixed may be wider.
#[must_use]
pub fn units(bytes: &[u8]) -> Option<i128> {
    let sign = if bytes.first()? & 0x80 == 0 { 0 } else { 0xff };
    let (fill, rest) = bytes.split_at(bytes.len().saturating_sub(16));
    let same_sign = rest.first().is_some_and(|first| (first ^ sign) & 0x80 == 0);
    if fill.iter().any(|byte| *byte != sign) || !same_sign {
        return None;
    }
    let mut all = [sign; 16];
    all[16 - rest.len()..].copy_from_slice(rest);
    Some(i128::from_be_bytes(all))
}

/// The usual form of a UUID (RFC 9562).
#[must_use]
pub fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Splits Confluent framing: the schema id and the body. `None` without magic byte or id.
#[must_use]
pub fn unframe(value: &[u8]) -> Option<(u32, &[u8])> {
    let (magic, rest) = value.split_first()?;
    let id: [u8; 4] = rest.get(..4)?.try_into().ok()?;
    (*magic == 0).then(|| (u32::from_be_bytes(id), &rest[4..]))
}

/// Writes an array of texts.
pub fn write_strings<'a>(out: &mut Writer, texts: impl ExactSizeIterator<Item = &'a str>) {
    if texts.len() > 0 {
        out.long(i64::try_from(texts.len()).unwrap_or(i64::MAX));
        texts.for_each(|text| out.string(text));
    }
    out.long(0);
}

/// Reads an array of texts.
///
/// # Errors
/// [`AvroError`] when the bytes are not one.
pub fn read_strings<'a>(input: &mut Reader<'a>) -> Result<Vec<&'a str>, AvroError> {
    let mut texts = Vec::new();
    input.blocks::<AvroError>(|input| {
        texts.push(input.string()?);
        Ok(())
    })?;
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_may_have_more_bytes_than_they_need() {
        assert_eq!(units(&[0xff, 0x38]), Some(-200));
        assert_eq!(units(&[[0xff; 23].as_slice(), &[0xfe]].concat()), Some(-2));
        assert_eq!(units(&[[0x01].as_slice(), &[0; 16]].concat()), None);
        // Sixteen bytes whose sign is in a seventeenth.
        assert_eq!(units(&[[0x00, 0x80].as_slice(), &[0; 15]].concat()), None);
        assert_eq!(units(&[]), None);
    }

    #[test]
    fn sized_contents_read_as_bytes() {
        for length in [0, 1, 63, 64, 8_191, 8_192, 1 << 20] {
            let contents = vec![7; length];
            let mut out = Writer::new();
            out.long(-5);
            out.sized(|out| contents.iter().for_each(|byte| out.boolean(*byte == 7)));
            out.long(9);
            let written = out.into_bytes();
            let mut input = Reader::new(&written);
            assert_eq!(input.long(), Ok(-5));
            assert_eq!(input.bytes().map(<[u8]>::len), Ok(length));
            assert_eq!(input.long(), Ok(9));
            assert_eq!(input.end(), Ok(()));
        }
    }
}
