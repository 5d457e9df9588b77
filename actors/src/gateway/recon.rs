//! Reconciliation as it stands: the latest report and the exceptions.

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, page},
};
use crate::{
    env::rfc3339,
    error::{Error, Result},
};

const STATUSES: [&str; 4] = ["open", "acknowledged", "resolved", "auto_resolved"];

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The latest reconciliation of payouts.
        api(shell, Method::GET, "/api/recon/payouts", Scope::Read, payouts),
        // What did not agree, with when it was seen first and last.
        api(shell, Method::GET, "/api/recon/exceptions", Scope::Read, exceptions),
    ])
}

async fn payouts(call: Call) -> Result<Response> {
    let report = call.env().store().latest_recon().await?;
    Ok(respond::json(&report.ok_or_else(|| Error::not_found("payouts have not been reconciled yet"))?))
}

async fn exceptions(call: Call) -> Result<Response> {
    let status = call.request.query("status")?.unwrap_or_default();
    if !status.is_empty() && !STATUSES.contains(&status.as_str()) {
        return Err(Error::field("status", format!("status is one of {}", STATUSES.join(", "))));
    }
    let rows = call.env().store().exceptions(&status, i64::MAX).await?;
    let all = rows
        .into_iter()
        .map(|e| {
            let mut body = match e.body {
                Json::Object(body) => body,
                _ => serde_json::Map::new(),
            };
            body.insert("id".into(), e.id.into());
            body.insert("kind".into(), e.kind.into());
            body.insert("severity".into(), e.severity.into());
            body.insert("status".into(), e.status.into());
            body.insert("first_seen".into(), rfc3339(e.first_seen).into());
            body.insert("last_seen".into(), rfc3339(e.last_seen).into());
            body.insert("occurrences".into(), e.occurrences.into());
            Json::Object(body)
        })
        .collect();
    let (exceptions, next) = page(&call.request, all, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": exceptions.len(), "exceptions": exceptions, "next": next})))
}
