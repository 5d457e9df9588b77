//! Incidents: listing them, one with its timeline, and what a person does about it. Called by the gateway and the command line. An incident
//! is opened and kept by the scanner alone; closing one that is not over only lasts until the scanner looks again.

use chrono::DateTime;
use serde_json::{Value as Json, json};

use crate::{
    domain::incident::{self, Event, Incident},
    env::{Env, rfc3339},
    error::{Error, Result},
    store::IncidentFilter,
};

pub const STATES: [&str; 2] = ["open", "closed"];
/// A reason is a sentence, not a file; bytes.
const LONGEST_REASON: usize = 1000;

/// A page of incidents, the newest change first, and the cursor of the next. Errors: `invalid` naming `state` or `after`.
pub async fn list(env: &Env, state: &str, after: &str, limit: usize) -> Result<(Vec<Json>, Option<String>)> {
    if !state.is_empty() && !STATES.contains(&state) {
        return Err(Error::field("state", format!("state is one of {}", STATES.join(", "))));
    }
    let before = match after {
        "" => 0,
        id => {
            env.store().incident(id).await?.ok_or_else(|| Error::field("after", "this cursor is not known"))?.updated_at.timestamp_micros()
        }
    };
    let asked = i64::try_from(limit).unwrap_or(i64::MAX - 1);
    let filter = IncidentFilter { state: state.to_owned(), before, limit: asked.saturating_add(1) };
    let mut found = env.store().incidents(&filter).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.id.clone());
    Ok((found.iter().map(view).collect(), next))
}

/// One with its signals and its timeline. Errors: `not_found`.
pub async fn one(env: &Env, id: &str) -> Result<Json> {
    let incident = find(env, id).await?;
    let mut shown = view(&incident);
    shown["samples"] = json!(incident.samples);
    shown["signals"] = incident
        .signals
        .iter()
        .map(|(name, s)| {
            json!({
                "signal": name, "source": s.source, "component": s.component, "severity": s.severity, "title": s.title, "text": s.text,
                "first_seen": rfc3339(s.first_seen), "last_seen": rfc3339(s.last_seen), "count": s.count, "is_effect": s.is_effect,
            })
        })
        .collect();
    shown["timeline"] = env.store().incident_events(id).await?.into();
    Ok(shown)
}

/// Somebody looks into it. Errors: `not_found`, `conflict` with reason `incident_state`.
pub async fn acknowledge(env: &Env, id: &str, by: &str) -> Result<Json> {
    change(env, id, "incident.acknowledged", |incident, now| incident::acknowledge(incident, by, now)).await
}

/// It is over, somebody says. Errors: `not_found`; `invalid` naming `reason`; `conflict` with reason `incident_state`.
pub async fn close(env: &Env, id: &str, by: &str, reason: &str) -> Result<Json> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > LONGEST_REASON {
        return Err(Error::field("reason", format!("reason is missing: a text of up to {LONGEST_REASON} bytes that says why")));
    }
    change(env, id, "incident.closed", |incident, now| incident::close(incident, by, reason, now)).await
}

async fn change(
    env: &Env,
    id: &str,
    kind: &'static str,
    decide: impl Fn(&Incident, DateTime<chrono::Utc>) -> Result<(Incident, Event), String>,
) -> Result<Json> {
    // The scanner may write between our reading and our writing: then what it found is looked at first.
    for _ in 0..3 {
        let incident = find(env, id).await?;
        let (changed, event) =
            decide(&incident, env.now()).map_err(|why| Error::conflict("incident_state", why).with("state", incident.state.as_str()))?;
        let fact = env.fact(kind, id, json!({"by": event.by, "text": event.text}));
        if env.store().decide_incident(&incident, &changed, &event, fact).await? {
            return one(env, id).await;
        }
    }
    Err(Error::unavailable("busy", "the incident changes all the time; try again"))
}

async fn find(env: &Env, id: &str) -> Result<Incident> {
    env.store().incident(id).await?.ok_or_else(|| Error::not_found(format!("there is no incident {id}")))
}

fn view(i: &Incident) -> Json {
    json!({
        "id": i.id, "key": i.key, "state": i.state, "severity": i.severity, "title": i.title, "source": i.source, "count": i.count,
        "reopened": i.reopened, "opened_at": rfc3339(i.opened_at), "updated_at": rfc3339(i.updated_at), "last_seen": rfc3339(i.last_seen),
        "closed_at": i.closed_at.map(rfc3339), "closed_by": i.closed_by, "close_reason": i.close_reason,
        "acknowledged_by": i.acknowledged_by, "acknowledged_at": i.acknowledged_at.map(rfc3339),
        "effects": i.signals.values().filter(|s| s.is_effect).count(), "money": i.money,
    })
}
