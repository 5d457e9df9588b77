//! The decision who is told what now: grouping with wait, interval and repeat as Alertmanager has them, effects told with their cause,
//! silences, maintenance, acknowledgements. Called by the alert actor after every evaluation and every few seconds. Deciding the same
//! twice gives the same messages under the same ids.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Kind, Message,
    causes::effects,
    group::{Channel, Group, Settings, Told},
    silence::{Maintenance, Silence},
    telling::{Content, Writer},
};
use crate::domain::alert_rule::{Alert, Catalogue, Severity, State};

/// So long after its time a suspect is waited for: the look that decides about it may come late.
const SUSPICION: TimeDelta = TimeDelta::seconds(30);
/// So long before its cause an effect may be seen: each is looked at in its own time.
const BEFORE: TimeDelta = TimeDelta::minutes(5);
/// So long an effect may outlive its cause, if its rule does not say: figures are measured every five minutes, and end after two good looks.
const AFTERMATH: TimeDelta = TimeDelta::minutes(10);

/// Everything that counts for a decision.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub now: DateTime<Utc>,
    /// By fingerprint, of every state.
    pub alerts: &'a BTreeMap<String, Alert>,
    /// By key, as the last decision left them.
    pub groups: &'a BTreeMap<String, Group>,
    pub silences: &'a [Silence],
    /// What is in force now.
    pub maintenance: &'a [Maintenance],
    pub catalogue: &'a Catalogue,
    pub settings: &'a Settings,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub messages: Vec<(&'static str, Message)>,
    /// Alerts that these messages speak of, also those beyond the ones that are listed: (fingerprint, channel, message).
    pub told: Vec<(String, &'static str, String)>,
    pub groups: BTreeMap<String, Group>,
    /// When to look again, if nothing happens before: a group is due, a snooze or a silence begins or ends.
    pub next: Option<DateTime<Utc>>,
}

/// Why nobody is told about an alert by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Quiet {
    /// The fingerprint of the alert that is told in its place.
    pub effect_of: Option<String>,
    /// The fingerprint of one that may be the cause and whether it is will be known soon; or that was it, so that this should be over soon.
    pub waits_for: Option<String>,
    /// Ids of silences.
    pub silenced_by: Vec<String>,
    /// The reason of a maintenance.
    pub maintenance: Option<String>,
}

impl Quiet {
    /// The fingerprint of the alert that keeps this one from being told.
    pub fn cause(&self) -> Option<&str> {
        self.effect_of.as_deref().or(self.waits_for.as_deref())
    }

    pub fn is_quiet(&self) -> bool {
        self.effect_of.is_some() || self.waits_for.is_some() || !self.silenced_by.is_empty() || self.maintenance.is_some()
    }
}

/// The labels that grouping and matchers see: the alert's own, its component and its severity.
pub fn all_labels(alert: &Alert, catalogue: &Catalogue) -> BTreeMap<String, String> {
    let mut labels = alert.labels.clone();
    labels.entry("component".into()).or_insert_with(|| catalogue.component(&alert.name, &alert.system).to_owned());
    labels.insert("severity".into(), alert.severity.as_str().into());
    labels
}

