//! How far two words are apart, for "did you mean". Used for the keys of the configuration and the names of time zones.

/// Levenshtein distance over bytes: how many insertions, deletions and substitutions turn one into the other.
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The nearest of `known`, if it is near enough to be what was meant: at most two edits, or a third of the word.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = |name: &&&str| distance(word, name) <= (word.len() / 3).max(2);
    known.iter().filter(near).min_by_key(|name| distance(word, name)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("listne", "listen", 2), ("Berln", "Berlin", 1), ("a", "b", 1)] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn what_was_meant_is_the_nearest_word_unless_none_is_near() {
        let known = ["drop_webhook", "slow_ms", "slow_page"];
        for (word, meant) in [("drop_webhok", Some("drop_webhook")), ("slow_mss", Some("slow_ms")), ("slow", None), ("nonsense", None)] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
    }
}
