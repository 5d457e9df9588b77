//! Fault stories over the real actor and a real store, in virtual time, each counting the messages in the outbox. Nothing is delivered:
//! the one channel leads nowhere.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::*;
use crate::{
    config::Config,
    domain::{
        alert_rule::{Catalogue, Severity},
        notify::Matcher,
    },
    operations::follow_link,
    store::{NotificationFilter, NotificationRow},
    supervisor::Supervisor,
    testing::{self, Fixture, until},
};

const START: &str = "2026-03-02T12:00:00Z";

struct Story {
    fixture: Fixture,
    supervisor: Supervisor,
}

fn settings(config: &mut Config) {
    config.timer.enabled = false; // no ticks of its own: the story's clock ticks
    config.channels.alertmanager.url = "http://127.0.0.1:9".into();
}

impl Story {
    async fn begin() -> Self {
        Self::on(testing::reopen(tempfile::tempdir().unwrap(), START, settings)).await
    }

    async fn on(fixture: Fixture) -> Self {
        let specs = vec![actor::spec(NOUN, false, || Alerts)];
        let supervisor = Supervisor::start(fixture.env.clone(), specs).await.unwrap();
        Self { fixture, supervisor }
    }

    /// Another process on the same database, at the same time of the clock.
    async fn restart(self) -> Self {
        let now = rfc(&self.fixture.env);
        self.supervisor.stop().await;
        self.fixture.env.store().close().await.unwrap();
        Self::on(testing::reopen(self.fixture.folder, &now, settings)).await
    }

    fn env(&self) -> &Env {
        &self.fixture.env
    }

    async fn put(&self, name: &str, system: &'static str, bad: Option<Severity>) {
        let check = Check {
            name: name.into(),
            system,
            ok: Some(bad.is_none()),
            severity: bad.unwrap_or_default(),
            value: Some(if bad.is_some() { "99 %" } else { "40 %" }.into()),
            reason: format!("{name} was looked at"),
            ..Check::default()
        };
        evaluate(self.env(), vec![check]).await.unwrap();
    }

    async fn critical(&self, name: &str, system: &'static str) {
        self.put(name, system, Some(Severity::Critical)).await;
    }

    /// Twice: so many good checks end an alert.
    async fn fine(&self, name: &str, system: &'static str) {
        for _ in 0..2 {
            self.put(name, system, None).await;
        }
    }

    /// Lets time go by, with a tick every 15 seconds.
    async fn pass(&self, seconds: i64) {
        for _ in 0..seconds / 15 {
            self.fixture.clock.set(self.env().now() + TimeDelta::seconds(15));
            self.tick().await;
        }
    }

    async fn tick(&self) {
        actor::cast(self.env(), NOUN, Message::Tick);
        list(self.env()).await.unwrap(); // it was handled
    }

    /// Oldest first.
    async fn messages(&self) -> Vec<NotificationRow> {
        let mut all = self.env().store().notifications(&NotificationFilter::default(), 1000).await.unwrap();
        all.reverse();
        all
    }

    async fn told(&self) -> Vec<String> {
        let line = |row: NotificationRow| {
            let names: Vec<_> = row.message.alerts.iter().map(|l| l.name.clone()).collect();
            format!("{} {}", row.kind, names.join(" "))
        };
        self.messages().await.into_iter().map(line).collect()
    }

    async fn end(self) {
        self.supervisor.stop().await;
    }
}