/// For every alert that fires, by fingerprint.
pub fn quiet(look: &Look<'_>) -> BTreeMap<String, Quiet> {
    let firing: Vec<&Alert> = look.alerts.values().filter(|alert| alert.state == State::Firing).collect();
    let suspects = look.alerts.values().filter(|alert| suspect_until(alert, look).is_some());
    // Those that people were told of; the one that began first, because its end is where the others are named.
    let recent = firing.iter().map(|effect| look.now - aftermath(effect, look)).min().unwrap_or(look.now);
    let mut ended: Vec<&Alert> = look.alerts.values().filter(|alert| alert.until.is_some_and(|until| until > recent)).collect();
    ended.retain(|alert| alert.state == State::Resolved && alert.told_at.is_some());
    ended.sort_by_key(|alert| (alert.since, &alert.fingerprint));
    let counts = |cause: &Alert, effect: &Alert| match cause.state {
        State::Resolved => effect.state == State::Firing && aftermath_until(cause, effect, look).is_some(),
        State::Pending | State::Firing => effect.state != State::Resolved,
    };
    let all: Vec<&Alert> = firing.iter().copied().chain(suspects).chain(ended).collect();
    let mut causes = effects(&all, look.catalogue, counts);
    let in_force: Vec<&Silence> = look.silences.iter().filter(|s| s.is_in_force(look.now)).collect();
    let mut one = |alert: &Alert| {
        let labels = if in_force.is_empty() { BTreeMap::new() } else { all_labels(alert, look.catalogue) };
        let silenced_by = in_force.iter().filter(|s| s.matches(&labels)).map(|s| s.id.clone()).collect();
        let maintenance = look.maintenance.iter().find(|m| m.covers(&alert.system)).map(|m| m.reason.clone());
        let cause = causes.remove(&alert.fingerprint);
        let fires = |cause: &String| look.alerts.get(cause).is_some_and(|alert| alert.state == State::Firing);
        let (effect_of, waits_for) = if cause.as_ref().is_some_and(fires) { (cause, None) } else { (None, cause) };
        Quiet { effect_of, waits_for, silenced_by, maintenance }
    };
    firing.iter().map(|alert| (alert.fingerprint.clone(), one(alert))).collect()
}

/// One that is bad and waits for its rule's `for_s` is a suspect until this: what may follow from it is told then, with it or without.
fn suspect_until(alert: &Alert, look: &Look<'_>) -> Option<DateTime<Utc>> {
    let for_s = look.catalogue.of(&alert.name).map_or(0, |rule| rule.for_s);
    let until = alert.since + TimeDelta::seconds(for_s) + SUSPICION;
    let in_time = (alert.since..until).contains(&look.now);
    (alert.state == State::Pending && for_s > 0 && alert.bad_streak > 0 && in_time).then_some(until)
}

/// What began under a cause is its aftermath until this. What began later is news, and what began long before has another cause.
fn aftermath_until(cause: &Alert, effect: &Alert, look: &Look<'_>) -> Option<DateTime<Utc>> {
    let ended = cause.until.filter(|ended| *ended <= look.now)?;
    let under_it = effect.since <= ended && effect.since + BEFORE >= cause.since;
    let until = ended + aftermath(effect, look);
    (under_it && look.now < until).then_some(until)
}

/// So long it may still be bad when its cause has ended: its figure looks back, or is measured seldom.
fn aftermath(effect: &Alert, look: &Look<'_>) -> TimeDelta {
    let own = look.catalogue.of(&effect.name).and_then(|rule| rule.aftermath_s);
    own.map_or(AFTERMATH, TimeDelta::seconds)
}

pub fn decide(look: &Look<'_>) -> Decision {
    let quiet = quiet(look);
    let mut effects: BTreeMap<String, Vec<&Alert>> = BTreeMap::new();
    let mut members: BTreeMap<String, Vec<&Alert>> = look.groups.keys().map(|key| (key.clone(), Vec::new())).collect();
    for (fingerprint, quiet) in &quiet {
        let alert = &look.alerts[fingerprint];
        if let Some(cause) = quiet.cause() {
            effects.entry(cause.to_owned()).or_default().push(alert);
        }
        members.entry(key(alert, look)).or_default().push(alert);
    }
    let writer = Writer { catalogue: look.catalogue, storm_per_name: look.settings.storm_per_name, effects: &effects, now: look.now };
    let snoozes = quiet.keys().filter_map(|fingerprint| look.alerts[fingerprint].snoozed_until);
    let silences = look.silences.iter().filter(|s| s.ended_at.is_none()).flat_map(|s| [s.starts_at, s.ends_at]);
    let waits = quiet.iter().filter_map(|(effect, quiet)| {
        let cause = look.alerts.get(quiet.waits_for.as_ref()?)?;
        suspect_until(cause, look).or_else(|| aftermath_until(cause, look.alerts.get(effect)?, look))
    });
    let next = snoozes.chain(silences).chain(waits).filter(|at| *at > look.now).min();
    let mut decision = Decision { next, ..Decision::default() };
    for (key, firing) in members {
        let group = look.groups.get(&key).cloned().unwrap_or_else(|| Group::new(&key, look.now));
        let mut turn = Turn { look, quiet: &quiet, firing, group, decision: &mut decision };
        turn.take(&writer);
        let Turn { group, .. } = turn;
        if !group.is_over() {
            decision.groups.insert(key, group);
        }
    }
    decision
}

