//! What must not be kept of a log line: keys, tokens, passwords, signatures, card numbers and e-mail addresses. Called for every sample before
//! it is stored. It hides too much rather than too little; it never fails.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

/// Bytes of a sample that are kept.
const LONGEST: usize = 500;

/// What is hidden, each with a group of what stays before it.
static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        // The provider's keys and secrets, and our own.
        r"\b(?P<key>(?:sk|rk|pk)_(?:test|live)_|whsec_|ep_)[A-Za-z0-9+/=_-]{6,}",
        // name=value, "name":"value", name: value
        r#"|(?i:(?P<name>["']?\b[a-z_-]*(?:password|passwd|secret|token|api_?key|dash_?key|authorization|signature|sig|cookie)\b["']?\s*[:=]\s*))(?:(?i:bearer|basic)\s+)?(?:"[^"]*"|'[^']*'|[^\s,;&"'}]+)"#,
        r"|(?i:(?P<scheme>\b(?:bearer|basic)\s+))[A-Za-z0-9+/=._~-]{8,}",
        // user:password@ of a URL
        r"|(?P<url>://[^\s/:@]*:)[^\s/@]+@",
        r"|(?P<slack>hooks\.slack\.com/services/|api\.telegram\.org/bot)[^\s/]+\S*",
        r"|(?P<email>[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)",
        r"|(?P<card>\b(?:\d[ -]?){12,18}\d\b)",
    ))
    .expect("the patterns are tested")
});

/// The line without what must not be kept, on one line and not longer than a sample may be.
pub fn redact(line: &str) -> String {
    let cut = line.len() > LONGEST;
    // Hidden before it is cut, else half a secret would look like none; what is far beyond is not looked at.
    let line = until(line, LONGEST * 8);
    let hidden: Cow<'_, str> = SECRETS.replace_all(line, |found: &Captures<'_>| {
        if found.name("email").is_some() {
            return "[e-mail]".to_owned();
        }
        if found.name("card").is_some() {
            return card(&found[0]);
        }
        let before = ["key", "name", "scheme", "url", "slack"].iter().find_map(|name| found.name(name)).map_or("", |group| group.as_str());
        let after = if found.name("url").is_some() { "@" } else { "" };
        format!("{before}[hidden]{after}")
    });
    let plain: String = hidden.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let kept = until(plain.trim(), LONGEST);
    if cut || kept.len() < plain.trim().len() { format!("{kept}…") } else { kept.to_owned() }
}

/// A number is a card's only if its check digit is right: others are times and ids, which whoever looks needs.
fn card(text: &str) -> String {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let sum: u32 = digits.iter().rev().enumerate().map(|(n, d)| if n % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { *d }).sum();
    if sum.is_multiple_of(10) { "[card number]".to_owned() } else { text.to_owned() }
}

/// At most so many bytes, whole characters.
fn until(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_addresses_are_hidden_and_the_rest_stays() {
        for (line, expected) in [
            ("key sk_live_abcDEF123456 was refused", "key sk_live_[hidden] was refused"),
            ("whsec_5f3bAAAA9999 does not match", "whsec_[hidden] does not match"),
            ("ana.b@shop.example paid 12.00 USD", "[e-mail] paid 12.00 USD"),
            ("{\"password\":\"hunter2\",\"user\":\"ana\"}", "{\"password\":[hidden],\"user\":\"ana\"}"),
            ("SMTP_PASSWORD=hunter2, host=mail", "SMTP_PASSWORD=[hidden], host=mail"),
            ("Authorization: Bearer abc.def.ghi-123", "Authorization: [hidden]"),
            ("sent with bearer abcdefghij", "sent with bearer [hidden]"),
            ("postgres://app:pa55@db:5432/x", "postgres://app:[hidden]@db:5432/x"),
            ("portal?email=a%40b&expires=1&sig=00ff00ff", "portal?email=a%40b&expires=1&sig=[hidden]"),
            ("POST https://hooks.slack.com/services/T0/B0/xyz failed", "POST https://hooks.slack.com/services/[hidden] failed"),
            ("card 4242 4242 4242 4242 and id 1790000000000", "card [card number] and id 1790000000000"),
            ("ch_3Qabc at 2026-11-28T01:00:00Z: token expired", "ch_3Qabc at 2026-11-28T01:00:00Z: token expired"),
            ("a\tb\u{1b}[31m", "a b [31m"),
        ] {
            assert_eq!(redact(line), expected);
        }
    }

    #[test]
    fn a_long_line_is_cut_after_its_secrets_are_hidden() {
        let line = format!("{} token={} end", "ä".repeat(240), "s".repeat(300));
        let kept = redact(&line);
        assert!(kept.len() <= LONGEST + 4 && kept.ends_with('…') && !kept.contains("sss"), "{kept}");
    }
}
