//! The service levels: the verdict on the recorded requests (seed phase 68), every objective with its budget, events that others push,
//! and the times that do not count.

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{
    error::{Error, Result},
    operations::{canary, exclude},
    probe, slo,
};

/// Events that one request may push.
const MOST_EVENTS: usize = 1000;

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // PASS, FAIL or NO_DATA, and why.
        api(shell, Method::GET, "/api/slo/status", Scope::Read, status),
        // Every objective: verdict, burn, budget, silence, excluded times.
        api(shell, Method::GET, "/api/slo/report", Scope::Read, report),
        // One of them with its charts, and the payments in its bad minutes.
        api(shell, Method::GET, "/api/slo/objectives/{name}", Scope::Read, objective),
        // Counts events of something outside.
        api(shell, Method::POST, "/api/slo/events", Scope::Operate, events),
        // What is asked from outside, and its latest answers.
        api(shell, Method::GET, "/api/slo/probes", Scope::Read, probes),
        // Times that were found out not to count.
        api(shell, Method::GET, "/api/slo/corrections", Scope::Read, corrections),
        // Leaves a past time out, with the reason.
        api(shell, Method::POST, "/api/slo/corrections", Scope::Operate, correct),
        // Times that are planned not to count, and keep alerts quiet.
        api(shell, Method::GET, "/api/maintenance", Scope::Read, maintenance),
        // Plans one, or begins it now.
        api(shell, Method::POST, "/api/maintenance", Scope::Operate, plan),
        // Ends one now, or withdraws a correction.
        api(shell, Method::POST, "/api/maintenance/{id}/end", Scope::Operate, end),
        // The latest trial payments.
        api(shell, Method::GET, "/api/slo/canary", Scope::Read, trials),
        // Makes one now.
        api(shell, Method::POST, "/api/slo/canary/run", Scope::Operate, trial),
    ])
}

async fn status(call: Call) -> Result<Response> {
    Ok(respond::json_text(slo::judged(call.env(), "api").await?.text.clone()))
}

async fn report(call: Call) -> Result<Response> {
    Ok(respond::json(&slo::report(call.env()).await?))
}

async fn objective(call: Call) -> Result<Response> {
    Ok(respond::json(&slo::detail(call.env(), call.request.param(0)?).await?))
}

/// Body: `{"service","ok","latency_ms"?,"count"?,"at"?}`, or `{"events":[...]}` of these.
async fn events(call: Call) -> Result<Response> {
    let mut body = call.request.json()?;
    let list = match body.as_object_mut().and_then(|members| members.remove("events")) {
        Some(Json::Array(list)) if !list.is_empty() && list.len() <= MOST_EVENTS => list,
        None => vec![body],
        _ => return Err(Error::field("events", format!("events must be a list of 1 to {MOST_EVENTS}"))),
    };
    let mut samples = Vec::new();
    for (index, event) in list.iter().enumerate() {
        let place = if list.len() == 1 { String::new() } else { format!("events[{index}]: ") };
        let sample: slo::Sample = serde_json::from_value(event.clone()).map_err(|error| {
            let text = error.to_string();
            let field =
                ["service", "ok", "latency_ms", "count", "at"].into_iter().find(|field| is_wrong(event, field, &text)).unwrap_or("body");
            Error::field(field, format!("{place}{field}: {text}"))
        })?;
        samples.push(sample);
    }
    Ok(respond::json(&json!({"ok": true, "counted": slo::push(call.env(), &samples)?})))
}

/// Which member serde's sentence is about: it names a missing or unknown one, and of the others the type tells.
fn is_wrong(event: &Json, field: &str, text: &str) -> bool {
    let value = &event[field];
    let fits = match field {
        "service" => value.is_string(),
        "ok" => value.is_boolean(),
        "latency_ms" => value.is_null() || value.is_number(),
        "count" => value.is_null() || value.is_u64(),
        _ => value.is_null() || value.as_str().is_some_and(|at| at.parse::<chrono::DateTime<chrono::Utc>>().is_ok()),
    };
    !fits || text.contains(&format!("missing field `{field}`"))
}

async fn probes(call: Call) -> Result<Response> {
    let probes = probe::view(call.env()).await?;
    Ok(respond::json(&json!({"ok": true, "count": probes.len(), "probes": probes})))
}

async fn corrections(call: Call) -> Result<Response> {
    list(call, "correction", "corrections").await
}

async fn maintenance(call: Call) -> Result<Response> {
    list(call, "maintenance", "maintenance").await
}

async fn list(call: Call, kind: &str, name: &str) -> Result<Response> {
    let limit = i64::try_from(call.request.limit()?).unwrap_or(i64::MAX);
    let entries = exclude::list(call.env(), kind, limit).await?;
    let mut body = json!({"ok": true, "count": entries.len()});
    body[name] = entries.into();
    Ok(respond::json(&body))
}

async fn correct(call: Call) -> Result<Response> {
    enter(call, "correction").await
}

async fn plan(call: Call) -> Result<Response> {
    enter(call, "maintenance").await
}

/// Body: `{"service"?,"systems"?,"starts_at"?,"ends_at" or "minutes","reason"}`.
async fn enter(call: Call, kind: &'static str) -> Result<Response> {
    let body = call.request.json()?;
    let request = serde_json::from_value(body.clone()).map_err(|error| {
        let is_time =
            |field: &str| body[field].is_null() || body[field].as_str().is_some_and(|t| t.parse::<chrono::DateTime<chrono::Utc>>().is_ok());
        let field = ["starts_at", "ends_at"].into_iter().find(|field| !is_time(field)).unwrap_or("body");
        Error::field(field, format!("{field}: {error}"))
    })?;
    let entry = exclude::enter(call.env(), kind, request, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "maintenance": entry})))
}

async fn end(call: Call) -> Result<Response> {
    let entry = exclude::end(call.env(), call.request.param(0)?, &call.caller.key_id).await?;
    Ok(respond::json(&json!({"ok": true, "maintenance": entry})))
}

async fn trials(call: Call) -> Result<Response> {
    let env = call.env();
    let limit = i64::try_from(call.request.limit()?).unwrap_or(i64::MAX);
    let trials: Vec<Json> = env.store().canaries(limit).await?.iter().map(canary::view).collect();
    let every_s = env.config().canary.every_s;
    Ok(respond::json(&json!({"ok": true, "on": canary::is_on(env), "every_s": every_s, "count": trials.len(), "trials": trials})))
}

async fn trial(call: Call) -> Result<Response> {
    let trial = slo::trial(call.env()).await?;
    Ok(respond::json(&json!({"ok": trial["state"] == "passed", "trial": trial})))
}
