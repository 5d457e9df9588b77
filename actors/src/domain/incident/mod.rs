//! Incidents: one for each cause, opened by what was found, kept up to date, closed when it has been quiet, opened again if it comes back.
//! `step` takes what is known and what was found now and answers what changes, with a timeline. Called by the incident scanner; a
//! person's acknowledgement and closing go through here too. It stores nothing and tells nobody: alerts do that.

mod redact;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

pub use redact::redact;

use super::alert_rule::Severity;

/// Samples kept of an incident.
pub const SAMPLES: usize = 3;
/// Signals listed in one incident; the count goes on.
const SIGNALS: usize = 50;
/// The incident that takes what finds no place.
pub const OVERFLOW: &str = "overflow";

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Closed after so long without anything found.
    pub quiet: TimeDelta,
    /// What comes back within this is the same incident.
    pub reopen: TimeDelta,
    /// Open at the same time; what comes beyond goes into one incident of its own.
    pub max_open: usize,
}

/// Something found: it holds now, or was seen since the last look.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What it is, the same at every look: `alert:disk_low`, `template:3f…`, `recon:exc_…`.
    pub signal: String,
    /// What it is about, in the catalogue's graph of causes: an open incident of a cause takes it in.
    pub component: String,
    /// Its own cause, if no other is known: the component, or the signal where a component says too little.
    pub key: String,
    /// Where it was found: `alert`, `slo`, `recon`, `sentinel`, `log`.
    pub source: &'static str,
    pub severity: Severity,
    /// A few words.
    pub title: String,
    /// A sentence.
    pub text: String,
    /// How often it was seen since the last look; 1 for what simply holds.
    pub count: u64,
    /// Redacted by the caller.
    pub samples: Vec<String>,
    /// When it was seen last.
    pub at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Open,
    Closed,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// One finding within an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    pub source: String,
    pub component: String,
    pub severity: Severity,
    pub title: String,
    pub text: String,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub count: u64,
    /// It is here because its component depends on the incident's.
    pub is_effect: bool,
}

/// Payments in the incident's time, in one currency; minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    pub currency: String,
    /// Not through: failed, or not finished.
    pub at_risk_minor: i64,
    pub at_risk_payments: u64,
    /// Through: what goes well beside it.
    pub paid_minor: i64,
    pub paid_payments: u64,
    /// Customers of those at risk.
    pub customers: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    pub id: String,
    /// The cause: a component's name, or a signal's that belongs to none.
    pub key: String,
    pub component: String,
    pub state: State,
    /// The worst that was seen since it opened.
    pub severity: Severity,
    pub title: String,
    /// Of its first signal.
    pub source: String,
    pub opened_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
    /// Who closed it and why: `quiet`, or a person's reason.
    pub closed_by: Option<String>,
    pub close_reason: Option<String>,
    pub acknowledged_by: Option<String>,
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// All that was seen.
    pub count: u64,
    pub reopened: u32,
    /// At most [`SAMPLES`]: the first, and the latest.
    pub samples: Vec<String>,
    pub signals: BTreeMap<String, Signal>,
    #[serde(default)]
    pub money: Vec<Money>,
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    pub incident: String,
    pub at: DateTime<Utc>,
    /// `opened`, `reopened`, `signal`, `effect`, `escalated`, `acknowledged`, `closed`.
    pub kind: &'static str,
    pub text: String,
    /// Who did it, for what people do.
    pub by: Option<String>,
}

/// What becomes of the incidents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// New or different; each once.
    pub incidents: Vec<Incident>,
    pub events: Vec<Event>,
}

/// Who can be the cause of whom: every component that may be the cause of this one, directly or through others.
pub trait Causes {
    fn causes_of(&self, component: &str) -> BTreeSet<String>;
}

impl<F: Fn(&str) -> BTreeSet<String>> Causes for F {
    fn causes_of(&self, component: &str) -> BTreeSet<String> {
        self(component)
    }
}

