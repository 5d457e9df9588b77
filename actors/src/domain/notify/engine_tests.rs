//! Stories in virtual time over the state machine and the engine, each counting its messages.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::domain::{
    alert_rule::{Acknowledged, Check, Patience, step},
    notify::Matcher,
};

const MAIL: Channel = Channel { name: "email", min_severity: Severity::Warning, lists_all: false };
const PAGER: Channel = Channel { name: "pagerduty", min_severity: Severity::Critical, lists_all: false };
const START: i64 = 1_800_000_000;

struct World {
    now: DateTime<Utc>,
    alerts: BTreeMap<String, Alert>,
    groups: BTreeMap<String, Group>,
    silences: Vec<Silence>,
    maintenance: Vec<Maintenance>,
    catalogue: Catalogue,
    settings: Settings,
    sent: Vec<(i64, &'static str, Message)>,
    /// Bad checks before it fires, good ones before it resolves.
    counts: (u32, u32),
}

impl World {
    fn new(channels: &[Channel]) -> Self {
        let seconds = TimeDelta::seconds;
        Self {
            now: DateTime::from_timestamp(START, 0).unwrap(),
            alerts: BTreeMap::new(),
            groups: BTreeMap::new(),
            silences: Vec::new(),
            maintenance: Vec::new(),
            catalogue: Catalogue::read(include_str!("../../../../configs/alerts.toml"), None).unwrap(),
            settings: Settings {
                group_by: vec!["system".into()],
                wait: seconds(30),
                interval: seconds(300),
                repeat: seconds(14_400),
                send_resolved: true,
                storm_per_name: 20,
                channels: channels.to_vec(),
            },
            sent: Vec::new(),
            counts: (1, 1),
        }
    }

    /// Seconds since the story began.
    fn clock(&self) -> i64 {
        self.now.timestamp() - START
    }

    fn judge(&mut self, check: &Check) {
        let key = crate::domain::alert_rule::fingerprint(&check.labels());
        let for_s = self.catalogue.of(&check.name).map_or(0, |rule| rule.for_s);
        let patience = Patience { for_s, ..Patience::new(self.counts.0, self.counts.1) };
        match step(self.alerts.get(&key), check, self.now, patience).0 {
            Some(alert) => drop(self.alerts.insert(key, alert)),
            None => drop(self.alerts.remove(&key)),
        }
    }

    fn put(&mut self, name: &str, system: &'static str, bad: Option<Severity>) {
        let value = Some(if bad.is_some() { "96 %" } else { "40 %" }.to_owned());
        let reason = format!("{name} is {}", if bad.is_some() { "bad" } else { "fine" });
        self.judge(&Check {
            name: name.into(),
            system,
            ok: Some(bad.is_none()),
            severity: bad.unwrap_or_default(),
            value,
            reason,
            ..Check::default()
        });
    }

    fn critical(&mut self, name: &str, system: &'static str) {
        self.put(name, system, Some(Severity::Critical));
    }

    fn warn(&mut self, name: &str, system: &'static str) {
        self.put(name, system, Some(Severity::Warning));
    }

    fn fine(&mut self, name: &str, system: &'static str) {
        self.put(name, system, None);
    }

    fn look(&mut self) -> Option<DateTime<Utc>> {
        let (at, now) = (self.clock(), self.now);
        let Self { alerts, groups, silences, maintenance, catalogue, settings, .. } = self;
        let decision = decide(&Look { now, alerts, groups, silences, maintenance, catalogue, settings });
        let again = decide(&Look { now, alerts, groups: &decision.groups, silences, maintenance, catalogue, settings });
        assert!(again.messages.is_empty(), "what was told is told once: {:?}", again.messages);
        // What is remembered survives a restart at any moment.
        let text = serde_json::to_string(&decision.groups).unwrap();
        self.groups = serde_json::from_str(&text).unwrap();
        for (fingerprint, _, _) in &decision.told {
            let alert = self.alerts.get_mut(fingerprint).unwrap();
            alert.told_at = alert.told_at.or(Some(now));
        }
        self.sent.extend(decision.messages.into_iter().map(|(channel, message)| (at, channel, message)));
        decision.next
    }

