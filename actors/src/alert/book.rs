//! What the alert actor knows: alerts, groups, silences, and what of it is not written down yet. Used by `mod.rs` and `requests.rs` only.
//! A look decides in memory and writes in one commit; while nothing can be written it goes on in memory and loses nothing but by its
//! own end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::{Message, NOUN, explain, settings, view::view};
use crate::{
    actor,
    channels::{self, Context},
    domain::{
        alert_rule::{Alert, Check, Patience, State as AlertState, Transition, fingerprint, step},
        notify::{self, Group, Look, Maintenance, Quiet, Settings, Silence},
        schedule::Blackout,
    },
    env::Env,
    error::{Error, Result},
    store::{AlertCommit, AlertEvent, NewNotification},
};

/// How often what was fine is written down.
const GOOD_EVERY: TimeDelta = TimeDelta::minutes(5);
/// More entries of what happened than this are not kept in memory while nothing can be written.
const UNWRITTEN: usize = 5000;
/// How often old entries are removed.
const TIDY_EVERY: TimeDelta = TimeDelta::hours(6);

/// How long a look waits for the database, and how long if it waited in vain before. What it does not wait for goes on by itself.
const PATIENCE: Duration = Duration::from_secs(4);
const IMPATIENT: Duration = Duration::from_millis(100);

/// A commit on its way, and whether somebody waited for it in vain.
struct Writing {
    commit: Arc<AlertCommit>,
    work: JoinHandle<Result<()>>,
    slow: bool,
}

pub(super) struct Book {
    pub(super) env: Env,
    /// By fingerprint.
    pub(super) alerts: BTreeMap<String, Alert>,
    pub(super) silences: Vec<Silence>,
    pub(super) unwritten: AlertCommit,
    /// What is being written.
    writing: Option<Writing>,
    /// Why alerts are not told by themselves, as of the last look.
    pub(super) quiet: BTreeMap<String, Quiet>,
    groups: BTreeMap<String, Group>,
    settings: Settings,
    /// Times without messages that come back.
    windows: Vec<Blackout>,
    maintenance: Vec<Maintenance>,
    good: BTreeMap<String, (String, DateTime<Utc>)>,
    good_changed: BTreeSet<String>,
    good_written: DateTime<Utc>,
    tidied: Option<DateTime<Utc>>,
    /// Messages on their way although they are not written down.
    sending: BTreeSet<String>,
}

impl Book {
    pub(super) async fn load(env: &Env) -> Result<Self> {
        if let Err(error) = settings::note(env).await {
            tracing::warn!(actor = NOUN, %error, "which settings changed could not be written down");
        }
        let (now, store, notify) = (env.now(), env.store(), &env.config().notify);
        let seconds = |n: i64| TimeDelta::try_seconds(n).unwrap_or(TimeDelta::MAX);
        let on = channels::ALL.iter().filter(|channel| channel.is_on(env.config(), env.secrets()));
        let settings = Settings {
            group_by: notify.group_by.clone(),
            wait: seconds(notify.group_wait_s),
            interval: seconds(notify.group_interval_s),
            repeat: seconds(notify.repeat_s),
            send_resolved: notify.send_resolved,
            storm_per_name: notify.storm_per_name,
            channels: on
                .map(|c| notify::Channel { name: c.name, min_severity: c.min_severity(env.config()), lists_all: c.name == "alertmanager" })
                .collect(),
        };
        let mut book = Self {
            env: env.clone(),
            alerts: store.alerts(0).await?.into_iter().map(|a| (a.fingerprint.clone(), a)).collect(),
            groups: store.notify_groups().await?.into_iter().map(|g| (g.key.clone(), g)).collect(),
            silences: store.silences(now).await?,
            windows: notify.maintenance.iter().filter_map(|text| Blackout::parse(text, None).ok()).collect(),
            good: store.good_values().await?.into_iter().map(|(fingerprint, value, at)| (fingerprint, (value, at))).collect(),
            settings,
            unwritten: AlertCommit::default(),
            writing: None,
            quiet: BTreeMap::new(),
            maintenance: Vec::new(),
            good_changed: BTreeSet::new(),
            good_written: now,
            tidied: None,
            sending: BTreeSet::new(),
        };
        book.retire(now);
        book.maintenance = book.maintenance_now(now).await;
        book.quiet = notify::quiet(&book.look_at(now)); // what was so before is no event
        Ok(book)
    }