/// `known`: every open incident, and those closed within the time in which they may open again. `new_id` makes an id.
pub fn step(
    known: &[Incident],
    findings: &[Finding],
    causes: &impl Causes,
    settings: Settings,
    now: DateTime<Utc>,
    new_id: &mut impl FnMut() -> String,
) -> Changes {
    let mut desk = Desk { all: known.to_vec(), changed: BTreeSet::new(), events: Vec::new(), settings, now };
    // Causes first, so that their effects find them open.
    let mut order: Vec<(&Finding, BTreeSet<String>)> = findings.iter().map(|f| (f, causes.causes_of(&f.component))).collect();
    order.sort_by(|(a, ca), (b, cb)| (ca.len(), b.severity, &a.signal).cmp(&(cb.len(), a.severity, &b.signal)));
    for (finding, causes) in order {
        desk.take(finding, &causes, new_id);
    }
    desk.close_quiet();
    let incidents = desk.changed.iter().map(|at| desk.all[*at].clone()).collect();
    Changes { incidents, events: desk.events }
}

struct Desk {
    all: Vec<Incident>,
    changed: BTreeSet<usize>,
    events: Vec<Event>,
    settings: Settings,
    now: DateTime<Utc>,
}

impl Desk {
    fn take(&mut self, finding: &Finding, causes: &BTreeSet<String>, new_id: &mut impl FnMut() -> String) {
        let key = &finding.key;
        let open = |all: &[Incident], key: &str| all.iter().position(|i| i.state == State::Open && i.key == key);
        // Where it was seen last is where it belongs, as long as that is open.
        let seen = self.all.iter().position(|i| i.state == State::Open && i.signals.contains_key(&finding.signal));
        let cause = || {
            let open = self.all.iter().enumerate().filter(|(_, i)| i.state == State::Open && causes.contains(&i.key));
            open.min_by_key(|(_, i)| (i.opened_at, i.id.clone())).map(|(at, _)| at)
        };
        if let Some(at) = seen.or_else(|| open(&self.all, key)).or_else(cause) {
            return self.add(at, finding);
        }
        let lately = self.now - self.settings.reopen;
        let closed = self.all.iter().enumerate().filter(|(_, i)| i.key == *key && i.closed_at.is_some_and(|at| at >= lately));
        let room = self.all.iter().filter(|i| i.state == State::Open && i.key != OVERFLOW).count() < self.settings.max_open;
        if let Some((at, _)) = closed.max_by_key(|(_, i)| i.closed_at).filter(|_| room) {
            return self.reopen(at, finding);
        }
        if room {
            return self.open(key.clone(), finding.title.clone(), finding, new_id);
        }
        if let Some(at) = open(&self.all, OVERFLOW) {
            return self.add(at, finding);
        }
        let title = format!("more than {} causes at the same time", self.settings.max_open);
        self.open(OVERFLOW.to_owned(), title, finding, new_id);
    }

    fn open(&mut self, key: String, title: String, finding: &Finding, new_id: &mut impl FnMut() -> String) {
        let incident = Incident {
            id: new_id(),
            component: finding.component.clone(),
            key,
            state: State::Open,
            severity: finding.severity,
            title,
            source: finding.source.to_owned(),
            opened_at: self.now,
            updated_at: self.now,
            last_seen: finding.at,
            closed_at: None,
            closed_by: None,
            close_reason: None,
            acknowledged_by: None,
            acknowledged_at: None,
            count: 0,
            reopened: 0,
            samples: Vec::new(),
            signals: BTreeMap::new(),
            money: Vec::new(),
        };
        let at = self.all.len();
        self.say(&incident.id, "opened", finding.text.clone());
        self.all.push(incident);
        self.count(at, finding, false);
    }

    fn reopen(&mut self, at: usize, finding: &Finding) {
        let incident = &mut self.all[at];
        incident.state = State::Open;
        (incident.closed_at, incident.closed_by, incident.close_reason) = (None, None, None);
        (incident.acknowledged_by, incident.acknowledged_at) = (None, None);
        incident.reopened += 1;
        incident.severity = finding.severity;
        let id = incident.id.clone();
        self.say(&id, "reopened", finding.text.clone());
        self.count(at, finding, false);
    }

