//! What a message says about alerts, before the actor adds what only the store knows (what changed, the payments at risk, the links).
//! Called by the engine when a message is due.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{
    Effect, Kind, Line, Links, Message,
    group::{Channel, Group},
};
use crate::domain::alert_rule::{Alert, Catalogue, Severity, State};

/// More effects than this are not listed under their cause.
const EFFECTS: usize = 30;

/// What goes into one message for one channel.
pub(super) struct Content<'a> {
    pub(super) kind: Kind,
    /// The news, or in a repeat what still fires.
    pub(super) firing: Vec<&'a Alert>,
    pub(super) over: Vec<&'a Alert>,
    /// Known already and still firing: listed after the news.
    pub(super) known: Vec<&'a Alert>,
}

pub(super) struct Writer<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) storm_per_name: usize,
    /// By the cause's fingerprint.
    pub(super) effects: &'a BTreeMap<String, Vec<&'a Alert>>,
    pub(super) now: DateTime<Utc>,
}

impl Writer<'_> {
    pub(super) fn message(&self, group: &Group, channel: Channel, mut content: Content<'_>) -> Message {
        let worst_first =
            |alerts: &mut Vec<&Alert>| alerts.sort_by_key(|a| (std::cmp::Reverse(a.severity), a.since, a.fingerprint.clone()));
        worst_first(&mut content.firing);
        worst_first(&mut content.over);
        worst_first(&mut content.known);
        let still = content.firing.iter().chain(&content.known).map(|a| a.severity).max();
        let severity = still.or(content.over.iter().map(|a| a.severity).max()).unwrap_or(Severity::Info);
        let mut alerts = Vec::new();
        let (mut of_name, mut more) = (BTreeMap::new(), 0);
        for alert in content.firing.iter().chain(&content.over).chain(&content.known) {
            let listed: &mut usize = of_name.entry(&alert.name).or_default();
            *listed += 1;
            if *listed > self.storm_per_name && !channel.lists_all { more += 1 } else { alerts.push(self.line(alert)) }
        }
        Message {
            id: group.message_id(),
            kind: content.kind,
            severity,
            group: group.thread(),
            title: self.title(&content),
            at: self.now,
            alerts,
            more,
            url: String::new(),
        }
    }

    fn line(&self, alert: &Alert) -> Line {
        let rule = self.catalogue.of(&alert.name);
        let effects = self.effects.get(&alert.fingerprint).map(Vec::as_slice).unwrap_or_default();
        let mut reason = alert.reason.clone();
        if alert.flapping {
            reason.push_str("; it comes and goes, so its end is told when it has been calm for a while");
        }
        if effects.len() > EFFECTS {
            reason = format!("{reason}; {} more alerts follow from it", effects.len() - EFFECTS);
        }
        Line {
            alert: alert.id(),
            fingerprint: alert.fingerprint.clone(),
            name: alert.name.clone(),
            labels: alert.labels.clone(),
            severity: alert.severity,
            resolved: alert.state == State::Resolved,
            since: alert.since,
            until: alert.until,
            what: self.what(alert),
            value: alert.value.clone(),
            threshold: alert.threshold.clone(),
            reason,
            last_good: alert.last_good.clone(),
            changed: Vec::new(),
            risk: Vec::new(),
            owner: rule.map(|r| r.owner.clone()).unwrap_or_default(),
            runbook: rule.map(|r| r.runbook.clone()).unwrap_or_default(),
            effects: effects.iter().take(EFFECTS).map(|e| effect(e)).collect(),
            links: Links::default(),
        }
    }

    /// The rule's words, or what the check said.
    fn what(&self, alert: &Alert) -> String {
        let own: Vec<&str> = alert.labels.iter().filter(|(n, _)| *n != "alertname" && *n != "system").map(|(_, v)| v.as_str()).collect();
        let what = self.catalogue.of(&alert.name).map_or(&alert.reason, |rule| &rule.what);
        if own.is_empty() { what.clone() } else { format!("{what} ({})", own.join(", ")) }
    }

    fn title(&self, content: &Content<'_>) -> String {
        let of = |alert: &Alert| match &alert.value {
            Some(value) if alert.state == State::Firing => format!("{}: {value}", self.what(alert)),
            _ => self.what(alert),
        };
        let others = |n: usize| if n == 0 { String::new() } else { format!(" and {n} more") };
        let text = match (content.kind, content.firing.first(), content.over.first()) {
            (Kind::Firing, Some(lead), _) => format!("{}{}", of(lead), others(content.firing.len() - 1)),
            (Kind::Repeat, Some(lead), _) => format!("still: {}{}", of(lead), others(content.firing.len() - 1)),
            (Kind::Resolved, _, Some(lead)) => format!("over: {}{}", of(lead), others(content.over.len() - 1)),
            (_, _, Some(lead)) => format!("over: {}{}, others go on", of(lead), others(content.over.len() - 1)),
            _ => "nothing".to_owned(),
        };
        let effects: usize = content.firing.iter().map(|a| self.effects.get(&a.fingerprint).map_or(0, Vec::len)).sum();
        let text =
            if effects == 0 { text } else { format!("{text} (with {effects} that follow{} from it)", if effects == 1 { "s" } else { "" }) };
        let mut letters = text.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
    }
}

fn effect(alert: &Alert) -> Effect {
    Effect { name: alert.name.clone(), reason: alert.reason.clone(), since: alert.since }
}
