//! Archives: make one now, list them. A run goes through the timer like a scheduled one, so that it has its row and its record.

use std::time::Duration;

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api, page},
};
use crate::{
    env::{Env, rfc3339},
    error::{Error, Result},
    timer,
};

const TASK: &str = "daily_backup";
/// How long the answer waits for the archive.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Makes the day's archive and answers when it is proven.
        api(shell, Method::POST, "/api/backup/run", Scope::Operate, run),
        // Archives, newest first.
        api(shell, Method::GET, "/api/backups", Scope::Read, list),
    ])
}

async fn run(call: Call) -> Result<Response> {
    let env = call.env();
    let run_id = timer::run_now(env, TASK, &call.caller.key_id).await.map_err(|error| match error.reason.as_ref() {
        "already_running" => Error { reason: "backup_running".into(), message: "a backup is running".into(), ..error },
        _ => error,
    })?;
    let prefers = call.request.header("prefer").unwrap_or_default();
    if prefers.split([',', ';']).any(|p| p.trim().eq_ignore_ascii_case("respond-async")) {
        return Ok(respond::accepted(&run_id));
    }
    match tokio::time::timeout(PATIENCE, ended(env, &run_id)).await {
        Ok(result) => result.map(|record| respond::json(&record)),
        Err(_) => Ok(respond::accepted(&run_id)),
    }
}

/// Waits for the run's end: its record, or why there is none.
async fn ended(env: &Env, run_id: &str) -> Result<Json> {
    loop {
        if let Some(row) = env.store().run(run_id).await?
            && !matches!(row.state.as_str(), "pending" | "running")
        {
            if let Some(record) = row.result {
                return Ok(serde_json::from_str(&record)?);
            }
            let why = row.error.as_deref().and_then(|e| e.lines().next()).unwrap_or("no reason was recorded");
            return Err(Error::unavailable("backup_failed", format!("the backup {}: {why}", row.state)).with("run_id", run_id));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn list(call: Call) -> Result<Response> {
    let rows = call.env().store().backups(i64::MAX).await?;
    let all = rows
        .iter()
        .map(|b| {
            json!({
                "date": b.date, "archive": b.archive, "size_bytes": b.size_bytes, "files": b.files, "sha256": b.sha256,
                "made_at": rfc3339(b.made_at), "run_id": b.run_id, "proof": b.proof,
            })
        })
        .collect();
    let (backups, next) = page(&call.request, all, "date")?;
    Ok(respond::json(&json!({"ok": true, "count": backups.len(), "backups": backups, "next": next})))
}