    /// Looks whenever the engine said it should, and at least every ten minutes.
    fn until(&mut self, second: i64) {
        let mut next = self.look();
        while self.clock() < second {
            let end = DateTime::from_timestamp(START + second, 0).unwrap();
            let at = next.unwrap_or(end).min(end).min(self.now + TimeDelta::minutes(10));
            assert!(at > self.now, "there is time between two looks");
            self.now = at;
            next = self.look();
        }
    }

    /// `second channel kind: alerts`, of all that was sent since the last call.
    fn told(&mut self) -> Vec<String> {
        let line = |(at, channel, message): (i64, &str, Message)| {
            let name = |l: &super::super::Line| format!("{}{}", if l.resolved { "-" } else { "" }, l.name);
            let names: Vec<_> = message.alerts.iter().map(name).collect();
            let effects: Vec<_> = message.alerts.iter().flat_map(|l| &l.effects).map(|e| e.name.as_str()).collect();
            let effects = if effects.is_empty() { String::new() } else { format!(" <- {}", effects.join(" ")) };
            format!("{at} {channel} {}: {}{effects}", message.kind.as_str(), names.join(" "))
        };
        self.sent.drain(..).map(line).collect()
    }
}

#[test]
fn what_belongs_together_is_one_message_after_the_wait_and_news_wait_for_the_interval() {
    let mut it = World::new(&[MAIL]);
    it.warn("disk", "resources");
    it.until(20);
    it.warn("cpu", "resources");
    it.until(60);
    it.warn("clock_skew", "resources");
    it.until(1000);
    assert_eq!(it.told(), ["30 email firing: disk cpu", "330 email firing: clock_skew disk cpu"]);
    it.fine("cpu", "resources");
    it.until(1020);
    it.fine("disk", "resources");
    it.until(2000);
    it.fine("clock_skew", "resources");
    it.until(3000);
    assert_eq!(it.told(), ["1030 email firing: -disk -cpu clock_skew", "2030 email resolved: -clock_skew"]);
    assert!(it.groups.is_empty(), "nothing is left of it");
}

#[test]
fn what_is_over_before_it_was_told_is_not_told() {
    let mut it = World::new(&[MAIL]);
    it.warn("disk", "resources");
    it.until(25);
    it.fine("disk", "resources");
    it.until(3600);
    assert!(it.told().is_empty() && it.groups.is_empty());
}

#[test]
fn it_is_repeated_while_it_lasts_and_nobody_looks_after_it() {
    let mut it = World::new(&[MAIL]);
    it.warn("disk", "resources");
    it.until(30_000);
    assert_eq!(it.told(), ["30 email firing: disk", "14430 email repeat: disk", "28830 email repeat: disk"]);
    let now = it.now;
    it.alerts.values_mut().next().unwrap().acknowledge("anna", "", now).unwrap();
    it.until(100_000);
    assert!(it.told().is_empty(), "acknowledged");
    it.critical("disk", "resources");
    it.until(100_100);
    assert_eq!(it.told(), ["100030 email firing: disk"], "it got worse, so the acknowledgement is over");
    let now = it.now;
    it.alerts.values_mut().next().unwrap().snooze(now + TimeDelta::hours(1), now).unwrap();
    it.until(104_000);
    assert_eq!(it.told(), ["103700 email repeat: disk"], "told again when the snooze ends");
    it.fine("disk", "resources");
    it.until(105_000);
    assert_eq!(it.told(), ["104030 email resolved: -disk"]);
}

#[test]
fn something_critical_does_not_wait_for_the_interval_but_only_once() {
    let mut it = World::new(&[MAIL, PAGER]);
    it.warn("disk", "resources");
    it.until(60);
    it.critical("disk", "resources");
    it.until(100);
    it.critical("memory", "resources");
    it.until(1000);
    assert_eq!(
        it.told(),
        [
            "30 email firing: disk",
            "90 email firing: disk",
            "90 pagerduty firing: disk",
            "390 email firing: memory disk",
            "390 pagerduty firing: memory disk"
        ]
    );
    // The pager knows nothing of what is only a warning, and is told the end of what it knows.
    it.warn("cpu", "resources");
    it.fine("memory", "resources");
    it.until(1200);
    it.fine("disk", "resources");
    it.until(2000);
    let told = it.told();
    assert_eq!(
        told.iter().filter(|t| t.contains("pagerduty")).collect::<Vec<_>>(),
        ["1030 pagerduty firing: -memory disk", "1330 pagerduty resolved: -disk"]
    );
}

#[test]
fn a_full_disk_is_one_message_with_what_follows_from_it() {
    let mut it = World::new(&[MAIL, PAGER]);
    it.critical("disk", "resources");
    it.until(5);
    it.critical("disk_low", "backup");
    it.until(10);
    it.critical("database_connect", "database");
    it.critical("backup_made", "backup");
    it.warn("webhooks_unprocessed", "jobs");
    it.until(600);
    it.critical("recon_exceptions", "recon");
    it.until(3600);
    let first = "disk <- disk_low backup_made database_connect webhooks_unprocessed";
    let mut told = it.told();
    for line in &mut told {
        let (head, effects) = line.split_once(" <- ").unwrap();
        let mut effects: Vec<&str> = effects.split(' ').collect();
        effects.sort_by_key(|e| first.find(e));
        *line = format!("{head} <- {}", effects.join(" "));
    }
    assert_eq!(
        told,
        [format!("30 email firing: {first}"), format!("30 pagerduty firing: {first}")],
        "what came later is no message of its own"
    );
    // All goes but the reconciliation: that is named at the end, and told by itself when it is still bad after its time.
    for (name, system) in [
        ("disk", "resources"),
        ("disk_low", "backup"),
        ("database_connect", "database"),
        ("backup_made", "backup"),
        ("webhooks_unprocessed", "jobs"),
    ] {
        it.fine(name, system);
    }
    it.until(7000);
    assert_eq!(
        it.told(),
        [
            "3630 email resolved: -disk <- recon_exceptions",
            "3630 pagerduty resolved: -disk <- recon_exceptions",
            "4230 email firing: recon_exceptions",
            "4230 pagerduty firing: recon_exceptions"
        ]
    );
}

#[test]
fn effects_that_go_with_their_cause_are_never_told() {
    let mut it = World::new(&[MAIL]);
    it.critical("webhook_gap_finder", "payments");
    it.critical("payment_canary", "payments");
    it.critical("recon_exceptions", "recon");
    it.until(600);
    assert_eq!(it.told().len(), 1, "the provider is away");
    it.fine("webhook_gap_finder", "payments");
    it.until(620);
    it.fine("payment_canary", "payments");
    it.fine("recon_exceptions", "recon");
    it.until(3600);
    assert_eq!(it.told(), ["630 email resolved: -webhook_gap_finder"]);
}

#[test]
fn an_effect_that_came_first_is_told_and_then_goes_below_its_cause() {
    let mut it = World::new(&[MAIL]);
    it.warn("webhooks_unprocessed", "jobs");
    it.until(60);
    it.critical("database_connect", "database");
    it.until(20_000);
    assert_eq!(
        it.told(),
        [
            "30 email firing: webhooks_unprocessed",
            "90 email firing: database_connect <- webhooks_unprocessed",
            "14490 email repeat: database_connect <- webhooks_unprocessed"
        ]
    );
    it.fine("webhooks_unprocessed", "jobs");
    it.fine("database_connect", "database");
    it.until(21_000);
    assert_eq!(
        it.told(),
        ["20030 email resolved: -database_connect", "20030 email resolved: -webhooks_unprocessed"],
        "both ends of what was told"
    );
}

#[test]
fn five_hundred_alerts_at_once_are_one_message() {
    let mut it = World::new(&[MAIL]);
    for n in 0..500 {
        let labels = BTreeMap::from([("probe".to_owned(), format!("p{n:03}"))]);
        it.judge(&Check {
            name: "probe".into(),
            labels,
            system: "probes",
            ok: Some(false),
            severity: Severity::Critical,
            ..Check::default()
        });
    }
    it.until(3600);
    let (_, _, message) = &it.sent[0];
    assert_eq!((it.sent.len(), message.alerts.len(), message.more), (1, 20, 480));
    assert!(message.title.ends_with("and 499 more"), "{}", message.title);
    it.sent.clear();
    for alert in it.alerts.clone().values() {
        let labels = BTreeMap::from([("probe".to_owned(), alert.labels["probe"].clone())]);
        it.judge(&Check { name: "probe".into(), labels, system: "probes", ok: Some(true), ..Check::default() });
    }
    it.until(7200);
    assert_eq!((it.sent.len(), it.sent[0].2.kind, it.sent[0].2.more), (1, Kind::Resolved, 480));
}

#[test]
fn a_flapping_probe_is_told_once_until_it_is_calm() {
    let mut it = World::new(&[MAIL]);
    it.counts = (2, 2);
    for n in 0..360 {
        // Two bad looks, two good ones, every 20 seconds, for two hours.
        if n % 4 < 2 {
            it.critical("probe", "probes");
        } else {
            it.fine("probe", "probes");
        }
        it.until((n + 1) * 20);
    }
    assert_eq!(it.told(), ["50 email firing: probe"]);
    for n in 360..400 {
        it.fine("probe", "probes");
        it.until((n + 1) * 20);
    }
    assert_eq!(it.told().len(), 1, "the end, once it is calm");
}

#[test]
fn what_may_follow_from_a_suspect_waits_until_that_is_known() {
    // The provider stays away: its effects are inside its message, although they fired first.
    let mut it = World::new(&[MAIL]);
    it.critical("provider_failing", "payments");
    it.critical("payment_canary", "payments");
    it.warn("jobs_failed", "jobs");
    for second in [15, 30] {
        it.until(second);
        it.critical("provider_failing", "payments");
    }
    it.until(45);
    assert!(it.told().is_empty(), "it is not known yet");
    it.critical("provider_failing", "payments");
    it.until(600);
    assert_eq!(it.told(), ["75 email firing: provider_failing <- payment_canary jobs_failed"]);
    // It was a moment only: what was held back is told by itself.
    let mut it = World::new(&[MAIL]);
    it.critical("provider_failing", "payments");
    it.critical("payment_canary", "payments");
    it.until(15);
    it.fine("provider_failing", "payments");
    it.until(600);
    assert_eq!(it.told(), ["45 email firing: payment_canary"]);
    // Nobody decides about it: it is not waited for for ever.
    let mut it = World::new(&[MAIL]);
    it.critical("provider_failing", "payments");
    it.critical("payment_canary", "payments");
    it.until(600);
    assert_eq!(it.told(), ["105 email firing: payment_canary"]);
}

#[test]
fn a_storm_is_counted_for_people_and_listed_for_what_takes_alerts_one_by_one() {
    let mut it = World::new(&[MAIL, Channel { name: "alertmanager", lists_all: true, ..MAIL }]);
    for n in 0..25 {
        it.judge(&Check {
            name: "probe".into(),
            labels: BTreeMap::from([("probe".to_owned(), format!("p{n}"))]),
            system: "probes",
            ok: Some(false),
            severity: Severity::Critical,
            ..Check::default()
        });
    }
    it.until(60);
    let sizes: Vec<_> = it.sent.iter().map(|(_, channel, message)| (*channel, message.alerts.len(), message.more)).collect();
    assert_eq!(sizes, [("email", 20, 5), ("alertmanager", 25, 0)]);
}

#[test]
fn what_was_answered_and_comes_back_or_gets_worse_is_told_again_and_not_only_with_the_repeat() {
    let answer = |it: &mut World| {
        let at = it.now;
        it.alerts.values_mut().for_each(|a| a.acknowledged = Some(Acknowledged { by: "anna".into(), at, note: String::new() }));
    };
    // Mended, it seemed.
    let mut it = World::new(&[MAIL]);
    it.critical("disk", "resources");
    it.until(60);
    answer(&mut it);
    it.until(120);
    it.fine("disk", "resources");
    it.until(200);
    it.critical("disk", "resources");
    it.until(3000);
    assert_eq!(it.told(), ["30 email firing: disk", "200 email firing: disk"]);
    // Better, and worse again.
    it.warn("disk", "resources");
    it.until(3010);
    answer(&mut it);
    it.until(3500);
    assert!(it.told().is_empty());
    it.critical("disk", "resources");
    it.until(4000);
    assert_eq!(it.told(), ["3530 email firing: disk"]);
}

#[test]
fn a_clock_that_was_ahead_hides_nothing_afterwards() {
    let mut it = World::new(&[MAIL]);
    it.now += TimeDelta::hours(8);
    it.critical("connectivity", "network");
    it.critical("provider_failing", "payments");
    it.until(8 * 3600 + 60);
    it.fine("connectivity", "network");
    it.until(8 * 3600 + 400);
    it.told();
    it.now -= TimeDelta::hours(8);
    let begin = it.clock();
    it.critical("payment_canary", "payments");
    it.critical("probe", "probes");
    it.critical("provider_failing", "payments");
    it.until(begin + 46);
    it.critical("provider_failing", "payments");
    it.until(begin + 400);
    let told = it.told().join("\n");
    assert!(told.contains("firing: probe") && told.contains("firing: provider_failing <- payment_canary"), "{told}");
}

#[test]
fn a_cause_that_nobody_was_told_of_hides_nothing_when_it_is_over_and_one_that_ended_hides_nothing_new() {
    let mut it = World::new(&[MAIL]);
    it.critical("payment_errors", "payments");
    it.until(10);
    it.critical("database_connect", "database");
    it.until(25);
    it.fine("database_connect", "database");
    it.until(600);
    assert_eq!(it.told(), ["55 email firing: payment_errors"], "a blip within the wait, which begins anew");
    // Through what still follows from a cause that is over.
    let mut it = World::new(&[MAIL]);
    it.critical("database_connect", "database");
    it.critical("payment_errors", "payments");
    it.until(60);
    it.fine("database_connect", "database");
    it.until(600);
    it.critical("slo_burn", "levels");
    it.until(1000);
    let told = it.told();
    assert!(told.iter().any(|line| line.starts_with("630 email firing: slo_burn")), "{told:?}");
}

#[test]
fn an_api_that_fails_is_one_message_with_all_its_levels() {
    let mut it = World::new(&[MAIL, PAGER]);
    it.warn("api_latency", "api");
    it.critical("api_errors", "api");
    it.critical("api_slo", "api");
    it.until(20);
    it.critical("slo_burn", "levels");
    it.critical("slo_budget", "levels");
    it.warn("slo_ticket", "levels");
    it.until(600);
    let told = it.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("30 email firing: api_") && told[1].starts_with("30 pagerduty firing: api_"), "{told:?}");
    assert!(["slo_burn", "slo_budget", "slo_ticket"].iter().all(|level| told[0].split(" <- ").nth(1).is_some_and(|e| e.contains(level))));
}

