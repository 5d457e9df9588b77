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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("listne", "listen", 2), ("Berln", "Berlin", 1), ("a", "b", 1)] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
