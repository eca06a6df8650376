//! File names with `*` and `?`.

/// Whether `name` fits a pattern of `*` (any text), `?` (one character) and literal characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where the last star stood, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name) in [("*", ""), ("a*c", "abbc"), ("?.csv", "ñ.csv"), ("**x*", "ax")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("?", ""), ("a*c", "abcd"), ("", "a"), ("*.csv", "a.csv.gz")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // Many stars cost no more than one.
        assert!(!matches(&"*a".repeat(40), &("a".repeat(400) + "b")));
    }
}