#[test]
fn what_outlives_its_cause_is_told_only_if_it_stays() {
    // The provider was away: the payment that failed is made again every quarter of an hour, so it may be bad for a while.
    let mut it = World::new(&[MAIL]);
    it.critical("payment_canary", "payments");
    for second in [0, 15, 30, 45] {
        it.until(second);
        it.critical("provider_failing", "payments");
    }
    it.until(600);
    it.fine("provider_failing", "payments");
    it.until(1000);
    assert_eq!(
        it.told(),
        ["75 email firing: provider_failing <- payment_canary", "630 email resolved: -provider_failing <- payment_canary"]
    );
    it.fine("payment_canary", "payments");
    it.until(9000);
    assert!(it.told().is_empty(), "it ended too, and nobody had heard of it");
    // It stays bad: then it is told, and not with its cause.
    it.critical("payment_canary", "payments");
    it.critical("provider_failing", "payments");
    it.until(9045);
    it.critical("provider_failing", "payments");
    it.until(9100);
    it.fine("provider_failing", "payments");
    it.until(9100 + 1199);
    assert_eq!(it.told().len(), 2, "the cause and its end");
    it.until(12_000);
    assert_eq!(it.told(), ["10330 email firing: payment_canary"]);
    // What has another cause that is still there is told inside its message.
    let mut it = World::new(&[MAIL]);
    it.critical("disk", "resources");
    it.critical("database_connect", "database");
    it.critical("backup_made", "backup");
    it.until(100);
    it.fine("disk", "resources");
    it.until(400);
    assert_eq!(it.told()[1..], ["250 email firing: database_connect <- backup_made", "330 email resolved: -disk"]);
    // What begins after the end is news.
    let mut it = World::new(&[MAIL]);
    it.critical("disk", "resources");
    it.until(100);
    it.fine("disk", "resources");
    it.until(200);
    it.critical("backup_made", "backup");
    it.until(400);
    assert_eq!(it.told()[1..], ["230 email firing: backup_made", "330 email resolved: -disk"]);
}

