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
    operations::{create_invoice, refund_last},
    store::{EventFilter, EventRow},
};

/// Refused deliveries remembered; whoever can reach us can fill this, and nothing else.
const REJECTED: usize = 50;
/// The provider is told to come again rather than wait longer than this for the disk.
const STORE_TIME: Duration = Duration::from_secs(8);
const STATUSES: [&str; 4] = ["received", "processed", "failed", "ignored"];

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The provider delivers an event.
        open(shell, Method::POST, "/api/payments/webhook", webhook),
        // The same under the address that other tools expect.
        open(shell, Method::POST, "/webhook/stripe", webhook),
        // Stored events, newest first.
        api(shell, Method::GET, "/api/payments/webhooks", Scope::Read, webhooks),
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
        since: since(request.query("since")?)?,
        before,
        limit: i64::try_from(limit + 1).unwrap_or(i64::MAX),
    };
    let mut events = call.env().store().events(&filter).await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().filter(|_| more).map(|e| e.n.to_string());
    let webhooks: Vec<Json> = events.iter().map(view).collect();
    Ok(respond::json(
        &json!({"ok": true, "count": webhooks.len(), "webhooks": webhooks, "next": next, "rejected": call.shell.rejected.list()}),
    ))
}

/// Unix seconds or RFC 3339, as microseconds.
fn since(text: Option<String>) -> Result<i64> {
    let Some(text) = text else { return Ok(0) };
    let at = match text.parse::<i64>() {
        Ok(seconds) => DateTime::from_timestamp(seconds, 0),
        // A `+` of the offset that was not encoded arrives as a space.
        Err(_) => DateTime::parse_from_rfc3339(&text.replace(' ', "+")).ok().map(|at| at.to_utc()),
    };
    at.map(|at| at.timestamp_micros()).ok_or_else(|| Error::field("since", "since is a time such as 2025-10-20T00:00:00Z, or Unix seconds"))
}

fn view(event: &EventRow) -> Json {
    json!({
        "event_id": event.event_id, "event_type": event.event_type, "created": event.created, "received_at": rfc3339(event.received_at),
        "livemode": event.livemode, "status": event.status, "attempts": event.attempts, "error": event.error,
        "object_id": event.object_id, "duplicates": event.duplicates,
    })
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

/// What moves money goes on to its end when the client hangs up.
async fn detached(work: impl Future<Output = Result<Json>> + Send + 'static) -> Result<Response> {
    let answer = tokio::spawn(work).await.map_err(|_| Error::internal("the operation panicked; the panic is in the log"))?;
    answer.map(|body| respond::json(&body))
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
            assert_eq!(since(Some(text.into())).unwrap(), 1_760_918_400_000_000, "{text}");
        }
        assert_eq!(since(Some("yesterday".into())).unwrap_err().field.as_deref(), Some("since"));
    }
}
