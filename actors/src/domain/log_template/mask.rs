//! What differs from line to line by nature is put behind a mask before templates are mined: addresses, ids, numbers, paths, times. Called
//! by the miner for every line it learns. It only rewrites text; secrets are hidden by `incident/redact.rs`, for another reason.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

/// Each mask with what it stands for, the most particular first: what one has taken, no later one sees.
const MASKS: [(&str, &str); 10] = [
    ("email", r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"),
    ("url", r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\x22'<>]+"),
    ("time", r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b|\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"),
    ("uuid", r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b"),
    ("ip", r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b|\[?\b(?:[0-9A-Fa-f]{1,4}:){3,7}[0-9A-Fa-f]{1,4}\b\]?(?::\d{1,5})?"),
    // An id with a prefix has a digit somewhere, else it is a name: `payout_reconciliation`.
    ("id", r"\b[a-z]{2,10}_(?:test_|live_)?[A-Za-z0-9]*\d[A-Za-z0-9]{3,}\b|\b[a-z]{2,10}_(?:test_|live_)?[A-Za-z]{4,}\d[A-Za-z0-9]*\b"),
    ("path", r"(?:\.{1,2}|\B)/[\w.@+-]+(?:/[\w.@+-]*)+"),
    ("hex", r"\b0x[0-9A-Fa-f]+\b|\b(?:\d+[a-fA-F]|[a-fA-F]+\d)[0-9A-Fa-f]*\b"),
    ("num", r"[-+]?\b\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?"),
    ("quoted", r#""[^"]{0,200}""#),
];
/// Shorter words of hexadecimal digits are words or numbers with a unit.
const SHORTEST_HEX: usize = 8;

static ALL: LazyLock<Regex> = LazyLock::new(|| {
    let parts: Vec<String> = MASKS.iter().map(|(name, pattern)| format!("(?P<{name}>{pattern})")).collect();
    Regex::new(&parts.join("|")).expect("the masks are tested")
});

/// `text` with every variable part replaced by its mask: `<ip>`, `<id>`, `<num>`.
pub fn mask(text: &str) -> Cow<'_, str> {
    ALL.replace_all(text, |found: &Captures<'_>| {
        let whole = &found[0];
        let name = MASKS.iter().map(|(name, _)| *name).find(|name| found.name(name).is_some()).unwrap_or("*");
        if name == "hex" && !whole.starts_with("0x") && whole.len() < SHORTEST_HEX {
            return short(whole);
        }
        format!("<{name}>")
    })
}

/// `12ms` and `a1`: a leading number is masked, its unit stays; anything else is left as it is.
fn short(word: &str) -> String {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 { word.to_owned() } else { format!("<num>{}", &word[digits..]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_by_nature_is_masked_and_names_stay() {
        for (text, expected) in [
            ("evt_1Qa2b3C4d5 failed for ana@shop.example", "<id> failed for <email>"),
            ("GET https://api.stripe.com/v1/charges?limit=3 took 12ms", "GET <url> took <num>ms"),
            ("from 10.0.0.7:8443 and 192.168.1.1", "from <ip> and <ip>"),
            ("run 550e8400-e29b-41d4-a716-446655440000 ended", "run <uuid> ended"),
            ("block 0xdeadBEEF at 7f3a9c0012", "block <hex> at <hex>"),
            ("cannot open /var/lib/echopilot/data/echopilot.db: 13", "cannot open <path>: <num>"),
            ("2026-11-28T01:02:03.123Z 3 of 4 rows, 92.5 %", "<time> <num> of <num> rows, <num> %"),
            ("payout_reconciliation and daily_backup are names", "payout_reconciliation and daily_backup are names"),
            ("task payout_recon: decade facade", "task payout_recon: decade facade"),
            ("amount -1,234.50 usd", "amount <num> usd"),
            ("sk_test_4eC39HqLyjWDarjtT1zdp7dc is refused", "<id> is refused"),
            ("said \"no such table: x\" twice", "said <quoted> twice"),
        ] {
            assert_eq!(mask(text), expected, "{text}");
        }
    }
}
