//! Tasks and runs as the API, the command line and the pages show them.

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::{
    domain::schedule::CatchUp,
    env::{Env, rfc3339},
    error::{Error, Result},
    store::RunRow,
    task::TaskSpec,
};

/// A task as the lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct TaskInfo {
    pub name: &'static str,
    pub owner: &'static str,
    pub doc: &'static str,
    pub schedule: String,
    /// `scheduled`, `running`, `paused` or `planned`.
    pub state: &'static str,
    pub next: Option<String>,
    /// The run going on, if one is.
    pub run_id: Option<String>,
    /// The file under `logs/` that holds the latest record.
    pub report: Option<&'static str>,
    pub paused: Option<PauseInfo>,
    pub policy: PolicyInfo,
}

/// Why a task is paused.
#[derive(Clone, Debug, Serialize)]
pub struct PauseInfo {
    pub at: String,
    pub by: String,
    pub why: String,
    pub until: Option<String>,
}

/// A task's policies, with the unit in the name.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyInfo {
    pub catch_up: CatchUp,
    pub overlap: &'static str,
    pub jitter_ms: i64,
    pub blackout: Vec<String>,
    pub timeout_s: u64,
    pub total_timeout_s: u64,
    pub retries: u32,
    /// Failures in a row after which it is paused; 0: never.
    pub pause_after: u32,
    /// The task that must have ended first.
    pub after: Option<&'static str>,
}

/// A run as the API, the command line and reports show it; `result` apart, because it may be large.
pub fn run_view(run: &RunRow) -> Json {
    json!({
        "run_id": run.run_id, "task": run.task, "slot": rfc3339(run.slot), "state": run.state, "reason": run.reason, "trigger": run.cause,
        "asked_by": run.asked_by, "attempts": run.attempts, "started_at": run.started_at.map(rfc3339), "ended_at": run.ended_at.map(rfc3339),
        "duration_ms": run.started_at.zip(run.ended_at).map(|(from, to)| (to - from).num_milliseconds()), "lag_ms": run.lag_ms,
        // A panic's backtrace is for the log.
        "error": run.error.as_deref().and_then(|e| e.lines().next()),
    })
}

/// A run with every attempt that failed and with its result.
pub async fn whole_run(env: &Env, run_id: &str) -> Result<Json> {
    let run = env.store().run(run_id).await?.ok_or_else(|| Error::not_found("there is no such run"))?;
    let attempts = env.store().attempts(run_id).await?;
    let mut view = run_view(&run);
    view["ok"] = true.into();
    view["failed_attempts"] = attempts
        .iter()
        .map(|a| {
            json!({
                "attempt": a.attempt, "state": a.state, "error": a.error.lines().next(), "retryable": a.is_retryable,
                "started_at": rfc3339(a.started_at), "ended_at": rfc3339(a.ended_at),
            })
        })
        .collect();
    view["result"] = run.result.as_deref().map(serde_json::from_str).transpose()?.unwrap_or(Json::Null);
    Ok(view)
}

/// Every task with its last run.
pub async fn overview(env: &Env) -> Result<Json> {
    let last = env.store().latest_runs().await?;
    let view = |task: &TaskInfo| -> Result<Json> {
        let mut view = serde_json::to_value(task)?;
        view["last_run"] = last.iter().find(|r| r.task == task.name).map_or(Json::Null, run_view);
        Ok(view)
    };
    let tasks = super::list(env).await?.iter().map(view).collect::<Result<Vec<Json>>>()?;
    Ok(json!({"ok": true, "count": tasks.len(), "tasks": tasks, "next": null}))
}

pub(super) fn policy_info(spec: &TaskSpec) -> PolicyInfo {
    let policy = &spec.policy;
    PolicyInfo {
        catch_up: policy.catch_up,
        overlap: policy.overlap.as_str(),
        jitter_ms: policy.jitter.num_milliseconds(),
        blackout: policy.blackout.iter().map(|b| b.as_str().to_owned()).collect(),
        timeout_s: policy.timeout.as_secs(),
        total_timeout_s: policy.total().as_secs(),
        retries: policy.retries,
        pause_after: policy.pause_after,
        after: spec.after.map(|a| a.task),
    }
}
