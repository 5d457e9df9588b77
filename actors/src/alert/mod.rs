//! Alert owns the state of every alert: it takes checks, decides what fires and what resolves, and writes that down with its
//! journal entry before anybody is told. When it dies, its replacement reads the state back, so a restart neither forgets nor
//! repeats an alert.

mod delivery;
/// What the rules are judged on.
pub mod figures;
mod pushes;
mod watch;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value as Json, json};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    actor::{self, Probe, Probed, Reply},
    domain::alert_rule::{Alert, Check, State as AlertState, Transition, fingerprint, step},
    env::{Env, rfc3339},
    error::Result,
};

pub const NOUN: &str = "alert";

pub enum Message {
    Evaluate { checks: Vec<Check>, reply: Reply<Evaluated> },
    List(Reply<Vec<Alert>>),
    Probe(Probe, Reply<()>),
}

impl Probed for Message {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// What one evaluation found: `logs/production_alerts.json`.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// Firing, after these checks; of every rule, not only of these.
    pub active: Vec<Alert>,
    /// Resolved by these checks.
    pub resolved: Vec<Alert>,
    pub checked: usize,
}

/// Puts checks to the state machine. What fires or resolves is durable when this answers.
pub async fn evaluate(env: &Env, checks: Vec<Check>) -> Result<Evaluated> {
    actor::call(env, NOUN, timeout(env), |reply| Message::Evaluate { checks: checks.clone(), reply }).await
}

/// Alerts that are pending or firing.
pub async fn list(env: &Env) -> Result<Vec<Alert>> {
    actor::call(env, NOUN, timeout(env), Message::List).await
}

/// An alert as reports and the API show it.
pub fn view(alert: &Alert) -> Json {
    json!({
        "id": alert.fingerprint, "name": alert.name, "system": alert.system, "severity": alert.severity.as_str(), "state": alert.state,
        "since": rfc3339(alert.since), "value": alert.value, "threshold": alert.threshold, "reason": alert.reason,
    })
}

fn timeout(env: &Env) -> Duration {
    Duration::from_millis(env.config().server.actor_timeout_ms)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Alerts;

pub struct State {
    env: Env,
    /// Pokes the delivery: there is a new message.
    wake: Arc<Notify>,
    /// By fingerprint; `None` until the store has been read.
    alerts: Option<BTreeMap<String, Alert>>,
    /// Delivery and watch; they end with the actor.
    _helpers: JoinSet<()>,
}

impl Actor for Alerts {
    type Msg = Message;
    type State = State;
    type Arguments = Env;

    async fn pre_start(&self, _: ActorRef<Message>, env: Env) -> Result<State, ActorProcessingErr> {
        let wake = Arc::new(Notify::new());
        let mut helpers = JoinSet::new();
        if env.config().timer.enabled {
            helpers.spawn(delivery::run(env.clone(), wake.clone()));
            helpers.spawn(watch::run(env.clone()));
        }
        Ok(State { env, alerts: None, wake, _helpers: helpers })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Evaluate { checks, reply } => actor::respond(reply, state.evaluate(&checks).await),
            Message::List(reply) => actor::respond(reply, state.list().await),
            Message::Probe(probe, reply) => actor::answer(probe, reply).await,
        }
        Ok(())
    }
}

impl State {
    async fn load(&mut self) -> Result<&mut BTreeMap<String, Alert>> {
        if self.alerts.is_none() {
            let stored = self.env.store().alerts(0).await?;
            self.alerts = Some(stored.into_iter().map(|a| (a.fingerprint.clone(), a)).collect());
        }
        Ok(self.alerts.get_or_insert_default())
    }

    async fn list(&mut self) -> Result<Vec<Alert>> {
        Ok(self.load().await?.values().filter(|a| a.state != AlertState::Resolved).cloned().collect())
    }

    async fn evaluate(&mut self, checks: &[Check]) -> Result<Evaluated> {
        let env = self.env.clone();
        let limits = &env.config().alert;
        let now = env.now();
        let alerts = self.load().await?;
        let (mut changed, mut facts, mut resolved, mut lines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for check in checks {
            let id = fingerprint(&check.labels());
            let rule = env.config().rules.of(&check.name);
            let fire_after = rule.and_then(|r| r.fire_after).unwrap_or(limits.fire_after);
            let resolve_after = rule.and_then(|r| r.resolve_after).unwrap_or(limits.resolve_after);
            let (alert, transition) = step(alerts.get(&id), check, now, fire_after, resolve_after);
            if let (Some(alert), Some(transition)) = (&alert, transition) {
                let (kind, word) = match transition {
                    Transition::Fired => ("alert.fired", "fired"),
                    Transition::Escalated => ("alert.escalated", "escalated"),
                    Transition::Resolved => ("alert.resolved", "resolved"),
                };
                facts.push(env.fact(kind, &alert.fingerprint, view(alert)));
                lines.push((alert.clone(), word));
                if transition == Transition::Resolved {
                    resolved.push(alert.clone());
                }
            }
            changed.extend(alert);
        }
        env.store().put_alerts(&changed, now, facts, &[]).await?;
        self.wake.notify_one();
        let alerts = self.load().await?;
        for (alert, word) in lines {
            tracing::warn!(actor = NOUN, alert = alert.name, severity = alert.severity.as_str(), reason = alert.reason, "{word}");
        }
        alerts.extend(changed.into_iter().map(|a| (a.fingerprint.clone(), a)));
        let active = alerts.values().filter(|a| a.state == AlertState::Firing).cloned().collect();
        Ok(Evaluated { active, resolved, checked: checks.len() })
    }
}