#[test]
fn a_silence_a_maintenance_and_their_ends() {
    let mut it = World::new(&[MAIL]);
    let ends_at = it.now + TimeDelta::hours(1);
    it.silences.push(Silence {
        id: "sil_1".into(),
        matchers: vec![Matcher::parse("alertname=~di.*").unwrap(), Matcher::parse("severity!=critical").unwrap()],
        starts_at: it.now,
        ends_at,
        author: "anna".into(),
        reason: "known".into(),
        created_at: it.now,
        ended_at: None,
        ended_by: None,
    });
    it.warn("disk", "resources");
    it.until(600);
    assert!(it.told().is_empty());
    it.critical("disk", "resources");
    it.until(700);
    assert_eq!(it.told(), ["630 email firing: disk"], "only the warning was silenced");
    it.fine("disk", "resources");
    it.until(1000);
    assert_eq!(it.told(), ["930 email resolved: -disk"]);
    it.warn("disk", "resources");
    it.until(4000);
    assert_eq!(it.told(), ["3630 email firing: disk"], "the silence is over, and it still fires");
    it.maintenance.push(Maintenance { systems: vec!["backup".into()], reason: "the disks are changed".into() });
    it.critical("backup_made", "backup");
    it.fine("disk", "resources");
    it.until(5000);
    assert_eq!(it.told(), ["4030 email resolved: -disk"], "the end of what was told");
    it.fine("backup_made", "backup");
    it.until(5100);
    it.maintenance.clear();
    it.until(9000);
    assert!(it.told().is_empty() && it.groups.is_empty(), "it began and ended within the maintenance");
}

