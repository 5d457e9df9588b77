//! Alerts that are pending or firing.

use serde_json::json;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, page},
};
use crate::{alert, error::Result};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // What is wrong just now.
        api(shell, Method::GET, "/api/alerts", Scope::Read, list),
    ])
}

async fn list(call: Call) -> Result<Response> {
    let all = alert::list(call.env()).await?.iter().map(alert::view).collect();
    let (alerts, next) = page(&call.request, all, "id")?;
    Ok(respond::json(&json!({"ok": true, "count": alerts.len(), "alerts": alerts, "next": next})))
}
