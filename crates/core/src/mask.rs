//! Masking of card numbers: nothing we write may show a full one.

/// `text` with every run of 13 to 19 digits (blanks and hyphens between them allowed) that passes
/// the Luhn check shown as stars and its last four digits. Source: ISO/IEC 7812-1, annex B.
#[must_use]
pub fn mask_card_numbers(text: &str) -> std::borrow::Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut masked: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let run = digit_run(bytes, at);
        if (13..=19).contains(&run.positions.len()) && luhn(bytes, &run.positions) {
            let out = masked.get_or_insert_with(|| bytes.to_vec());
            for position in &run.positions[..run.positions.len() - 4] {
                out[*position] = b'*';
            }
        }
        at = run.end;
    }
    // Only ASCII digits were replaced by ASCII stars: still UTF-8.
    match masked.map(String::from_utf8) {
        Some(Ok(text)) => std::borrow::Cow::Owned(text),
        _ => std::borrow::Cow::Borrowed(text),
    }
}

struct DigitRun {
    positions: Vec<usize>,
    end: usize,
}

fn digit_run(bytes: &[u8], start: usize) -> DigitRun {
    let mut positions = Vec::new();
    let mut at = start;
    while at < bytes.len() {
        let separator = matches!(bytes[at], b' ' | b'-');
        let joins = separator && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if bytes[at].is_ascii_digit() {
            positions.push(at);
        } else if !joins {
            break;
        }
        at += 1;
    }
    DigitRun { positions, end: at.max(start + 1) }
}

fn luhn(bytes: &[u8], positions: &[usize]) -> bool {
    let sum: u32 = positions
        .iter()
        .rev()
        .enumerate()
        .map(|(i, p)| {
            let digit = u32::from(bytes[*p] - b'0');
            let doubled = digit * 2;
            match (i % 2, doubled) {
                (0, _) => digit,
                (_, d) if d > 9 => d - 9,
                (_, d) => d,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cards_and_nothing_else() {
        assert_eq!(mask_card_numbers("pan 4111111111111111 ok"), "pan ************1111 ok");
        assert_eq!(mask_card_numbers("4111-1111-1111-1111"), "****-****-****-1111");
        assert_eq!(mask_card_numbers("order 4111111111111112"), "order 4111111111111112");
        assert_eq!(mask_card_numbers("17850 2010"), "17850 2010");
        assert_eq!(mask_card_numbers("ñ 5500005555555559 €"), "ñ ************5559 €");
    }
}
