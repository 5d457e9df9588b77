//! One message to a person, before a channel gives it its form: what is wrong, since when, what changed, what it may cost and what to
//! do. Written into the outbox by the alert actor, read by the channels. It holds no secret but the signed links.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::alert_rule::Severity;

/// Why a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something began to fire, or got worse.
    Firing,
    /// It still does.
    Repeat,
    /// All of the group is over.
    Resolved,
    /// Many messages in one, because there were too many.
    Digest,
    /// Somebody pressed the test button.
    Test,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Repeat => "repeat",
            Self::Resolved => "resolved",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }
}

/// Money that may be concerned, in one currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Risk {
    pub currency: String,
    /// In minor units.
    pub amount_minor: i64,
    pub payments: u64,
    pub customers: u64,
}

/// An alert that was not told by itself because another one is its cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub name: String,
    pub reason: String,
    pub since: DateTime<Utc>,
}

/// Where a click leads: GET shows what would be done, POST does it. Absolute URLs with a signature and an end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    pub acknowledge: Option<String>,
    pub snooze: Option<String>,
    /// Runs the task that the rule names.
    pub run_now: Option<String>,
}

/// One alert in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The episode's id: `al_...`.
    pub alert: String,
    /// The same for every episode: Alertmanager's fingerprint.
    pub fingerprint: String,
    pub name: String,
    /// `alertname`, `system` and the rule's own.
    pub labels: BTreeMap<String, String>,
    pub severity: Severity,
    pub resolved: bool,
    pub since: DateTime<Utc>,
    /// When it resolved.
    pub until: Option<DateTime<Utc>>,
    /// What is the matter, in words: the rule's.
    pub what: String,
    /// With its unit.
    pub value: Option<String>,
    pub threshold: String,
    /// The check's own sentence.
    pub reason: String,
    /// The last value that was fine, and when.
    pub last_good: Option<(String, DateTime<Utc>)>,
    /// What else changed shortly before, in words.
    pub changed: Vec<String>,
    pub risk: Vec<Risk>,
    pub owner: String,
    pub runbook: String,
    pub effects: Vec<Effect>,
    pub links: Links,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `ntf_...`, the same for every attempt: by it a channel can tell that it has the message already.
    pub id: String,
    pub kind: Kind,
    /// The worst of its alerts.
    pub severity: Severity,
    /// The same for all messages about one group: the thread of an e-mail, the incident at a pager.
    pub group: String,
    /// One line.
    pub title: String,
    pub at: DateTime<Utc>,
    pub alerts: Vec<Line>,
    /// Alerts beyond those listed.
    pub more: u64,
    /// The page with all of it.
    pub url: String,
}
