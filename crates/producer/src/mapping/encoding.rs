//! Windows-1252 to UTF-8.

use super::file::Encoding;

/// What 0x80 to 0x9F stand for; the five that stand for nothing stay control characters.
/// Source: WHATWG Encoding Standard, index windows-1252.
const HIGH: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

fn decoded(byte: u8) -> char {
    match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        other => char::from(other),
    }
}

/// Brings values that lie one after another in `fields`, each ending at its entry of `ends`, to
/// UTF-8, where they are not and the encoding says what they are.
pub fn to_utf8(encoding: Encoding, fields: &mut Vec<u8>, ends: &mut [usize]) {
    let foreign = match encoding {
        Encoding::Utf8 => false,
        Encoding::Windows1252 => !fields.is_ascii(),
        Encoding::Auto => {
            let text = std::str::from_utf8(fields);
            !text.is_ok_and(|text| ends.iter().all(|end| text.is_char_boundary(*end)))
        }
    };
    if !foreign {
        return;
    }
    let mut text = String::with_capacity(fields.len() + fields.len() / 8);
    let mut start = 0;
    for end in ends.iter_mut() {
        text.extend(fields[start..*end].iter().map(|byte| decoded(*byte)));
        start = std::mem::replace(end, text.len());
    }
    *fields = text.into_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(encoding: Encoding, bytes: &[u8]) -> (Vec<u8>, [usize; 2]) {
        let (mut fields, mut ends) = (bytes.to_vec(), [1, bytes.len()]);
        to_utf8(encoding, &mut fields, &mut ends);
        (fields, ends)
    }

    #[test]
    fn every_value_keeps_its_end() {
        let both = ("€é“x".as_bytes().to_vec(), [3, 9]);
        assert_eq!(decode(Encoding::Windows1252, b"\x80\xe9\x93x"), both);
        assert_eq!(decode(Encoding::Auto, b"\x80\xe9\x93x"), both);
    }

    #[test]
    fn utf8_is_left_alone_where_it_may_be_that() {
        assert_eq!(decode(Encoding::Auto, "xé".as_bytes()).0, "xé".as_bytes());
        assert_eq!(decode(Encoding::Utf8, b"x\xe9").0, b"x\xe9");
        assert_eq!(decode(Encoding::Windows1252, "xé".as_bytes()).0, "xÃ©".as_bytes());
    }
}
