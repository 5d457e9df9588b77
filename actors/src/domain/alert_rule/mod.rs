//! Alerts: a check says how something stands now, `step` turns the sequence of checks of one rule into an alert that fires, holds and
//! resolves without flapping. Called by the alert actor for every check of `production_alerts` and `ops_sentinel`; it stores the alert.
//! The catalogue of rules is in `catalog.rs`, their judgement of what was measured in `figure.rs`, on recorded history in `replay.rs`.

mod catalog;
mod figure;
mod parts;
mod replay;
mod response;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

pub use catalog::{Also, Catalogue, Limit, Rule};
pub use figure::{Sample, judge};
pub use parts::{Part, parts};
pub use replay::{Episode, Fared, Replay, replay};
pub use response::Acknowledged;

/// How many of the last checks are remembered for flap detection (Nagios uses as many).
const REMEMBERED: u32 = 21;
/// More changes than this within the remembered checks is flapping, fewer than [`CALM_BELOW`] ends it.
const FLAPPING_ABOVE: u32 = 4;
const CALM_BELOW: u32 = 2;

/// How bad it is. `Critical` wakes somebody, `Warning` is for working hours, `Info` is only shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    #[default]
    Warning,
    Critical,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One rule applied to what was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// The rule's name, the alert's `alertname`: `api_errors`, `disk`, ...
    pub name: String,
    /// What tells this one from others of the same rule: `{"probe": "shop"}`. Part of the alert's identity.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `api`, `database`, `jobs` or `resources` (seed phase 69), `parts` (of the daemon), or the family of another rule.
    pub system: &'static str,
    /// `None`: there was nothing to measure; that neither raises nor resolves anything.
    pub ok: Option<bool>,
    /// What an alert of this check has; meaningful when `ok` is false.
    pub severity: Severity,
    /// With its unit: `92.1 %`, `2310 ms`.
    pub value: Option<String>,
    /// `<= 85 %`.
    pub threshold: String,
    /// A sentence for a person, true also when all is well.
    pub reason: String,
}

impl Check {
    /// The labels that are the alert's identity. Severity is not among them: an alert that gets worse is the same alert.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let own = [("alertname", self.name.as_str()), ("system", self.system)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.labels.iter().map(|(name, value)| (name.clone(), value.clone())).chain(own).collect()
    }
}

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Bad, but not often enough yet. Nobody is told.
    Pending,
    Firing,
    /// Was firing; kept until the caller forgets it.
    Resolved,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// A change that is worth a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    Fired,
    /// A firing alert became more severe.
    Escalated,
    Resolved,
}

impl Transition {
    /// For the journal and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fired => "fired",
            Self::Escalated => "escalated",
            Self::Resolved => "resolved",
        }
    }
}

/// The alert of one rule.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Alert {
    /// 16 hex digits, see [`fingerprint`].
    pub fingerprint: String,
    pub name: String,
    pub system: String,
    pub severity: Severity,
    pub state: State,
    /// The first bad check of the present (or, when resolved, the last) episode.
    pub since: DateTime<Utc>,
    /// When the episode ended.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
    /// When the episode fired; `None` while it is pending, and if it never did.
    #[serde(default)]
    pub fired_at: Option<DateTime<Utc>>,
    /// When people were told of the episode first; `None` if they were not, or only inside the message of its cause.
    #[serde(default)]
    pub told_at: Option<DateTime<Utc>>,
    /// When `state` or a firing alert's `severity` last changed.
    pub last_change: DateTime<Utc>,
    /// How often it has fired, the present episode included.
    pub fire_count: u32,
    /// Bad checks in a row, 0 if the last one was good.
    pub bad_streak: u32,
    /// Good checks in a row, 0 if the last one was bad.
    pub good_streak: u32,
    /// Changed too often lately: kept firing until it is calm, so that nobody gets a message per change.
    pub flapping: bool,
    pub value: Option<String>,
    pub threshold: String,
    /// Of the last bad check; when resolved, of the good check that ended it.
    pub reason: String,
    pub labels: BTreeMap<String, String>,
    /// The last 21 checks, the newest in bit 0, 1 = bad.
    pub history: u32,
    /// The same for the present episode only: what was bad before a resolve does not help to fire again.
    pub episode: u32,
    /// The last value that was fine, and when.
    #[serde(default)]
    pub last_good: Option<(String, DateTime<Utc>)>,
    /// Somebody looks after it: not told again, until it resolves or gets worse.
    #[serde(default)]
    pub acknowledged: Option<Acknowledged>,
    /// Not told again before this time, if it does not get worse.
    #[serde(default)]
    pub snoozed_until: Option<DateTime<Utc>>,
}

