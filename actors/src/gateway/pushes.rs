//! Push checks: the ping addresses that the user's own jobs call, compatible with those of healthchecks.io, and how each job stands. A
//! ping needs no key but the one in its address, which may report and nothing else.

use bytes::Bytes;
use serde_json::json;
use warp::{
    filters::BoxedFilter,
    http::{HeaderName, Method},
    reply::Response,
};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, Request, any_of, api, open},
};
use crate::{
    domain::push::Signal,
    error::{Error, Result},
    operations::pushes,
};

/// Says how much of a body is kept.
const LIMIT: HeaderName = HeaderName::from_static("ping-body-limit");

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // It ran well (HEAD too); `rid` names the run.
        open(shell, Method::GET, "/ping/{key}/{name}", success),
        open(shell, Method::POST, "/ping/{key}/{name}", success),
        // `start`, `fail`, `log`, or an exit status from 0 to 255.
        open(shell, Method::GET, "/ping/{key}/{name}/{signal}", signal),
        open(shell, Method::POST, "/ping/{key}/{name}/{signal}", signal),
        // Every job: its state and why, when it is due.
        api(shell, Method::GET, "/api/pushes", Scope::Read, list),
        // One with its last reports.
        api(shell, Method::GET, "/api/pushes/{name}", Scope::Read, one),
    ])
}

async fn success(shell: Shell, request: Request) -> Result<Response> {
    take(&shell, &request, Signal::Success).await
}

async fn signal(shell: Shell, request: Request) -> Result<Response> {
    let signal = Signal::parse(request.param(2)?);
    let signal = signal.ok_or_else(|| Error::invalid("signal", "a ping ends in start, fail, log or an exit status from 0 to 255"))?;
    take(&shell, &request, signal).await
}

async fn take(shell: &Shell, request: &Request, signal: Signal) -> Result<Response> {
    let run = request.query("rid")?;
    if run.as_deref().is_some_and(|run| uuid::Uuid::parse_str(run).is_err()) {
        return Err(Error::invalid("rid", "rid must be a UUID"));
    }
    let run = run.map(|run| run.to_ascii_lowercase());
    pushes::report(&shell.env, request.param(0)?, request.param(1)?, signal, run.as_deref(), &request.body).await?;
    let mut response = respond::text("text/plain; charset=utf-8", Bytes::from_static(b"OK"));
    respond::set(&mut response, LIMIT, &pushes::BODY.to_string());
    Ok(response)
}

async fn list(call: Call) -> Result<Response> {
    let pushes = pushes::list(call.env(), call.caller.scope.allows(Scope::Operate)).await?;
    Ok(respond::json(&json!({"ok": true, "count": pushes.len(), "pushes": pushes})))
}

async fn one(call: Call) -> Result<Response> {
    let request = &call.request;
    let before = request.number("before", i64::MAX, 1..=i64::MAX)?;
    let limit = i64::try_from(request.limit()?).unwrap_or(20);
    let push = pushes::one(call.env(), request.param(0)?, call.caller.scope.allows(Scope::Operate), before, limit).await?;
    Ok(respond::json(&json!({"ok": true, "push": push})))
}