    /// Alerts about what is not configured any more: nobody will ever check it again.
    fn retire(&mut self, now: DateTime<Utc>) {
        let config = self.env.config();
        let gone = |alert: &Alert| {
            let unknown = |label: &str, known: &dyn Fn(&str) -> bool| alert.labels.get(label).is_some_and(|name| !known(name));
            let watched = config.rules.of(&alert.name).is_some_and(|rule| !rule.off && rule.system == alert.system);
            !watched
                || unknown("probe", &|name| config.probes.contains_key(name))
                || unknown("objective", &|name| config.levels().iter().any(|level| level.name == name))
        };
        let ended: Vec<Alert> = self.alerts.values().filter(|a| a.state != AlertState::Resolved && gone(a)).cloned().collect();
        for mut alert in ended {
            let fired = alert.state == AlertState::Firing;
            (alert.state, alert.last_change, alert.until) = (AlertState::Resolved, now, Some(now));
            (alert.acknowledged, alert.snoozed_until) = (None, None);
            "it is not watched any more".clone_into(&mut alert.reason);
            if fired {
                self.happened(&alert, "resolved", None, view(&alert), now);
                self.unwritten.facts.push(self.env.fact("alert.resolved", &alert.fingerprint, view(&alert)));
            }
            self.keep(alert, now);
        }
    }

    /// Puts checks to the state machine; answers what they resolved.
    pub(super) fn judge(&mut self, checks: &[Check]) -> Vec<Alert> {
        let env = self.env.clone();
        let (limits, now) = (&env.config().alert, env.now());
        let mut resolved = Vec::new();
        for check in checks {
            let id = fingerprint(&check.labels());
            let rule = env.config().rules.of(&check.name);
            if rule.is_some_and(|rule| rule.off) {
                continue;
            }
            let raised = rule.and_then(|rule| rule.wanted).map(|severity| Check { severity, ..check.clone() });
            let check = raised.as_ref().unwrap_or(check);
            let patience = Patience::new(limits.fire_after, limits.resolve_after).of(rule);
            let before = self.alerts.get(&id).map(|b| (b.state, b.history));
            let (alert, transition) = step(self.alerts.get(&id), check, now, patience);
            if check.ok == Some(true) {
                self.good.insert(id.clone(), (check.value.clone().unwrap_or_else(|| check.reason.clone()), now));
                self.good_changed.insert(id.clone());
            }
            let Some(mut alert) = alert else {
                // Pending and over: what is not worth remembering is not remembered after a restart either.
                if let Some(mut gone) = self.alerts.remove(&id) {
                    (gone.state, gone.until) = (AlertState::Resolved, Some(now));
                    self.unwritten.alerts.insert(id, (gone, now));
                }
                continue;
            };
            if alert.last_good.is_none() {
                alert.last_good = self.good.get(&id).cloned();
            }
            if let Some(transition) = transition {
                self.turned(&alert, transition, now);
                if transition == Transition::Resolved {
                    resolved.push(alert.clone());
                }
            }
            // One that is over and was calm for long changes nothing but the time of its last good value, which is written apart.
            let idle = alert.state == AlertState::Resolved && before == Some((alert.state, alert.history));
            if idle { drop(self.alerts.insert(id, alert)) } else { self.keep(alert, now) }
        }
        resolved
    }

    fn turned(&mut self, alert: &Alert, transition: Transition, now: DateTime<Utc>) {
        let kind = match transition {
            Transition::Fired => "alert.fired",
            Transition::Escalated => "alert.escalated",
            Transition::Resolved => "alert.resolved",
        };
        self.unwritten.facts.push(self.env.fact(kind, &alert.fingerprint, view(alert)));
        self.happened(alert, transition.as_str(), None, view(alert), now);
        let (name, severity) = (&alert.name, alert.severity.as_str());
        tracing::warn!(actor = NOUN, alert = name, severity, reason = alert.reason, "{}", transition.as_str());
    }

    pub(super) fn keep(&mut self, alert: Alert, now: DateTime<Utc>) {
        self.unwritten.alerts.insert(alert.fingerprint.clone(), (alert.clone(), now));
        self.alerts.insert(alert.fingerprint.clone(), alert);
    }

    pub(super) fn happened(&mut self, alert: &Alert, kind: &str, by: Option<&str>, detail: Json, at: DateTime<Utc>) {
        let (fingerprint, kind, by) = (alert.fingerprint.clone(), kind.to_owned(), by.map(str::to_owned));
        self.unwritten.events.push(AlertEvent { at, alert: alert.id(), fingerprint, kind, by, detail });
    }

