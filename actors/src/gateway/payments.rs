//! Payments: the provider's webhooks, their list, a test invoice, the refund of the last payment. The webhook needs no key: its
//! signature over the raw body is checked before anything is read from it, and 200 means that the event is durable.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::DateTime;
use ring::digest;
use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, Request, any_of, api, open},
};
use crate::{
    env::rfc3339,
    error::{Code, Error, Result},
    files, ingest,
    operations::{
        create_invoice, refund_last,
        replay_events::{self, Which},
    },
    store::EventFilter,
};

/// Refused deliveries remembered; whoever can reach us can fill this, and nothing else.
const REJECTED: usize = 50;
/// The provider is told to come again rather than wait longer than this for the disk.
const STORE_TIME: Duration = Duration::from_secs(8);
/// How long a client waits for the provider, whose own time limits with all retries are longer.
const PROVIDER_TIME: Duration = Duration::from_secs(25);
const STATUSES: [&str; 4] = ["received", "processed", "failed", "ignored"];

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The provider delivers an event.
        open(shell, Method::POST, "/api/payments/webhook", webhook),
        // The same under the address that other tools expect.
        open(shell, Method::POST, "/webhook/stripe", webhook),
        // Stored events, newest first.
        api(shell, Method::GET, "/api/payments/webhooks", Scope::Read, webhooks),
        // One of them, with its body.
        api(shell, Method::GET, "/api/payments/webhooks/{event_id}", Scope::Operate, event),
        // Those that a filter names are processed again.
        api(shell, Method::POST, "/api/payments/webhooks/replay", Scope::Operate, replay_many),
        // One is processed again.
        api(shell, Method::POST, "/api/payments/webhooks/{event_id}/replay", Scope::Operate, replay_one),
        // A test invoice, finalized and not paid.
        api(shell, Method::POST, "/api/payments/create-invoice", Scope::Operate, create),
        // Refunds the newest payment, in test mode.
        api(shell, Method::POST, "/api/payments/refund-last", Scope::Refund, refund),
    ])
}

/// Deliveries that were refused: what they were is known by their hash only.
#[derive(Debug, Default)]
pub(super) struct Rejected(Mutex<VecDeque<Json>>);

impl Rejected {
    fn push(&self, entry: Json) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.truncate(REJECTED - 1);
        ring.push_front(entry);
    }

    /// Newest first.
    fn list(&self) -> Vec<Json> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

async fn webhook(shell: Shell, request: Request) -> Result<Response> {
    let env = &shell.env;
    let body = request.body.clone();
    let received = match tokio::time::timeout(STORE_TIME, ingest::receive(env, request.header("stripe-signature"), body)).await {
        Ok(received) => received,
        // It may yet become durable; the provider delivers it again and it is a duplicate then.
        Err(_) => Err(Error::unavailable("not_stored", "the event could not be stored in time")),
    };
    match received {
        Ok(received) => Ok(respond::json(&json!({"ok": true, "received": true, "duplicate": received.duplicate}))),
        Err(error) if error.code == Code::Invalid => {
            let sha256 = files::hex(digest::digest(&digest::SHA256, &request.body).as_ref());
            shell.rejected.push(json!({
                "at": rfc3339(env.now()), "reason": error.reason, "detail": error.message, "sha256": sha256,
                "size_bytes": request.body.len(), "peer": request.peer.ip().to_string(),
            }));
            Err(error)
        }
        Err(error) if error.code == Code::Internal => {
            tracing::error!(target: "gateway", error = error.message, "an event could not be stored");
            Err(Error::unavailable("not_stored", "the event could not be stored"))
        }
        Err(error) => Err(error),
    }
}

/// Filters: `type`, `status`, `object_id`, `since`, `until`, and `distinct=1` without those that told what another had told before.
async fn webhooks(call: Call) -> Result<Response> {
    let request = &call.request;
    let limit = request.limit()?;
    let status = request.query("status")?.unwrap_or_default();
    if !status.is_empty() && !STATUSES.contains(&status.as_str()) {
        return Err(Error::field("status", format!("status is one of {}", STATUSES.join(", "))));
    }
    let before = request.number("after", 0, 1..=i64::MAX)?;
    let filter = EventFilter {
        event_type: request.query("type")?.unwrap_or_default(),
        status,
        object_id: request.query("object_id")?.unwrap_or_default(),
        since: time("since", request.query("since")?)?,
        until: time("until", request.query("until")?)?,
        distinct: request.number("distinct", 0, 0..=1)? == 1,
        before,
        limit: i64::try_from(limit + 1).unwrap_or(i64::MAX),
    };
    let mut events = call.env().store().events(&filter).await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().filter(|_| more).map(|e| e.n.to_string());
    let webhooks: Vec<Json> = events.iter().map(replay_events::view).collect();
    Ok(respond::json(
        &json!({"ok": true, "count": webhooks.len(), "webhooks": webhooks, "next": next, "rejected": call.shell.rejected.list()}),
    ))
}

