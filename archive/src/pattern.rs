//! Names that are left out: `*` and `?` stay within a name, `**` crosses folders. A pattern without a slash is looked for in every
//! folder; one that matches a folder leaves out everything below it.

/// Several patterns; a name is left out if one of them matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Vec<u8>>);

impl Patterns {
    /// Errors name the pattern and what is wrong with it.
    pub fn new(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, String> {
        let mut all = Vec::new();
        for pattern in patterns {
            let text = pattern.as_ref();
            if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| part == "..") {
                return Err(format!("the pattern \"{text}\" must be a name in the archive, like logs/debug/** or *.tmp"));
            }
            let text = text.trim_end_matches('/');
            all.push(if text.contains('/') { text.as_bytes().to_vec() } else { format!("**/{text}").into_bytes() });
        }
        Ok(Self(all))
    }

    /// Whether the name of an entry matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|pattern| glob(pattern, name))
    }
}

/// Which beginnings of the name the pattern's beginning matches, symbol by symbol: the time is pattern times name, whatever the stars.
fn glob(mut pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    while !pattern.is_empty() {
        match pattern {
            // No folder or several: it goes on here, or after any slash further on.
            [b'*', b'*', b'/', rest @ ..] => {
                let mut before = false;
                for at in 0..=name.len() {
                    let here = reached[at];
                    reached[at] |= before && name[at - 1] == b'/';
                    before |= here;
                }
                pattern = rest;
            }
            [b'*', b'*', rest @ ..] => {
                for at in 1..=name.len() {
                    reached[at] |= reached[at - 1];
                }
                pattern = rest;
            }
            [b'*', rest @ ..] => {
                for at in 1..=name.len() {
                    reached[at] |= reached[at - 1] && name[at - 1] != b'/';
                }
                pattern = rest;
            }
            [symbol, rest @ ..] => {
                for at in (1..=name.len()).rev() {
                    let byte = name[at - 1];
                    reached[at] = reached[at - 1] && if *symbol == b'?' { byte != b'/' } else { byte == *symbol };
                }
                reached[0] = false;
                pattern = rest;
            }
            [] => {}
        }
    }
    reached[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        let cases = [
            ("*.tmp", "logs/a.tmp", true),
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "logs/a.tmp/b", false),
            ("logs/*", "logs/a", true),
            ("logs/*", "logs/a/b", false),
            ("logs/**", "logs/a/b", true),
            ("logs/debug", "logs/debug", true),
            ("logs/debug/", "logs/debug", true),
            ("a?c", "x/abc", true),
            ("a?c", "a/c", false),
            ("**/x/*.log", "x/y.log", true),
            ("**/x/*.log", "a/b/x/y.log", true),
            (".lock", "backups/daily/.lock", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "ax", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/c/d/b", true),
            ("a/**/b", "a/cb", false),
            ("a**b", "a/x/b", true),
            ("*a*a*a*a*a*a*a*a*b", &"a".repeat(4000), false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Patterns::new([pattern]).unwrap().matches(name.as_bytes()), expected, "{pattern} {name}");
        }
        for bad in ["", "/etc", "a/../b"] {
            assert!(Patterns::new([bad]).is_err(), "{bad}");
        }
    }
}
