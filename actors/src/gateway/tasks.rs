//! Scheduled tasks: what there is, what ran, what comes next, how well the schedule is kept; running, pausing, cancelling, making up.

use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, body_time},
};
use crate::{
    backup,
    env::Env,
    error::{Error, Result},
    timer::{self, Backfill, TaskInfo},
};

/// States a run may be asked for.
pub(super) const RUN_STATES: [&str; 8] = ["pending", "running", "succeeded", "failed", "timed_out", "cancelled", "skipped", "missed"];

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The task table, each with its policies and its last run.
        api(shell, Method::GET, "/api/tasks", Scope::Read, list),
        // One task.
        api(shell, Method::GET, "/api/tasks/{name}", Scope::Read, one),
        // Runs it now.
        api(shell, Method::POST, "/api/tasks/{name}/run", Scope::Operate, run),
        // Skips its slots until it is resumed, or until a time.
        api(shell, Method::POST, "/api/tasks/{name}/pause", Scope::Operate, pause),
        // Ends a pause.
        api(shell, Method::POST, "/api/tasks/{name}/resume", Scope::Operate, resume),
        // Runs the slots of a range of the past that did not run.
        api(shell, Method::POST, "/api/tasks/{name}/backfill", Scope::Operate, backfill),
        // Its runs, newest first; a row for every due slot.
        api(shell, Method::GET, "/api/tasks/{name}/runs", Scope::Read, runs),
        // When it is due next.
        api(shell, Method::GET, "/api/tasks/{name}/next", Scope::Read, next),
        // A run with its attempts and its result; a backup that is running also says how far it is.
        api(shell, Method::GET, "/api/runs/{id}", Scope::Read, one_run),
        // Cancels a run that waits or is going on.
        api(shell, Method::POST, "/api/runs/{id}/cancel", Scope::Operate, cancel),
        // How well the schedule is kept: slots due, in time, late, missed, skipped by reason.
        api(shell, Method::GET, "/api/schedule/level", Scope::Read, level),
    ])
}

async fn list(call: Call) -> Result<Response> {
    Ok(respond::json(&timer::overview(call.env()).await?))
}

async fn one(call: Call) -> Result<Response> {
    let task = find(call.env(), call.request.param(0)?).await?;
    let last = call.env().store().runs(task.name, None, 0, 1).await?;
    let mut body = serde_json::to_value(&task)?;
    body["ok"] = true.into();
    body["last_run"] = last.first().map_or(Json::Null, timer::run_view);
    Ok(respond::json(&body))
}

async fn run(call: Call) -> Result<Response> {
    let run_id = timer::run_now(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    Ok(respond::accepted(&run_id))
}

/// Body (optional): `{"reason":"...","until":"RFC 3339"}`.
async fn pause(call: Call) -> Result<Response> {
    let (task, body) = (call.request.param(0)?, call.request.json()?);
    known(&body, &["reason", "until"])?;
    let until = body_time(&body, "until")?;
    let why = match &body["reason"] {
        Json::Null => "by hand",
        Json::String(why) => why.trim(),
        _ => return Err(Error::field("reason", "reason must be text")),
    };
    timer::pause(call.env(), task, &call.caller.key_id, why, until).await?;
    one(call).await
}

async fn resume(call: Call) -> Result<Response> {
    timer::resume(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    one(call).await
}

/// Body: `{"from":"RFC 3339","to":"RFC 3339","redo_failed":false,"dry_run":false}`.
async fn backfill(call: Call) -> Result<Response> {
    let (task, body) = (call.request.param(0)?.to_owned(), call.request.json()?);
    known(&body, &["from", "to", "redo_failed", "dry_run"])?;
    let needed = |field: &'static str| {
        body_time(&body, field)?.ok_or_else(|| Error::field(field, format!("{field} is missing: a time in RFC 3339")))
    };
    let flag = |field: &'static str| match &body[field] {
        Json::Null => Ok(false),
        Json::Bool(flag) => Ok(*flag),
        _ => Err(Error::field(field, format!("{field} must be true or false"))),
    };
    let ask = Backfill {
        task,
        from: needed("from")?,
        to: needed("to")?,
        redo_failed: flag("redo_failed")?,
        dry_run: flag("dry_run")?,
        asked_by: call.caller.key_id.clone(),
    };
    let done = timer::backfill(call.env(), ask).await?;
    let mut body = serde_json::to_value(&done)?;
    body["ok"] = true.into();
    Ok(respond::json(&body))
}

async fn runs(call: Call) -> Result<Response> {
    let (limit, after) = (call.request.limit()?, call.request.number("after", 0, 1..=i64::MAX)?);
    let state = call.request.query("state")?;
    if state.as_deref().is_some_and(|s| !RUN_STATES.contains(&s)) {
        return Err(Error::field("state", format!("state is one of {}", RUN_STATES.join(", "))));
    }
    let task = find(call.env(), call.request.param(0)?).await?;
    let mut rows = call.env().store().runs(task.name, state.as_deref(), after, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|r| r.n.to_string());
    let runs: Vec<Json> = rows.iter().map(timer::run_view).collect();
    Ok(respond::json(&json!({"ok": true, "count": runs.len(), "runs": runs, "next": next})))
}

async fn next(call: Call) -> Result<Response> {
    let count = usize::try_from(call.request.number("n", 5, 1..=100)?).unwrap_or(5);
    let name = call.request.param(0)?;
    let slots = timer::next(call.env(), name, count).await?;
    Ok(respond::json(&json!({"ok": true, "task": name, "count": slots.len(), "slots": slots})))
}

async fn one_run(call: Call) -> Result<Response> {
    let mut run = timer::whole_run(call.env(), call.request.param(0)?).await?;
    backup::add_progress(call.env(), &mut run).await;
    Ok(respond::json(&run))
}

async fn cancel(call: Call) -> Result<Response> {
    let run_id = call.request.param(0)?;
    let state = timer::cancel(call.env(), run_id, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "run_id": run_id, "state": state})))
}

async fn level(call: Call) -> Result<Response> {
    let hours = call.request.number("hours", 24, 1..=24 * 90)?;
    let level = timer::level(call.env(), call.env().now() - TimeDelta::hours(hours)).await?;
    let mut body = serde_json::to_value(&level)?;
    body["ok"] = true.into();
    Ok(respond::json(&body))
}

/// The task of that name. Errors: `not_found`.
pub(super) async fn find(env: &Env, name: &str) -> Result<TaskInfo> {
    let found = timer::list(env).await?.into_iter().find(|t| t.name == name);
    found.ok_or_else(|| Error::not_found(format!("there is no task called {name}")))
}

fn known(body: &Json, fields: &[&str]) -> Result<()> {
    match body.as_object().into_iter().flatten().find(|(name, _)| !fields.contains(&name.as_str())) {
        Some((name, _)) => Err(Error::field(name.clone(), format!("unknown field {name}; known are {}", fields.join(", ")))),
        None => Ok(()),
    }
}