#[test]
fn a_silenced_cause_keeps_its_effects_quiet() {
    let mut it = World::new(&[MAIL]);
    it.maintenance.push(Maintenance { systems: vec!["resources".into()], reason: "the disk is changed".into() });
    it.critical("disk", "resources");
    it.critical("database_connect", "database");
    it.until(3600);
    assert!(it.told().is_empty());
}

#[test]
fn a_clock_that_jumps_makes_nobody_wait_and_tells_nothing_twice() {
    let mut it = World::new(&[MAIL]);
    it.warn("disk", "resources");
    it.until(10);
    it.now -= TimeDelta::days(2);
    let back = it.clock();
    it.until(back + 100);
    assert_eq!(it.told(), [format!("{} email firing: disk", back + 30)]);
    it.now -= TimeDelta::days(2);
    let back = it.clock();
    it.fine("cpu", "resources");
    it.warn("memory", "resources");
    it.until(back + 14_000);
    assert_eq!(it.told(), [format!("{} email firing: memory disk", back + 300)], "the interval is counted from the jump");
    it.now += TimeDelta::days(4);
    let ahead = it.clock();
    it.until(ahead + 1000);
    assert_eq!(it.told(), [format!("{ahead} email repeat: memory disk")], "four days went by, as far as anybody can tell");
}

