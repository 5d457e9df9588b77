//! The service level: the verdict on the recorded requests, seed phase 68.

use serde_json::{Value as Json, json};
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell,
    auth::Scope,
    respond,
    route::{Call, any_of, api},
};
use crate::{error::Result, operations::canary, slo};

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // PASS, FAIL or NO_DATA, and why.
        api(shell, Method::GET, "/api/slo/status", Scope::Read, status),
        // The latest trial payments.
        api(shell, Method::GET, "/api/slo/canary", Scope::Read, trials),
        // Makes one now.
        api(shell, Method::POST, "/api/slo/canary/run", Scope::Operate, trial),
    ])
}

async fn status(call: Call) -> Result<Response> {
    Ok(respond::json_text(slo::judged(call.env(), "api").await?.text.clone()))
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
