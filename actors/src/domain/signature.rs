//! Signatures of webhooks in the provider's scheme: `t=<unix>,v1=<hex HMAC-SHA256 of "t.body">`. Called by the gateway (to
//! verify) and by the sandbox (to sign). Pure: time and secrets are arguments. It must see the raw body, never a
//! re-serialised one, and compares every signature with every secret in constant time without stopping at the first hit.

use std::fmt;

use ring::hmac;
use subtle::{Choice, ConstantTimeEq as _};

/// How far a timestamp may be from our clock, in either direction, in seconds.
pub const TOLERANCE_S: i64 = 300;

/// Why a delivery was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The header is absent or empty.
    Missing,
    /// An item without `=`, no timestamp, or one that is not digits only.
    Malformed,
    /// More than one timestamp: parsers disagree about which one counts.
    DuplicateTimestamp,
    /// No `v1` signature, e.g. only the test scheme `v0`.
    NoScheme,
    Mismatch,
    TooOld,
    TooNew,
}

impl Failure {
    /// The reason as a log field and in the list of refused deliveries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "signature_missing",
            Self::Malformed => "signature_malformed",
            Self::DuplicateTimestamp => "signature_duplicate_timestamp",
            Self::NoScheme => "signature_no_scheme",
            Self::Mismatch => "signature_mismatch",
            Self::TooOld => "signature_too_old",
            Self::TooNew => "signature_too_new",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the signature header is missing",
            Self::Malformed => "the signature header cannot be read",
            Self::DuplicateTimestamp => "the signature header has more than one timestamp",
            Self::NoScheme => "the signature header has no v1 signature",
            Self::Mismatch => "no signature matches the body",
            Self::TooOld => "the signature is too old",
            Self::TooNew => "the signature is from the future",
        })
    }
}

impl std::error::Error for Failure {}

/// Checks a delivery: `now_unix` is our own clock, `tolerance_s` applies both ways. Any `v1` that matches any secret will do,
/// because several occur while a secret is rolled. Whether the body is authentic is decided before its age is looked at, so
/// that a forger learns nothing about our clock.
pub fn verify(header: &str, body: &[u8], secrets: &[&str], now_unix: i64, tolerance_s: i64) -> Result<(), Failure> {
    if header.is_empty() {
        return Err(Failure::Missing);
    }
    let (mut timestamp, mut signatures) = (None, Vec::new());
    for item in header.split(',') {
        match item.split_once('=') {
            Some(("t", _)) if timestamp.is_some() => return Err(Failure::DuplicateTimestamp),
            Some(("t", value)) => timestamp = Some(value),
            Some(("v1", value)) => signatures.push(value),
            Some(_) => {} // a scheme we do not know
            None => return Err(Failure::Malformed),
        }
    }
    let timestamp = timestamp.ok_or(Failure::Malformed)?;
    if timestamp.is_empty() || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Failure::Malformed);
    }
    let t: i64 = timestamp.parse().map_err(|_| Failure::Malformed)?;
    if signatures.is_empty() {
        return Err(Failure::NoScheme);
    }
    let mut matches = Choice::from(0);
    // An empty secret would let anybody sign.
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        let expected = sign_text(secret, timestamp, body);
        for signature in &signatures {
            matches |= expected.as_bytes().ct_eq(signature.as_bytes());
        }
    }
    if !bool::from(matches) {
        return Err(Failure::Mismatch);
    }
    let age = now_unix.saturating_sub(t);
    if age > tolerance_s {
        Err(Failure::TooOld)
    } else if age < -tolerance_s {
        Err(Failure::TooNew)
    } else {
        Ok(())
    }
}

/// The `v1` signature: lowercase hex. The key is the whole secret, `whsec_` included.
pub fn sign(secret: &str, t: i64, body: &[u8]) -> String {
    sign_text(secret, &t.to_string(), body)
}

/// A `Stripe-Signature` header with one `v1` per secret (two while a secret is rolled).
pub fn header(secrets: &[&str], t: i64, body: &[u8]) -> String {
    let mut header = format!("t={t}");
    for secret in secrets {
        header.push_str(",v1=");
        header.push_str(&sign(secret, t, body));
    }
    header
}