    fn look_at(&self, now: DateTime<Utc>) -> Look<'_> {
        let Self { alerts, groups, silences, maintenance, settings, .. } = self;
        Look { now, alerts, groups, silences, maintenance, catalogue: &self.env.config().rules, settings }
    }

    /// Decides what is told now, and explains it.
    pub(super) async fn look(&mut self) {
        let now = self.env.now();
        self.silences.retain(|silence| silence.ends_at > now - TimeDelta::days(1));
        self.maintenance = self.maintenance_now(now).await;
        let quiet = notify::quiet(&self.look_at(now));
        let decision = notify::decide(&self.look_at(now));
        self.note_quiet(&quiet, now);
        self.quiet = quiet;
        for (key, group) in &self.groups {
            if !decision.groups.contains_key(key) {
                self.unwritten.groups.insert(key.clone(), None);
            } else if decision.groups[key] != *group {
                self.unwritten.groups.insert(key.clone(), decision.groups.get(key).cloned());
            }
        }
        let new = decision.groups.iter().filter(|(key, _)| !self.groups.contains_key(*key));
        self.unwritten.groups.extend(new.map(|(key, group)| (key.clone(), Some(group.clone()))));
        self.groups = decision.groups;
        for (fingerprint, channel, message) in decision.told {
            if let Some(mut alert) = self.alerts.get(&fingerprint).cloned() {
                if alert.told_at.is_none() {
                    alert.told_at = Some(now);
                    self.keep(alert.clone(), now);
                }
                self.happened(&alert, "told", None, json!({"channel": channel, "message": message}), now);
            }
        }
        for (channel, mut message) in decision.messages {
            explain::complete(&self.env, &self.alerts, &mut message).await;
            let data =
                json!({"channel": channel, "kind": message.kind.as_str(), "severity": message.severity.as_str(), "title": message.title});
            self.unwritten.facts.push(self.env.fact("alert.told", &message.id, data));
            self.unwritten.messages.push(NewNotification { channel, message });
        }
    }

    /// What became quiet, or is told again, is part of the history.
    fn note_quiet(&mut self, quiet: &BTreeMap<String, Quiet>, now: DateTime<Utc>) {
        for (fingerprint, new) in quiet {
            let Some(alert) = self.alerts.get(fingerprint).cloned() else { continue };
            let old = self.quiet.get(fingerprint).cloned().unwrap_or_default();
            match (old.cause(), new.cause()) {
                (None, Some(cause)) => self.happened(&alert, "inhibited", None, json!({"by": cause}), now),
                (Some(cause), None) => self.happened(&alert, "uninhibited", None, json!({"by": cause}), now),
                _ => {}
            }
            if old.silenced_by.is_empty() && !new.silenced_by.is_empty() {
                self.happened(&alert, "silenced", None, json!({"silences": new.silenced_by}), now);
            }
            if old.maintenance.is_none() && new.maintenance.is_some() {
                self.happened(&alert, "maintenance", None, json!({"reason": new.maintenance}), now);
            }
        }
    }

    /// What is in force now. If it cannot be read, what was read last holds on.
    async fn maintenance_now(&self, now: DateTime<Utc>) -> Vec<Maintenance> {
        let inside = self.windows.iter().filter(|window| window.contains(now));
        let windows = inside.map(|window| Maintenance { systems: Vec::new(), reason: window.as_str().to_owned() });
        match tokio::time::timeout(PATIENCE, self.env.store().maintenance_at(now)).await {
            Ok(Ok(planned)) => windows.chain(planned.into_iter().map(|m| Maintenance { systems: m.systems, reason: m.reason })).collect(),
            _ => self.maintenance.clone(),
        }
    }

    /// Writes what is not written yet; answers whether there are messages among it. Errors leave it for the next time. One commit is
    /// on its way at a time: what its fate is has to be known before what came later is written.
    pub(super) async fn write(&mut self) -> Result<bool> {
        let mut told = self.written().await?;
        let now = self.env.now();
        let due = (now - self.good_written).abs() >= GOOD_EVERY;
        if due {
            let good = std::mem::take(&mut self.good_changed).into_iter();
            let value = |fingerprint: String| self.good.get(&fingerprint).map(|(value, at)| (fingerprint, value.clone(), *at));
            self.unwritten.good = good.filter_map(value).collect();
            self.good_written = now;
        }
        if !self.unwritten.is_empty() {
            let commit = Arc::new(std::mem::take(&mut self.unwritten));
            let (env, written) = (self.env.clone(), commit.clone());
            let work = tokio::spawn(async move { env.store().commit_alerts(&written).await });
            self.writing = Some(Writing { commit, work, slow: false });
            told |= self.written().await?;
        }
        Ok(told)
    }

    /// Waits for the commit that is on its way, for a while; answers whether there are messages among it.
    async fn written(&mut self) -> Result<bool> {
        let Some(writing) = self.writing.as_mut() else { return Ok(false) };
        let patience = if writing.slow { IMPATIENT } else { PATIENCE };
        let Ok(ended) = tokio::time::timeout(patience, &mut writing.work).await else {
            writing.slow = true;
            return Err(Error::unavailable("store_unavailable", "the database takes too long to write"));
        };
        let commit = self.writing.take().map(|writing| writing.commit).unwrap_or_default();
        match ended.map_err(Error::internal).flatten() {
            Ok(()) => {
                self.sending.retain(|id| !commit.messages.iter().any(|message| message.id() == *id));
                Ok(!commit.messages.is_empty())
            }
            Err(error) => {
                let later = std::mem::take(&mut self.unwritten);
                self.unwritten = Arc::unwrap_or_clone(commit).then(later);
                let excess = self.unwritten.events.len().saturating_sub(UNWRITTEN);
                self.unwritten.events.drain(..excess);
                let excess = self.unwritten.facts.len().saturating_sub(UNWRITTEN);
                self.unwritten.facts.drain(..excess);
                Err(error)
            }
        }
    }

    /// Messages that are not written down, as far as is known.
    fn waiting(&self) -> impl Iterator<Item = &NewNotification> {
        let writing = self.writing.iter().flat_map(|writing| &writing.commit.messages);
        writing.chain(&self.unwritten.messages)
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.waiting().next().is_some()
    }

    /// Messages that could not be written down and are not on their way yet.
    pub(super) fn take_unsent(&mut self) -> Vec<NewNotification> {
        let told = |id: &str| self.unwritten.told.contains_key(id) || self.writing.iter().any(|w| w.commit.told.contains_key(id));
        let new: Vec<_> = self.waiting().filter(|m| !self.sending.contains(&m.id()) && !told(&m.id())).cloned().collect();
        self.sending.extend(new.iter().map(NewNotification::id));
        new
    }

    pub(super) fn sent_unwritten(&mut self, id: String, sent: bool, now: DateTime<Utc>) {
        self.sending.remove(&id);
        if sent {
            // Written down meanwhile or not: with the next commit the row says that it was told.
            self.unwritten.told.insert(id, now);
        }
    }

    /// Removes what is older than `alert.history_days`, now and then.
    pub(super) async fn tidy(&mut self) {
        let now = self.env.now();
        if self.tidied.is_some_and(|at| (now - at).abs() < TIDY_EVERY) {
            return;
        }
        self.tidied = Some(now);
        let before = now - TimeDelta::try_days(self.env.config().alert.history_days).unwrap_or(TimeDelta::days(400));
        match tokio::time::timeout(PATIENCE, self.env.store().forget_alerts(before)).await {
            Ok(Ok(())) => self.alerts.retain(|_, a| a.state != AlertState::Resolved || a.last_change >= before),
            Ok(Err(error)) => tracing::debug!(actor = NOUN, %error, "old entries about alerts stay for now"),
            Err(_) => tracing::debug!(actor = NOUN, "old entries about alerts take long to remove"),
        }
    }

    /// Every alert with why it is quiet and what follows from it.
    pub(super) fn overview(&self) -> Vec<Json> {
        let mut effects: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (effect, quiet) in &self.quiet {
            if let Some(cause) = &quiet.effect_of {
                effects.entry(cause).or_default().push(effect);
            }
        }
        let none = Quiet::default();
        let one = |alert: &Alert| {
            let effects = effects.get(alert.fingerprint.as_str()).map(Vec::as_slice).unwrap_or_default();
            let quiet = self.quiet.get(&alert.fingerprint).filter(|_| alert.state == AlertState::Firing).unwrap_or(&none);
            super::view::whole(alert, quiet, effects, &self.env.config().rules)
        };
        let mut alerts: Vec<&Alert> = self.alerts.values().collect();
        let order = |state: AlertState| [AlertState::Firing, AlertState::Pending, AlertState::Resolved].iter().position(|s| *s == state);
        alerts.sort_by_key(|a| (order(a.state), std::cmp::Reverse(a.severity), std::cmp::Reverse(a.last_change)));
        alerts.into_iter().map(one).collect()
    }
}

/// Hands a message over without the outbox, once; a further tick tries again.
pub(super) async fn send_unwritten(env: Env, notification: NewNotification) {
    let context = Context { http: env.http(), config: env.config(), secrets: env.secrets(), now: env.now(), accepted: &[] };
    let result = channels::send(context, notification.channel, &notification.message).await;
    if let Err(failure) = &result {
        tracing::warn!(
            actor = NOUN,
            channel = notification.channel,
            error = failure.error,
            "a message that cannot be written down was not taken"
        );
    }
    actor::cast(&env, NOUN, Message::SentUnwritten { id: notification.id(), sent: result.is_ok() });
}
