//! The parts of the daemon: how they are, releasing one that was put aside, and rehearsing the failure of one.

use serde_json::json;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{
    env::Drill,
    error::{Error, Result},
};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Every child: state, generation, restarts, last failure, uptime, mailbox depth, time in the handler.
        api(shell, Method::GET, "/api/supervisor/status", Scope::Read, status),
        // Starts a child that was put aside (quarantine) before its cool-down ends.
        api(shell, Method::POST, "/api/supervisor/{child}/release", Scope::Operate, release),
        // Breaks a child on purpose, if the configuration allows it: `{"kind":"panic|hang|spin"}`, a panic unless said otherwise.
        api(shell, Method::POST, "/api/supervisor/{child}/drill", Scope::Admin, drill),
    ])
}

async fn status(call: Call) -> Result<Response> {
    Ok(respond::json(&json!({"ok": true, "tree": call.env().tree()?.status().await?})))
}

async fn release(call: Call) -> Result<Response> {
    let child = call.request.param(0)?.to_owned();
    call.env().tree()?.release(child.clone(), call.caller.key_id.clone()).await?;
    Ok(respond::json(&json!({"ok": true, "child": child})))
}

async fn drill(call: Call) -> Result<Response> {
    let child = call.request.param(0)?.to_owned();
    let body = call.request.json()?;
    let drill = match (&body["kind"], body["kind"].as_str()) {
        (serde_json::Value::Null, _) => Drill::default(),
        (_, Some(kind)) => Drill::named(kind)?,
        _ => return Err(Error::field("kind", "kind must be text: panic, hang or spin")),
    };
    call.env().tree()?.rehearse(child.clone(), drill).await?;
    Ok(respond::json(&json!({"ok": true, "child": child})))
}
