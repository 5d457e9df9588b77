//! Archives: make one now, list them, check one, remove old ones. A run goes through the timer like a scheduled one, so that it has its
//! row and its record. What is in an archive is told by `contents.rs`.

use std::time::Duration;

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    contents::{self, Chosen},
    respond,
    route::{Call, any_of, api, page},
};
use crate::{
    archive::{self, Standing, VerifyOptions},
    backup,
    env::{Env, blocking},
    error::{Error, Result},
    timer,
};

const TASK: &str = "daily_backup";
/// How long the answer waits for the archive.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// A check that takes longer is given up; ask for a sample, or use the command line, which has all the time.
const VERIFY: Duration = Duration::from_mins(10);

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // Makes the day's archive and answers when it is proven.
        api(shell, Method::POST, "/api/backup/run", Scope::Operate, run),
        // Archives, newest first.
        api(shell, Method::GET, "/api/backups", Scope::Read, list),
        // Every proof of restore with its checks, newest first.
        api(shell, Method::GET, "/api/backups/proofs", Scope::Read, proofs),
        // Removes archives that no rule keeps, each with its reason.
        api(shell, Method::POST, "/api/backups/prune", Scope::Operate, prune),
        // Checks an archive, all of it or a sample.
        api(shell, Method::POST, "/api/backups/{date}/verify", Scope::Operate, verify),
        contents::routes(shell),
    ])
}

/// Body (optional): `{"dry_run":true}`, to be told what would be archived.
async fn run(call: Call) -> Result<Response> {
    let env = call.env();
    let body = call.request.json()?;
    if flag(&body, "dry_run", &["dry_run"])? {
        return Ok(respond::json(&backup::preview(env).await?));
    }
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

/// `?reasons=true`: with what the retention rules say of each.
async fn list(call: Call) -> Result<Response> {
    let reasons = call.request.flag("reasons")?;
    let (all, rest) = backup::listing(call.env(), reasons).await?;
    let total = all.len();
    let (backups, next) = page(&call.request, all, "date")?;
    let mut body = json!({"ok": true, "count": backups.len(), "total": total, "backups": backups, "next": next});
    for (name, value) in rest.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    Ok(respond::json(&body))
}

async fn proofs(call: Call) -> Result<Response> {
    let limit = i64::try_from(call.request.limit()?).unwrap_or(20);
    let rows = call.env().store().proofs(limit).await?;
    let proofs: Vec<Json> = rows.iter().map(backup::proof_view).collect();
    Ok(respond::json(&json!({"ok": true, "count": proofs.len(), "proofs": proofs, "last_proof": backup::last_proof(call.env()).await?})))
}

/// Body (optional): `{"dry_run":true}`.
async fn prune(call: Call) -> Result<Response> {
    let dry_run = flag(&call.request.json()?, "dry_run", &["dry_run"])?;
    let decisions = backup::prune(call.env(), dry_run).await?;
    let removed = decisions.iter().filter(|d| !d.keep).count();
    Ok(respond::json(&json!({"ok": true, "dry_run": dry_run, "removed": removed, "count": decisions.len(), "archives": decisions})))
}

/// Body (optional): `{"sample_percent":5,"seed":1}`. `ok` says whether the archive is whole; what is damaged is named.
async fn verify(call: Call) -> Result<Response> {
    let body = call.request.json()?;
    only(&body, &["sample_percent", "seed"])?;
    let percent = match &body["sample_percent"] {
        Json::Null => 100.0,
        value => value
            .as_f64()
            .filter(|percent| *percent > 0.0 && *percent <= 100.0)
            .ok_or_else(|| Error::field("sample_percent", "sample_percent must be a number above 0 and up to 100"))?,
    };
    let seed = match &body["seed"] {
        Json::Null => 0,
        value => value.as_u64().ok_or_else(|| Error::field("seed", "seed must be a whole number that is not negative"))?,
    };
    let env = call.env();
    let chosen = Chosen::of(env, call.request.param(0)?).await?;
    let busy = || Error::conflict("verify_running", "another archive is being checked");
    let place = call.shell.desk.verifying.clone().try_acquire_owned().map_err(|_| busy())?;
    let (stop, on) = contents::stop();
    let logical = chosen.archive.clone();
    let backups = env.config().paths.backups.clone();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage in range")]
    let sample_ppm = (percent * 10_000.0).ceil() as u32;
    let work = blocking(move || {
        let _place = place; // held as long as the thread works, also if nobody waits any more
        let standing = archive::standing(&chosen.path, &backups);
        let looked = chosen
            .open()
            .and_then(|opened| opened.look_through(&VerifyOptions { sample_ppm, seed, stop: &on, ..VerifyOptions::default() }));
        Ok((standing, looked))
    });
    let (standing, looked) = tokio::time::timeout(VERIFY, work)
        .await
        .map_err(|_| Error::unavailable("timeout", "the check took too long: ask for a sample, or use `echopilot backup verify`"))??;
    drop(stop);
    if let Err(error) = &looked
        && error.reason == "encrypted"
    {
        return Err(contents::state_of_the_archive(error.clone()));
    }
    let report = report(&standing, &looked);
    let ok = report["ok"] == true;
    let fact = env.fact(
        "backup.verified",
        &logical,
        json!({"ok": ok, "sample_percent": percent, "by": call.caller.key_id, "problem": report["problem"]}),
    );
    env.store().journal(fact).await?;
    let mut body = report;
    body["archive"] = logical.into();
    body["sample_percent"] = percent.into();
    Ok(respond::json(&body))
}

/// What a check found: `manifest` is `signed`, `unsigned`, `none` or `differs`.
fn report(standing: &Result<Standing>, looked: &Result<archive::Report>) -> Json {
    let (manifest, note) = match standing {
        Ok(Standing::Signed) => ("signed", None),
        Ok(Standing::Unsigned(why)) => ("unsigned", Some(why.clone())),
        Ok(Standing::Alone) => ("none", None),
        Err(error) => ("differs", Some(error.message.clone())),
    };
    let whole = looked.as_ref().is_ok_and(archive::Report::is_whole);
    let problem = match looked {
        Err(error) => Some(error.message.clone()),
        Ok(report) if !report.is_whole() => Some(report.sentence()),
        Ok(_) => standing.as_ref().err().map(|error| error.message.clone()),
    };
    let mut body = looked.as_ref().ok().and_then(|report| serde_json::to_value(report).ok()).unwrap_or_else(|| json!({}));
    body["ok"] = (whole && standing.is_ok()).into();
    body["manifest"] = manifest.into();
    body["manifest_note"] = note.into();
    body["problem"] = problem.into();
    body
}

/// A member of the body that is true, false or absent.
fn flag(body: &Json, name: &'static str, known: &[&str]) -> Result<bool> {
    only(body, known)?;
    match &body[name] {
        Json::Null => Ok(false),
        Json::Bool(flag) => Ok(*flag),
        _ => Err(Error::field(name, format!("{name} must be true or false"))),
    }
}

fn only(body: &Json, known: &[&str]) -> Result<()> {
    match body.as_object().into_iter().flatten().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => Err(Error::field(name.clone(), format!("unknown field {name}; known are {}", known.join(", ")))),
        None => Ok(()),
    }
}