fn rfc(env: &Env) -> String {
    crate::env::rfc3339(env.now())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_failure_is_in_the_outbox_within_a_minute_with_all_that_helps() {
    let story = Story::begin().await;
    story.fine("database_connect", "database").await;
    story.pass(300).await;
    story.put("cpu", "resources", Some(Severity::Warning)).await;
    let seen = story.env().now();
    story.critical("database_connect", "database").await;
    story.pass(60).await;
    let messages = story.messages().await;
    let message = &messages.iter().find(|m| m.message.alerts[0].name == "database_connect").expect("told").message;
    assert!(message.at - seen <= TimeDelta::seconds(60), "{} after {seen}", message.at);
    let line = &message.alerts[0];
    assert_eq!(line.last_good.as_ref().map(|(value, _)| value.as_str()), Some("40 %"), "known although it never fired before");
    assert!(
        line.changed.iter().any(|c| c.contains("cpu fired")) && line.changed.iter().any(|c| c.contains("was started")),
        "{:?}",
        line.changed
    );
    assert!(!line.owner.is_empty() && !line.runbook.is_empty() && line.links.acknowledge.is_some());
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_told_twice_and_nothing_is_forgotten() {
    let mut story = Story::begin().await;
    story.critical("disk", "resources").await;
    story = story.restart().await;
    story.critical("backup_made", "backup").await;
    story = story.restart().await;
    story.pass(15).await;
    story = story.restart().await;
    story.pass(30).await;
    story = story.restart().await;
    story.critical("disk", "resources").await;
    story.pass(600).await;
    assert_eq!(story.told().await, ["firing disk"], "once, with its effect");
    assert_eq!(story.messages().await[0].message.alerts[0].effects[0].name, "backup_made");
    story.fine("disk", "resources").await;
    story = story.restart().await;
    story.fine("backup_made", "backup").await;
    story = story.restart().await;
    story.pass(600).await;
    story = story.restart().await;
    story.pass(600).await;
    assert_eq!(story.told().await, ["firing disk", "resolved disk"]);
    assert!(list(story.env()).await.unwrap().is_empty(), "and nothing is left");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actor_crashes_between_two_ticks_and_its_replacement_goes_on() {
    let story = Story::begin().await;
    story.critical("disk", "resources").await;
    story.env().tree().unwrap().drill(NOUN.into()).await.unwrap();
    until("it is back", || async { list(story.env()).await.is_ok_and(|all| all.len() == 1) }).await;
    story.pass(600).await;
    assert_eq!(story.told().await, ["firing disk"]);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_can_be_written_it_goes_on_in_memory_and_is_told_once_afterwards() {
    let story = Story::begin().await;
    story.fine("cpu", "resources").await;
    let path = story.env().config().database_path();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).unwrap();
    let check =
        Check { name: "database_connect".into(), system: "database", ok: Some(false), severity: Severity::Critical, ..Check::default() };
    assert!(evaluate(story.env(), vec![check.clone()]).await.is_err(), "it says that nothing is written");
    story.pass(300).await;
    assert_eq!(list(story.env()).await.unwrap()[0].state, AlertState::Firing, "but it is known");
    std::fs::rename(&away, &path).unwrap();
    story.pass(30).await;
    evaluate(story.env(), vec![check]).await.unwrap();
    story.pass(300).await;
    assert_eq!(story.told().await, ["firing database_connect"]);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_alerts_at_once_are_one_message_in_one_commit() {
    let story = Story::begin().await;
    let check = |n: usize| Check {
        name: "probe".into(),
        labels: BTreeMap::from([("probe".into(), format!("p{n}"))]),
        system: "probes",
        ok: Some(false),
        severity: Severity::Critical,
        ..Check::default()
    };
    for _ in 0..3 {
        evaluate(story.env(), (0..500).map(check).collect()).await.unwrap();
    }
    story.pass(600).await;
    let messages = story.messages().await;
    let [only] = &messages[..] else { panic!("{} messages", messages.len()) };
    assert_eq!((only.message.alerts.len(), only.message.more), (500, 0), "an Alertmanager takes each");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_acknowledged_snoozed_and_silenced_and_all_of_it_is_history() {
    let story = Story::begin().await;
    let env = story.env();
    story.critical("disk", "resources").await;
    story.pass(60).await;
    let id = list(env).await.unwrap()[0].fingerprint.clone();
    let alert = respond(env, &id, Response::Acknowledge { note: "on it".into() }, "anna").await.unwrap();
    assert_eq!((&alert["acknowledged"]["by"], &alert["acknowledged"]["note"]), (&"anna".into(), &"on it".into()));
    respond(env, &id, Response::Snooze { until: env.now() + TimeDelta::hours(1) }, "anna").await.unwrap();
    story.pass(6 * 3600).await;
    assert_eq!(story.told().await.len(), 1, "acknowledged: not repeated");
    let wrong = respond(env, &id, Response::Snooze { until: env.now() + TimeDelta::days(8) }, "anna").await.unwrap_err();
    assert_eq!(wrong.field.as_deref(), Some("until"));
    let new = NewSilence {
        matchers: vec![Matcher::parse("alertname=disk").unwrap()],
        starts_at: None,
        ends_at: env.now() + TimeDelta::hours(1),
        author: "anna".into(),
        reason: "it is known".into(),
    };
    let refused = silence(env, NewSilence { reason: String::new(), ..new.clone() }).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("reason"));
    let made = silence(env, new).await.unwrap();
    let shown = get(env, &id).await.unwrap();
    assert_eq!(shown["alert"]["silenced_by"][0], made["id"]);
    let kinds: Vec<&str> = shown["timeline"].as_array().unwrap().iter().filter_map(|e| e["kind"].as_str()).collect();
    assert_eq!(kinds, ["fired", "told", "acknowledged", "snoozed", "silenced"]);
    assert_eq!(shown["deliveries"].as_array().unwrap().len(), 1);
    end_silence(env, made["id"].as_str().unwrap(), "anna").await.unwrap();
    assert_eq!(end_silence(env, made["id"].as_str().unwrap(), "anna").await.unwrap_err().reason, "ended");
    story.fine("disk", "resources").await;
    assert_eq!(respond(env, &id, Response::Acknowledge { note: String::new() }, "anna").await.unwrap_err().reason, "not_firing");
    let episode = shown["alert"]["episode"].as_str().unwrap();
    assert_eq!(get(env, episode).await.unwrap()["alert"]["state"], "resolved");
    assert!(env.store().verify_journal().await.unwrap().ok);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_link_does_what_it_says_once_and_looking_at_it_changes_nothing() {
    let story = Story::begin().await;
    let env = story.env();
    story.critical("disk", "resources").await;
    story.pass(60).await;
    let link = story.messages().await[0].message.alerts[0].links.acknowledge.clone().unwrap();
    let query = link.split_once('?').unwrap().1;
    assert!(follow_link::offer(env, query).await.unwrap().button.is_some());
    assert!(list(env).await.unwrap()[0].acknowledged.is_none(), "a look changes nothing");
    assert_eq!(follow_link::follow(env, query).await.unwrap().title, "Done");
    assert!(list(env).await.unwrap()[0].acknowledged.is_some());
    let id = list(env).await.unwrap()[0].fingerprint.clone();
    respond(env, &id, Response::Unacknowledge, "anna").await.unwrap();
    assert_eq!(follow_link::follow(env, query).await.unwrap().title, "Done already", "a replay does nothing");
    assert!(list(env).await.unwrap()[0].acknowledged.is_none());
    for forged in [query.replace("do=ack", "do=snooze"), query.replace("al_", "al_0"), String::new()] {
        assert_eq!(follow_link::follow(env, &forged).await.unwrap_err().reason, "link", "{forged}");
    }
    story.fixture.clock.set(env.now() + TimeDelta::hours(73));
    assert_eq!(follow_link::offer(env, query).await.unwrap_err().reason, "link", "expired");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_says_of_an_alert_that_is_raised_counts() {
    let over = "[rules.backup_age]\noff = true\n[rules.certificate]\nseverity = \"critical\"\n";
    let story = Story::on(testing::reopen(tempfile::tempdir().unwrap(), START, |config| {
        settings(config);
        config.rules = Catalogue::read(crate::config::DEFAULT_RULES, Some(over)).unwrap();
    }))
    .await;
    let bad = |name: &str, system| Check { name: name.into(), system, ok: Some(false), severity: Severity::Warning, ..Check::default() };
    for _ in 0..3 {
        evaluate(story.env(), vec![bad("backup_age", "backup"), bad("backup_made", "backup"), bad("certificate", "probes")]).await.unwrap();
    }
    let mut found: Vec<_> = list(story.env()).await.unwrap().into_iter().map(|a| (a.name, a.severity)).collect();
    found.sort();
    assert_eq!(found, [("backup_made".to_owned(), Severity::Warning), ("certificate".to_owned(), Severity::Critical)]);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_watched_any_more_is_no_zombie() {
    let story = Story::begin().await;
    // Of a probe and an objective that are gone, and of a rule of the user's that is gone.
    let check = |name: &str, label: &str, system: &'static str| Check {
        name: name.into(),
        labels: BTreeMap::from([(label.into(), "shop".into())]),
        system,
        ok: Some(false),
        severity: Severity::Critical,
        ..Check::default()
    };
    let checks = [check("probe", "probe", "probes"), check("certificate", "probe", "probes"), check("slo_burn", "objective", "levels")];
    let all: Vec<Check> = checks.into_iter().chain([check("mine", "queue", "own")]).collect();
    for _ in 0..3 {
        evaluate(story.env(), all.clone()).await.unwrap();
    }
    evaluate(story.env(), vec![Check { labels: BTreeMap::from([("objective".into(), "api".into())]), ..all[2].clone() }]).await.unwrap();
    story.pass(60).await;
    let story = story.restart().await;
    story.pass(600).await;
    let left: Vec<_> = list(story.env()).await.unwrap().into_iter().map(|a| (a.name, a.labels.get("objective").cloned())).collect();
    assert_eq!(left, [("slo_burn".to_owned(), Some("api".to_owned()))], "what is watched goes on");
    let ended = story.messages().await.iter().flat_map(|m| &m.message.alerts).filter(|line| line.resolved).count();
    assert_eq!(ended, 3, "the level followed from the probe: nobody was told of it");
    story.end().await;
}
