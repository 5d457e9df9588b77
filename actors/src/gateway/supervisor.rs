//! The parts of the daemon: how they are, and rehearsing the crash of one.

use serde_json::json;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::error::Result;

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Every child: state, restarts, last failure, uptime.
        api(shell, Method::GET, "/api/supervisor/status", Scope::Read, status),
        // Crashes a child on purpose, if the configuration allows it.
        api(shell, Method::POST, "/api/supervisor/{child}/drill", Scope::Admin, drill),
    ])
}

async fn status(call: Call) -> Result<Response> {
    Ok(respond::json(&json!({"ok": true, "tree": call.env().tree()?.status().await?})))
}

async fn drill(call: Call) -> Result<Response> {
    let child = call.request.param(0)?.to_owned();
    call.env().tree()?.drill(child.clone()).await?;
    Ok(respond::json(&json!({"ok": true, "child": child})))
}