fn key(alert: &Alert, look: &Look<'_>) -> String {
    let labels = all_labels(alert, look.catalogue);
    let value = |name: &String| labels.get(name).filter(|_| name != "severity").map(String::as_str).unwrap_or_default();
    let pairs: Vec<String> = look.settings.group_by.iter().map(|name| format!("{name}={:?}", value(name))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn has_answer(alert: &Alert) -> bool {
    alert.acknowledged.is_some() || alert.snoozed_until.is_some()
}

/// One group's turn.
struct Turn<'a> {
    look: &'a Look<'a>,
    quiet: &'a BTreeMap<String, Quiet>,
    /// Its alerts that fire.
    firing: Vec<&'a Alert>,
    group: Group,
    decision: &'a mut Decision,
}

impl<'a> Turn<'a> {
    fn take(&mut self, writer: &Writer<'_>) {
        let Look { now, settings, .. } = *self.look;
        self.group.not_after(now);
        self.group.told.retain(|name, _| settings.channels.iter().any(|c| c.name == name));
        self.forget();
        self.remember_answers();
        let news: Vec<_> = settings.channels.iter().map(|channel| (*channel, self.fresh(channel), self.over(channel))).collect();
        let all: BTreeSet<&str> =
            news.iter().flat_map(|(_, fresh, over)| fresh.iter().chain(over)).map(|a| a.fingerprint.as_str()).collect();
        self.group.waiting.retain(|fingerprint, _| all.contains(fingerprint.as_str()));
        for fingerprint in all {
            self.group.waiting.entry(fingerprint.to_owned()).or_insert(now);
        }
        let mut said = false;
        let due = self.due();
        if due.is_some_and(|due| due <= now) {
            if self.group.sent_at.is_some_and(|at| now < at + settings.interval) {
                self.group.hurried_at = Some(now);
            }
            for (channel, fresh, over) in news {
                if !fresh.is_empty() || !over.is_empty() {
                    said = true;
                    self.tell_news(writer, channel, fresh, over);
                }
            }
            self.group.sent_at = Some(now);
            self.group.waiting.clear();
        } else {
            self.decision.next = self.decision.next.into_iter().chain(due).min();
        }
        for channel in &settings.channels {
            said |= self.repeat(writer, *channel);
        }
        self.group.sequence += u64::from(said);
        self.group.told.retain(|_, told| !told.alerts.is_empty());
    }

    fn due(&self) -> Option<DateTime<Utc>> {
        let is_critical = |fingerprint: &str| {
            let alert = self.look.alerts.get(fingerprint);
            alert.is_some_and(|a| a.severity == Severity::Critical && a.state == State::Firing)
        };
        self.group.due(self.look.settings, is_critical)
    }

    /// Alerts that are not there any more, and ends that nobody wants to know.
    fn forget(&mut self) {
        let Look { alerts, settings, .. } = *self.look;
        for told in self.group.told.values_mut() {
            told.alerts.retain(|fingerprint, _| {
                alerts.get(fingerprint).is_some_and(|alert| alert.state != State::Resolved || settings.send_resolved)
            });
        }
    }

    /// Whoever acknowledged or snoozed an alert counts on hearing of it when it comes back or gets worse, which takes the answer back.
    fn remember_answers(&mut self) {
        let alerts = self.look.alerts;
        let answered = |fingerprint: &&String| alerts.get(*fingerprint).is_some_and(has_answer);
        for told in self.group.told.values_mut() {
            told.answered.retain(|fingerprint| told.alerts.contains_key(fingerprint));
            told.answered.extend(told.alerts.keys().filter(answered).cloned());
        }
    }

    /// What the channel should know and does not: new, worse than it was told, or back after an answer.
    fn fresh(&self, channel: &Channel) -> Vec<&'a Alert> {
        let told = self.group.told.get(channel.name);
        let known = |alert: &Alert| {
            told.is_some_and(|told| {
                let as_bad = told.alerts.get(&alert.fingerprint).is_some_and(|severity| *severity >= alert.severity);
                as_bad && (has_answer(alert) || !told.answered.contains(&alert.fingerprint))
            })
        };
        self.firing.iter().copied().filter(|a| a.severity >= channel.min_severity && !self.is_quiet(a) && !known(a)).collect()
    }

    /// What the channel was told of and is over. It is told under a silence too: whoever was woken wants to know.
    fn over(&self, channel: &Channel) -> Vec<&'a Alert> {
        let told = self.group.told.get(channel.name).into_iter().flat_map(|told| told.alerts.keys());
        told.filter_map(|fingerprint| self.look.alerts.get(fingerprint)).filter(|alert| alert.state == State::Resolved).collect()
    }

    fn is_quiet(&self, alert: &Alert) -> bool {
        alert.is_quiet(self.look.now) || self.quiet.get(&alert.fingerprint).is_some_and(Quiet::is_quiet)
    }

    /// What the channel was told, still fires and is nobody's yet.
    fn open(&self, channel: &Channel) -> Vec<&'a Alert> {
        let Some(told) = self.group.told.get(channel.name) else { return Vec::new() };
        let known = |a: &&Alert| told.alerts.contains_key(&a.fingerprint) && a.severity >= channel.min_severity && !self.is_quiet(a);
        self.firing.iter().copied().filter(known).collect()
    }

    fn tell_news(&mut self, writer: &Writer<'_>, channel: Channel, fresh: Vec<&'a Alert>, over: Vec<&'a Alert>) {
        let names = |alerts: &[&'a Alert]| alerts.iter().map(|a| a.fingerprint.as_str()).collect::<BTreeSet<_>>();
        let (new, ended) = (names(&fresh), names(&over));
        let known: Vec<_> = self.open(&channel).into_iter().filter(|a| !new.contains(a.fingerprint.as_str())).collect();
        let still = |told: &Told| told.alerts.keys().any(|f| !ended.contains(f.as_str()));
        let all_over = fresh.is_empty() && !self.group.told.get(channel.name).is_some_and(still);
        let told = self.group.told.entry(channel.name.to_owned()).or_insert_with(|| Told::new(self.look.now));
        told.at = self.look.now;
        told.answered.retain(|fingerprint| !new.contains(fingerprint.as_str()));
        told.alerts.retain(|fingerprint, _| !ended.contains(fingerprint.as_str()));
        told.alerts.extend(fresh.iter().map(|a| (a.fingerprint.clone(), a.severity)));
        let kind = if all_over { Kind::Resolved } else { Kind::Firing };
        self.say(writer, channel, Content { kind, firing: fresh, over, known });
    }

    fn repeat(&mut self, writer: &Writer<'_>, channel: Channel) -> bool {
        if !self.group.waiting.is_empty() {
            return false; // the news will say it, and soon
        }
        let (now, open) = (self.look.now, self.open(&channel));
        let Some(told) = self.group.told.get_mut(channel.name).filter(|_| !open.is_empty()) else { return false };
        // After a snooze it is told again at once, else when it was long ago.
        let snooze = |a: &&Alert| a.snoozed_until.filter(|until| *until > told.at);
        let due =
            open.iter().filter_map(snooze).min().unwrap_or(told.at + self.look.settings.repeat).min(told.at + self.look.settings.repeat);
        if due > now {
            self.decision.next = self.decision.next.into_iter().chain([due]).min();
            return false;
        }
        told.at = now;
        self.say(writer, channel, Content { kind: Kind::Repeat, firing: open, over: Vec::new(), known: Vec::new() });
        true
    }

    fn say(&mut self, writer: &Writer<'_>, channel: Channel, content: Content<'_>) {
        let about: Vec<String> = content.firing.iter().chain(&content.over).map(|a| a.fingerprint.clone()).collect();
        let message = writer.message(&self.group, channel, content);
        self.decision.told.extend(about.into_iter().map(|fingerprint| (fingerprint, channel.name, message.id.clone())));
        self.decision.messages.push((channel.name, message));
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
