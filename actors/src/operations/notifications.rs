//! What was sent to people, over which channels, and whether it arrived: listing, a test message, and another attempt at what was given
//! up. Called by the gateway and the command line.

use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::{
    channels::{self, Channel, Context},
    domain::{
        alert_rule::Severity,
        notify::{Kind, Message},
    },
    env::{Env, rfc3339},
    error::{Error, Result},
    store::{Delivered, DeliveryAttempt, NewNotification, NotificationFilter, NotificationRow},
};

const STATES: [&str; 4] = ["queued", "sent", "dead", "dropped"];

/// Every channel: on or off, what is missing, how it did.
pub async fn channels(env: &Env) -> Result<Vec<Json>> {
    let mut all = Vec::new();
    for channel in &channels::ALL {
        let (config, row) = (env.config(), env.store().channel_row(channel.name).await?);
        let missing = channel.missing(config, env.secrets());
        all.push(json!({
            "name": channel.name, "on": missing.is_empty(), "missing": missing, "doc": channel.doc, "limit": channel.limit,
            "deduplicates_by": channel.tells_by, "min_severity": channel.min_severity(config).as_str(), "per_minute": channel.per_minute(config),
            "queued": row.queued, "dead": row.dead, "last_success_at": row.last_success.map(rfc3339),
            "last_error_at": row.last_error.as_ref().map(|(at, _)| rfc3339(*at)), "last_error": row.last_error.map(|(_, error)| error),
        }));
    }
    Ok(all)
}

/// Sends a test message now, past every limit, and answers what the other side said. It is kept like any other message. Errors:
/// `not_found`, `conflict` with reason `channel_off`.
pub async fn test(env: &Env, name: &str, by: &str) -> Result<Json> {
    let channel = Channel::named(name).ok_or_else(|| Error::not_found(format!("there is no channel called {name}")))?;
    let missing = channel.missing(env.config(), env.secrets());
    if !missing.is_empty() {
        let error = Error::conflict("channel_off", format!("{name} is off: {} is not set", missing.join(", ")));
        return Err(error.with("missing", json!(missing)));
    }
    let message = Message {
        id: format!("ntf_{}", uuid::Uuid::now_v7().simple()),
        kind: Kind::Test,
        severity: Severity::Info,
        group: format!("test-{}", uuid::Uuid::now_v7().simple()),
        title: format!("EchoPilot can reach you over {name}"),
        at: env.now(),
        alerts: Vec::new(),
        more: 0,
        url: env.public_url(),
    };
    env.store().journal(env.fact("channel.tested", name, json!({"by": by, "id": message.id}))).await?;
    let started = Instant::now();
    let context = Context { http: env.http(), config: env.config(), secrets: env.secrets(), now: env.now(), accepted: &[] };
    let sent = channels::send(context, name, &message).await;
    let took_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let (status, error, reference) = match &sent {
        Ok(receipt) => (receipt.status, receipt.note.clone(), receipt.reference.clone()),
        Err(failure) => (failure.status, Some(failure.error.clone()), None),
    };
    let attempt = DeliveryAttempt { attempt: 1, at: env.now(), took_ms, ok: sent.is_ok(), status, error: error.clone() };
    let row = NewNotification { channel: channel.name, message };
    // Written down with its end, so that the delivery never sees it waiting.
    let came_to = if sent.is_ok() { Delivered::Sent { reference: reference.clone() } } else { Delivered::Dead };
    env.store().put_ended_notification(&row, &attempt, &came_to).await?;
    Ok(json!({
        "ok": sent.is_ok(), "channel": name, "id": row.id(), "status": status, "reference": reference, "error": error, "took_ms": took_ms,
    }))
}

/// Messages, newest first, with the cursor of the next page. Errors: `invalid` naming the field `state` or `channel`.
pub async fn list(env: &Env, filter: &NotificationFilter, limit: usize) -> Result<(Vec<Json>, Option<String>)> {
    if !filter.state.is_empty() && !STATES.contains(&filter.state.as_str()) {
        return Err(Error::field("state", format!("state is one of {}", STATES.join(", "))));
    }
    if !filter.channel.is_empty() && Channel::named(&filter.channel).is_none() {
        return Err(Error::field("channel", format!("channel is one of {}", channels::ALL.map(|c| c.name).join(", "))));
    }
    let rows = env.store().notifications(filter, i64::try_from(limit).unwrap_or(100).saturating_add(1)).await?;
    let more = rows.len() > limit;
    let mut all = Vec::new();
    for row in rows.iter().take(limit) {
        all.push(view(env, row).await?);
    }
    let next = rows.get(limit.saturating_sub(1)).filter(|_| more).map(|row| row.id.clone());
    Ok((all, next))
}

/// Queues a message again that was given up. Errors: `not_found`, `conflict` with reason `not_dead`.
pub async fn retry(env: &Env, id: &str, by: &str) -> Result<Json> {
    let row = env.store().notification(id).await?.ok_or_else(|| Error::not_found(format!("there is no message {id}")))?;
    let fact = env.fact("notification.queued_again", id, json!({"by": by}));
    if !env.store().retry_notification(id, env.now(), fact).await? {
        return Err(Error::conflict("not_dead", format!("{id} is {}: only what was given up is sent again", row.state)));
    }
    let row = env.store().notification(id).await?.ok_or_else(|| Error::not_found(format!("there is no message {id}")))?;
    view(env, &row).await
}

async fn view(env: &Env, row: &NotificationRow) -> Result<Json> {
    let attempts: Vec<Json> = env
        .store()
        .delivery_attempts(&row.id)
        .await?
        .into_iter()
        .map(|a| json!({"attempt": a.attempt, "at": rfc3339(a.at), "took_ms": a.took_ms, "ok": a.ok, "status": a.status, "error": a.error}))
        .collect();
    let alerts: Vec<&str> = row.message.alerts.iter().map(|line| line.alert.as_str()).collect();
    Ok(json!({
        "id": row.id, "message_id": row.message.id, "channel": row.channel, "group": row.group, "kind": row.kind, "severity": row.severity,
        "state": row.state, "title": row.message.title, "alerts": alerts, "created_at": rfc3339(row.created_at),
        "next_at": (row.state == "queued").then(|| rfc3339(row.next_at)), "sent_at": row.sent_at.map(rfc3339), "reference": row.reference,
        "error": row.error, "attempts": attempts,
    }))
}