#[test]
fn without_a_channel_nothing_is_told_and_with_one_again_nothing_was_forgotten() {
    let mut it = World::new(&[]);
    it.warn("disk", "resources");
    it.until(600);
    assert!(it.told().is_empty() && it.groups.is_empty());
    it.settings.channels = vec![MAIL];
    it.until(700);
    assert_eq!(it.told(), ["630 email firing: disk"]);
    it.settings.channels = vec![MAIL, Channel { name: "slack", ..MAIL }];
    it.until(1000);
    assert_eq!(it.told(), ["930 slack firing: disk"], "a new channel learns what is the matter, the old one is not told again");
}

#[test]
fn the_end_is_not_told_if_nobody_wants_it() {
    let mut it = World::new(&[MAIL]);
    it.settings.send_resolved = false;
    it.warn("disk", "resources");
    it.until(60);
    it.fine("disk", "resources");
    it.until(3600);
    assert_eq!(it.told(), ["30 email firing: disk"]);
    assert!(it.groups.is_empty());
    it.warn("disk", "resources");
    it.until(7200);
    assert_eq!(it.told().len(), 1, "another episode is told");
}

#[test]
fn grouping_by_other_labels() {
    let mut it = World::new(&[MAIL]);
    it.settings.group_by = vec!["component".into()];
    it.warn("disk", "resources");
    it.warn("cpu", "resources");
    it.until(60);
    assert_eq!(it.told().len(), 2);
    let mut it = World::new(&[MAIL]);
    it.settings.group_by.clear();
    it.warn("disk", "resources");
    it.warn("push", "pushes");
    it.until(60);
    assert_eq!(it.told().len(), 1);
}

