//! Probes for whoever watches the process. They need no key, tell no secrets and are not counted as service.

use std::time::Duration;

use serde_json::json;
use warp::{filters::BoxedFilter, http::Method, reply::Response};

use super::{
    Shell, respond,
    route::{Request, any_of, open},
};
use crate::{
    env::Env,
    error::{Code, Error, Result},
};

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes(shell: &Shell) -> BoxedFilter<(Response,)> {
    any_of([
        // The process lives.
        open(shell, Method::GET, "/healthz", alive),
        // Every critical part and the store answer; parts that are down without harm to the service are named.
        open(shell, Method::GET, "/readyz", ready),
    ])
}

async fn alive(shell: Shell, _: Request) -> Result<Response> {
    Ok(respond::json(&json!({"ok": true, "uptime_s": shell.env.uptime().as_secs()})))
}

async fn ready(shell: Shell, _: Request) -> Result<Response> {
    let env = &shell.env;
    let slow = |part: &str| Error::unavailable("not_ready", format!("{part} does not answer"));
    match tokio::time::timeout(PATIENCE, env.store().ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(target: "gateway", %error, "not ready: the store does not answer");
            return Err(slow("the store").with("part", "store"));
        }
        Err(_) => return Err(slow("the store").with("part", "store")),
    }
    match tokio::time::timeout(PATIENCE, env.tree()?.probe_critical()).await {
        Ok(Ok(())) => serving(env).await,
        Ok(Err(error)) => {
            let part = error.message.split(':').next().unwrap_or_default().to_owned();
            let error = if error.code == Code::Unavailable { error } else { slow(&part) };
            Err(error.with("part", part))
        }
        Err(_) => Err(slow("a critical part")),
    }
}

/// Ready; degraded while a part is down that serving does not need.
async fn serving(env: &Env) -> Result<Response> {
    let children = env.tree()?.status().await?;
    let down: Vec<_> = children
        .iter()
        .filter_map(|c| Some(json!({"part": c.name, "state": c.state, "reason": c.down.as_ref()?, "until": c.quarantined_until})))
        .collect();
    if down.is_empty() {
        return Ok(respond::json(&json!({"ok": true, "status": "ready"})));
    }
    Ok(respond::json(&json!({"ok": true, "status": "degraded", "degraded": down})))
}
