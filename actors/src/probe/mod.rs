//! Probes: what asks things outside whether they are well. Each is a task of its own at a fixed rate, so that a slow one delays no other; the
//! slo actor starts them. A result is counted, kept and put to the alerts. Before a target is blamed our own connection is looked at:
//! while that is gone, nothing is known about anything outside, and one alert says so.

mod ask;
mod connectivity;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value as Json, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

pub use self::connectivity::Connectivity;
use crate::{
    alert,
    config::ProbeSettings,
    domain::{
        alert_rule::{Check, Severity},
        probe::{Expectation, Kind, Seen},
    },
    env::{Env, rfc3339},
    error::Result,
};

/// Starts every configured probe in `tasks`, and the watch over our own connection.
pub fn start(env: &Env, tasks: &mut JoinSet<()>) {
    let connectivity = Arc::new(Connectivity::new(env));
    for (name, settings) in env.config().probes.clone() {
        let Ok(expectation) = settings.expectation() else { continue }; // refused when the settings were read
        let probe = Probe { env: env.clone(), name, settings, expectation, connectivity: connectivity.clone() };
        tasks.spawn(probe.run());
    }
    if connectivity.is_configured() {
        tasks.spawn(connectivity.watch());
    }
}

/// What one probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    /// We are offline ourselves.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

struct Probe {
    env: Env,
    name: String,
    settings: ProbeSettings,
    expectation: Expectation,
    connectivity: Arc<Connectivity>,
}

impl Probe {
    async fn run(self) {
        let mut ticks = interval(Duration::from_secs(self.settings.every_s));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip); // the rate is fixed, however long an answer takes
        loop {
            ticks.tick().await;
            if let Err(error) = self.once().await {
                tracing::warn!(target: "probe", probe = self.name, %error, "the result of a probe could not be kept");
            }
        }
    }

    async fn once(&self) -> Result<()> {
        let seen = ask::ask(&self.env, &self.settings, self.expectation.kind).await;
        let verdict = self.expectation.judge(&seen);
        let is_outside = self.expectation.kind != Kind::Database;
        let state = match &verdict {
            Ok(_) => State::Up,
            Err(_) if is_outside && self.connectivity.is_offline().await => State::Unknown,
            Err(_) => State::Down,
        };
        let (env, now) = (&self.env, self.env.now());
        if state != State::Unknown {
            env.meter().record(&format!("probe:{}", self.name), now, seen.took_ms.saturating_mul(1000), state == State::Down);
        }
        let reason = match (&verdict, state) {
            (Err(reason), State::Unknown) => format!("not known: this machine is offline ({reason})"),
            (Ok(reason) | Err(reason), _) => reason.clone(),
        };
        let mut checks = vec![self.check(state, &seen, reason.clone())];
        checks.extend(self.certificate(&seen, now.timestamp()));
        let body = json!({
            "reason": reason, "status": seen.status, "took_ms": seen.took_ms,
            "certificate_ends": seen.cert_ends.and_then(|at| chrono::DateTime::from_timestamp(at, 0)).map(rfc3339),
        });
        let kept = env.store().put_probe(&self.name, state.as_str(), now, &body).await;
        alert::evaluate(env, checks).await?;
        kept
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("probe".to_owned(), self.name.clone())])
    }

    fn check(&self, state: State, seen: &Seen, reason: String) -> Check {
        let target = if self.expectation.kind == Kind::Database { "the database" } else { &self.settings.target };
        Check {
            name: "probe".into(),
            labels: self.labels(),
            system: "probes",
            ok: (state != State::Unknown).then_some(state == State::Up),
            severity: Severity::Critical,
            value: seen
                .status
                .map_or_else(|| Some(format!("{} ms", seen.took_ms)), |status| Some(format!("status {status}, {} ms", seen.took_ms))),
            threshold: format!("{} as it should be, within {} s", self.expectation.kind.as_str(), self.settings.timeout_s),
            reason: format!("{}: {target}: {reason}", self.name),
        }
    }

    fn certificate(&self, seen: &Seen, now: i64) -> Option<Check> {
        let verdict = self.expectation.certificate(seen, now)?;
        let (Ok(reason) | Err(reason)) = &verdict;
        Some(Check {
            name: "certificate".into(),
            labels: self.labels(),
            system: "probes",
            ok: Some(verdict.is_ok()),
            severity: Severity::Warning,
            value: seen.cert_ends.map(|ends| format!("{} days", (ends - now) / 86_400)),
            threshold: format!(">= {} days", self.expectation.cert_days),
            reason: format!("{}: {}: {reason}", self.name, self.settings.target),
        })
    }
}

/// The latest result of each configured probe: `GET /api/slo/probes`.
pub async fn view(env: &Env) -> Result<Vec<Json>> {
    let rows = env.store().probes().await?;
    let of = |name: &String, settings: &ProbeSettings| {
        let row = rows.iter().find(|row| row.name == *name);
        let mut view = json!({
            "name": name, "kind": settings.kind, "target": settings.target, "every_s": settings.every_s,
            "state": row.map_or("new", |row| row.state.as_str()),
            "at": row.map(|row| rfc3339(row.at)), "since": row.map(|row| rfc3339(row.changed_at)),
        });
        if let (Some(row), Some(members)) = (row, view.as_object_mut()) {
            members.extend(row.body.as_object().cloned().unwrap_or_default());
        }
        view
    };
    Ok(env.config().probes.iter().map(|(name, settings)| of(name, settings)).collect())
}

#[cfg(test)]
mod tests;
