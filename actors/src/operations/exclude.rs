//! Excluding time from the service levels: maintenance planned beforehand, corrections of what was, and ending either. Called by the gateway.
//! Whatever is excluded stays visible with its reason in every report.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use crate::{
    config::SERVICES,
    domain::maintenance::Maintenance,
    env::{Env, rfc3339},
    error::{Error, Result},
};

/// What a person asks for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Whose events do not count; empty or `all`: of all services.
    pub service: String,
    /// Whose alerts are kept quiet; empty: all. Not for corrections.
    pub systems: Vec<String>,
    /// Now, if it is not said.
    pub starts_at: Option<DateTime<Utc>>,
    pub ends_at: Option<DateTime<Utc>>,
    /// Instead of `ends_at`.
    pub minutes: Option<i64>,
    pub reason: String,
}

/// Enters maintenance (`kind` is `maintenance`) or a correction. Errors: `invalid` naming the field.
pub async fn enter(env: &Env, kind: &'static str, request: Request, by: &str) -> Result<Json> {
    let now = env.now();
    let service = if request.service == "all" { String::new() } else { request.service };
    let known = env.config().levels().iter().any(|level| level.service == service) || SERVICES.contains(&service.as_str());
    let is_probe = service.strip_prefix("probe:").is_some_and(|name| env.config().probes.contains_key(name));
    if !service.is_empty() && !known && !is_probe {
        return Err(Error::field("service", format!("service must be that of an objective, or empty for all, not \"{service}\"")));
    }
    if kind == "correction" && request.starts_at.is_none() {
        return Err(Error::field("starts_at", "starts_at must say when it began"));
    }
    let starts_at = request.starts_at.unwrap_or(now);
    let ends_at = match (request.ends_at, request.minutes) {
        (Some(ends_at), None) => ends_at,
        (None, Some(minutes)) if (1..=1_000_000).contains(&minutes) => starts_at + TimeDelta::minutes(minutes),
        (None, Some(_)) => return Err(Error::field("minutes", "minutes must be at least 1")),
        (Some(_), Some(_)) => return Err(Error::field("minutes", "minutes must not stand beside ends_at")),
        (None, None) => return Err(Error::field("ends_at", "ends_at must say when it ends, or minutes how long it is")),
    };
    let new = Maintenance {
        id: format!("{}_{}", if kind == "correction" { "cor" } else { "mnt" }, uuid::Uuid::now_v7().simple()),
        kind: kind.to_owned(),
        service,
        systems: request.systems,
        starts_at,
        ends_at,
        reason: request.reason.trim().to_owned(),
        author: by.to_owned(),
        created_at: now,
        ended_at: None,
        ended_by: None,
    };
    let others = env.store().maintenances(kind, starts_at - crate::domain::maintenance::LONGEST, 10_000).await?;
    new.check(now, &others.into_iter().filter(|o| o.kind != "correction" || o.ended_at.is_none()).collect::<Vec<_>>())
        .map_err(|(field, what)| Error::field(field, what))?;
    let fact = env.fact("slo.excluded", &new.id, view(&new, now));
    env.store().put_maintenance(&new, fact).await?;
    Ok(view(&new, now))
}

/// Ends maintenance now, or withdraws a correction. Errors: `not_found`, `conflict` `ended`.
pub async fn end(env: &Env, id: &str, by: &str) -> Result<Json> {
    let now = env.now();
    let found = env.store().maintenance(id).await?;
    let found = found.ok_or_else(|| Error::not_found(format!("there is no maintenance or correction {id}")))?;
    let fact = env.fact("slo.exclusion_ended", id, json!({"by": by}));
    if !env.store().end_maintenance(id, by, now, fact).await? {
        return Err(Error::conflict("ended", format!("{id} has ended already, {}", rfc3339(found.until()))));
    }
    let ended = Maintenance { ended_at: Some(now), ended_by: Some(by.to_owned()), ..found };
    Ok(view(&ended, now))
}

/// Entries of one kind, newest first.
pub async fn list(env: &Env, kind: &str, limit: i64) -> Result<Vec<Json>> {
    let now = env.now();
    let entries = env.store().maintenances(kind, DateTime::UNIX_EPOCH, limit).await?;
    Ok(entries.iter().map(|entry| view(entry, now)).collect())
}

/// As the API shows it.
fn view(entry: &Maintenance, now: DateTime<Utc>) -> Json {
    json!({
        "id": entry.id, "kind": entry.kind, "state": entry.state(now), "service": if entry.service.is_empty() { "all" } else { &entry.service },
        "systems": entry.systems, "starts_at": rfc3339(entry.starts_at), "ends_at": rfc3339(entry.ends_at), "reason": entry.reason,
        "author": entry.author, "created_at": rfc3339(entry.created_at), "ended_at": entry.ended_at.map(rfc3339), "ended_by": entry.ended_by,
    })
}