impl Alert {
    /// The episode's name: the same for everybody who knows the alert's identity and when it began, so that it needs no place to be kept.
    pub fn id(&self) -> String {
        let began = self.since.timestamp_micros().to_string();
        format!("al_{}", name_of(&[&self.fingerprint, &began]))
    }
}

/// How long a rule waits before its alert fires and resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub fire_after: u32,
    pub resolve_after: u32,
    /// Seconds.
    pub for_s: i64,
}

impl Patience {
    pub fn new(fire_after: u32, resolve_after: u32) -> Self {
        Self { fire_after, resolve_after, for_s: 0 }
    }

    /// As `rule` says, and as these where it says nothing.
    #[must_use]
    pub fn of(self, rule: Option<&Rule>) -> Self {
        let Some(rule) = rule else { return self };
        let (fire_after, resolve_after) = (rule.fire_after.unwrap_or(self.fire_after), rule.resolve_after.unwrap_or(self.resolve_after));
        Self { fire_after, resolve_after, for_s: rule.for_s }
    }
}

/// The next state of a rule's alert after one more check. A check without data leaves everything as it is.
///
/// It fires when `fire_after` of the last `2 * fire_after - 1` checks were bad and the first bad one is `for_s` seconds old (1 = at once, 3 = 3 of 5): demanding them in a row would never
/// notice a system that fails every other time. It resolves after `resolve_after` good checks in a row, unless it is flapping.
/// `None` for the alert means there is nothing to keep: never bad, or pending and then good `resolve_after` times.
pub fn step(previous: Option<&Alert>, check: &Check, now: DateTime<Utc>, patience: Patience) -> (Option<Alert>, Option<Transition>) {
    let Some(ok) = check.ok else { return (previous.cloned(), None) };
    let mut alert = match previous {
        Some(alert) => alert.clone(),
        None if ok => return (None, None),
        None => new_alert(check, now),
    };
    if alert.state == State::Resolved {
        alert.episode = 0;
    }
    remember(&mut alert, ok);
    if ok { good(alert, check, now, patience.resolve_after.max(1)) } else { bad(alert, check, now, patience) }
}

fn bad(mut alert: Alert, check: &Check, now: DateTime<Utc>, patience: Patience) -> (Option<Alert>, Option<Transition>) {
    if alert.state == State::Resolved {
        (alert.state, alert.since, alert.last_change) = (State::Pending, now, now);
        (alert.until, alert.fired_at, alert.told_at) = (None, None, None);
    }
    // A clock that was set back must not make anybody wait for it to catch up.
    if alert.state == State::Pending {
        alert.since = alert.since.min(now);
    }
    let worse = check.severity > alert.severity;
    alert.severity = check.severity;
    alert.value.clone_from(&check.value);
    alert.threshold.clone_from(&check.threshold);
    alert.reason.clone_from(&check.reason);
    let fire_after = patience.fire_after.clamp(1, 11);
    let recent = alert.episode & mask(2 * fire_after - 1);
    let long_enough = now - alert.since >= TimeDelta::seconds(patience.for_s);
    let transition = match alert.state {
        State::Firing if worse => Some(Transition::Escalated),
        State::Pending if recent.count_ones() >= fire_after && long_enough => {
            (alert.state, alert.fired_at) = (State::Firing, Some(now));
            alert.fire_count = alert.fire_count.saturating_add(1);
            Some(Transition::Fired)
        }
        _ => None,
    };
    if transition.is_some() {
        alert.last_change = now;
        alert.forget_response();
    }
    (Some(alert), transition)
}

