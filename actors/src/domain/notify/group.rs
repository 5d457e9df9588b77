//! What is remembered about a group of alerts between two looks: the news that wait and what each channel was told. Kept in the store
//! by the alert actor, so that a restart neither repeats nor forgets. The engine alone changes it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::alert_rule::{Severity, name_of};

/// A way of telling people that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    pub name: &'static str,
    pub min_severity: Severity,
    /// It takes alerts one by one: none is only counted, however many there are.
    pub lists_all: bool,
}

/// The settings `[notify]`, and the channels that are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub group_by: Vec<String>,
    pub wait: TimeDelta,
    pub interval: TimeDelta,
    pub repeat: TimeDelta,
    pub send_resolved: bool,
    pub storm_per_name: usize,
    pub channels: Vec<Channel>,
}

/// What one channel was told and has not been told the end of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub at: DateTime<Utc>,
    /// By fingerprint, how bad it was then.
    pub alerts: BTreeMap<String, Severity>,
    /// Those of them that somebody acknowledged or snoozed since.
    #[serde(default)]
    pub answered: BTreeSet<String>,
}

impl Told {
    pub(super) fn new(at: DateTime<Utc>) -> Self {
        Self { at, alerts: BTreeMap::new(), answered: BTreeSet::new() }
    }
}

/// Alerts with the same values of the labels in `notify.group_by`, from the first one that is told until the last is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `{system="resources"}`
    pub key: String,
    pub created: DateTime<Utc>,
    /// How many messages were decided about it; a message's id follows from it.
    pub sequence: u64,
    /// News that nobody was told yet, by fingerprint: since when they may be.
    pub waiting: BTreeMap<String, DateTime<Utc>>,
    /// When news were told last.
    pub sent_at: Option<DateTime<Utc>>,
    /// When something critical was told last without waiting for the interval.
    pub hurried_at: Option<DateTime<Utc>>,
    /// By channel.
    pub told: BTreeMap<String, Told>,
}

impl Group {
    pub(super) fn new(key: &str, now: DateTime<Utc>) -> Self {
        let (waiting, told) = (BTreeMap::new(), BTreeMap::new());
        Self { key: key.to_owned(), created: now, sequence: 0, waiting, sent_at: None, hurried_at: None, told }
    }

    /// What it is called in messages: a group that comes back another day is another thread of mails, another incident at a pager.
    pub fn thread(&self) -> String {
        format!("{}@{}", self.key, self.created.timestamp())
    }

    /// The id of the message that is decided now.
    pub(super) fn message_id(&self) -> String {
        let (created, sequence) = (self.created.timestamp_micros().to_string(), self.sequence.to_string());
        format!("ntf_{}", name_of(&[&self.key, &created, &sequence]))
    }

    /// A clock that was set back must not make anybody wait for it to catch up.
    pub(super) fn not_after(&mut self, now: DateTime<Utc>) {
        let told = self.told.values_mut().map(|told| &mut told.at);
        for at in self.waiting.values_mut().chain(&mut self.sent_at).chain(&mut self.hurried_at).chain(told) {
            *at = now.min(*at);
        }
    }

    /// When the news that wait are due: `wait` after the first of them, but not before `interval` after the last. Something critical
    /// does not wait for the interval, once per interval.
    pub(super) fn due(&self, settings: &Settings, is_critical: impl Fn(&str) -> bool) -> Option<DateTime<Utc>> {
        let first = *self.waiting.values().min()? + settings.wait;
        let Some(sent_at) = self.sent_at else { return Some(first) };
        let patient = first.max(sent_at + settings.interval);
        let critical = self.waiting.iter().filter(|(fingerprint, _)| is_critical(fingerprint)).map(|(_, since)| *since).min();
        let hurry = critical.map(|since| {
            let next = self.hurried_at.map_or(since, |at| at + settings.interval);
            (since + settings.wait).max(next)
        });
        Some(hurry.map_or(patient, |at| at.min(patient)))
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.told.values().all(|told| told.alerts.is_empty())
    }
}