fn sign_text(secret: &str, t: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    context.update(t.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        use fmt::Write as _;
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_test_secret";
    const T: i64 = 1_700_000_000;
    const BODY: &[u8] = br#"{"id":"evt_test_1","object":"event","type":"charge.refunded","data":{"object":{}}}"#;
    const V1: &str = "db66fe2e22a0c66bdc8955105d6ee4affd8073ca464ebed77d1b55366bcc2780";

    fn check(header: &str, now: i64) -> Result<(), Failure> {
        verify(header, BODY, &[SECRET], now, TOLERANCE_S)
    }

    #[test]
    fn the_known_vector_is_made_and_accepted() {
        assert_eq!(sign(SECRET, T, BODY), V1);
        assert_eq!(header(&[SECRET], T, BODY), format!("t={T},v1={V1}"));
        assert_eq!(check(&header(&[SECRET], T, BODY), T), Ok(()));
    }

    #[test]
    fn headers_are_judged_as_in_the_table() {
        let other = sign("whsec_other", T, BODY);
        for (header, now, expected) in [
            (format!("v1={V1},t={T}"), T, Ok(())),
            (format!("t={T},v1={other},v1={V1}"), T, Ok(())),
            (format!("t={T},v1={V1},v1=nonsense"), T, Ok(())),
            (format!("t={T},v0={other},v1={V1},x=y"), T, Ok(())),
            (format!("t={T},v1={V1}"), T + 300, Ok(())),
            (format!("t={T},v1={V1}"), T - 300, Ok(())),
            (format!("t={T},v1={V1}"), T + 301, Err(Failure::TooOld)),
            (format!("t={T},v1={V1}"), T - 301, Err(Failure::TooNew)),
            (String::new(), T, Err(Failure::Missing)),
            ("nonsense".into(), T, Err(Failure::Malformed)),
            (format!("t={T},v1={V1},"), T, Err(Failure::Malformed)),
            (format!("v1={V1}"), T, Err(Failure::Malformed)),
            (format!("t=,v1={V1}"), T, Err(Failure::Malformed)),
            (format!("t={T}abc,v1={V1}"), T, Err(Failure::Malformed)),
            (format!("t=+{T},v1={V1}"), T, Err(Failure::Malformed)),
            (format!("t=-{T},v1={V1}"), T, Err(Failure::Malformed)),
            (format!("t=99999999999999999999,v1={V1}"), T, Err(Failure::Malformed)),
            (format!("t={T},t={T},v1={V1}"), T, Err(Failure::DuplicateTimestamp)),
            (format!("t={},v1={V1},t={T}", T + 1), T, Err(Failure::DuplicateTimestamp)),
            (format!("t={T}"), T, Err(Failure::NoScheme)),
            (format!("t={T},v0={V1}"), T, Err(Failure::NoScheme)),
            (format!("t={T}, v1={V1}"), T, Err(Failure::NoScheme)),
            (format!("t={T},v1={}", V1.to_uppercase()), T, Err(Failure::Mismatch)),
            (format!("t={T},v1={}", &V1[..63]), T, Err(Failure::Mismatch)),
            (format!("t={T},v1="), T, Err(Failure::Mismatch)),
            (format!("t={T},v1={other}"), T, Err(Failure::Mismatch)),
            // The wrong signature is reported as such, however old it is.
            (format!("t={T},v1={other}"), T + 9999, Err(Failure::Mismatch)),
            (format!("t={},v1={V1}", T + 1), T, Err(Failure::Mismatch)),
        ] {
            assert_eq!(check(&header, now), expected, "{header}");
        }
    }

    #[test]
    fn a_changed_body_or_secret_does_not_match() {
        let header = header(&[SECRET], T, BODY);
        let longer = [BODY, b"\n"].concat();
        assert_eq!(verify(&header, &longer, &[SECRET], T, 300), Err(Failure::Mismatch));
        assert_eq!(verify(&header, BODY, &["whsec_test_secret\n"], T, 300), Err(Failure::Mismatch));
        assert_eq!(verify(&header, BODY, &[], T, 300), Err(Failure::Mismatch));
    }

    #[test]
    fn an_empty_secret_never_verifies() {
        let forged = header(&[""], T, BODY);
        assert_eq!(verify(&forged, BODY, &["", SECRET], T, 300), Err(Failure::Mismatch));
    }

    #[test]
    fn while_a_secret_is_rolled_both_sides_may_hold_either() {
        let both = header(&["whsec_new", "whsec_old"], T, BODY);
        for secrets in [&["whsec_old"][..], &["whsec_new"], &["whsec_none", "whsec_new"], &["whsec_old", "whsec_new"]] {
            assert_eq!(verify(&both, BODY, secrets, T, 300), Ok(()), "{secrets:?}");
        }
        assert_eq!(verify(&both, BODY, &["whsec_none"], T, 300), Err(Failure::Mismatch));
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(header in ".{0,80}", now: i64) {
            let _ = verify(&header, BODY, &[SECRET], now, 300);
        }
    }
}
