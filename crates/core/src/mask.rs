//! Finding card numbers in texts: nothing we write may show a full one.

use std::borrow::Cow;
use std::ops::Range;

/// Digits of a card number. Source: ISO/IEC 7812-1.
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// How many of its last digits may be shown. Source: PCI DSS 4.0, requirement 3.4.1.
pub const SHOWN: usize = 4;

/// `text` with every card number shown as stars and its last four digits.
#[must_use]
pub fn mask_card_numbers(text: &str) -> Cow<'_, str> {
    replace_card_numbers(text, |number, out| {
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        let mut hidden = digits - SHOWN;
        for c in number.chars() {
            let hides = c.is_ascii_digit() && hidden > 0;
            hidden -= usize::from(hides);
            out.push(if hides { '*' } else { c });
        }
    })
}

/// `text` with what `write` puts in the place of every card number: a run of 13 to 19 digits, blanks
/// and hyphens between them allowed, that passes the Luhn check. Digits that only stand beside it
/// (a date, another number) do not hide it. Source: ISO/IEC 7812-1, annex B.
#[must_use]
pub fn replace_card_numbers(text: &str, mut write: impl FnMut(&str, &mut String)) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    if bytes.iter().filter(|b| b.is_ascii_digit()).count() < *DIGITS.start() {
        return Cow::Borrowed(text);
    }
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let groups = groups_from(bytes, at);
        for span in card_spans(bytes, &groups) {
            out.push_str(&text[copied..span.start]);
            write(&text[span.clone()], &mut out);
            copied = span.end;
        }
        at = groups.last().map_or(at + 1, |group| group.end);
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Groups of digits from `start` on, each a blank or a hyphen from the next.
fn groups_from(bytes: &[u8], start: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut at = start;
    loop {
        let length = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        groups.push(at..at + length);
        at += length;
        let joined = matches!(bytes.get(at), Some(b' ' | b'-'))
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !joined {
            return groups;
        }
        at += 1;
    }
}

/// Where card numbers are. Of numbers that overlap, some fit by chance: together they are one, so
/// that of none of them more than the last digits are shown.
fn card_spans(bytes: &[u8], groups: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (first, group) in groups.iter().enumerate() {
        let Some(last) = card_from(bytes, &groups[first..]) else { continue };
        let end = groups[first + last].end;
        match spans.last_mut() {
            Some(span) if span.end > group.start => span.end = span.end.max(end),
            _ => spans.push(group.start..end),
        }
    }
    spans
}

/// How many groups after the first belong to a card number that begins with it; the most, if
/// several fit.
fn card_from(bytes: &[u8], groups: &[Range<usize>]) -> Option<usize> {
    let mut digits = 0;
    let mut found = None;
    for (index, group) in groups.iter().enumerate() {
        digits += group.len();
        if digits > *DIGITS.end() {
            break;
        }
        if DIGITS.contains(&digits) && luhn(bytes, &groups[..=index]) {
            found = Some(index);
        }
    }
    found
}

fn luhn(bytes: &[u8], groups: &[Range<usize>]) -> bool {
    let digits = groups.iter().rev().flat_map(|group| bytes[group.clone()].iter().rev());
    let sum: u32 = digits
        .enumerate()
        .map(|(i, byte)| {
            let digit = u32::from(byte - b'0');
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

    #[test]
    fn neighbouring_digits_do_not_hide_a_card() {
        assert_eq!(mask_card_numbers("05 4111 1111 1111 1111 12"), "05 **** **** **** 1111 12");
        // "01-05 4111 1111 1111" passes the check by chance, and overlaps.
        let masked = mask_card_numbers("2026-01-05 4111 1111 1111 1111 12");
        assert_eq!(masked, "2026-**-** **** **** **** 1111 12");
        assert_eq!(mask_card_numbers("7-4111111111111111"), "7-************1111");
        // A longer run of digits is no card number.
        let long = "14111111111111111111111";
        assert_eq!(mask_card_numbers(long), long);
    }

    #[test]
    fn every_card_is_replaced() {
        let text = "4111111111111111;5500005555555559";
        let shown = replace_card_numbers(text, |number, out| {
            out.push_str(&number[number.len() - SHOWN..]);
        });
        assert_eq!(shown, "1111;5559");
    }
}