fn good(mut alert: Alert, check: &Check, now: DateTime<Utc>, resolve_checks: u32) -> (Option<Alert>, Option<Transition>) {
    alert.last_good = Some((check.value.clone().unwrap_or_else(|| check.reason.clone()), now));
    let calm = alert.good_streak >= resolve_checks;
    match alert.state {
        State::Pending if calm && alert.fire_count == 0 => (None, None),
        // It fired in an earlier episode: that history stays.
        State::Pending if calm => {
            (alert.state, alert.last_change, alert.until) = (State::Resolved, now, Some(now));
            (Some(alert), None)
        }
        State::Firing if calm && !alert.flapping => {
            (alert.state, alert.last_change, alert.until) = (State::Resolved, now, Some(now));
            alert.forget_response();
            alert.value.clone_from(&check.value);
            alert.reason.clone_from(&check.reason);
            (Some(alert), Some(Transition::Resolved))
        }
        State::Pending | State::Firing | State::Resolved => (Some(alert), None),
    }
}

fn new_alert(check: &Check, now: DateTime<Utc>) -> Alert {
    let labels = check.labels();
    Alert {
        fingerprint: fingerprint(&labels),
        name: check.name.clone(),
        system: check.system.to_owned(),
        severity: check.severity,
        state: State::Pending,
        since: now,
        until: None,
        fired_at: None,
        told_at: None,
        last_change: now,
        fire_count: 0,
        bad_streak: 0,
        good_streak: 0,
        flapping: false,
        value: check.value.clone(),
        threshold: check.threshold.clone(),
        reason: check.reason.clone(),
        labels,
        history: 0,
        episode: 0,
        last_good: None,
        acknowledged: None,
        snoozed_until: None,
    }
}

fn remember(alert: &mut Alert, ok: bool) {
    alert.history = ((alert.history << 1) | u32::from(!ok)) & mask(REMEMBERED);
    alert.episode = ((alert.episode << 1) | u32::from(!ok)) & mask(REMEMBERED);
    (alert.bad_streak, alert.good_streak) =
        if ok { (0, alert.good_streak.saturating_add(1)) } else { (alert.bad_streak.saturating_add(1), 0) };
    let changes = ((alert.history ^ (alert.history >> 1)) & mask(REMEMBERED - 1)).count_ones();
    alert.flapping = if alert.flapping { changes >= CALM_BELOW } else { changes > FLAPPING_ABOVE };
}

fn mask(bits: u32) -> u32 {
    (1 << bits.min(31)) - 1
}

/// The identity of an alert: FNV-1a 64 over the labels sorted by name, each name and each value followed by a 0xFF byte, as 16 hex
/// digits. The same as Alertmanager's, so that both name an alert alike. The map is sorted by bytes, which is Alertmanager's order.
pub fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    digits(fnv(labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()])))
}

