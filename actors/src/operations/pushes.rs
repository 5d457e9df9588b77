//! Jobs of the user's own that report to us: taking a report, how each stands, and where each is to report. Called by the gateway, the
//! command line and the alert actor's look. The key in the addresses is a capability: whoever has it may report, and nothing else.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use subtle::ConstantTimeEq as _;

use crate::{
    domain::push::{Plan, Reports, Signal, State, Verdict, judge},
    env::{Env, blocking, rfc3339},
    error::{Error, Result},
    files,
    store::{PushPing, PushRow},
};

/// Of a report's text this much is kept, in bytes.
pub const BODY: usize = 100_000;
/// Reports that a job may make in a minute.
pub const PER_MINUTE: i64 = 5;
/// Two reports at once are told apart by trying again.
const TRIES: u32 = 20;

/// How a job stands.
#[derive(Clone, Debug)]
pub struct Standing {
    pub plan: Plan,
    pub row: PushRow,
    pub verdict: Verdict,
}

/// The key in the ping addresses: made at first use, kept in the data directory.
pub async fn key(env: &Env) -> Result<String> {
    let path = env.data_path("push_key");
    blocking(move || files::secret(&path, "")).await
}

/// Where a job is to report.
pub fn address(env: &Env, key: &str, name: &str) -> String {
    format!("{}/ping/{key}/{name}", env.public_url())
}

/// Every configured job, judged now. One that is seen for the first time is remembered from here.
pub async fn standing(env: &Env) -> Result<Vec<Standing>> {
    let mut all = Vec::new();
    for name in env.config().pushes.keys() {
        all.push(stands(env, name).await?);
    }
    Ok(all)
}

async fn stands(env: &Env, name: &str) -> Result<Standing> {
    let settings = env.config().pushes.get(name).ok_or_else(|| unknown(name))?;
    let plan = settings.plan(name).map_err(|problem| Error::invalid("configuration", problem))?;
    let row = seen(env, name).await?;
    let verdict = judge(&plan, &row.reports, env.started_at(), env.now());
    Ok(Standing { plan, row, verdict })
}

async fn seen(env: &Env, name: &str) -> Result<PushRow> {
    if let Some(row) = env.store().push_check(name).await? {
        return Ok(row);
    }
    env.store().see_push(name, env.now()).await?;
    env.store().push_check(name).await?.ok_or_else(|| Error::internal(format!("the push {name} was written and is not there")))
}

/// Takes a report. Errors: `not_found` (wrong key or name, on purpose the same), `limited`.
pub async fn report(env: &Env, given: &str, name: &str, signal: Signal, run: Option<&str>, body: &[u8]) -> Result<()> {
    let right = bool::from(key(env).await?.as_bytes().ct_eq(given.as_bytes()));
    if !right || !env.config().pushes.contains_key(name) {
        return Err(unknown(name));
    }
    let now = env.now();
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY)]).into_owned();
    for _ in 0..TRIES {
        let Standing { row: before, verdict, .. } = stands(env, name).await?;
        // Counted in each try: what is written below is written only if nothing came in between.
        if env.store().pushes_since(name, now - TimeDelta::minutes(1)).await? >= PER_MINUTE {
            return Err(Error::limited(format!("{name} reported {PER_MINUTE} times within a minute"), 60));
        }
        let mut reports: Reports = before.reports.clone();
        let duration_ms = reports.take(signal, run, now);
        let ping = PushPing {
            n: 0,
            at: now,
            kind: signal.as_str().to_owned(),
            run: run.map(str::to_owned),
            exit_status: signal.exit_status(),
            duration_ms,
            body: (!text.is_empty()).then(|| text.clone()),
        };
        if env.store().push_reported(&before, &reports, &ping).await? {
            count(env, name, signal, verdict.state == State::Down && !before.reports.failed, duration_ms);
            tracing::info!(target: "push", name, kind = ping.kind, run, "reported");
            return Ok(());
        }
    }
    Err(Error::unavailable("busy", format!("too many reports of {name} at once")))
}

/// The end of a run is an event of the service `push:NAME`: good if it succeeded and came in time.
fn count(env: &Env, name: &str, signal: Signal, late: bool, duration_ms: Option<i64>) {
    let ended_well = match signal.as_str() {
        "success" => true,
        "fail" => false,
        _ => return,
    };
    let took_us = duration_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0).saturating_mul(1000);
    env.meter().record(&format!("push:{name}"), env.now(), took_us, !ended_well || late);
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("there is no push called {name}, or the key is wrong"))
}

/// Every job; with their addresses if they may be shown.
pub async fn list(env: &Env, with_address: bool) -> Result<Vec<Json>> {
    let key = if with_address { Some(key(env).await?) } else { None };
    Ok(standing(env).await?.iter().map(|job| view(env, job, key.as_deref())).collect())
}

/// One job with its last reports. Errors: `not_found`.
pub async fn one(env: &Env, name: &str, with_address: bool, before: i64, limit: i64) -> Result<Json> {
    let job = stands(env, name).await?;
    let key = if with_address { Some(key(env).await?) } else { None };
    let mut view = view(env, &job, key.as_deref());
    let pings = env.store().push_pings(name, before, limit).await?;
    let next = pings.last().filter(|_| i64::try_from(pings.len()).is_ok_and(|n| n == limit)).map(|ping| ping.n);
    view["pings"] = pings.iter().map(ping_view).collect();
    view["next"] = next.into();
    Ok(view)
}

fn view(env: &Env, job: &Standing, key: Option<&str>) -> Json {
    let Standing { plan, row: PushRow { name, n, reports, .. }, verdict } = job;
    let at = |time: Option<DateTime<Utc>>| time.map(rfc3339);
    json!({
        "name": name, "state": verdict.state, "reason": verdict.reason, "plan": plan.describe(), "due_at": rfc3339(verdict.due),
        "down_at": rfc3339(verdict.alarm), "first_seen_at": rfc3339(reports.first_seen), "reports": n, "last_start_at": at(reports.last_start),
        "last_end_at": at(reports.last_end), "last_ok_at": at(reports.last_ok), "failed": reports.failed, "exit_status": reports.exit_status,
        "duration_ms": reports.duration_ms, "running": reports.open.len(), "ping_url": key.map(|key| address(env, key, name)),
    })
}

fn ping_view(ping: &PushPing) -> Json {
    json!({
        "n": ping.n, "at": rfc3339(ping.at), "kind": ping.kind, "run": ping.run, "exit_status": ping.exit_status, "duration_ms": ping.duration_ms,
        "body": ping.body,
    })
}
