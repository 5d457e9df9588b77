//! Signed links to a customer's page: the canonical e-mail address, the signature and the strict check of a query string.
//! Called by the gateway when it mints a link and when a customer opens one. Pure; must never say to a client why it refused.
//!
//! The message is `{email}:{expires}` with no purpose tag, so the secret must be used for nothing else. A link grants reading
//! this one customer's invoices until it expires, and nothing more may ever hang off it.

use ring::hmac;
use subtle::{Choice, ConstantTimeEq};

/// How long a minted link is valid, in seconds.
pub const TTL_S: i64 = 86_400;
/// How much further in the future than a link minted right now an expiry may lie, in seconds (clock differences between nodes).
const FUTURE_SLACK_S: i64 = 300;
const MAX_EMAIL_LEN: usize = 254;

/// The form in which an address is looked up, signed and shown: without surrounding spaces, lower case, one `@`, no whitespace or control characters,
/// at most 254 bytes. Dots and `+tags` are kept. A non-ASCII domain is kept as lower-case Unicode (not turned into Punycode): minting
/// and verifying use the same form, so they agree. The error is a sentence for the person who typed the address.
pub fn canonical_email(raw: &str) -> Result<String, String> {
    let email = raw.trim_matches(' ').to_lowercase();
    if email.len() > MAX_EMAIL_LEN {
        return Err(format!("the e-mail address is longer than {MAX_EMAIL_LEN} bytes"));
    }
    if email.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("the e-mail address contains whitespace or a control character".to_owned());
    }
    match email.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !domain.contains('@') => Ok(email),
        _ => Err("an e-mail address has exactly one @ with something on both sides".to_owned()),
    }
}

fn mac(secret: &str, email: &str, expires: &str) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    context.update(email.as_bytes());
    context.update(b":");
    context.update(expires.as_bytes());
    context.sign()
}

/// Lower-case hex HMAC-SHA256 of `{email}:{expires}` with the secret's UTF-8 bytes as the key. `email` must be canonical;
/// `expires` is in Unix seconds.
pub fn sign(secret: &str, email: &str, expires: i64) -> String {
    let tag = mac(secret, email, &expires.to_string());
    tag.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

/// `{base}/portal?email=..&expires=..&sig=..`, form-encoded, so that a `+` in the address survives. `base` comes from the
/// configuration, never from a request's Host header.
pub fn link(base: &str, secret: &str, email: &str, expires: i64) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("email", email)
        .append_pair("expires", &expires.to_string())
        .append_pair("sig", &sign(secret, email, expires))
        .finish();
    format!("{}/portal?{query}", base.trim_end_matches('/'))
}

/// What a valid link allows: reading this customer's invoices until `expires` (Unix seconds).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub email: String,
    pub expires: i64,
}

/// Why a link was refused. For the log only: the page shows one answer for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A field is missing, repeated or not of the exact shape that `link` writes.
    Malformed,
    BadSignature,
    Expired,
    /// Validly signed, but further in the future than any link of ours: a leaked secret or another program.
    TooFar,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::TooFar => "too_far",
        }
    }
}

/// Checks the raw query string (still encoded, without `?`) of a portal link: shape, then signature against every secret (current
/// and previous) in constant time without stopping at the first match, and only then the expiry. Unknown keys are ignored, a
/// repeated key of ours is refused, an empty secret never matches. `now` is in Unix seconds.
pub fn verify(raw_query: &str, secrets: &[&str], now: i64) -> Result<Grant, Refusal> {
    let (mut email, mut expires, mut sig) = (None, None, None);
    for (key, value) in form_urlencoded::parse(raw_query.as_bytes()) {
        let slot = match key.as_ref() {
            "email" => &mut email,
            "expires" => &mut expires,
            "sig" => &mut sig,
            _ => continue,
        };
        if slot.replace(value.into_owned()).is_some() {
            return Err(Refusal::Malformed);
        }
    }
    let (Some(email), Some(expires), Some(sig)) = (email, expires, sig) else { return Err(Refusal::Malformed) };
    if canonical_email(&email).as_deref() != Ok(email.as_str()) {
        return Err(Refusal::Malformed);
    }
    let expires_at = parse_expires(&expires).ok_or(Refusal::Malformed)?;
    let given = parse_signature(&sig).ok_or(Refusal::Malformed)?;
    let mut valid = Choice::from(0);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        valid |= mac(secret, &email, &expires).as_ref().ct_eq(&given);
    }
    if !bool::from(valid) {
        return Err(Refusal::BadSignature);
    }
    if now > expires_at {
        return Err(Refusal::Expired);
    }
    if expires_at > now + TTL_S + FUTURE_SLACK_S {
        return Err(Refusal::TooFar);
    }
    Ok(Grant { email, expires: expires_at })
}

/// 1 to 11 digits without sign or leading zero: then `{email}:{expires}` can be read in one way only.
fn parse_expires(text: &str) -> Option<i64> {
    let shaped = (1..=11).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if shaped { text.parse().ok() } else { None }
}

