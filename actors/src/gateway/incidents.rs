//! Incidents: what went wrong, one for each cause, and what people do about them.

use serde_json::json;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{error::Result, operations::incidents};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Incidents, the newest change first.
        api(shell, Method::GET, "/api/incidents", Scope::Read, list),
        // One with its signals, its timeline and the payments in its time.
        api(shell, Method::GET, "/api/incidents/{id}", Scope::Read, one),
        // Somebody looks into it.
        api(shell, Method::POST, "/api/incidents/{id}/ack", Scope::Operate, acknowledge),
        // It is over; it opens again if it is not.
        api(shell, Method::POST, "/api/incidents/{id}/close", Scope::Operate, close),
    ])
}

/// Filter: `state`.
async fn list(call: Call) -> Result<Response> {
    let text = |field| call.request.query(field).map(Option::unwrap_or_default);
    let (incidents, next) = incidents::list(call.env(), &text("state")?, &text("after")?, call.request.limit()?).await?;
    Ok(respond::json(&json!({"ok": true, "count": incidents.len(), "incidents": incidents, "next": next})))
}

async fn one(call: Call) -> Result<Response> {
    let incident = incidents::one(call.env(), call.request.param(0)?).await?;
    Ok(respond::json(&json!({"ok": true, "incident": incident})))
}

async fn acknowledge(call: Call) -> Result<Response> {
    let incident = incidents::acknowledge(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "incident": incident})))
}

/// Body: `{"reason":"..."}`.
async fn close(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    let reason = body["reason"].as_str().unwrap_or_default();
    let incident = incidents::close(call.env(), call.request.param(0)?, &call.caller.key_id, reason).await?;
    Ok(respond::json(&json!({"ok": true, "incident": incident})))
}
