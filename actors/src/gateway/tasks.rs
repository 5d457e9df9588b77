//! Scheduled tasks: what there is, what ran, what comes next, and running one now.

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    store::RunRow,
    timer::{self, TaskInfo},
};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The task table, each with its last run.
        api(shell, Method::GET, "/api/tasks", Scope::Read, list),
        // One task.
        api(shell, Method::GET, "/api/tasks/{name}", Scope::Read, one),
        // Runs it now.
        api(shell, Method::POST, "/api/tasks/{name}/run", Scope::Operate, run),
        // Its runs, newest first; a row for every due slot.
        api(shell, Method::GET, "/api/tasks/{name}/runs", Scope::Read, runs),
        // When it is due next.
        api(shell, Method::GET, "/api/tasks/{name}/next", Scope::Read, next),
        // A run with its result.
        api(shell, Method::GET, "/api/runs/{id}", Scope::Read, one_run),
    ])
}

async fn list(call: Call) -> Result<Response> {
    let last = call.env().store().latest_runs().await?;
    let tasks: Vec<Json> = timer::list(call.env()).await?.iter().map(|t| view(t, last.iter().find(|r| r.task == t.name))).collect();
    Ok(respond::json(&json!({"ok": true, "count": tasks.len(), "tasks": tasks, "next": null})))
}

async fn one(call: Call) -> Result<Response> {
    let task = find(call.env(), call.request.param(0)?).await?;
    let last = call.env().store().runs(task.name, 0, 1).await?;
    let mut body = view(&task, last.first());
    body["ok"] = true.into();
    Ok(respond::json(&body))
}

async fn run(call: Call) -> Result<Response> {
    let run_id = timer::run_now(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    Ok(respond::accepted(&run_id))
}

async fn runs(call: Call) -> Result<Response> {
    let (limit, after) = (call.request.limit()?, call.request.number("after", 0, 1..=i64::MAX)?);
    let task = find(call.env(), call.request.param(0)?).await?;
    let mut rows = call.env().store().runs(task.name, after, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|r| r.n.to_string());
    let runs: Vec<Json> = rows.iter().map(run_view).collect();
    Ok(respond::json(&json!({"ok": true, "count": runs.len(), "runs": runs, "next": next})))
}

async fn next(call: Call) -> Result<Response> {
    let count = usize::try_from(call.request.number("n", 5, 1..=100)?).unwrap_or(5);
    let name = call.request.param(0)?;
    let slots = timer::next(call.env(), name, count).await?;
    Ok(respond::json(&json!({"ok": true, "task": name, "count": slots.len(), "slots": slots})))
}

async fn one_run(call: Call) -> Result<Response> {
    let run = call.env().store().run(call.request.param(0)?).await?.ok_or_else(|| Error::not_found("there is no such run"))?;
    let mut body = run_view(&run);
    body["ok"] = true.into();
    body["result"] = run.result.as_deref().map(serde_json::from_str).transpose()?.unwrap_or(Json::Null);
    Ok(respond::json(&body))
}

/// The task of that name. Errors: `not_found`.
pub(super) async fn find(env: &Env, name: &str) -> Result<TaskInfo> {
    let found = timer::list(env).await?.into_iter().find(|t| t.name == name);
    found.ok_or_else(|| Error::not_found(format!("there is no task called {name}")))
}

fn view(task: &TaskInfo, last: Option<&RunRow>) -> Json {
    json!({
        "name": task.name, "owner": task.owner, "doc": task.doc, "schedule": task.schedule, "state": task.state, "next": task.next,
        "run_id": task.run_id, "report": task.report, "last_run": last.map(run_view),
    })
}

fn run_view(run: &RunRow) -> Json {
    json!({
        "run_id": run.run_id, "task": run.task, "slot": rfc3339(run.slot), "state": run.state, "reason": run.reason, "trigger": run.cause,
        "attempts": run.attempts, "started_at": run.started_at.map(rfc3339), "ended_at": run.ended_at.map(rfc3339), "lag_ms": run.lag_ms,
        // A panic's backtrace is for the log.
        "error": run.error.as_deref().and_then(|e| e.lines().next()),
    })
}