/// Unix seconds or RFC 3339, as microseconds; 0 if it is not given.
fn time(name: &'static str, text: Option<String>) -> Result<i64> {
    let Some(text) = text else { return Ok(0) };
    let at = match text.parse::<i64>() {
        Ok(seconds) => DateTime::from_timestamp(seconds, 0),
        // A `+` of the offset that was not encoded arrives as a space.
        Err(_) => DateTime::parse_from_rfc3339(&text.replace(' ', "+")).ok().map(|at| at.to_utc()),
    };
    at.map(|at| at.timestamp_micros())
        .ok_or_else(|| Error::field(name, format!("{name} is a time such as 2025-10-20T00:00:00Z, or Unix seconds")))
}

/// One event with the body that was delivered.
async fn event(call: Call) -> Result<Response> {
    let id = call.request.param(0)?;
    let found = call.env().store().event(id).await?;
    let (event, body) = found.ok_or_else(|| Error::not_found(format!("there is no event {id}")))?;
    let mut view = replay_events::view(&event);
    view["body"] = serde_json::from_str(&body).unwrap_or(Json::String(body));
    Ok(respond::json(&json!({"ok": true, "webhook": view})))
}

async fn replay_one(call: Call) -> Result<Response> {
    let which = Which::Ids(vec![call.request.param(0)?.to_owned()]);
    let dry_run = flag(&call.request.json()?, "dry_run")?;
    replay_events::replay(call.env(), &which, dry_run, &call.caller.key_id).await.map(|answer| respond::json(&answer))
}

/// Body: `{"type","status","object_id","since","until","limit"}`, of which one other than `limit` is given, and `dry_run`.
async fn replay_many(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    let text = |name: &'static str| match &body[name] {
        Json::Null => Ok(String::new()),
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) if matches!(name, "since" | "until") => Ok(number.to_string()),
        _ => Err(Error::field(name, format!("{name} must be a text"))),
    };
    let at = |name: &'static str| time(name, Some(text(name)?).filter(|t| !t.is_empty()));
    let limit = match &body["limit"] {
        Json::Null => 100,
        limit => limit
            .as_i64()
            .filter(|l| (1..=replay_events::MOST).contains(l))
            .ok_or_else(|| Error::field("limit", format!("limit must be a whole number from 1 to {}", replay_events::MOST)))?,
    };
    let filter = EventFilter {
        event_type: text("type")?,
        status: text("status")?,
        object_id: text("object_id")?,
        since: at("since")?,
        until: at("until")?,
        limit,
        ..EventFilter::default()
    };
    if !filter.status.is_empty() && !STATUSES.contains(&filter.status.as_str()) {
        return Err(Error::field("status", format!("status is one of {}", STATUSES.join(", "))));
    }
    let narrow =
        [&filter.event_type, &filter.status, &filter.object_id].iter().any(|t| !t.is_empty()) || filter.since > 0 || filter.until > 0;
    if !narrow {
        return Err(Error::field("type", "say which events: by type, status, object_id, since or until"));
    }
    let dry_run = flag(&body, "dry_run")?;
    replay_events::replay(call.env(), &Which::Filter(filter), dry_run, &call.caller.key_id).await.map(|answer| respond::json(&answer))
}

fn flag(body: &Json, name: &'static str) -> Result<bool> {
    match &body[name] {
        Json::Null => Ok(false),
        value => value.as_bool().ok_or_else(|| Error::field(name, format!("{name} must be true or false"))),
    }
}

async fn create(call: Call) -> Result<Response> {
    let asked = create_invoice::Asked::from_text(call.request.json_text()?.unwrap_or("{}"))?;
    let key = call.request.idempotency_key()?;
    detached(async move { create_invoice::create_invoice(call.env(), &asked, key.as_deref(), &call.caller.key_id).await }).await
}

async fn refund(call: Call) -> Result<Response> {
    let asked = refund_last::Asked::from_json(&call.request.json()?, call.request.idempotency_key()?, &call.caller.key_id)?;
    detached(async move { refund_last::refund_last(call.env(), &asked).await }).await
}

/// What moves money goes on to its end when the client hangs up or the provider takes too long for an answer.
async fn detached(work: impl Future<Output = Result<Json>> + Send + 'static) -> Result<Response> {
    match tokio::time::timeout(PROVIDER_TIME, tokio::spawn(work)).await {
        Ok(Ok(answer)) => answer.map(|body| respond::json(&body)),
        Ok(Err(_)) => Err(Error::internal("the operation panicked; the panic is in the log")),
        Err(_) => {
            let say = "the provider has not answered yet; the operation goes on, and the same request with the same Idempotency-Key tells its end";
            Err(Error { retry_after_s: Some(10), ..Error::unavailable("provider_slow", say) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_of_refused_deliveries_is_bounded_and_newest_first() {
        let rejected = Rejected::default();
        for n in 0..REJECTED + 7 {
            rejected.push(json!(n));
        }
        let list = rejected.list();
        assert_eq!((list.len(), &list[0]), (REJECTED, &json!(REJECTED + 6)));
    }

    #[test]
    fn since_is_a_time_in_either_form() {
        for text in ["1760918400", "2025-10-20T00:00:00Z", "2025-10-20T02:00:00 02:00"] {
            assert_eq!(time("since", Some(text.into())).unwrap(), 1_760_918_400_000_000, "{text}");
        }
        assert_eq!(time("since", Some("yesterday".into())).unwrap_err().field.as_deref(), Some("since"));
    }
}