proptest! {
    /// Whatever happens: a channel is told of every alert that fires long enough, and for each that it was told of it hears the end once.
    #[test]
    fn nothing_is_forgotten_and_no_end_is_told_twice(moves in prop::collection::vec((0usize..5, 0u8..3, 1i64..900), 1..60)) {
        const NAMES: [(&str, &str); 5] = [("disk", "resources"), ("database_connect", "database"), ("backup_made", "backup"), ("cpu", "resources"), ("push", "pushes")];
        let mut it = World::new(&[MAIL]);
        for (which, how, wait) in moves {
            let (name, system) = NAMES[which];
            it.put(name, system, [None, Some(Severity::Warning), Some(Severity::Critical)][usize::from(how)]);
            let until = it.clock() + wait / 5 * 5;
            it.until(until);
        }
        let until = it.clock() + 700;
        it.until(until);
        let mut open: BTreeSet<String> = BTreeSet::new();
        for (_, _, message) in &it.sent {
            for line in &message.alerts {
                if line.resolved {
                    prop_assert!(open.remove(&line.fingerprint), "an end without a beginning");
                } else {
                    open.insert(line.fingerprint.clone());
                }
            }
        }
        let silences: [Silence; 0] = [];
        let quiet = quiet(&Look { now: it.now, alerts: &it.alerts, groups: &it.groups, silences: &silences, maintenance: &[], catalogue: &it.catalogue, settings: &it.settings });
        for alert in it.alerts.values() {
            let firing = alert.state == State::Firing;
            prop_assert!(firing || !open.contains(&alert.fingerprint), "{} is over and its end was not told", alert.name);
            let effect = quiet.get(&alert.fingerprint).is_some_and(Quiet::is_quiet);
            prop_assert!(!firing || effect || open.contains(&alert.fingerprint), "{} fires and was not told", alert.name);
        }
    }
}
