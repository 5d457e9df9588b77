//! Signed links in messages: what one allows (acknowledge, snooze, run a task) about which alert or task, until when. Made by the alert
//! actor, read by the gateway when somebody follows one. Pure; whoever is refused must never be told why.
//!
//! What is signed is `act:{what}:{about}:{expires}`; the secret is used for nothing else.

use ring::hmac;

/// Seconds that an end may lie further in the future than that of a link made now: clocks of nodes differ.
const SLACK_S: i64 = 300;
/// The longest that a link may work: `notify.links_h` is 720 at most.
const LONGEST_S: i64 = 720 * 3600;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Acknowledge,
    /// For an hour.
    Snooze,
    /// Runs a task now.
    Run,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledge => "ack",
            Self::Snooze => "snooze",
            Self::Run => "run",
        }
    }
}

/// What a link that verifies allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub action: Action,
    /// The episode (`al_...`), or the task.
    pub about: String,
    /// Unix seconds.
    pub expires: i64,
}

fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

fn text(action: Action, about: &str, expires: i64) -> String {
    format!("act:{}:{about}:{expires}", action.as_str())
}

/// `{base}/act?do=..&about=..&expires=..&sig=..`; `base` comes from the configuration, `expires` is in Unix seconds.
pub fn link(base: &str, secret: &str, action: Action, about: &str, expires: i64) -> String {
    let tag = hmac::sign(&key(secret), text(action, about, expires).as_bytes());
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    let signature: String = tag.as_ref().iter().flat_map(digits).collect();
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("do", action.as_str())
        .append_pair("about", about)
        .append_pair("expires", &expires.to_string())
        .append_pair("sig", &signature)
        .finish();
    format!("{}/act?{query}", base.trim_end_matches('/'))
}

/// Reads a raw query string (or the body of a form with the same fields) and checks shape, signature and end, in this order. `None` for
/// everything that does not verify.
pub fn read(query: &str, secret: &str, now: i64) -> Option<Grant> {
    if secret.is_empty() || query.len() > 2000 {
        return None;
    }
    let field = |name: &str| {
        let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        values.next().filter(|_| values.next().is_none())
    };
    let (action, about, expires, signature) = (field("do")?, field("about")?, field("expires")?, field("sig")?);
    let action = [Action::Acknowledge, Action::Snooze, Action::Run].into_iter().find(|a| a.as_str() == action)?;
    let end: i64 = expires.parse().ok().filter(|end: &i64| end.to_string() == expires)?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if signature.len() != 64 || !signature.bytes().all(lower) || about.is_empty() {
        return None;
    }
    let bytes: Vec<u8> = (0..32).map_while(|i| u8::from_str_radix(signature.get(2 * i..2 * i + 2)?, 16).ok()).collect();
    hmac::verify(&key(secret), text(action, &about, end).as_bytes(), &bytes).ok()?;
    (now <= end && end - now <= LONGEST_S + SLACK_S).then_some(Grant { action, about, expires: end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000;

    fn query(link: &str) -> &str {
        link.split_once('?').unwrap().1
    }

    #[test]
    fn a_link_is_good_for_what_it_was_made_for_until_its_end() {
        let made = link("https://ops.example.com/", "secret", Action::Snooze, "al_1", NOW + 10);
        assert!(made.starts_with("https://ops.example.com/act?do=snooze&about=al_1&expires="), "{made}");
        let grant = Grant { action: Action::Snooze, about: "al_1".into(), expires: NOW + 10 };
        assert_eq!(read(query(&made), "secret", NOW), Some(grant.clone()));
        assert_eq!(read(query(&made), "secret", NOW + 10), Some(grant), "the last second counts");
        assert_eq!(read(query(&made), "secret", NOW + 11), None, "expired");
        assert_eq!(read(query(&made), "other", NOW), None, "another secret");
        assert_eq!(read(query(&made), "", NOW), None);
        assert_eq!(read(query(&link("b", "secret", Action::Run, "t", NOW + 721 * 3600)), "secret", NOW), None, "further than any of ours");
    }

    #[test]
    fn what_was_changed_is_refused() {
        let made = link("", "secret", Action::Acknowledge, "al_1", NOW + 10);
        let good = query(&made);
        assert!(read(good, "secret", NOW).is_some());
        for changed in [
            good.replace("do=ack", "do=snooze"),
            good.replace("do=ack", "do=run"),
            good.replace("al_1", "al_2"),
            good.replace(&(NOW + 10).to_string(), &(NOW + 11).to_string()),
            good.replace(&(NOW + 10).to_string(), &format!("0{}", NOW + 10)),
            format!("{good}&do=ack"),
            format!("{good}0"),
            good.to_uppercase(),
            good.replace("sig=", "sig=00"),
            good.split_once("&sig").unwrap().0.to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&changed, "secret", NOW), None, "{changed}");
        }
    }

    proptest! {
        #[test]
        fn no_text_verifies_by_chance_or_panics(text in "\\PC{0,200}", about in "[a-z_]{1,10}", sig in "[0-9a-f]{64}") {
            prop_assert_eq!(read(&text, "secret", NOW), None);
            let forged = format!("do=ack&about={about}&expires={}&sig={sig}", NOW + 5);
            prop_assert_eq!(read(&forged, "secret", NOW), None);
        }
    }
}