fn parse_signature(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "portal-test-secret";
    const EXPIRES: i64 = 1_700_000_000;
    const USER: &str = "f5b4ce1f3f31a1af4e1118157ca9e98d292fdf5151450864efc76c5d6d22c9b5";
    const TAGGED: &str = "af4bc5816631ce50eb9fd4c6f6bb1ceb8f524243ec9c834fa687f876315e2a07";

    fn check(query: &str, now: i64) -> Result<Grant, Refusal> {
        verify(query, &[SECRET], now)
    }

    #[test]
    fn the_published_vectors_hold_and_a_plus_survives_the_link() {
        assert_eq!(sign(SECRET, "user@example.com", EXPIRES), USER);
        assert_eq!(sign(SECRET, "user+tag@example.com", EXPIRES), TAGGED);
        let url = link("https://app.example/", SECRET, "user+tag@example.com", EXPIRES);
        assert_eq!(url, format!("https://app.example/portal?email=user%2Btag%40example.com&expires=1700000000&sig={TAGGED}"));
        let grant = check(url.split_once('?').unwrap().1, EXPIRES).unwrap();
        assert_eq!(grant, Grant { email: "user+tag@example.com".into(), expires: EXPIRES });
    }

    #[test]
    fn an_address_is_canonical_or_refused() {
        for (raw, canonical) in [
            (" User+Tag@Example.COM ", Some("user+tag@example.com")),
            ("o'brien.x@münchen.DE", Some("o'brien.x@münchen.de")),
            ("", None),
            ("a", None),
            ("@b.c", None),
            ("a@", None),
            ("a@b@c", None),
            ("a b@c.d", None),
            ("a@b.c\r\n", None),
            ("a\0@b.c", None),
            ("a\u{a0}@b.c", None),
        ] {
            assert_eq!(canonical_email(raw).ok().as_deref(), canonical, "{raw:?}");
        }
        assert!(canonical_email(&format!("{}@x.de", "a".repeat(249))).is_ok());
        assert!(canonical_email(&format!("{}@x.de", "a".repeat(250))).is_err());
    }

    #[test]
    fn anything_but_the_exact_shape_is_malformed() {
        let good = format!("email=user%40example.com&expires=1700000000&sig={USER}");
        assert!(check(&good, EXPIRES).is_ok());
        assert!(check(&format!("{good}&utm=1&utm=2"), EXPIRES).is_ok(), "unknown keys are ignored");
        for bad in [
            String::new(),
            good.replace("email=", "mail="),
            format!("{good}&email=user%40example.com"),
            format!("{good}&%65mail=other%40example.com"),
            format!("{good}&sig={USER}"),
            good.replace("user%40", "User%40"),
            good.replace("user%40", "+user%40"),
            good.replace("expires=1700000000", "expires=01700000000"),
            good.replace("expires=1700000000", "expires=%2B1700000000"),
            good.replace("expires=1700000000", "expires=-1"),
            good.replace("expires=1700000000", "expires="),
            good.replace("expires=1700000000", "expires=170000000000"),
            good.replace("expires=1700000000", "expires=1700000000.0"),
            good.replace("expires=1700000000", "expires=%D9%A1"),
            good.replace(USER, &USER.to_uppercase()),
            good.replace(USER, &USER[..62]),
            good.replace(USER, &format!("{USER}00")),
            good.replace(USER, ""),
        ] {
            assert_eq!(check(&bad, EXPIRES), Err(Refusal::Malformed), "{bad}");
        }
    }

    #[test]
    fn every_live_secret_verifies_and_only_those() {
        let query = format!("email=user%40example.com&expires=1700000000&sig={USER}");
        assert!(verify(&query, &["new", SECRET], EXPIRES).is_ok());
        assert!(verify(&query, &[SECRET, "old"], EXPIRES).is_ok());
        for secrets in [&["new", "old"][..], &[], &[""]] {
            assert_eq!(verify(&query, secrets, EXPIRES), Err(Refusal::BadSignature));
        }
        let unkeyed = link("", "", "user@example.com", EXPIRES);
        assert_eq!(verify(unkeyed.split_once('?').unwrap().1, &[""], EXPIRES), Err(Refusal::BadSignature));
    }

    #[test]
    fn expiry_counts_only_after_a_valid_signature() {
        let query = format!("email=user%40example.com&expires=1700000000&sig={USER}");
        let furthest = EXPIRES - TTL_S - FUTURE_SLACK_S;
        for (now, verdict) in
            [(EXPIRES, None), (EXPIRES + 1, Some(Refusal::Expired)), (furthest, None), (furthest - 1, Some(Refusal::TooFar))]
        {
            assert_eq!(check(&query, now).err(), verdict, "now {now}");
        }
        assert_eq!(check(&query.replace("user", "loser"), EXPIRES + 1), Err(Refusal::BadSignature));
    }

    proptest! {
        #[test]
        fn a_minted_link_verifies_and_a_changed_one_does_not(local in "[a-z0-9.+_%&=:-]{1,20}", flip in 0usize..64, ttl in 0i64..=TTL_S) {
            let email = canonical_email(&format!("{local}@example.com")).unwrap();
            let url = link("http://h", SECRET, &email, EXPIRES + ttl);
            let query = url.split_once('?').unwrap().1;
            prop_assert_eq!(check(query, EXPIRES), Ok(Grant { email, expires: EXPIRES + ttl }));
            let mut bytes = query.as_bytes().to_vec();
            let at = bytes.len() - 64 + flip;
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            prop_assert_eq!(check(std::str::from_utf8(&bytes).unwrap(), EXPIRES), Err(Refusal::BadSignature));
        }

        #[test]
        fn no_query_makes_it_panic(query in ".{0,200}") {
            let _ = check(&query, EXPIRES);
        }
    }
}