/// FNV-1a 64 over texts, each followed by a byte that no text has.
fn fnv<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in texts.into_iter().flat_map(|text| text.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn digits(hash: u64) -> String {
    format!("{hash:016x}")
}

/// A name that follows from texts alone: 16 hex digits, the same wherever it is made.
pub fn name_of(texts: &[&str]) -> String {
    digits(fnv(texts.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(ok: Option<bool>, severity: Severity) -> Check {
        let (value, threshold) = (Some("91.0 %".to_owned()), "<= 85 %".to_owned());
        Check {
            name: "disk".into(),
            system: "resources",
            ok,
            severity,
            value,
            threshold,
            reason: format!("disk: {ok:?}"),
            ..Check::default()
        }
    }

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(minutes * 300, 0).unwrap()
    }

    /// Feeds `1` bad, `0` good, `-` no data; returns the last alert and the transitions with the index of the check.
    fn feed(checks: &str, for_checks: u32, resolve_checks: u32) -> (Option<Alert>, Vec<(usize, Transition)>) {
        let (mut alert, mut transitions) = (None, vec![]);
        for (index, c) in checks.chars().enumerate() {
            let ok = match c {
                '1' => Some(false),
                '0' => Some(true),
                _ => None,
            };
            let (next, transition) = step(
                alert.as_ref(),
                &check(ok, Severity::Warning),
                at(i64::try_from(index).unwrap()),
                Patience::new(for_checks, resolve_checks),
            );
            alert = next;
            transitions.extend(transition.map(|t| (index, t)));
        }
        (alert, transitions)
    }

    #[test]
    fn an_alert_fires_and_resolves_as_often_as_its_rule_says() {
        use Transition::{Fired, Resolved};
        let cases = [
            ("0", 1, 1, None, vec![]),
            ("-", 1, 1, None, vec![]),
            ("1", 1, 1, Some(State::Firing), vec![(0, Fired)]),
            ("10", 1, 1, Some(State::Resolved), vec![(0, Fired), (1, Resolved)]),
            ("111", 3, 2, Some(State::Firing), vec![(2, Fired)]),
            ("11", 3, 2, Some(State::Pending), vec![]),
            ("1100", 3, 2, None, vec![]),
            ("1-1-1", 3, 2, Some(State::Firing), vec![(4, Fired)]),
            ("10101", 3, 2, Some(State::Firing), vec![(4, Fired)]),
            ("111010", 3, 2, Some(State::Firing), vec![(2, Fired)]),
            ("111--00", 3, 2, Some(State::Resolved), vec![(2, Fired), (6, Resolved)]),
            ("11100111", 3, 2, Some(State::Firing), vec![(2, Fired), (4, Resolved), (7, Fired)]),
            ("111000111", 3, 3, Some(State::Firing), vec![(2, Fired), (5, Resolved), (8, Fired)]),
            ("111000100", 3, 2, Some(State::Resolved), vec![(2, Fired), (4, Resolved)]),
        ];
        for (checks, for_checks, resolve_checks, state, transitions) in cases {
            let (alert, seen) = feed(checks, for_checks, resolve_checks);
            assert_eq!((alert.map(|a| a.state), seen), (state, transitions), "{checks} for {for_checks} resolve {resolve_checks}");
        }
    }

    #[test]
    fn an_alert_keeps_its_identity_and_counts_its_episodes() {
        let (alert, _) = feed("1-01", 1, 1);
        let alert = alert.unwrap();
        assert_eq!((alert.fire_count, alert.bad_streak, alert.since, alert.last_change), (2, 1, at(3), at(3)));
        assert_eq!(alert.fingerprint, feed("1", 1, 1).0.unwrap().fingerprint);
        let text = serde_json::to_string(&alert).unwrap();
        assert_eq!(serde_json::from_str::<Alert>(&text).unwrap(), alert);
    }

    #[test]
    fn a_flapping_alert_is_announced_once_until_it_is_calm() {
        let (alert, transitions) = feed(&"10".repeat(20), 1, 1);
        let alert = alert.unwrap();
        assert!(alert.flapping && alert.state == State::Firing);
        assert!(transitions.len() <= 5, "{transitions:?}");
        let (alert, transitions) = feed(&format!("{}{}", "10".repeat(20), "0".repeat(21)), 1, 1);
        assert_eq!((alert.unwrap().state, transitions.last().unwrap().1), (State::Resolved, Transition::Resolved));
    }

    #[test]
    fn it_fires_only_after_it_was_bad_for_so_long() {
        let patience = Patience { for_s: 600, ..Patience::new(1, 1) };
        let (bad, fine) = (check(Some(false), Severity::Warning), check(Some(true), Severity::Warning));
        let run = |checks: &[&Check]| {
            let (mut alert, mut fired) = (None, None);
            for (n, check) in (0..).zip(checks) {
                let (next, transition) = step(alert.as_ref(), check, at(n), patience);
                fired = fired.or((transition == Some(Transition::Fired)).then_some(n));
                alert = next;
            }
            fired
        };
        assert_eq!(run(&[&bad, &bad, &bad]), Some(2), "at 0, 300 and 600 s");
        assert_eq!(run(&[&bad, &fine, &bad, &bad]), None, "a good one in between begins it anew");
        assert_eq!(run(&[&bad, &fine, &bad, &bad, &bad]), Some(4));
    }

    #[test]
    fn getting_worse_is_told_and_getting_less_bad_is_not() {
        let mut alert = step(None, &check(Some(false), Severity::Warning), at(0), Patience::new(1, 1)).0;
        for (severity, expected) in [(Severity::Critical, Some(Transition::Escalated)), (Severity::Warning, None)] {
            let (next, transition) = step(alert.as_ref(), &check(Some(false), severity), at(1), Patience::new(1, 1));
            assert_eq!((transition, next.as_ref().map(|a| a.severity)), (expected, Some(severity)));
            alert = next;
        }
    }

    #[test]
    fn an_episode_has_a_name_of_its_own_and_an_end() {
        let (alert, _) = feed("110-", 1, 1);
        let first = alert.unwrap();
        assert_eq!((first.until, first.last_good.clone()), (Some(at(2)), Some(("91.0 %".into(), at(2)))));
        assert_eq!(first.id(), feed("1", 1, 1).0.unwrap().id(), "it does not change within an episode");
        let second = feed("1101", 1, 1).0.unwrap();
        assert!(second.id() != first.id() && second.id().starts_with("al_") && second.until.is_none());
        assert_eq!(second.last_good.map(|(_, at)| at), Some(at(2)), "what was fine before it began is still known");
    }

    #[test]
    fn a_body_of_before_these_fields_is_still_read() {
        let mut body = serde_json::to_value(feed("1", 1, 1).0.unwrap()).unwrap();
        for field in ["until", "last_good", "acknowledged", "snoozed_until"] {
            body.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(serde_json::from_value::<Alert>(body).unwrap(), feed("1", 1, 1).0.unwrap());
    }

    #[test]
    fn an_acknowledgement_ends_with_the_episode_or_when_it_gets_worse() {
        let mut alert = step(None, &check(Some(false), Severity::Warning), at(0), Patience::new(1, 1)).0.unwrap();
        alert.acknowledge("anna", "on it", at(0)).unwrap();
        alert.snooze(at(9), at(0)).unwrap();
        let same = step(Some(&alert), &check(Some(false), Severity::Warning), at(1), Patience::new(1, 1)).0.unwrap();
        assert!(same.acknowledged.is_some() && same.snoozed_until.is_some());
        for next in [check(Some(false), Severity::Critical), check(Some(true), Severity::Warning)] {
            let changed = step(Some(&alert), &next, at(1), Patience::new(1, 1)).0.unwrap();
            assert_eq!((changed.acknowledged, changed.snoozed_until), (None, None), "{next:?}");
        }
    }

    #[test]
    fn the_fingerprint_is_the_published_function() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(fingerprint(&labels(&[])), "cbf29ce484222325");
        assert_eq!(fingerprint(&labels(&[("system", "resources"), ("alertname", "disk")])), "82c49c0f364187ad");
        assert_ne!(fingerprint(&labels(&[("a", "bc")])), fingerprint(&labels(&[("ab", "c")])));
    }

    proptest! {
        #[test]
        fn fired_and_resolved_alternate(checks in "[01-]{0,80}", for_checks in 1u32..5, resolve_checks in 1u32..5) {
            let (alert, transitions) = feed(&checks, for_checks, resolve_checks);
            for (n, (_, transition)) in transitions.iter().enumerate() {
                let expected = if n % 2 == 0 { Transition::Fired } else { Transition::Resolved };
                prop_assert_eq!(*transition, expected);
            }
            let firing = alert.is_some_and(|a| a.state == State::Firing);
            prop_assert_eq!(firing, transitions.len() % 2 == 1);
        }
    }
}
