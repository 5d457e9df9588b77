//! Channels: whether each is on and how it does, a test message over one, and what was sent with every attempt.

use serde_json::json;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{error::Result, operations::notifications, store::NotificationFilter};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Every channel: on or off and what is missing, last success, last error, queued, given up.
        api(shell, Method::GET, "/api/channels", Scope::Read, channels),
        // Sends a test message now; the answer is the provider's.
        api(shell, Method::POST, "/api/channels/{name}/test", Scope::Operate, test),
        // What was sent or waits, newest first: `state`, `channel`, `alert` (an episode's id).
        api(shell, Method::GET, "/api/notifications", Scope::Read, list),
        // Sends again what was given up.
        api(shell, Method::POST, "/api/notifications/{id}/retry", Scope::Operate, retry),
    ])
}

async fn channels(call: Call) -> Result<Response> {
    let channels = notifications::channels(call.env()).await?;
    Ok(respond::json(&json!({"ok": true, "count": channels.len(), "channels": channels})))
}

async fn test(call: Call) -> Result<Response> {
    Ok(respond::json(&notifications::test(call.env(), call.request.param(0)?, &call.caller.key_id).await?))
}

async fn list(call: Call) -> Result<Response> {
    let request = &call.request;
    let text = |name| request.query(name).map(Option::unwrap_or_default);
    let filter = NotificationFilter { state: text("state")?, channel: text("channel")?, alert: text("alert")?, after: text("after")? };
    let (all, next) = notifications::list(call.env(), &filter, request.limit()?).await?;
    Ok(respond::json(&json!({"ok": true, "count": all.len(), "notifications": all, "next": next})))
}

async fn retry(call: Call) -> Result<Response> {
    let view = notifications::retry(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "notification": view})))
}
