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

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', b'*', b'/', rest @ ..] => glob(rest, name) || after_slashes(name).any(|tail| glob(rest, tail)),
        [b'*', b'*', rest @ ..] => (0..=name.len()).any(|n| glob(rest, &name[n..])),
        [b'*', rest @ ..] => {
            let within = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
            (0..=within).any(|n| glob(rest, &name[n..]))
        }
        [b'?', rest @ ..] => matches!(name, [byte, tail @ ..] if *byte != b'/' && glob(rest, tail)),
        [byte, rest @ ..] => matches!(name, [first, tail @ ..] if first == byte && glob(rest, tail)),
    }
}

fn after_slashes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(n, _)| &name[n + 1..])
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
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Patterns::new([pattern]).unwrap().matches(name.as_bytes()), expected, "{pattern} {name}");
        }
        for bad in ["", "/etc", "a/../b"] {
            assert!(Patterns::new([bad]).is_err(), "{bad}");
        }
    }
}