    fn add(&mut self, at: usize, finding: &Finding) {
        let incident = &mut self.all[at];
        let own = incident.key == finding.key || incident.key == OVERFLOW;
        let id = incident.id.clone();
        let is_new = !incident.signals.contains_key(&finding.signal) && incident.signals.len() < SIGNALS;
        // An effect may look worse than its cause; what is to be done is the same.
        if finding.severity > incident.severity {
            let text = format!("now {}: {}", finding.severity.as_str(), finding.text);
            incident.severity = finding.severity;
            (incident.acknowledged_by, incident.acknowledged_at) = (None, None);
            self.say(&id, "escalated", text);
        } else if is_new {
            self.say(&id, if own { "signal" } else { "effect" }, finding.text.clone());
        }
        self.count(at, finding, !own);
    }

    fn count(&mut self, at: usize, finding: &Finding, is_effect: bool) {
        let incident = &mut self.all[at];
        incident.count += finding.count;
        incident.updated_at = self.now;
        incident.last_seen = incident.last_seen.max(finding.at);
        for sample in &finding.samples {
            if !incident.samples.contains(sample) {
                // The first says how it began, the last how it is.
                if incident.samples.len() >= SAMPLES {
                    incident.samples.pop();
                }
                incident.samples.push(sample.clone());
            }
        }
        let room = incident.signals.len() < SIGNALS;
        if let Some(signal) = incident.signals.get_mut(&finding.signal) {
            signal.count += finding.count;
            signal.last_seen = signal.last_seen.max(finding.at);
            signal.severity = finding.severity;
            signal.text.clone_from(&finding.text);
        } else if room {
            let signal = Signal {
                source: finding.source.to_owned(),
                component: finding.component.clone(),
                severity: finding.severity,
                title: finding.title.clone(),
                text: finding.text.clone(),
                first_seen: finding.at,
                last_seen: finding.at,
                count: finding.count,
                is_effect,
            };
            incident.signals.insert(finding.signal.clone(), signal);
        }
        self.changed.insert(at);
    }

    fn close_quiet(&mut self) {
        let settings = self.settings;
        for at in 0..self.all.len() {
            let (state, quiet_since) = (self.all[at].state, self.all[at].last_seen);
            if state == State::Open && self.now - quiet_since >= settings.quiet {
                let text = format!("nothing was seen for {} min", settings.quiet.num_minutes());
                let (incident, event) = end(&self.all[at], "quiet", None, text, self.now);
                self.all[at] = incident;
                self.events.push(event);
                self.changed.insert(at);
            }
        }
    }

    fn say(&mut self, incident: &str, kind: &'static str, text: String) {
        self.events.push(Event { incident: incident.to_owned(), at: self.now, kind, text, by: None });
    }
}

/// A person looks into it. Errors: a sentence.
pub fn acknowledge(incident: &Incident, by: &str, now: DateTime<Utc>) -> Result<(Incident, Event), String> {
    if incident.state != State::Open {
        return Err(format!("the incident is {}, so nobody needs to look into it", incident.state.as_str()));
    }
    let changed = Incident { acknowledged_by: Some(by.to_owned()), acknowledged_at: Some(now), updated_at: now, ..incident.clone() };
    let text = format!("{by} looks into it");
    Ok((changed, Event { incident: incident.id.clone(), at: now, kind: "acknowledged", text, by: Some(by.to_owned()) }))
}

/// A person says that it is over. If it is not, the next look opens it again. Errors: a sentence.
pub fn close(incident: &Incident, by: &str, reason: &str, now: DateTime<Utc>) -> Result<(Incident, Event), String> {
    if incident.state != State::Open {
        return Err(format!("the incident is {} already", incident.state.as_str()));
    }
    Ok(end(incident, reason, Some(by), reason.to_owned(), now))
}

fn end(incident: &Incident, reason: &str, by: Option<&str>, text: String, now: DateTime<Utc>) -> (Incident, Event) {
    let changed = Incident {
        state: State::Closed,
        closed_at: Some(now),
        closed_by: by.map(str::to_owned),
        close_reason: Some(reason.to_owned()),
        updated_at: now,
        ..incident.clone()
    };
    (changed, Event { incident: incident.id.clone(), at: now, kind: "closed", text, by: by.map(str::to_owned) })
}

#[cfg(test)]
mod tests;
