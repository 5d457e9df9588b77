//! Who is not to be told about what for a while: silences with matchers as Alertmanager has them, and times of maintenance. Asked by
//! the engine for every alert that fires. A matcher that would match everything is refused where it is made.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Bytes that a compiled pattern may take.
const PATTERN_SIZE: usize = 1 << 18;
const LONGEST_TEXT: usize = 500;

/// One condition on a label; an absent label is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matcher {
    pub name: String,
    pub value: String,
    #[serde(default)]
    pub is_regex: bool,
    #[serde(default = "yes")]
    pub is_equal: bool,
    #[serde(skip)]
    pattern: Option<Regex>,
}

fn yes() -> bool {
    true
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.value, self.is_regex, self.is_equal) == (&other.name, &other.value, other.is_regex, other.is_equal)
    }
}

impl std::fmt::Display for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.operator(), self.value)
    }
}

impl Matcher {
    /// The error is a sentence.
    pub fn new(name: &str, value: &str, is_regex: bool, is_equal: bool) -> Result<Self, String> {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(fine) {
            return Err(format!("\"{name}\" is not the name of a label"));
        }
        if value.len() > LONGEST_TEXT {
            return Err(format!("the value for {name} is longer than {LONGEST_TEXT} bytes"));
        }
        // Anchored at both ends, as Alertmanager has it.
        let compile = || RegexBuilder::new(&format!("^(?:{value})$")).size_limit(PATTERN_SIZE).build();
        let pattern =
            is_regex.then(compile).transpose().map_err(|_| format!("\"{value}\" is not a pattern that can be used for {name}"))?;
        Ok(Self { name: name.to_owned(), value: value.to_owned(), is_regex, is_equal, pattern })
    }

    /// Reads `system=backup`, `alertname!="disk"`, `probe=~"shop.*"`, `severity!~"info|warning"`. The error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refused = || format!("\"{text}\" is not a matcher: write it like system=backup, alertname!=disk or probe=~\"shop.*\"");
        let at = text.find(['=', '!']).ok_or_else(refused)?;
        let (name, rest) = text.split_at(at);
        let operators = [("=~", true, true), ("!~", true, false), ("!=", false, false), ("=", false, true)];
        let (operator, is_regex, is_equal) = operators.into_iter().find(|(o, ..)| rest.starts_with(o)).ok_or_else(refused)?;
        let value = rest[operator.len()..].trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        Self::new(name.trim(), value, is_regex, is_equal)
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.fits(labels.get(&self.name).map(String::as_str).unwrap_or_default()) == self.is_equal
    }

    fn fits(&self, value: &str) -> bool {
        match (&self.pattern, self.is_regex) {
            (Some(pattern), _) => pattern.is_match(value),
            (None, false) => self.value == value,
            // A pattern that was never compiled fits nothing: what is stored goes through `Silence::ready`.
            (None, true) => false,
        }
    }

    fn operator(&self) -> &'static str {
        match (self.is_regex, self.is_equal) {
            (false, true) => "=",
            (false, false) => "!=",
            (true, true) => "=~",
            (true, false) => "!~",
        }
    }
}

/// No messages about alerts that all its matchers match, between two times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// `sil_...`
    pub id: String,
    pub matchers: Vec<Matcher>,
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub author: String,
    pub reason: String,
    pub created_at: DateTime<Utc>,
    /// Ended before its time.
    pub ended_at: Option<DateTime<Utc>>,
    pub ended_by: Option<String>,
}

impl Silence {
    /// As read from where it was stored: its patterns are made ready. The error is a sentence.
    pub fn ready(mut self) -> Result<Self, String> {
        let compiled = self.matchers.iter().map(|m| Matcher::new(&m.name, &m.value, m.is_regex, m.is_equal));
        self.matchers = compiled.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Whether it may be made. The error names the field and says what is wrong.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), (&'static str, String)> {
        let empty = BTreeMap::new();
        if self.matchers.iter().all(|m| m.matches(&empty)) {
            return Err(("matchers", "at least one matcher must ask for something: as it is, everything would be silent".into()));
        }
        if self.matchers.len() > 20 {
            return Err(("matchers", "a silence has at most 20 matchers".into()));
        }
        if self.reason.trim().is_empty() || self.reason.len() > LONGEST_TEXT {
            return Err(("reason", format!("say why, in 1 to {LONGEST_TEXT} bytes, for whoever looks at it later")));
        }
        if self.author.trim().is_empty() || self.author.len() > 100 {
            return Err(("author", "say who you are, in 1 to 100 bytes".into()));
        }
        if self.ends_at <= self.starts_at || self.ends_at <= now {
            return Err(("ends_at", "it must end after it starts, and in the future".into()));
        }
        if self.ends_at - now > chrono::TimeDelta::days(366) {
            return Err(("ends_at", "a silence lasts a year at most".into()));
        }
        Ok(())
    }

    pub fn is_in_force(&self, now: DateTime<Utc>) -> bool {
        self.starts_at <= now && now < self.ends_at && self.ended_at.is_none()
    }

    /// `pending`, `active` or `expired`, as Alertmanager calls them.
    pub fn state(&self, now: DateTime<Utc>) -> &'static str {
        if self.ended_at.is_some() || now >= self.ends_at {
            "expired"
        } else if now < self.starts_at {
            "pending"
        } else {
            "active"
        }
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matchers.iter().all(|m| m.matches(labels))
    }
}

/// A time of maintenance that is in force now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Of which systems; empty: of all.
    pub systems: Vec<String>,
    pub reason: String,
}

impl Maintenance {
    pub fn covers(&self, system: &str) -> bool {
        self.systems.is_empty() || self.systems.iter().any(|s| s == system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_matcher_matches_as_alertmanagers_does() {
        let probe = labels(&[("alertname", "probe"), ("probe", "shop-eu")]);
        for (text, matches) in [
            ("alertname=probe", true),
            ("alertname=\"probe\"", true),
            ("alertname = pro", false),
            ("alertname!=disk", true),
            ("alertname!=probe", false),
            ("probe=~shop.*", true),
            ("probe=~shop", false),
            ("probe=~\"shop-(eu|us)\"", true),
            ("probe!~shop", true),
            ("probe!~shop.+", false),
            ("absent=", true),
            ("absent!=x", true),
            ("absent=~.*", true),
            ("absent=~.+", false),
        ] {
            assert_eq!(Matcher::parse(text).unwrap().matches(&probe), matches, "{text}");
        }
    }

    #[test]
    fn what_is_no_matcher_is_refused_with_a_sentence() {
        for (text, expected) in [
            ("probe", "is not a matcher"),
            ("=x", "is not the name"),
            ("a b=x", "is not the name"),
            ("a=~(", "is not a pattern"),
            ("a!x", "is not a matcher"),
        ] {
            assert!(Matcher::parse(text).unwrap_err().contains(expected), "{text}");
        }
        assert!(Matcher::parse("a=~(a{1000}){1000}").unwrap_err().contains("is not a pattern"), "a pattern that would take much memory");
    }

    fn silence(matchers: &[&str]) -> Silence {
        let at = |hour: i64| DateTime::from_timestamp(hour * 3600, 0).unwrap();
        Silence {
            id: "sil_1".into(),
            matchers: matchers.iter().map(|m| Matcher::parse(m).unwrap()).collect(),
            starts_at: at(1),
            ends_at: at(3),
            author: "anna".into(),
            reason: "the disk is being changed".into(),
            created_at: at(1),
            ended_at: None,
            ended_by: None,
        }
    }

    #[test]
    fn a_silence_holds_between_its_times_for_what_all_its_matchers_match() {
        let at = |hour: i64| DateTime::from_timestamp(hour * 3600, 0).unwrap();
        let it = silence(&["system=backup", "alertname!=disk"]);
        assert_eq!(
            [0, 1, 2, 3].map(|h| (it.is_in_force(at(h)), it.state(at(h)))),
            [(false, "pending"), (true, "active"), (true, "active"), (false, "expired")]
        );
        assert!(it.matches(&labels(&[("system", "backup")])) && !it.matches(&labels(&[("system", "backup"), ("alertname", "disk")])));
        let ended = Silence { ended_at: Some(at(1)), ..it.clone() };
        assert!(!ended.is_in_force(at(2)) && ended.state(at(2)) == "expired");
        let text = serde_json::to_string(&silence(&["probe=~shop.*"])).unwrap();
        assert!(text.contains("\"isRegex\":true"), "{text}");
        let back = serde_json::from_str::<Silence>(&text).unwrap().ready().unwrap();
        assert!(back.matches(&labels(&[("probe", "shop-eu")])), "patterns are made ready when it is read back");
    }

    #[test]
    fn a_silence_that_would_hide_everything_or_says_nothing_is_refused() {
        let now = DateTime::from_timestamp(3600, 0).unwrap();
        let fine = silence(&["system=backup"]);
        assert_eq!(fine.check(now), Ok(()));
        for (silence, field) in [
            (Silence { matchers: vec![], ..fine.clone() }, "matchers"),
            (silence(&["system=~.*"]), "matchers"),
            (silence(&["system!=x"]), "matchers"),
            (Silence { reason: " ".into(), ..fine.clone() }, "reason"),
            (Silence { author: String::new(), ..fine.clone() }, "author"),
            (Silence { ends_at: fine.starts_at, ..fine.clone() }, "ends_at"),
            (Silence { ends_at: now + chrono::TimeDelta::days(400), ..fine.clone() }, "ends_at"),
        ] {
            assert_eq!(silence.check(now).unwrap_err().0, field);
        }
    }
}
